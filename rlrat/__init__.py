"""rlrat: offline reinforcement learning in which the activation function is a first-class choice.

Names are loaded when first used (PEP 562), so that `import rlrat` costs nothing and `--help` needs no torch.
"""

from importlib import import_module

_HOMES = {
    "Dataset": "datasets",
    "InputError": "errors",
    "Rational": "rational",
    "evaluate": "evaluation",
    "load_dataset": "datasets",
    "load_policy": "loading",
    "make_activation": "activations",
    "normalized_score": "scores",
    "rationalize": "rational",
}
# `rational` is both the package and, called, the function: the module itself is callable.
_MODULES = ("activations", "rational")
__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str):
    if name in _MODULES:
        return import_module(f"rlrat.{name}")
    if name in _HOMES:
        return getattr(import_module(f"rlrat.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'rlrat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
