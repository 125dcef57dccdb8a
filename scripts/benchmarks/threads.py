"""The `threads` subcommand of `benchmark.py`: how many CPU threads an update keeps busy."""

import os
import statistics
from dataclasses import dataclass, field

import torch
from rich.table import Table

from agent_speed import make_learner, make_turn
from rlrat import load_dataset
from rlrat.console import Console
from rlrat.updates.machine import keep_freed_memory, useful_threads


@dataclass
class Threads:
    """Milliseconds of an update of IQL by its size and the number of CPU threads, and how many a run would take."""

    sizes: tuple[tuple[int, int, int], ...] = (
        *((1, 32, 32), (1, 64, 256), (1, 256, 64), (1, 128, 256), (5, 64, 256)),
        *((1, 256, 256), (2, 256, 256), (5, 256, 256), (1, 1024, 256), (16, 256, 256)),
    )
    """Seeds, width of both hidden layers, and batch size."""
    threads: tuple[int, ...] = field(
        default_factory=lambda: tuple(2**power for power in range((os.cpu_count() or 1).bit_length()))
    )
    """Numbers of threads; by default the powers of two up to the cores."""
    activation: str = "relu"
    """Of all networks."""
    seconds: float = 0.15
    """About how long a turn lasts."""
    rounds: int = 7
    """Each number of threads has one turn a round; the median counts."""


def run_threads(settings: Threads) -> dict:
    keep_freed_memory()  # as a run does
    dataset = load_dataset("rlrat/hopper/mixed-v0")
    most, rows = max(settings.threads), {}
    table = Table("seeds, width, batch", *(f"{count} threads, ms" for count in settings.threads), "a run takes")
    for seeds, width, batch in settings.sizes:
        choice = {"hidden_dims": (width, width), "batch_size": batch, "activation": settings.activation}
        learner = make_learner("iql", dataset, seeds, "cpu", **choice)
        turn = make_turn(learner, "cpu")
        turn(3)
        updates = max(2, round(5 * settings.seconds / turn(5)))
        times: dict[int, list[float]] = {count: [] for count in settings.threads}
        for _ in range(settings.rounds):
            for count, found in times.items():
                torch.set_num_threads(count)
                turn(1)
                found.append(turn(updates) / updates)
        chosen = min(most, useful_threads(learner, learner.inputs(0)[0][0]))
        row = {str(count): 1e3 * statistics.median(found) for count, found in times.items()}
        rows[f"{seeds}, {width}, {batch}"] = {**row, "chosen": chosen}
        table.add_row(f"{seeds}, {width}, {batch}", *(f"{value:.2f}" for value in row.values()), str(chosen))
    Console().print(table)
    return rows
