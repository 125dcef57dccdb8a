"""What the trained activations of a learner do on a batch: TensorBoard's scalars and the lines of `activations.csv`."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlrat.activations import PReLU
from rlrat.rational import Rational

BINS = 40
_INPUTS = 16_384  # about as many of a layer's inputs make a histogram, so that it takes a millisecond
_GROUPS = 8  # of more groups the first ones are kept: no picture shows hundreds of functions
_QUANTILES = (0.001, 0.999)  # a histogram over every input would be one bar where one input is far away


@torch.no_grad()
def _look(learner: nn.Module, batch: tuple, look: Callable[[str, Any, Tensor], None], *kinds: type) -> None:
    """`look(name, layer, inputs)` at every layer of these kinds while `learner.inspect` passes the batch through it."""
    names = {layer: name for name, layer in learner.named_modules() if isinstance(layer, kinds)}

    def hook(layer: nn.Module, args: tuple, kwargs: dict) -> None:
        look(names[layer], layer, layer.argument(*args, **kwargs) if isinstance(layer, Rational) else args[0])

    handles = [layer.register_forward_pre_hook(hook, with_kwargs=True) for layer in names]
    try:
        if handles:
            learner.inspect(batch)
    finally:
        for handle in handles:
            handle.remove()


def rational_scalars(learner: nn.Module, batch: tuple) -> dict[str, Tensor]:
    """What each rational layer does on `batch`, `[S]` each, a mean over its critics and groups.

    The slope that it tends to at large |x|, its largest slope on the inputs seen, and the share of inputs outside the
    interval that its initial coefficients were fitted on.
    """
    scalars: dict[str, Tensor] = {}

    def look(name: str, layer: Rational, x: Tensor) -> None:
        seeds = x.shape[0]
        low, high = layer.interval
        scalars[f"rational/{name}/asymptotic_slope"] = layer.asymptotic_slope().reshape(seeds, -1).mean(1).cpu()
        scalars[f"rational/{name}/largest_slope"] = layer.derivative(x).abs().reshape(seeds, -1).amax(1).cpu()
        scalars[f"rational/{name}/outside"] = ((x < low) | (x > high)).float().reshape(seeds, -1).mean(1).cpu()

    _look(learner, batch, look, Rational)
    return scalars


def activation_rows(learner: nn.Module, batch: tuple) -> list[list[dict[str, Any]]]:
    """For each seed the lines of `activations.csv`: every trained activation's coefficients and inputs.

    One line for each layer, part (0 and 1 for a pair of critics) and group, of which the first 8 are kept. `counts` is
    a histogram of some 16,000 inputs over 40 equal bins from `low` to `high`, between which 99.8% of them lie. A PReLU
    is of version `prelu`, its slope the numerator. Without a trained activation there are no lines. Nothing of the
    learner changes.
    """
    rows: list[list[dict[str, Any]]] = [[] for _ in range(learner.guard.alive.shape[0])]

    def look(name: str, layer: Rational | PReLU, x: Tensor) -> None:
        version, *coefficients = _form(layer)
        seeds, groups = x.shape[0], coefficients[0].shape[-2]
        parts = coefficients[0][..., 0, 0].numel() // seeds
        kept = min(groups, _GROUPS)
        x = x.reshape(seeds, parts, -1, groups, x.shape[-1] // groups)[:, :, :, :kept].movedim(3, 2).flatten(3)
        inputs = x[..., :: x.shape[-1] // _INPUTS | 1].float().cpu().numpy()  # an odd step meets every feature
        numerator, denominator = (c.reshape(seeds, parts, groups, -1).float().cpu().numpy() for c in coefficients)
        for seed, part, group in np.ndindex(seeds, parts, kept):
            at = seed, part, group
            low, high, counts = _histogram(inputs[at])
            rows[seed].append(
                {
                    "layer": name.removesuffix(".activation"),
                    "part": part,
                    "group": group,
                    "version": version,
                    "numerator": _numbers(numerator[at]),
                    "denominator": _numbers(denominator[at]),
                    "low": f"{low:.6g}",
                    "high": f"{high:.6g}",
                    "counts": " ".join(map(str, counts)),
                }
            )

    _look(learner, batch, look, Rational, PReLU)
    return rows


def _form(layer: Rational | PReLU) -> tuple[str, Tensor, Tensor]:
    """Its version and coefficients `[*batch_shape, groups, n]`; a PReLU's slope takes the numerator's place."""
    if isinstance(layer, Rational):
        return layer.version, layer.numerator, layer.denominator
    slope = layer.weight[..., None, None]
    return "prelu", slope, slope[..., :0]


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in values)  # which float32 reads back bit for bit


def _histogram(inputs: np.ndarray) -> tuple[float, float, np.ndarray]:
    """The range that holds nearly all finite inputs, and how many lie in each of its bins."""
    inputs = inputs[np.isfinite(inputs)]
    if not len(inputs):
        return 0.0, 0.0, np.zeros(BINS, dtype=np.int64)
    low, high = np.quantile(inputs, _QUANTILES)
    if low == high:  # all inputs are one number
        high = low + max(abs(low), 1.0) * 1e-3
    return float(low), float(high), np.histogram(inputs, BINS, (low, high))[0]
