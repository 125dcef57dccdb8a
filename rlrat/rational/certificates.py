"""Prove how large the error of a rational is, and how small any of its form can be, in ball arithmetic (python-flint).

Upper bounds hold between samples: on pieces of the interval R - f is a Taylor polynomial whose coefficients are balls,
plus a remainder; a piece is halved until the remainder is small. Lower bounds are of de la Vallee-Poussin's kind (1910;
for rationals Achieser, 1956): multipliers of the inequalities |f Q - P| <= E Q, whose sum no R of the form satisfies.
"""

import math
from collections.abc import Sequence
from contextlib import contextmanager
from fractions import Fraction
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from .exact import METHODS, Exact
from .minimax import Best, Problem, coefficients
from .table import Certificate, Fit

_TERMS = 16  # of a Taylor polynomial
_SAMPLES = np.linspace(-1.0, 1.0, 2049)
_CLOSE = 1e-5  # of the error: how far an upper bound may be above the largest sample
_MOST_CELLS = 200_000  # with a derivative bound
_NARROW = 1e-30  # of an interval: pieces in which S changes its sign, bounded as they are
_SLACKS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3)  # by which a lower bound is below the level of a fit

Coefficients = Sequence[float] | Sequence[Fraction]


@contextmanager
def _precision(bits: int) -> Any:
    from flint import ctx

    before = ctx.prec, ctx.cap
    ctx.prec, ctx.cap = bits, max(ctx.cap, _TERMS + 2)
    try:
        yield
    finally:
        ctx.prec, ctx.cap = before


def _ball(value: float | Fraction) -> Any:
    from flint import arb, fmpq

    value = Fraction(value)
    return arb(fmpq(value.numerator, value.denominator))


class _Error:
    """Evaluate R - f and Q in balls and power series of balls."""

    def __init__(self, numerator: Coefficients, denominator: Coefficients, version: str, exact: Exact) -> None:
        self.a = [_ball(c) for c in numerator]
        self.b = [_ball(abs(c) if version == "A" else c) for c in denominator]
        self.version, self.exact = version, exact
        self.constant = _ball(Fraction("0.1")) if version == "C" else _ball(1)

    def inner(self, step: Any, centre: Any, side: Fraction | float) -> Any:
        """Q - 1 of A and N, S of B and C, at centre + step; `side` is the sign of x there, for version A."""
        b = self.b if self.version != "A" or side > 0 else [c * (-1) ** i for i, c in enumerate(self.b, 1)]
        return _shifted(b if self.version == "C" else [0, *b], centre, step)

    def __call__(self, step: Any, centre: Any, middle: Fraction | float, sign: int | None) -> Any:
        """R - f at centre + step, a ball or a series; `sign` is that of S, None where it has none.

        `middle` says on which side of the kinks: exactly, as a float could be a kink itself.
        """
        inner = self.inner(step, centre, middle)
        below = self.constant + (abs(inner) if sign is None else sign * inner)
        return _shifted(self.a, centre, step) / below - self.exact.at(middle)(centre + step, METHODS)


def _shifted(polynomial: list[Any], centre: Any, step: Any) -> Any:
    """A polynomial at centre + step, from its Taylor polynomial: a ball as wide as `step` stays about as narrow."""
    from flint import arb_poly

    result = 0 * step
    for c in reversed(arb_poly(polynomial)(arb_poly([centre, 1])).coeffs()):
        result = result * step + c
    return result


def upper_bound(
    numerator: Coefficients,
    denominator: Coefficients,
    version: str,
    exact: Exact,
    interval: tuple[float, float],
    sampled: float,
    *,
    bits: int = 128,
) -> float:
    """Bound |R - f| on an interval from above; infinite if R has a pole there.

    `sampled`, the largest error of samples, says how close the bound has to be: within 1e-5 of it where that is
    possible.
    """
    with _precision(bits):
        error = _Error(numerator, denominator, version, exact)
        inside = sorted({x for x in (*exact.kinks, 0.0) if interval[0] < x < interval[1]})
        waiting = [*pairwise([interval[0], *inside, interval[1]])]
        narrow = _NARROW * (interval[1] - interval[0])
        most, target, largest, count = 20_000, max(sampled, 2.0 ** (30 - bits)), 0.0, 0
        waiting = [(Fraction(low), Fraction(high)) for low, high in waiting]
        while waiting:
            low, high = waiting.pop()
            count += 1
            bound = _on_piece(error, low, high, target, high - low < narrow) if count < most else math.inf
            if bound is None:
                waiting += [(low, (low + high) / 2), ((low + high) / 2, high)]
                continue
            if bound == math.inf:
                return bound
            largest = max(largest, bound)
            target = max(target, largest)
        return largest


def _on_piece(error: _Error, low: Fraction, high: Fraction, target: float, is_narrow: bool) -> float | None:
    """Bound |R - f| on a piece, or return None if it must be halved."""
    from flint import arb, arb_series

    middle, half = (low + high) / 2, (high - low) / 2
    centre, radius = _ball(middle), _ball(half)
    box = arb(0, radius)
    sign = 1
    if error.version in "BC" and any(c != 0 for c in error.b):
        inner = error.inner(box, centre, middle)
        sign = 1 if inner > 0 else -1 if inner < 0 else None
        if sign is None:
            if not is_narrow:
                return None
            bound = abs(error(box, centre, middle, None))
            return _up(bound.upper()) if bound.is_finite() else math.inf
    try:
        rest = error(arb_series([box, 1], _TERMS + 1), centre, middle, sign)[_TERMS] * radius**_TERMS
    except ValueError:  # Q may be 0
        return math.inf if is_narrow else None
    rest = abs(rest).upper()
    if not rest.is_finite() or not rest < _CLOSE / 4 * target:
        return math.inf if is_narrow else None
    terms = error(arb_series([0, 1], _TERMS), centre, middle, sign)
    scaled = [terms[k] * radius**k / _ball(target) for k in range(_TERMS)]
    middles = np.array([float(c.mid()) for c in scaled])
    blur = sum(_up(c.rad()) for c in scaled) + _up(rest) / target * (1 + 1e-15)
    orders = np.arange(_TERMS)
    step = _SAMPLES[1] - _SAMPLES[0]
    between = step**2 / 8 * np.sum(orders * (orders - 1) * np.abs(middles))
    rounding = 8 * _TERMS * 2.0**-52 * np.abs(middles).sum()
    bound = np.abs(np.polynomial.polynomial.polyval(_SAMPLES, middles)).max() + between + rounding + blur
    if not between + blur <= _CLOSE * max(1.0, bound):
        return math.inf if is_narrow else None
    return _up(float(bound) * target * (1 + 1e-15))


def _up(value: Any) -> float:
    return math.nextafter(float(value), math.inf) if value > 0 else 0.0


def lower_bound(best: Best, exact: Exact, *, bits: int = 300) -> float | None:
    """Prove that no R of this form has a smaller error, by the multipliers of a fit; return None if that fails.

    It is a bound of the larger one of the error on the interval and of the weighted error of the tail, if that counts.
    Version A: any b >= 0. Version N: any Q without a pole on the real line. Versions B and C have none: the multipliers
    prove a bound for one pattern of signs only.
    """
    if best.numerator.dtype == object:
        return _by_alternation(best, exact, bits)
    if best.problem.version not in "AN" or len(best.points) == 0:
        return None
    with _precision(bits):
        for slack in _SLACKS:
            level = best.level * (1 - slack)
            if _is_proved(best, exact, level, slack):
                return math.nextafter(level, 0.0)
    return None


def _by_alternation(best: Best, exact: Exact, bits: int) -> float | None:
    """Prove it by the errors of an R of version N that alternate in sign (de la Vallee-Poussin)."""
    with _precision(bits):
        p, q = coefficients(best, "N")
        error = _Error(p, q, "N", exact)
        errors = [error(_ball(0), _ball(x), x, 1) for x in best.points.tolist()]
        if not all((a > 0 and b < 0) or (a < 0 and b > 0) for a, b in pairwise(errors)):
            return None
        return math.nextafter(min(float(abs(e).lower()) for e in errors), 0.0)


def _is_proved(best: Best, exact: Exact, level: float, slack: float) -> bool:
    """Say whether the sum of weight (s (f Q - P) - level scale Q) is >= 0 for all P and all Q of the form.

    Where R has errors below `level`, each term is negative. So the coefficients of P must cancel, and those of Q be a
    sum, with weights >= 0, of what is not negative of Q. Both must hold exactly: some of the weights are solved for.
    """
    from flint import arb_mat

    problem = best.problem
    x, weights = best.points, np.abs(best.weights)
    sign = [int(s) for s in np.sign(best.weights)]
    centre, half = map(_ball, problem.frame)
    z = [(_ball(value) - centre) / half for value in x.tolist()]
    f = [exact.at(value)(_ball(value), METHODS) for value in x.tolist()]
    low, high = problem.interval
    scale = [
        _ball(1) if low <= value <= high else abs(_ball(value)).max(abs(y)) / _ball(problem.weight)
        for value, y in zip(x.tolist(), f, strict=True)
    ]
    m, n = problem.degrees[0], problem.n
    terms = [s * y - _ball(level) * t for s, y, t in zip(sign, f, scale, strict=True)]
    bases = [abs(at) if problem.version == "A" else at for at in z]
    above = [[s * at**k for k in range(m + 1)] for s, at in zip(sign, z, strict=True)]
    below = [[term * at**k for k in range(n + 1)] for term, at in zip(terms, bases, strict=True)]
    nothing = [_ball(0)] * (m + 1)
    columns = [[*p, *q] for p, q in zip(above, below, strict=True)]
    columns += [[*nothing, *(-c for c in row)] for row in _cone(best)]
    columns += [[*nothing, *(-(at**k) for k in range(n + 1))] for at in bases]  # Q >= 0 at the points themselves
    own = slack * weights * np.array([float(t) for t in scale])
    size = np.concatenate([weights, best.poles, own * best.level])
    used = np.flatnonzero(size > 0)
    columns, size = [columns[i] for i in used], size[used]
    count = len(columns[0])
    if len(columns) <= count:
        return False
    from scipy.linalg import qr

    matrix = np.array([[float(c) for c in column] for column in columns]).T * size
    rows = np.abs(matrix).max(1, keepdims=True)
    order = qr(matrix / np.where(rows > 0, rows, 1.0), pivoting=True, mode="r")[-1]
    solved, fixed = sorted(order[:count]), sorted(order[count:])
    weight = [_ball(value) for value in size.tolist()]
    square = arb_mat([[columns[i][row] * weight[i] for i in solved] for row in range(count)])
    right = arb_mat([[-sum((columns[i][row] * weight[i] for i in fixed), _ball(0))] for row in range(count)])
    try:
        found = square.solve(right)
    except ZeroDivisionError:
        return False
    return all(found[i, 0] > 0 for i in range(count))


def _cone(best: Best) -> list[list[Any]]:
    """Return what is not negative of the coefficients of Q: each of them in version A, values of Q in version N."""
    n = best.problem.n
    units = [[_ball(int(i == k)) for k in range(n + 1)] for i in range(n + 1)]
    if best.problem.version == "A" or n == 0:
        return units
    rows = best.problem.cone()[0][:-1].tolist()
    values = [[_ball(row[0]) * _ball(row[1] / row[0]) ** k for k in range(n + 1)] for row in rows]
    return values + units[-1:]  # the last is Q at infinity


def certify(
    found: Best,
    numerator: Sequence[float],
    denominator: Sequence[float],
    version: str,
    exact: Exact | None,
    derivative_bound: float | None = None,
) -> Certificate:
    """Certify a fit with these coefficients, of which `found` is the best before rounding.

    It is only sampled without a definition or a derivative bound of f, or where python-flint is not installed.
    """
    problem = found.problem
    x = np.union1d(problem.points(2000, 400, 2), found.points)
    x = x[(x >= problem.interval[0]) & (x <= problem.interval[1])]
    a, b = np.array(numerator), np.array(denominator)
    with np.errstate(divide="ignore", invalid="ignore"):
        sampled = float(np.abs(evaluate(x, a, b, version) - problem.function(x)).max())
    if exact is not None and find_spec("flint"):
        upper = upper_bound(numerator, denominator, version, exact, problem.interval, sampled)
        lower = lower_bound(found, exact)
        return Certificate(upper, lower, upper / lower if lower else None, "certified", problem.interval)
    if derivative_bound is not None:
        upper = _lipschitz_bound(problem, a, b, version, derivative_bound, sampled)
        return Certificate(upper, None, None, "certified", problem.interval)
    return Certificate(sampled, None, None, "sampled", problem.interval)


def _lipschitz_bound(
    problem: Problem, a: np.ndarray, b: np.ndarray, version: str, derivative_bound: float, sampled: float
) -> float:
    """Bound |R - f| between samples by the largest slopes of both, halving cells until 1% above the samples."""
    from .analysis import largest_slope

    slope = largest_slope(torch.from_numpy(a)[None], torch.from_numpy(b)[None], version, problem.interval).item()
    slope = slope * (1 + 1e-6) + derivative_bound

    def error(x: np.ndarray) -> np.ndarray:
        return np.abs(evaluate(x, a, b, version) - problem.function(x))

    edges = np.linspace(*problem.interval, 2001)
    left, right, at_left, at_right = edges[:-1], edges[1:], error(edges)[:-1], error(edges)[1:]
    while True:
        bound = (at_left + at_right + slope * (right - left)) / 2
        wide = bound > 1.01 * sampled
        if not wide.any() or wide.sum() > _MOST_CELLS:
            return float(max(bound.max(), 1.01 * sampled))
        left, right, at_left, at_right = left[wide], right[wide], at_left[wide], at_right[wide]
        middle = (left + right) / 2
        at_middle = error(middle)
        left, right = np.append(left, middle), np.append(middle, right)
        at_left, at_right = np.append(at_left, at_middle), np.append(at_middle, at_right)


def evaluation_bound(fit: Fit, x: np.ndarray, bits: int = 24) -> np.ndarray:
    """Bound what rounding adds to the error of a fit at the points x, where R is computed in float32 (24 bits).

    Let u = 2^-bits and gamma_k = k u / (1 - k u). By Horner's rule a polynomial c of degree k is wrong by at most
    gamma_2k sum |c_i x^i| (Higham, Accuracy and Stability of Numerical Algorithms, 2002, 5.1), with fused
    multiplication and addition, too. Q has two roundings more, the constant of versions B and C and its addition; the
    division has one:

        e_P = gamma_2m sum |a_i x^i|,  e_Q = gamma_(2n+2) (sum |b_i x^i| + constant),
        d = (e_P + |R| e_Q) / (Q - e_Q),  |computed R - R| <= d + u (|R| + d).

    It holds where nothing underflows, and is infinite where Q is no larger than e_Q.

    Args:
        fit: its coefficients are those of float32, its x `[points]` are numbers of that type.
    """
    unit = 2.0**-bits
    a, b = np.array(fit.numerator), np.array(fit.denominator)
    m, n = fit.degrees

    def terms(polynomial: np.ndarray) -> np.ndarray:
        return np.polynomial.polynomial.polyval(np.abs(x), np.abs(polynomial))

    def gamma(k: int) -> float:
        return k * unit / (1 - k * unit)

    below = evaluate_denominator(x, b, fit.version)
    above_error = gamma(2 * m) * terms(a)
    below_error = gamma(2 * n + 2) * (terms(b) + 0.1 if fit.version == "C" else terms(np.append(1.0, b)))
    with np.errstate(divide="ignore"):
        size = np.abs(evaluate(x, a, b, fit.version))
        quotient = (above_error + size * below_error) / np.abs(below - below_error)
    quotient = np.where(below > below_error, quotient, np.inf)
    return quotient + unit * (size + quotient)


def evaluate(x: np.ndarray, numerator: np.ndarray, denominator: np.ndarray, version: str) -> np.ndarray:
    """Compute R(x) for one set of coefficients, in float64."""
    return np.polynomial.polynomial.polyval(x, numerator) / evaluate_denominator(x, denominator, version)


def evaluate_denominator(x: np.ndarray, b: np.ndarray, version: str) -> np.ndarray:
    """Compute Q(x) for one set of coefficients, in float64."""
    polyval = np.polynomial.polynomial.polyval
    if version == "A":
        return polyval(np.abs(x), [1.0, *np.abs(b)])
    if version == "B":
        return 1.0 + np.abs(polyval(x, [0.0, *b]))
    if version == "C":
        return 0.1 + np.abs(polyval(x, b))
    return polyval(x, [1.0, *b])
