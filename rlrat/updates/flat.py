"""Lay the parameters of a network into one flat buffer, over which optimizers pass once."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from rlrat.rational import launching

is_padded: Callable[[torch.device], bool] = launching.is_gpu  # whether flat buffers are; a name of its own for tests


class Layout:
    """Know where the parameters of a network, each `[*batch_shape, ...]`, lie in a flat buffer `[*batch_shape, P]`.

    On a GPU each begins at a multiple of 128 bytes and so does each row, so that kernels may take 16 bytes at once and
    share no cache line. Between them are zeros, which stay zeros: their gradients are.
    """

    _ALIGNED_BYTES = 128

    def __init__(self, parameters: Sequence[Tensor], batch_shape: Sequence[int]) -> None:
        self._rows, self._shapes = math.prod(batch_shape), [parameter.shape for parameter in parameters]
        self._batch_shape = tuple(batch_shape)
        self.sizes: list[int] = [shape.numel() // self._rows for shape in self._shapes]
        """The elements of each in a row."""
        like = parameters[0].detach()
        self._device = like.device
        unit = self._ALIGNED_BYTES // like.element_size() if is_padded(like.device) else 1
        self._widths = [-(-size // unit) * unit for size in self.sizes]
        gaps = [width - size for width, size in zip(self._widths, self.sizes, strict=True)]
        self._gaps = [like.new_zeros(self._rows, gap) if gap else None for gap in gaps]  # whole, for `torch.cat`

    def pieces(self, flat: Tensor) -> list[Tensor]:
        """Split `flat` into views with the parameters' shapes."""
        parts = zip(flat.split(self._widths, dim=-1), self.sizes, self._shapes, strict=True)
        return [piece[..., :size].view(shape) for piece, size, shape in parts]

    def join(self, tensors: Sequence[Tensor], out: Tensor | None = None) -> Tensor:
        """Copy tensors with as many elements as the parameters into one buffer, a new one or `out`, by one operation.

        They may be parts of rows, too.
        """
        rows = []
        for tensor, size, gap in zip(tensors, self.sizes, self._gaps, strict=True):
            rows.append(tensor.reshape(self._rows, size))
            if gap is not None:
                rows.append(gap)
        if out is not None:
            return torch.cat(rows, dim=1, out=out.view(self._rows, -1))
        return torch.cat(rows, dim=1).view(*self._batch_shape, -1)

    def pack(self, flat: Tensor) -> Tensor:
        """Leave the padding out; without it, return `flat` itself."""
        if self._widths == self.sizes:
            return flat
        return torch.cat([piece.reshape(*self._batch_shape, -1) for piece in self.pieces(flat)], dim=-1)

    def unpack(self, packed: Tensor) -> Tensor:
        """Put the padding back."""
        if self._widths == self.sizes or packed.shape != (*self._batch_shape, sum(self.sizes)):
            return packed
        return self.join(packed.to(self._device).split(self.sizes, dim=-1))

    def expand(self, values: Sequence[float], device: torch.device) -> Tensor:
        """Turn one number for each parameter into one for each element of a row."""
        pairs = zip(self._widths, values, strict=True)
        return torch.cat([torch.full((width,), float(value), device=device) for width, value in pairs])


@torch.no_grad()
def flatten(network: nn.Module) -> Tensor:
    """Move the parameters of `network`, each `[*batch_shape, ...]`, into one buffer `[*batch_shape, P]` and return it.

    The parameters become views of the buffer, which is `network.flat` from now on: what is written to one is read from
    the other. In a copy of the network, or after a move to another device, they are views no more. `network` needs a
    `batch_shape`, as `MLP` and `Policy` have.
    """
    parameters = list(network.parameters())
    layout = Layout(parameters, network.batch_shape)
    flat = layout.join(parameters)
    for parameter, piece in zip(parameters, layout.pieces(flat), strict=True):
        parameter.data = piece
    network.register_buffer("flat", flat, persistent=False)  # moves with the network: nothing stays on the old device
    return flat


def separate(views: Sequence[Tensor]) -> list[Tensor]:
    """Make tensors on the same memory that are no views to autograd, like parameters with a new `data`."""
    empty = [torch.empty(0, dtype=v.dtype, device=v.device) for v in views]
    pairs = zip(empty, views, strict=True)
    return [e.set_(v.untyped_storage(), v.storage_offset(), v.shape, v.stride()) for e, v in pairs]
