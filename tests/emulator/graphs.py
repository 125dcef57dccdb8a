"""Graphs: what is captured, as steps that a replay does again at the same addresses."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

from tests.emulator.transfers import spoil

# Operations that wait for the device, because Python or the size of their result needs a value of it.
_WAITING = {
    *("_local_scalar_dense", "is_nonzero", "equal", "allclose", "nonzero", "masked_select", "bincount", "_pin_memory"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive"),
}
_INDEXING = {"index", "_unsafe_index", "index_put", "index_put_", "_index_put_impl_"}


class Capture(TorchDispatchMode):
    """Records operations and launches between `begin` and `end`. They are done, so that results have their sizes, and
    then undone.
    """

    def __init__(self, emulator: Any, error_mode: str) -> None:
        super().__init__()
        self._emulator, self.error_mode = emulator, error_mode
        self.failed = False
        self._steps: list[Callable[[], Any]] = []
        self._raw: dict[int, torch.UntypedStorage] = {}  # by address
        self._own: dict[int, Tensor] = {}
        self._others: dict[int, StorageWeakRef] = {}
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        return True  # as on a GPU, torch.compile does not know of it

    def refuse(self, what: str) -> None:
        self.failed = True
        self._emulator.refused.append(what)
        raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing ({what})")

    def begin(self) -> None:
        self.__enter__()

    def end(self) -> None:
        self.__exit__(None, None, None)
        for memory, content in self._before.values():
            memory.copy_(content)
        self._before.clear()
        self._spoil()
        if self.failed:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    def _spoil(self) -> None:
        for memory in self._own.values():
            spoil(memory)

    def _alias(self, tensor: Tensor) -> Tensor:
        """Return a tensor at the same address that keeps nothing alive."""
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address == 0:  # nothing in it
            return tensor.detach()
        if address not in self._raw:
            self._others[address] = StorageWeakRef(storage)
            self._raw[address] = _raw_storage(storage)
        return torch.empty(0, dtype=tensor.dtype).set_(
            self._raw[address], tensor.storage_offset(), tensor.shape, tensor.stride()
        )

    def _allocated(self, tensor: Tensor) -> None:
        """Keep what was allocated while capturing: its address is the graph's as long as the graph lives."""
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address and address not in self._own:
            self._raw[address] = storage
            self._own[address] = torch.empty(0, dtype=tensor.dtype).set_(
                storage, 0, (storage.nbytes() // tensor.itemsize,)
            )

    def _constant(self, number: Tensor) -> None:
        storage = number.untyped_storage()
        self._raw[storage.data_ptr()] = storage

    def _save(self, tensor: Tensor) -> None:
        """Remember what an operation is about to change, unless a replay makes it."""
        address = self._alias(tensor).untyped_storage().data_ptr()
        if address and address not in self._own and address not in self._before:
            memory = torch.empty(0, dtype=torch.uint8).set_(self._raw[address])
            self._before[address] = memory, memory.clone()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        if self.failed:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        if func.namespace == "rlrat":  # written in Python, which is not recorded but what it does
            with self:
                return func._op_dk(torch._C.DispatchKey.CPU, *args, **kwargs)
        if name in _WAITING or (name in _INDEXING and _by_mask(*args, **kwargs)):
            self.refuse(name)
        if name == "set_":  # another view of memory that there is
            return func(*args, **kwargs)
        if name == "lift_fresh":  # a number that is assigned, which a GPU fills in
            self._constant(args[0])
        if name == "copy_" and any(map(self._emulator.transfers.is_pinned, args[:2])):
            return self._copy_pinned(*args[:2])
        schema = func._schema
        given = [*zip(schema.arguments, args, strict=False), *((a, kwargs.get(a.name)) for a in schema.arguments)]
        for argument, value in given:
            if argument.alias_info is not None and argument.alias_info.is_write:
                for tensor in _tensors(value):
                    self._save(tensor)
        aliases = tree_map_only(Tensor, self._alias, (args, kwargs))
        there = {tensor.untyped_storage().data_ptr() for tensor in _tensors((args, kwargs))}
        out = func(*args, **kwargs)
        leaves = tree_leaves(out)
        fresh = [
            place
            for place, leaf in enumerate(leaves)
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in there
        ]
        for place in fresh:
            self._allocated(leaves[place])
        results = [(place, self._alias(leaves[place])) for place in fresh]
        nothing_to_do = not schema.is_mutable and ("empty" in name or (_tensors(out) and not fresh))  # such as a view
        if not nothing_to_do:
            self._steps.append(partial(_do, func, *aliases, results))
        return out

    def _copy_pinned(self, out: Tensor, source: Tensor) -> Tensor:
        """Record a copy to or from pinned memory, which a replay begins and does not wait for."""
        out_alias, source_alias = self._alias(out), self._alias(source)
        self._save(out)
        torch.Tensor.copy_(out, source)
        self._steps.append(partial(self._emulator.copy, out_alias, source_alias))
        return out

    def record_launch(self, kernel, programs: int, arguments: tuple, settings: dict) -> None:
        with _disable_current_modes():
            for tensor in _tensors(arguments):
                self._save(tensor)
            aliases = tree_map_only(Tensor, self._alias, arguments)
        self._emulator.launches.run(kernel, programs, arguments, settings)
        self._steps.append(partial(self._emulator.launches.run, kernel, programs, aliases, settings))

    @torch.no_grad()
    def replay(self) -> None:
        freed = sum(storage.expired() for storage in self._others.values())
        if freed:
            raise RuntimeError(f"a replay reads or writes {freed} pieces of memory that were freed since the capture")
        self._spoil()
        for step in self._steps:
            step()


def _raw_storage(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    return torch._C._construct_storage_from_data_pointer(storage.data_ptr(), storage.device, storage.nbytes())


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _by_mask(tensor: Tensor, indices: list, values: Tensor | None = None, *_, **__) -> bool:
    """Say whether an index is a mask, whose places a GPU has to count first; one number is filled in without."""
    masks = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in indices)
    return masks and (values is None or values.numel() > 1)


def _do(func, args: tuple, kwargs: dict, results: list[tuple[int, Tensor]]) -> None:
    """Do an operation again, and put what it allocates where the capture had it."""
    leaves = tree_leaves(func(*args, **kwargs))
    for place, result in results:
        torch.Tensor.copy_(result, leaves[place])


class CUDAGraph:
    """Stands in for torch.cuda.CUDAGraph."""

    _emulator: ClassVar[Any]

    def __init__(self, keep_graph: bool = False) -> None:
        self._capture: Capture | None = None

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global", **_) -> None:
        self._capture = Capture(self._emulator, capture_error_mode)
        self._emulator.begin(self._capture)

    def capture_end(self) -> None:
        self._emulator.end(self._capture)

    def replay(self) -> None:
        self._emulator.replay(self._capture)

    def reset(self) -> None:
        self._capture = None

    def pool(self) -> tuple[int, int]:
        return (0, id(self))


class graph:
    """Stands in for torch.cuda.graph, in the same order: a capture that fails leaves its stream the current one."""

    _emulator: ClassVar[Any]

    def __init__(
        self, cuda_graph: CUDAGraph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global", **_
    ) -> None:
        self._graph, self._pool, self._mode = cuda_graph, pool, capture_error_mode
        self._context = torch.cuda.stream(stream or torch.cuda.Stream())

    def __enter__(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        self._context.__enter__()
        self._graph.capture_begin(self._pool, capture_error_mode=self._mode)

    def __exit__(self, *_: Any) -> None:
        self._graph.capture_end()
        self._context.__exit__(None, None, None)
