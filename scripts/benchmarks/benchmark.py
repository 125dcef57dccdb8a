"""Measure what the documentation claims, side by side in one run; each subcommand prints a table and a JSON line."""

from typing import Annotated

import tyro

from benchmark_settings import Agents, Evaluate, Growth, Load, Rational, Shared, Startup, Table, Threads
from rlrat.runs.arguments import read_command_line

Benchmark = (
    Annotated[Agents, tyro.conf.subcommand("agents")]
    | Annotated[Load, tyro.conf.subcommand("load")]
    | Annotated[Startup, tyro.conf.subcommand("startup")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Growth, tyro.conf.subcommand("growth")]
    | Annotated[Rational, tyro.conf.subcommand("rational")]
    | Annotated[Shared, tyro.conf.subcommand("shared")]
    | Annotated[Table, tyro.conf.subcommand("table")]
    | Annotated[Threads, tyro.conf.subcommand("threads")]
)

if __name__ == "__main__":  # before torch is imported: --help and mistakes are answered at once
    CHOSEN = read_command_line(Benchmark, __doc__)

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from agent_speed import run_agents
from evaluate_speed import run_evaluate
from growth import run_growth
from rational_speed import run_rational
from rlrat import load_dataset
from rlrat.console import Console
from rlrat.datasets import Dataset
from rlrat.errors import one_line_errors
from rlrat.runs.agents import agent_names, find_agent
from shared import run_shared
from table import run_table
from threads import run_threads

_SCRIPTS = Path(__file__).parents[1]


def run_load(settings: Load) -> dict:
    import minari
    from gymnasium.spaces import Box
    from minari.data_collector import EpisodeBuffer

    random, steps = np.random.default_rng(0), settings.steps
    episodes = [
        {
            "observations": random.normal(size=(steps + 1, 11)),
            "actions": random.uniform(-1, 1, size=(steps, 3)).astype(np.float32),
            "rewards": random.normal(size=steps),
            "terminations": np.zeros(steps, bool),
            "truncations": np.arange(steps) == steps - 1,
        }
        for _ in range(settings.episodes)
    ]
    rows = {}

    def measure(name: str, load: Callable[[], Dataset]) -> None:
        started, worked = time.perf_counter(), time.process_time()
        rows["transitions"] = len(load())
        rows[name], rows[f"{name}, CPU"] = time.perf_counter() - started, time.process_time() - worked

    before = os.environ.get("MINARI_DATASETS_PATH")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MINARI_DATASETS_PATH"] = folder
        minari.create_dataset_from_buffers(
            "benchmark/episodes-v0",
            [
                EpisodeBuffer(id=number, **{name: list(array) for name, array in episode.items()})
                for number, episode in enumerate(episodes)
            ],
            observation_space=Box(-np.inf, np.inf, (11,), np.float64),
            action_space=Box(-1, 1, (3,), np.float32),
        )
        named = {f"episode_{i}/{name}": array for i, each in enumerate(episodes) for name, array in each.items()}
        np.savez(f"{folder}/episodes.npz", **named)
        measure("from_episodes", lambda: Dataset.from_episodes(episodes))
        del named
        bounds = {"action_bounds": [(-1, 1)]}
        for name in ("cold", "warm"):
            measure(name, lambda: load_dataset("benchmark/episodes-v0"))
        for name in (".npz cold", ".npz warm"):
            measure(name, lambda: load_dataset(f"{folder}/episodes.npz", **bounds))
    if before is None:
        del os.environ["MINARI_DATASETS_PATH"]
    else:
        os.environ["MINARI_DATASETS_PATH"] = before
    seconds = ", ".join(f"{name} {value:.3g} s" for name, value in rows.items() if name != "transitions")
    Console().print(f"{rows['transitions']:,} transitions in {settings.episodes:,} episodes: {seconds}", soft_wrap=True)
    return rows


def run_startup(settings: Startup) -> dict:
    names = "load_dataset, Dataset, make_activation, Rational, rational, rationalize, evaluate, normalized_score"
    commands = {
        "python": ["-c", ""],
        "import rlrat": ["-c", "import rlrat"],
        **{f"agents/{name}.py --help": [str(find_agent(name)), "--help"] for name in agent_names()},
        **{f"scripts/{file.name} --help": [str(file), "--help"] for file in sorted(_SCRIPTS.glob("[a-z]*.py"))},
        "import torch": ["-c", "import torch"],
        "import torch, and every public name of rlrat": ["-c", f"import torch; from rlrat import {names}"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(settings.rounds):
        for name, command in commands.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    rows = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in rows.items():
        Console().print(f"{name}: {1000 * value:,.0f} ms")
    return rows


def main(chosen: Benchmark) -> None:
    commands = {
        Agents: run_agents,
        Load: run_load,
        Startup: run_startup,
        Evaluate: run_evaluate,
        Growth: run_growth,
        Rational: run_rational,
        Shared: run_shared,
        Table: run_table,
        Threads: run_threads,
    }
    with one_line_errors():
        rows = commands[type(chosen)](chosen)
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "torch": torch.__version__}
    print(json.dumps({"benchmark": type(chosen).__name__.lower(), **machine, "rows": rows}))


if __name__ == "__main__":
    main(CHOSEN)
