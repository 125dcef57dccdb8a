"""Train IQL and TD3+BC at small widths, and say whether rational reaches the same scores with fewer parameters.

    python scripts/benchmarks/widths.py

Runs that are finished are not trained again, and what was begun goes on.
"""

import argparse
import csv
import itertools
import subprocess
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agent_speed import make_learner
from difference import outcomes, tasks
from rlrat import load_dataset
from rlrat.errors import InputError, one_line_errors
from rlrat.evaluation.scores import mean_height
from rlrat.reports.read import RunRecord, read_runs
from rlrat.reports.report import Comparison
from rlrat.reports.statistics import estimate, mean
from rlrat.reports.verdicts import compare_all
from rlrat.runs.agents import find_agent
from rlrat.runs.schema import FINAL_EVALUATIONS, OFFLINE

_FOLDER = Path(__file__).parents[2] / "docs" / "benchmarks"
DATASETS = {"iql": "rlrat/hopper/mixed-v0", "td3_bc": "rlrat/hopper/medium-v0"}
ACTIVATIONS = ("relu", "gelu", "rational")
WIDTHS = (16, 32, 64, 128)
"""Of both hidden layers of every network."""
MEASURES = {"score": "Score", "held_out": "Critics' error on held-out episodes"}
_COMMON = "--num-seeds 10 --holdout 0.1 --eval-every 2000 --eval-episodes 10 --num-threads 1 --compile"
_COLUMNS = ("agent", "activation", "width", "parameters", "seed")
_LATER = tuple(f"{measure}_{of}" for measure in MEASURES for of in ("final", "area"))
_COLOURS = {"relu": "#000000", "gelu": "#0072B2", "rational": "#D55E00"}
_MARK = "<!-- What follows is written by scripts/benchmarks/widths.py. -->"


def train(folder: Path, updates: int, widths: Sequence[int]) -> None:
    """Train every cell of the study that is not finished."""
    for activation, width, agent in itertools.product(ACTIVATIONS, widths, DATASETS):
        settings = ("--dataset", DATASETS[agent], "--activation", activation, "--hidden-dims", width, width)
        command = [sys.executable, find_agent(agent), *settings, *_COMMON.split(), "--total-updates", updates]
        subprocess.run([str(word) for word in [*command, "--run-dir", folder]], check=True)


def measure(run: RunRecord, parameters: int) -> dict[str, object]:
    """Take from a run its score and its critics' error, each at the end and over training.

    The critics' error is the mean squared error against the agent's own targets r + gamma V(s') on episodes that it was
    not trained on, as minus its logarithm to base 10, so that more is better.
    """
    with (run.path / OFFLINE).open(newline="") as file:
        errors = np.array([[float(line["update"]), float(line["losses/q"])] for line in csv.DictReader(file)])
    curves = {"score": (run.updates, run.scores), "held_out": (errors[:, 0], -np.log10(errors[:, 1]))}
    found = {}
    for name, (updates, values) in curves.items():
        found[f"{name}_final"] = values[-FINAL_EVALUATIONS:].mean()
        found[f"{name}_area"] = mean_height(updates, values, updates[0], updates[-1])
    width = run.config["identity"]["hidden_dims"][0]
    return dict(zip(_COLUMNS, (run.agent, run.activation, width, parameters, run.seed), strict=True)) | found


def count_parameters(agent: str, activation: str, width: int) -> int:
    """Count what an agent of one seed trains, its critics, actor and coefficients."""
    learner = make_learner(
        agent, load_dataset(DATASETS[agent]), 1, "cpu", activation=activation, hidden_dims=(width,) * 2
    )
    return sum(parameter.numel() for parameter in learner.parameters() if parameter.requires_grad)


def read(file: Path) -> list[dict]:
    """Read what `measure` found of each run."""
    with file.open(newline="") as lines:
        text = ("agent", "activation")
        return [{k: v if k in text else float(v) for k, v in line.items()} for line in csv.DictReader(lines)]


def compare(rows: list[dict], name: str) -> tuple[Comparison, ...]:
    """Compare every activation and width with every other, corrected for all together."""
    cells = defaultdict(lambda: {"final": {name: []}, "area": {name: []}})
    for row in rows:
        for of in ("final", "area"):
            cells[row["agent"], row["activation"], int(row["width"])][of][name].append(row[f"{name}_{of}"])
    named = [dict(zip(("target", "activation", "width"), key, strict=True)) | cell for key, cell in cells.items()]
    widths = sorted({cell["width"] for cell in named})
    study = {"targets": list(dict.fromkeys(cell["target"] for cell in named)), "widths": widths, "updates": 0}
    return compare_all(tasks({"study": study, "cells": named}, name))


def write_page(rows: list[dict], file: Path) -> None:
    """Write the tables below what a person has written in `file`, if anything."""
    above = file.read_text().partition(_MARK)[0] if file.exists() else ""
    parts = [text for name, title in MEASURES.items() for text in _tables(rows, name, title)]
    file.write_text("\n\n".join([f"{above}{_MARK}", *parts]) + "\n")


def _tables(rows: list[dict], name: str, title: str) -> list[str]:
    comparisons = compare(rows, name)
    won = sum(c.winner is not None for c in comparisons)
    parts = [f"## {title}", f"Of {len(comparisons)} comparisons {won} have a winner."]
    widths = sorted({int(row["width"]) for row in rows})
    for agent in dict.fromkeys(row["agent"] for row in rows):
        lines = [
            f"| {agent} | {' | '.join(f'width {width}' for width in widths)} |",
            "| --- " * (1 + len(widths)) + "|",
        ]
        for activation in dict.fromkeys(row["activation"] for row in rows):
            texts = []
            for width in widths:
                key = (agent, activation, width)
                chosen = [row for row in rows if (row["agent"], row["activation"], row["width"]) == key]
                values = np.array([row[f"{name}_final"] for row in chosen])
                shown = f"{values.mean():.1f} ± {values.std(ddof=1):.1f}"
                if name == "held_out":
                    shown = f"{10 ** -values.mean():.3g}"
                texts.append(f"{shown} ({int(chosen[0]['parameters']):,})")
            lines.append(f"| {activation} | {' | '.join(texts)} |")
        parts.append("\n".join(lines))
    final = outcomes(comparisons, "final")
    lines = ["| rational, width | against | equal width | twice the width | four times the width |", "| --- " * 5 + "|"]
    for rival, width in itertools.product(("relu", "gelu"), widths):
        counts = [final.get(("rational", width, rival, factor * width)) for factor in (1, 2, 4)]
        texts = ["" if c is None else f"{c[True]} / {c[False]} / {c[None]}" for c in counts]
        lines.append(f"| {width} | {rival} | {' | '.join(texts)} |")
    return [*parts, "Rational's wins / losses / undecided of two agents, at the end:", "\n".join(lines)]


def draw(rows: list[dict], file: Path) -> None:
    """Draw score and held-out error against parameters, with bootstrap intervals of means over seeds."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    figure = Figure(figsize=(8.5, 6.5), layout="constrained")
    axes = figure.subplots(2, len(DATASETS), squeeze=False)
    for column, agent in enumerate(DATASETS):
        for row, name in enumerate(MEASURES):
            ax = axes[row, column]
            for activation, colour in _COLOURS.items():
                cells = defaultdict(list)
                for found in rows:
                    if (found["agent"], found["activation"]) == (agent, activation):
                        cells[found["parameters"]].append(found[f"{name}_final"])
                counts = sorted(cells)
                bands = [estimate(mean, [np.array(cells[count])]) for count in counts]
                values = np.array([[band.value, band.low, band.high] for band in bands]).T
                if name == "held_out":
                    values = 10**-values
                ax.plot(counts, values[0], color=colour, marker="o", markersize=4, label=activation)
                ax.vlines(counts, values[1], values[2], colour)
            ax.set_xscale("log")
            ax.set_xticks(counts, [f"{count:,.0f}" for count in counts])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.grid(alpha=0.25)
            if row == 0:
                ax.set_title(f"{agent} on {DATASETS[agent]}")
            else:
                ax.set_xlabel("parameters")
                ax.set_yscale("log")
                ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 6)))
                ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
                ax.yaxis.set_minor_locator(NullLocator())
        axes[0, 0].set_ylabel("final score")
        axes[1, 0].set_ylabel("squared error of Q on held-out episodes")
    axes[0, 0].legend(frameon=False)
    figure.savefig(file, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/widths"), help="of the runs (runs/widths)")
    parser.add_argument("--output", type=Path, default=_FOLDER, help="folder of widths.{csv,md,png} (docs/benchmarks)")
    parser.add_argument("--updates", type=int, default=20_000, help="of each run (20000)")
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="of the hidden layers (16 32 64 128)")
    parser.add_argument("--no-training", action="store_true", help="take the runs as they are")
    chosen = parser.parse_args()
    if not chosen.no_training:
        train(chosen.run_dir, chosen.updates, chosen.widths)
    runs = [run for run in read_runs([chosen.run_dir]) if run.status == "finished"]
    found = {(run.agent, run.activation, run.config["identity"]["hidden_dims"][0]) for run in runs}
    lacking = [cell for cell in itertools.product(DATASETS, ACTIVATIONS, chosen.widths) if cell not in found]
    if lacking:
        cells = ", ".join(" ".join(map(str, cell)) for cell in lacking)
        raise InputError(f"{chosen.run_dir} has no finished run of {cells}: leave out --no-training, or give --run-dir")
    known: dict[tuple, int] = {}
    rows = []
    for run in runs:
        key = (run.agent, run.activation, run.config["identity"]["hidden_dims"][0])
        known[key] = known.get(key) or count_parameters(*key)
        rows.append(measure(run, known[key]))
    order = [*DATASETS, *ACTIVATIONS]
    rows.sort(key=lambda row: (*(order.index(row[of]) for of in ("agent", "activation")), row["width"], row["seed"]))
    with (chosen.output / "widths.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, (*_COLUMNS, *_LATER))
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    rows = read(chosen.output / "widths.csv")
    draw(rows, chosen.output / "widths.png")
    write_page(rows, chosen.output / "widths.md")


if __name__ == "__main__":
    with one_line_errors():
        main()
