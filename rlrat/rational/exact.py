"""Define activation functions in arithmetic of any precision, with their settings and the kinks between their branches.

PyTorch computes them in float64 at best. A certificate needs them in ball arithmetic (python-flint), a fit whose error
is below rounding in many digits (mpmath): a branch is a formula that is given x, in either, and the functions of it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any

import torch
from torch import nn

from .called import known
from .table import FUNCTIONS, Function

Branch = Callable[[Any, Any], Any]
"""A formula of x, and of what has the functions `exp`, `log` and `erf`."""


@dataclass(frozen=True)
class Exact:
    """Hold the branches of a function, from left to right, and the kinks between them, one fewer."""

    branches: tuple[Branch, ...]
    kinks: tuple[float, ...] = ()

    def at(self, x: float | Fraction) -> Branch:
        """Return the branch that holds at x; at a kink, the one on its right."""
        return self.branches[sum(kink <= x for kink in self.kinks)]


class _Methods:
    """Call exp, log and erf as methods of their argument, which is how python-flint has them."""

    @staticmethod
    def exp(x: Any) -> Any:
        return x.exp()

    @staticmethod
    def log(x: Any) -> Any:
        return x.log()

    @staticmethod
    def erf(x: Any) -> Any:
        return x.erf()


METHODS = _Methods()
_TANH_GELU = 0.044715


def _sigmoid(x: Any, ops: Any) -> Any:
    return 1 / (1 + ops.exp(-x))


def _tanh(x: Any, ops: Any) -> Any:
    return 1 - 2 / (ops.exp(2 * x) + 1)


def _constant(value: float) -> Branch:
    return lambda x, ops: 0 * x + value


def _line(slope: float, offset: float = 0.0) -> Branch:
    return lambda x, ops: slope * x + offset


def _elu(alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Exact:
    return Exact((lambda x, ops: (ops.exp(x * input_scale) - 1) * alpha * scale, _line(scale)), (0.0,))


def _celu(alpha: float = 1.0) -> Exact:
    return Exact((lambda x, ops: (ops.exp(x / alpha) - 1) * alpha, _line(1.0)), (0.0,))


def _selu() -> Exact:
    return _elu(1.6732632423543772848170429916717, 1.0507009873554804934193349852946)


def _gelu(approximate: str = "none") -> Exact:
    if approximate == "tanh":
        # 2 / pi is a double in PyTorch: its square root, rounded.
        root = math.sqrt(2) * (2 / math.sqrt(math.pi)) * 0.5
        return Exact((lambda x, ops: x / 2 * (1 + _tanh((x + x * x * x * _TANH_GELU) * root, ops)),))
    return Exact((lambda x, ops: x / 2 * (1 + ops.erf(x * math.sqrt(0.5))),))


def _mish(x: Any, ops: Any) -> Any:
    u = ops.exp(x)
    return x * (1 - 2 / (u * u + 2 * u + 2))


def _softplus(beta: float = 1.0, threshold: float = 20.0) -> Exact | None:
    if not beta > 0:
        return None
    return Exact((lambda x, ops: ops.log(1 + ops.exp(x * beta)) / beta, _line(1.0)), (threshold / beta,))


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0) -> Exact:
    return Exact((_constant(min_val), _line(1.0), _constant(max_val)), (min_val, max_val))


def _leaky_relu(negative_slope: float = 0.01) -> Exact:
    return Exact((_line(negative_slope), _line(1.0)), (0.0,))


_DEFINITIONS: dict[str, Callable[..., Exact | None]] = {
    "abs": lambda: _leaky_relu(-1.0),
    "relu": lambda: _leaky_relu(0.0),
    "relu6": lambda: _hardtanh(0.0, 6.0),
    "leaky_relu": _leaky_relu,
    "prelu": lambda: _leaky_relu(0.25),
    "elu": _elu,
    "selu": _selu,
    "celu": _celu,
    "gelu": _gelu,
    "gelu_tanh": lambda: _gelu("tanh"),
    "silu": lambda: Exact((lambda x, ops: x * _sigmoid(x, ops),)),
    "mish": lambda: Exact((_mish,)),
    "softplus": _softplus,
    "sigmoid": lambda: Exact((_sigmoid,)),
    "logsigmoid": lambda: Exact((lambda x, ops: -ops.log(1 + ops.exp(-x)),)),
    "tanh": lambda: Exact((_tanh,)),
    "identity": lambda: Exact((_line(1.0),)),
    "hardtanh": _hardtanh,
    "hardswish": lambda: Exact(
        (_constant(0.0), lambda x, ops: x * (x + 3) / 6, _line(1.0)), (-3.0, 3.0)
    ),
    "hardsigmoid": lambda: Exact((_constant(0.0), lambda x, ops: (x + 3) / 6, _constant(1.0)), (-3.0, 3.0)),
    "softsign": lambda: Exact((lambda x, ops: x / (1 - x), lambda x, ops: x / (1 + x)), (0.0,)),
    "tanhshrink": lambda: Exact((lambda x, ops: x - _tanh(x, ops),)),
}  # fmt: skip
# What the modules call their settings.
_SETTINGS = {
    nn.LeakyReLU: ("negative_slope",), nn.ELU: ("alpha",), nn.CELU: ("alpha",), nn.GELU: ("approximate",),
    nn.Softplus: ("beta", "threshold"), nn.Hardtanh: ("min_val", "max_val"),
    **dict.fromkeys((nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.LogSigmoid, nn.Tanh, nn.Identity,
                     nn.Hardswish, nn.Hardsigmoid, nn.Softsign, nn.Tanhshrink), ()),
}  # fmt: skip


def define(function: str | Function) -> Exact | None:
    """Find the definition of a name in `FUNCTIONS`, a PyTorch function or module, or return None for any other.

    A module counts with its settings, a functools.partial with its keywords. A function of the user's has no
    definition, whatever its values, nor has a module with hooks, which may change them.
    """
    if isinstance(function, str):
        return _DEFINITIONS[function]()
    if isinstance(function, nn.Module) and (
        function._forward_hooks or function._forward_pre_hooks or "forward" in vars(function)
    ):
        return None
    for name, entry in FUNCTIONS.items():
        if function is entry:
            return _DEFINITIONS[name]()
    if type(function) is nn.PReLU:
        return _leaky_relu(function.weight.item()) if function.num_parameters == 1 else None
    if type(function) in _SETTINGS:
        settings = {name: getattr(function, name) for name in _SETTINGS[type(function)]}
        return _DEFINITIONS[type(function).__name__.lower().replace("leakyrelu", "leaky_relu")](**settings)
    name = "abs" if function is torch.abs else known(function)
    if name not in _DEFINITIONS or name == "prelu":
        return None
    if isinstance(function, partial):
        settings = {key: value for key, value in function.keywords.items() if key != "inplace"}
        try:
            return None if function.args else _DEFINITIONS[name](**settings)
        except TypeError:
            return None
    return _DEFINITIONS[name]()
