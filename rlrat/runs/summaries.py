"""Sum up a run at its end: what `summary.json` has, and the words for it."""

import math
from dataclasses import asdict
from typing import Any

import numpy as np

from rlrat.evaluation.scores import Reference
from rlrat.runs.folder import RunFolder
from rlrat.runs.progress import TrainingProgress
from rlrat.runs.schema import DIVERGED, FAILED, FINISHED, FQE_VALUE, final_evaluations


def summarize(
    rows: list[dict[str, str]],
    progress: TrainingProgress,
    diverged: tuple[str, int] | None,
    reference: Reference | None,
) -> dict[str, Any]:
    """Sum up a member from the lines of its curve, and its first non-finite tensor and update if it diverged."""
    trained = [row for row in rows if int(row["update"]) > 0]
    scores = [float(row["normalized_score"]) for row in trained if row["normalized_score"]]
    last = _last(rows)
    seconds = progress.train_seconds
    summary = {
        "status": FINISHED,
        "final_return": _mean(last, "return_mean"),
        "final_score": _mean(last, "normalized_score"),
        "final_evaluations": len(last),
        "best_score": max(scores, default=None),
        "updates_per_second": progress.update / seconds if seconds else None,
        "reference": None if reference is None else asdict(reference),
    }
    if any(row.get("success_rate") for row in rows):
        summary["final_success_rate"] = None if diverged else _mean(last, "success_rate")
    if diverged is not None:
        tensor, update = diverged
        summary |= {"status": DIVERGED, "final_return": None, "final_score": None, "final_evaluations": 0}
        summary |= {"diverged_at": update, "diverged_tensor": tensor}
    elif not trained:
        summary |= {"status": FAILED, "reason": progress.failure}
    return summary


def summarize_offline(folder: RunFolder, status: str, without_environment: bool) -> dict[str, Any]:
    """Sum up what was found of a member without rollouts; nothing where nothing was."""
    rows = folder.offline()
    found: dict[str, Any] = {}
    if rows:
        values = {name: float(text) for name, text in rows[-1].items() if name != "update" and text}
        values = {name: value for name, value in values.items() if math.isfinite(value)}  # JSON has no others
        found["offline"] = {"update": int(rows[-1]["update"])} | values
    if without_environment:
        found["final_value"] = _mean(_last(rows), FQE_VALUE) if status == FINISHED else None
    return found


def four_digits(value: float) -> str:
    """Write a value with four significant digits, and with all before the point: 0.01234, 12.34, 12,345."""
    return f"{value:.4g}" if not 1e4 <= abs(value) < 1e15 else f"{value:,.0f}"


def final_values(summary: dict[str, Any]) -> str:
    """Say how a run ended, for the end of a line; '' where it has no final value."""
    best = summary.get("best")
    kept = "" if best is None else f"; the best by {best['by']}, of update {best['update']:,}, is {best['file']}"
    if summary.get("final_value") is not None:
        return f": final value {four_digits(summary['final_value'])}, discounted, by fitted Q evaluation{kept}"
    if summary["final_return"] is None:
        return kept.replace(";", ":", 1)
    score = "" if summary["final_score"] is None else f", score {summary['final_score']:.1f}"
    count = summary["final_evaluations"]
    over = "its only evaluation of a trained policy" if count == 1 else f"the mean of its last {count} evaluations"
    rate = summary.get("final_success_rate")
    success = "" if rate is None else f", success rate {rate:.2f}"
    return f": final return {summary['final_return']:.1f}{success}{score}, {over}{kept}"


def _last(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of the evaluations that make the final value."""
    return rows[len(rows) - final_evaluations([int(row["update"]) for row in rows]) :]


def _mean(rows: list[dict[str, str]], column: str) -> float | None:
    """Average a column; None where a row has no value in it."""
    if not rows or not all(row.get(column) for row in rows):
        return None
    return float(np.mean([float(row[column]) for row in rows]))
