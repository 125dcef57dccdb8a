"""The command line of a run that takes seconds, and how to read and compare what it left."""

import csv
import json
import subprocess
import time
from pathlib import Path

import torch

from rlrat.runs.folder import RunFolder

ROOT = Path(__file__).parents[1]
SHORT = (
    *("--total-updates", "40", "--batch-size", "16", "--hidden-dims", "16", "16", "--num-threads", "1"),
    *("--eval-every", "20", "--eval-episodes", "2", "--log-every", "10", "--checkpoint-every", "20"),
)


def read_run(folder: Path) -> dict:
    """What a finished run must have repeated bit for bit: all that it was seen to do, but for times, and its state."""
    rows = [{k: v for k, v in row.items() if "seconds" not in k} for row in RunFolder(folder).evaluations()]
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    activations = folder / "activations.csv"  # only where there are rational layers
    metrics = folder / "metrics.csv"  # only where an update was logged
    return {
        "rows": rows,
        "episodes": (folder / "episodes.csv").read_text(),
        "activations": activations.read_text() if activations.exists() else None,
        "metrics": read_metrics(metrics) if metrics.exists() else None,
        "state": checkpoint["state"],
        "status": json.loads((folder / "summary.json").read_text())["status"],
    }


def read_metrics(path: Path) -> list[list[str]]:
    """The lines of a `metrics.csv`, its header the first, without the column that is a speed."""
    with path.open(newline="") as file:
        lines = list(csv.reader(file))
    kept = [place for place, name in enumerate(lines[0]) if name != "charts/updates_per_second"]
    return [[line[place] for place in kept] for line in lines]


def assert_equal_runs(ours: dict, theirs: dict) -> None:
    for key in ("rows", "episodes", "activations", "metrics", "status"):
        assert ours[key] == theirs[key]
    for name, value in theirs["state"].items():
        assert torch.equal(ours["state"][name], value), name


def wait_for(path: Path | None, text: str, process: subprocess.Popen) -> bool:
    """Until `path` holds `text`, or the process ends."""
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if path is not None and path.exists() and text in path.read_text():
            return True
        time.sleep(0.005)
        if path is None:
            return True
    return False
