"""Make one curve from those of several seeds: aligned on updates, thinned to what can be drawn, with a band."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from rlrat.reports.read import MetricLine, RunRecord
from rlrat.reports.report import Curve
from rlrat.reports.statistics import interquartile_interval, interquartile_mean, interval, spread_known

POINTS = 400
"""More are not told apart on a page; statistics use every evaluation."""
_AGGREGATE_POINTS = 100
_SAMPLES = 1000


def common_updates(runs: Sequence[RunRecord | MetricLine]) -> np.ndarray:
    """Return the updates at which all runs under way (between their first and last update) were evaluated, `[N]`."""
    updates, evaluated = np.unique(np.concatenate([run.updates for run in runs]), return_counts=True)
    first, last = (np.sort([run.updates[end] for run in runs]) for end in (0, -1))
    under_way = np.searchsorted(first, updates, side="right") - np.searchsorted(last, updates, side="left")
    return updates[evaluated == under_way]


def aligned(runs: Sequence[RunRecord | MetricLine], field: str, updates: np.ndarray) -> np.ndarray:
    """Return a field of each run's record at `updates` `[N]`, NaN where the run has none: `[S, N]`."""
    rows = np.full((len(runs), len(updates)), np.nan)
    for row, run in zip(rows, runs, strict=True):
        place = np.searchsorted(run.updates, updates)
        there = place < len(run.updates)
        there[there] = run.updates[place[there]] == updates[there]
        row[there] = getattr(run, field)[place[there]]
    return rows


@lru_cache(maxsize=8)
def _weights(seeds: int) -> np.ndarray:
    """Return how often each sample has each seed, `[samples, S]`: sums over drawn seeds are then one product."""
    return np.random.default_rng(0).multinomial(seeds, np.full(seeds, 1 / seeds), size=_SAMPLES).astype(float)


def mean_curve(runs: Sequence[RunRecord | MetricLine], field: str) -> Curve:
    """Average an array of records, or a metric's `values`, over seeds; the band is a bootstrap interval over seeds."""
    updates = thinned(common_updates(runs), POINTS)
    values = aligned(runs, field, updates)
    there = np.isfinite(values)
    seeds = there.sum(0)
    filled = np.where(there, values, 0.0)
    low = high = np.full(len(updates), np.nan)
    if len(runs) > 1:
        weights = _weights(len(runs))
        with np.errstate(invalid="ignore", over="ignore"):
            means = weights @ filled
            if there.all():
                means /= len(runs)
            else:
                counts = weights @ there.astype(float)
                means = np.where(counts > 0, means / np.maximum(counts, 1), filled.sum(0) / seeds)
        low, high = (np.where(seeds > 1, end, np.nan) for end in interval(means))
    with np.errstate(invalid="ignore"):  # a metric may be finite in no seed
        seconds = np.where(there, aligned(runs, "train_seconds", updates), 0.0).sum(0) / seeds
        return Curve(updates, seconds, filled.sum(0) / seeds, low, high, seeds)


def interquartile_curve(tasks: Sequence[Sequence[RunRecord]], field: str, horizon: int) -> Curve | None:
    """Return the interquartile mean over the runs of several tasks, at the updates that all have.

    Every task weighs the same, whatever its number of seeds. None where fewer than two updates are left.
    """
    runs = [run for task in tasks for run in task]
    updates, evaluated = np.unique(np.concatenate([run.updates for run in runs]), return_counts=True)
    updates = thinned(updates[(evaluated == len(runs)) & (updates <= horizon)], _AGGREGATE_POINTS)
    if len(updates) < 2:
        return None
    values = [aligned(task, field, updates) for task in tasks]  # [S_t, N]
    low = high = np.full(len(updates), np.nan)
    if spread_known(values):
        low, high = interquartile_interval(values, _SAMPLES)
    seconds = np.mean([aligned(task, "train_seconds", updates).mean(0) for task in tasks], axis=0)
    mean = interquartile_mean([task.T for task in values])
    return Curve(updates, seconds, mean, low, high, np.full(len(updates), len(runs)))


def thinned(values: np.ndarray, points: int) -> np.ndarray:
    """Return at most `points` of `values`, evenly spaced, with the first and the last."""
    if len(values) <= points:
        return values
    return values[np.linspace(0, len(values) - 1, points).round().astype(int)]
