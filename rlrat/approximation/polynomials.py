"""Find the best polynomial and splines of well placed knots, and say how fast polynomials can converge at all.

Where a function is analytic inside an ellipse with foci at the ends of the interval, but in no larger one, its best
polynomial of degree n has an error of about rho^-n, rho being the sum of the ellipse's half axes over that of the foci
(Bernstein, 1912): the nearest singularity sets the pace, and each digit costs log(10) / log(rho) coefficients.
"""

import cmath
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.interpolate import BSpline
    from scipy.sparse import csr_array

Values = Callable[[np.ndarray], np.ndarray]
_ROUNDS = 40
_LEVELLED = 1e-4  # the relative difference of the largest error and the level of the reference at the end
_LEAST = 1e-14  # of the largest |f|: below it float64 has no more to say


def best_polynomial(
    function: Values, degree: int, interval: tuple[float, float] = (-1.0, 1.0)
) -> tuple[np.polynomial.Chebyshev, float]:
    """Find the polynomial with the least max |p - f| on an interval, in float64, by exchanges (Remez, 1934).

    Args:
        function: maps a float64 array element by element; continuous on the interval.
        degree: of the polynomial, at least 0.
        interval: (low, high).

    Returns:
        the polynomial and its largest error on many points; rounding keeps that above about 1e-14 max |f|.

    Raises:
        ValueError: a degree below 0, an interval without low < high, or a function that is not finite there.
    """
    low, high = _checked(interval)
    if degree < 0:
        raise ValueError(f"the degree of a polynomial must be at least 0, not {degree}")

    def f(t: np.ndarray) -> np.ndarray:
        return np.asarray(function((low + high) / 2 + (high - low) / 2 * t), dtype=np.float64)

    count = degree + 2
    dense = -np.cos(np.linspace(0.0, np.pi, 30 * count + 1))
    values = f(dense)
    if not np.isfinite(values).all():
        raise ValueError(f"the function is not finite everywhere on ({low:g}, {high:g})")
    reference = -np.cos(np.linspace(0.0, np.pi, count + 1))[:count]  # a symmetric one is none for even functions
    best, least = np.zeros(degree + 1), np.inf
    for _ in range(_ROUNDS):
        rows = np.polynomial.chebyshev.chebvander(reference, degree)
        *found, level = np.linalg.solve(np.hstack([rows, (-1.0) ** np.arange(count)[:, None]]), f(reference))
        peaks = _peaks(dense, values - np.polynomial.chebyshev.chebval(dense, found))
        errors = f(peaks) - np.polynomial.chebyshev.chebval(peaks, found)
        largest = np.abs(errors).max()
        if largest < least:
            best, least = np.array(found), float(largest)
        if len(peaks) < count or largest <= max(abs(level) * (1 + _LEVELLED), _LEAST * np.abs(values).max()):
            break
        while len(peaks) > count:
            keep = slice(1, None) if abs(errors[0]) < abs(errors[-1]) else slice(-1)
            peaks, errors = peaks[keep], errors[keep]
        reference = peaks
    return np.polynomial.Chebyshev(best, domain=[low, high]), least


def _checked(interval: tuple[float, float]) -> tuple[float, float]:
    low, high = interval
    if not (low < high and math.isfinite(high - low)):
        raise ValueError(f"an interval must be finite and low < high, not ({low:g}, {high:g})")
    return low, high


def _peaks(points: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Find the largest error of each run of one sign, between the points by a parabola."""
    starts = np.append(0, np.flatnonzero(np.diff(errors > 0)) + 1)
    ends = np.append(starts[1:], len(errors))
    at = np.array([start + np.argmax(np.abs(errors[start:end])) for start, end in zip(starts, ends, strict=True)])
    inner = np.clip(at, 1, len(errors) - 2)
    left, right = points[inner] - points[inner - 1], points[inner + 1] - points[inner]
    up, down = (errors[inner] - errors[inner - 1]) * right, (errors[inner] - errors[inner + 1]) * left
    with np.errstate(divide="ignore", invalid="ignore"):
        top = points[inner] + (up * right - down * left) / (2 * (up + down))
    is_between = (at == inner) & (top > points[inner - 1]) & (top < points[inner + 1])
    return np.where(is_between, top, points[at])


# ---- the pace of polynomials


def bernstein_rho(singularity: complex, interval: tuple[float, float] = (-1.0, 1.0)) -> float:
    """Return rho of the ellipse through a singularity, with foci at the ends of an interval.

    The errors of best polynomials of degree n fall like rho^-n.

    Args:
        singularity: the nearest point at which the function has no analytic continuation.
        interval: (low, high).

    Raises:
        ValueError: an interval without low < high, or a singularity on it, where no error falls geometrically.
    """
    low, high = _checked(interval)
    z = (2 * complex(singularity) - low - high) / (high - low)
    size = abs(z + cmath.sqrt(z - 1) * cmath.sqrt(z + 1))
    if size <= 1 + 1e-12:
        raise ValueError(f"the singularity {singularity} lies on the interval ({low:g}, {high:g})")
    return size


# ---- splines


def place_knots(
    function: Values, pieces: int, interval: tuple[float, float], degree: int = 1, *, relative: bool = False
) -> np.ndarray:
    """Place the ends of `pieces` pieces where a spline of a degree needs them, which is best as their number grows.

    Each piece has as much of |f^(k)|^(1/k), k = degree + 1, as any other (de Boor, 1973); with `relative`, where errors
    are to be relative to f, of |f^(k) / f|^(1/k).

    Raises:
        ValueError: no piece, or an interval without low < high.
    """
    low, high = _checked(interval)
    if pieces < 1:
        raise ValueError(f"a spline must have at least 1 piece, not {pieces}")
    order = degree + 1
    x = np.linspace(low, high, 8001)
    at = (x[:-order] + x[order:]) / 2
    derivative = np.abs(np.diff(function(x), order)) / np.abs(function(at) if relative else 1.0)
    density = derivative ** (1 / order)
    density += 1e-3 * density.mean() + 1e-300  # no piece is without end
    edges = np.concatenate([[low], (at[:-1] + at[1:]) / 2, [high]])
    total = np.append(0.0, np.cumsum(density * np.diff(edges)))
    return np.interp(np.linspace(0.0, total[-1], pieces + 1), total, edges)


def best_spline(function: Values, knots: np.ndarray, degree: int = 3) -> tuple["BSpline", float]:
    """Find the spline with the least largest error on many points, of all with these knots, by a linear program.

    Args:
        function: maps a float64 array element by element.
        knots: the ends of the pieces, ascending, low and high among them.
        degree: of the pieces, with as many continuous derivatives less one.

    Returns:
        the spline and its largest error.
    """
    from scipy.interpolate import BSpline

    whole = np.concatenate([[knots[0]] * degree, knots, [knots[-1]] * degree])
    x = points_between(knots)
    coefficients = minimax(BSpline.design_matrix(x, whole, degree), function(x))
    spline = BSpline(whole, coefficients, degree)
    x = np.unique(knots[:-1, None] + np.diff(knots)[:, None] * np.linspace(0.0, 1.0, 60))
    return spline, float(np.abs(spline(x) - function(x)).max())


def points_between(knots: np.ndarray) -> np.ndarray:
    """Return the knots and 15 points of each piece, which crowd towards its ends."""
    inside = (1 - np.cos(np.linspace(0.0, np.pi, 17))) / 2
    return np.unique(knots[:-1, None] + np.diff(knots)[:, None] * inside)


def minimax(columns: "csr_array | np.ndarray", values: np.ndarray) -> np.ndarray:
    """Find the coefficients [M] with the least max |columns @ coefficients - values|, by a linear program.

    Args:
        columns: basis functions at points, [N, M], dense or sparse.
        values: what to approximate at these points, [N].
    """
    from scipy.optimize import linprog
    from scipy.sparse import csr_array, hstack, vstack

    columns = csr_array(columns)
    coefficients = np.linalg.lstsq(columns.toarray(), values, rcond=None)[0]
    ones = np.ones((len(values), 1))
    rows = vstack([hstack([columns, -ones]), hstack([-columns, -ones])])
    for _ in range(2):  # the second time relative to what the first has left
        rest = values - columns @ coefficients
        size = np.abs(rest).max()
        if size <= _LEAST * np.abs(values).max():
            break
        found = linprog(
            np.append(np.zeros(columns.shape[1]), 1.0),
            A_ub=rows,
            b_ub=np.concatenate([rest, -rest]) / size,
            bounds=[(None, None)] * columns.shape[1] + [(0.0, None)],
            method="highs",
        )
        if found.x is None:
            break
        coefficients = coefficients + size * found.x[:-1]
    return coefficients
