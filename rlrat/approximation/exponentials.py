"""Build exp and tanh by Halley's iteration on log and artanh.

tanh: with d = s - artanh(y), y <- (y + d) / (1 + y d), which is tanh(artanh y + d) with d for tanh d: of the error d
about d^3 / 3 remains. exp: with d = x - log(y), y <- y (2 + d) / (2 - d), of d about d^3 / 12 remains. It is the same
iteration: for y = exp(2 s), tanh s is (y - 1) / (y + 1). The logarithm of each step is as exact as the step's own error
asks for (agm.py).

Both start from a Pade approximant of a small argument, whose value is squared, or doubled by 2 y / (1 + y^2), up to x.
Rounding of that start is undone by the iteration; what is doubled after it is not, so that tanh does so only where
artanh would be near its branch point, |s| > 5/2.
"""

from dataclasses import dataclass

from mpmath import atanh, ceil, exp, expm1, log, mpf

from .agm import Log, log_for
from .plans import Number, Plan, Real

DOMAIN: tuple[Real, Real] = (mpf(-5), mpf(5))
_START = {"exp": mpf(1) / 16, "tanh": mpf(1) / 4}
_LARGEST = mpf("2.5")  # |s| of artanh's iteration
_FARTHEST = mpf("0.5")  # of log y from x, for Halley's iteration: below 2
_LEAST = mpf("1e-2000")  # what is below needs more digits than anybody asks for: constructions.py refuses it


@dataclass(frozen=True)
class Exp:
    """Compute exp(x)."""

    scale: Number
    squarings: int
    logs: tuple[Log, ...]

    def __call__(self, x: Number) -> Number:
        z = x * self.scale
        y = (z + 2) / (2 - z)
        for _ in range(self.squarings):
            y = y * y
        for logarithm in self.logs:
            d = x - logarithm(y)
            y = y * (d + 2) / (2 - d)
        return y


@dataclass(frozen=True)
class Tanh:
    """Compute tanh(x)."""

    scales: tuple[Number, Number]
    third: Number
    doublings: tuple[int, int]
    logs: tuple[Log, ...]

    def __call__(self, x: Number) -> Number:
        s, small = x * self.scales[0], x * self.scales[1]
        y = double(small / (small * small * self.third + 1), self.doublings[0])
        for logarithm in self.logs:
            d = s - logarithm((y + 1) / (1 - y)) * 0.5
            y = (y + d) / (y * d + 1)
        return double(y, self.doublings[1])


def double(y: Number, times: int) -> Number:
    """Compute tanh(2^times s) from y = tanh s."""
    for _ in range(times):
        y = y * 2 / (y * y + 1)
    return y


def exponential(steps: int, domain: tuple[Real, Real] = DOMAIN) -> Plan:
    """Plan exp. The relative error is the same everywhere: the absolute one over exp(high)."""
    reach = max(map(abs, domain))
    squarings = _halvings(reach, _START["exp"])
    while 2**squarings * _rest(reach / 2**squarings) > _FARTHEST:  # what the squarings make of the start's error
        squarings += 1
    scale = mpf(1) / 2**squarings
    logs, error = _halley(reach, 2**squarings * _rest(reach * scale), steps)
    return Plan(Exp(scale, squarings, logs), expm1(error) * exp(domain[1]), domain)


def hyperbolic_tangent(steps: int, domain: tuple[Real, Real] = DOMAIN) -> Plan:
    """Plan tanh."""
    reach = max(map(abs, domain))
    after = _halvings(reach, _LARGEST)
    s = reach / 2**after
    before = _halvings(s, _START["tanh"])
    small = s / 2**before
    start = 2**before * (small - atanh(small / (1 + small**2 / 3)))
    logs, error = _halley(2 * s, 2 * start, steps)
    scales = mpf(1) / 2**after, mpf(1) / 2 ** (after + before)
    return Plan(Tanh(scales, mpf(1) / 3, (before, after), logs), 2**after * error / 2, domain)


def _halvings(reach: Real, largest: Real) -> int:
    return max(0, int(ceil(log(reach / largest, 2))))


def _rest(d: Real) -> Real:
    """Bound 2 artanh(d / 2) - d, what a step leaves of an error d."""
    return d**3 / (12 - 3 * d**2)


def _halley(reach: Real, error: Real, steps: int) -> tuple[tuple[Log, ...], Real]:
    """Plan the logarithm of each step for |log y| up to `reach`, which is known up to `error` at first.

    Returns the logarithms and the last error of log y.
    """
    logs = []
    for _ in range(steps):
        if error < _LEAST:
            break
        high = exp(reach + error)
        logarithm, off = log_for(1 / high, high, _rest(error) / 2)
        logs.append(logarithm)
        error = off + _rest(error + off)
    return tuple(logs), error
