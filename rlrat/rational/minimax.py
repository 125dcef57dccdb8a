"""Find best uniform approximations by rationals on an interval: differential correction on a growing set of points.

The error of R = P / Q is at most E at x if |f(x) Q(x) - P(x)| <= E Q(x): for a fixed E, linear in the coefficients of
both. Differential correction (Cheney and Loeb, 1961; Barrodale, Powell and Roberts, 1972) lowers E step by step by
linear programs, from any start to the best R on a finite set of points. Points where the error is larger in between
join the set, as in Remez's second algorithm, until there are none.

What a version asks of Q is linear, too: coefficients >= 0 (A), no pole on the real line (N), and for B and C a sign of
S in Q = 1 + |S| that is given beforehand on each part of the interval (a pattern). So the best R of A, of N and of a
pattern is found whatever the start, and the multipliers of the last linear program prove it (certificates.py).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from itertools import pairwise
from math import comb

import numpy as np

OUTER_LIMIT = 1000.0
"""The largest |x| of a tail."""
LARGEST_VALUE = 1e30
"""Where |f| is larger, the programs would overflow."""
LARGEST = 1e8
"""The largest ratio of two coefficients of Q, in powers of x / max(|low|, |high|): some optima need an infinite one."""
_ROUNDING = 1e-13  # of max |f|: smaller errors are lost in float64
_LEAST = 1e-7  # of Q outside the interval in version N, over (1 + x^2)^(n/2) and the largest coefficient
_PROMISING = 1.5  # of the error so far: where a place of a grid is above it, no place near it is searched
_NOTHING = 1e-6  # of the error: coefficients of Q that change R by about less are what rounding leaves of 0 (version A)
_GEOMETRIC = 1e-8  # of a piece, the distance of the nearest point to a kink

Values = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Problem:
    """Say what to approximate, and by what: `function` maps float64 arrays, element by element.

    `changes` are the points where S changes its sign (versions B and C). `weight` is that of the tail: outside the
    interval an error counts weight / max(|x|, |f|) times, up to |x| = 1000; 0 leaves the tail free.
    """

    function: Values
    degrees: tuple[int, int]
    version: str
    interval: tuple[float, float]
    kinks: tuple[float, ...] = ()
    weight: float = 0.0
    changes: tuple[float, ...] = ()
    least: float = _LEAST
    places: tuple[float, ...] = ()  # in the powers' unit, where version N keeps Q positive, beside those of a grid

    @property
    def n(self) -> int:
        """The degree of Q: without a pole on the real line it is even."""
        return self.degrees[1] // 2 * 2 if self.version == "N" else self.degrees[1]

    @property
    def reach(self) -> float:
        return max(map(abs, self.interval))

    @property
    def breaks(self) -> tuple[float, ...]:
        low, high = self.interval
        corners = {0.0} if self.version in "AB" else set()
        return tuple(sorted({x for x in {*self.kinks, *self.changes, *corners} if low < x < high}))

    @property
    def frame(self) -> tuple[float, float]:
        """The centre and the half width of the powers: 0 and `reach`, but where 0 is outside the interval."""
        low, high = self.interval
        if self.version == "N" and not low <= 0 <= high:
            return (low + high) / 2, (high - low) / 2
        return 0.0, self.reach

    def numerator_basis(self, x: np.ndarray) -> np.ndarray:
        centre, half = self.frame
        return np.vander((x - centre) / half, self.degrees[0] + 1, increasing=True)

    def denominator_basis(self, x: np.ndarray) -> np.ndarray:
        centre, half = self.frame
        z = (x - centre) / half
        if self.version == "A":
            return np.vander(np.abs(z), self.n + 1, increasing=True)
        powers = np.vander(z, self.n + 1, increasing=True)
        if self.version == "N" or (self.version == "C" and not self.changes):
            return powers
        if self.version == "B":
            return np.hstack([powers[:, :1], self.sign(x)[:, None] * powers[:, 1:]])
        return np.hstack([powers[:, :1], self.sign(x)[:, None] * powers])

    def sign(self, x: np.ndarray) -> np.ndarray:
        """The sign of S in the pattern."""
        return np.prod([np.where(x >= change, 1.0, -1.0) for change in self.changes], axis=0) * np.ones(len(x))

    def scale(self, x: np.ndarray, f: np.ndarray) -> np.ndarray:
        """What an error is divided by: 1 on the interval, max(|x|, |f|) / weight on the tail."""
        low, high = self.interval
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.where((x < low) | (x > high), np.maximum(np.abs(x), np.abs(f)) / np.float64(self.weight), 1.0)

    def cone(self) -> tuple[np.ndarray, np.ndarray]:
        """Return G and h: the coefficients q of Q must satisfy G q >= h, beside |q| <= 1."""
        if self.version == "A":
            return np.eye(self.n + 1), np.append(1 / LARGEST, np.zeros(self.n))
        if self.version == "N":
            return self._without_poles()
        if self.version == "C" and not self.changes:  # where the error is finite, Q > 0
            return np.zeros((0, self.n + 1)), np.zeros(0)
        x = _points(self.interval, self.breaks, 60, 20)
        if self.weight:
            x = np.union1d(x, self._outer(12))
        g = self.denominator_basis(x[x != 0])
        g[:, 0] = 0.0
        largest = np.abs(g).max(1, keepdims=True)
        g = np.vstack([g / np.where(largest > 0, largest, 1.0), np.eye(g.shape[1])[:1]])
        return g, np.append(np.zeros(len(g) - 1), 1 / LARGEST)

    def _without_poles(self) -> tuple[np.ndarray, np.ndarray]:
        if self.n == 0:
            return np.ones((1, 1)), np.array([1 / LARGEST])
        centre, half = self.frame
        low, high = self.interval
        z = np.tan(np.linspace(-np.pi / 2, np.pi / 2, 202)[1:-1])
        z = np.append(z[(z * half + centre < low) | (z * half + centre > high)], self.places)
        g = np.vander(z, self.n + 1, increasing=True) / ((1 + z**2) ** (self.n / 2))[:, None]
        last = np.eye(self.n + 1)[-1:]  # at infinity
        return np.vstack([g, last]), np.append(np.full(len(g), self.least), 0.0)

    def start(self) -> np.ndarray:
        """Coefficients of a positive Q of full degree, so that the first program is well scaled on the tail, too."""
        n = self.n
        if self.version == "A":
            return np.append(1.0, np.full(n, 0.1))
        if self.version == "N" or (self.version == "C" and not self.changes):
            q = np.zeros(n + 1)
            q[: n // 2 * 2 + 1 : 2] = [comb(n // 2, i) for i in range(n // 2 + 1)]
            return q / q.max()
        centre, half = self.frame
        s = np.ones(1)
        for change in self.changes:
            s = np.convolve(s, [-(change - centre) / half, 1.0])
        if self.version == "B" and 0.0 not in self.changes:
            s = np.append([0.0, 0.0], s)
        if len(s) > n + 1:
            s = np.zeros(1)
        s = np.append(s / max(np.abs(s).max(), 1.0), np.zeros(n + 1 - len(s)))
        return np.append(1.0, s[1:] if self.version == "B" else s)

    def points(self, count: int, near: int, outer: int) -> np.ndarray:
        """Return points of the interval, `count` for each piece and `near` more at each kink, and of the tail."""
        x = np.union1d(_points(self.interval, self.breaks, count, near), self.frame[0] if self.version == "N" else [])
        return np.union1d(x, self._outer(outer)) if self.weight else x

    def _outer(self, count: int) -> np.ndarray:
        low, high = self.interval
        outer = np.geomspace(self.reach, max(OUTER_LIMIT, 10.0 * self.reach), count)[1:]
        between = np.linspace(-self.reach, self.reach, count)
        x = np.concatenate([-outer, outer, between])
        x = x[(x < low) | (x > high)]
        return x[np.abs(self.function(x)) < LARGEST_VALUE]


def _points(interval: tuple[float, float], breaks: Sequence[float], count: int, near: int) -> np.ndarray:
    edges = [interval[0], *breaks, interval[1]]
    found = []
    for left, right in pairwise(edges):
        found.append((left + right) / 2 - (right - left) / 2 * np.cos(np.linspace(0, np.pi, count)))
        close = (right - left) * np.geomspace(_GEOMETRIC, 0.1, near)
        found += [left + close] if left in breaks else []
        found += [right - close] if right in breaks else []
    return np.unique(np.clip(np.concatenate(found), *interval))


@dataclass(frozen=True)
class Best:
    """Hold the best R of a problem, in powers of (x - centre) / half, and what proves it.

    `error` is the largest error of many points, `level` the least that any R of this form has on `points`. Of those
    points `weights` are the multipliers of f Q - P <= level Q, negative where it is P - f Q <= level Q; `poles` are
    those of the rows of the cone.
    """

    problem: Problem
    numerator: np.ndarray
    denominator: np.ndarray
    error: float
    level: float
    points: np.ndarray = field(default_factory=lambda: np.empty(0))
    weights: np.ndarray = field(default_factory=lambda: np.empty(0))
    poles: np.ndarray = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class _Rows:
    """Hold points, and what a linear program needs of them."""

    x: np.ndarray
    f: np.ndarray
    scale: np.ndarray
    p: np.ndarray
    q: np.ndarray

    def error(self, p: np.ndarray, q: np.ndarray) -> np.ndarray:
        """(f - R) / scale, infinite where Q <= 0."""
        below = self.q @ q
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(below > 0, (self.f - self.p @ p / below) / self.scale, np.inf)


def _rows(problem: Problem, x: np.ndarray) -> _Rows:
    f = problem.function(x)
    return _Rows(x, f, problem.scale(x, f), problem.numerator_basis(x), problem.denominator_basis(x))


def solve(problem: Problem, *, rounds: int = 15, tolerance: float = 1e-6) -> Best:
    """Find the best R of a problem.

    Its error is within `tolerance` of the best, unless that is below about 1e-13 max |f| or `rounds` are over.
    """
    p, q = np.zeros(problem.degrees[0] + 1), problem.start()
    cone = problem.cone()
    x = problem.points(40, 12, 24)
    dense = _rows(problem, problem.points(900, 400, 300))
    best = None
    for _ in range(rounds):
        found = _correct(_rows(problem, x), p, q, *cone, problem)
        p, q = found.numerator, found.denominator
        if problem.version == "N" and (negative := _negative(problem, q)):
            problem = replace(problem, places=(*problem.places, *negative))
            p, q, cone = np.zeros_like(p), problem.start(), problem.cone()
            continue
        error = np.abs(dense.error(p, q))
        new = _maxima(dense.x, error, found.level * (1 - 1e-3))
        largest = max(error.max(), np.abs(_rows(problem, new).error(p, q)).max(initial=0.0))
        if best is None or largest < best.error:
            best = replace(found, error=float(largest))
        new = np.setdiff1d(new, x)
        if largest <= found.level * (1 + tolerance) or len(new) == 0:
            break
        x = np.union1d(x, new)
    return replace(found, error=found.level) if best is None else best


def _negative(problem: Problem, q: np.ndarray) -> list[float]:
    """Find where Q is not positive outside the interval, in the powers' unit: at its minima between the places."""
    centre, half = problem.frame
    low, high = problem.interval
    z = np.roots(np.polynomial.polynomial.polyder(q)[::-1])
    z = z.real[np.abs(z.imag) < 1e-9]
    z = z[((z * half + centre < low) | (z * half + centre > high)) & (np.abs(z) < 1e6)]
    return z[np.polynomial.polynomial.polyval(z, q) <= 0].tolist()


def _maxima(x: np.ndarray, error: np.ndarray, least: float) -> np.ndarray:
    """Find the local maxima of |error| that are above `least`, between the points by parabolas."""
    i = np.flatnonzero((error[1:-1] >= error[:-2]) & (error[1:-1] >= error[2:])) + 1
    found = [x[np.union1d(i, [0, len(x) - 1])[error[np.union1d(i, [0, len(x) - 1])] > least]]]
    i = i[(error[i] > least) & np.isfinite(error[i - 1] + error[i] + error[i + 1])]
    left, right = x[i] - x[i - 1], x[i + 1] - x[i]
    up, down = (error[i] - error[i - 1]) * right, (error[i] - error[i + 1]) * left
    with np.errstate(divide="ignore", invalid="ignore"):
        top = x[i] + (up * right - down * left) / (2 * (up + down))
    return np.concatenate([*found, top[(top > x[i - 1]) & (top < x[i + 1])]])


def _correct(
    rows: _Rows, p: np.ndarray, q: np.ndarray, g: np.ndarray, h: np.ndarray, problem: Problem, least_gain: float = 1e-9
) -> Best:
    """Find the best R on the points of `rows` by differential correction, until a step gains no more than that."""
    level = np.abs(rows.error(p, q)).max()
    if not np.isfinite(level):
        p, q = np.zeros_like(p), problem.start()
        level = np.abs(rows.error(p, q)).max()
    least = _ROUNDING * np.abs(rows.f[rows.scale == 1]).max() / 100
    multipliers = np.zeros(2 * len(rows.x) + len(h))
    for _ in range(40):
        if level <= least:
            break
        step = _program(rows, p, q, level, g, h)
        if step is None:
            break
        new_p, new_q, found = step
        error = np.abs(rows.error(new_p, new_q)).max()
        if error <= level * (1 + 1e-9):
            multipliers = found
        if not error < level:
            break
        gain, p, q, level = 1 - error / level, new_p, new_q, error
        if gain < least_gain:
            break
    count = len(rows.x)
    weights = (multipliers[:count] - multipliers[count : 2 * count]) / (rows.scale * (rows.q @ q))
    active = weights != 0
    return Best(problem, p, q, level, level, rows.x[active], weights[active], level * multipliers[2 * count :])


def _program(
    rows: _Rows, p: np.ndarray, q: np.ndarray, level: float, g: np.ndarray, h: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Do a step of differential correction: minimize max ((f Q - P) / scale - level Q) / (level Q_before).

    The unknowns are changes of P and Q, in units of their effect on the error: the part of the columns of f Q that P
    cannot follow is orthogonalised and scaled, so that errors of 1e-12 are reached with the tolerances of the solver.
    Returns the new coefficients and the multipliers, or None where the solver finds none.
    """
    from scipy.optimize import linprog

    below = rows.q @ q
    unit = 1 / (level * rows.scale * below)
    above = rows.p * unit[:, None]
    size = np.linalg.norm(above, axis=0)
    if not (np.isfinite(above).all() and np.isfinite(unit).all() and size.all()):
        return None
    basis, triangle = np.linalg.qr(above / size)
    follow = (rows.f * unit)[:, None] * rows.q
    follow_size = np.linalg.norm(follow, axis=0)
    follow_size[follow_size == 0] = 1.0
    follow = follow / follow_size
    shadow = np.zeros((basis.shape[1], follow.shape[1]))
    for _ in range(2):  # twice, for rounding
        part = basis.T @ follow
        follow, shadow = follow - basis @ part, shadow + part
    left, singular, right = np.linalg.svd(follow, full_matrices=False)
    turn = right.T / np.maximum(singular, 1e-300)
    ratio = rows.q / below[:, None] / follow_size @ turn
    # No unit step changes Q by more than itself.
    unit_step = np.sqrt(len(rows.x)) / np.maximum(np.abs(ratio).max(0), 1.0)
    left, ratio, turn, basis_unit = left * unit_step, ratio * unit_step, turn * unit_step, np.sqrt(len(rows.x))
    error = (rows.f - rows.p @ p / below) / (level * rows.scale)
    above = basis * basis_unit
    # The cone, and |q| <= 1, which fixes the scale of P and Q.
    g, h = np.vstack([g, np.eye(len(q)), -np.eye(len(q))]), np.concatenate([h, -np.ones(2 * len(q))])
    room, g = np.maximum(g @ q - h, 0.0), g / follow_size @ turn
    g_size = np.abs(g).max(1)
    g_size[g_size == 0] = 1.0
    minus = np.full((len(error), 1), -1.0)
    result = linprog(
        np.append(np.zeros(above.shape[1] + left.shape[1]), 1.0),
        A_ub=np.vstack([
            np.hstack([-above, left - ratio, minus]),
            np.hstack([above, -left - ratio, minus]),
            np.hstack([np.zeros((len(h), above.shape[1])), -g / g_size[:, None], np.zeros((len(h), 1))]),
        ]),
        b_ub=np.concatenate([1 - error, 1 + error, room / g_size]),
        bounds=[(-1e4, 1e4)] * (above.shape[1] + left.shape[1]) + [(-1.0, None)],
        method="highs-ds",
        options={"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10},
    )  # fmt: skip
    if result.x is None:
        return None
    step = turn @ result.x[above.shape[1] : -1]
    change = np.linalg.solve(triangle, basis_unit * result.x[: above.shape[1]] + shadow @ step)
    multipliers = -result.ineqlin.marginals
    multipliers[2 * len(error) :] /= g_size
    return p + change / size, q + step / follow_size, multipliers[: len(multipliers) - 2 * len(q)]


# ---- patterns


def best(problem: Problem) -> Best:
    """Find the best R of a version: for A and N as it is, for B and C over patterns of signs.

    The patterns are S >= 0; a change of sign at 0; and for B one at 0 and another, for C one anywhere, whose place is
    searched.
    """
    if problem.version in "AN":
        return solve(problem)
    low, high = problem.interval
    found = [solve(replace(problem, changes=changes)) for changes in ((), (0.0,)) if not changes or low < 0 < high]
    if problem.n >= 2 and low < 0 < high:
        first = (0.0,) if problem.version == "B" else ()
        so_far = min(one.error for one in found)
        found += _search(lambda change: replace(problem, changes=(*first, change)), problem, so_far)
    return min(found, key=lambda one: one.error)


def _search(at: Callable[[float], Problem], problem: Problem, so_far: float) -> list[Best]:
    """Find the best place of a change of sign: on a grid, then, if it may be an improvement, between the neighbours."""
    from scipy.optimize import minimize_scalar

    def level(place: float) -> float:
        few = at(place)
        rows = _rows(few, few.points(24, 6, 12))
        return _correct(rows, np.zeros(problem.degrees[0] + 1), few.start(), *few.cone(), few, 0.01).level

    low, high = problem.interval
    part = np.array([0.005, 0.03, 0.1, 0.25, 0.6])[:: 2 if problem.n > 8 else 1]
    places = np.concatenate([(low * part)[::-1], high * part])
    levels = [level(place) for place in places]
    i = int(np.argmin(levels))
    if levels[i] > _PROMISING * so_far:
        return []
    around = places[max(i - 1, 0)], places[min(i + 1, len(places) - 1)]
    limits = {
        "maxiter": 12 if problem.n <= 4 else 6 if problem.n <= 6 else 3,
        "xatol": 1e-4,
    }  # a fit is to take no more than 5 s
    place = minimize_scalar(level, bounds=around, method="bounded", options=limits).x
    return [solve(at(float(place)))]


def tail_error(found: Best) -> float:
    """Return the largest |R - f| / max(|x|, |f|) of the tail."""
    problem = found.problem
    rows = _rows(problem, problem._outer(300))
    return float(np.abs(rows.error(found.numerator, found.denominator)).max() / problem.weight)


# ---- coefficients


def coefficients(found: Best, version: str) -> tuple[list[Fraction], list[Fraction]]:
    """Return the coefficients of P and Q of a best R in powers of x, exactly, as a version is written.

    Those of Q are b_1 to b_n, for version C b_0 to b_n.
    """
    problem = found.problem
    p, q = [Fraction(c) for c in found.numerator], [Fraction(c) for c in found.denominator]
    if problem.version == "A":
        size = np.abs(problem.function(np.linspace(*problem.interval, 101))).max() or 1.0
        q = [c if c > _NOTHING * found.error / size * q[0] else Fraction(0) for c in q]
    if version == "C":
        scale = Fraction(1, 10) / q[0]
        if problem.changes:
            q = q[1:]
        else:
            # Q >= 1 on the interval, so that rounding leaves S = Q - 0.1 positive.
            x = problem.points(900, 400, 300)
            scale = 1 / Fraction((problem.denominator_basis(x) @ found.denominator.astype(float)).min())
            q[0] -= Fraction(1, 10) / scale
    else:
        scale = 1 / _powers(q, *problem.frame)[0]
    p, q = ([scale * c for c in _powers(row, *problem.frame)] for row in (p, q))
    q = q if version == "C" else q[1:]
    return p, q + [Fraction(0)] * (problem.degrees[1] + (version == "C") - len(q))


def _powers(polynomial: list[Fraction], centre: float, half: float) -> list[Fraction]:
    """Write a polynomial in (x - centre) / half in powers of x."""
    slope, offset = 1 / Fraction(half), -Fraction(centre) / Fraction(half)
    result = [Fraction(0)]
    for coefficient in reversed(polynomial):  # Horner's rule
        shifted = [offset * c for c in result] + [Fraction(0)]
        for i, c in enumerate(result):
            shifted[i + 1] += slope * c
        shifted[0] += coefficient
        result = shifted
    return result[: len(polynomial)]
