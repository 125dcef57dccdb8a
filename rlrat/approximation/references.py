"""Compute in mpmath what the constructions approximate, at the precision that is set."""

from collections.abc import Callable
from typing import Any

from mpmath import exp, log, mpf, tanh
from mpmath import root as nth_root


def relu(x: mpf) -> mpf:
    return max(x, mpf(0))


def sign(x: mpf) -> mpf:
    return mpf((x > 0) - (x < 0))


def step(x: mpf) -> mpf:
    return (1 + sign(x)) / 2


def root(x: mpf, p: int = 2) -> mpf:
    return nth_root(x, p)


REFERENCES: dict[str, Callable[..., Any]] = {
    "relu": relu,
    "abs": abs,
    "sign": sign,
    "step": step,
    "root": root,
    "exp": exp,
    "log": log,
    "tanh": tanh,
}
"""By name; settings of a construction that change its function are arguments of the same name."""
