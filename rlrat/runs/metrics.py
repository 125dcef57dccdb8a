"""Sum up what updates return until it is written: on their device, without a wait."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rlrat.errors import InputError
from rlrat.runs.lines import is_metric

MetricSums = dict[tuple[str, ...], tuple[Tensor, int]]
"""By the names of the metrics that were summed: their sums `[M, S]`, and over how many updates."""


def add_metrics(sums: MetricSums, metrics: dict[str, Tensor], seeds: int) -> None:
    """Add one update's metrics, `[S]` each.

    Raises:
        InputError: metrics of another form, a line for each.
    """
    names = tuple(metrics) if isinstance(metrics, dict) else ()
    if names not in sums and (problems := list(metric_problems(metrics, seeds))):
        raise InputError(*problems)
    if not names:
        return
    before, count = sums.get(names, (0.0, 0))
    sums[names] = (_stacked(metrics) + before, count + 1)


def metric_problems(metrics: Any, seeds: int) -> Iterator[str]:
    """Say what keeps something that an update returned from being its metrics, a line each."""
    if not isinstance(metrics, dict):
        yield f"update returned a {type(metrics).__name__}: metrics by name are needed, [{seeds}] each"
        return
    for name, value in metrics.items():
        if not is_metric(name):
            yield (
                f"update returned a metric {name!r}: a name like `losses/q` is needed, without commas and "
                "quotes, and not `update`"
            )
        elif not isinstance(value, Tensor):
            yield f"update returned {name} as a {type(value).__name__}: a tensor is needed, [{seeds}]"
        elif value.shape != (seeds,):
            yield f"update returned {name} of shape {list(value.shape)}: a number for each seed is needed, [{seeds}]"


def mean_metrics(sums: MetricSums) -> dict[str, Tensor]:
    """Return the mean of each metric over the updates that had it, `[S]` on the CPU."""
    totals: dict[str, tuple[Tensor, int]] = {}
    for names, (values, count) in sums.items():
        for name, row in zip(names, values.cpu(), strict=True):
            total, updates = totals.get(name, (0.0, 0))
            totals[name] = (total + row, updates + count)
    return {name: total / updates for name, (total, updates) in totals.items()}


def _stacked(metrics: dict[str, Tensor]) -> Tensor:
    """Return metrics `[S]` as one tensor `[M, S]`: that of which they are the rows, as a captured update's are."""
    values = list(metrics.values())
    whole = values[0]._base
    if whole is not None and whole.shape == (len(values), *values[0].shape):
        first, step = whole.data_ptr(), whole.stride(0) * whole.element_size()
        lie = (v._base is whole and v.data_ptr() == first + i * step and v.stride() == whole.stride()[1:]
               for i, v in enumerate(values))  # fmt: skip
        if all(lie):
            return whole
    return torch.stack([value.detach() for value in values])
