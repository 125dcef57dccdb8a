"""Name the functions that a rational can start as, and read the committed table of their fits.

`python -m rlrat.rational.fit` writes the table, fitted.json; initial.py looks in it.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]

# PReLU has PyTorch's initial slope, LeakyReLU the default one; GELU is the exact one, with erf.
FUNCTIONS: dict[str, Function] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "prelu": partial(F.leaky_relu, negative_slope=0.25),
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "silu": F.silu,
    "mish": F.mish,
    "softplus": F.softplus,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "tanh": torch.tanh,
    "identity": torch.clone,
}
TABLE = files(__package__) / "fitted.json"
INTERVAL = (-5.0, 5.0)


@dataclass(frozen=True)
class Fit:
    """Hold a rational R that is fitted to a function f.

    `max_error` is the largest |R(x) - f(x)| over `interval`; `values` are R(-100), R(-10), R(10), R(100).
    """

    numerator: tuple[float, ...]
    denominator: tuple[float, ...]
    version: str
    interval: tuple[float, float]
    max_error: float
    values: tuple[float, float, float, float]

    @property
    def degrees(self) -> tuple[int, int]:
        """Return (m, n), the degrees of P and Q."""
        return len(self.numerator) - 1, len(self.denominator) - (self.version == "C")


@cache
def table() -> dict[tuple[str, tuple[int, int], str], Fit]:
    """Read the committed fits, by (name, degrees, version)."""
    entries = {}
    for entry in json.loads(TABLE.read_text())["fits"]:
        name = entry.pop("name")
        fit = Fit(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})
        entries[name, fit.degrees, fit.version] = fit
    return entries


def sample(function: Function, x: Tensor) -> Tensor:
    """Compute f at the points x (float64, one axis).

    Raises:
        ValueError: the function is not elementwise.
    """
    if isinstance(function, nn.Module):
        function = copy.deepcopy(function).to("cpu", torch.float64)
    with torch.no_grad():
        y, half = function(x.clone()), function(x[::2].clone())  # clones, because the function may work in place
    if not isinstance(y, Tensor) or y.shape != x.shape or not torch.allclose(y[::2], half, rtol=1e-9, equal_nan=True):
        name = getattr(function, "__name__", repr(function))
        raise ValueError(f"{name} is not an elementwise function, so that a rational cannot approximate it")
    return y
