"""Hold what a construction is made of: what computes it, in numbers that only know + - * /, and what is known of it.

What computes is a frozen dataclass whose fields are constants (mpmath numbers), tuples of them, or others of its kind,
and whose `__call__` is the one definition. It runs on a tensor, an mpmath number, an object array of them, or a number
that counts (traced.py).
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from mpmath import mpf

Real = Any
"""An mpmath number: mpmath has no types."""
Number = Any
"""What has + - * / : a tensor, an mpmath number, an object array of those, a number that counts."""


@dataclass(frozen=True)
class Plan:
    """Say what computes a function of x, and how well.

    `error` is the largest absolute error on `domain` where |x| >= `gap`, in exact arithmetic: an upper bound. `inputs`
    is how many entries of the last axis make a value: all of a softmax's, two of a gate's.
    """

    compute: Callable[[Number], Number]
    error: Real
    domain: tuple[Real, Real]
    gap: Real | int = 0
    inputs: int = 1


def convert(part: Any, number: Callable[[Real], Any]) -> Any:
    """Copy what computes, each constant turned into another kind of number."""
    if isinstance(part, mpf):
        return number(part)
    if isinstance(part, tuple):
        return tuple(convert(entry, number) for entry in part)
    if is_dataclass(part) and not isinstance(part, type):
        return replace(part, **{field.name: convert(getattr(part, field.name), number) for field in fields(part)})
    return part


def constants(part: Any) -> list[Real]:
    """List the constants of what computes."""
    found: list[Real] = []
    convert(part, lambda constant: found.append(constant) or constant)
    return found
