"""Describe where the elements of a tensor lie in memory, as the compiled backends see it."""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor


def is_flat(x: Tensor, numerator: Tensor, bias: Tensor | None) -> bool:
    """Say whether all of x has one set of coefficients and no gaps, so that only the memory order matters."""
    if bias is not None or numerator.ndim > 2 or numerator.shape[-2] > 1:
        return False
    if x.is_contiguous():
        return True
    expected = 1  # the axes may be dense in any order
    for size, stride in sorted(zip(x.shape, x.stride(), strict=True), key=lambda axis: (axis[1], axis[0])):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def empty_output(x: Tensor, numerator: Tensor, bias: Tensor | None = None) -> Tensor:
    """Make a tensor of x's shape and type, without values: with x's strides where `is_flat`, else contiguous."""
    if x.is_contiguous() or is_flat(x, numerator, bias):
        return torch.empty_like(x)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


class Layout(NamedTuple):
    """See x as `[batch, rows, groups * width]`; `flat` where only the memory order matters: then x is one row."""

    batch: int
    rows: int
    groups: int
    width: int
    flat: bool
    batch_dims: int

    @classmethod
    def of(cls, x: Tensor, numerator: Tensor, bias: Tensor | None) -> "Layout":
        """Find the layout of an x that is not empty."""
        batch_dims, groups = numerator.ndim - 2, numerator.shape[-2]
        if is_flat(x, numerator, bias):
            return cls(1, 1, 1, x.numel(), True, 0)
        batch = math.prod(x.shape[:batch_dims])
        return cls(batch, x.numel() // (batch * x.shape[-1]), groups, x.shape[-1] // groups, False, batch_dims)

    def addressed(self, t: Tensor, like: Tensor) -> tuple[Tensor, int, int]:
        """Return t, or a copy of it, and the strides of its batch and rows.

        t has x's shape, and `like` x's strides. A copy is needed only where the features are not neighbours, or where
        the axes of batch or of rows cannot be seen as one axis.
        """
        if self.flat:
            if t.stride() != like.stride():
                t = torch.empty_like(like, dtype=t.dtype).copy_(t)  # the same memory order
            return t, 0, 0
        if not t.is_contiguous():
            sizes, strides, dims = t.shape, t.stride(), self.batch_dims
            batch = _one_stride(sizes[:dims], strides[:dims])
            row = _one_stride(sizes[dims:-1], strides[dims:-1])
            if batch is not None and row is not None and (strides[-1] == 1 or sizes[-1] == 1):
                return t, batch, row
            t = t.contiguous()
        return t, self.rows * t.shape[-1], t.shape[-1]

    def entries(self, t: Tensor) -> tuple[Tensor, int]:
        """Return t `[*batch, ...]`, or a copy of it, whose entries have no gaps, and the stride of its batch."""
        batch = entries_stride(t, self.batch_dims)
        return (t.contiguous(), math.prod(t.shape[self.batch_dims :])) if batch is None else (t, batch)


def entries_stride(t: Tensor, batch_dims: int) -> int | None:
    """Return the stride of t's batch; None where its entries have gaps or its axes cannot be seen as one."""
    expected, sizes, strides = 1, t.shape, t.stride()
    for size, stride in zip(reversed(sizes[batch_dims:]), reversed(strides[batch_dims:]), strict=True):
        if size != 1 and stride != expected:
            return None
        expected *= max(size, 1)  # as PyTorch counts
    return _one_stride(sizes[:batch_dims], strides[:batch_dims])


def _one_stride(sizes: tuple[int, ...], strides: tuple[int, ...]) -> int | None:
    """Return the stride of the axes seen as one, or None where they cannot be."""
    axes = [(size, stride) for size, stride in zip(sizes, strides, strict=True) if size != 1]
    for (_, outer), (size, inner) in pairwise(axes):
        if outer != size * inner:
            return None
    return axes[-1][1] if axes else 0
