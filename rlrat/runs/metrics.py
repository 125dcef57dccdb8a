"""Sum up what updates return until it is written: on their device, without a wait."""

import torch
from torch import Tensor

from rlrat.errors import InputError
from rlrat.runs.lines import is_metric

MetricSums = dict[tuple[str, ...], tuple[Tensor, int]]
"""By the names of the metrics that were summed: their sums `[M, S]`, and over how many updates."""


def add_metrics(sums: MetricSums, metrics: dict[str, Tensor], seeds: int) -> None:
    """Add one update's metrics, `[S]` each.

    Raises:
        InputError: metrics of another form.
    """
    if not isinstance(metrics, dict):
        raise InputError(f"update returned a {type(metrics).__name__}: metrics by name are needed, [{seeds}] each")
    if not metrics:
        return
    names = tuple(metrics)
    if names not in sums and (unfit := [name for name in names if not is_metric(name)]):
        raise InputError(
            f"update returned a metric {unfit[0]!r}: a name like `losses/q` is needed, without commas and "
            "quotes, and not `update`"
        )
    if names not in sums and (other := [name for name in names if metrics[name].shape != (seeds,)]):
        shape = list(metrics[other[0]].shape)
        raise InputError(f"update returned {other[0]} of shape {shape}: a number for each seed is needed, [{seeds}]")
    before, count = sums.get(names, (0.0, 0))
    sums[names] = (_stacked(metrics) + before, count + 1)


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
