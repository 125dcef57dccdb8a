"""Build the logarithm by the arithmetic-geometric mean of theta functions (Sasaki and Kanada, 1982).

log s = -(pi / 2) / AGM(theta3(s^2)^2, theta2(s^2)^2) for 0 < s < 1. At the nome s^2 both squares are power series in s;
of each theta three terms are taken, which leave about s^18. x is brought to where that is small by a constant, log x =
log(m x) - log m. The mean's square roots are rationals, too: roots.py's, for the ratio of both arguments, whose range
is known at every step and shrinks to 1 quadratically.
"""

from dataclasses import dataclass
from itertools import count

from mpmath import agm, log, mpf, pi, sqrt

from .plans import Number, Plan, Real
from .roots import Root, check_branch, plan_root

_LARGEST = mpf("0.6")  # of s: the ratio of the thetas is 0.9997 there
_MOST_STEPS = 40
_MOST_DIGITS = 100  # of 1 / s


@dataclass(frozen=True)
class Log:
    """Compute log x. `roots` are those of the ratio at each step of the mean but the last, which needs none."""

    scale: Number
    roots: tuple[Root, ...]
    factor: Number
    shift: Number

    def __call__(self, x: Number) -> Number:
        s = x * self.scale
        theta3, theta2 = thetas(s)
        ratio = theta2 / theta3
        ratio = ratio * ratio * s * 4
        mean = theta3 * theta3
        for root in self.roots:
            arithmetic = ratio * 0.5 + 0.5
            mean = mean * arithmetic
            ratio = root(ratio) / arithmetic
        return self.factor / (mean * (ratio + 1)) + self.shift


def thetas(s: Number) -> tuple[Number, Number]:
    """Compute theta3(s^2) and theta2(s^2) / (2 s^(1/2)), three terms of each; the next are 2 s^18 and s^24."""
    second = s * s
    fourth = second * second
    eighth = fourth * fourth
    return (second + eighth) * 2 + 1, fourth * (eighth + 1) + 1


def logarithm(steps: int, domain: tuple[Real, Real] = (mpf("0.1"), mpf(10))) -> Plan:
    """Plan log, with so many steps of the arithmetic-geometric mean."""
    check_branch("log", domain)
    low, high = domain
    s, error = _balance(low / high, steps)
    compute, error = _plan(low, high, s, steps, 2 * error)
    return Plan(compute, error, domain)


def log_for(low: Real, high: Real, error: Real) -> tuple[Log, Real]:
    """Plan log on (low, high) for an absolute error: with the largest s whose thetas keep it, and the fewest steps.

    The larger s, the less is lost in floats, where log(m x) and log m cancel.
    """
    s = _LARGEST
    while (off := _theta_error(s, low / high)) > error / 4:
        s *= (error / off) ** (mpf(1) / 18) * mpf("0.9")
    steps = next(steps for steps in count(1) if _mean_error(s * low / high, steps) <= error / 4)
    return _plan(low, high, s, steps, error)


def _plan(low: Real, high: Real, largest: Real, steps: int, error: Real) -> tuple[Log, Real]:
    """Plan log with m x up to `largest`, and roots that keep the whole error below `error`; return its bound, too."""
    s = largest * low / high
    reached = _mean_error(s, steps) + _theta_error(largest, low / high)
    # A relative error of a root counts at most half in the mean, and the mean's counts -log(s) times in the logarithm.
    allowed = (error - reached) / (-log(s) * max(steps - 1, 1)) * 2
    roots = []
    ratio = _ratio(s)
    lost = mpf(0)
    for _ in range(steps - 1):
        root, off = plan_root(2, sqrt(ratio), _MOST_STEPS, error=allowed)
        roots.append(root)
        lost += off
        ratio = min(2 * sqrt(ratio) / (1 + ratio), mpf(1))
    scale = largest / high
    return Log(scale, tuple(roots), -pi, -log(scale)), reached - log(s) * lost / 2


def _ratio(s: Real) -> Real:
    theta3, theta2 = thetas(s)
    return 4 * s * (theta2 / theta3) ** 2


def _balance(span: Real, steps: int) -> tuple[Real, Real]:
    """Find the s at which the errors of the mean and of the thetas are equal, or the largest; return their sum, too."""
    low, high = mpf(-_MOST_DIGITS), log(_LARGEST, 10)
    middle = high
    while high - low > 1e-3 * -low:
        s = mpf(10) ** middle
        mean, theta = _mean_error(s * span, steps), _theta_error(s, span)
        low, high = (middle, high) if mean > theta else (low, middle)
        middle = (low + high) / 2
    return s, mean + theta


def _mean_error(s: Real, steps: int) -> Real:
    """Bound the error of log s after so many steps of the mean with exact roots and thetas."""
    ratio = _ratio(s)
    apart = 1 - ratio  # kept beside it, since it becomes small
    for _ in range(steps):
        apart = (apart / (1 + sqrt(ratio))) ** 2 / (1 + ratio)
        ratio = 2 * sqrt(ratio) / (1 + ratio)
    return -log(s) * (apart / 2 * (1 + apart) if apart < 0.1 else 1 / agm(1, ratio) - 1)


def _theta_error(s: Real, span: Real) -> Real:
    """Bound the error of the logarithm by the terms that both thetas lack, from span s to s."""
    return -log(s * span) * 4 * s**18 / (1 - s)
