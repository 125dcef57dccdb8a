"""Judge a stochastic policy by importance sampling, on data that records how likely its actions were. NumPy alone.

With the ratios rho = pi(a | s) / b(a | s) of the judged policy to the one that collected the data, and w(t) the product
of an episode's ratios up to its step t, the mean over episodes of sum_t discount^t w(t) r(t) is the value of pi
(per-decision importance sampling, Precup et al. 2000). With w(t) / mean over episodes of w(t) in place of w(t) it is
weighted: biased, of less variance. Action values q and v of a model, such as of fitted Q evaluation, make either doubly
robust (Jiang & Li 2016, arXiv 1511.03722; weighted: Thomas & Brunskill 2016, arXiv 1604.00923): the sum is then of
discount^t (w(t) (r(t) - q(t)) + w(t - 1) v(t)).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from rlrat.errors import InputError

LEAST_SAMPLE_SIZE = 10.0
"""Effective episodes below which an estimate is refused: it would be the return of a few."""


@dataclass(frozen=True)
class Estimate:
    """A discounted value, and how many episodes stand behind it."""

    value: float
    effective_sample_size: float
    """(sum w)^2 / sum w^2 over the episodes' whole products of ratios w (Kong 1992)."""


def effective_sample_size(log_ratios: ArrayLike, episode_starts: ArrayLike) -> float:
    """Compute how many episodes of the judged policy so many weighted ones are worth; see `estimate`."""
    last = _log_products(np.asarray(log_ratios, np.float64), np.asarray(episode_starts))[1]
    weights = np.exp(last - last.max())
    return float(weights.sum() ** 2 / np.square(weights).sum())


def estimate(
    rewards: ArrayLike,
    log_ratios: ArrayLike,
    episode_starts: ArrayLike,
    discount: float,
    *,
    weighted: bool = False,
    q: ArrayLike | None = None,
    v: ArrayLike | None = None,
    end_values: ArrayLike | None = None,
    least: float = LEAST_SAMPLE_SIZE,
) -> Estimate:
    """Estimate the discounted value of a policy from N steps of E episodes that another one has taken.

    Args:
        rewards: `[N]`.
        log_ratios: `[N]`, log pi(a | s) - log b(a | s).
        episode_starts: `[E]`, the index of each episode's first step, ascending from 0; no episode is empty.
        discount: of rewards.
        weighted: whether the weights of a step are divided by their mean; an episode that is over keeps its last one.
        q, v: `[N]`, Q(s, a) and the mean of Q(s, .) under pi, of any model; both make the estimate doubly robust.
        end_values: `[E]`, with `q` and `v`: v where an episode was truncated, 0 where it is terminal; else 0.
        least: the least effective sample size.

    Raises:
        InputError: ratios that are not finite, or an effective sample size below `least`.
    """
    rewards, log_ratios = np.asarray(rewards, np.float64), np.asarray(log_ratios, np.float64)
    starts = np.asarray(episode_starts)
    if not np.isfinite(log_ratios).all():
        raise InputError("importance sampling needs finite log probabilities of all actions, of policy and data")
    size = effective_sample_size(log_ratios, starts)
    if size < least:
        raise InputError(
            f"importance sampling has an effective sample size of {size:.3g} of {len(starts):,} episodes, below "
            f"{least:g}: the policy is too far from the one that collected the data, or episodes are too long"
        )
    lengths = np.diff(np.append(starts, len(rewards)))
    steps = np.arange(len(rewards)) - np.repeat(starts, lengths)
    products, last = (np.exp(logs) for logs in _log_products(log_ratios, starts))
    before = np.ones_like(products)  # w(t - 1)
    before[steps > 0] = products[np.flatnonzero(steps > 0) - 1]
    if weighted:
        over = np.cumsum(np.bincount(lengths, last, minlength=lengths.max() + 1))[:-1]  # sums of those over by step t
        means = (np.bincount(steps, products) + over) / len(starts)
        products = products / means[steps]
        before = before / np.append(1.0, means)[steps]
        last = last / means[-1] if end_values is None else last / means[lengths - 1]
    contributions = products * rewards
    if q is not None:
        contributions = contributions - products * np.asarray(q) + before * np.asarray(v)
    total = (discount**steps * contributions).sum()
    if end_values is not None:
        total += (discount**lengths * last * np.asarray(end_values)).sum()
    return Estimate(float(total / len(starts)), size)


def _log_products(log_ratios: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sum up the log ratios from each episode's start to each step `[N]`, and to its end `[E]`."""
    sums = np.append(0.0, np.cumsum(log_ratios))
    lengths = np.diff(np.append(starts, len(log_ratios)))
    products = sums[1:] - np.repeat(sums[starts], lengths)
    return products, products[np.append(starts[1:], len(log_ratios)) - 1]
