"""Test means in a way that holds for few seeds, unequal numbers and spreads; correct the tests of a whole report.

Welch's test estimates its degrees of freedom from the same few seeds as the spread. Where a small group scatters little
by chance, the error comes out too small and the degrees too many. At 3 seeds against 20 a p of 0.002 comes eight times
as often as it says, at 5 against 5 nearly twice. Here the degrees are cautious, and p is the largest probability of
what was seen, over all ratios of the two true spreads.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy.special import expit, log_expit, stdtr, stdtrit

from rlrat.reports.statistics import LEVEL

FEWEST_SEEDS = 3
"""Of each label in a test: two do not know their spread."""
_LEAST_P = 1e-20
_FINEST_STEP = 0.25
_LOG_P = np.log(np.append(np.geomspace(_LEAST_P, 0.1, 48), [0.15, 0.2, 0.3, 0.45, 0.7, 1.0]))


def compare_means(
    first: np.ndarray,
    second: np.ndarray,
    level: float = LEVEL,
    square: Callable[[np.ndarray], np.ndarray] = np.square,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Test that two groups of runs, `[..., S]` each, have equal means: return difference, its interval, p; `[...]`.

    For normal runs, whatever the two spreads are, p is below x with a probability of at most x, and the interval holds
    the true difference with a probability of at least `level`. All four are NaN with fewer than three seeds in a group,
    or where both groups have no spread at all. `square` is what the degrees of freedom are computed with.
    """
    sizes = first.shape[-1], second.shape[-1]
    if min(sizes) < FEWEST_SEEDS:
        return (np.full(first.shape[:-1], np.nan),) * 4
    difference = first.mean(-1) - second.mean(-1)
    parts = [group.var(-1, ddof=1) / size for group, size in zip((first, second), sizes, strict=True)]
    # Seeds that differ by rounding alone do not differ.
    scale = np.maximum(np.abs(first).max(-1), np.abs(second).max(-1))
    squared = np.where(parts[0] + parts[1] > (1e-12 * scale) ** 2, parts[0] + parts[1], np.nan)
    error, freedom = np.sqrt(squared), _freedom(parts[0] / squared, *sizes, square)
    worst = _worst_case(*sorted(sizes))
    nominal = np.maximum(2 * stdtr(freedom, -np.abs(difference) / error), _LEAST_P)
    p = np.exp(np.interp(np.log(nominal), _LOG_P, worst))
    half = -stdtrit(freedom, np.exp(np.interp(np.log(1 - level), worst, _LOG_P)) / 2) * error
    return np.where(np.isnan(p), np.nan, difference), difference - half, difference + half, p


def corrected(p: np.ndarray) -> np.ndarray:
    """Correct p-values `[..., 2, M]`, of two quantities of each of M pairs, for all of them together; NaN is no test.

    The two quantities of a pair are of the same runs. Together they count as one test, that of Simes (twice the smaller
    p or the larger, whichever is less). Holm's correction is over the pairs. A quantity is significant where the pair's
    test and its own p are. A pair costs the others nothing more once both of its quantities are significant. It is a
    closed test (Marcus, Peritz and Gabriel 1976): the probability of any false claim is at most the level.
    """
    smaller, larger = np.fmin(p[..., 0, :], p[..., 1, :]), np.fmax(p[..., 0, :], p[..., 1, :])
    both = np.isfinite(p).all(-2)
    own = np.maximum(p, np.where(both, np.minimum(2 * smaller, larger), larger)[..., None, :])  # [..., 2, M]
    made = np.isfinite(larger).sum(-1, keepdims=True)
    order = np.argsort(larger, axis=-1)  # NaN last
    rank = np.argsort(order, axis=-1)[..., None, :]
    steps = np.take_along_axis(larger, order, -1) * np.maximum(made - np.arange(p.shape[-1]), 1)
    done = np.maximum.accumulate(
        steps, axis=-1
    )  # the least level at which both quantities of so many pairs are claimed
    found = np.where(np.isfinite(p), np.take_along_axis(done, rank[..., 0, :], -1)[..., None, :], np.nan)
    for before in range(p.shape[-1]):
        least = done[..., before - 1, None, None] if before else 0.0
        after = np.maximum(least, np.maximum(made[..., None, :] - before, 1) * own)
        found = np.where(rank >= before, np.minimum(found, after), found)
    return np.minimum(found, 1)


def _freedom(
    share: np.ndarray, first: int, second: int, square: Callable[[np.ndarray], np.ndarray] = np.square
) -> np.ndarray:
    """Return degrees of freedom between the least and Welch's; `share` of the squared error is the first group's.

    They have the ends of Welch's: the smaller group's and both groups' together. They stay nearer to the lower end: of
    the tests with one p for every ratio of spreads, this one has more power than one with Welch's degrees.
    """
    welch = 1 / (square(share) / (first - 1) + square(1 - share) / (second - 1))
    least, most = min(first, second) - 1, first + second - 2
    return least + (most - least) * square(np.clip((welch - least) / (most - least), 0, 1))


@cache
def _worst_case(first: int, second: int) -> np.ndarray:
    """Return the log of the largest probability, over all ratios of true spreads, of a nominal p up to exp(`_LOG_P`).

    Let Z be normal and U the sum of both chi-squares, of N degrees. Then |Z| / sqrt(U / N) is Student's. It is
    independent of the first group's part B of U, which is Beta's. Given B, the observed shares are known, and so are
    the degrees and the least |t|. The mean over B is a sum over logit B, in which its density is smooth. Ratios are
    shares of the true squared error on the same grid of logits: degrees and critical values depend on the sum of both
    logits alone.
    """
    total = first + second - 2
    step = min(_FINEST_STEP, np.sqrt(0.5 / (first - 1) + 0.5 / (second - 1)))
    places = np.arange(-int(36 / step), int(36 / step) + 1)
    density = (first - 1) / 2 * log_expit(step * places) + (second - 1) / 2 * log_expit(-step * places)
    places = places[density > density.max() - 40]
    density = np.exp(density[density > density.max() - 40] - density.max())
    ratios = np.arange(-int(12 / step), int(12 / step) + 1, max(1, round(0.5 / step)))
    sums = np.arange(ratios[0] + places[0], ratios[-1] + places[-1] + 1)
    shares = expit(step * sums + np.log((second - 1) / (first - 1)))
    critical = -stdtrit(_freedom(shares, first, second), np.exp(_LOG_P)[:, None] / 2)  # [P, sums]
    beta, true = expit(step * places), expit(step * ratios)[:, None]
    scale = np.sqrt(total * (true * beta / (first - 1) + (1 - true) * (1 - beta) / (second - 1)))  # [ratios, B]
    at = ratios[:, None] + places - sums[0]
    weights = density / density.sum()
    worst = [(2 * stdtr(total, -limits[at] * scale) @ weights).max() for limits in critical]
    return np.log(np.maximum.accumulate(np.minimum(worst, 1.0)))
