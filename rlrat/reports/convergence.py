"""Measure how fast a curve rises: functions of the arrays of one run, `updates` `[N]` and `values` `[N]`."""

import numpy as np

from rlrat.reports.statistics import Estimate, interval
from rlrat.runs.schema import final_evaluations

SHARES = (0.5, 0.75, 0.9, 0.95)
"""Of the reference's final value."""
_WINDOW = 3


def final_value(updates: np.ndarray, values: np.ndarray) -> float:
    """Return the mean of a run's last five evaluations, or of all if there are fewer, without the untrained policy's.

    NaN where there is no other.
    """
    count = final_evaluations(updates)
    return float(values[-count:].mean()) if count else np.nan


def paper_statistic(finals: np.ndarray) -> tuple[float, float]:
    """Return mean and population standard deviation of the final values `[S]` over seeds, as in arXiv 2602.12390."""
    return float(finals.mean()), float(finals.std())


def running_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of each evaluation and the two before it (as many as there are), `[..., N]`."""
    sums = np.cumsum(values, axis=-1)
    sums[..., _WINDOW:] = sums[..., _WINDOW:] - sums[..., :-_WINDOW].copy()
    return sums / np.minimum(np.arange(1, values.shape[-1] + 1), _WINDOW)


def time_to_stay(times: np.ndarray, values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Return when a run's running mean comes to stay at or above each of `thresholds` `[...]`.

    This is the first evaluation from which no mean is below the threshold until the run ends; infinite without one.

    Args:
        times: of the evaluations, `[N]`, or `[C, N]` by several clocks.
        values: `[N]`.

    Returns:
        `[...]`, or `[C, ...]`.
    """
    lowest_yet_to_come = np.minimum.accumulate(running_mean(values)[::-1])[::-1]
    index = np.searchsorted(lowest_yet_to_come, thresholds, side="left")
    return np.append(times, np.full((*times.shape[:-1], 1), np.inf), axis=-1)[..., index]


def median_time(times: np.ndarray, at: np.ndarray, draws: np.ndarray | None) -> Estimate:
    """Return the median over seeds of the time to a threshold; infinite ("not reached") where half or more never did.

    A seed that never reaches it is censored at its end: it counts as later than every other. A median does not need to
    know by how much.

    Args:
        times: to each of U thresholds, `[S, U]`, infinite where never.
        at: the threshold of each bootstrap sample, so that it is as uncertain as the reference's seeds make it, and at
            the end that of the seeds as they are: places in U, `[B + 1]`.
        draws: the seeds of each sample, `[B, S]`; None for no interval.
    """
    value = float(np.median(times[:, at[-1]]))
    if draws is None:
        return Estimate(value, np.nan, np.nan)
    ordered = np.sort(times.T[at[:-1, None], draws], axis=-1)
    middle = slice((times.shape[0] - 1) // 2, times.shape[0] // 2 + 1)
    return Estimate(value, *map(float, interval(ordered[:, middle].mean(-1))))
