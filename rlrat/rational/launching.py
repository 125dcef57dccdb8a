"""Launch Triton's kernels: say where they run, and give their programs counters."""

import contextlib
import functools
import importlib.util
import warnings
from typing import Any

import torch
from torch import Tensor

_gpu_types = ("cuda",)


def is_gpu(device: torch.device) -> bool:
    """Say whether `device` is a GPU. In the tests' emulator a CPU is one: ask here, not for the device's type."""
    return device.type in _gpu_types


@functools.cache
def problem() -> str | None:
    """Return why Triton's kernels cannot run on this machine, or None; where there is a GPU, one is tried first."""
    if importlib.util.find_spec("triton") is None:
        return "Triton is not installed (pip install triton)"
    try:
        _try()
    except Exception as error:  # of Triton, its driver or the C compiler that it needs
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        return f"Triton cannot compile a kernel here ({lines[0]})"
    return None


def _try() -> None:
    """Compile a small kernel and run it, which needs a C compiler: Triton's launchers are built on the machine."""
    if not torch.cuda.is_available():
        return
    from .triton_kernels import trial_kernel

    found = torch.zeros(1, device="cuda")
    trial_kernel[(1,)](found)
    if found.item() != 1.0:
        raise RuntimeError("a kernel that stores 1.0 did not")


def runs_on(device: torch.device) -> bool:
    """Say whether `device` is a GPU on which Triton's kernels run; where they do not, warn once."""
    if not is_gpu(device):
        return False
    if problem() is None:
        return True
    _warn()
    return False


def takes(*tensors: Tensor) -> bool:
    """Say whether kernels that compute in float32 are to be launched for these tensors of one device.

    Not while a graph is compiled: the compiler makes kernels of its own.
    """
    return (
        not torch.compiler.is_compiling()
        and runs_on(tensors[0].device)
        and all(tensor.dtype == torch.float32 for tensor in tensors)
    )


@functools.cache
def _warn() -> None:
    warnings.warn(f"rlrat's GPU kernels are left out, plain PyTorch is several times slower: {problem()}", stacklevel=4)


def launch(
    kernel: Any,  # a triton.JITFunction; Triton need not be installed
    programs: int,
    *arguments: Tensor | float,
    device: torch.device,
    load: bool = False,
    warps: int = 4,
    **constants: Any,
) -> None:
    """Start `programs` programs of a kernel on the current stream of `device`.

    `load`: only compile it and load it to the device, which must not happen while a graph is captured.
    """
    # Said, as Triton 3.9 warns where it is not, and 3.10 is to fuse no more by itself.
    constants = {"enable_fp_fusion": True, **constants}
    elsewhere = device.type == "cuda" and torch.cuda.current_device() != device.index
    with torch.cuda.device(device) if elsewhere else contextlib.nullcontext():
        if load:
            compiled = kernel.warmup(*arguments, grid=(programs,), num_warps=warps, **constants)
            if compiled is not None:  # None in the interpreter
                compiled.run  # noqa: B018  # loads it
        else:
            kernel[(programs,)](*arguments, num_warps=warps, **constants)


class Tickets:
    """Hold counters on one device for programs of which the last one does more: zeros, which are left as zeros.

    Launches that may work at once must not share counters. On one stream launches follow each other and share them. A
    captured graph may be replayed on any stream, so that each launch in it keeps counters of its own.
    """

    CAPTURED_COUNTERS = 2**18  # for all launches in graphs
    _ALIGNED = 4  # counters of 16 bytes: Triton compiles another kernel for memory that is not aligned to them

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._of_stream: dict[int, Tensor] = {}
        self._captured: Tensor | None = None

    def _zeros(self, count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.int32, device=self._device)

    def take(self, count: int) -> Tensor:
        """Return counters for a launch on the current stream."""
        if not is_gpu(self._device):
            return self._zeros(count)
        if torch.cuda.is_current_stream_capturing():
            taken = -(-count // self._ALIGNED) * self._ALIGNED
            if self._captured is None or len(self._captured) < taken:
                return self._zeros(count)  # one operation more in the graph
            mine, self._captured = self._captured[:count], self._captured[taken:]
            return mine
        stream = torch.cuda.current_stream(self._device)
        if self._captured is None:
            self._captured = self._zeros(self.CAPTURED_COUNTERS)
            stream.synchronize()  # other streams will use them
        mine = self._of_stream.get(stream.cuda_stream)
        if mine is None or len(mine) < count:
            mine = self._of_stream[stream.cuda_stream] = self._zeros(max(count, 1024))
        return mine


_tickets: dict[torch.device, Tickets] = {}


def tickets(device: torch.device) -> Tickets:
    """Return the counters of a device."""
    if device not in _tickets:
        _tickets[device] = Tickets(device)
    return _tickets[device]
