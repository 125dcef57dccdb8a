"""Bound how much a network's outputs change when its activations become rationals.

Every node of the traced graph gets a bound of the largest difference of its elements, before and after: a linear map
multiplies by its infinity norm, a rational by its largest slope on its interval, and adds its own error, since
|R(y) - f(x)| <= |R(y) - R(x)| + |R(x) - f(x)|; a sum adds. The graph is that of evaluation mode.
"""

import inspect
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from .call_sites import InPlaceRational
from .called import ACTIVATIONS, known
from .module import Rational
from .tracing import call_with, outputs_of

_SLACK = 1.0 + 1e-6  # for the relative error of largest slopes and norms, computed in float64
_LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
# Behind others, what a BatchNorm takes for channels need not be those of the output: Conv1d also takes [C, L].
_FOLDED = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# What moves, picks, clips or averages elements changes no difference to a larger one.
_SHORT = (
    nn.Identity, nn.Flatten, nn.Unflatten, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout,
    nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d,
    nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, nn.ZeroPad2d,
)  # fmt: skip
_AVERAGES = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
_AVERAGE_FUNCTIONS = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
_SHORT_FUNCTIONS = (
    torch.flatten, torch.reshape, torch.permute, torch.transpose, torch.squeeze, torch.unsqueeze, torch.clone,
    torch.cat, torch.stack, torch.mean, torch.amax, torch.amin, operator.getitem, operator.neg, torch.chunk,
    torch.split, torch.clamp, torch.maximum, torch.minimum,
    F.max_pool1d, F.max_pool2d, F.max_pool3d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d,
)  # fmt: skip
_SHORT_METHODS = (
    "flatten", "reshape", "view", "permute", "transpose", "squeeze", "unsqueeze", "contiguous", "clone", "mean",
    "amax", "amin", "clamp", "unflatten", "expand", "chunk", "split",
)  # fmt: skip
# The largest sums of sizes in the rows of their derivatives: 2 p (1 - p) and 2 (1 - p).
_SOFTMAX_MODULES = (nn.Softmax, nn.LogSoftmax)
_SOFTMAX = {
    **dict.fromkeys((F.softmax, torch.softmax, "softmax", nn.Softmax), 0.5),
    **dict.fromkeys((F.log_softmax, torch.log_softmax, "log_softmax", nn.LogSoftmax), 2.0),
}
_SUMS = (operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub)
_IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
_IN_PLACE_METHODS = ("add_", "sub_")
_SUM_METHODS = ("add", "add_", "sub", "sub_")
_PRODUCTS = (operator.mul, operator.imul, torch.mul)
_QUOTIENTS = (operator.truediv, operator.itruediv, torch.div)


class _NoBound(Exception):
    """Say why there is none."""


class _Tracer(fx.Tracer):
    """Look into activations, whose functions may be replaced by the module that calls them, but not into rationals."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, Rational):
            return True
        return type(m) not in ACTIVATIONS and super().is_leaf_module(m, module_qualified_name)

    def create_proxy(self, kind, target, args, kwargs, *rest, **named):
        # A method of what stands for a tensor here passes no TorchFunctionMode; the function of its name does.
        function = getattr(torch, target.removesuffix("_"), None) if kind == "call_method" else None
        if known(function):
            return function(*args, **kwargs)
        return super().create_proxy(kind, target, args, kwargs, *rest, **named)


def bound_of_change(
    model: nn.Module, errors: Mapping[Rational, float], inputs: list[Any], outputs: list[list[Tensor]]
) -> tuple[float | None, str]:
    """Bound the largest change of `model`'s outputs by its rationals, whose errors on their intervals are given.

    The bound holds while the inputs of the rationals stay in their intervals. `outputs` are the model's for each batch
    of `inputs`, in evaluation mode, which it must be in.

    Returns:
        The bound, or None and the reason.
    """
    try:
        graph = _Tracer().trace(model, concrete_args=_not_given(model, inputs[0]))
    except Exception as error:
        return None, f"torch.fx cannot trace the model ({' '.join(str(error).split())[:150] or type(error).__name__})"
    traced = fx.GraphModule(model, graph)
    try:
        same = all(_are_same(outputs_of(call_with(traced, x)), y) for x, y in zip(inputs, outputs, strict=True))
    except Exception:  # such as arguments that the graph has not got
        same = False
    if not same:
        return None, "the graph that torch.fx traces does not compute what the model does"
    try:
        bound = _follow(graph, dict(model.named_modules()), errors)
    except _NoBound as reason:
        return None, str(reason)
    return (bound, "") if math.isfinite(bound) else (None, "it is beyond the range of float64")


def _are_same(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(
        a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, rtol=1e-4, atol=1e-6)
        for a, b in zip(some, others, strict=True)
    )


def _not_given(model: nn.Module, batch: Any) -> dict[str, Any]:
    """Return the arguments of the forward that a call with this batch leaves at their defaults."""
    parameters = inspect.signature(model.forward).parameters.values()
    given = batch if isinstance(batch, Mapping) else ()
    return {p.name: p.default for p in parameters if p.default is not p.empty and p.name not in given}


def _follow(graph: fx.Graph, modules: Mapping[str, nn.Module], errors: Mapping[Rational, float]) -> float:
    changes: dict[fx.Node, float] = {}
    folded: set[fx.Node] = set()  # each BatchNorm whose factors are in the norm of the convolution before it

    def change(value: Any) -> float:
        return max((changes[node] for node in _nodes(value)), default=0.0)

    for node in graph.nodes:
        before = change([node.args, node.kwargs])
        module = modules.get(node.target) if node.op == "call_module" else None
        if node.op == "output":
            return before
        if isinstance(module, InPlaceRational):
            raise _NoBound(f"{node.target} overwrites its input, which is used elsewhere")
        if isinstance(module, Rational) and module in errors:
            if _is_hooked(module):
                raise _NoBound(f"{node.target} has hooks")
            slope = module.largest_slope().max().item() * _SLACK if before else 0.0
            changes[node] = errors[module] + slope * before
        elif before == 0.0 or _is_of_shape(node):
            changes[node] = 0.0
        elif _is(module, _LINEAR):
            follower = next(iter(node.users)) if len(node.users) == 1 else None
            norm = modules.get(follower.target) if follower is not None and follower.op == "call_module" else None
            if _is_fixed(norm) and any(_is(module, (conv,)) and _is(norm, (kind,)) for conv, kind in _FOLDED):
                folded.add(follower)
                changes[node] = before * _norm(module, norm)
            else:
                changes[node] = before * _norm(module)
        elif _is_fixed(module):
            changes[node] = before if node in folded else before * _scale(module).max().item() * _SLACK
        else:
            changes[node] = before * _factor(node, module, modules, change)
    raise _NoBound("the traced graph has no output")


def _nodes(value: Any) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.node.map_arg(value, lambda node: found.append(node) or node)
    return found


def _is_of_shape(node: fx.Node) -> bool:
    """Say whether a node computes what the values of its input do not change."""
    is_attribute = node.target is getattr and node.args[1] in ("shape", "ndim", "dtype", "device")
    return is_attribute or (node.op == "call_method" and node.target in ("size", "dim", "numel"))


def _factor(
    node: fx.Node, module: nn.Module | None, modules: Mapping[str, nn.Module], change: Callable[[Any], float]
) -> float:
    """Return how much larger than the largest change of its inputs that of a node is at most."""
    function = node.target if node.op == "call_function" else None
    method = node.target if node.op == "call_method" else None
    is_short = _is(module, _SHORT) or function in _SHORT_FUNCTIONS or method in _SHORT_METHODS
    is_short &= method != "view" or not isinstance(_argument(node, 1, "dtype"), torch.dtype)  # the same bits
    is_average = _is(module, _AVERAGES) and getattr(module, "divisor_override", None) is None
    is_average |= function in _AVERAGE_FUNCTIONS and _argument(node, 6, "divisor_override") is None
    is_off = function is F.dropout and _argument(node, 2, "training") is False
    if is_short or is_average or is_off:
        return 1.0
    is_in_place = function in _IN_PLACE or method in _IN_PLACE_METHODS
    if is_in_place and not _is_own(node.args[0], modules):
        raise _NoBound(f"{getattr(node.target, '__name__', node.target)} may overwrite what is used elsewhere")
    if known_factor := _SOFTMAX.get(function or method or (type(module) if _is(module, _SOFTMAX_MODULES) else None)):
        return known_factor
    if (function in _SUMS or method in _SUM_METHODS) and len(node.args) == 2 and not node.kwargs:
        return sum(change(argument) for argument in node.args) / change(node.args)
    numbers = [argument for argument in node.args if isinstance(argument, int | float)]
    if function in _PRODUCTS and len(numbers) == 1:
        return abs(numbers[0])
    if function in _QUOTIENTS and numbers and numbers[0] and node.args[1] is numbers[0] and not node.kwargs:
        return 1.0 / abs(numbers[0])
    what = type(module).__name__ if module is not None else getattr(node.target, "__name__", node.target)
    raise _NoBound(f"no bound is known for {what}{f' at {node.target}' if module is not None else ''}")


def _is_own(value: Any, modules: Mapping[str, nn.Module]) -> bool:
    """Say whether nothing else holds this tensor: one operation has made it, and one uses it."""
    if not isinstance(value, fx.Node) or len(value.users) > 1:
        return False
    module = modules.get(value.target) if value.op == "call_module" else None
    return _is(module, (*_LINEAR, *_NORMS, Rational)) or (value.op == "call_function" and value.target in _SUMS)


def _argument(node: fx.Node, place: int, name: str) -> Any:
    return node.args[place] if len(node.args) > place else node.kwargs.get(name)


def _is(module: nn.Module | None, kinds: tuple[type[nn.Module], ...]) -> bool:
    """Say whether a module computes what one of these kinds does, with nothing hooked on."""
    if module is None or _is_hooked(module) or "forward" in vars(module):
        return False
    return any(isinstance(module, kind) and type(module).forward is kind.forward for kind in kinds)


def _is_hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _is_fixed(module: nn.Module | None) -> bool:
    """Say whether a module is a BatchNorm that is a linear map, as in evaluation mode."""
    return _is(module, _NORMS) and module.running_var is not None and not module.training


@torch.no_grad()
def _scale(norm: nn.Module) -> Tensor:
    """Return the sizes of a BatchNorm's factors, one for each channel."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    return scale if norm.weight is None else scale * norm.weight.double().abs()


@torch.no_grad()
def _norm(layer: nn.Module, norm: nn.Module | None = None) -> float:
    """Return the infinity norm of a linear map or convolution, with the BatchNorm behind it."""
    sums = layer.weight.double().abs().flatten(1).sum(1)
    if norm is not None:
        sums = sums * _scale(norm)
    return sums.max().item() * _SLACK
