"""Compute in mpmath what the constructions approximate, at the precision that is set."""

from collections.abc import Callable, Sequence
from typing import Any

from mpmath import erf, exp, expm1, log, log1p, mpf, pi, sqrt, tanh
from mpmath import root as nth_root

from .plans import Real

# Read as decimals at the precision that is set.
GELU_CUBIC = "0.044715"  # of the tanh form: Hendrycks and Gimpel, 2016
SELU_SCALE = "1.0507009873554804934193349852946"  # Klambauer et al., 2017, to the digits that PyTorch has
SELU_ALPHA = "1.6732632423543772848170429916717"


def relu(x: Real) -> Real:
    return max(x, mpf(0))


def sign(x: Real) -> Real:
    return mpf((x > 0) - (x < 0))


def step(x: Real) -> Real:
    return (1 + sign(x)) / 2


def root(x: Real, p: int = 2) -> Real:
    return nth_root(x, p)


def sigmoid(x: Real) -> Real:
    return 1 / (1 + exp(-x))


def silu(x: Real) -> Real:
    return x * sigmoid(x)


def gelu(x: Real) -> Real:
    """GELU's tanh form."""
    return x * (1 + tanh(sqrt(2 / pi) * (x + mpf(GELU_CUBIC) * x**3))) / 2


def exact_gelu(x: Real) -> Real:
    """GELU itself, with erf."""
    return x * (1 + erf(x / sqrt(2))) / 2


def gelu_distance(low: float, high: float) -> Real:
    """Measure the largest distance between both on 401 points."""
    points = [mpf(low) + (mpf(high) - low) * i / 400 for i in range(401)]
    return max(abs(gelu(x) - exact_gelu(x)) for x in points)


def softplus(x: Real) -> Real:
    return log1p(exp(x))


def mish(x: Real) -> Real:
    return x * tanh(softplus(x))


def logsigmoid(x: Real) -> Real:
    return -softplus(-x)


def leaky_relu(x: Real, slope: float = 0.01) -> Real:
    return x if x > 0 else x * slope


def elu(x: Real, alpha: float = 1.0) -> Real:
    return x if x > 0 else alpha * expm1(x)


def selu(x: Real) -> Real:
    return mpf(SELU_SCALE) * (x if x > 0 else mpf(SELU_ALPHA) * expm1(x))


def celu(x: Real, alpha: float = 1.0) -> Real:
    return x if x > 0 else alpha * expm1(x / alpha)


def softmax(x: Sequence[Real]) -> list[Real]:
    powers = [exp(each - max(x)) for each in x]
    return [each / sum(powers) for each in powers]


def softmin(x: Sequence[Real]) -> list[Real]:
    return softmax([-each for each in x])


def logsoftmax(x: Sequence[Real]) -> list[Real]:
    return [log(each) for each in softmax(x)]


def swiglu(x: Sequence[Real]) -> list[Real]:
    return _gated(silu, x)


def geglu(x: Sequence[Real]) -> list[Real]:
    return _gated(gelu, x)


def _gated(activation: Callable[[Real], Real], x: Sequence[Real]) -> list[Real]:
    half = len(x) // 2
    return [activation(a) * b for a, b in zip(x[:half], x[half:], strict=True)]


REFERENCES: dict[str, Callable[..., Any]] = {
    "relu": relu,
    "abs": abs,
    "sign": sign,
    "step": step,
    "root": root,
    "exp": exp,
    "log": log,
    "tanh": tanh,
    "sigmoid": sigmoid,
    "gelu": gelu,
    "silu": silu,
    "mish": mish,
    "softplus": softplus,
    "logsigmoid": logsigmoid,
    "leaky_relu": leaky_relu,
    "elu": elu,
    "selu": selu,
    "celu": celu,
    "softmax": softmax,
    "logsoftmax": logsoftmax,
    "softmin": softmin,
    "swiglu": swiglu,
    "geglu": geglu,
}
"""By name; settings of a construction that change its function are arguments of the same name."""
