"""Copies between the device and pinned memory of the host, which are done later than they are asked for."""

import threading
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

from tests.emulator.streams import Position


def spoil(tensor: Tensor) -> None:
    """Fill memory with what no one should read: NaN, large integers, True."""
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex:
        tensor.fill_(float("nan"))
    else:
        tensor.fill_(True if tensor.dtype == torch.bool else torch.iinfo(tensor.dtype).max // 3 * 2)


@dataclass
class _Copy:
    stream: int
    time: int
    pinned: Tensor
    value: Tensor
    """To the host, what will arrive; from it, what was there when the copy was asked for."""
    to_host: bool


class Transfers:
    """Knows what memory is pinned, and the copies that are on their way."""

    def __init__(self) -> None:
        self._pinned: dict[int, StorageWeakRef] = {}
        self._pending: list[_Copy] = []
        self._lock = threading.RLock()

    def pin(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        self._pinned[storage.data_ptr()] = StorageWeakRef(storage)
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        found = self._pinned.get(tensor.untyped_storage().data_ptr()) if self._pinned else None
        return found is not None and not found.expired()

    @torch.no_grad()
    def to_host(self, pinned: Tensor, source: Tensor, stream: int, time: int) -> None:
        """Copy `source`, as it is now, to `pinned`, which holds garbage until the copy is known to be done."""
        value = torch.empty_like(pinned)
        torch.Tensor.copy_(value, source)
        with self._lock:
            spoil(pinned)
            self._pending.append(_Copy(stream, time, pinned, value, True))

    def from_host(self, pinned: Tensor, stream: int, time: int) -> None:
        """Remember what a copy takes from `pinned`: it must be there until the copy is known to be done."""
        with self._lock:
            self._pending.append(_Copy(stream, time, pinned, pinned.detach().clone(), False))

    def check(self) -> None:
        """Raise if pinned memory was changed although a copy may still have to read it."""
        with self._lock:
            for copy in self._pending:
                if not copy.to_host and not torch.equal(_bytes(copy.pinned), _bytes(copy.value)):
                    self._pending.remove(copy)
                    raise RuntimeError("pinned memory was changed before the copy from it was known to be done")

    @torch.no_grad()
    def finish(self, done: Position) -> None:
        """Let the copies arrive that are done at this position."""
        with self._lock:
            self.check()
            arrived = [copy for copy in self._pending if copy.time <= done.get(copy.stream, 0)]
            self._pending = [copy for copy in self._pending if copy.time > done.get(copy.stream, 0)]
            for copy in arrived:
                if copy.to_host:
                    torch.Tensor.copy_(copy.pinned, copy.value)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)  # NaN equals itself
