"""Put an evaluation into the lines of a run folder, and into words."""

from typing import Any

import numpy as np

from rlrat.evaluation.background import Snapshot
from rlrat.evaluation.evaluator import Evaluation
from rlrat.evaluation.scores import Reference


def when(snapshot: Snapshot) -> dict[str, Any]:
    """Return the columns of `evaluations.csv` that say when."""
    return {
        "update": snapshot.update,
        "train_seconds": f"{snapshot.train_seconds:.3f}",
        "wall_seconds": f"{snapshot.wall_seconds:.3f}",
    }


def evaluation_rows(
    index: int, snapshot: Snapshot, target: float | None, result: Evaluation, reference: Reference | None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Make one member's line of `evaluations.csv` and those of `episodes.csv` behind it."""
    # All digits: a run's score is found by its target.
    text = None if target is None else repr(target).removesuffix(".0")
    at = {"update": snapshot.update, "target_return": text}
    score = None if reference is None else float(result.scores(reference)[index])
    rate = float(result.success_rate[index])
    evaluation = {
        **when(snapshot),
        **at,
        "episodes": result.returns.shape[1],
        "return_mean": float(result.return_mean[index]),
        "return_std": float(result.return_std[index]),
        "length_mean": float(result.length_mean[index]),
        "normalized_score": score if score is not None and np.isfinite(score) else None,
        "success_rate": rate if np.isfinite(rate) else None,
    }
    unsaid = [None] * result.returns.shape[1]
    successes = unsaid if result.successes is None else result.successes[index].tolist()
    columns = (result.reset_seeds[index], result.returns[index], result.lengths[index], successes)
    episodes = [
        {**at, "episode": e, "reset_seed": int(seed), "return": float(r), "length": int(length), "success": success}
        for e, (seed, r, length, success) in enumerate(zip(*columns, strict=True))
    ]
    return evaluation, episodes


def describe_evaluation(
    result: Evaluation, target: float | None, wanted: np.ndarray, reference: Reference | None, kind: str
) -> str:
    """Say what an evaluation found, on average over the members that are `wanted`, bool `[S]`.

    Args:
        kind: the members as words of a sentence, such as `5 seeds`.
    """
    returns = result.return_mean[wanted]
    text = f"return {returns.mean():.1f}"
    if len(returns) > 1:
        text += f" +- {returns.std():.1f} over {kind}"
    if result.successes is not None:
        text += f", success rate {result.success_rate[wanted].mean():.2f}"
    if reference is not None:
        text += f", score {result.scores(reference)[wanted].mean():.1f}"
    return text if target is None else f"{text} at target {target:g}"
