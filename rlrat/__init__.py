"""rlrat: offline reinforcement learning in which the activation function is a first-class choice.

Names are loaded when first used (PEP 562), so that `import rlrat` costs nothing and `--help` needs no torch.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package that hands on names and loads each when first used (PEP 562).

    Args:
        package: its `__name__`.
        homes: each public name, and the module below the package that it lives in.
    """
    names = sorted(homes)

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return load, lambda: names, names


_HOMES = {
    "Dataset": "datasets",
    "InputError": "errors",
    "Rational": "rational",
    "evaluate": "evaluation",
    "load_dataset": "datasets",
    "load_policy": "runs",
    "make_activation": "networks",
    "normalized_score": "evaluation",
    "rationalize": "rational",
    "train": "runs",
}
# `rational` is both the package and, called, the function: the module itself is callable.
_MODULES = ("activations", "rational")
__all__ = sorted([*_HOMES, *_MODULES])
_load, _, _ = lazy(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    return import_module(f"rlrat.{name}") if name in _MODULES else _load(name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
