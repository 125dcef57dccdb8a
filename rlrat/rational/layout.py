"""Where the elements of a tensor lie in memory, as the compiled backends see it."""

import math
from itertools import pairwise

import torch
from torch import Tensor


def is_flat(x: Tensor, numerator: Tensor) -> bool:
    """Whether all of x has one set of coefficients and no gaps, so that only the memory order matters."""
    if numerator.ndim > 2 or numerator.shape[-2] > 1:
        return False
    if x.is_contiguous():
        return True
    expected = 1  # dense, in whatever order of the axes
    for size, stride in sorted(zip(x.shape, x.stride(), strict=True), key=lambda axis: (axis[1], axis[0])):
        if size != 1 and stride != expected:
            return False
        expected *= size
    return True


def empty_output(x: Tensor, numerator: Tensor) -> Tensor:
    """Uninitialised, in x's shape and type: with x's strides where `is_flat`, else contiguous."""
    if x.is_contiguous() or is_flat(x, numerator):
        return torch.empty_like(x)
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


def rows_of(x: Tensor, batch_dims: int) -> tuple[Tensor, int, int]:
    """x, or a contiguous copy of it, and the strides of its batch and rows.

    A copy is needed only where the features are not neighbours, or where the axes of batch or rows are no single
    stride apart.
    """
    if not x.is_contiguous():
        sizes, strides = x.shape, x.stride()
        batch = _one_stride(sizes[:batch_dims], strides[:batch_dims])
        row = _one_stride(sizes[batch_dims:-1], strides[batch_dims:-1])
        if batch is not None and row is not None and (strides[-1] == 1 or sizes[-1] == 1):
            return x, batch, row
        x = x.contiguous()
    return x, x.numel() // max(math.prod(x.shape[:batch_dims]), 1), x.shape[-1]


def _one_stride(sizes: tuple[int, ...], strides: tuple[int, ...]) -> int | None:
    """The stride of the axes seen as one, or None where there is none."""
    axes = [(size, stride) for size, stride in zip(sizes, strides, strict=True) if size != 1]
    for (_, outer), (size, inner) in pairwise(axes):
        if outer != size * inner:
            return None
    return axes[-1][1] if axes else 0
