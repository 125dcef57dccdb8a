"""An agent's update as CUDA graphs: recorded once, then replayed as a whole instead of launched kernel by kernel."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from rlrat.errors import reason, warn
from rlrat.updates.learner import Learner

_WARM_UPS = 3  # of the plain update before it is recorded, so that every kernel and library is loaded
_TOLERANCE = {"rtol": 1e-3, "atol": 1e-5, "equal_nan": True}


class Graph(Protocol):
    """What is recorded and replayed."""

    def warm_up(self, function: Callable[[], Any]) -> Any:
        """Call `function` as it will be recorded."""

    def record(self, function: Callable[[], Any]) -> Any:
        """Record what `function` does, without doing it; the tensors that it gives are filled by each `replay`."""

    def replay(self) -> None: ...


class CudaGraph:
    """PyTorch's, with errors that concern this thread alone: evaluation goes on in another one."""

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
            torch.cuda.set_stream(before)  # which a capture that fails leaves behind

    def replay(self) -> None:
        self._graph.replay()


@dataclass
class _Recording:
    graph: Graph
    inputs: tuple[Tensor, ...]
    """What is recorded reads them: each call's are copied here."""
    calls: int = 0
    metrics: dict[str, Tensor] | None = None


def captured(learner: Learner, make_graph: Callable[[], Graph] = CudaGraph) -> Callable[..., dict[str, Tensor]]:
    """`learner.update` that is recorded in its fourth call and replayed from then on; its metrics are overwritten then.

    An update launches hundreds of small kernels, which takes the host longer than they take the GPU. What is no tensor
    among the inputs, such as whether the actor learns, chooses a recording of its own. Each recording is replayed
    twice beside the plain update and compared before it is used: where it cannot be recorded, or does something else,
    the update runs as it is, after one warning. Needs all of the learner's memory to be in its `state_dict`.
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
            # With the recording's own inputs, so that all kernels that it needs are there before.
            own = iter(recording.inputs)
            arguments = [next(own) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
            return {name: value.detach() for name, value in update(*tree_unflatten(arguments, structure)).items()}

        recording.calls += 1
        if recording.calls <= _WARM_UPS:
            return recording.graph.warm_up(plain)
        before, result = _copy(learner), plain()
        once, _ = _copy(learner), plain()
        twice = _copy(learner)
        _load(learner, before)
        try:
            metrics = recording.graph.record(plain)
            # Twice: what was recorded as a constant shows in the second.
            recording.graph.replay()
            recording.graph.replay()
            state = learner.state_dict()
            different = [name for name, value in twice.items() if not torch.allclose(state[name], value, **_TOLERANCE)]
            problem = f"its {different[0]} differs from the plain update's" if different else None
        except RuntimeError as error:
            problem = reason(error.__context__ or error)  # the end of a capture that failed fails, too
        _load(learner, once)
        if problem is None:
            recording.metrics = metrics
        else:
            failed = True
            recordings.clear()
            warn(f"the update cannot be replayed as a CUDA graph ({problem}): it runs as it is")
        return result

    return call


def _copy(learner: Learner) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in learner.state_dict().items()}


@torch.no_grad()
def _load(learner: Learner, state: dict[str, Tensor]) -> None:
    """In place: a recording knows its tensors by their addresses."""
    for name, value in learner.state_dict().items():
        value.copy_(state[name])
