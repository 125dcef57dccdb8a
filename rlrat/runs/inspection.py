"""What the trained activations of a learner do on a batch: TensorBoard's scalars and the lines of `activations.csv`."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlrat.networks.activations import PReLU
from rlrat.rational import Rational
from rlrat.runs.schema import CUSTOM, PRELU
from rlrat.updates.trained import trained_activations

BINS = 40
_INPUTS = 16_384  # about as many of a layer's inputs make a histogram, so that it takes a millisecond
_GROUPS = 8  # of more groups the first ones are kept: no picture shows hundreds of functions
_PARAMETERS = 64  # of a trained activation that has another form
_QUANTILES = (0.001, 0.999)  # a histogram over every input would be one bar where one input is far away


@torch.no_grad()
def _look(
    learner: nn.Module, batch: tuple, look: Callable[[str, Any, Tensor], None], layers: Mapping[str, nn.Module]
) -> None:
    """`look(name, layer, inputs)` at these layers while `learner.inspect` passes the batch through them.

    Where a layer is at several places, at the first inputs that it meets.
    """
    names = {layer: name for name, layer in layers.items()}

    def hook(layer: nn.Module, args: tuple, kwargs: dict) -> None:
        if layer in names:
            argument = getattr(layer, "argument", lambda *args, **kwargs: next(iter((*args, *kwargs.values()))))
            look(names.pop(layer), layer, argument(*args, **kwargs))

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

    layers = trained_activations(learner).items()
    _look(learner, batch, look, {name: layer for name, layer in layers if isinstance(layer, Rational)})
    return scalars


def activation_rows(learner: nn.Module, batch: tuple) -> list[list[dict[str, Any]]]:
    """For each seed the lines of `activations.csv`: every trained activation's coefficients and inputs.

    One line for each layer, part (0 and 1 for a pair of critics) and group, of which the first 8 are kept. `counts` is
    a histogram of some 16,000 inputs over 40 equal bins from `low` to `high`, between which 99.8% of them lie. A PReLU
    is of version `prelu`, its slope the numerator. Any other trained activation is of version `custom:<class>` and has
    one line, with the first 64 of its parameters, in their order, as the numerator. Without a trained activation there
    are no lines. Nothing of the learner changes.
    """
    seeds = learner.guard.alive.shape[0]
    rows: list[list[dict[str, Any]]] = [[] for _ in range(seeds)]

    def look(name: str, layer: nn.Module, x: Tensor) -> None:
        version, *coefficients = _form(layer, seeds)
        if version.startswith(CUSTOM):  # its axes may mean anything
            x = (x if x.ndim and x.shape[0] == seeds else x.expand(seeds, *x.shape)).reshape(seeds, 1, -1)
        groups = coefficients[0].shape[-2]
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

    _look(learner, batch, look, trained_activations(learner))
    return rows


def _form(layer: nn.Module, seeds: int) -> tuple[str, Tensor, Tensor]:
    """Its version and coefficients `[*batch_shape, groups, n]`; others' parameters take the numerator's place."""
    if isinstance(layer, Rational):
        return layer.version, layer.numerator, layer.denominator
    if isinstance(layer, PReLU):
        parameters, version = layer.weight[..., None, None], PRELU
    else:  # those without a seed axis are all seeds'
        every = [p if p.ndim and p.shape[0] == seeds else p.expand(seeds, *p.shape) for p in layer.parameters()]
        flat = [p.reshape(seeds, 1, -1).float() for p in every]
        parameters = torch.cat(flat, dim=-1)[..., :_PARAMETERS] if flat else torch.empty(seeds, 1, 0)
        version = CUSTOM + re.sub(r"\W", "_", type(layer).__name__)
    return version, parameters, parameters[..., :0]


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
