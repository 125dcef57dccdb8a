"""Give dashboards what they show of a run beside its scalars: TensorBoard's HParams and overlays, W&B's copy of all."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlrat.errors import InputError, reason
from rlrat.evaluation.scores import mean_height
from rlrat.runs.schema import AGREEMENT, CONFIG, FINISHED, FQE_VALUE

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

# Each chart overlays every run below --logdir, so that activations are compared without any report.
LAYOUT: dict[str, dict[str, list[str | list[str]]]] = {
    "evaluation": {
        "normalised score": ["Multiline", ["eval/normalized_score"]],
        "return": ["Multiline", ["eval/return_mean"]],
        "success rate": ["Multiline", ["eval/success_rate"]],
        "episode length": ["Multiline", ["eval/length_mean"]],
        "updates per second": ["Multiline", ["charts/updates_per_second"]],
    },
    "without rollouts": {
        "value (fitted Q evaluation)": ["Multiline", [f"offline/{FQE_VALUE}"]],
        "agreement with held-out actions": ["Multiline", [f"offline/{AGREEMENT}"]],
        "the actor's loss on held-out episodes": ["Multiline", ["offline/losses/actor"]],
    },
    "rational layers": {
        "share of inputs outside the fitted interval": ["Multiline", ["rational/.*/outside"]],
        "largest slope on the inputs": ["Multiline", ["rational/.*/largest_slope"]],
        "slope at large |x|": ["Multiline", ["rational/.*/asymptotic_slope"]],
    },
}


def finish_board(
    board: "SummaryWriter", folder: Path, config: dict[str, Any], rows: list[dict[str, str]], summary: dict[str, Any]
) -> None:
    """Hand TensorBoard what only a finished run has: a row of its HParams tab.

    The row has the final score, return and success rate, of how many evaluations they are and, as `area`, the mean
    height of the curves of score and return over training, or the final value of a run without an environment; a
    diverged run has none of them.

    Args:
        board: the run's open TensorBoard file.
        folder: the run's, whose name has the run name.
        config, rows, summary: of its `config.json`, its curve and its `summary.json`.
    """
    from torch.utils.tensorboard.summary import hparams

    updates = np.array([int(row["update"]) for row in rows])
    metrics: dict[str, float | None] = {"final/return": summary["final_return"], "final/score": summary["final_score"]}
    metrics["final/success_rate"] = summary.get("final_success_rate")  # where the environment says it
    metrics["final/value"] = summary.get("final_value")  # of a run without an environment
    metrics["final/evaluations"] = None if summary["final_return"] is None else summary["final_evaluations"]
    for name, column in (("return", "return_mean"), ("score", "normalized_score")):
        known = summary["status"] == FINISHED and len(rows) and all(row[column] for row in rows)
        values = np.array([float(row[column]) for row in rows]) if known else None
        metrics[f"final/{name}_area"] = mean_height(updates, values, updates[0], updates[-1]) if known else None
    # The tab takes its columns from whichever run it reads first: these are every agent's, and `name` has the rest.
    identity = config["identity"]
    columns = {name: identity[name] for name in ("activation", "agent", "dataset", "total_updates")}
    columns |= {"name": folder.parent.name.partition("+")[2], "seed": config["seed"]}
    end = int(updates[-1]) if len(rows) else 0
    for part in hparams(columns, metrics):
        board.file_writer.add_summary(part, end)
    for name, value in metrics.items():
        if value is not None:
            board.add_scalar(name, value, end)


def check_tracking() -> None:
    """Raise `InputError` where Weights & Biases is not installed."""
    if find_spec("wandb") is None:
        raise InputError('--track needs Weights & Biases: pip install "rlrat[track]"')


@contextmanager
def tracked(folders: list[Path], settings: dict[str, Any]) -> Iterator[None]:
    """Mirror what TensorBoard's files in `folders` get inside the block to one run of Weights & Biases.

    The seeds are told apart by the first part of a name, `seed0/eval/return_mean`. The run's id is the same for a
    command that goes on and another one after `--overwrite`. Project and entity are `WANDB_PROJECT` (by default rlrat)
    and `WANDB_ENTITY`; with `WANDB_MODE=offline` nothing is sent.

    Raises:
        InputError: Weights & Biases refuses to begin a run, for instance because nobody is logged in.
    """
    import wandb

    root = Path(os.path.commonpath([folder.resolve().parent for folder in folders]))
    began = [(str(folder.resolve()), (folder / CONFIG).stat().st_mtime_ns) for folder in folders]
    wandb.tensorboard.patch(root_logdir=str(root))
    try:
        try:
            run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "rlrat"),
                name="/".join(root.parts[-3:]),
                id=hashlib.sha256(repr(began).encode()).hexdigest()[:16],
                resume="allow",
                config=settings,
                sync_tensorboard=True,
            )
        except wandb.Error as error:
            raise InputError(f"--track: {reason(error)} (WANDB_MODE=offline needs no account)") from None
        with run:
            yield
    finally:
        wandb.tensorboard.unpatch()
