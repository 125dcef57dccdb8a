"""The `threads` subcommand of `benchmark.py`: how many CPU threads an update keeps busy."""

import statistics

import torch
from rich.table import Table

from agent_speed import Turn, make_learner, updates_in
from benchmark_settings import Threads
from rlrat import load_dataset
from rlrat.console import Console
from rlrat.updates.machine import keep_freed_memory, useful_threads


def run_threads(settings: Threads) -> dict:
    keep_freed_memory()  # as a run does
    dataset = load_dataset("rlrat/hopper/mixed-v0")
    most, rows = max(settings.threads), {}
    table = Table("seeds, width, batch", *(f"{count} threads, ms" for count in settings.threads), "a run takes")
    for seeds, width, batch in settings.sizes:
        choice = {"hidden_dims": (width, width), "batch_size": batch, "activation": settings.activation}
        learner = make_learner("iql", dataset, seeds, "cpu", **choice)
        turn = Turn(learner, "cpu")
        updates = max(2, updates_in(turn, settings.seconds))
        times: dict[int, list[float]] = {count: [] for count in settings.threads}
        for _ in range(settings.rounds):
            for count, found in times.items():
                torch.set_num_threads(count)
                turn(1)
                found.append(turn(updates).wall / updates)
        chosen = min(most, useful_threads(learner, learner.inputs(0)[0][0]))
        row = {str(count): 1e3 * statistics.median(found) for count, found in times.items()}
        rows[f"{seeds}, {width}, {batch}"] = {**row, "chosen": chosen}
        table.add_row(f"{seeds}, {width}, {batch}", *(f"{value:.2f}" for value in row.values()), str(chosen))
    Console().print(table)
    return rows
