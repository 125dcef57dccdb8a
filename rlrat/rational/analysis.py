"""Find the poles, the zeros and the largest slope of a rational on the real line, and plot it.

The functions take coefficients as `rational` does; the tensors that they return are float64 and on the CPU.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.polynomial.polynomial import polyder, polymul, polysub, polyval
from torch import Tensor

from .op import rational
from .table import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RELATIVE_ROUNDING = 2.0**-23  # twice the largest relative change of a coefficient by rounding to float32
# The colours of Okabe and Ito, without black and yellow: the colour-blind can tell them apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")


def real_roots(polynomial: np.ndarray) -> np.ndarray:
    """Find the real roots of a polynomial, each once and ascending.

    The polynomial is given by its coefficients, constant term first. The roots are the eigenvalues of the companion
    matrix. A root with an imaginary part counts as real, and neighbouring roots count as one, their mean, where a
    relative change of 2^-23 in each coefficient can make the polynomial zero: a multiple root is one root, whatever
    rounding to float32 has made of it. A constant has no roots, not even the constant zero.
    """
    roots = np.roots(polynomial[::-1])
    roots = np.sort(roots.real[(roots.imag == 0) | _vanishes(polynomial, roots.real)])
    apart = (roots[1:] > roots[:-1]) & ~_vanishes(polynomial, (roots[1:] + roots[:-1]) / 2)
    return np.array([cluster.mean() for cluster in np.split(roots, np.flatnonzero(apart) + 1) if len(cluster)])


def _vanishes(polynomial: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Say at which x rounding of the coefficients can make the polynomial zero."""
    return np.abs(polyval(x, polynomial)) <= _RELATIVE_ROUNDING * polyval(np.abs(x), np.abs(polynomial))


def poles(denominator: Tensor, version: str) -> Tensor:
    """Find the real poles; see `Rational.poles`."""
    rows = _rows(denominator)
    return _padded([real_roots(np.append(1.0, b)) if version == "N" else np.empty(0) for b in rows], denominator)


def zeros(numerator: Tensor, denominator: Tensor, version: str) -> Tensor:
    """Find the real zeros; see `Rational.zeros`."""
    found = [real_roots(a) for a in _rows(numerator)]
    if version == "N":
        q = [np.append(1.0, b) for b in _rows(denominator)]
        found = [roots[~_vanishes(q, roots)] for roots, q in zip(found, q, strict=True)]
    return _padded(found, numerator)


def _rows(coefficients: Tensor) -> np.ndarray:
    """Return the coefficients as `[rows, coefficients]`, a row for each batch entry and group."""
    rows = coefficients.detach().to("cpu", torch.float64).flatten(0, -2).numpy()
    if not np.isfinite(rows).all():
        raise ValueError("the coefficients are not all finite")
    return rows


def _padded(found: Sequence[np.ndarray], coefficients: Tensor) -> Tensor:
    """Return the rows found as `[*batch, groups, k]`, those that are shorter than the longest padded with NaN."""
    result = torch.full((len(found), max(map(len, found), default=0)), math.nan, dtype=torch.float64, device="cpu")
    for row, values in zip(result, found, strict=True):
        row[: len(values)] = torch.from_numpy(values)
    return result.reshape(*coefficients.shape[:-1], result.shape[-1])


def largest_slope(numerator: Tensor, denominator: Tensor, version: str, interval: tuple[float, float]) -> Tensor:
    """Find the largest |dR/dx| on an interval; see `Rational.largest_slope`."""
    low, high = _checked(interval)
    rows = zip(_rows(numerator), _rows(denominator), strict=True)
    found = [_largest_slope(a, b, version, low, high) for a, b in rows]
    return torch.tensor(found, dtype=torch.float64, device="cpu").reshape(numerator.shape[:-1])


def _checked(interval: tuple[float, float]) -> tuple[float, float]:
    low, high = map(float, interval)
    if not -math.inf < low < high < math.inf:
        raise ValueError(f"an interval must be finite and low < high, not {interval}")
    return low, high


def _largest_slope(a: np.ndarray, b: np.ndarray, version: str, low: float, high: float) -> float:
    """Find the largest |R'| for one row of coefficients.

    On each piece where Q is a polynomial, |R'| is largest at an end or where R'' = 0. Other points do no harm: of
    complex roots the real parts are tried, so that a rounding error in an imaginary part hides no root.
    """
    inner = b if version == "C" else np.append(0.0 if version == "B" else 1.0, b)
    if version == "N" and np.any((real_roots(inner) >= low) & (real_roots(inner) <= high)):
        return math.inf
    corners = np.zeros(1) if version == "A" else np.roots(inner[::-1]).real
    edges = [low, *np.sort(corners[(corners > low) & (corners < high)]), high]
    largest = 0.0
    for left, right in pairwise(edges):
        middle = (left + right) / 2
        if version == "A":
            q = np.abs(inner) * np.sign(middle) ** np.arange(len(inner))
        elif version == "N":
            q = inner
        else:
            q = inner * np.sign(polyval(middle, inner))
            q[0] += 0.1 if version == "C" else 1.0
        dq = polyder(q)
        slope = polysub(polymul(polyder(a), q), polymul(a, dq))  # R' = slope / Q^2
        curvature = polysub(polymul(polyder(slope), q), 2 * polymul(slope, dq))  # R'' = curvature / Q^3
        x = np.clip([left, right, *np.roots(curvature[::-1]).real], left, right)
        largest = max(largest, np.abs(polyval(x, slope) / polyval(x, q) ** 2).max())
    return float(largest)


def plot(
    numerator: Tensor,
    denominator: Tensor,
    version: str,
    initial: Fit,
    inputs: Tensor | Sequence[Tensor] | None,
    interval: tuple[float, float] | None,
    ax: "Axes | None",
) -> "Axes":
    """Draw R, the initial R and a histogram of the inputs; see `Rational.plot`."""
    low, high = _checked(initial.interval if interval is None else interval)
    if inputs is not None:
        tensors = [inputs] if isinstance(inputs, Tensor) else list(inputs)
        seen = np.concatenate([np.empty(0), *(t.detach().to("cpu", torch.float64).flatten().numpy() for t in tensors)])
        seen = seen[np.isfinite(seen)]
        if len(seen) == 0:
            raise ValueError("there are no finite inputs to plot")
        if interval is None:
            low, high = min(low, np.quantile(seen, 0.001)), max(high, np.quantile(seen, 0.999))
    singular = poles(denominator, version).flatten(0, -2).numpy()
    x = np.union1d(np.linspace(low, high, 2001), singular[(singular > low) & (singular < high)])
    y = _values(x, numerator, denominator, version)
    for line, at in zip(y, singular, strict=True):
        line[np.isin(x, at)] = np.nan  # else a line would join the two sides of a pole

    if ax is None:
        try:
            from matplotlib import pyplot
        except ImportError:
            raise RuntimeError("a plot needs matplotlib: pip install matplotlib") from None
        _, ax = pyplot.subplots(figsize=(6, 4), layout="constrained")
    if len(y) <= len(_COLOURS):
        for line, colour, label in zip(y, _COLOURS, _labels(numerator), strict=False):
            ax.plot(x, line, color=colour, linewidth=2, label=label)
    else:
        ax.fill_between(x, y.min(0), y.max(0), color=_COLOURS[0], alpha=0.25, linewidth=0, label=f"range of {len(y)}")
        ax.plot(x, np.median(y, axis=0), color=_COLOURS[0], linewidth=2, label="their median")
    first = (torch.tensor(c, dtype=torch.float32)[None] for c in (initial.numerator, initial.denominator))
    ax.plot(x, _values(x, *first, initial.version)[0], color="black", linewidth=1.2, linestyle="--", label="initial")
    if np.isnan(y).any():
        bottom, top = np.nanquantile(y, [0.03, 0.97])
        margin = 0.1 * (top - bottom)
        ax.set_ylim(bottom - margin, top + margin)
    if inputs is not None:
        counts, edges = np.histogram(seen, bins=80, range=(low, high))
        heights = 0.25 * counts / max(counts.max(), 1)
        ax.stairs(heights, edges, fill=True, color="0.85", transform=ax.get_xaxis_transform(), zorder=0, label="inputs")
    ax.set(xlabel="x", ylabel="R(x)", xlim=(low, high))
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return ax


def _values(x: np.ndarray, numerator: Tensor, denominator: Tensor, version: str) -> np.ndarray:
    """Compute R at the points x: `[rows, len(x)]`, a row for each batch entry and group."""
    a, b = (c.detach().to("cpu", torch.float64).flatten(0, -2) for c in (numerator, denominator))
    return rational(torch.from_numpy(x).repeat(len(a)), a, b, version).reshape(len(a), -1).numpy()


def _labels(coefficients: Tensor) -> list[str]:
    """Name each batch entry and group."""
    *batch, groups = coefficients.shape[:-1]
    labels = []
    for *index, group in np.ndindex(*batch, groups):
        parts = [f"batch {', '.join(map(str, index))}"] if math.prod(batch) > 1 else []
        parts += [f"group {group}"] if groups > 1 else []
        labels.append(", ".join(parts) or "learned")
    return labels
