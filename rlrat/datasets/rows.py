"""Gather rows of a dataset for one update after another: on the device or, if they do not fit there, in advance."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rlrat.rational.launching import is_gpu
from rlrat.updates.machine import available_memory
from rlrat.updates.random import UpdateBlocks

_CHUNK = 2**18  # rows that are made at a time: the whole is never in memory twice
_SHARE = 0.5  # of the free memory that the rows may take
_GATHERED = 2**18  # numbers that are gathered at a time; they fit into a core's cache
_GATHERED_ON_GPU = 2**22  # 16 MiB: there fewer launches count


class Rows:
    """Rows that each update gathers from a dataset, in columns: float32 `[*shape, width]` for each of the widths.

    If all rows take at most half of the device's free memory, they are kept there. Otherwise they stay in the
    memory-mapped dataset. The indices of the next updates are known, and a thread reads their rows in advance.

    The rows of several updates are gathered at once, as the overhead of a call takes longer than its work.

    Args:
        read: returns the rows at a slice or an array `[n]` of indices: `[n, sum of the widths]`.
        count: number of rows.
        widths: widths of the columns.
        draw: `draw(updates, device)` returns the indices that updates gather, on `device`: `[*shape]` for one update,
            `[U, *shape]` for a range of U.
        resident: whether to keep the rows on the device; by default, if they fit.
    """

    def __init__(
        self,
        read: Callable[[slice | np.ndarray], np.ndarray],
        count: int,
        widths: Sequence[int],
        draw: Callable[[int | range, torch.device], Tensor],
        device: torch.device | str,
        resident: bool | None = None,
    ) -> None:
        self._read, self._draw, self._device, self._widths = read, draw, torch.device(device), list(widths)
        self._first, self._updates = 0, []  # the columns of some neighbouring updates
        width = sum(widths)
        if resident is None:
            free = available_memory(self._device)
            resident = free is None or 4 * count * width <= _SHARE * free
        self._rows = None
        only_shapes = self._device.type == "meta"
        if resident or only_shapes:
            self._rows = torch.empty(count if resident else 1, width, device=device)
            for start in range(0, 0 if only_shapes else count, _CHUNK):
                part = slice(start, min(start + _CHUNK, count))
                self._rows[part] = self._tensor(part)
            self._blocks = UpdateBlocks(draw, self._device)
        else:
            self._blocks = UpdateBlocks(self._gather, ahead=True)

    def _tensor(self, index: slice | np.ndarray) -> Tensor:
        return torch.from_numpy(self._read(index).astype(np.float32, copy=False))

    def _gather(self, updates: int | range) -> Tensor:
        indices = self._draw(updates, torch.device("cpu"))
        rows = self._tensor(indices.flatten().numpy()).unflatten(0, indices.shape)
        return rows.pin_memory() if is_gpu(self._device) else rows

    def at(self, update: int) -> tuple[Tensor, ...]:
        """Return the columns of `update`, on the device."""
        if not 0 <= update - self._first < len(self._updates):
            self._first, rows = self._gather_several(update)
            columns = rows.split(self._widths, dim=-1)
            self._updates = list(zip(*(column.unbind() for column in columns), strict=True))
        return self._updates[update - self._first]

    def _gather_several(self, update: int) -> tuple[int, Tensor]:
        """Gather the rows of `update` and some updates next to it; return the first of these and the rows."""
        first, numbers = self._blocks.block(update)
        if self._rows is None:
            return first, numbers.to(self._device, non_blocking=True)
        most = _GATHERED_ON_GPU if is_gpu(self._device) else _GATHERED
        several = max(1, most // (numbers[0].numel() * self._rows.shape[1]))
        start = (update - first) // several * several
        numbers = numbers[start : start + several]
        return first + start, self._rows.index_select(0, numbers.flatten()).unflatten(0, numbers.shape)
