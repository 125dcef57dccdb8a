"""Find the coefficients that a rational starts with: in the committed table, or by a fit made on demand."""

import torch

from .fit import fit
from .reference import VERSIONS
from .table import FUNCTIONS, Fit, Function, sample, table

_fitted: dict[tuple[bytes, tuple[int, int], str], Fit] = {}
# Functions are known by their values here, so that two modules with equal settings share one fit.
_PROBE = torch.linspace(-20.0, 20.0, 201, dtype=torch.float64, device="cpu")


def find(function: str | Function, degrees: tuple[int, int] = (5, 4), version: str = "A") -> Fit:
    """Find the fit of a name in `FUNCTIONS`, or of any elementwise PyTorch function or module.

    It is the best on (-5, 5), with a bounded tail. It comes from the table if it is there; else it is computed once,
    which takes up to some seconds, and kept for the life of the process.

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
        _fitted[key] = fit(function, degrees, version)
    return _fitted[key]


def _name(function: Function) -> str | None:
    """Return the name of the entry of `FUNCTIONS` that has the same values as this function."""
    values = sample(function, _PROBE)
    for name, known in FUNCTIONS.items():
        if torch.allclose(values, known(_PROBE), rtol=1e-9, atol=1e-12):
            return name
    return None
