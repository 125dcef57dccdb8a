"""Define the protocol of a learner, the class that an agent's file is about, and check it before the first update.

The check finds what an agent of one's own forgets, which otherwise shows after hours of training, if at all.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from torch import Tensor, nn

from rlrat.errors import InputError
from rlrat.updates.optim import Adam, SeedGuard


class Learner(Protocol):
    """What a run trains: networks, their optimizers, and the update that makes the algorithm.

    A learner is an `nn.Module`, made as `Learner(arguments, dataset, seeds, device)`. Every parameter and every buffer
    has a leading axis S, one entry for each of `seeds`, and all that an update changes is a parameter or a buffer: a
    checkpoint holds the `state_dict` and nothing else. Nothing may couple two entries of the axis: a loss is a mean
    over a batch, and one number for each seed. An agent's file has a learner and this:

        run = Run("agent", arguments)
        learner = run.build(MyLearner)
        for update in run.updates(learner):
            run.log(learner.update(*learner.inputs(update)))

    Each network that learns belongs to a `rlrat.updates.Adam`, an attribute of the learner, made by `arguments.adam`
    after `learner.to(device)`. A target network is an attribute whose name ends in `_target`: a `copy.deepcopy` that
    takes no gradients and is given to `rlrat.updates.flatten`, so that `polyak_` can move it. When a run begins,
    `check_learner` and a first update on trial, which is undone, name what is missing of all this.
    """

    policy: nn.Module
    """The `rlrat.networks.Policy`, or `SequencePolicy`, that is evaluated, with units by its `set_units`. A
    `SequencePolicy` is evaluated at each of its target returns."""
    guard: SeedGuard
    """Knows which seeds are alive. `update` first adds 1 to `guard.update`; optimizers freeze seeds that diverge."""

    def inputs(self, update: int) -> tuple[Any, ...]:
        """Make what update number `update` (from 0) takes: the batch first, then noise, masks or flags.

        Each is a function of (seed, `update`), see `rlrat.updates.random`: a run that goes on draws the same again.
        """

    def update(self, *inputs: Any) -> dict[str, Tensor]:
        """Make one gradient step from `inputs`, and return metrics by name, each `[S]`: `losses/q`, `charts/q_mean`.

        A pure function of tensors that stay on the device: no `.item()`, no Python branch on a tensor's value. To
        branch, let `inputs` return a plain value, such as a bool.
        """

    def inspect(self, batch: Any) -> None:
        """Pass `batch`, the first of `inputs`, through every network: what trained activations meet is logged then."""

    # As `nn.Module` has them.
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def named_buffers(self) -> Iterator[tuple[str, Tensor]]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...
    def state_dict(self) -> dict[str, Tensor]: ...
    def load_state_dict(self, state_dict: dict[str, Tensor]) -> Any: ...


_NEEDED = {
    "policy": "the `Policy` or `SequencePolicy` that is evaluated",
    "guard": "a `rlrat.updates.SeedGuard(num_seeds)`",
    "inputs": "inputs(update), what an update takes, the batch first",
    "update": "update(*inputs), one gradient step, which returns metrics [S]",
    "inspect": "inspect(batch), a pass through the networks",
}
_KINDS = {"policy": nn.Module, "guard": SeedGuard}


def check_learner(learner: Learner, num_members: int) -> None:
    """Refuse a learner that would not learn, or whose checkpoints would not hold what it has learned.

    Args:
        learner: as it was made, before its first update.
        num_members: S, the size of the leading axis that its every parameter and buffer must have.

    Raises:
        InputError: with a line for each thing that is missing, which says what the learner must do.
    """
    problems = [f"the learner {type(learner).__name__} {problem}" for problem in _problems(learner, num_members)]
    if problems:
        raise InputError(*problems)


def first_batch(learner: Learner) -> tuple[Any, ...]:
    """Draw the batch of update 0, for those who look at what a learner makes of one.

    Raises:
        InputError: `inputs` returns something else than a tuple of what `update` takes, such as the batch alone.
    """
    inputs = learner.inputs(0)
    if not isinstance(inputs, tuple) or hasattr(inputs, "_fields"):  # a batch is a named tuple
        raise InputError(
            f"the learner {type(learner).__name__} returns a {type(inputs).__name__} from `inputs`: a tuple of what "
            "update takes is needed, the batch first, such as (batch,)"
        )
    return inputs[0]


def _problems(learner: Any, num_members: int) -> Iterator[str]:
    if not isinstance(learner, nn.Module):
        yield "is no torch.nn.Module, by which its tensors are found: derive its class from it"
        return
    for name, meaning in _NEEDED.items():
        if not hasattr(learner, name):
            yield f"has no `{name}`: it needs {meaning}"
        elif not isinstance(value := getattr(learner, name), _KINDS.get(name, Callable)):
            yield f"has `{name}` of type {type(value).__name__}: it needs {meaning}"
    tensors = dict((*learner.named_parameters(), *learner.named_buffers()))
    for name, others in _by_attribute(name for name, t in tensors.items() if t.shape[:1] != (num_members,)):
        shape = list(tensors[name].shape)
        wanted = f"its first axis must have an entry for each member, here {num_members}"
        yield f"has {name} of shape {shape}{others}: {wanted}"
    policy = getattr(learner, "policy", None)
    if isinstance(policy, nn.Module) and not hasattr(policy, "settings"):
        yield "has a policy without `settings`, from which checkpoints build it again: it needs a `Policy`'s"
    if not getattr(policy, "has_units", True):
        yield "has a policy without units: call policy.set_units(units), the units of its batches"
    yield from _unused_parameters(learner)


def _by_attribute(names: Iterable[str]) -> Iterator[tuple[str, str]]:
    """For each attribute of the learner the first of the names below it, and how many more there are, as words."""
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(name.partition(".")[0], []).append(name)
    for attribute, (first, *rest) in found.items():
        yield first, f" (and {len(rest)} more in {attribute})" if rest else ""


def _unused_parameters(learner: nn.Module) -> Iterator[str]:
    """Name networks that no optimizer moves, and targets that one does.

    What an optimizer moves, and what `polyak_` does, is a flat buffer: a parameter that is no part of one stays as it
    is, silently.
    """
    optimizers = [module for module in learner.modules() if isinstance(module, Adam)]
    for optimizer in optimizers:
        if optimizer.guard is not getattr(learner, "guard", None):
            yield f"has the optimizer {optimizer.name} with another guard: give it guard=self.guard"
    moved = {_memory(optimizer.flat) for optimizer in optimizers}
    targets = {name: m for name, m in learner.named_modules(remove_duplicate=False) if name.endswith("_target")}
    for name, target in targets.items():
        parameters = list(target.parameters())
        if any(_memory(parameter) in moved for parameter in parameters):
            yield f"has an optimizer that moves {name}: make it with copy.deepcopy, before the optimizers"
        elif any(parameter.requires_grad for parameter in parameters):
            yield f"would take gradients of {name}: call {name}.requires_grad_(False)"
        if hasattr(target, "flat") and any(_memory(parameter) != _memory(target.flat) for parameter in parameters):
            yield f"moved {name} after `flatten`, which polyak_ does not see: call learner.to(device) before it"
    of_targets = {id(parameter) for target in targets.values() for parameter in target.parameters()}
    still = (
        name
        for name, parameter in learner.named_parameters()
        if parameter.requires_grad and _memory(parameter) not in moved and id(parameter) not in of_targets
    )
    for name, others in _by_attribute(still):
        yield (
            f"has {name}{others}, which no optimizer moves: give its network to a `rlrat.updates.Adam` that is an "
            "attribute of the learner (after learner.to(device)), or call requires_grad_(False)"
        )


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
