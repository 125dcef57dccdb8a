"""Compute on a GPU what networks do in many small operations otherwise; layers.py and policies.py launch the kernels.

A program's first number is that of its unit: the seed, or the seed and its critic.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from rlrat.rational import launching

_MOST_ROWS = 1024  # for which one program sums the gradients of weights over all rows
_ROWS, _BACKWARD_ROWS, _FEATURES = 16, 64, 16  # of a program
_ACTIONS = 256  # of a program
_HALF_LOG_2PI = tl.constexpr(0.9189385332046727)


@triton.jit(
    do_not_specialize=["rows", "features"],
    do_not_specialize_on_alignment=["x_ptr", "w_ptr", "bias_ptr", "y_ptr", "w_unit", "w_row", "bias_unit"],
)
def narrow_kernel(
    x_ptr, w_ptr, bias_ptr, y_ptr, rows, features, w_unit, w_row, bias_unit,
    OUT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store x W + b `[U, rows, OUT]`, for x `[U, rows, features]` without gaps: ROWS rows a program."""
    blocks = tl.cdiv(rows, ROWS)
    unit = tl.program_id(0) // blocks
    row = tl.program_id(0) % blocks * ROWS + tl.arange(0, ROWS)
    place = unit.to(tl.int64) * rows + row
    for out in tl.static_range(OUT):
        total = tl.zeros([ROWS], tl.float32)
        for first in range(0, features, BLOCK):
            column = first + tl.arange(0, BLOCK)
            w = tl.load(w_ptr + unit.to(tl.int64) * w_unit + column * w_row + out, mask=column < features, other=0.0)
            inside = (row < rows)[:, None] & (column < features)[None, :]
            x = tl.load(x_ptr + place[:, None] * features + column[None, :], mask=inside, other=0.0)
            total += tl.sum(x * w[None, :], axis=1)
        total += tl.load(bias_ptr + unit.to(tl.int64) * bias_unit + out)
        tl.store(y_ptr + place * OUT + out, total, mask=row < rows)


@triton.jit(
    do_not_specialize=["rows", "features"],
    do_not_specialize_on_alignment=[
        *("grad_ptr", "x_ptr", "w_ptr", "dx_ptr", "dw_ptr", "dbias_ptr", "w_unit", "w_row"),
    ],
)
def narrow_backward_kernel(
    grad_ptr, x_ptr, w_ptr, dx_ptr, dw_ptr, dbias_ptr, rows, features, w_unit, w_row,
    OUT: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the gradients of x, W and b, for BLOCK features of all rows a program: sums have one order."""
    blocks = tl.cdiv(features, BLOCK)
    unit = (tl.program_id(0) // blocks).to(tl.int64)
    column = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    known = column < features
    for out in tl.static_range(OUT):
        w = tl.load(w_ptr + unit * w_unit + column * w_row + out, mask=known, other=0.0)
        dw, dbias = tl.zeros([BLOCK], tl.float32), tl.zeros([ROWS], tl.float32)
        for first in range(0, rows, ROWS):
            row = first + tl.arange(0, ROWS)
            place, inside = unit * rows + row, (row < rows)[:, None] & known[None, :]
            grad = tl.load(grad_ptr + place * OUT + out, mask=row < rows, other=0.0)
            x = tl.load(x_ptr + place[:, None] * features + column[None, :], mask=inside, other=0.0)
            dw += tl.sum(grad[:, None] * x, axis=0)
            dbias += grad
            # Of all outputs at the last one: each thread stores what it alone computes.
            if out == OUT - 1:
                dx = grad[:, None] * w[None, :]
                for other in tl.static_range(OUT - 1):
                    v = tl.load(w_ptr + unit * w_unit + column * w_row + other, mask=known, other=0.0)
                    dx += tl.load(grad_ptr + place * OUT + other, mask=row < rows, other=0.0)[:, None] * v[None, :]
                tl.store(dx_ptr + place[:, None] * features + column[None, :], dx, mask=inside)
        tl.store(dw_ptr + (unit * features + column) * OUT + out, dw, mask=known)
        tl.store(dbias_ptr + unit * OUT + out, tl.sum(dbias, axis=0), mask=tl.program_id(0) % blocks == 0)


@triton.jit
def _tanh(x):
    """Compute tanh with an error of some 1e-7: PyTorch's own function is not at hand in every Triton."""
    e = tl.exp(-2.0 * tl.abs(x))
    return tl.where(x < 0.0, e - 1.0, 1.0 - e) / (1.0 + e)


@triton.jit
def _clamp(x, low, high):
    x = tl.maximum(x, low, propagate_nan=tl.PropagateNan.ALL)
    return tl.minimum(x, high, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _atanh(a):
    """Clamp actions to +-0.999; compute atanh and log(1 - a^2)."""
    a = _clamp(a, -0.999, 0.999)
    up, down = tl.log(1.0 + a), tl.log(1.0 - a)  # the digits of 1 - a^2 would be lost near 1
    return 0.5 * (up - down), up + down


@triton.jit(
    do_not_specialize=["count", "rows", "action_seed", "action_row", "log_std_seed"],
    do_not_specialize_on_alignment=["output_ptr", "action_ptr", "log_std_ptr", "log_prob_ptr"],
)
def log_prob_kernel(
    output_ptr, action_ptr, log_std_ptr, log_prob_ptr, count, rows, action_seed, action_row, log_std_seed,
    HEAD: tl.constexpr, SIZE: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store log densities of `count` actions of SIZE components, BLOCK a program, by the network's outputs."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = place < count
    seed = (place // rows).to(tl.int64)
    total = tl.zeros([BLOCK], tl.float32)
    for i in tl.static_range(SIZE):
        output = tl.load(output_ptr + place.to(tl.int64) * SIZE + i, mask=known, other=0.0)
        a = tl.load(action_ptr + seed * action_seed + (place % rows) * action_row + i, mask=known, other=0.0)
        if HEAD == "deterministic":
            error = _tanh(output) - a
            total -= error * error
        else:
            log_std = tl.load(log_std_ptr + seed * log_std_seed + i, mask=known, other=0.0)
            log_std = _clamp(log_std, LOW, HIGH)
            if HEAD == "squashed_gaussian":
                a, correction = _atanh(a)
                total -= correction
            else:
                output = _tanh(output)
            z = (a - output) * tl.exp(-log_std)
            total -= 0.5 * z * z + (log_std + _HALF_LOG_2PI)
    tl.store(log_prob_ptr + place, total, mask=known)


@triton.jit(
    do_not_specialize=["rows", "action_seed", "action_row", "log_std_seed"],
    do_not_specialize_on_alignment=[
        "grad_ptr",
        "output_ptr",
        "action_ptr",
        "log_std_ptr",
        "doutput_ptr",
        "dlog_std_ptr",
    ],
)
def log_prob_backward_kernel(
    grad_ptr, output_ptr, action_ptr, log_std_ptr, doutput_ptr, dlog_std_ptr,
    rows, action_seed, action_row, log_std_seed,
    HEAD: tl.constexpr, SIZE: tl.constexpr, LOW: tl.constexpr, HIGH: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the gradients of the outputs and of the logarithms of sigma, for one component of one seed a program."""
    seed, i = (tl.program_id(0) // SIZE).to(tl.int64), tl.program_id(0) % SIZE
    log_std = tl.load(log_std_ptr + seed * log_std_seed + i) if HEAD != "deterministic" else 0.0
    inverse = tl.exp(-_clamp(log_std, LOW, HIGH)) if HEAD != "deterministic" else 1.0
    dlog_std = tl.zeros([BLOCK], tl.float32)
    for first in range(0, rows, BLOCK):
        row = first + tl.arange(0, BLOCK)
        known, place = row < rows, (seed * rows + row) * SIZE + i
        grad = tl.load(grad_ptr + seed * rows + row, mask=known, other=0.0)
        output = tl.load(output_ptr + place, mask=known, other=0.0)
        a = tl.load(action_ptr + seed * action_seed + row * action_row + i, mask=known, other=0.0)
        if HEAD == "squashed_gaussian":
            a, _ = _atanh(a)
            slope = grad
        else:
            output = _tanh(output)
            slope = grad * (1.0 - output * output)
        if HEAD == "deterministic":
            slope *= 2.0 * (a - output)
        else:
            z = (a - output) * inverse
            slope *= z * inverse
            dlog_std += grad * (z * z - 1.0)
        tl.store(doutput_ptr + place, slope, mask=known)
    if HEAD != "deterministic":
        inside = (log_std >= LOW) & (log_std <= HIGH)
        tl.store(dlog_std_ptr + seed * SIZE + i, tl.where(inside, tl.sum(dlog_std, axis=0), 0.0))


class _NarrowLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        units, rows, features = x.shape
        y = torch.empty(units, rows, weight.shape[-1], device=x.device)
        launching.launch(
            narrow_kernel, units * triton.cdiv(rows, _ROWS), x, weight, bias, y, rows, features, *weight.stride()[:2],
            bias.stride(0), device=x.device, OUT=y.shape[-1], ROWS=_ROWS,
            BLOCK=min(256, triton.next_power_of_2(features)),
        )  # fmt: skip
        return y

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        units, rows, features = x.shape
        if rows > _MOST_ROWS or torch.is_grad_enabled():  # with create_graph=True operations are differentiated again
            return torch.bmm(grad, weight.mT), torch.bmm(x.mT, grad), grad.sum(1)
        grad, dx = grad.contiguous(), torch.empty_like(x)
        dweight, dbias = (torch.empty(units, *shape, device=x.device) for shape in (weight.shape[1:], grad.shape[2:]))
        launching.launch(
            narrow_backward_kernel, units * triton.cdiv(features, _FEATURES), grad, x, weight, dx, dweight, dbias,
            rows, features, *weight.stride()[:2], device=x.device, OUT=grad.shape[-1], ROWS=_BACKWARD_ROWS,
            BLOCK=_FEATURES,
        )  # fmt: skip
        return dx, dweight, dbias


def narrow_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute x W + b `[U, B, out]` in one launch, for x `[U, B, in]`; its gradients in one more, for few rows.

    A product with few columns is bound by memory; cuBLAS first copies the bias into the result.
    """
    return _NarrowLinear.apply(x.contiguous(), weight if weight.stride(-1) == 1 else weight.contiguous(), bias)


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, outputs: Tensor, actions: Tensor, log_std: Tensor, head: str, bounds: tuple[float, float]
    ) -> Tensor:
        ctx.save_for_backward(outputs, actions, log_std)
        ctx.constants = {"HEAD": head, "SIZE": outputs.shape[-1], "LOW": bounds[0], "HIGH": bounds[1]}
        seeds, rows, _ = outputs.shape
        log_prob = torch.empty(seeds, rows, device=outputs.device)
        launching.launch(
            log_prob_kernel, triton.cdiv(seeds * rows, _ACTIONS), outputs, actions, log_std, log_prob, seeds * rows,
            rows, *actions.stride()[:2], log_std.stride(0), device=outputs.device, BLOCK=_ACTIONS, **ctx.constants,
        )  # fmt: skip
        return log_prob

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        outputs, actions, log_std = ctx.saved_tensors
        seeds, rows, size = outputs.shape
        doutputs, dlog_std = torch.empty_like(outputs), torch.empty(seeds, size, device=outputs.device)
        launching.launch(
            log_prob_backward_kernel, seeds * size, grad.contiguous(), outputs, actions, log_std, doutputs, dlog_std,
            rows, *actions.stride()[:2], log_std.stride(0), device=outputs.device, BLOCK=_ACTIONS, **ctx.constants,
        )  # fmt: skip
        return doutputs, None, None if ctx.constants["HEAD"] == "deterministic" else dlog_std, None, None


def log_prob(
    outputs: Tensor, actions: Tensor, log_std: Tensor | None, head: str, bounds: tuple[float, float] | None
) -> Tensor:
    """Compute what `Policy.log_prob` does after its network, in one launch, and the gradients in one more.

    Args:
        outputs: of the network, `[S, B, act]`.
        actions: `[S, B, act]`, no gradient of them is taken.
        log_std: `[S, act]`, None for a deterministic policy.
        head: one of `Policy.HEADS` but `sac`.
        bounds: those that log_std is clamped to.
    """
    if log_std is None:
        log_std, bounds = outputs, (0.0, 0.0)  # neither is read
    actions = actions if actions.stride(-1) == 1 else actions.contiguous()
    return _LogProb.apply(outputs.float().contiguous(), actions, log_std, head, bounds)
