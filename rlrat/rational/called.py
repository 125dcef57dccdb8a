"""Find the activation functions that a module's forward calls: its bytecode is read, nothing of it is run."""

import dis
import functools
import inspect
import itertools
import re
from collections.abc import Iterator
from types import CellType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

_NAMES = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "sigmoid", "logsigmoid",
    "tanh", "hardtanh", "hardswish", "hardsigmoid", "softsign", "tanhshrink",
)  # fmt: skip
# What a rational of one variable cannot stand for, or what is more often no activation at all.
_STAYING_NAMES = (
    "softmax", "log_softmax", "softmin", "gumbel_softmax", "scaled_dot_product_attention",
    "multi_head_attention_forward", "glu", "rrelu", "threshold", "hardshrink", "softshrink",
    "clamp", "clamp_min", "clamp_max", "clip", "maximum", "minimum",
)  # fmt: skip
_ALL_NAMES = (*_NAMES, *_STAYING_NAMES)
_HOMES = (F, torch, torch.Tensor, torch.special, torch._C._nn, torch.ops.aten)


def _homes(names: tuple[str, ...]) -> dict[Any, str]:
    """Find the functions of these names: each is another object in each of its homes, in place and as an overload."""
    found: dict[Any, str] = {}
    for home, name in itertools.product(_HOMES, names):
        for spelled in (name, f"{name}_"):
            if hasattr(home, spelled):
                function = getattr(home, spelled)
                found[function] = name
                if home is torch.ops.aten:
                    found |= {getattr(function, overload): name for overload in function.overloads()}
    return found


ELEMENTWISE: dict[Any, str] = _homes(_NAMES) | {torch.special.expit: "sigmoid"}
"""PyTorch's functions of one tensor that act element by element, and their names."""
# Elementwise and deterministic. nn.Identity is left out: in models it stands for "nothing", not for an activation.
ACTIVATIONS = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU,
    nn.ReLU, nn.ReLU6, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Softsign, nn.Tanh, nn.Tanhshrink,
)  # fmt: skip
_KNOWN = ELEMENTWISE | _homes(("prelu",))
_STAYING = _homes(_STAYING_NAMES)
STAYING_MODULES = (
    nn.Softmax, nn.Softmin, nn.LogSoftmax, nn.Softmax2d, nn.MultiheadAttention, nn.GLU, nn.RReLU, nn.Threshold,
    nn.Hardshrink, nn.Softshrink,
)  # fmt: skip
"""PyTorch's modules with an activation inside that no rational of one variable replaces."""
_TYPES = frozenset(map(type, _KNOWN | _STAYING))
_METHODS, _STAYING_METHODS = (
    frozenset(name for name in dir(torch.Tensor) if name.removesuffix("_") in names)
    for names in (_NAMES, _STAYING_NAMES)
)
_LOADS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF")
_IGNORED = ("CACHE", "EXTENDED_ARG", "NOP", "PRECALL", "PUSH_NULL")  # they stand between what belongs together
_READ = ("torch.ao.", "torch.fx.")  # of PyTorch, these are read: layers with a ReLU inside, and traced modules
_MOST_FUNCTIONS = 200  # read for one module


def known(function: Any) -> str | None:
    """Return the name of a PyTorch activation function, with or without settings of its own, or None for others."""
    function = function.func if type(function) is functools.partial else function
    return _KNOWN[function] if type(function) in _TYPES and function in _KNOWN else None


def named(function: Any, name: str | None = None) -> str:
    """Name an activation for a reader: by `name`, or as PyTorch does; GELU's tanh form has a name of its own."""
    name = name or known(function) or type(function).__name__.lower()
    settings = function.keywords if type(function) is functools.partial else getattr(function, "__dict__", {})
    return "gelu_tanh" if (name, settings.get("approximate")) == ("gelu", "tanh") else name


def staying(function: Any) -> str | None:
    """Return the name of a PyTorch function that computes an activation which no rational replaces, or None."""
    return _STAYING[function] if type(function) in _TYPES and function in _STAYING else None


def _named(function: Any) -> str | None:
    return known(function) or staying(function)


def called(module: nn.Module) -> list[str]:
    """Name the activation functions that the forward of `module` calls, those that stay (softmax, clamp) included.

    Functions and methods that forward calls are read, too, in the class and file of `module`. PyTorch's own code is
    not read.
    """
    classes = [base for base in type(module).__mro__ if not _is_pytorch(base)]
    found, seen = {}, set()
    waiting = [_plain(value) for value in vars(module).values()] + _methods(classes, "forward")
    while waiting and len(seen) < _MOST_FUNCTIONS:
        function, bound = waiting.pop()
        if function is None or function in seen or _is_pytorch(function):
            continue
        seen.add(function)
        for what in _mentioned(function, module, bound):
            if isinstance(what, tuple):
                waiting += _methods(classes, what[0])
            elif isinstance(what, str) or _named(what):
                found[what if isinstance(what, str) else _named(what)] = None
            else:
                waiting.append(_plain(what))
    return list(found)


def _is_pytorch(thing: type | FunctionType) -> bool:
    name = thing.__module__ or ""
    return name.startswith("torch.") and not name.startswith(_READ)


def _plain(value: Any) -> tuple[FunctionType | None, bool]:
    """Return the Python function inside `value`, or None, and whether its first argument is the module."""
    bound = False
    while not isinstance(value, FunctionType):
        if isinstance(value, functools.partial | functools.cached_property):
            bound, value = isinstance(value, functools.cached_property), value.func
        elif isinstance(value, MethodType | staticmethod):
            bound, value = isinstance(value, MethodType), value.__func__
        elif isinstance(value, property):
            bound, value = True, value.fget
        else:
            return None, False
    return inspect.unwrap(value), bound


def _methods(classes: list[type], name: str) -> list[tuple[FunctionType | None, bool]]:
    """Return every method of this name: a method may call the one that it replaces."""
    values = [vars(base)[name] for base in classes if name in vars(base)]
    return [(_plain(value)[0], not isinstance(value, staticmethod)) for value in values]


def _mentioned(function: FunctionType, module: nn.Module, bound: bool) -> Iterator[Any]:
    """Find what the code of `function` names.

    These are functions, names of tensors' methods, modules that it makes, collections of functions, and attributes of
    the module as (name,).
    """
    code = function.__code__
    cells = zip(code.co_freevars, function.__closure__ or (), strict=False)
    scope = function.__globals__ | {name: cell.cell_contents for name, cell in cells if _is_full(cell)}
    own = {name for name, value in scope.items() if value is module} | set(code.co_varnames[:1] if bound else ())
    codes = [code]
    for code in codes:
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        instructions = [i for i in dis.get_instructions(code) if i.opname not in _IGNORED]
        held, of_module = None, False
        for instruction, following in zip(instructions, [*instructions[1:], None], strict=True):
            name, at, before, was_of_module = instruction.opname, instruction.argval, held, of_module
            held, of_module = None, False
            if name in _LOADS:
                held, of_module = scope.get(at), at in own
            elif "LOAD_FAST" in name:
                of_module = (at[-1] if isinstance(at, tuple) else at) in own
            elif name in ("LOAD_ATTR", "LOAD_METHOD"):
                if isinstance(before, ModuleType):
                    held = vars(before).get(at)
                elif was_of_module:
                    yield (at,)
                elif at in _STAYING_METHODS or (at in _METHODS and _is_call_without_arguments(following)):
                    yield at.removesuffix("_")
            if isinstance(held, FunctionType) or _named(held):
                yield held
            elif isinstance(held, torch.jit.ScriptFunction):
                operations = {name.rstrip("_") for name in re.findall(r"aten::(\w+)", str(held.inlined_graph))}
                yield from (f"{name} in scripted {held.name}" for name in sorted(operations.intersection(_ALL_NAMES)))
            elif isinstance(held, type) and held in ACTIVATIONS and _begins_a_call(following):
                yield f"{held.__name__}()"  # made and called on the spot
            elif type(held) in (dict, list, tuple) and any(map(known, held.values() if type(held) is dict else held)):
                yield f"one of {at}"


def _is_full(cell: CellType) -> bool:
    """Say whether the variable of this cell has a value yet."""
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _begins_a_call(following: dis.Instruction | None) -> bool:
    """Say whether what was just loaded is called, with no argument or a constant first: isinstance only takes it."""
    return _is_call_without_arguments(following) or (following is not None and following.opname == "LOAD_CONST")


def _is_call_without_arguments(instruction: dis.Instruction | None) -> bool:
    return instruction is not None and instruction.opname == "CALL" and instruction.arg == 0
