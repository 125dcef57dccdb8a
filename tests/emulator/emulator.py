"""The emulator: which stand-ins replace what, and what they share."""

import contextlib
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from rlrat.rational import backends, launching, op
from tests.emulator.graphs import Capture, CUDAGraph, graph
from tests.emulator.launches import Launches
from tests.emulator.streams import Timeline
from tests.emulator.transfers import Transfers

_MEMORY = 10**11
PROPERTIES = SimpleNamespace(
    name="emulated", major=9, minor=0, multi_processor_count=1, total_memory=_MEMORY, warp_size=32, L2_cache_size=10**6,
    max_threads_per_multi_processor=2048, regs_per_multiprocessor=2**16, shared_memory_per_block_optin=2**17,
)  # fmt: skip


class Emulator:
    """Makes the CPU a GPU inside its `with` block; see the package."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        """What was not permitted while a graph was captured."""
        self.captures = self.replays = 0
        """Captures that ended well, and replays."""
        self._captures: dict[int, Capture] = {}  # by thread
        self.transfers = Transfers()
        self.timeline = Timeline(self.refuse, self.transfers.finish)
        self.launches = Launches(launching.launch, self.capture)
        self._patch = pytest.MonkeyPatch()

    @property
    def unordered(self) -> list:
        """Pairs of streams: the second was given work in this thread, and had not waited for the first, before it."""
        return self.timeline.unordered

    def capture(self) -> Capture | None:
        """Return the capture that goes on in this thread."""
        return self._captures.get(threading.get_ident())

    def refuse(self, what: str) -> None:
        """Raise if a capture goes on that does not permit this."""
        own = self.capture()
        for capture in (own,) if own is not None else tuple(self._captures.values()):
            if capture is own or capture.error_mode == "global":
                capture.refuse(what)

    def begin(self, capture: Capture) -> None:
        if self.capture() is not None:
            self.capture().refuse("beginning a capture")
        self._captures[threading.get_ident()] = capture
        capture.begin()

    def end(self, capture: Capture) -> None:
        del self._captures[threading.get_ident()]
        self.timeline.nothing_done()
        capture.end()
        self.captures += 1

    def replay(self, capture: Capture | None) -> None:
        if capture is None or capture.failed:
            raise RuntimeError("a replay without a capture that has ended well")
        self.refuse("replay")
        self.timeline.check()
        self.transfers.check()
        capture.replay()
        self.replays += 1

    def copy(self, out: Tensor, source: Tensor) -> None:
        """Begin a copy on the current stream; at least one of both is pinned."""
        from_host, to_host = self.transfers.is_pinned(source), self.transfers.is_pinned(out)
        stream, time = self.timeline.current().cuda_stream, self.timeline.tick()
        if to_host and not from_host:
            self.transfers.to_host(out, source, stream, time)
            return
        _COPY(out, source)
        if from_host and not to_host:
            self.transfers.from_host(source, stream, time)

    def _is_device(self) -> bool:
        if torch.compiler.is_compiling():  # it cannot look into threads
            return True
        return threading.current_thread().name != "evaluation"

    def __enter__(self) -> "Emulator":
        # TorchDynamo lists PyTorch's functions once, by their names: not those that stand in for them.
        torch._dynamo.trace_rules.get_torch_obj_rule_map()
        set_, emulated = self._patch.setattr, {"_emulator": self}
        set_(launching, "_gpu_types", _Types(self))
        set_(launching, "launch", self.launches)
        set_(launching, "_tickets", {})
        set_(backends, "_plans", _Plans(self))
        set_(op, "_modes", _other_modes)
        set_(op, "has_direct", False)  # for graphs of a CPU
        timeline = self.timeline
        for name, value in {
            "Stream": timeline.Stream,
            "Event": timeline.Event,
            "CUDAGraph": type("CUDAGraph", (CUDAGraph,), emulated),
            "graph": type("graph", (graph,), emulated),
            "stream": timeline.using,
            "set_stream": timeline.set_current,
            "current_stream": timeline.current,
            "default_stream": lambda device=None: timeline.default,
            "synchronize": timeline.synchronize,
            "is_current_stream_capturing": lambda: self.capture() is not None,
            "graph_pool_handle": lambda: (0, 1),
            "set_device": lambda device: None,
            "current_device": lambda: 0,
            "device": lambda device: contextlib.nullcontext(),
            "get_device_properties": lambda device=None: PROPERTIES,
            "get_device_name": lambda device=None: PROPERTIES.name,
            "get_device_capability": lambda device=None: (PROPERTIES.major, PROPERTIES.minor),
            "mem_get_info": lambda device=None: (_MEMORY, _MEMORY),
            **dict.fromkeys(("memory_reserved", "memory_allocated"), lambda device=None: 0),
            **dict.fromkeys(("max_memory_reserved", "max_memory_allocated"), lambda device=None: 0),
            "memory_stats": lambda device=None: {},
            "reset_peak_memory_stats": lambda device=None: None,
            "empty_cache": lambda: None,
        }.items():
            set_(torch.cuda, name, value)
        set_(torch.accelerator, "synchronize", lambda device=None: timeline.synchronize())
        self._replace_functions()
        return self

    def __exit__(self, *_: Any) -> None:
        self._patch.undo()

    def _replace_functions(self) -> None:
        """Replace those of PyTorch's functions that know of two memories, or that wait without an operation."""

        def replace(owner, name: str, make, *arguments) -> None:
            original = getattr(owner, name)

            def function(*args, **kwargs):
                if torch.compiler.is_compiling():
                    return original(*args, **kwargs)
                return make(original, *arguments, *args, **kwargs)

            self._patch.setattr(owner, name, function)

        for name in ("empty", "empty_like", "empty_strided", "zeros", "zeros_like", "ones", "ones_like", "full"):
            replace(torch, name, self._allocate)
        for name in ("tensor", "as_tensor", "from_numpy"):
            replace(torch, name, self._from_host)
        replace(torch, "_foreach_copy_", self._copy_several)
        for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__int__", "__float__", "__index__"):
            replace(Tensor, name, self._read, name)
        replace(Tensor, "copy_", self._copy)
        replace(Tensor, "to", self._to)
        replace(Tensor, "pin_memory", self._pin)
        replace(Tensor, "is_pinned", lambda original, tensor, device=None: self.transfers.is_pinned(tensor))

    def _allocate(self, original, *args, pin_memory: bool = False, **kwargs) -> Tensor:
        if not pin_memory:
            return original(*args, **kwargs)
        self.refuse("cudaHostAlloc")
        return self.transfers.pin(original(*args, **kwargs))

    def _from_host(self, original, data, *args, pin_memory: bool = False, **kwargs) -> Tensor:
        if not isinstance(data, Tensor):
            self.refuse("a copy from memory that is not pinned")
        return self._allocate(original, data, *args, pin_memory=pin_memory, **kwargs)

    def _read(self, original, name: str, tensor: Tensor, *args, **kwargs):
        """Read a value, for which the host waits for the stream, unless it is in the host's memory."""
        if type(tensor) in (Tensor, torch.nn.Parameter) and not self.transfers.is_pinned(tensor):
            self.refuse(name)
            if name != "numpy":  # of a tensor of the host
                self.transfers.finish(self.timeline.current().position())
        return original(tensor, *args, **kwargs)

    def _copy(self, original, out: Tensor, source: Tensor, non_blocking: bool = False) -> Tensor:
        if not non_blocking or self.capture() is not None or type(out) is not Tensor:
            return original(out, source)
        if self.transfers.is_pinned(out) or self.transfers.is_pinned(source):
            self.copy(out, source)
            return out
        return original(out, source)

    def _copy_several(self, original, outs, sources, non_blocking: bool = False):
        if not non_blocking or self.capture() is not None:
            return original(outs, sources)
        for out, source in zip(outs, sources, strict=True):
            out.copy_(source, non_blocking=True)
        return outs

    def _to(self, original, tensor: Tensor, *args, non_blocking: bool = False, **kwargs) -> Tensor:
        device = kwargs.get("device", args[0] if args else None)
        if self.capture() is not None and device == "cpu":
            self.refuse("a copy to the host")
        out = original(tensor, *args, **kwargs)
        if isinstance(device, torch.device | str) and self.transfers.is_pinned(tensor):
            out = tensor.clone() if out is tensor else out
            if non_blocking:
                self.transfers.from_host(tensor, self.timeline.current().cuda_stream, self.timeline.tick())
        return out

    def _pin(self, original, tensor: Tensor, device: Any = None) -> Tensor:
        self.refuse("cudaHostAlloc")
        return tensor if self.transfers.is_pinned(tensor) else self.transfers.pin(tensor.clone())


_COPY = Tensor.copy_


def _other_modes() -> int:
    """Count the dispatch modes but for the capture's: on a GPU there is none."""
    return sum(not isinstance(mode, Capture) for mode in _get_current_dispatch_mode_stack())


class _Types:
    """The types of devices that are GPUs, in this thread."""

    def __init__(self, emulator: Emulator) -> None:
        self._emulator = emulator

    def __contains__(self, name: object) -> bool:
        return name == "cuda" or (name == "cpu" and self._emulator._is_device())


class _Plans(dict):
    """The plans of rational activations, which are not the same in an evaluation's thread."""

    def __init__(self, emulator: Emulator) -> None:
        super().__init__()
        self._emulator = emulator

    def _key(self, key: tuple) -> tuple:
        return (*key, self._emulator._is_device())

    def get(self, key: tuple, default: Any = None) -> Any:
        return super().get(self._key(key), default)

    def __setitem__(self, key: tuple, value: Any) -> None:
        super().__setitem__(self._key(key), value)
