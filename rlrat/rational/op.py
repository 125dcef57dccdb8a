"""One operator: what autograd, torch.func, torch.compile and export see of a rational activation.

The operators `rlrat::rational` and `rlrat::rational_backward` have no derivative; `rational` gives them one by an
autograd.Function. torch.library.custom_op with register_autograd would cost several times the dispatch and break
torch.func.grad.
"""

import torch
from torch import Tensor
from torch.library import Library

from . import backends
from .layout import empty_output
from .reference import expression, validate

_library = Library("rlrat", "DEF")
_library.define("rational(Tensor x, Tensor numerator, Tensor denominator, str version) -> Tensor")
_library.define(
    "rational_backward(Tensor grad, Tensor x, Tensor numerator, Tensor denominator, str version)"
    " -> (Tensor, Tensor, Tensor)"
)


def _forward(x: Tensor, numerator: Tensor, denominator: Tensor, version: str) -> Tensor:
    return backends.choose(x, numerator, denominator).forward(x, numerator, denominator, version)


def _backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, version: str
) -> tuple[Tensor, Tensor, Tensor]:
    return backends.choose(x, numerator, denominator).backward(grad, x, numerator, denominator, version)


for _key in ("CPU", "CUDA"):
    _library.impl("rational", _forward, _key)
    _library.impl("rational_backward", _backward, _key)


def _refuse_grad(name: str):
    def kernel(*arguments):
        if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arguments):
            raise RuntimeError(f"torch.ops.rlrat.{name} has no derivative of its own: call rlrat.rational")
        with torch._C._AutoDispatchBelowAutograd():
            return getattr(torch.ops.rlrat, name).default(*arguments)

    return kernel


for _name in ("rational", "rational_backward"):
    _library.impl(_name, _refuse_grad(_name), "Autograd")


@torch.library.register_fake("rlrat::rational", lib=_library)
def _(x, numerator, denominator, version):
    return empty_output(x, numerator)


@torch.library.register_fake("rlrat::rational_backward", lib=_library)
def _(grad, x, numerator, denominator, version):
    return empty_output(x, numerator), torch.empty_like(numerator), torch.empty_like(denominator)


def _plain(x: Tensor) -> bool:
    """Whether nothing watches the dispatcher, so that calling it, some 10 us, can be left out."""
    return type(x) in _PLAIN and not torch.compiler.is_compiling() and torch._C._len_torch_dispatch_stack() == 0


_PLAIN = (Tensor, torch.nn.Parameter)


def _call_forward(x: Tensor, numerator: Tensor, denominator: Tensor, version: str) -> Tensor:
    if _plain(x):
        return _forward(x, numerator, denominator, version)
    return torch.ops.rlrat.rational(x, numerator, denominator, version)


def _call_backward(grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, version: str):
    if _plain(grad):
        return _backward(grad, x, numerator, denominator, version)
    return torch.ops.rlrat.rational_backward(grad, x, numerator, denominator, version)


class _Rational(torch.autograd.Function):
    """Under torch.func and torch.compile, which need `setup_context` (75 us a call)."""

    @staticmethod
    def forward(x: Tensor, numerator: Tensor, denominator: Tensor, version: str) -> Tensor:
        return _call_forward(x, numerator, denominator, version)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        x, numerator, denominator, ctx.version = inputs
        ctx.save_for_backward(x, numerator, denominator)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, numerator, denominator = ctx.saved_tensors
        gradients = _RationalBackward.apply(grad, x, numerator, denominator, ctx.version)
        return *(g if needed else None for g, needed in zip(gradients, ctx.needs_input_grad, strict=False)), None

    @staticmethod
    def vmap(info, in_dims, x: Tensor, numerator: Tensor, denominator: Tensor, version: str):
        x, numerator, denominator = _batched(info.batch_size, in_dims, x, numerator, denominator)
        return rational(x, numerator, denominator, version), 0


class _RationalEager(torch.autograd.Function):
    """The same in eager mode."""

    @staticmethod
    def forward(ctx, x: Tensor, numerator: Tensor, denominator: Tensor, version: str) -> Tensor:
        ctx.version = version
        ctx.save_for_backward(x, numerator, denominator)
        return _call_forward(x, numerator, denominator, version)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, numerator, denominator = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True
            gradients = _RationalBackward.apply(grad, x, numerator, denominator, ctx.version)
        else:
            gradients = _call_backward(grad, x, numerator, denominator, ctx.version)
        return *gradients, None


class _RationalBackward(torch.autograd.Function):
    """The first derivative as a function of its own; its derivative is left to PyTorch's operations."""

    @staticmethod
    def forward(grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, version: str):
        return _call_backward(grad, x, numerator, denominator, version)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        *tensors, ctx.version = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *cotangents: Tensor):
        version = ctx.version

        def gradients(grad: Tensor, *inputs: Tensor):
            return torch.func.vjp(lambda *arguments: expression(*arguments, version), *inputs)[1](grad)

        return *torch.func.vjp(gradients, *ctx.saved_tensors)[1](cotangents), None

    @staticmethod
    def vmap(info, in_dims, grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, version: str):
        grad, x, numerator, denominator = _batched(info.batch_size, in_dims, grad, x, numerator, denominator)
        return _RationalBackward.apply(grad, x, numerator, denominator, version), (0, 0, 0)


def _batched(size: int, in_dims: tuple[int | None, ...], *tensors: Tensor) -> list[Tensor]:
    """The tensors with vmap's axis in front: one more batch axis."""
    return [
        tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims, strict=False)
    ]


_valid: set[tuple] = set()  # what has been validated: a network calls with few shapes


def rational(x: Tensor, numerator: Tensor, denominator: Tensor, version: str = "A") -> Tensor:
    """R(x) = P(x) / Q(x), element by element, in the type of `x`.

    Args:
        x: `[*batch, ..., features]`, floating point. float64 is computed in float64, every other type in float32.
        numerator: `[*batch, groups, m + 1]`, a_0 first. The features are split into `groups` equal contiguous groups,
            each with its own coefficients.
        denominator: `[*batch, groups, n]`, b_1 first; for version C `[*batch, groups, n + 1]`, b_0 first.
        version: the form of Q, see the table at the top of reference.py.

    The gradient of the coefficients is summed over everything but batch and group.
    Where an absolute value has a corner, d|t|/dt at t = 0 is +1, so that denominator coefficients which are exactly
    zero can move: at b_i = 0 in version A, and where the sum inside the bars of versions B and C is zero. Version A's
    dR/dx at x = 0 is the limit from the right (from the left at x = -0.0).

    The C kernels are finite wherever the result is. Plain PyTorch forms x^m and x^n in the type of the computation: in
    float32 it is finite up to |x| = (3.4e38 / |a_m|)^(1/m), 5e7 for degrees (5, 4) and a_5 = 1.

    Raises:
        ValueError: an unknown version, or shapes that do not fit together.
        TypeError: a tensor that is not floating point.
    """
    if type(x) not in _PLAIN or torch.compiler.is_compiling():  # where sizes may be symbols
        validate(x, numerator, denominator, version)
    else:
        call = (x.shape, numerator.shape, denominator.shape, x.dtype, numerator.dtype, denominator.dtype, version)
        if call not in _valid:
            validate(x, numerator, denominator, version)
            if len(_valid) > 1000:
                _valid.clear()
            _valid.add(call)
    if not torch.is_grad_enabled() or not (x.requires_grad or numerator.requires_grad or denominator.requires_grad):
        if not torch._C._are_functorch_transforms_active():
            return _call_forward(x, numerator, denominator, version)
    elif not torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
        return _RationalEager.apply(x, numerator, denominator, version)
    return _Rational.apply(x, numerator, denominator, version)
