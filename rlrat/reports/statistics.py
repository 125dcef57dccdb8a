"""Compute statistics of final scores: functions of arrays, apart from reading and drawing.

A group's scores are a sequence with one array for each task, `[..., S_t]`, with one score for each seed. Tasks may
differ in their numbers of seeds, and weigh the same nonetheless. Aggregates, profiles and the probability of
improvement are those of Agarwal et al. 2021 (arXiv 2108.13264). Their package rliable takes only equal numbers of
seeds, and gives the same values for them. It makes a Python call for each bootstrap sample (26 s for the six pairs of
four groups on three tasks, where this takes 10 ms), and needs pandas < 3.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np

Scores = Sequence[np.ndarray]

LEVEL = 0.95
"""Of every interval."""
FULL_SCORE = 100.0
"""What the optimality gap is measured from."""
SAMPLES = 2000
"""Of a bootstrap."""
_BLOCK = 200_000  # numbers at once: they stay in the cache


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


def interquartile_interval(tasks: Scores, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the interval of the interquartile mean at each of N points, `[N]` each; a task has `[S_t, N]`."""
    sizes = tuple(map(len, tasks))
    if len(set(sizes)) > 1:
        (drawn,) = resample(tasks, samples=samples)
        return interval(interquartile_mean([np.moveaxis(task, 1, -1) for task in drawn]))
    starts = range(0, sum(sizes), sizes[0])
    drawn = np.concatenate([own + start for own, start in zip(draws(sizes, samples), starts, strict=True)], axis=-1)
    middle = slice(sum(sizes) // 4, sum(sizes) - sum(sizes) // 4)
    # A point at a time: its samples stay in the cache. Run after run is added, so that rounding is that of all at once.
    means = [np.ascontiguousarray(np.sort(runs[drawn], axis=-1).T[middle]).mean(0) for runs in np.concatenate(tasks).T]
    return interval(np.stack(means), axis=-1)


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


@lru_cache(maxsize=32)
def draws(sizes: tuple[int, ...], samples: int) -> tuple[np.ndarray, ...]:
    """Draw a stratified bootstrap: for each of `sizes` S, which seeds each sample has, with replacement `[samples, S]`.

    The same every time: whatever has as many seeds shares them.
    """
    generator = np.random.default_rng(0)
    return tuple(generator.integers(size, size=(samples, size)) for size in sizes)


@lru_cache(maxsize=32)
def _times_drawn(sizes: tuple[int, ...], samples: int) -> tuple[np.ndarray, ...]:
    """Return how often each sample of `draws` has each seed, `[samples, S]` for each of `sizes`."""
    found = []
    for size, drawn in zip(sizes, draws(sizes, samples), strict=True):
        places = drawn + size * np.arange(samples)[:, None]
        found.append(np.bincount(places.ravel(), minlength=samples * size).reshape(samples, size).astype(float))
    return tuple(found)


def resample(*groups: Scores, samples: int) -> list[list[np.ndarray]]:
    """Draw the seeds of each task of each group anew: arrays `[samples, S_t]` in the place of `[S_t]`."""
    drawn = iter(draws(_sizes(*groups), samples))
    return [[task[next(drawn)] for task in scores] for scores in groups]


def _sizes(*groups: Scores) -> tuple[int, ...]:
    return tuple(len(task) for scores in groups for task in scores)


def interval(samples: np.ndarray, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return the percentile interval of bootstrap samples; infinite ones count as largest, an end may be infinite."""
    tail = 100 * (1 - LEVEL) / 2
    ends = [tail, 100 - tail]
    if not np.isfinite(samples).all():
        low, high = np.percentile(samples, ends, axis=axis, method="nearest")
        return low, high
    # As np.percentile has it to the last digit, in half of the time.
    ordered = np.sort(samples, axis=axis)
    found = []
    for end in ends:
        place = (samples.shape[axis] - 1) * np.true_divide(end, 100)
        below = int(place)
        lower, upper = (ordered.take(min(at, samples.shape[axis] - 1), axis=axis) for at in (below, below + 1))
        share, step = place - below, upper - lower
        found.append(lower + step * share if share < 0.5 else upper - step * (1 - share))
    return found[0], found[1]


def estimate(statistic: Callable[..., np.ndarray], *groups: Scores, samples: int = SAMPLES) -> Estimate:
    """Compute a statistic of one or more groups with its stratified bootstrap interval.

    The interval describes these seeds; `bootstrap_coverage` says how often an interval like this holds the truth. There
    is none where a task has a single seed, which says nothing of its spread.
    """
    value = float(statistic(*groups))
    if not spread_known(*groups):
        return Estimate(value, np.nan, np.nan)
    low, high = interval(statistic(*resample(*groups, samples=samples)))
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


def estimate_improvement(first: Scores, second: Scores) -> Estimate:
    """Return what `estimate` of `probability_of_improvement` does, from how often each seed is drawn."""
    value = float(probability_of_improvement(first, second))
    if not spread_known(first, second):
        return Estimate(value, np.nan, np.nan)
    drawn = _times_drawn(_sizes(first, second), SAMPLES)
    wins = []
    for x, y, ours, theirs in zip(first, second, drawn, drawn[len(first) :], strict=False):
        above = 0.5 + 0.5 * np.sign(x[:, None] - y)
        wins.append(((ours @ above) * theirs).sum(-1) / above.size)  # sums of halves, and so exact
    low, high = interval(np.mean(wins, axis=0))
    return Estimate(value, float(low), float(high))


def performance_profile(scores: Scores, thresholds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the share of runs above each of `thresholds`, mean over tasks, and the ends of its interval: `[K]` each.

    There is none (NaN) where a task has a single seed.
    """
    above = [(task[:, None] > thresholds).astype(float) for task in scores]  # [S_t, K]
    share = np.mean([task.mean(0) for task in above], axis=0)
    if not spread_known(scores):
        return share, *(np.full(len(thresholds), np.nan),) * 2
    drawn = _times_drawn(_sizes(scores), SAMPLES)
    samples = np.zeros((SAMPLES, len(thresholds)))
    for times, task in zip(drawn, above, strict=True):
        samples += times @ task / len(task)
    return share, *interval(samples / len(above))


@cache
def bootstrap_coverage(seeds: int, experiments: int = 2000, samples: int = 1000, seed: int = 0) -> float:
    """Simulate how often `estimate`'s interval of a mean over `seeds` runs of one task holds the true mean.

    The simulated runs are normal: the percentile interval is too short where seeds are few, whatever their spread.
    Skewed or two-humped runs are covered less often still.
    """
    generator = np.random.default_rng(seed)
    runs = generator.standard_normal((experiments, seeds))
    held, block = 0, max(1, _BLOCK // (samples * seeds))
    for some in np.split(runs, range(block, experiments, block)):
        places = generator.integers(seeds, size=(len(some), samples, seeds))
        places += seeds * np.arange(len(some))[:, None, None]
        low, high = interval(some.ravel()[places].mean(-1), axis=-1)
        held += int(((low <= 0) & (high >= 0)).sum())
    return held / experiments
