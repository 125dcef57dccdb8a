"""What a learner must be (see `rlrat.runs.run.Run`), checked before the first update.

What is forgotten in an agent of one's own is found here, in one line, and not after hours in what it has not learned.
"""

from collections.abc import Iterator

from torch import Tensor, nn

from rlrat.errors import InputError
from rlrat.updates.optim import Adam, SeedGuard

_NEEDED = {
    "policy": "the `Policy` or `SequencePolicy` that is evaluated",
    "guard": "a `rlrat.updates.SeedGuard(num_seeds)`",
    "inputs": "inputs(update), what an update takes, the batch first",
    "update": "update(*inputs), one gradient step, which returns metrics [S]",
    "inspect": "inspect(batch), a pass through the networks",
}


def check_learner(learner: nn.Module, num_members: int) -> None:
    """Refuse a learner that would not learn, or whose checkpoints would not hold what it has learned.

    Args:
        learner: as `Learner(arguments, dataset, seeds, device)` made it, before its first update.
        num_members: S, the size of the leading axis that its every parameter and buffer must have.

    Raises:
        InputError: for the first thing that is missing, with what the learner must do.
    """
    for problem in _problems(learner, num_members):
        raise InputError(f"the learner {type(learner).__name__} {problem}")


def _problems(learner: nn.Module, num_members: int) -> Iterator[str]:
    for name, meaning in _NEEDED.items():
        if not hasattr(learner, name):
            yield f"has no `{name}`: it needs {meaning}"
    if not isinstance(learner.policy, nn.Module):
        yield f"has a {type(learner.policy).__name__} for a `policy`: it needs {_NEEDED['policy']}"
    if not isinstance(learner.guard, SeedGuard):
        yield f"has a {type(learner.guard).__name__} for a `guard`: it needs {_NEEDED['guard']}"
    for name, tensor in (*learner.named_parameters(), *learner.named_buffers()):
        if tensor.shape[:1] != (num_members,):
            yield f"has {name} of shape {list(tensor.shape)}: its first axis must be that of the {num_members} members"
    if not getattr(learner.policy, "has_units", True):
        yield "has a policy without units: call policy.set_units(units), the units of its batches"
    yield from _unused_parameters(learner)


def _unused_parameters(learner: nn.Module) -> Iterator[str]:
    """Networks that no optimizer moves, and targets that one does.

    What an optimizer moves, and what `polyak_` does, is a flat buffer: a parameter that is no part of one stays as it
    is, silently.
    """
    optimizers = [module for module in learner.modules() if isinstance(module, Adam)]
    moved = {_memory(optimizer.flat) for optimizer in optimizers}
    targets = {name: m for name, m in learner.named_modules(remove_duplicate=False) if name.endswith("_target")}
    for name, target in targets.items():
        for parameter in target.parameters():
            if _memory(parameter) in moved:
                yield f"has an optimizer that moves {name}: make it with copy.deepcopy, before the optimizers"
            if parameter.requires_grad:
                yield f"would take gradients of {name}: call {name}.requires_grad_(False)"
            if hasattr(target, "flat") and _memory(parameter) != _memory(target.flat):
                yield f"moved {name} after `flatten`, which polyak_ does not see: call learner.to(device) before it"
    for name, parameter in learner.named_parameters():
        if parameter.requires_grad and _memory(parameter) not in moved:
            yield (
                f"has {name}, which no optimizer moves: give its network to a `rlrat.updates.Adam` that is an "
                "attribute of the learner (after learner.to(device)), or call requires_grad_(False)"
            )


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
