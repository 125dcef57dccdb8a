"""Coefficients that make a rational approximate a given function: the committed table, and fits made on demand.

fitted.json is written by `python -m rlrat.rational.fit`.
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

from .reference import VERSIONS

Function = Callable[[Tensor], Tensor]

# PReLU and LeakyReLU at PyTorch's initial and default slope; GELU is the exact one, with erf.
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
    """A rational R fitted to a function f.

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
        return len(self.numerator) - 1, len(self.denominator) - (self.version == "C")


@cache
def table() -> dict[tuple[str, tuple[int, int], str], Fit]:
    """The committed fits, by (name, degrees, version)."""
    entries = {}
    for entry in json.loads(TABLE.read_text())["fits"]:
        name = entry.pop("name")
        fit = Fit(**{key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()})
        entries[name, fit.degrees, fit.version] = fit
    return entries


def sample(function: Function, x: Tensor) -> Tensor:
    """f at the points x (float64, one axis).

    Raises:
        ValueError: the function is not elementwise.
    """
    if isinstance(function, nn.Module):
        function = copy.deepcopy(function).to("cpu", torch.float64)
    with torch.no_grad():
        y, half = function(x.clone()), function(x[::2].clone())  # clones: the function may work in place
    if not isinstance(y, Tensor) or y.shape != x.shape or not torch.allclose(y[::2], half, rtol=1e-9, equal_nan=True):
        name = getattr(function, "__name__", repr(function))
        raise ValueError(f"{name} is not an elementwise function, so that a rational cannot approximate it")
    return y


_fitted: dict[tuple[bytes, tuple[int, int], str], Fit] = {}
# Functions are known by their values here, so that two modules with equal settings share one fit.
_PROBE = torch.linspace(-20.0, 20.0, 201, dtype=torch.float64, device="cpu")


def find(function: str | Function, degrees: tuple[int, int] = (5, 4), version: str = "A") -> Fit:
    """The fit of a name in `FUNCTIONS`, or of any elementwise PyTorch function or module: from the table if it is
    there, else computed once (about a second, needs scipy) and kept for the life of the process.

    Raises:
        ValueError: an unknown name, version or pair of degrees; a function that is not elementwise or not finite on
            the interval.
    """
    if version not in VERSIONS:
        raise ValueError(f"there is no version {version!r} of a rational, only {', '.join(VERSIONS)}")
    degrees = tuple(degrees)
    if len(degrees) != 2 or not all(isinstance(degree, int) and degree >= 0 for degree in degrees):
        raise ValueError(f"degrees must be two integers >= 0, of numerator and denominator, not {degrees}")
    if isinstance(function, str):
        if function not in FUNCTIONS:
            names = ", ".join(FUNCTIONS)
            raise ValueError(f"no function {function!r} to approximate, only {names}; or give the function itself")
        name, function = function, FUNCTIONS[function]
    else:
        name = _name(function)
    if (name, degrees, version) in table():
        return table()[name, degrees, version]
    key = (sample(function, _PROBE).numpy().tobytes(), degrees, version)
    if key not in _fitted:
        from .fit import fit  # needs scipy

        _fitted[key] = fit(function, degrees, version)
    return _fitted[key]


def _name(function: Function) -> str | None:
    """The name of the entry of `FUNCTIONS` that has the same values as this function."""
    values = sample(function, _PROBE)
    for name, known in FUNCTIONS.items():
        if torch.allclose(values, known(_PROBE), rtol=1e-9, atol=1e-12):
            return name
    return None
