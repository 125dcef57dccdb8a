"""Name the functions that a rational can start as, and read the committed table of their fits.

`python -m rlrat.rational table` writes the table, fitted.json; initial.py looks in it.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = Callable[[Tensor], Tensor]

# PReLU has PyTorch's initial slope, LeakyReLU the default one; gelu is the exact one, with erf.
FUNCTIONS: dict[str, Function] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "prelu": partial(F.leaky_relu, negative_slope=0.25),
    "elu": F.elu,
    "selu": F.selu,
    "celu": F.celu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
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
class Certificate:
    """Say how large the error of a fit is, and how much smaller any could be.

    `upper` is the largest |R - f| on `interval`: proved, between samples, too, where `kind` is "certified", and the
    largest of many samples where it is "sampled". Of `lower` it is proved that no R of the same degrees and version has
    a smaller error (with a tail: none whose error on the interval and weighted error of the tail are both smaller);
    `within` is upper / lower. Both are None where nothing is proved.
    """

    upper: float
    lower: float | None
    within: float | None
    kind: str
    interval: tuple[float, float]


@dataclass(frozen=True)
class Fit:
    """Hold a rational R that is fitted to a function f.

    `max_error` is the largest |R(x) - f(x)| over `interval`, the `upper` of the `certificate`, which is None for
    coefficients that do not come from `fit`; `values` are R(-100), R(-10), R(10), R(100).
    """

    numerator: tuple[float, ...]
    denominator: tuple[float, ...]
    version: str
    interval: tuple[float, float]
    max_error: float
    values: tuple[float, float, float, float]
    certificate: Certificate | None = None

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
        certificate = Certificate(**_tuples(entry.pop("certificate")))
        fit = Fit(**_tuples(entry), max_error=certificate.upper, certificate=certificate)
        entries[name, fit.degrees, fit.version] = fit
    return entries


def _tuples(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}


def sample(function: Function, x: Tensor) -> Tensor:
    """Compute f at the points x (float64, one axis).

    Raises:
        ValueError: the function is not elementwise, is complex or raises an exception.
    """
    if isinstance(function, nn.Module):
        function = copy.deepcopy(function).to("cpu", torch.float64)
    name = getattr(function, "__name__", repr(function))
    with torch.no_grad():
        try:
            # In another order, for what sorts or adds up; clones, because the function may work in place.
            y, half = function(x.clone()), function(x.flip(0)[::2].clone())
        except Exception as error:  # whatever a function of the user's raises
            said = next(iter(str(error).splitlines()), "")
            raise ValueError(
                f"{name} cannot be computed on an axis of float64, so that a rational cannot approximate it: "
                f"{type(error).__name__}: {said}"
            ) from error
    is_kept = isinstance(y, Tensor) and y.shape == x.shape and isinstance(half, Tensor) and half.shape == x[::2].shape
    if not is_kept or not torch.allclose(y.flip(0)[::2], half, rtol=1e-9, equal_nan=True):
        raise ValueError(f"{name} is not an elementwise function, so that a rational cannot approximate it")
    if y.is_complex():
        raise ValueError(f"{name} is a complex function, which a rational with real coefficients cannot approximate")
    return y.double()
