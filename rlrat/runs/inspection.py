"""Record what trained activations do on a batch: scalars of rationals, and the lines of `activations.csv`."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlrat.networks.activations import PReLU
from rlrat.rational import Rational
from rlrat.runs.schema import CUSTOM, PRELU
from rlrat.updates.learner import Learner
from rlrat.updates.trained_activations import trained_activations

BINS = 40
_HISTOGRAM_INPUTS = 16_384  # of a layer, about: with so many a histogram takes a millisecond
_KEPT_GROUPS = 8  # the first ones: no picture shows hundreds of functions
_KEPT_PARAMETERS = 64  # of a trained activation that is no rational or PReLU
_QUANTILES = (0.001, 0.999)  # a histogram over every input would be one bar where one input is far away


@torch.no_grad()
def _look(
    learner: Learner, batch: tuple[Any, ...], look: Callable[[str, Any, Tensor], None], layers: Mapping[str, nn.Module]
) -> None:
    """Call `look(name, layer, inputs)` for each of `layers` while `learner.inspect` passes the batch through them.

    A layer that stands at several places is looked at once, with the first inputs that it meets.
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


def rational_scalars(learner: Learner, batch: tuple[Any, ...]) -> dict[str, Tensor]:
    """Measure what each rational layer does on `batch`: scalars `[S]`, each over all its critics and groups.

    They are the slope that it tends to at large |x|, its largest slope on these inputs, and the share of inputs outside
    the interval that its initial coefficients were fitted on.
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


def activation_rows(learner: Learner, batch: tuple[Any, ...]) -> list[list[dict[str, Any]]]:
    """Make the lines of `activations.csv` for each seed: every trained activation's coefficients and inputs.

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
        kept = min(groups, _KEPT_GROUPS)
        x = x.reshape(seeds, parts, -1, groups, x.shape[-1] // groups)[:, :, :, :kept].movedim(3, 2).flatten(3)
        inputs = x[..., :: x.shape[-1] // _HISTOGRAM_INPUTS | 1].float().cpu().numpy()  # odd: every feature is met
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
    """Return its version and coefficients `[*batch_shape, groups, n]`: of no rational, parameters as the numerator."""
    if isinstance(layer, Rational):
        return layer.version, layer.numerator, layer.denominator
    if isinstance(layer, PReLU):
        parameters, version = layer.weight[..., None, None], PRELU
    else:  # parameters without a seed axis belong to every seed
        every = [p if p.ndim and p.shape[0] == seeds else p.expand(seeds, *p.shape) for p in layer.parameters()]
        flat = [p.reshape(seeds, 1, -1).float() for p in every]
        parameters = torch.cat(flat, dim=-1)[..., :_KEPT_PARAMETERS] if flat else torch.empty(seeds, 1, 0)
        version = CUSTOM + re.sub(r"\W", "_", type(layer).__name__)
    return version, parameters, parameters[..., :0]


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in values)  # digits from which float32 is read back bit for bit


def _histogram(inputs: np.ndarray) -> tuple[float, float, np.ndarray]:
    """Find the range that holds nearly all finite inputs, and count those in each of its bins."""
    inputs = inputs[np.isfinite(inputs)]
    if not len(inputs):
        return 0.0, 0.0, np.zeros(BINS, dtype=np.int64)
    low, high = np.quantile(inputs, _QUANTILES)
    if low == high:  # all inputs are one number
        high = low + max(abs(low), 1.0) * 1e-3
    return float(low), float(high), np.histogram(inputs, BINS, (low, high))[0]
