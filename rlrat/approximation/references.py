"""Compute in mpmath what the constructions approximate, at the precision that is set."""

from collections.abc import Callable

from mpmath import mpf

Scalar = Callable[[mpf], mpf]


def _relu(x: mpf) -> mpf:
    return max(x, mpf(0))


def _sign(x: mpf) -> mpf:
    return mpf((x > 0) - (x < 0))


def _step(x: mpf) -> mpf:
    return (1 + _sign(x)) / 2


REFERENCES: dict[str, Scalar] = {"abs": abs, "relu": _relu, "sign": _sign, "step": _step}
