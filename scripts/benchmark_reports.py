"""Seconds and memory that a report of many runs takes; the runs are made up, their folders as agents leave them."""

import json
import resource
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from rlrat.reports.build import build_report
from rlrat.reports.html import write_report
from rlrat.reports.plots import write_figures
from rlrat.reports.read import read_runs
from rlrat.reports.tables import make_tables

_HEADER = "update,train_seconds,wall_seconds,target_return,episodes,return_mean,return_std,length_mean,normalized_score"
_REFERENCE = {"name": "made up", "env_id": "Hopper-v5", "random": 20.0, "expert": 4100.0}


@dataclass
class Arguments:
    """How many of each; their product is the number of evaluations."""

    datasets: int = 10
    activations: int = 20
    seeds: int = 5
    evaluations: int = 100


def write_runs(root: Path, arguments: Arguments) -> None:
    random = np.random.default_rng(0)
    time = np.linspace(0, 1, arguments.evaluations)
    for place in np.ndindex(arguments.datasets, arguments.activations, arguments.seeds):
        dataset, activation, seed = f"dataset{place[0]}", f"activation{place[1]}", int(place[2])
        folder = root / dataset / "iql" / activation / f"seed{seed}"
        folder.mkdir(parents=True)
        config = {
            "agent": "iql",
            "seed": seed,
            "identity": {"dataset": dataset, "activation": activation, "learning_rate": 3e-4, "eval_episodes": 10},
            "arguments": {"num_seeds": arguments.seeds},
            "dataset": {"return_mean": 1500.0},
            "reference": _REFERENCE,
            "versions": {"torch": "2.13.0"},
        }
        (folder / "config.json").write_text(json.dumps(config))
        (folder / "summary.json").write_text(json.dumps({"status": "finished"}))
        height, rate = random.normal(60, 5), random.lognormal(1.6, 0.2)
        scores = height * (1 - np.exp(-rate * time)) + random.normal(0, 3, len(time))
        lines = [
            f"{1000 * n},{5.0 * n:.3f},{7.0 * n:.3f},,10,{20 + 40.8 * score},1.0,500.0,{score}"
            for n, score in enumerate(scores)
        ]
        (folder / "evaluations.csv").write_text("\n".join([_HEADER, *lines]) + "\n")


def main(arguments: Arguments) -> None:
    marks = []  # what was done, and when

    def done(part: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        marks.append((part, time.perf_counter(), peak))

    with tempfile.TemporaryDirectory() as folder:
        runs, output = Path(folder) / "runs", Path(folder) / "report"
        output.mkdir()
        write_runs(runs, arguments)
        done("")
        records = read_runs([runs])
        done(f"reading {len(records)} runs")
        report = build_report(records)
        done("statistics")
        for table in make_tables(report).values():
            (output / "table").write_text(table.markdown() + table.csv() + table.latex())
        done("tables")
        write_figures(report, output)
        done("figures")
        write_report(report, output / "report.html")
        size = (output / "report.html").stat().st_size / 1e6
        done(f"report.html, {size:.1f} MB")

    shown = Table("part", "seconds", "peak memory so far, MiB")
    for (_, before, _), (part, after, peak) in pairwise(marks):
        shown.add_row(part, f"{after - before:.1f}", f"{peak:.0f}")
    shown.add_row("all", f"{marks[-1][1] - marks[0][1]:.1f}", f"{marks[-1][2]:.0f}")
    Console().print(shown)


if __name__ == "__main__":
    main(tyro.cli(Arguments, description=__doc__))
