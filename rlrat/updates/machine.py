"""What this machine offers: its devices, and how its C library treats memory."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rlrat.errors import InputError

if TYPE_CHECKING:  # sweeps count cores without PyTorch
    import torch
    from torch import Tensor, nn

_FLOP_PER_THREAD = 50e6  # of an update; docs/benchmarks/cpu.md has what one and two threads make of several sizes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def usable_cores() -> int:
    """The CPU cores that this process may use, which may be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def find_device(name: str) -> "torch.device":
    """`auto` (a GPU if there is one), or what PyTorch calls a device; a GPU's matrix products become deterministic.

    Raises:
        InputError: one that is not there.
    """
    import torch

    # cuBLAS reads it at its first product; without it, streams side by side may share a workspace.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name} cannot be used: {reason}; give auto, cpu or cuda:<number>") from None
    if device.type == "cuda":
        torch.cuda.set_device(device)  # streams, events and graphs are made on the current one
    return device


def set_precision(name: str) -> None:
    """How float32 matrix products are computed from now on: `fp32`, `tf32` or `bf16` (inputs rounded, float32 sums)."""
    import torch

    torch.set_float32_matmul_precision({"fp32": "highest", "tf32": "high", "bf16": "medium"}[name])


def useful_threads(learner: "nn.Module", observations: "Tensor") -> int:
    """How many CPU threads an update of `learner` on `observations`, `[S, B, ..., F]`, can keep busy.

    One for each 50 MFLOP of its matrix products, if each weight meets each row three times (forward, and twice
    backward); an agent that evaluates many actions of a state could use more.
    """
    weights = sum(parameter.numel() for parameter in learner.parameters() if parameter.requires_grad)
    return max(1, int(6 * weights * observations.shape[1:-1].numel() // _FLOP_PER_THREAD))


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """The calling thread works alone, without OpenMP's helpers.

    Where two threads have helpers, these are more than the cores and sleep between any two operations, also while only
    one thread works: training on two cores then makes 85 instead of 200 updates/s.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Have the C library keep what PyTorch frees on a CPU instead of giving it back to the system.

    Otherwise glibc does, from 128 KiB or a few MiB on, and an update meets its memory as fresh pages: 5,800 page faults
    and 14% of the time of CQL's with rationals, 6,400 and 8% of a Decision Transformer's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
