"""Compute statistics of final scores: functions of arrays, apart from reading and drawing.

A group's scores are a sequence with one array for each task, `[..., S_t]`, with one score for each seed. Tasks may
differ in their numbers of seeds, and weigh the same nonetheless. Aggregates, profiles and the probability of
improvement are those of Agarwal et al. 2021 (arXiv 2108.13264). Their package rliable takes only equal numbers of
seeds, and gives the same values for them. It makes a Python call for each bootstrap sample (26 s for the six pairs of
four groups on three tasks, where this takes 10 ms), and needs pandas < 3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

Scores = Sequence[np.ndarray]

LEVEL = 0.95
"""Of every interval."""
FULL_SCORE = 100.0
"""What the optimality gap is measured from."""


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its interval, NaN where there is none."""

    value: float
    low: float
    high: float


def interquartile_mean(scores: Scores) -> np.ndarray:
    """Return the mean of the middle half of all runs of all tasks, `[...]`; a run of task t weighs 1 / S_t.

    Of N runs, N // 4 are left out at each end, as in rliable; where runs weigh unequally, that share of the weight.
    """
    runs = np.concatenate(scores, axis=-1)
    sizes, cut = [task.shape[-1] for task in scores], runs.shape[-1] // 4
    if len(set(sizes)) == 1:  # the same in a fraction of the time
        return np.sort(runs, axis=-1)[..., cut : runs.shape[-1] - cut].mean(-1)
    order = np.argsort(runs, axis=-1, kind="stable")
    weights = np.repeat([1 / (size * len(sizes)) for size in sizes], sizes)[order]
    ends, share = np.cumsum(weights, axis=-1), cut / runs.shape[-1]
    kept = np.maximum(np.minimum(ends, 1 - share) - np.maximum(ends - weights, share), 0)
    return (np.take_along_axis(runs, order, axis=-1) * kept).sum(-1) / kept.sum(-1)


def median(scores: Scores) -> np.ndarray:
    """Return the median over tasks of the mean over seeds, `[...]`."""
    return np.median(_task_means(scores), axis=-1)


def mean(scores: Scores) -> np.ndarray:
    """Return the mean over tasks of the mean over seeds, `[...]`."""
    return _task_means(scores).mean(-1)


def optimality_gap(scores: Scores) -> np.ndarray:
    """Return what runs lack to a score of 100 (0 above it), mean over tasks of the mean over seeds, `[...]`."""
    return FULL_SCORE - mean([np.minimum(task, FULL_SCORE) for task in scores])


AGGREGATES: dict[str, Callable[[Scores], np.ndarray]] = {
    "iqm": interquartile_mean,
    "median": median,
    "mean": mean,
    "optimality_gap": optimality_gap,
}


def _task_means(scores: Scores) -> np.ndarray:
    return np.stack([task.mean(-1) for task in scores], axis=-1)


def resample(scores: Scores, samples: int, generator: np.random.Generator) -> list[np.ndarray]:
    """Draw a stratified bootstrap: the seeds of each task anew with replacement, `[samples, S_t]` each."""
    return [task[generator.integers(len(task), size=(samples, len(task)))] for task in scores]


def interval(samples: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile interval of bootstrap samples; infinite ones count as largest, an end may be infinite."""
    tail = 100 * (1 - LEVEL) / 2
    method = "linear" if np.isfinite(samples).all() else "nearest"
    low, high = np.percentile(samples, [tail, 100 - tail], axis=axis, method=method)
    return low, high


def estimate(statistic: Callable[..., np.ndarray], *groups: Scores, samples: int = 2000, seed: int = 0) -> Estimate:
    """Compute a statistic of one or more groups with its stratified bootstrap interval.

    The interval describes these seeds; `bootstrap_coverage` says how often an interval like this holds the truth. There
    is none where a task has a single seed, which says nothing of its spread.
    """
    value = float(statistic(*groups))
    if not spread_known(*groups):
        return Estimate(value, np.nan, np.nan)
    generator = np.random.default_rng(seed)
    low, high = interval(statistic(*(resample(scores, samples, generator) for scores in groups)))
    return Estimate(value, float(low), float(high))


def spread_known(*groups: Scores) -> bool:
    """Return whether every task of every group has two seeds or more."""
    return all(len(task) > 1 for scores in groups for task in scores)


def probability_of_improvement(first: Scores, second: Scores) -> np.ndarray:
    """Return the probability that a run of `first` is above one of `second`, mean over tasks `[...]`; a tie is 0.5."""
    wins = []
    for x, y in zip(first, second, strict=True):
        signs = np.sign(x[..., :, None] - y[..., None, :])
        wins.append((0.5 + 0.5 * signs).mean((-2, -1)))
    return np.mean(wins, axis=0)


def performance_profile(scores: Scores, thresholds: np.ndarray) -> np.ndarray:
    """Return the share of runs above each of `thresholds` `[K]`, mean over tasks: `[..., K]`."""
    return np.mean([(task[..., None, :] > thresholds[:, None]).mean(-1) for task in scores], axis=0)


@cache
def bootstrap_coverage(seeds: int, experiments: int = 2000, samples: int = 1000, seed: int = 0) -> float:
    """Simulate how often `estimate`'s interval of a mean over `seeds` runs of one task holds the true mean.

    The simulated runs are normal: the percentile interval is too short where seeds are few, whatever their spread.
    Skewed or two-humped runs are covered less often still.
    """
    generator = np.random.default_rng(seed)
    held = 0
    for runs in generator.standard_normal((experiments, seeds)):
        low, high = interval(resample([runs], samples, generator)[0].mean(-1))
        held += low <= 0 <= high
    return float(held / experiments)
