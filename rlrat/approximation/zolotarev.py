"""Build sign, step, |x| and ReLU by composing Zolotarev's rationals of type (3, 2) (Nakatsukasa and Freund, 2016).

The best rational of type (3, 2) for sign on l <= |x| <= 1 is x (a + b x^2) / (1 + c x^2), and maps that set to one of
the same kind, closer to 1. Composed with the best one there, and so on, k of them are the best of type (3^k, 3^k - 1).
Here the a, b, c are scaled so that each maps 1 to 1, and the last so that the error is as large above 1 as below.

Written so, no denominator is below 1, and 0 is mapped to 0: x (x^2 + c2) / (x^2 + c1), which is the same function, is
0 / 0 at 0 as soon as c1 is lost, and so is |x| as x / sign(x).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from mpmath import cbrt, log10, mp, mpf, sqrt

from .plans import Number, Plan, Real, convert


@dataclass(frozen=True)
class Sign:
    """Compute sign(x), times a constant, by rationals of type (3, 2)."""

    steps: tuple[tuple[Number, Number, Number], ...]

    def __call__(self, x: Number) -> Number:
        for a, b, c in self.steps:
            square = x * x
            x = x * (square * b + a) / (square * c + 1)
        return x


@dataclass(frozen=True)
class Step:
    """Compute the step from 0 to 1 by half of sign(x)."""

    half: Sign

    def __call__(self, x: Number) -> Number:
        return self.half(x) + 0.5


@dataclass(frozen=True)
class Times:
    """Compute x factor(x): |x| from sign, ReLU from the step, SiLU from the sigmoid."""

    factor: Callable[[Number], Number]

    def __call__(self, x: Number) -> Number:
        return x * self.factor(x)


@dataclass(frozen=True)
class HalleyAbs:
    """Compute |x| as the root of y^2 = x^2 by Halley's iteration from y = high, without scaling."""

    steps: int
    high: Number

    def __call__(self, x: Number) -> Number:
        square = x * x
        y = self.high
        for _ in range(self.steps):
            y = y * (square * 3 + y * y) / (square + y * y * 3)
        return y


@dataclass(frozen=True)
class HalleyRelu:
    """Compute (x + |x|) / 2 with |x| by Halley's iteration."""

    absolute: HalleyAbs

    def __call__(self, x: Number) -> Number:
        return (x + self.absolute(x)) * 0.5


def sign(
    steps: int,
    domain: tuple[Real, Real] = (mpf(-1), mpf(1)),
    *,
    gap: float = 0.01,
    scaled: bool = True,
    high: float = 1,
) -> Plan:
    """Plan sign on gap <= |x| <= max |domain|, with the values near +-`high`.

    Not `scaled`, each step is Halley's, x (3 + x^2) / (1 + 3 x^2).
    """
    reach = max(map(abs, domain))
    if not 0 < gap < reach:
        raise ValueError(f"the gap of sign must be above 0 and below the end of its domain, {_short(reach)}, not {gap}")
    lower = mpf(gap) / reach
    rationals, error = _zolotarev(lower, steps) if scaled else _halley(lower, steps)
    (a, b, c), *rest = rationals
    rationals = [(a / reach, b / reach**3, c / reach**2), *rest]
    a, b, c = rationals[-1]
    rationals[-1] = (a * high, b * high, c)
    return Plan(Sign(tuple(rationals)), error * high, domain, mpf(gap))


def step(steps: int, domain: tuple[Real, Real] = (mpf(-1), mpf(1)), *, gap: float = 0.01, scaled: bool = True) -> Plan:
    """Plan (1 + sign(x)) / 2, as `sign`."""
    half = sign(steps, domain, gap=gap, scaled=scaled, high=0.5)
    return Plan(Step(half.compute), half.error, domain, half.gap)


def absolute(steps: int, domain: tuple[Real, Real] = (mpf(-1), mpf(1)), *, scaled: bool = True) -> Plan:
    """Plan |x| on the whole domain, as x sign(x) with the gap at which the errors inside and outside it are equal.

    Not `scaled`, Halley's iteration for y^2 = x^2 from y = max |domain|.
    """
    reach = max(map(abs, domain))
    if not scaled:
        return Plan(HalleyAbs(steps, reach), reach / 3**steps, domain)
    gap, error = _balanced(steps, mp.dps)
    return Plan(Times(sign(steps, domain, gap=gap * reach).compute), error * reach, domain)


def relu(steps: int, domain: tuple[Real, Real] = (mpf(-1), mpf(1)), *, scaled: bool = True) -> Plan:
    """Plan ReLU, (x + |x|) / 2, with |x| as in `absolute`: x step(x)."""
    reach = max(map(abs, domain))
    if not scaled:
        plan = absolute(steps, domain, scaled=False)
        return Plan(HalleyRelu(plan.compute), plan.error / 2, domain)
    gap, error = _balanced(steps, mp.dps)
    return Plan(Times(step(steps, domain, gap=gap * reach).compute), error * reach / 2, domain)


def _zolotarev(lower: Real, steps: int) -> tuple[list[tuple[Real, Real, Real]], Real]:
    """Return a, b, c of each rational for lower <= |x| <= 1, and the error.

    In closed form: Nakatsukasa, Bai and Gygi (2010), eq. 3.13 (the dynamically weighted Halley iteration).
    """
    rationals = []
    for _ in range(steps):
        d = cbrt(4 * (1 - lower**2) / lower**4)
        a = sqrt(1 + d) + sqrt(8 - 4 * d + 8 * (2 - lower**2) / (lower**2 * sqrt(1 + d))) / 2
        b = (a - 1) ** 2 / 4
        c = a + b - 1
        rationals.append((a, b, c))
        lower = min(lower * (a + b * lower**2) / (1 + c * lower**2), mpf(1))
    centre = 2 / (1 + lower)
    a, b, c = rationals[-1]
    rationals[-1] = (a * centre, b * centre, c)
    return rationals, (1 - lower) / (1 + lower)


def _halley(lower: Real, steps: int) -> tuple[list[tuple[Real, Real, Real]], Real]:
    """Return a, b, c of Halley's iteration for sign, which cubes (1 - x) / (1 + x), and the error at `lower`."""
    below = ((1 - lower) / (1 + lower)) ** (3**steps)
    return [(mpf(3), mpf(1), mpf(3))] * steps, 2 * below / (1 + below)


@cache
def _balanced(steps: int, digits: int) -> tuple[Real, Real]:
    """Find the gap at which x sign(x) is as far from |x| inside it as outside, on [-1, 1], and that error."""
    low, high = -2 - mpf("1.2") * sqrt(3**steps), log10(mpf("0.9"))  # it falls as exp(-c sqrt(degree))
    for _ in range(16):
        gap = mpf(10) ** ((low + high) / 2)
        rationals, outside = _zolotarev(gap, steps)
        inside = _inside(Sign(tuple(rationals)), gap, rounds=2)
        if inside < outside:
            low = log10(gap)
        else:
            high = log10(gap)
    return gap, max(_inside(Sign(tuple(rationals)), gap, rounds=8) * (1 + mpf("1e-9")), outside)


def _inside(rational: Sign, gap: Real, rounds: int) -> Real:
    """Find the largest x (1 - sign(x)) on 0 <= x <= gap, where it rises and falls, on ever closer points."""
    with mp.workdps(20):  # 1 - sign is of order 1 where it matters
        rational = convert(rational, lambda constant: +constant)
        points = [gap / 2**i for i in range(20, -1, -1)]
        for _ in range(rounds):
            values = [x * (1 - rational(x)) for x in points]
            place = min(max(values.index(max(values)), 1), len(points) - 2)
            low, high = points[place - 1], points[place + 1]
            points = [low + (high - low) * i / 8 for i in range(9)]
        return max(values)


def _short(number: Real) -> str:
    return f"{float(number):g}"
