"""The `table` subcommand of `benchmark.py`: a share of the paper's table, and how long the whole would take."""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium
import h5py
import numpy as np
from rich.table import Table as RichTable

from benchmark_settings import Table
from rlrat.console import Console
from rlrat.runs.agents import find_agent
from rlrat.runs.folder import RunFolder
from rlrat.runs.schema import CONFIG, EVALUATIONS, SUMMARY
from rlrat.updates.machine import usable_cores

_UPDATES, _EPISODE = 300_000, 1000


def _write_data(folder: Path, env_id: str, transitions: int) -> Path:
    with gymnasium.make(env_id) as env:
        widths = {"observations": env.observation_space.shape[0], "actions": env.action_space.shape[0]}
    random, path = np.random.default_rng(0), folder / f"{env_id}.hdf5"
    with h5py.File(path, "w") as file:
        file["observations"] = random.standard_normal((transitions, widths["observations"]), np.float32)
        file["actions"] = random.uniform(-1.0, 1.0, (transitions, widths["actions"])).astype(np.float32)
        file["rewards"] = random.standard_normal(transitions, np.float32)
        file["terminals"] = np.zeros(transitions, bool)
        file["timeouts"] = np.arange(1, transitions + 1) % _EPISODE == 0
    return path


def _whole_seconds(folder: Path, updates: int, seconds: float) -> float:
    """Project the seconds of a whole run from those of its first `updates`.

    What comes before the first evaluation of a trained policy is done once, such as compiling and recording; the rest
    grows with the updates.
    """
    rows = RunFolder(folder).curve() if (folder / EVALUATIONS).exists() else []
    trained = [row for row in rows if 0 < int(row["update"]) < updates]
    if not trained:
        return seconds * _UPDATES / updates
    first, once = int(trained[0]["update"]), float(trained[0]["wall_seconds"])
    return once + (seconds - once) * (_UPDATES - first) / (updates - first)


def run_table(settings: Table) -> dict:
    updates = round(settings.share * _UPDATES)
    cells = list(itertools.product(settings.agents, settings.env_ids, settings.activations))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = {env_id: _write_data(folder, env_id, settings.transitions) for env_id in settings.env_ids}

        def run(cell: tuple[str, str, str], updates: int = updates, runs: str = "runs") -> dict[str, float]:
            agent, env_id, activation = cell
            command = [
                *(sys.executable, str(find_agent(agent)), "--dataset", str(data[env_id])),
                *("--env-id", env_id, "--activation", activation, "--num-seeds", str(settings.num_seeds)),
                *("--total-updates", str(updates), "--eval-every", str(min(settings.eval_every, updates))),
                *("--eval-episodes", str(settings.eval_episodes), "--device", settings.device),
                *("--precision", settings.precision, "--compile" if settings.compile else "--no-compile"),
                *("--capture" if settings.capture else "--no-capture", "--run-dir", str(folder / runs)),
            ]
            if settings.processes > 1:
                command += ["--num-threads", str(max(1, usable_cores() // settings.processes))]
            if env_id.startswith(("Hopper", "Walker2d", "Ant")):
                command += ["--env-kwargs", "terminate_when_unhealthy=false"]
            started = time.time()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            ended = time.time()
            (seed, *_) = sorted((folder / runs / env_id / agent).glob(f"{activation}*/seed*"))
            began = (seed / CONFIG).stat().st_mtime  # written when all is loaded and built
            speed = json.loads((seed / SUMMARY).read_text())["updates_per_second"]
            return {
                "start": began - started,
                "run": ended - began,
                "whole": began - started + _whole_seconds(seed, updates, ended - began),
                "seed_updates_per_second": settings.num_seeds * speed,
            }

        with ThreadPoolExecutor(settings.processes) as pool:
            # Fills the caches of each dataset, and of each agent's kernels.
            first = [cell for cell in cells if cell[0] == settings.agents[0] and cell[2] == settings.activations[0]]
            rest = [cell for cell in cells if cell[1] == settings.env_ids[0] and cell not in first]
            for some in (first, rest):
                list(pool.map(lambda cell: run(cell, 1, "warm"), some))
            started = time.perf_counter()
            rows = dict(zip(cells, pool.map(run, cells), strict=True))
            measured = time.perf_counter() - started

    hours = sum(row["whole"] for row in rows.values()) / settings.processes / 3600
    table = RichTable("agent", "environment", "activation", "start, s", "run, s", "seed-updates/s")
    for cell, row in rows.items():
        table.add_row(*cell, f"{row['start']:.1f}", f"{row['run']:.1f}", f"{row['seed_updates_per_second']:,.0f}")
    console = Console()
    console.print(table)
    console.print(f"{settings.share:.1%} of {len(cells)} cells in {measured:.0f} s: the whole would take {hours:.2f} h")
    return {
        "cells": [dict(zip(("agent", "env_id", "activation"), cell, strict=True)) | row for cell, row in rows.items()],
        "measured_seconds": measured,
        "projected_hours": hours,
        "settings": vars(settings),
    }
