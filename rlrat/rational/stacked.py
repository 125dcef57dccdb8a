"""Compute a rational of one seed by few plain operations, for graphs that run where rlrat is not."""

import math

import torch
from torch import Tensor, nn

from .module import Rational
from .op import rational
from .reference import guard, polynomials

_LARGEST_POWER = 100.0  # x^degree is at most 2^100, as in reference.py
_CLOSE = 1e-5  # relative error of a `StackedRational` beyond its limit


class StackedRational(nn.Module):
    """Compute R(x) = P(x) / Q(x), P and Q in one Horner scheme over twice the features: half as many operations.

    Beyond |x| = `limit`, where powers would overflow, R goes on with its limiting slope. Coefficients of P and, behind
    them, of Q stand for each feature in `power_0`, `power_1`, ...
    """

    version: str
    features: int
    degree: int
    limit: float
    slope: Tensor

    def __init__(self, source: Rational, features: int) -> None:
        super().__init__()
        self.version, self.features = source.version, features
        x = torch.zeros(1, features)
        _, a, c = polynomials(x, source.numerator.detach()[0], source.denominator.detach()[0], source.version)
        a, c = a.flatten(0, -2), c.flatten(0, -2)
        degree = max(a.shape[-1], c.shape[-1], 2) - 1
        self.degree, self.limit = degree, 2.0 ** (_LARGEST_POWER / degree)
        width = features // source.groups
        for power in range(degree + 1):
            both = [t[:, power] if power < t.shape[-1] else torch.zeros(len(t)) for t in (a, c)]
            row = torch.cat([part.repeat_interleave(width) for part in both])
            self.register_buffer(f"power_{power}", row)
        slope = source.asymptotic_slope().reshape(source.groups).repeat_interleave(width)
        self.register_buffer("slope", slope)
        self._grows = bool(slope.any())

    def forward(self, x: Tensor) -> Tensor:
        """Compute R(x) for x `[..., features]`."""
        near = x.clamp(-self.limit, self.limit)
        v = torch.cat([near, near.abs() if self.version == "A" else near], dim=-1)
        y = getattr(self, f"power_{self.degree}")
        for power in reversed(range(self.degree)):
            y = y * v + getattr(self, f"power_{power}")
        p, q = y.split(self.features, dim=-1)
        r = p / guard(q, self.version)
        return r + (x - near) * self.slope if self._grows else r


class WholeRational(nn.Module):
    """Compute R(x) as `rational` writes it into graphs, for coefficients with which stacking is not exact."""

    version: str
    numerator: Tensor
    denominator: Tensor

    def __init__(self, source: Rational) -> None:
        super().__init__()
        self.version = source.version
        self.register_buffer("numerator", source.numerator.detach()[0].clone())
        self.register_buffer("denominator", source.denominator.detach()[0].clone())

    def forward(self, x: Tensor) -> Tensor:
        """Compute R(x) for x `[..., features]`."""
        return rational(x, self.numerator, self.denominator, self.version)


def plain_rational(source: Rational, features: int) -> nn.Module:
    """Return a module that computes a rational of one seed by few operations, or else by those that always fit.

    Up to the limit both compute the same polynomials. Beyond, R may be far from a line still, such as where a last
    coefficient is tiny.
    """
    stacked = StackedRational(source, features)
    sizes = torch.logspace(math.log10(stacked.limit), 37.0, 200)
    x = torch.cat([-sizes, sizes]).unsqueeze(-1).expand(-1, features)
    ours, expected = stacked(x), source(x.unsqueeze(0))[0]
    is_close = (ours == expected) | ((ours - expected).abs() <= _CLOSE * (1.0 + expected.abs()))  # or as infinite
    ends = torch.tensor([[-math.inf], [math.inf]]).expand(-1, features)
    is_lost = source(ends.unsqueeze(0))[0].isfinite() & ~stacked(ends).isfinite()
    return WholeRational(source) if is_lost.any() or not is_close.all() else stacked
