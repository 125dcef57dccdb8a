"""Replace a model's activations by rationals."""

import contextlib
import inspect
import math
import sys
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import nn

from . import call_sites
from .bound import bound_of_change
from .called import ACTIVATIONS, STAYING_MODULES, called, known
from .module import Rational
from .planning import Plan, listed, make_plan
from .rationalization import Rationalization
from .reference import VERSIONS
from .tracing import Trace, batches, elementwise, run_all, trace, undisturbed

_MOST_NAMED = 8  # kinds of activations that stay, in a warning


def rationalize(
    module: nn.Module,
    degrees: tuple[int, int] = (5, 4),
    version: str = "A",
    interval: tuple[float, float] | Literal["auto"] = "auto",
    data: Iterable[Any] | None = None,
) -> nn.Module:
    """Replace every activation inside `module` by a `Rational` fitted to it, settings included.

    The change is made in place; `rationalized(module)` tells what was done. The new parameters are on the device of
    what they compute on; give an optimizer its parameters after this call. If anything is raised, the model is as it
    was.

    With `data`, the model is run in evaluation mode on the first 32 batches. Every call of an activation that its
    forward makes then gets a `Rational` of its own, fitted on the range of the inputs seen there: modules, functions
    (F.relu), methods (x.relu_()), and those that are called several times. A module that is called at one place is
    replaced by its `Rational`. For other calls the module whose forward makes them gets a class derived from its own,
    which replaces them while its forward runs, and a child `rationals`; see `rlrat.rational.call_sites`. A loop over
    layers makes as many calls as it has rounds; if their number changes, all of them share one `Rational`. A call that
    the data did not reach stays what it was, with a warning when it is made. Buffers, modes and random generators are
    put back.

    Without `data`, activations are the modules of `ACTIVATIONS` and the functions that are attributes of modules, such
    as F.relu or functools.partial(F.gelu, approximate="tanh"). A module found at several places is replaced by one
    `Rational` at all of them.

    The fast path of nn.TransformerEncoderLayer, which computes ReLU or GELU whatever its activation has become, is
    switched off. One warning names what stays, and where: the activations inside nn.RNN, nn.LSTM and nn.GRU, softmax
    and attention, scripted and compiled modules, what a forward computes by clamp, and without `data` all that a
    forward calls. What it computes otherwise, such as by torch.where, is not found.

    Args:
        module: any PyTorch module. Compile, script or export it afterwards.
        degrees: (m, n), of P and Q, for every rational.
        version: the form of Q, for every rational.
        interval: where to fit, (low, high), or "auto": the range of the inputs that each rational sees on `data`, 5%
            wider on both sides, or (-5, 5) for what is not reached and without data. Outside a range that was seen
            errors count 1e-5 / max(|x|, |f|) times (the tail of `fit`).
        data: inputs of the model, a batch at a time: tensors, tuples with the inputs first (what the forward does not
            need is left out) or dictionaries of arguments.

    Returns:
        `module`, or its `Rational` if `module` is itself an activation.

    Raises:
        ValueError: an nn.PReLU with several slopes, which no single rational approximates; wrong degrees, version or
            interval; a `module` that is scripted or compiled; `data` that yields nothing, or that the model cannot be
            called with; inputs of an activation that are not finite.
    """
    _check(module, degrees, version, interval)
    paths = {child: path for path, child in module.named_modules()}
    fixed = set(_inside_fixed(module))
    owners = [child for child in paths if type(child) not in ACTIVATIONS and child not in fixed]
    for child, path in paths.items():
        if isinstance(child, nn.PReLU) and type(child) in ACTIVATIONS and child.num_parameters > 1:
            raise ValueError(f"{path or 'module'} is an nn.PReLU with {child.num_parameters} slopes, one is possible")
    functions = [(owner, name, function) for owner in owners for name, function in _functions(owner)]
    before = _snapshot(module)
    inputs: list[Any] = []
    seen = Trace()
    if data is not None:
        _check_initialized(module, paths)
        inputs = batches(data)
        with _uncompiled():
            seen = trace(module, inputs, functions, fixed)
    plan = make_plan(module, paths, fixed, functions, seen)
    plan.fit(tuple(degrees), version, None if isinstance(interval, str) else (float(interval[0]), float(interval[1])))
    result = Rationalization(plan.replaced(), (*plan.stays, *_left(module, plan, fixed, seen, functions)))
    if result.stays:
        lines = _by_what(result.stays)
        more = f"; and {len(lines) - _MOST_NAMED} more" if len(lines) > _MOST_NAMED else ""
        warnings.warn(
            f"rationalize leaves activations that it cannot replace: {'; '.join(lines[:_MOST_NAMED])}{more}",
            stacklevel=2,
        )
    try:
        changed = plan.install()
        for owner in owners:
            _switch_off_fast_path(owner)
        if inputs:
            with _uncompiled():
                result = _measured(changed, plan, inputs, seen, result)
        else:
            result = replace(result, why_no_bound="no data were given")
        vars(changed)["_rationalization"] = result
    except BaseException:
        _restore(before)
        raise
    return changed


def _check(module: nn.Module, degrees: Any, version: str, interval: Any) -> None:
    """Raise what can be said of the arguments alone."""
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError("module is scripted, which fixes its activations: call rationalize before torch.jit.script")
    if call_sites.is_compiled(module):
        raise ValueError("module is compiled, which fixes its activations: call rationalize before torch.compile")
    if version not in VERSIONS:
        raise ValueError(f"there is no version {version!r} of a rational, only {', '.join(VERSIONS)}")
    pair = tuple(degrees) if isinstance(degrees, list | tuple) else ()
    if len(pair) != 2 or not all(type(degree) is int and degree >= 0 for degree in pair):
        raise ValueError(f"degrees must be two integers >= 0, of numerator and denominator, not {degrees!r}")
    if isinstance(interval, str) and interval == "auto":
        return
    try:
        low, high = map(float, interval)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not -math.inf < low < high < math.inf:
        raise ValueError(f'interval must be two numbers, low < high, or "auto", not {interval!r}')


def _check_initialized(module: nn.Module, paths: dict[nn.Module, str]) -> None:
    for child, path in paths.items():
        tensors = [*child._parameters.values(), *child._buffers.values()]
        if any(isinstance(tensor, nn.parameter.UninitializedTensorMixin) for tensor in tensors):
            raise ValueError(f"{path or 'module'} has no shape yet ({type(child).__name__}): call the model once first")


def _is_fixed(module: nn.Module) -> bool:
    """Say whether nothing inside the module is to be replaced."""
    return isinstance(module, torch.jit.ScriptModule | Rational) or call_sites.is_compiled(module)


def _inside_fixed(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.modules():
        if _is_fixed(child):
            yield from child.modules()


@contextlib.contextmanager
def _uncompiled() -> Iterator[None]:
    """Let what is compiled run as it is written, so that no compiler meets the recording."""
    if "torch._dynamo" not in sys.modules:
        yield
        return
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using `torch.compile.module.` when there are global hooks")
        yield


def _snapshot(module: nn.Module) -> list[tuple[nn.Module, type, dict, dict]]:
    return [
        (child, type(child), dict(vars(child)), dict(child._modules))
        for child in module.modules()
        if not isinstance(child, torch.jit.ScriptModule)
    ]


def _restore(snapshot: list[tuple[nn.Module, type, dict, dict]]) -> None:
    for child, kind, attributes, modules in snapshot:
        if type(child) is not kind:
            object.__setattr__(child, "__class__", kind)
        vars(child).clear()
        vars(child).update(attributes)
        child._modules.clear()
        child._modules.update(modules)


def _measured(
    module: nn.Module, plan: Plan, inputs: list[Any], seen: Trace, result: Rationalization
) -> Rationalization:
    """Add to the result how much the outputs change, and a bound of it."""
    with plan.recorded_ranges():
        try:
            after = run_all(module, inputs)
        except ValueError as error:
            raise ValueError(f"with rationals, {error} (does a forward go over its own children?)") from error
    differences = [
        torch.where(a == b, 0.0, (a - b).abs().double()).flatten()
        for before, now in zip(seen.outputs, after, strict=True)
        for a, b in zip(before, now, strict=True)
    ]
    result = replace(result, batches=len(inputs))
    if not differences or not sum(map(len, differences)):
        return replace(result, why_no_bound="the model returns no tensor of floating point")
    every = torch.cat(differences)
    result = replace(result, max_change=every.max().item(), mean_change=every.mean().item())
    if outside := plan.outside():
        return replace(result, why_no_bound=f"inputs of {outside} were outside its interval")
    with undisturbed(module, evaluating=True):
        bound, why = bound_of_change(module, plan.errors(), inputs, after)
    return replace(result, bound=bound, why_no_bound=why)


def _functions(owner: nn.Module) -> Iterator[tuple[str, Any]]:
    """Find the attributes of a module, or of its class, that are elementwise functions, with settings or without."""
    for name in dict.fromkeys([*vars(owner), *_own_class_attributes(owner)]):
        value = inspect.getattr_static(owner, name)
        value = value.__func__ if isinstance(value, staticmethod) else value
        if elementwise(value):
            yield name, value


def _own_class_attributes(owner: nn.Module) -> list[str]:
    """Name the attributes of the module's classes, but for PyTorch's."""
    bases = [base for base in type(owner).__mro__ if not base.__module__.startswith("torch.")]
    return [name for base in bases for name in vars(base)]


def _left(
    module: nn.Module, plan: Plan, fixed: set[nn.Module], seen: Trace, functions: list[tuple[nn.Module, str, Any]]
) -> Iterator[str]:
    """Say where activations stay that no trace has shown, and which."""
    shown: dict[nn.Module | None, set[str]] = {}
    for call in seen.calls.values():
        shown.setdefault(call.owner, set()).add(_plain(call.name))
    for owner, name in seen.others:
        shown.setdefault(owner, set()).add(_plain(name))
    unreached = ", where data did not reach it" if seen.outputs else ""
    told: set[nn.Module] = set()  # with the fixed module that they are in
    for path, child in module.named_modules():
        where = path or type(child).__name__
        if child in fixed:
            if _is_fixed(child) and not isinstance(child, Rational) and child not in told:
                told |= set(child.modules())
                kind = "scripted" if isinstance(child, torch.jit.ScriptModule) else "compiled"
                yield f"{where}: all of a {kind} module"
            continue
        if child in plan.taken or isinstance(child, call_sites.ReplacedByCaller):
            continue
        names = shown.get(child, set())
        if is_replaced := call_sites.is_installed(child):
            names = names | {_plain(name) for _, name in child._call_sites.table}
        if others := [name for owner, name in seen.others if owner is child]:
            yield f"{where}: {', '.join(others)} called by {type(child).__name__}"
        if isinstance(child, ACTIVATIONS) and not names:
            yield f"{where}: {type(child).__name__}, a class of its own"
            continue
        if isinstance(child, nn.RNNBase | nn.RNNCellBase):
            yield f"{where}: those of {type(child).__name__}"
        if isinstance(child, STAYING_MODULES) and not names:
            yield f"{where}: {'softmax of ' if isinstance(child, nn.MultiheadAttention) else ''}{type(child).__name__}"
        taken = {name for owner, name, _ in functions if owner is child}
        for name, value in vars(child).items():
            if known(value) and name not in taken and _plain(known(value)) not in names:
                yield f"{where}: {known(value)} as {name}"
            if type(value) in (dict, list, tuple) and not name.startswith("_"):
                for item in value.values() if type(value) is dict else value:
                    name_of_item = known(item) or (type(item) in ACTIVATIONS and type(item).__name__)
                    if name_of_item and _plain(name_of_item) not in names:
                        yield f"{where}: {name_of_item} in {name}"
        for name in _own_class_attributes(child):
            value = inspect.getattr_static(child, name)
            if type(value) in ACTIVATIONS and _plain(type(value).__name__) not in names:
                yield f"{where}: {type(value).__name__} as {name} of its class"
        unseen = [name for name in called(child) if _plain(name) not in names]
        unseen = [name for name in unseen if not (names and name.startswith("one of "))]
        for names, why in (
            (
                [name for name in unseen if "scripted" not in name],
                ", whose other calls were replaced before" if is_replaced else unreached,
            ),
            ([name for name in unseen if "scripted" in name], ""),
        ):
            if names:
                yield f"{where}: {', '.join(names)} called by {type(child).__name__}{why}"


def _by_what(stays: tuple[str, ...]) -> list[str]:
    """Put what stays at several places on one line: the attention of each layer, say."""
    places: dict[str, list[str]] = {}
    for line in stays:
        where, _, what = line.partition(": ")
        places.setdefault(what, []).append(where)
    return [f"{listed(where)}: {what}" for what, where in places.items()]


def _plain(name: str) -> str:
    """Return a name as it is compared: LeakyReLU() is leaky_relu."""
    return name.removesuffix("()").replace("_", "").lower()


def _switch_off_fast_path(owner: nn.Module) -> None:
    """Switch it off in PyTorch's encoder where its activation is a rational now: it reads flags, not the activation."""
    if isinstance(owner, nn.TransformerEncoderLayer) and _has_rational(owner):
        owner.activation_relu_or_gelu = 0
    if isinstance(owner, nn.TransformerEncoder) and any(map(_has_rational, owner.layers)):
        owner.use_nested_tensor = False  # nested tensors are for the fast path alone


def _has_rational(layer: nn.Module) -> bool:
    return isinstance(getattr(layer, "activation", None), Rational) or call_sites.is_installed(layer)
