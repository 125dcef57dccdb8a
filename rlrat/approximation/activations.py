"""Build activations, softmaxes and gates from exp, log, tanh and |x|.

GELU is its tanh form, x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2 (Hendrycks and Gimpel, 2016).
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

from mpmath import exp, inf, log, mpf, pi, sqrt

from . import references
from .agm import Log, log_for
from .exponentials import DOMAIN, Exp, Tanh, exponential, hyperbolic_tangent
from .plans import Number, Plan, Real
from .zolotarev import HalleyAbs, Times, absolute

Domain = tuple[Real, Real]


@dataclass(frozen=True)
class Sigmoid:
    """Compute 1 / (1 + exp(-x)) as (1 + tanh(x / 2)) / 2."""

    tanh: Tanh

    def __call__(self, x: Number) -> Number:
        return self.tanh(x * 0.5) * 0.5 + 0.5


@dataclass(frozen=True)
class Gelu:
    """Compute the tanh form of GELU."""

    linear: Number
    cubic: Number
    tanh: Tanh

    def __call__(self, x: Number) -> Number:
        return x * (self.tanh(x * (x * x * self.cubic + self.linear)) * 0.5 + 0.5)


@dataclass(frozen=True)
class Mish:
    """Compute x tanh(log u) for u = 1 + exp(x): x (u^2 - 1) / (u^2 + 1)."""

    exp: Exp

    def __call__(self, x: Number) -> Number:
        y = self.exp(x)
        y = y * (y + 2)
        return x * y / (y + 2)


@dataclass(frozen=True)
class Softplus:
    """Compute sign log(1 + exp(sign x)): softplus, or for sign = -1 logsigmoid."""

    sign: int
    exp: Exp
    log: Log

    def __call__(self, x: Number) -> Number:
        if self.sign > 0:
            return self.log(self.exp(x) + 1)
        return self.log(self.exp(x * -1) + 1) * -1


@dataclass(frozen=True)
class Leaky:
    """Compute x where x > 0, else slope x, from |x|."""

    even: Number
    odd: Number
    absolute: Times | HalleyAbs

    def __call__(self, x: Number) -> Number:
        return x * self.odd + self.absolute(x) * self.even


@dataclass(frozen=True)
class Elu:
    """Compute rise (x + |x|) + below (exp(inside (x - |x|)) - 1)."""

    rise: Number
    inside: Number
    below: Number
    absolute: Times | HalleyAbs
    exp: Exp

    def __call__(self, x: Number) -> Number:
        size = self.absolute(x)
        return (x + size) * self.rise + (self.exp((x - size) * self.inside) - 1) * self.below


@dataclass(frozen=True)
class Softmax:
    """Compute exp(sign x) / sum exp(sign x) along the last axis, on distances from the mean."""

    sign: int
    features: int
    share: Number
    exp: Exp

    def __call__(self, x: Number) -> Number:
        y = self.exp(centre(x if self.sign > 0 else x * -1, self.features, self.share))
        return y / total(y, self.features)


@dataclass(frozen=True)
class LogSoftmax:
    """Compute log softmax(x) as d - log(mean exp(d)) - log(features), d the distance from the mean."""

    features: int
    share: Number
    shift: Number
    exp: Exp
    log: Log

    def __call__(self, x: Number) -> Number:
        d = centre(x, self.features, self.share)
        return d - (self.log(total(self.exp(d), self.features) * self.share) + self.shift)


@dataclass(frozen=True)
class Gate:
    """Compute activation(first half) (second half) of the last axis (Shazeer, 2020)."""

    activation: Times | Gelu

    def __call__(self, x: Number) -> Number:
        half = x.shape[-1] // 2
        return self.activation(x[..., :half]) * x[..., half:]


def total(x: Number, features: int) -> Number:
    """Add up the last axis, which is kept."""
    found = x[..., :1]
    for place in range(1, features):
        found = found + x[..., place : place + 1]
    return found


def centre(x: Number, features: int, share: Number) -> Number:
    """Take the mean of the last axis away: exp is computed near 0, and what all entries share does not matter."""
    return x - total(x, features) * share


def sigmoid(steps: int, domain: Domain = DOMAIN) -> Plan:
    """Plan the sigmoid; steps are tanh's."""
    tanh = hyperbolic_tangent(steps, (domain[0] / 2, domain[1] / 2))
    return Plan(Sigmoid(tanh.compute), tanh.error / 2, domain)


def silu(steps: int, domain: Domain = DOMAIN) -> Plan:
    """Plan x sigmoid(x); steps are tanh's."""
    inner = sigmoid(steps, domain)
    return Plan(Times(inner.compute), inner.error * _reach(domain), domain)


def gelu(steps: int, domain: Domain = DOMAIN) -> Plan:
    """Plan the tanh form of GELU; steps are tanh's."""
    linear = sqrt(2 / pi)
    cubic = linear * mpf(references.GELU_CUBIC)
    tanh = hyperbolic_tangent(steps, tuple(end * (linear + cubic * end**2) for end in domain))
    return Plan(Gelu(linear, cubic, tanh.compute), tanh.error * _reach(domain) / 2, domain)


def mish(steps: int, domain: Domain = DOMAIN) -> Plan:
    """Plan x tanh(softplus(x)); steps are exp's."""
    inner, relative = _exponential(steps, domain)
    # (u^2 - 1) / (u^2 + 1) changes by less than 0.33 times the relative change of exp(x).
    return Plan(Mish(inner), relative * _reach(domain) * mpf("0.33"), domain)


def softplus(steps: int, domain: Domain = DOMAIN, sign: int = 1) -> Plan:
    """Plan log(1 + exp(x)); steps are exp's, and the logarithm is as exact."""
    inner, relative = _exponential(steps, domain)
    low, high = sorted(sign * end for end in domain)
    outer, off = log_for(1 + exp(low) * (1 - relative), 1 + exp(high) * (1 + relative), relative)
    return Plan(Softplus(sign, inner, outer), relative * (1 + relative) + off, domain)


def logsigmoid(steps: int, domain: Domain = DOMAIN) -> Plan:
    """Plan -log(1 + exp(-x)), as `softplus`."""
    return softplus(steps, domain, sign=-1)


def leaky_relu(steps: int, domain: Domain = DOMAIN, *, slope: float = 0.01) -> Plan:
    """Plan x where x > 0, else slope x; steps are |x|'s."""
    slope = mpf(slope)
    if not abs(slope) < inf or slope == 1:
        raise ValueError(f"the slope of leaky_relu must be finite and not 1, which is no kink, not {float(slope):g}")
    size = absolute(steps, domain)
    return Plan(Leaky((1 - slope) / 2, (1 + slope) / 2, size.compute), abs(1 - slope) / 2 * size.error, domain)


def elu(steps: int, domain: Domain = DOMAIN, *, alpha: float = 1.0) -> Plan:
    """Plan x where x > 0, else alpha (exp(x) - 1); steps are |x|'s, and exp is as exact."""
    return _elu(steps, domain, mpf(1), mpf(alpha), mpf(1))


def selu(steps: int, domain: Domain = DOMAIN) -> Plan:
    """Plan SELU, as `elu`."""
    return _elu(steps, domain, mpf(references.SELU_SCALE), mpf(references.SELU_ALPHA), mpf(1))


def celu(steps: int, domain: Domain = DOMAIN, *, alpha: float = 1.0) -> Plan:
    """Plan x where x > 0, else alpha (exp(x / alpha) - 1), as `elu`."""
    return _elu(steps, domain, mpf(1), mpf(alpha), 1 / mpf(alpha) if alpha else mpf(1))


def _elu(steps: int, domain: Domain, scale: Real, alpha: Real, inside: Real) -> Plan:
    if not 0 < alpha < inf:
        raise ValueError(f"alpha of an ELU must be above 0 and finite, not {float(alpha):g}")
    size = absolute(steps, domain)
    argument = inside * size.error / 2  # how far that of exp is off
    for inner_steps in count():
        inner, relative = _exponential(inner_steps, (-inside * _reach(domain) - argument, argument))
        if relative <= argument / 4 or argument == 0:
            break
    compute = Elu(scale / 2, inside / 2, scale * alpha, size.compute, inner)
    # What |x| lacks changes both terms, by opposite signs.
    twice = max(scale, scale * alpha * inside * exp(argument) - scale) * size.error
    return Plan(compute, twice / 2 + scale * alpha * relative * exp(argument), domain)


def softmax(steps: int, domain: Domain = DOMAIN, sign: int = 1, *, features: int = 8) -> Plan:
    """Plan softmax of rows whose entries differ by at most high - low; steps are exp's."""
    inner, relative = _exponential(steps, _spread(domain, features))
    compute = Softmax(sign, features, mpf(1) / features, inner)
    # The largest change of p by relative changes of all exp is 2 relative p (1 - p).
    return Plan(compute, relative / 2 * (1 + 4 * relative), domain, inputs=features)


def softmin(steps: int, domain: Domain = DOMAIN, *, features: int = 8) -> Plan:
    """Plan softmax(-x), as `softmax`."""
    return softmax(steps, domain, sign=-1, features=features)


def logsoftmax(steps: int, domain: Domain = DOMAIN, *, features: int = 8) -> Plan:
    """Plan log softmax(x), as `softmax`; the logarithm is as exact as exp."""
    spread = _spread(domain, features)
    inner, relative = _exponential(steps, spread)
    # The mean of exp(d) is at least exp(mean d) = 1.
    outer, off = log_for(1 - relative, exp(spread[1]) * (1 + relative), relative)
    compute = LogSoftmax(features, mpf(1) / features, log(mpf(features)), inner, outer)
    return Plan(compute, relative * (1 + relative) + off, domain, inputs=features)


def swiglu(steps: int, domain: Domain = DOMAIN) -> Plan:
    """Plan silu(a) b for x = (a, b) along the last axis; steps are tanh's."""
    return _gate(silu, steps, domain)


def geglu(steps: int, domain: Domain = DOMAIN) -> Plan:
    """Plan gelu(a) b for x = (a, b) along the last axis, GELU in its tanh form; steps are tanh's."""
    return _gate(gelu, steps, domain)


def _gate(activation: Callable[[int, Domain], Plan], steps: int, domain: Domain) -> Plan:
    inner = activation(steps, domain)
    return Plan(Gate(inner.compute), inner.error * _reach(domain), domain, inputs=2)


def _reach(domain: Domain) -> Real:
    return max(map(abs, domain))


def _exponential(steps: int, domain: Domain) -> tuple[Exp, Real]:
    """Plan exp; return what computes it, and its relative error."""
    plan = exponential(steps, domain)
    return plan.compute, plan.error / exp(domain[1])


def _spread(domain: Domain, features: int) -> Domain:
    if not isinstance(features, int) or features < 2:
        raise ValueError(f"the features of a softmax must be an integer of at least 2, not {features!r}")
    furthest = (domain[1] - domain[0]) * (1 - mpf(1) / features)
    return -furthest, furthest
