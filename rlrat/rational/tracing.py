"""Run a model on data and see which activations its forward computes, and on which inputs. Nothing of it changes."""

import contextlib
import inspect
import itertools
import math
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules import module as nn_module
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .call_sites import Location, describe, first_argument, locate
from .called import ACTIVATIONS, ELEMENTWISE, known, staying

MOST_BATCHES = 32  # of the data that are used
_PLAIN_SETTINGS = (int, float, bool, str, type(None))
# What the functions take behind their input, in order; all of these but "inplace" behind it.
_SETTINGS = {
    "leaky_relu": ("negative_slope",), "elu": ("alpha",), "celu": ("alpha",), "softplus": ("beta", "threshold"),
    "hardtanh": ("min_val", "max_val"),
}  # fmt: skip
Key = tuple[Any, ...]
"""What tells a call from others: its owner, place, name, holder and number."""
Held = nn.Module | tuple[nn.Module, str] | None
"""What holds the function that a forward calls: an activation module, a module and its attribute's name, or nothing."""


@dataclass
class Call:
    """Tell of a call that a forward makes: which function, where, and on which inputs.

    `number` counts the calls of one forward of `owner` that have the same place, name and holder. `where` is the place
    for a reader. `why_it_stays` is empty for a call that a rational can replace.
    """

    owner: nn.Module | None
    place: Location
    name: str
    held: Held
    number: int
    function: Callable[[Tensor], Tensor]
    device: torch.device
    where: str = ""
    why_it_stays: str = ""
    low: float = math.inf
    high: float = -math.inf
    is_in_place: bool = False

    def see(self, x: Tensor) -> None:
        """Widen the range by the inputs `x`."""
        if x.numel():
            low, high = (float(t) for t in torch.aminmax(x.detach()))
            # One that is not a number shall stay: min and max would lose it.
            self.low, self.high = np.minimum(self.low, low).item(), np.maximum(self.high, high).item()


@dataclass
class Trace:
    """Hold what was seen: the calls, in the order of their first times, and those of each forward of each module.

    `others` are activations that no rational replaces, (module, name); `outputs` what the model returned for each
    batch; `is_in_place_kept` says whether the outputs change if what works in place is given a copy.
    """

    calls: dict[Key, Call] = field(default_factory=dict)
    forwards: dict[nn.Module, list[tuple[Key, ...]]] = field(default_factory=dict)
    others: dict[tuple[nn.Module | None, str], None] = field(default_factory=dict)
    outputs: list[list[Tensor]] = field(default_factory=list)
    is_in_place_kept: bool = False


class _HeldFunction:
    """Stand for a function that a module holds while a trace runs, so that its calls are told from others."""

    def __init__(self, recorder: "_Recorder", holder: nn.Module, name: str, function: Callable[..., Tensor]) -> None:
        self.recorder, self.held, self.function = recorder, (holder, name), function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        function = getattr(self.function, "func", self.function)
        settings = {**getattr(self.function, "keywords", {}), **kwargs}
        return self.recorder.run(known(function), self.held, function, args, settings, sys._getframe(1))


class _Recorder(TorchFunctionMode):
    """Record into `trace` what the forwards of `model` call; `ignored` modules are not looked into."""

    def __init__(self, model: nn.Module, ignored: set[nn.Module]) -> None:
        super().__init__()
        self.trace = Trace()
        self.modules, self.ignored = set(model.modules()), ignored
        self.running: list[tuple[nn.Module, list[Key], Counter[Key]]] = []
        self.is_copying = False
        """Whether what works in place is given a copy."""
        self.is_inside = False
        self.handled: BaseException | None = None
        """What the caller of all this is handling."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if (name := known(func)) is not None:
            innermost = self.running[-1][0] if self.running else None
            held = innermost if innermost in self.modules and type(innermost) in ACTIVATIONS else None
            return self.run(name, held, func, args, kwargs, sys._getframe(1))
        if (name := staying(func)) is not None and isinstance(first_argument(args, kwargs), Tensor):
            x = first_argument(args, kwargs)
            if not isinstance(x, nn.Parameter) and x.is_floating_point() and self.is_watching():
                self.trace.others[self.owner(), name] = None
        return func(*args, **kwargs)

    def is_watching(self) -> bool:
        """Say whether what runs now is looked into, and is not inside a function that is recorded itself."""
        return not self.is_inside and not any(module in self.ignored for module, _, _ in self.running)

    def owner(self) -> nn.Module | None:
        """Return the innermost module of the model whose forward runs, activations aside."""
        return next((module for module, _, _ in reversed(self.running) if self.is_owner(module)), None)

    def is_owner(self, module: nn.Module) -> bool:
        return module in self.modules and type(module) not in ACTIVATIONS

    def run(
        self, name: str, held: Held, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], frame: FrameType
    ) -> Any:
        """Record a call of a function, and make it."""
        x = first_argument(args, kwargs)
        call = None
        if self.is_watching() and isinstance(x, Tensor):
            settings = {key: value for key, value in kwargs.items() if key != "input"}
            if isinstance(held, nn.Module):
                computed = held
            else:
                computed = None if name == "prelu" else function_of(name, args[1:], settings)
            call = self.record(name, held, computed or F.relu, x, frame)
            if computed is None:
                call.why_it_stays = f"{name} with settings that are tensors"
        if self.is_copying and call is not None:
            args, kwargs = ((x.clone(), *args[1:]), kwargs) if args else ((), {**kwargs, "input": x.clone()})
        before, self.is_inside = self.is_inside, True
        try:
            y = function(*args, **kwargs)
        finally:
            self.is_inside = before
        if call is not None:
            call.is_in_place |= y is x
        return y

    def record(self, name: str, held: Held, function: Callable[..., Tensor], x: Tensor, frame: FrameType) -> Call:
        """Note a call and its input."""
        owner = self.owner()
        place = () if owner is None else locate(frame, partial(_is_call_of, owner))
        numbers, keys = Counter(), []
        for module, keys, numbers in reversed(self.running):  # noqa: B007
            if module is owner:
                break
        key = (owner, place, name, held)
        key = (*key, numbers[key])
        numbers[key[:-1]] += 1
        keys.append(key)
        if key not in self.trace.calls:
            where = "" if owner is None else describe(frame, partial(_is_call_of, owner))
            self.trace.calls[key] = Call(*key, function, x.device, where)
        call = self.trace.calls[key]
        if not _is_same(call.function, function):
            call.why_it_stays = f"{name} with settings that change"
        if owner is not None and _is_run_again(frame, owner):
            call.why_it_stays = f"{name} in a part of a forward that torch.utils.checkpoint runs again"
        elif isinstance(x, nn.Parameter):
            call.why_it_stays = f"{name} of a parameter"
        elif not x.is_floating_point():
            call.why_it_stays = f"{name} of {str(x.dtype).removeprefix('torch.')}"
        else:
            call.see(x)
        return call

    def enter(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        """Note that a module is called: PyTorch's hook before every forward."""
        self.running.append((module, [], Counter()))

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Note that a forward has ended or failed."""
        _, keys, _ = self.running.pop()
        if self.is_owner(module) and sys.exc_info()[1] is self.handled:  # one that fails ends early
            forwards = self.trace.forwards.setdefault(module, [])
            if tuple(keys) not in forwards:
                forwards.append(tuple(keys))

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        hooks = [
            nn_module.register_module_forward_pre_hook(self.enter),
            nn_module.register_module_forward_hook(self.leave, always_call=True),
        ]
        self.running.clear()
        self.handled = sys.exc_info()[1]
        try:
            with self:
                yield
        finally:
            for hook in hooks:
                hook.remove()


def function_of(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Callable[[Tensor], Tensor] | None:
    """Return the function of one tensor that a call with these settings computes, or None if they are no plain values.

    It is PyTorch's of this name in torch.nn.functional, whichever was called, and does not work in place.
    """
    names = _SETTINGS.get(name, ())
    settings = dict(zip(names, args, strict=False)) | kwargs
    settings = {key: value for key, value in settings.items() if key != "inplace"}
    is_plain = all(isinstance(value, _PLAIN_SETTINGS) for value in settings.values())
    if not is_plain or not all(isinstance(value, bool) for value in args[len(names) :]):  # at most "inplace"
        return None
    return partial(getattr(F, name), **settings) if settings else getattr(F, name)


def _is_same(one: Any, other: Any) -> bool:
    """Say whether two functions are the same, with the same settings."""
    if isinstance(one, partial) and isinstance(other, partial):
        return (one.func, one.keywords) == (other.func, other.keywords)
    return one is other


def _is_call_of(owner: nn.Module, frame: FrameType) -> bool:
    return frame.f_code is _call_code and frame.f_locals.get("self") is owner


def _is_run_again(frame: FrameType | None, owner: nn.Module) -> bool:
    """Say whether a call is checkpointed without its module, whose forward is not there when it is run again."""
    while frame is not None and not _is_call_of(owner, frame):
        if frame.f_globals.get("__name__") == "torch.utils.checkpoint":
            return True
        frame = frame.f_back
    return False


_call_code = nn.Module._call_impl.__code__


@contextlib.contextmanager
def undisturbed(model: nn.Module, *, evaluating: bool) -> Iterator[None]:
    """Let a model run in the block, in evaluation mode or its own.

    What its modules hold is put back afterwards, buffers and modes above all, and the random numbers.
    """
    modules = list(model.modules())
    scripted = [(module, module.training) for module in modules if isinstance(module, torch.jit.ScriptModule)]
    others = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    before = [(module, dict(vars(module)), dict(module._buffers)) for module in others]
    values = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with same_random_numbers(), torch.no_grad():
            if evaluating:
                for module in modules:
                    module.training = False
            yield
    finally:
        for module, attributes, buffers in before:
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
        for module, mode in scripted:
            module.training = mode
        with torch.no_grad():
            for buffer, value in values:
                buffer.copy_(value)


@contextlib.contextmanager
def same_random_numbers() -> Iterator[None]:
    """Put the random generators of PyTorch, NumPy and Python back after the block."""
    states = random.getstate(), np.random.get_state()
    try:
        devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
        with torch.random.fork_rng(devices):  # which warns if it has to find several by itself
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


def batches(data: Any) -> list[Any]:
    """Take the first batches of `data`, which may be one itself: a tensor or a dictionary.

    Raises:
        ValueError: there are none, or `data` is no iterable.
    """
    if isinstance(data, Tensor | Mapping):
        return [data]
    if not isinstance(data, Iterable) or isinstance(data, str):
        raise ValueError(f"data must be an iterable of the model's inputs, such as a DataLoader, not {data!r:.80}")
    generator = getattr(data, "generator", None)  # of a DataLoader
    state = generator.get_state() if isinstance(generator, torch.Generator) else None
    with same_random_numbers():
        found = list(itertools.islice(data, MOST_BATCHES))
    if state is not None:
        generator.set_state(state)
    if not found:
        raise ValueError("data yields nothing: give at least one batch of inputs as the model takes them")
    return found


def call_with(model: nn.Module, batch: Any) -> Any:
    """Call a model with a batch: a tensor, a tuple or list with the inputs first, or a dictionary of arguments.

    Of a tuple, as many elements are given as the forward needs. Tensors are copied to the model's device.
    """
    parameter = next(model.parameters(), None)

    def copied(leaf: Tensor) -> Tensor:  # a copy, for a model may overwrite its input
        return leaf.to(leaf.device if parameter is None else parameter.device, copy=True)

    batch = tree_map_only(Tensor, copied, batch)
    signature = inspect.signature(model.forward)
    if isinstance(batch, Mapping):
        try:
            signature.bind(**batch)
        except TypeError:
            return model(batch)
        return model(**batch)
    if not isinstance(batch, tuple | list):
        return model(batch)
    kinds = [p.kind for p in signature.parameters.values() if p.default is p.empty]
    needed = sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds)
    if not needed and inspect.Parameter.VAR_POSITIONAL in kinds:
        return model(*batch)
    return model(*batch[: max(1, needed)])


def outputs_of(value: Any) -> list[Tensor]:
    """Return the tensors of floating point in what a model returned."""
    tensors = [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]
    return [tensor.detach().clone() for tensor in tensors if tensor.is_floating_point()]


def run_all(model: nn.Module, inputs: list[Any]) -> list[list[Tensor]]:
    """Return the outputs of the model for each batch, in evaluation mode.

    Raises:
        ValueError: the model cannot be called.
    """
    with undisturbed(model, evaluating=True):
        return [_run(model, number, batch) for number, batch in enumerate(inputs)]


def _run(model: nn.Module, number: int, batch: Any) -> list[Tensor]:
    try:
        return outputs_of(call_with(model, batch))
    except Exception as error:
        said = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"the model cannot be called with batch {number} of data, {_shapes(batch)}: {said}") from error


def trace(
    model: nn.Module,
    inputs: list[Any],
    functions: list[tuple[nn.Module, str, Callable[..., Tensor]]],
    ignored: set[nn.Module],
) -> Trace:
    """Run the model on the inputs in evaluation mode, and on the first batch as it is, and tell what was seen.

    `functions` are those that modules hold, (module, name, function).

    Raises:
        ValueError: the model cannot be called with the inputs.
    """
    recorder = _Recorder(model, ignored)
    found = recorder.trace
    held = [(vars(holder), name, vars(holder).get(name)) for holder, name, _ in functions]
    try:
        for holder, name, function in functions:
            vars(holder)[name] = _HeldFunction(recorder, holder, name, function)
        with undisturbed(model, evaluating=True), recorder.recording():
            found.outputs += [_run(model, number, batch) for number, batch in enumerate(inputs)]
        if any(call.is_in_place for call in found.calls.values()):
            recorder.is_copying = True
            with undisturbed(model, evaluating=True), recorder.recording():
                again = (_run(model, number, batch) for number, batch in enumerate(inputs))
                found.is_in_place_kept = not all(map(_are_close, again, found.outputs))
            recorder.is_copying = False
        if any(module.training for module in model.modules()):
            seen = {key: (call.low, call.high) for key, call in found.calls.items()}
            try:
                with undisturbed(model, evaluating=False), recorder.recording():
                    call_with(model, inputs[0])
            except Exception:  # one sample may be too few for batch statistics
                found.calls = {key: found.calls[key] for key in seen}
            for key, (low, high) in seen.items():  # ranges are those of evaluation
                found.calls[key].low, found.calls[key].high = low, high
    finally:
        for attributes, name, value in held:
            if value is None:
                del attributes[name]
            else:
                attributes[name] = value
    return found


def _are_close(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.allclose(a, b, equal_nan=True) for a, b in zip(some, others, strict=True))


def _shapes(batch: Any) -> str:
    """Describe a batch by its shapes."""
    leaves = [leaf for leaf in tree_leaves(batch) if isinstance(leaf, Tensor)]
    return ", ".join(str(list(leaf.shape)) for leaf in leaves[:4]) or f"{batch!r:.80}"


def elementwise(function: Any) -> bool:
    """Say whether a function that a module holds is one of a single tensor, with keyword settings at most."""
    is_one = bool(known(function)) and getattr(function, "func", function) in ELEMENTWISE
    return is_one and not getattr(function, "args", ())
