"""Compute losses and their gradients on a GPU in one launch each; losses.py is the definition and launches the kernels.

A setting is one number or, PER_SEED, has one for each seed in memory.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from rlrat.rational import launching

_ELEMENTS = 256  # of a program, or at a time in its loop


@triton.jit
def _setting(given, seed, PER_SEED: tl.constexpr):
    if PER_SEED:
        return tl.load(given + seed)
    else:  # without it, Triton sees two types that are returned
        return given


@triton.jit(
    do_not_specialize=["count", "rows", "reward_seed", "reward_row", "end_seed", "end_row"],
    do_not_specialize_on_alignment=["reward_ptr", "end_ptr", "next_ptr", "discount", "target_ptr"],
)
def bellman_kernel(
    reward_ptr, end_ptr, next_ptr, discount, target_ptr, count, rows, reward_seed, reward_row, end_seed, end_row,
    PER_SEED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store r + discount (1 - d) V for `count` transitions, BLOCK a program."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = place < count
    seed, row = place // rows, place % rows
    if PER_SEED:
        discount = tl.load(discount + seed, mask=known, other=0.0)
    reward = tl.load(reward_ptr + seed.to(tl.int64) * reward_seed + row * reward_row, mask=known, other=0.0)
    end = tl.load(end_ptr + seed.to(tl.int64) * end_seed + row * end_row, mask=known, other=0.0)
    value = tl.load(next_ptr + place, mask=known, other=0.0)
    tl.store(target_ptr + place, reward + discount * (1.0 - end) * value, mask=known)


@triton.jit
def _weighted(u, expectile, EXPECTILE: tl.constexpr):
    """Compute |expectile - 1(u < 0)| u."""
    if EXPECTILE:
        return tl.where(u > 0.0, expectile, 1.0 - expectile) * u
    return u


@triton.jit(
    do_not_specialize=["rows", "critics"],
    do_not_specialize_on_alignment=["value_ptr", "target_ptr", "expectile", "loss_ptr", "mean_ptr"],
)
def squared_error_kernel(
    value_ptr, target_ptr, expectile, loss_ptr, mean_ptr, rows, critics,
    EXPECTILE: tl.constexpr, PER_SEED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the loss of one seed a program, and the mean of its values."""
    seed = tl.program_id(0).to(tl.int64)
    expectile = _setting(expectile, seed, PER_SEED)
    squares, sums = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for first in range(0, rows, BLOCK):
        row = first + tl.arange(0, BLOCK)
        target = tl.load(target_ptr + seed * rows + row, mask=row < rows, other=0.0)
        for critic in range(critics):
            place = (seed * critics + critic) * rows + row
            value = tl.load(value_ptr + place, mask=row < rows, other=0.0)
            u = target - value
            squares += _weighted(u, expectile, EXPECTILE) * u
            sums += value
    tl.store(loss_ptr + seed, tl.sum(squares, axis=0) / rows)
    tl.store(mean_ptr + seed, tl.sum(sums, axis=0) / (rows * critics))


@triton.jit(
    do_not_specialize=["count", "rows", "critics"],
    do_not_specialize_on_alignment=["grad_ptr", "value_ptr", "target_ptr", "expectile", "slope_ptr"],
)
def squared_error_backward_kernel(
    grad_ptr, value_ptr, target_ptr, expectile, slope_ptr, count, rows, critics,
    EXPECTILE: tl.constexpr, PER_SEED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the gradient of `count` values, BLOCK a program."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known, seed = place < count, place // (rows * critics)
    if PER_SEED:
        expectile = tl.load(expectile + seed, mask=known, other=0.0)
    grad = tl.load(grad_ptr + seed, mask=known, other=0.0)
    target = tl.load(target_ptr + seed * rows + place % rows, mask=known, other=0.0)
    u = target - tl.load(value_ptr + place, mask=known, other=0.0)
    tl.store(slope_ptr + place, -2.0 * grad / rows * _weighted(u, expectile, EXPECTILE), mask=known)


@triton.jit(
    do_not_specialize=["seeds", "rows"],
    do_not_specialize_on_alignment=["log_prob_ptr", "advantage_ptr", "temperature", "most", "loss_ptr", "known_ptr"],
)
def weighted_likelihood_kernel(
    log_prob_ptr, advantage_ptr, temperature, most, loss_ptr, known_ptr, seeds, rows,
    PER_SEED: tl.constexpr, MOST_PER_SEED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the loss of one seed a program, and in known_ptr `[4, seeds]` mean and deviation of the advantage, the mean
    weight and the share of clipped ones.
    """
    seed = tl.program_id(0).to(tl.int64)
    temperature, most = _setting(temperature, seed, PER_SEED), _setting(most, seed, MOST_PER_SEED)
    losses, sums = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    weights, clipped = tl.zeros([BLOCK], tl.float32), tl.zeros([BLOCK], tl.float32)
    for first in range(0, rows, BLOCK):
        row = first + tl.arange(0, BLOCK)
        known = row < rows
        advantage = tl.load(advantage_ptr + seed * rows + row, mask=known, other=0.0)
        log_prob = tl.load(log_prob_ptr + seed * rows + row, mask=known, other=0.0)
        weight = tl.minimum(tl.exp(temperature * advantage), most, propagate_nan=tl.PropagateNan.ALL)
        losses -= tl.where(known, weight * log_prob, 0.0)
        sums += advantage
        weights += tl.where(known, weight, 0.0)
        clipped += tl.where(known & (weight >= most), 1.0, 0.0)
    mean = tl.sum(sums, axis=0) / rows
    squares = tl.zeros([BLOCK], tl.float32)
    for first in range(0, rows, BLOCK):
        row = first + tl.arange(0, BLOCK)
        advantage = tl.load(advantage_ptr + seed * rows + row, mask=row < rows, other=0.0)
        squares += tl.where(row < rows, (advantage - mean) * (advantage - mean), 0.0)
    tl.store(loss_ptr + seed, tl.sum(losses, axis=0) / rows)
    tl.store(known_ptr + seed, mean)
    tl.store(known_ptr + seeds + seed, tl.sqrt(tl.sum(squares, axis=0) / rows))
    tl.store(known_ptr + 2 * seeds + seed, tl.sum(weights, axis=0) / rows)
    tl.store(known_ptr + 3 * seeds + seed, tl.sum(clipped, axis=0) / rows)


@triton.jit(
    do_not_specialize=["count", "rows"],
    do_not_specialize_on_alignment=["grad_ptr", "advantage_ptr", "temperature", "most", "slope_ptr"],
)
def weighted_likelihood_backward_kernel(
    grad_ptr, advantage_ptr, temperature, most, slope_ptr, count, rows,
    PER_SEED: tl.constexpr, MOST_PER_SEED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Store the gradient of `count` log densities, BLOCK a program."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known, seed = place < count, place // rows
    if PER_SEED:
        temperature = tl.load(temperature + seed, mask=known, other=0.0)
    if MOST_PER_SEED:
        most = tl.load(most + seed, mask=known, other=0.0)
    advantage = tl.load(advantage_ptr + place, mask=known, other=0.0)
    weight = tl.minimum(tl.exp(temperature * advantage), most, propagate_nan=tl.PropagateNan.ALL)
    grad = tl.load(grad_ptr + seed, mask=known, other=0.0)
    tl.store(slope_ptr + place, -grad / rows * weight, mask=known)


def _setting_of(value: float | Tensor) -> tuple[float | Tensor, bool]:
    """Return a setting as the kernels take it, and whether it has a number for each seed."""
    return (value.flatten(), True) if isinstance(value, Tensor) else (float(value), False)


def bellman_target(rewards: Tensor, terminations: Tensor, next_value: Tensor, discount: float | Tensor) -> Tensor:
    seeds, rows = rewards.shape
    target = torch.empty(seeds, rows, device=rewards.device)
    discount, per_seed = _setting_of(discount)
    launching.launch(
        bellman_kernel, triton.cdiv(seeds * rows, _ELEMENTS), rewards, terminations, next_value.contiguous(), discount,
        target, seeds * rows, rows, *rewards.stride(), *terminations.stride(), device=rewards.device,
        PER_SEED=per_seed, BLOCK=_ELEMENTS,
    )  # fmt: skip
    return target


class SquaredError(torch.autograd.Function):
    """Of values `[S, C, B]` without gaps; expectile is None where both sides weigh 1."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, target: Tensor, expectile: float | Tensor | None) -> tuple[Tensor, Tensor]:
        """Compute the loss, which is differentiated, and the mean of the values, `[S]` each."""
        value, target = value.contiguous(), target.contiguous()
        ctx.expectile, per_seed = _setting_of(0.5 if expectile is None else expectile)
        ctx.constants: dict[str, Any] = {"PER_SEED": per_seed, "EXPECTILE": expectile is not None, "BLOCK": _ELEMENTS}
        ctx.save_for_backward(value, target)
        seeds, critics, rows = value.shape
        loss, mean = (torch.empty(seeds, device=value.device) for _ in range(2))
        launching.launch(
            squared_error_kernel, seeds, value, target, ctx.expectile, loss, mean, rows, critics, device=value.device,
            **ctx.constants,
        )  # fmt: skip
        ctx.mark_non_differentiable(mean)
        ctx.set_materialize_grads(False)  # of the mean, by a launch
        return loss, mean

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, _) -> tuple[Tensor, None, None]:
        value, target = ctx.saved_tensors
        _, critics, rows = value.shape
        slope = torch.empty_like(value)
        launching.launch(
            squared_error_backward_kernel, triton.cdiv(value.numel(), _ELEMENTS), grad.contiguous(), value, target,
            ctx.expectile, slope, value.numel(), rows, critics, device=value.device, **ctx.constants,
        )  # fmt: skip
        return slope, None, None


class WeightedLikelihood(torch.autograd.Function):
    """Of log densities and advantages `[S, B]`; returns the loss and what else is known `[4, S]`."""

    @staticmethod
    def forward(
        ctx: Any, log_prob: Tensor, advantage: Tensor, inverse_temperature: float | Tensor, max_weight: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss `[S]` and what else is known `[4, S]`, see the kernel."""
        (seeds, rows), advantage = log_prob.shape, advantage.contiguous()
        ctx.temperature, per_seed = _setting_of(inverse_temperature)
        ctx.most, most_per_seed = _setting_of(max_weight)
        ctx.constants = {"PER_SEED": per_seed, "MOST_PER_SEED": most_per_seed, "BLOCK": _ELEMENTS}
        ctx.save_for_backward(advantage)
        loss, known = torch.empty(seeds, device=log_prob.device), torch.empty(4, seeds, device=log_prob.device)
        launching.launch(
            weighted_likelihood_kernel, seeds, log_prob.contiguous(), advantage, ctx.temperature, ctx.most, loss, known,
            seeds, rows, device=log_prob.device, **ctx.constants,
        )  # fmt: skip
        ctx.mark_non_differentiable(known)
        ctx.set_materialize_grads(False)
        return loss, known

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor, _) -> tuple[Tensor, None, None, None]:
        (advantage,) = ctx.saved_tensors
        slope = torch.empty_like(advantage)
        launching.launch(
            weighted_likelihood_backward_kernel, triton.cdiv(slope.numel(), _ELEMENTS), grad.contiguous(), advantage,
            ctx.temperature, ctx.most, slope, slope.numel(), slope.shape[1], device=slope.device, **ctx.constants,
        )  # fmt: skip
        return slope, None, None, None
