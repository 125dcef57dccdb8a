"""Record an agent's update as CUDA graphs and replay it as a whole, instead of launching it kernel by kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from rlrat.errors import reason, warn
from rlrat.updates.learner import Learner

_WARM_UP_CALLS = 3  # plain ones before the recording, so that every kernel and library is loaded
_TOLERANCE = {"rtol": 1e-3, "atol": 1e-5, "equal_nan": True}


class Graph(Protocol):
    """Records what a function does, and replays it."""

    def warm_up(self, function: Callable[[], Any]) -> Any:
        """Call `function` on the stream on which it will be recorded."""

    def record(self, function: Callable[[], Any]) -> Any:
        """Record what `function` does, without doing it; return its tensors, which each `replay` fills."""

    def replay(self) -> None:
        """Do what was recorded."""


class CudaGraph:
    """A `Graph` of PyTorch's. Its errors concern this thread alone, as evaluation goes on in another one."""

    def __init__(self) -> None:
        self._stream, self._graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()

    def warm_up(self, function: Callable[[], Any]) -> Any:
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = function()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def record(self, function: Callable[[], Any]) -> Any:
        before = torch.cuda.current_stream()
        try:
            with torch.cuda.graph(self._graph, stream=self._stream, capture_error_mode="thread_local"):
                return function()
        finally:
            torch.cuda.set_stream(before)  # a capture that fails leaves another one behind

    def replay(self) -> None:
        self._graph.replay()


@dataclass
class _Recording:
    graph: Graph
    inputs: tuple[Tensor, ...]
    """The tensors that the recording reads; each call copies its own into them."""
    calls: int = 0
    metrics: dict[str, Tensor] | None = None


def captured(learner: Learner, make_graph: Callable[[], Graph] = CudaGraph) -> Callable[..., dict[str, Tensor]]:
    """Return a function that calls `learner.update`, records the fourth call, and replays it from then on.

    An update launches hundreds of small kernels, and launching them takes the host longer than running them takes the
    GPU. A replay overwrites the metrics that were returned before. Inputs that are no tensors, such as whether the
    actor learns, choose the recording: there is one for each combination of them. A recording is used only if two
    replays do the same as two plain updates. Where the update cannot be recorded, or a replay does something else, the
    plain update runs from then on, after one warning. All of the learner's memory must be in its `state_dict`.
    """
    update, recordings, failed = learner.update, {}, False

    def call(*inputs) -> dict[str, Tensor]:
        nonlocal failed
        if failed:
            return update(*inputs)
        leaves, structure = tree_flatten(inputs)
        tensors = tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))
        key = tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in leaves)
        if key not in recordings:
            clones = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in tensors)
            recordings[key] = _Recording(make_graph(), clones)
        recording = recordings[key]
        torch._foreach_copy_(recording.inputs, tensors)
        if recording.metrics is not None:
            recording.graph.replay()
            return recording.metrics

        def plain() -> dict[str, Tensor]:
            # On the recording's own inputs, so that the kernels for them are loaded before it.
            own = iter(recording.inputs)
            arguments = [next(own) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return {name: value.detach() for name, value in update(*tree_unflatten(arguments, structure)).items()}

        recording.calls += 1
        if recording.calls <= _WARM_UP_CALLS:
            return recording.graph.warm_up(plain)
        before, result = _copy(learner), plain()
        once, _ = _copy(learner), plain()
        twice = _copy(learner)
        _load(learner, before)
        try:
            metrics = recording.graph.record(plain)
            # Twice: a value that was recorded as a constant shows in the second.
            recording.graph.replay()
            recording.graph.replay()
            state = learner.state_dict()
            different = [name for name, value in twice.items() if not torch.allclose(state[name], value, **_TOLERANCE)]
            problem = f"its {different[0]} differs from the plain update's" if different else None
        except RuntimeError as error:
            problem = reason(error.__context__ or error)  # ending a capture that failed raises an error of its own
        _load(learner, once)
        if problem is None:
            recording.metrics = metrics
        else:
            failed = True
            recordings.clear()
            warn(f"the update cannot be replayed as a CUDA graph ({problem}): it runs as it is")
        return result

    call.recordings = recordings  # empty where the update cannot be replayed
    return call


def _copy(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.state_dict().items()}


@torch.no_grad()
def _load(learner: Learner, state: dict[str, Tensor]) -> None:
    """Copy `state` in place: a recording knows its tensors by their addresses."""
    for name, value in learner.state_dict().items():
        value.copy_(state[name])
