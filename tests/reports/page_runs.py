"""Runs as `run_folders` writes them, with curves that rise and, of rationals, learned activations."""

from pathlib import Path
from typing import Any

import numpy as np

from rlrat.reports.build import build_report
from rlrat.reports.read import read_runs
from rlrat.reports.report import Report
from rlrat.runs.inspection import BINS
from rlrat.runs.schema import ACTIVATIONS, COLUMNS
from tests.reports.run_folders import write_run

LAYERS = tuple(f"{network}.hidden.{layer}" for network in ("q", "v", "policy.mean") for layer in (0, 1))  # IQL's


def make_run(root: Path, activation: str, seed: int, evaluations: int = 21, level: float = 50.0, **run: Any) -> Path:
    """A run that is evaluated every 1000 updates and whose score rises to about `level`."""
    random = np.random.default_rng([seed, len(activation)])
    rise = 1.0 - np.exp(-4.0 * np.linspace(0.0, 1.0, evaluations))
    values = level * random.normal(1.0, 0.1) * rise + random.normal(0.0, 1.5, evaluations)
    folder = write_run(root, values.round(4).tolist(), seed, activation=activation, every=1000, **run)
    if activation.startswith("rational"):
        (folder / "activations.csv").write_text(activations_text(range(0, 1000 * evaluations, 1000), random))
    return folder


def activations_text(updates: range, random: np.random.Generator) -> str:
    """Functions that drift away from a fitted ReLU, over inputs that wander; layer q has two critics."""
    numerator = np.array([0.0228, 0.533, 1.717, 1.615, 0.538, 0.057])
    denominator = np.array([0.38, 2.78, 0.168, 0.095])
    counts = " ".join(str(int(1000 * np.exp(-((i - BINS / 2) ** 2) / 50))) for i in range(BINS))
    drift = {(layer, part): random.normal(0.0, 0.3, 6) for layer in LAYERS for part in range(1 + (layer[0] == "q"))}
    lines = [",".join(COLUMNS[ACTIVATIONS])]
    for update in updates:
        share = update / max(updates[-1], 1)
        for (layer, part), shift in drift.items():
            a = " ".join(f"{value:.9g}" for value in numerator + share * shift)
            b = " ".join(f"{value:.9g}" for value in denominator + 0.3 * share)
            lines.append(f"{update},{layer},{part},0,A,{a},{b},{-2 - share:.6g},{2 + 2 * share:.6g},{counts}")
    return "\n".join(lines) + "\n"


def make_report(tmp_path: Path, activations=("relu", "rational"), seeds: int = 3, **run) -> Report:
    """Of such runs of each activation, made in tmp_path/runs."""
    for activation in activations:
        for seed in range(seeds):
            make_run(tmp_path / "runs", activation, seed, **run)
    return build_report(read_runs([tmp_path / "runs"]))
