"""Record what trained activations do on a batch: scalars of rationals, and the lines of `activations.csv`."""

import copy
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlrat.errors import reason, warn
from rlrat.runs.schema import CUSTOM, RATIONAL_VERSIONS
from rlrat.updates.learner import Learner
from rlrat.updates.trained_activations import trained_activations

BINS = 40
_HISTOGRAM_INPUTS = 16_384  # of a layer, about: with so many a histogram takes a millisecond
_KEPT_GROUPS = 8  # the first ones: no picture shows hundreds of functions
_KEPT_PARAMETERS = 64  # of a trained activation that is no rational or PReLU
_STEPS = 65  # of its values between the least and the greatest input
_undrawn: set[type] = set()  # classes that a warning has named
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


def activation_scalars(learner: Learner, batch: tuple[Any, ...]) -> dict[str, Tensor]:
    """Measure what each trained activation does on `batch`, as its `scalars` does, over all its critics and groups.

    Of rationals they are called `rational/<layer>/<name>`, of others `activation/<layer>/<name>`.
    """
    scalars: dict[str, Tensor] = {}

    def look(name: str, layer: Any, x: Tensor) -> None:
        group = "rational" if _version(layer) in RATIONAL_VERSIONS else "activation"
        scalars.update({f"{group}/{name}/{key}": value.cpu() for key, value in layer.scalars(x).items()})

    layers = trained_activations(learner).items()
    _look(learner, batch, look, {name: layer for name, layer in layers if hasattr(layer, "scalars")})
    return scalars


def activation_rows(learner: Learner, batch: tuple[Any, ...]) -> list[list[dict[str, Any]]]:
    """Make the lines of `activations.csv` for each seed: every trained activation's coefficients and inputs.

    One line for each layer, part (0 and 1 for a pair of critics) and group, of which the first 8 are kept. `counts` is
    a histogram of some 16,000 inputs over 40 equal bins from `low` to `high`, between which 99.8% of them lie. A PReLU
    is of version `prelu`, its slope the numerator. One of the user's is of version `custom:<class>`: its numerator has
    the first 64 of its parameters, in their order, its denominator its values at 65 equal steps from `low` to `high`.
    Without a trained activation there are no lines. Nothing of the learner changes.
    """
    seeds = learner.guard.alive.shape[0]
    rows: list[list[dict[str, Any]]] = [[] for _ in range(seeds)]

    def look(name: str, layer: nn.Module, x: Tensor) -> None:
        own = not hasattr(layer, "record")
        version, *coefficients = _custom(layer, x, seeds) if own else layer.record()
        groups = coefficients[0].shape[-2]
        parts = coefficients[0][..., 0, 0].numel() // seeds
        kept = min(groups, _KEPT_GROUPS)
        inputs = x if x.ndim and x.shape[0] == seeds else x.expand(seeds, *x.shape)  # the user's axes may mean anything
        inputs = inputs.reshape(seeds, parts, -1, *((1, 1) if own else (groups, x.shape[-1] // groups)))
        inputs = inputs[:, :, :, :kept].movedim(3, 2).flatten(3)
        every = inputs.shape[-1] // _HISTOGRAM_INPUTS | 1  # odd: every feature is met
        inputs = inputs[..., ::every].float().cpu().numpy()
        found = {at: _histogram(inputs[at]) for at in np.ndindex(seeds, parts, kept)}
        if own:
            ends = np.array([found[at][:2] for at in np.ndindex(seeds, parts, 1)]).reshape(seeds, parts, 2)
            coefficients[1] = _values(layer, x, ends)
        numerator, denominator = (c.reshape(seeds, parts, groups, -1).float().cpu().numpy() for c in coefficients)
        for (seed, part, group), (low, high, counts) in found.items():
            at = seed, part, group
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


def _version(layer: Any) -> str:
    return layer.record()[0] if hasattr(layer, "record") else CUSTOM + re.sub(r"\W", "_", type(layer).__name__)


def _custom(layer: nn.Module, x: Tensor, seeds: int) -> tuple[str, Tensor, Tensor]:
    """Return the version of a user's activation and, as a numerator `[S, parts, 1, n]`, its first parameters.

    Parts, such as critics, are the axes of x between seeds and batch; a parameter without them belongs to each.
    """
    parts = math.prod(x.shape[1:-2]) if _has_seeds(x, seeds) else 1
    rows = []
    for parameter in layer.parameters():
        shape = parameter.shape
        if not (shape and shape[0] == seeds):
            parameter = parameter.expand(seeds, *shape)
        apart = parts > 1 and parameter.shape[1 : x.ndim - 2] == x.shape[1:-2]
        flat = parameter.reshape(seeds, parts, -1) if apart else parameter.reshape(seeds, 1, -1).expand(-1, parts, -1)
        rows.append(flat.float())
    numerator = torch.cat(rows, dim=-1)[..., :_KEPT_PARAMETERS] if rows else torch.empty(seeds, parts, 0)
    return _version(layer), numerator.unsqueeze(2), numerator[..., :0].unsqueeze(2)


def _has_seeds(x: Tensor, seeds: int) -> bool:
    return x.ndim >= 3 and x.shape[0] == seeds


def _values(layer: nn.Module, x: Tensor, ends: np.ndarray) -> Tensor:
    """Compute a user's activation at equal steps between `ends` `[S, parts, 2]`, the mean over features.

    Returns:
        `[S, parts, 1, steps]`; no steps where it is not applied to inputs like x, or is none of each element alone.
    """
    none = torch.empty(*ends.shape[:2], 1, 0)
    if not _has_seeds(x, len(ends)):
        return none
    steps = np.linspace(ends[..., 0], ends[..., 1], _STEPS, axis=-1)
    points = torch.as_tensor(steps, dtype=x.dtype, device=x.device).reshape(*x.shape[:-2], _STEPS, 1)
    rows = points.expand(*points.shape[:-1], x.shape[-1])
    try:
        copied = copy.deepcopy(layer)  # nothing that it may remember is remembered
        values, alone = copied(rows), copied(rows[..., ::2, :])
    except Exception as error:  # whatever the user's class raises
        if type(layer) not in _undrawn:
            _undrawn.add(type(layer))
            warn(f"{type(layer).__name__} is not drawn: {type(error).__name__}: {reason(error)}")
        return none
    same = values.shape == rows.shape and torch.allclose(values[..., ::2, :], alone, equal_nan=True)
    return values.float().mean(-1).reshape(*ends.shape[:2], 1, _STEPS) if same else none


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
