"""Replace a model's activations by rationals."""

import inspect
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from .called import ACTIVATIONS, ELEMENTWISE, called, known
from .module import Rational

_MOST_NAMED = 8  # places where an activation stays that a warning names


def rationalize(module: nn.Module, degrees: tuple[int, int] = (5, 4), version: str = "A") -> nn.Module:
    """Replace every activation inside `module` by a `Rational` fitted to it, settings included.

    Activations are the modules of `ACTIVATIONS`, and PyTorch functions that are attributes of modules, such as F.relu
    or functools.partial(F.gelu, approximate="tanh"). The change is made in place. A module found at several places is
    replaced by one `Rational` at all of them, a function by one for each attribute. The fast path of
    nn.TransformerEncoderLayer, which computes ReLU or GELU whatever its activation has become, is switched off. The new
    parameters are on the device of the model's first one; give an optimizer its parameters after this call. If anything
    is raised, the model is as it was.

    One warning names the activations that stay, and their places: those that a forward calls as functions or makes on
    the spot, those inside nn.RNN, nn.LSTM and nn.GRU, those in plain lists, modules that are attributes of a class, and
    those of scripted modules and of classes derived from `ACTIVATIONS`. What a forward computes otherwise
    (x.clamp(min=0)) or looks up by a name (getattr(F, name)) is not found.

    Returns:
        `module`, or its `Rational` if `module` is itself an activation.

    Raises:
        ValueError: an nn.PReLU with several slopes, which no single rational approximates; wrong degrees or version; a
            `module` that is scripted.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise ValueError("module is scripted, which fixes its activations: call rationalize before torch.jit.script")
    device = next((parameter.device for parameter in module.parameters()), None)

    def fitted(init: Any, training: bool) -> Rational:
        return Rational(init, degrees, version).to(device).train(training)

    of_module: dict[nn.Module, Rational] = {}
    for path, child in module.named_modules():
        if type(child) not in ACTIVATIONS:
            continue
        if isinstance(child, nn.PReLU) and child.num_parameters > 1:
            raise ValueError(f"{path or 'module'} is an nn.PReLU with {child.num_parameters} slopes, one is possible")
        of_module[child] = fitted(child, child.training)
    owners = [child for child in module.modules() if child not in of_module and not _is_fixed(child)]
    functions = [
        (owner, name, fitted(function, owner.training)) for owner in owners for name, function in _functions(owner)
    ]
    if left := list(_left(module, of_module)):
        more = f"; and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
        warnings.warn(
            f"rationalize leaves activations that it cannot replace: {'; '.join(left[:_MOST_NAMED])}{more}",
            stacklevel=2,
        )

    # From here on nothing can fail. A class may have its own setattr: write to the dictionaries.
    if module in of_module:
        return of_module[module]
    for owner in owners:
        for name, child in owner._modules.items():
            owner._modules[name] = of_module.get(child, child)
    for owner, name, rational in functions:
        vars(owner).pop(name, None)
        owner._modules[name] = rational
        if hasattr(type(owner), name):  # which would be found first
            vars(owner)[name] = rational
    for owner in owners:
        _switch_off_fast_path(owner)
    return module


def _is_fixed(module: nn.Module) -> bool:
    """Say whether nothing inside the module is to be replaced."""
    return isinstance(module, torch.jit.ScriptModule | Rational)


def _functions(owner: nn.Module) -> Iterator[tuple[str, Any]]:
    """Find the attributes of a module, or of its class, that are elementwise functions, with settings or without."""
    for name in dict.fromkeys([*vars(owner), *_own_class_attributes(owner)]):
        value = inspect.getattr_static(owner, name)
        value = value.__func__ if isinstance(value, staticmethod) else value
        if known(value) and getattr(value, "func", value) in ELEMENTWISE and not getattr(value, "args", ()):
            yield name, value


def _own_class_attributes(owner: nn.Module) -> list[str]:
    """Name the attributes of the module's classes, but for PyTorch's."""
    bases = [base for base in type(owner).__mro__ if not base.__module__.startswith("torch.")]
    return [name for base in bases for name in vars(base)]


def _left(module: nn.Module, replaced: dict[nn.Module, Rational]) -> Iterator[str]:
    """Say where activations stay, and which."""
    scripted = []
    for path, child in module.named_modules():
        where = path or type(child).__name__
        if child in replaced or isinstance(child, Rational) or any(path.startswith(f"{root}.") for root in scripted):
            continue
        if isinstance(child, torch.jit.ScriptModule):
            scripted.append(path)
            yield f"{where}: all of a scripted module"
            continue
        if isinstance(child, ACTIVATIONS):
            yield f"{where}: {type(child).__name__}, a class of its own"
            continue
        if isinstance(child, nn.RNNBase | nn.RNNCellBase):
            yield f"{where}: those of {type(child).__name__}"
        taken = {name for name, _ in _functions(child)}
        for name, value in vars(child).items():
            if known(value) and name not in taken:
                yield f"{where}: {known(value)} as {name}"
            if type(value) in (dict, list, tuple) and not name.startswith("_"):
                for item in value.values() if type(value) is dict else value:
                    if name_of_item := known(item) or (type(item) in ACTIVATIONS and type(item).__name__):
                        yield f"{where}: {name_of_item} in {name}"
        for name in _own_class_attributes(child):
            if type(value := inspect.getattr_static(child, name)) in ACTIVATIONS:
                yield f"{where}: {type(value).__name__} as {name} of its class"
        if names := called(child):
            yield f"{where}: {', '.join(names)} called by {type(child).__name__}"


def _switch_off_fast_path(owner: nn.Module) -> None:
    """Switch it off in PyTorch's encoder where the activation is a rational now: it reads flags, not the activation."""
    if isinstance(owner, nn.TransformerEncoderLayer) and isinstance(getattr(owner, "activation", None), Rational):
        owner.activation_relu_or_gelu = 0
    if isinstance(owner, nn.TransformerEncoder) and any(
        isinstance(getattr(layer, "activation", None), Rational) for layer in owner.layers
    ):
        owner.use_nested_tensor = False  # nested tensors are for the fast path alone
