"""The command line of a run that takes seconds, and how to read what it left."""

import json
from pathlib import Path

import torch

from rlrat.runs import RunFolder

ROOT = Path(__file__).parents[1]
SHORT = (
    *("--total-updates", "40", "--batch-size", "16", "--hidden-dims", "16", "16", "--num-threads", "1"),
    *("--eval-every", "20", "--eval-episodes", "2", "--log-every", "10", "--checkpoint-every", "20"),
)


def read_run(folder: Path) -> dict:
    """What a finished run must have repeated bit for bit: its evaluations without time columns, and its last state."""
    rows = [{k: v for k, v in row.items() if "seconds" not in k} for row in RunFolder(folder).evaluations()]
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    return {
        "rows": rows,
        "episodes": (folder / "episodes.csv").read_text(),
        "state": checkpoint["state"],
        "status": json.loads((folder / "summary.json").read_text())["status"],
    }
