"""Count the memory that a learner takes from the shapes of its tensors, without allocating any of it."""

import dataclasses
import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rlrat.errors import InputError
from rlrat.runs.arguments import RunArguments
from rlrat.runs.estimates import gigabytes, memory_of
from rlrat.updates.learner import Learner
from rlrat.updates.machine import available_memory, free_swap

META = torch.device("meta")
_CERTAIN_SHARE = 0.85  # of what shapes say: on a CPU, large learners of all agents took 0.9 to 2.3 times as much
_SMALL_ELEMENTS = 2_000_000  # weights of a layer, or features of a batch, for all members: not worth a second
_ENOUGH_FACTOR = 4  # times what is free is too much for sure: counting the rest of an update could take long
_MOST_OPERATIONS = 6_000  # of an update: the agents' have half as many, but CQL takes a large batch in many equal parts
_WITHOUT_DEVICE = (torch.zeros, torch.ones, torch.full, torch.empty)


def may_be_large(arguments: RunArguments, num_members: int) -> bool:
    """Tell whether `check_memory` is worth its time: two of the settings may be the sizes of a large tensor."""
    run = {entry.name for entry in dataclasses.fields(RunArguments) if not entry.name.endswith("hidden_dims")}
    run -= {"batch_size"}
    numbers = [1, 1]
    for entry in dataclasses.fields(arguments):
        value = getattr(arguments, entry.name)
        if entry.name not in run and not entry.name.endswith("_updates"):
            numbers += [n for n in (value if isinstance(value, tuple) else (value,)) if type(n) is int]
    return math.prod(sorted(numbers)[-2:]) * num_members > _SMALL_ELEMENTS


def check_memory(build: Callable[[torch.device], Learner], num_members: int, device: torch.device) -> None:
    """Refuse a learner that surely does not fit, before anything of it is allocated.

    Args:
        build: makes the learner on the device that it is given, here PyTorch's `meta`.
        num_members: the number of its members, for the message.
        device: where it is to be trained.

    Raises:
        InputError: building the learner and its first update need more than is free, swap included; and what `build`
            raises.
    """
    free = available_memory(device)
    if free is None:
        return
    if device.type == "cpu":
        free += free_swap()
    members = f"{num_members} member{'s side by side need' if num_members > 1 else ' needs'}"
    advice = "give smaller --hidden-dims, a smaller --batch-size" + (" or fewer members" if num_members > 1 else "")
    try:
        state, peak, whole = measure(build, _ENOUGH_FACTOR * free)
    except OverflowError:
        raise InputError(f"{members} more memory than can be counted: {advice}") from None
    if _CERTAIN_SHARE * peak > free:
        part = "the networks alone" if state is None else f"{gigabytes(state)} for networks and optimizers"
        need = f"{'about' if whole else 'more than'} {gigabytes(peak)} ({part})"
        has = f"of {memory_of(device)} {gigabytes(free)} are free"
        raise InputError(f"{members} {need}, but {has}: {advice}")


def measure(build: Callable[[torch.device], Learner], enough: float) -> tuple[int | None, int, bool]:
    """Count the bytes of a learner, up to the end of its first update or until there are more than `enough`.

    A learner that looks at numbers, which shapes do not have, is counted as far as it comes.

    Returns:
        The bytes of its state (None where the count ended before the learner was built), the bytes of all tensors at
        the peak, and whether the count went to its end.

    Raises:
        InputError: what `build` raises.
        OverflowError: a tensor of more than 2^63 bytes.
    """
    meter, state = _Meter(enough), None
    try:
        with torch.random.fork_rng(devices=[]), _OnMeta(), meter:
            learner = build(META)
            state = sum(value.nbytes for value in learner.state_dict().values())
            meter.operations_left = _MOST_OPERATIONS
            learner.update(*learner.inputs(0))
    except (InputError, OverflowError):
        raise
    except _Enough:
        pass
    except Exception as error:
        if "overflow" in str(error).lower():  # PyTorch raises RuntimeErrors and TypeErrors of that text
            raise OverflowError from None
    return state, meter.peak, meter.peak <= enough


class _OnMeta(TorchFunctionMode):
    """Makes tensors without a device on `meta`: networks are built before they are moved to their device."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func in _WITHOUT_DEVICE and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": META}
        return func(*args, **kwargs)


class _Enough(Exception):
    """What follows does not change the result."""


class _Meter(TorchDispatchMode):
    """Counts the bytes of the tensors on `meta` that exist at once."""

    def __init__(self, enough: float) -> None:
        super().__init__()
        self.peak = self._live = 0
        self.operations_left = math.inf
        self._enough, self._seen = enough, weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor) and tensor.is_meta:
                self._count(tensor.untyped_storage())
        self.operations_left -= 1
        if self.peak > self._enough or self.operations_left < 0:
            raise _Enough
        return found

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._seen:
            return
        self._seen.add(storage)
        size = storage.nbytes()
        self._live += size
        self.peak = max(self.peak, self._live)
        weakref.finalize(storage, self._free, size)

    def _free(self, size: int) -> None:
        self._live -= size
