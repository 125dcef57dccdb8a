"""Record an agent's update as CUDA graphs and replay it as a whole, instead of launching it kernel by kernel."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from rlrat.errors import reason, warn
from rlrat.updates.learner import Learner

_WARM_UP_CALLS = 3  # plain ones before the recording, so that every kernel and library is loaded
_MOST_COPIED = 1.5  # times what is asked for: to copy more takes longer than another launch
_TOLERANCE = {"rtol": 1e-3, "atol": 1e-5, "equal_nan": True}
_MOST_RECORDINGS = 16  # each keeps memory; with a number that is new in every update there would be one an update


class Graph(Protocol):
    """Records what a function does, and replays it."""

    def warm_up(self, function: Callable[[], Any]) -> Any:
        """Call `function` on the stream on which it will be recorded."""

    def record(self, function: Callable[[], Any]) -> Any:
        """Record what `function` does, without doing it; return its tensors, which each `replay` fills."""

    def replay(self) -> None:
        """Do what was recorded."""


class CudaGraph:
    """A `Graph` of PyTorch's. Its errors concern this thread alone, as evaluation goes on in another one.

    Graphs given one `stream` and one `pool` share memory, if what all but their results hold may be overwritten between
    replays, and no two of them work at once.
    """

    def __init__(self, stream: torch.cuda.Stream | None = None, pool: Any = None) -> None:
        self._stream, self._pool = torch.cuda.Stream() if stream is None else stream, pool
        self._graph = torch.cuda.CUDAGraph()

    def warm_up(self, function: Callable[[], Any]) -> Any:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def record(self, function: Callable[[], Any]) -> Any:
        before = torch.cuda.current_stream()
        try:
            options = {"pool": self._pool, "stream": self._stream, "capture_error_mode": "thread_local"}
            with torch.cuda.graph(self._graph, **options):
                return function()
        finally:
            torch.cuda.set_stream(before)  # a capture that fails leaves another one behind

    def replay(self) -> None:
        self._graph.replay()


class _Inputs:
    """Holds the tensors that a recording reads, and fills them with those of a call, in as few copies as may be.

    Tensors that are views of the same memory, such as the columns of a batch, are copied as one piece with all that
    lies between them; here they are views of one buffer with the same strides. All pieces of a type are one launch.
    """

    def __init__(self, given: Sequence[Tensor]) -> None:
        self._layout = _layout(given)
        groups: dict[int, list[int]] = {}
        for index, (storage, _, _) in enumerate(self._layout):
            groups.setdefault(storage, []).append(index)
        self.tensors = [tensor.clone(memory_format=torch.contiguous_format) for tensor in given]
        self._pieces: dict[torch.dtype, list[tuple[Tensor, int, int]]] = {}
        """By type: a buffer, a tensor and how far before its beginning in memory the piece begins."""
        self._others = []
        for group in groups.values():
            together = [group] if _is_piece([given[i] for i in group]) else [[i] for i in group]
            for members in together:
                tensors = [given[i] for i in members]
                if not _is_piece(tensors):
                    self._others += members
                    continue
                first = min(tensor.storage_offset() for tensor in tensors)
                buffer = tensors[0].new_empty(_end(tensors) - first)
                for i, tensor in zip(members, tensors, strict=True):
                    self.tensors[i] = buffer.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - first)
                piece = (buffer, members[0], tensors[0].storage_offset() - first)
                self._pieces.setdefault(buffer.dtype, []).append(piece)

    def fill(self, given: Sequence[Tensor]) -> None:
        """Copy tensors of the same shapes and types; where they lie otherwise in memory, each for itself."""
        if _layout(given) != self._layout:
            torch._foreach_copy_(self.tensors, given)
            return
        for pieces in self._pieces.values():
            sources = [
                given[i].as_strided((len(buffer),), (1,), given[i].storage_offset() - before)
                for buffer, i, before in pieces
            ]
            torch._foreach_copy_([buffer for buffer, _, _ in pieces], sources)
        if self._others:
            torch._foreach_copy_([self.tensors[i] for i in self._others], [given[i] for i in self._others])


def _layout(tensors: Sequence[Tensor]) -> list[tuple[int, int, tuple[int, ...]]]:
    """Say of each tensor which memory (by type) it lies in, how far behind the first one there, and its strides."""
    known: dict[tuple[int, torch.dtype], tuple[int, int]] = {}
    found = []
    for tensor in tensors:
        offset = tensor.storage_offset()
        storage = (tensor.untyped_storage()._cdata, tensor.dtype)
        number, first = known.setdefault(storage, (len(known), offset))
        found.append((number, offset - first, tensor.stride()))
    return found


def _end(tensors: Sequence[Tensor]) -> int:
    """Return where in their memory the last of these ends."""
    spans = (sum((n - 1) * stride for n, stride in zip(t.shape, t.stride(), strict=True)) for t in tensors)
    return max(1 + tensor.storage_offset() + span for tensor, span in zip(tensors, spans, strict=True))


def _is_piece(tensors: Sequence[Tensor]) -> bool:
    """Say whether tensors of one memory are worth copying with what lies between them, and share no element.

    If they did, a later call's could not be copied one by one.
    """
    elements, first = sum(tensor.numel() for tensor in tensors), min(tensor.storage_offset() for tensor in tensors)
    if any(tensor.numel() == 0 for tensor in tensors) or _end(tensors) - first > _MOST_COPIED * elements:
        return False
    taken = torch.zeros(_end(tensors) - first, dtype=torch.bool)
    for tensor in tensors:
        if any(n > 1 and stride == 0 for n, stride in zip(tensor.shape, tensor.stride(), strict=True)):
            return False
        taken.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset() - first).fill_(True)
    return int(taken.sum()) == elements


@dataclass
class _Recording:
    graph: Graph
    inputs: _Inputs
    calls: int = 0
    metrics: dict[str, Tensor] | None = None


def captured(learner: Learner, make_graph: Callable[[], Graph] | None = None) -> Callable[..., dict[str, Tensor]]:
    """Return a function that calls `learner.update`, records the fourth call, and replays it from then on.

    An update launches hundreds of small kernels, and launching them takes the host longer than running them takes the
    GPU. Metrics are rows of one tensor, which a replay overwrites. Inputs that are no tensors, such as whether the
    actor learns, choose the recording: there is one for each combination of them. A recording is used only if two
    replays do the same as two plain updates, and return the same metrics. Where the update cannot be recorded, or a
    replay does something else, the plain update runs from then on, after one warning. All of the learner's memory must
    be in its parameters and buffers.

    Args:
        learner: its `update` is recorded.
        make_graph: makes the graph of one recording; by default CUDA graphs which share their memory.
    """
    # Shared whatever the order of replays: one reads nothing but the learner's memory and its inputs, which lie
    # elsewhere, and what it computed before it ended is needed no more, but for its metrics. These are kept here, so
    # that the memory of a later recording is other memory.
    make_graph = make_graph or partial(CudaGraph, torch.cuda.Stream(), torch.cuda.graph_pool_handle())
    update, recordings, failed = learner.update, {}, False

    def call(*inputs) -> dict[str, Tensor]:
        nonlocal failed
        if failed:
            return update(*inputs)
        leaves, structure = tree_flatten(inputs)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        key = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        if len(recordings) == _MOST_RECORDINGS and key not in recordings:
            failed = True
            recordings.clear()
            warn(
                "the update is not replayed as a CUDA graph: what is no tensor among its inputs has more than "
                f"{_MOST_RECORDINGS} values (give the update a number that changes as a tensor)"
            )
            return update(*inputs)
        if key not in recordings:
            recordings[key] = _Recording(make_graph(), _Inputs(tensors))
        recording = recordings[key]
        recording.inputs.fill(tensors)
        if recording.metrics is not None:
            recording.graph.replay()
            return recording.metrics

        def plain() -> dict[str, Tensor]:
            # On the recording's own inputs, so that the kernels for them are loaded before it.
            own = iter(recording.inputs.tensors)
            arguments = [next(own) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return _as_rows(update(*tree_unflatten(arguments, structure)))

        recording.calls += 1
        if recording.calls <= _WARM_UP_CALLS:
            return recording.graph.warm_up(plain)
        before, first = _copy(learner), plain()
        once, second = _copy(learner), plain()
        twice = _copy(learner)
        _load(learner, before)
        try:
            metrics = recording.graph.record(plain)
            recording.graph.replay()
            replayed = {name: value.clone() for name, value in metrics.items()}
            # Twice: a value that was recorded as a constant shows in the second.
            recording.graph.replay()
            problem = _difference(_memory(learner), twice)
            problem = problem or _difference(replayed, first, "metric ") or _difference(metrics, second, "metric ")
        except RuntimeError as error:
            problem = reason(error.__context__ or error)  # ending a capture that failed raises an error of its own
        _load(learner, once)
        if problem is None:
            recording.metrics = metrics
        else:
            failed = True
            recordings.clear()
            warn(f"the update cannot be replayed as a CUDA graph ({problem}): it runs as it is")
        return first

    call.recordings = recordings  # empty where the update cannot be replayed
    return call


def _as_rows(metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy metrics of one shape into one tensor, of which they become rows: `Run.log` adds it up in one launch."""
    values = [value.detach() for value in metrics.values()]
    if len({(value.shape, value.dtype) for value in values}) != 1:
        return dict(zip(metrics, values, strict=True))
    rows = torch.stack(values)
    return {name: rows[index] for index, name in enumerate(metrics)}


def _difference(found: dict[str, Tensor], wanted: dict[str, Tensor], kind: str = "") -> str | None:
    """Name the first tensor that differs, and say that it does."""
    for name, value in wanted.items():
        if not torch.allclose(found[name], value, **_TOLERANCE):
            return f"its {kind}{name} differs from the plain update's"
    return None


def _memory(learner: Learner) -> dict[str, Tensor]:
    """Return the tensors that an update changes, themselves, each memory once: `state_dict` may have copies."""
    found = dict(learner.named_parameters())
    known = {parameter.untyped_storage()._cdata for parameter in found.values()}  # flat buffers' among them
    return found | {name: b for name, b in learner.named_buffers() if b.untyped_storage()._cdata not in known}


def _copy(learner: Learner) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in _memory(learner).items()}


@torch.no_grad()
def _load(learner: Learner, memory: dict[str, Tensor]) -> None:
    """Copy `memory` in place: a recording knows its tensors by their addresses."""
    for name, value in _memory(learner).items():
        value.copy_(memory[name])
