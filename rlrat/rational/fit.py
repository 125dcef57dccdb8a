"""Fit a rational to an elementwise function: the best uniform approximation, in float32, with a certificate."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise
from numbers import Real

import numpy as np
import torch

from .certificates import certify, evaluate, evaluate_denominator
from .exact import Exact, define
from .minimax import LARGEST_VALUE, Best, Problem, best, coefficients, tail_error
from .reference import VERSIONS
from .remez import SMALL, polish
from .table import FUNCTIONS, INTERVAL, Fit, Function, sample

TAILS = {"bounded": 1e-5, "free": 0.0}
"""The weights of the tails that have a name."""
_MOST_DEGREES = 14
_MOST_KINKS = 20
_NARROWEST = 2.0**-20  # of its larger end, an interval: float32 has few points of less
_WIDEST = 1e9


def fit(
    function: str | Function,
    degrees: tuple[int, int] = (5, 4),
    version: str = "A",
    interval: tuple[float, float] = INTERVAL,
    tail: str | float = "bounded",
    *,
    kinks: Sequence[float] = (),
    derivative_bound: float | None = None,
    error: float | None = None,
) -> Fit:
    """Find the best uniform approximation of a function by a rational on an interval.

    R has the least max |R - f| that is possible for versions A and N (Cheney and Loeb, 1961; Barrodale, Powell and
    Roberts, 1972; small errors: Remez, 1934), and for B and C the least that a search over patterns of signs finds. The
    certificate's lower bound is de la Vallee-Poussin's. Networks start from such R in Boulle et al. (2020).

    Version N has no pole on the real line: an odd n falls back to n - 1. The coefficients are float32: up to degrees
    (9, 8) rounding adds about 1% and 2^-23 max(1, |f|) to the error, at higher ones it may add more. The certificate is
    that of the rounded coefficients.

    Args:
        function: a name (`rlrat.rational.FUNCTIONS`), or an elementwise PyTorch function or module, which is
            given float64.
        degrees: (m, n), of P and Q, each from 0 to 14.
        version: the form of Q, "A", "B", "C" or "N".
        interval: where the error counts in full, low < high, neither beyond 1e9.
        tail: "free" leaves R alone outside the interval; "bounded" lets it follow f up to |x| = 1000 as well as it can:
            errors there count 1e-5 / max(|x|, |f|) times, or more, until none is much above max(|x|, |f|); or another
            weight than that.
        kinks: where a function of the user's has no derivative; others are found by themselves, as a rule.
        derivative_bound: the largest |f'(x)| on the interval between the kinks, which certifies a function of the
            user's: its values in float64 are taken to be exact.
        error: the largest error that is wanted.

    Raises:
        ValueError: a function that is unknown, not elementwise, or on the interval not finite or discontinuous;
            degrees, a version, an interval, a tail, kinks or a derivative bound that cannot be; degrees that do not
            reach `error`.
    """
    interval = _checked(degrees, version, interval)
    weight = _weight(tail)
    if not isinstance(kinks, Sequence) or not all(isinstance(x, Real) and math.isfinite(x) for x in kinks):
        raise ValueError(f"the kinks of a function must be finite numbers, not {kinks!r}")
    if error is not None and not (isinstance(error, Real) and error > 0):
        raise ValueError(f"the error that is wanted of a fit must be above 0, not {error!r}")
    if isinstance(function, str) and function not in FUNCTIONS:
        raise ValueError(f"there is no function {function!r} to approximate, only {', '.join(FUNCTIONS)}")
    exact = define(function)
    values = _values(FUNCTIONS[function] if isinstance(function, str) else function)
    _check_continuous(values, interval)
    if derivative_bound is not None:
        _check_slope(values, interval, derivative_bound)
    if exact is not None:
        kinks = exact.kinks
    elif not kinks:
        kinks = _find_kinks(values, interval)
    problem = Problem(values, tuple(degrees), version, interval, tuple(map(float, kinks)), weight)
    found = find_best(problem, exact)
    for _ in range(3):
        if tail == "bounded" and tail_error(found) > 1.25 and found.error / problem.weight > 1.25:
            more = replace(problem, weight=found.error)
            again = find_best(more, exact)
            if not again.numerator.any():  # f is of too many orders of magnitude for such a weight
                break
            problem, found = more, again
    a, b = _rounded(problem, found)
    for least in (1e-5, 1e-3):  # a Q that is nearly 0 somewhere outside may be so after rounding
        if version == "N" and _has_pole(b):
            found = best(replace(problem, least=least))
            a, b = _rounded(problem, found)
    certificate = certify(found, a, b, version, exact, derivative_bound)
    if error is not None and certificate.upper > error:
        raise ValueError(_too_few(replace(problem, weight=weight), error, certificate.upper))
    ends = evaluate(np.array([-100.0, -10.0, 10.0, 100.0]), np.array(a), np.array(b), version)
    ends = tuple(float(f"{value:.6g}") for value in ends)
    return Fit(tuple(a), tuple(b), version, interval, certificate.upper, ends, certificate)


def find_best(problem: Problem, exact: Exact | None) -> Best:
    """Find the best R before rounding: f itself where it is a polynomial, else by `best`, in more digits if need be."""
    return _polynomial(problem) or _polished(best(problem), exact)


# ---- what is asked


def _checked(degrees: tuple[int, int], version: str, interval: tuple[float, float]) -> tuple[float, float]:
    if version not in VERSIONS:
        raise ValueError(f"there is no version {version!r} of a rational, only {', '.join(VERSIONS)}")
    if (
        not isinstance(degrees, Sequence)
        or len(degrees) != 2
        or not all(isinstance(one, int) and 0 <= one <= _MOST_DEGREES for one in degrees)
    ):
        raise ValueError(f"degrees of a fit must be two integers from 0 to {_MOST_DEGREES}, not {degrees!r}")
    try:
        low, high = map(float, interval)
    except (TypeError, ValueError):
        raise ValueError(f"the interval of a fit must be two numbers, low < high, not {interval!r}") from None
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"the interval of a fit must be finite and low < high, not {(low, high)}")
    reach = max(abs(low), abs(high))
    if not 1 / _WIDEST <= reach <= _WIDEST or high - low < _NARROWEST * reach:
        raise ValueError(
            f"the larger end of the interval of a fit must be from {1 / _WIDEST:g} to {_WIDEST:g}, and its width at "
            f"least 2^-20 of that, not {(low, high)}"
        )
    return low, high


def _weight(tail: str | float) -> float:
    if isinstance(tail, str) and tail in TAILS:
        return TAILS[tail]
    if not isinstance(tail, (int, float)) or not 0 <= tail < math.inf:
        raise ValueError(f"the tail of a fit must be {', '.join(TAILS)} or a weight >= 0, not {tail!r}")
    return float(tail)


def _values(function: Function) -> Callable[[np.ndarray], np.ndarray]:
    return lambda x: sample(function, torch.from_numpy(np.array(x, dtype=np.float64))).numpy()


def _check_continuous(values: Callable[[np.ndarray], np.ndarray], interval: tuple[float, float]) -> None:
    """Raise ValueError where f is not finite, jumps or has a pole: between samples, by halving what differs most."""
    low, high = interval
    x = np.linspace(low, high, 2001)
    f = values(x)
    if not np.isfinite(f).all():
        bad = x[~np.isfinite(f)][0]
        raise ValueError(
            f"the function to fit is not finite everywhere on [{low:g}, {high:g}]: {values(np.array([bad]))[0]:g} at "
            f"{bad:.6g}"
        )
    i = int(np.argmax(np.abs(f)))
    if abs(f[i]) > LARGEST_VALUE:
        raise ValueError(f"the function to fit is {f[i]:g} at {x[i]:.6g}, above {LARGEST_VALUE:g}: scale it")
    left, right = x[max(i - 1, 0)], x[min(i + 1, len(x) - 1)]
    for _ in range(20):
        part = np.linspace(left, right, 9)
        j = int(np.argmax(np.abs(values(part))))
        left, right = part[max(j - 1, 0)], part[min(j + 1, 8)]
    if not np.abs(values(part)).max() < 1e3 * max(np.abs(f[i]), 1e-300):
        raise ValueError(f"the function to fit has a pole at {part[j]:.6g}, inside [{low:g}, {high:g}]")
    steps = np.argsort(np.abs(np.diff(f)))[-5:]
    left, right = x[steps], x[steps + 1]
    first = np.abs(f[steps + 1] - f[steps])
    for _ in range(40):
        middle = (left + right) / 2
        at = [values(points) for points in (left, middle, right)]
        if not np.isfinite(at).all():
            break
        is_left = np.abs(at[1] - at[0]) > np.abs(at[2] - at[1])
        left, right = np.where(is_left, left, middle), np.where(is_left, middle, right)
    last = np.abs(values(right) - values(left))
    size = np.abs(f).max()
    for place, before, after in zip(middle, first, last, strict=True):
        if not after < 1e3 * max(size, 1e-300):
            raise ValueError(f"the function to fit has a pole at {place:.6g}, inside [{low:g}, {high:g}]")
        if after > 0.1 * before > 1e-9 * size:
            raise ValueError(
                f"the function to fit jumps at {place:.6g}, inside [{low:g}, {high:g}]: it must be continuous"
            )


def _check_slope(values: Callable[[np.ndarray], np.ndarray], interval: tuple[float, float], bound: float) -> None:
    """Raise ValueError where a bound of |f'| is none: f is steeper between samples."""
    x = np.linspace(*interval, 2001)
    f = values(x)
    steepest = float(np.abs(np.diff(f)).max() / (x[1] - x[0]))
    rounding = 2.0**-50 * np.abs(f).max() / (x[1] - x[0])
    if not isinstance(bound, Real) or not 0 <= bound < math.inf or steepest > bound * (1 + 1e-9) + rounding:
        raise ValueError(
            f"derivative_bound must be finite and at least the largest |f'|, which is {steepest:.6g} or more, not "
            f"{bound!r}"
        )


def _find_kinks(values: Callable[[np.ndarray], np.ndarray], interval: tuple[float, float]) -> tuple[float, ...]:
    """Find where the slope jumps: where second differences stay large, relative to the step, as the step shrinks."""
    low, high = interval
    x = np.linspace(low, high, 2001)
    bend = np.abs(np.diff(values(x), 2))
    usual = np.median(bend) + 1e-12 * np.abs(values(x)).max()
    found = []
    for i in np.flatnonzero(bend > 20 * usual)[:50]:
        left, right = x[i], x[i + 2]
        first = bend[i] / (x[1] - x[0])
        for _ in range(10):  # to 1e-8 of the interval; rounding would bend what is closer
            part = np.linspace(left, right, 9)
            j = int(np.argmax(np.abs(np.diff(values(part), 2))))
            left, right = part[j], part[j + 2]
        part = np.linspace(left, right, 3)
        jump = np.abs(np.diff(values(part), 2))[0] / (part[1] - part[0])
        if jump > max(0.3 * first, 1e-5 * np.ptp(values(x)) / (high - low)):
            found.append(float(f"{part[1]:.12g}"))
    if len(found) > _MOST_KINKS:  # a function that is steep, not bent
        return ()
    apart = sorted(set(found))
    return tuple(one for i, one in enumerate(apart) if i == 0 or one - apart[i - 1] > 1e-6 * (high - low))


def _polished(found: Best, exact: Exact | None) -> Best:
    """Return the best R in more digits where its error is below the rounding of float64 and the version allows it."""
    problem = found.problem
    low, high = problem.interval
    size = np.abs(problem.function(np.linspace(low, high, 101))).max()
    if exact is None or problem.weight or found.error > SMALL * size or any(low < x < high for x in exact.kinks):
        return found
    again = polish(problem, exact)
    if again is None or again.error > found.error:
        return found
    if problem.version != "N":  # of these Q = 1 + sum b_i x^i is one if it is even and b >= 0
        q = again.denominator
        if problem.frame != again.problem.frame or np.abs(q[1::2]).max(initial=0) > 1e-12 or q.min() < 0:
            return found
        again = replace(again, denominator=np.where(np.arange(len(q)) % 2, Fraction(0), q))
    return again


def _has_pole(denominator: Sequence[float]) -> bool:
    """Say whether a Q of version N is zero anywhere on the real line, by Sturm's theorem on its exact coefficients."""
    chain = [_trimmed([Fraction(1), *map(Fraction, denominator)])]
    chain.append(_trimmed([i * c for i, c in enumerate(chain[0])][1:]))
    while chain[-1]:
        rest = list(chain[-2])
        while len(rest) >= len(chain[-1]):
            factor, shift = rest[-1] / chain[-1][-1], len(rest) - len(chain[-1])
            rest = [c - (factor * chain[-1][i - shift] if i >= shift else 0) for i, c in enumerate(rest)][:-1]
        chain.append(_trimmed([-c for c in rest]))
    ends = [[row[-1] > 0 for row in chain[:-1]], [(row[-1] > 0) ^ (len(row) % 2 == 0) for row in chain[:-1]]]
    right, left = (sum(one != two for one, two in pairwise(signs)) for signs in ends)
    return left != right


def _trimmed(polynomial: list[Fraction]) -> list[Fraction]:
    while polynomial and polynomial[-1] == 0:
        polynomial = polynomial[:-1]
    return polynomial


def _too_few(problem: Problem, error: float, reached: float) -> str:
    m, n = problem.degrees
    more = ((m + k, n + k) for k in range(1, _MOST_DEGREES + 1 - max(m, n)))
    enough = next((degrees for degrees in more if best(replace(problem, degrees=degrees)).error <= error), None)
    hint = f"{enough} would do" if enough else "nor do any up to 14"
    return (
        f"degrees {problem.degrees} of version {problem.version} reach an error of {reached:.3g}, not {error:g}; {hint}"
    )


def _polynomial(problem: Problem) -> Best | None:
    """Return f itself if it is a polynomial of P's degree: another Q would only add rounding errors."""
    x = problem.points(40, 0, 24)
    f, basis = problem.function(x), problem.numerator_basis(x)
    p = np.linalg.lstsq(basis / np.abs(basis).max(0), f, rcond=None)[0] / np.abs(basis).max(0)
    p[np.abs(p) < 1e-12 * np.abs(p).max()] = 0.0
    with np.errstate(over="ignore"):
        single = p.astype(np.float32).astype(float)
    p = np.where(np.abs(single - p) < 1e-12 * np.abs(p), single, p)
    if np.abs(basis @ p - f).max() > 1e-14 * np.abs(f).max():
        return None
    return Best(problem, p, np.append(1.0, np.zeros(problem.n)), 0.0, 0.0)


# ---- rounding


def _rounded(problem: Problem, found: Best) -> tuple[list[float], list[float]]:
    """Round the coefficients to float32.

    Where that alone costs more than 1% and 2^-23 max(1, |f|), those of P are rounded one by one, each before the others
    are fitted again.
    """
    a, b = ([_single(c) for c in row] for row in coefficients(found, problem.version))
    if not np.isfinite([*a, *b]).all():
        raise ValueError(
            f"the coefficients of a fit on {problem.interval} are beyond float32: choose smaller degrees, or scale x, f"
        )
    x = problem.points(900, 400, 300)
    f = problem.function(x)
    scale = problem.scale(x, f)
    inside = scale == 1
    allowed = 1.01 * found.error + 2.0**-23 * max(1.0, np.abs(f[inside]).max())

    def cost(a: list[float]) -> float:
        return np.abs((evaluate(x, np.array(a), np.array(b), problem.version) - f) / scale).max()

    first = cost(a)
    if first <= allowed:
        return a, b
    columns = x[:, None] ** np.arange(len(a)) / (evaluate_denominator(x, np.array(b), problem.version) * scale)[:, None]
    again, left = list(a), list(range(len(a)))
    for k in sorted(left, key=lambda k: -np.abs(columns[:, k]).max() * 2.0 ** np.floor(np.log2(abs(a[k]) or 1e-300))):
        done = [i for i in range(len(a)) if i not in left]
        target = f / scale - columns[:, done] @ np.array([again[i] for i in done])
        fitted = dict(zip(left, _linear(columns[:, left], target), strict=True))
        again[k] = _single(fitted[k])
        left.remove(k)
    return (again, b) if cost(again) < first else (a, b)


def _single(value: float | Fraction) -> float:
    """Round to float32."""
    with np.errstate(over="ignore"):
        return float(np.float32(float(value)))


def _linear(columns: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Find the coefficients that make max |columns c - target| least (Barrodale and Phillips, 1975)."""
    from scipy.optimize import linprog

    basis, triangle = np.linalg.qr(columns)
    basis = basis * np.sqrt(len(target))
    first = basis.T @ target / len(target)
    rest = target - basis @ first
    size = np.abs(rest).max() or 1.0
    minus = -np.ones((len(target), 1))
    result = linprog(
        np.append(np.zeros(columns.shape[1]), 1.0),
        A_ub=np.vstack([np.hstack([basis, minus]), np.hstack([-basis, minus])]),
        b_ub=np.concatenate([rest, -rest]) / size,
        bounds=[(None, None)] * columns.shape[1] + [(0.0, None)],
        method="highs-ds",
    )
    if result.x is not None:
        first = first + size * result.x[:-1]
    return np.linalg.solve(triangle, first * np.sqrt(len(target)))
