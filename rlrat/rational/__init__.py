"""Rational activations: learnable P(x) / Q(x), in PyTorch. This package needs nothing else of rlrat.

`Rational` is the module, `rational` the function, `rationalize` swaps a model's activations for rationals, and `fit`
finds the best rational approximation of a function, as does `python -m rlrat.rational fit`.
"""

import sys
from types import ModuleType

from .backends import backend
from .fit import fit
from .module import Rational
from .op import rational
from .rationalization import Rationalization, Replaced, rationalized
from .reference import VERSIONS, derivative
from .replace import ACTIVATIONS, rationalize
from .table import FUNCTIONS, Certificate, Fit

__all__ = [
    "ACTIVATIONS",
    "FUNCTIONS",
    "VERSIONS",
    "Certificate",
    "Fit",
    "Rational",
    "Rationalization",
    "Replaced",
    "backend",
    "derivative",
    "fit",
    "rational",
    "rationalize",
    "rationalized",
]


class _CallableModule(ModuleType):
    # Users call this package as a function: rlrat.rational(x, numerator, denominator).
    def __call__(self, *args, **kwargs):
        return rational(*args, **kwargs)


sys.modules[__name__].__class__ = _CallableModule
