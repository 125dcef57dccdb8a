"""Define the operator: what autograd, torch.func, torch.compile and export see of a rational activation.

The operators `rlrat::rational` and `rlrat::rational_backward` have no derivative; `rational` gives them one by an
autograd.Function. torch.library.custom_op with register_autograd would cost several times the dispatch and break
torch.func.grad. A graph that is compiled for a CPU calls `rlrat::rational_direct` and its backward instead: they reach
the C kernels without Python, which would take longer than the kernels. What torch.export, torch.onnx.export and
torch.jit.trace write down has no operator of ours, but plain ones, so that it runs where rlrat is not.
"""

import warnings

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.library import Library

from . import backends, cpu
from .layout import empty_output
from .reference import expression, plain, validate

_library = Library("rlrat", "DEF")
_inputs = "Tensor x, Tensor numerator, Tensor denominator, Tensor? bias, Tensor? gate, str version"
_library.define(f"rational({_inputs}) -> Tensor")
# The last two are empty where there is no bias or gate. (With a list, PyTorch's is_grads_batched does not work.)
_gradients = "(Tensor, Tensor, Tensor, Tensor, Tensor)"
_library.define(f"rational_backward(Tensor grad, {_inputs}) -> {_gradients}")
# C can read these, see dispatcher.inc: an absent bias or gate is empty, the version is the code of its letter.
_inputs = "Tensor x, Tensor numerator, Tensor denominator, Tensor bias, Tensor gate, int version"
_exact = [torch.Tag.needs_exact_strides]
_library.define(f"rational_direct({_inputs}) -> Tensor", tags=_exact)
_library.define(f"rational_direct_backward(Tensor grad, {_inputs}) -> {_gradients}", tags=_exact)
has_direct: bool = cpu.register("rlrat", "rational_direct", "rational_direct_backward")


def _forward(
    x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None, gate: Tensor | None, version: str
) -> Tensor:
    plan = backends.plan(x, numerator, denominator, bias, gate, version, backends.forced())
    return plan.forward(x, numerator, denominator, bias, gate)


def _backward(
    grad: Tensor,
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    bias: Tensor | None,
    gate: Tensor | None,
    version: str,
) -> tuple[Tensor, ...]:
    plan = backends.plan(x, numerator, denominator, bias, gate, version, backends.forced())
    gradients = plan.backward(grad, x, numerator, denominator, bias, gate)
    return tuple(x.new_empty(0) if gradient is None else gradient for gradient in gradients)


for _key in ("CPU", "CUDA"):
    _library.impl("rational", _forward, _key)
    _library.impl("rational_backward", _backward, _key)


def _refuse_grad(name: str):
    """Make a kernel that raises where a derivative of the bare operator is wanted, and else calls it."""

    def kernel(*arguments):
        if torch.is_grad_enabled() and any(isinstance(t, Tensor) and t.requires_grad for t in arguments):
            raise RuntimeError(f"torch.ops.rlrat.{name} has no derivative of its own: call rlrat.rational")
        if forward_ad._current_level >= 0 and any(
            isinstance(t, Tensor) and forward_ad.unpack_dual(t).tangent is not None for t in arguments
        ):
            raise NotImplementedError(f"torch.ops.rlrat.{name} has no forward-mode derivative (jvp)")
        with torch._C._AutoDispatchBelowAutograd():
            return getattr(torch.ops.rlrat, name).default(*arguments)

    return kernel


for _name in ("rational", "rational_backward"):
    _library.impl(_name, _refuse_grad(_name), "Autograd")
for _name in ("rational_direct", "rational_direct_backward"):  # a graph's inputs may want gradients, which it computes
    _library.impl(_name, torch.library.fallthrough_kernel, "Autograd")


@torch.library.register_fake("rlrat::rational", lib=_library)
def _rational_shape(x, numerator, denominator, bias, gate, version):
    return empty_output(x, numerator, bias)


@torch.library.register_fake("rlrat::rational_backward", lib=_library)
def _backward_shapes(grad, x, numerator, denominator, bias, gate, version):
    return (
        empty_output(x, numerator, bias),
        numerator.new_empty(numerator.shape),
        denominator.new_empty(denominator.shape),
        x.new_empty(0) if bias is None else bias.new_empty(bias.shape),
        x.new_empty(0) if gate is None else empty_output(x, numerator, bias),
    )


@torch.library.register_fake("rlrat::rational_direct", lib=_library)
def _direct_shape(x, numerator, denominator, bias, gate, version):
    return torch.empty_like(x)


@torch.library.register_fake("rlrat::rational_direct_backward", lib=_library)
def _direct_backward_shapes(grad, *inputs):
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs[:-1])


def _direct(
    x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None, gate: Tensor | None, version: str
) -> tuple | None:
    """Return what `rational_direct` takes for these, or None unless a graph is being compiled that may call it."""
    if not has_direct or not torch.compiler.is_dynamo_compiling() or x.numel() == 0:  # not for torch.export
        return None
    absent = x.new_empty(0)
    tensors = (x, numerator, denominator, absent if bias is None else bias, absent if gate is None else gate)
    degrees = numerator.shape[-1] - 1, denominator.shape[-1] - (version == "C")
    if backends.forced() is not None or not cpu.supports(degrees) or not cpu.takes(*tensors):
        return None
    return *tensors, ord(version)


_PLAIN = (Tensor, torch.nn.Parameter)
_transforming, _modes = torch._C._are_functorch_transforms_active, torch._C._len_torch_dispatch_stack
_tracing = torch._C._is_tracing  # torch.jit.trace, which sees PyTorch's own operations alone
_is_batched = torch._C._functorch.is_legacy_batchedtensor


def _plain(x: Tensor) -> bool:
    """Say whether nothing watches the dispatcher: then calling it, which takes some 10 us, can be left out."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in _PLAIN
        and (x.is_cpu or x.is_cuda)
        and not x.is_neg()
        and not _transforming()
        and _modes() == 0
        and not _tracing()
        and forward_ad._current_level < 0  # an autograd.Function refuses dual tensors, a plan loses their tangents
        and not _is_batched(x)
    )


class _Rational(torch.autograd.Function):
    """Differentiate under torch.func and torch.compile, which need `setup_context` (75 us a call)."""

    @staticmethod
    def forward(x, numerator, denominator, bias, gate, version) -> Tensor:
        if _plain(x):
            return _forward(x, numerator, denominator, bias, gate, version)
        inputs = _direct(x, numerator, denominator, bias, gate, version)
        if inputs is not None:
            return torch.ops.rlrat.rational_direct(*inputs)
        return torch.ops.rlrat.rational(x, numerator, denominator, bias, gate, version)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        *tensors, ctx.version = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad: Tensor):
        gradients = _RationalBackward.apply(grad, *ctx.saved_tensors, ctx.version)
        return *(g if needed else None for g, needed in zip(gradients, ctx.needs_input_grad, strict=False)), None

    @staticmethod
    def vmap(info, in_dims, *inputs):
        *tensors, version = inputs
        *tensors, bias, gate = _batched(info.batch_size, in_dims, *tensors)
        return rational(*tensors, version, bias=bias, gate=gate), 0


class _RationalEager(torch.autograd.Function):
    """Differentiate in eager mode."""

    @staticmethod
    def forward(ctx, x, numerator, denominator, bias, gate, version, name) -> Tensor:
        ctx.version, ctx.name = version, name
        ctx.save_for_backward(x, numerator, denominator, bias, gate)
        plan = backends.plan(x, numerator, denominator, bias, gate, version, name)
        return plan.forward(x, numerator, denominator, bias, gate)

    @staticmethod
    def backward(ctx, grad: Tensor):
        tensors = ctx.saved_tensors
        if torch.is_grad_enabled() or not _plain(grad):  # create_graph=True, or a transform of the backward pass
            gradients = _RationalBackward.apply(grad, *tensors, ctx.version)
            return *(None if t is None else g for g, t in zip(gradients, tensors, strict=True)), None, None
        # Look it up again: torch.autograd.graph.saved_tensors_hooks may have changed strides or device.
        plan = backends.plan(*tensors, ctx.version, ctx.name)
        return *plan.backward(grad, *tensors), None, None


# Skips what Function.apply does first for torch.func, a fifth of a small forward call.
_apply_eager = super(torch.autograd.Function, _RationalEager).apply


class _RationalBackward(torch.autograd.Function):
    """Make the first derivative a function of its own, which is differentiated by PyTorch's operations."""

    @staticmethod
    def forward(grad, x, numerator, denominator, bias, gate, version) -> tuple[Tensor, ...]:
        if _plain(grad):
            return _backward(grad, x, numerator, denominator, bias, gate, version)
        inputs = _direct(x, numerator, denominator, bias, gate, version)
        if inputs is not None and grad.dtype == x.dtype:
            return torch.ops.rlrat.rational_direct_backward(grad.contiguous(), *inputs)
        return torch.ops.rlrat.rational_backward(grad, x, numerator, denominator, bias, gate, version)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        *tensors, ctx.version = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, *cotangents: Tensor):
        given = [t is not None for t in ctx.saved_tensors]

        def fill(tensors):
            rest = iter(tensors)
            return [next(rest) if there else None for there in given]

        def gradients(grad: Tensor, *inputs: Tensor):
            def y(*inputs: Tensor) -> Tensor:
                return expression(*fill((grad, *inputs))[1:], ctx.version)

            return torch.func.vjp(y, *inputs)[1](grad)

        present = [t for t in ctx.saved_tensors if t is not None]
        cotangents = tuple(c for c, there in zip(cotangents, given[1:], strict=True) if there)
        return *fill(torch.func.vjp(gradients, *present)[1](cotangents)), None

    @staticmethod
    def vmap(info, in_dims, *inputs):
        *tensors, version = inputs
        batched = _batched(info.batch_size, in_dims, *tensors)
        return _RationalBackward.apply(*batched, version), tuple(None if t is None else 0 for t in tensors[1:])


def _batched(size: int, in_dims: tuple[int | None, ...], *tensors: Tensor | None) -> list[Tensor | None]:
    """Return the tensors with vmap's axis in front, as one more batch axis."""
    return [
        None if tensor is None else tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        for tensor, dim in zip(tensors, in_dims, strict=False)
    ]


def rational(
    x: Tensor,
    numerator: Tensor,
    denominator: Tensor,
    version: str = "A",
    *,
    bias: Tensor | None = None,
    gate: Tensor | None = None,
) -> Tensor:
    """Compute R(x) = P(x) / Q(x), element by element, in the type of `x`; with `bias` and `gate`, R(x + bias) gate.

    Args:
        x: `[*batch, ..., features]`, floating point. float64 is computed in float64, every other type in float32.
        numerator: `[*batch, groups, m + 1]`, a_0 first. The features are split into `groups` equal contiguous groups,
            each with its own coefficients.
        denominator: `[*batch, groups, n]`, b_1 first; for version C `[*batch, groups, n + 1]`, b_0 first.
        version: the form of Q, see the table at the top of reference.py.
        bias: `[*batch, features]`, added to every row of x.
        gate: as x; the result is multiplied by it.

    The gradients of the coefficients are summed over everything but batch and group, that of the bias over rows.
    At the corner of an absolute value, d|t|/dt at t = 0 is +1: at b_i = 0 in version A, and where the sum inside the
    bars of versions B and C is zero. So denominator coefficients that are exactly zero can move. In version A, dR/dx
    at x = 0 is the limit from the right (at x = -0.0, from the left).

    Values and gradients are finite wherever R and its derivatives are, however large x is. At x = +-infinity, R and
    dR/dx are their limits, and x adds nothing to the gradients of the coefficients. Second derivatives compute x^m and
    x^n in the type of the computation: in float32 they are finite up to |x| = (3.4e38 / |a_m|)^(1/m), which is 5e7 for
    degrees (5, 4) and a_5 = 1.

    Returns:
        `[*batch, ..., features]`, with the strides of x or contiguous.

    Raises:
        ValueError: an unknown version, shapes or devices that do not fit together, a gate of another type than x.
        TypeError: a tensor that is not floating point.
    """
    if not _plain(x):
        if not torch.compiler.is_compiling() and _tracing():
            with warnings.catch_warnings():  # to a trace sizes are tensors, and it warns that Python reads them
                warnings.simplefilter("ignore", torch.jit.TracerWarning)
                validate(x, numerator, denominator, bias, gate, version)
                return plain(x, numerator, denominator, bias, gate, version)
        validate(x, numerator, denominator, bias, gate, version)
        if torch.compiler.is_exporting():
            return plain(x, numerator, denominator, bias, gate, version)
        return _Rational.apply(x, numerator, denominator, bias, gate, version)
    if torch.is_grad_enabled() and (
        x.requires_grad
        or numerator.requires_grad
        or denominator.requires_grad
        or (bias is not None and bias.requires_grad)
        or (gate is not None and gate.requires_grad)
    ):
        return _apply_eager(x, numerator, denominator, bias, gate, version, backends.forced())
    return _forward(x, numerator, denominator, bias, gate, version)
