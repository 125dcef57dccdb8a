"""Define the functions that `difference.py` fits, on [-1, 1]^d: with kinks, steps, poles near the axis, scales."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """A function of x `[..., inputs]` in [-1, 1], with values `[...]`."""

    inputs: int
    function: Callable[[Tensor], Tensor]
    points: int
    """Of the held-out grid along each axis."""
    about: str

    def grid(self) -> Tensor:
        """Return the middles of the cells that divide [-1, 1]^d, `[points^d, inputs]` in float64."""
        axis = (torch.arange(self.points, dtype=torch.float64) + 0.5) * (2 / self.points) - 1
        return torch.cartesian_prod(*[axis] * self.inputs).view(-1, self.inputs)

    def standardized(self, x: Tensor) -> Tensor:
        """Compute the values minus their mean over the grid, in their standard deviations there; in x's type."""
        there = self.function(self.grid())
        return ((self.function(x.double()) - there.mean()) / there.std(correction=0)).to(x.dtype)


def kinks(x: Tensor) -> Tensor:
    """Compute the piecewise linear |x + 0.6| - 2 |x + 0.1| + 2 |x - 0.3| - |x - 0.7|."""
    (x,) = x.unbind(-1)
    return (x + 0.6).abs() - 2 * (x + 0.1).abs() + 2 * (x - 0.3).abs() - (x - 0.7).abs()


def steps(x: Tensor) -> Tensor:
    """Compute a staircase that jumps by 1 at -0.5, by -2 at 0.1 and by 1.5 at 0.6."""
    (x,) = x.unbind(-1)
    return (x > -0.5).to(x.dtype) - 2 * (x > 0.1) + 1.5 * (x > 0.6)


def poles(x: Tensor) -> Tensor:
    """Compute the sum of two of Runge's functions, with poles at 0.3 +- 0.05i and -0.4 +- 0.1i."""
    (x,) = x.unbind(-1)
    return 1 / (1 + ((x - 0.3) / 0.05) ** 2) - 1 / (1 + ((x + 0.4) / 0.1) ** 2)


def scales(x: Tensor) -> Tensor:
    """Compute sin(pi x) + sin(3 pi x) / 2 + sin(9 pi x) / 4."""
    (x,) = x.unbind(-1)
    return sum(torch.sin(3**k * torch.pi * x) / 2**k for k in range(3))


def minimum_time(x: Tensor) -> Tensor:
    """Compute the least time in which x'' = u, |u| <= 1, comes from position and speed `[..., 2]` to rest at 0.

    The optimal u has one switch, on the curve p = -v |v| / 2 (Pontryagin et al. 1962). On one side of the curve, the
    slope of the time is infinite.
    """
    p, v = x.unbind(-1)
    side = torch.where(p + v * v.abs() / 2 >= 0, 1.0, -1.0)
    return side * v + (4 * side * p + 2 * v * v).clamp(min=0).sqrt()


def minimum_time_of_two(x: Tensor) -> Tensor:
    """Compute the least time in which two systems `[..., 4]` are at rest at 0 both: the later one's."""
    return torch.maximum(minimum_time(x[..., :2]), minimum_time(x[..., 2:]))


TARGETS = {
    "kinks": Target(1, kinks, 2000, "four kinks"),
    "poles": Target(1, poles, 2000, "poles 0.05 and 0.1 off the axis"),
    "control": Target(2, minimum_time, 45, "value of a bang-bang control: double integrator, minimum time"),
    "steps": Target(1, steps, 2000, "three steps"),
    "scales": Target(1, scales, 2000, "sines with 1, 3 and 9 periods"),
    "two controls": Target(4, minimum_time_of_two, 7, "the same for two double integrators at once"),
}
