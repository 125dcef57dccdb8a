"""Find best rationals whose error is below the rounding of float64: Remez's second algorithm in many digits (mpmath).

It starts from the extrema of a Chebyshev polynomial, which is near enough for smooth functions and small errors. The
error of the best R alternates at m + n + 2 - d points, d its defect (Remez, 1934; Ralston, 1965).
"""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from .exact import Exact
from .minimax import Best, Problem

SMALL = 1e-9
"""Errors below this part of max |f| are computed again here."""
_DIGITS, _SAMPLES, _ROUNDS = 70, 300, 15
_LEVELLED = 1e-5  # the relative difference of the largest and the smallest extremum at the end


def polish(problem: Problem, exact: Exact) -> Best | None:
    """Find the best R of version N, without a pole on the interval; return None where the algorithm does not converge.

    f must have one branch on the interval. The coefficients are `Fraction`, the points those of the alternation.
    """
    import mpmath

    m, n = problem.degrees[0], problem.n
    with mpmath.workdps(_DIGITS):
        for less_m, less_n in ((0, 0), (1, 0), (0, 2), (1, 2)):  # odd and even functions have a defect
            if m < less_m or n < less_n:
                continue
            needed = m + n + 2 - min(less_m, less_n)
            for skew in (0, 1):  # a symmetric reference is none for odd functions
                found = _exchange(problem, exact, m - less_m, n - less_n, skew)
                if found is not None and len(found.points) >= needed:
                    zeros = [Fraction(0)] * less_m, [Fraction(0)] * less_n
                    p, q = np.append(found.numerator, zeros[0]), np.append(found.denominator, zeros[1])
                    return replace(found, numerator=p, denominator=q)
    return None


def _exchange(problem: Problem, exact: Exact, m: int, n: int, skew: int) -> Best | None:
    from mpmath import cos, matrix, mp, mpf, pi

    centre, half = map(mpf, problem.frame)
    low, high = problem.interval
    ends = (mpf(low) - centre) / half, (mpf(high) - centre) / half
    branch = exact.at((low + high) / 2)

    def places(count: int) -> list[Any]:
        middle, radius = sum(ends) / 2, (ends[1] - ends[0]) / 2
        return [middle - radius * cos(pi * i / (count - 1)) for i in range(count)]

    def f(z: Any) -> Any:
        return branch(centre + half * z, mp)

    def error(z: Any, y: Any) -> Any:
        return y - _horner(p, z) / _horner(q, z)

    count = m + n + 2
    reference = places(count + skew)[:count]
    samples = places(_SAMPLES)
    values = [f(z) for z in samples]
    q = [mpf(1)] + [mpf(0)] * n
    for _ in range(_ROUNDS):
        at = [f(z) for z in reference]
        for _ in range(3):
            before = [_horner(q, z) for z in reference]
            rows = [
                [z**k for k in range(m + 1)] + [-y * z**k for k in range(1, n + 1)] + [(-1) ** i * b]
                for i, (z, y, b) in enumerate(zip(reference, at, before, strict=True))
            ]
            try:
                solution = list(mp.lu_solve(matrix(rows), matrix(at)))
            except (ZeroDivisionError, TypeError):  # a singular matrix, or one of NaN
                return None
            p, q = solution[: m + 1], [mpf(1), *solution[m + 1 : -1]]
        if any(_horner(q, z) <= 0 for z in samples):
            return None
        errors = [error(z, y) for z, y in zip(samples, values, strict=True)]
        extrema = _extrema(samples, errors, lambda z: error(z, f(z)))
        if len(extrema) < count:
            return None
        sizes = [abs(size) for _, size in extrema]
        if max(sizes) <= min(sizes) * (1 + _LEVELLED):
            points = np.array([float(centre + half * z) for z, _ in extrema])
            exactly = [np.array([_fraction(c) for c in row], dtype=object) for row in (p, q)]
            numbers = replace(problem, version="N", changes=())
            return Best(numbers, *exactly, float(max(sizes)), float(min(sizes)), points)
        while len(extrema) > count:
            extrema.pop(0 if abs(extrema[0][1]) < abs(extrema[-1][1]) else -1)
        reference = [z for z, _ in extrema]
    return None


def _extrema(z: list[Any], errors: list[Any], error: Any) -> list[tuple[Any, Any]]:
    """Find the largest error of each run of one sign, between the samples by a parabola."""
    runs: list[int] = []
    for i, size in enumerate(errors):
        if runs and (size > 0) == (errors[runs[-1]] > 0):
            if abs(size) > abs(errors[runs[-1]]):
                runs[-1] = i
        else:
            runs.append(i)
    found = []
    for i in runs:
        best = z[i], errors[i]
        if 0 < i < len(z) - 1:
            left, right = z[i] - z[i - 1], z[i + 1] - z[i]
            up, down = (errors[i] - errors[i - 1]) * right, (errors[i] - errors[i + 1]) * left
            if up + down != 0:
                top = z[i] + (up * right - down * left) / (2 * (up + down))
                if z[i - 1] < top < z[i + 1] and abs(error(top)) > abs(best[1]):
                    best = top, error(top)
        found.append(best)
    return found


def _horner(polynomial: list[Any], z: Any) -> Any:
    result = 0
    for c in reversed(polynomial):
        result = result * z + c
    return result


def _fraction(value: Any) -> Fraction:
    sign, mantissa, exponent, _ = value._mpf_
    return (-1) ** sign * Fraction(int(mantissa)) * Fraction(2) ** exponent
