"""Try a learner before a run begins: one update and one inspection show what it does not do, and are undone."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rlrat.errors import InputError
from rlrat.runs.metrics import metric_problems
from rlrat.updates.learner import Learner, first_batch
from rlrat.updates.trained_activations import trained_activations


def try_learner(learner: Learner, num_members: int) -> None:
    """Make update 0 and an inspection of its batch; leave the learner's parameters and buffers as they were.

    `rlrat.updates.learner.check_learner` has found nothing missing: this is about what methods do.

    Args:
        learner: as it was made, before its first update.
        num_members: S, the size of the leading axis.

    Raises:
        InputError: with a line for each thing that an update or an inspection does not do.
    """
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    kept = _beside_the_state(learner)
    first_batch(learner)  # refuses inputs of another form
    inputs = learner.inputs(0)
    problems = list(metric_problems(learner.update(*inputs), num_members))
    who = f"the learner {type(learner).__name__}"
    if (learner.guard.update != 1).any():
        problems.append(f"{who} does not count its updates: `update` must first add 1 to guard.update")
    for name, value in _beside_the_state(learner).items():
        if name not in kept or not _equal(value, kept[name]):
            problems.append(
                f"{who} changes {name} in `update`, which no checkpoint holds: make it a buffer (register_buffer), "
                "or a function of the update's number in `inputs`"
            )
    problems += [
        f"{who} does not pass {name} through `inspect`: what it meets is not recorded"
        for name in _unmet(learner, inputs[0])
    ]
    learner.load_state_dict(before)
    if problems:
        raise InputError(*problems)


def _beside_the_state(learner: Learner) -> dict[str, Any]:
    """Copy the learner's own numbers and tensors that are neither parameters nor buffers."""
    own = {name: value for name, value in vars(learner).items() if isinstance(value, Tensor | int | float | str)}
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in own.items()}


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return type(one) is type(other) and one == other


@torch.no_grad()
def _unmet(learner: Learner, batch: Any) -> Iterator[str]:
    """Name the trained activations, but for targets', that an inspection does not meet."""
    layers = {layer: name for name, layer in trained_activations(learner).items() if "_target." not in name}
    met: set[nn.Module] = set()
    handles = [layer.register_forward_pre_hook(lambda layer, _: met.add(layer)) for layer in layers]
    try:
        learner.inspect(batch)
    finally:
        for handle in handles:
            handle.remove()
    return (name for layer, name in layers.items() if layer not in met)
