"""Ask what this machine offers, and set how it computes: devices, precision, threads, memory."""

import ctypes
import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rlrat.errors import InputError

if TYPE_CHECKING:  # sweeps count cores without PyTorch
    import torch
    from torch import Tensor, nn

# What /proc/self/cgroup calls the hierarchy of control groups (containers), version 2 and 1 -> the files on its memory.
_CONTROL_GROUPS = {
    "": ("sys/fs/cgroup", "memory.max", "memory.current", "inactive_file"),
    "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
_FLOP_PER_THREAD = 50e6  # of an update; docs/benchmarks/cpu.md has what one and two threads make of several sizes
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h


def usable_cores(root: Path = Path("/")) -> int:
    """Count the CPU cores that this process may use, which may be fewer than there are.

    A control group's share of time is as many cores, rounded up. `root` is the folder of `proc` and `sys`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        return min([cores, *(math.ceil(limit) for limit, _ in limited_groups(root))])
    except (OSError, ValueError):
        return cores


def limited_groups(root: Path) -> list[tuple[float, float]]:
    """List the control groups of this process that limit its CPU time: of each the cores, and the seconds had so far.

    Raises:
        OSError, ValueError: the system does not say, or not so.
    """
    found = []
    for folder in _control_groups(root, {"": "sys/fs/cgroup", "cpu": "sys/fs/cgroup/cpu"}):
        if (now := folder / "cpu.max").is_file():
            quota, period = now.read_text().split()
            used = folder / "cpu.stat", r"usage_usec (\d+)", 1e-6
        elif (older := folder / "cpu.cfs_quota_us").is_file():
            quota, period = older.read_text().strip(), (folder / "cpu.cfs_period_us").read_text()
            used = folder / "cpuacct.usage", r"(\d+)", 1e-9
        else:
            continue
        if quota not in ("max", "-1"):
            file, pattern, unit = used
            had = re.search(pattern, file.read_text()) if file.is_file() else None
            found.append((int(quota) / int(period), unit * int(had[1]) if had else 0.0))
    return found


def _control_groups(root: Path, bases: dict[str, str]) -> Iterator[Path]:
    """Give the folder of each control group of this process, and of those above it.

    Args:
        root: the folder of `proc` and `sys`.
        bases: where each hierarchy is below it, by what /proc/self/cgroup calls it: version 2 has no name.
    """
    for line in (root / "proc/self/cgroup").read_text().splitlines():
        _, hierarchy, group = line.split(":", 2)
        if (base := bases.get(hierarchy.partition(",")[0])) is None:
            continue
        path = group.strip("/")
        # Groups above it have limits, too. In a container only its own, the last of these folders, may be visible.
        yield from (root / base / path, *(root / base / parent for parent in Path(path).parents))


def find_device(name: str) -> "torch.device":
    """Find a device: `auto` (a GPU if there is one), or by PyTorch's name. Make a GPU's matrix products deterministic.

    Raises:
        InputError: there is no such device.
    """
    import torch

    from rlrat.rational.launching import is_gpu

    # cuBLAS reads it at its first product; without it, streams side by side may share a workspace.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name} cannot be used: {reason}; give auto, cpu or cuda:<number>") from None
    if is_gpu(device):
        torch.cuda.set_device(device)  # streams, events and graphs are made on the current one
    return device


def synchronize(device: "torch.device") -> None:
    """Wait until `device` has done what it was given; a CPU always has."""
    import torch

    from rlrat.rational.launching import is_gpu

    if is_gpu(device):
        torch.cuda.synchronize(device)


def set_precision(name: str, device: "torch.device") -> None:
    """Compute float32 matrix products from now on in `fp32`, `tf32` or `bf16` (inputs rounded, float32 sums).

    Raises:
        InputError: `bf16` on a GPU, where PyTorch would silently compute in tf32 and round nothing to bf16.
    """
    import torch

    from rlrat.rational.launching import is_gpu

    if name == "bf16" and is_gpu(device):
        raise InputError(f"--precision bf16 is for CPUs: PyTorch's products on {device} would be in tf32, give tf32")
    torch.set_float32_matmul_precision({"fp32": "highest", "tf32": "high", "bf16": "medium"}[name])


def useful_threads(learner: "nn.Module", observations: "Tensor") -> int:
    """Count the CPU threads that an update of `learner` on `observations`, `[S, B, ..., F]`, can keep busy.

    That is one for each 50 MFLOP of its matrix products, if each weight meets each row three times (once forward, twice
    backward). An agent that evaluates many actions of a state could use more.
    """
    weights = sum(parameter.numel() for parameter in learner.parameters() if parameter.requires_grad)
    return max(1, int(6 * weights * observations.shape[1:-1].numel() // _FLOP_PER_THREAD))


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Have PyTorch use the calling thread alone, without OpenMP's helpers.

    Where two threads have helpers, there are more of them than cores, and they sleep between any two operations, even
    while only one of the two threads works: training on two cores then makes 85 instead of 200 updates/s.
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

    Otherwise glibc gives back pieces from 128 KiB or a few MiB on, and each update gets its memory as fresh pages:
    5,800 page faults and 14% of the time of CQL's with rationals, 6,400 and 8% of a Decision Transformer's.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 2**30)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def available_memory(device: "torch.device | None" = None, root: Path = Path("/")) -> int | None:
    """Count the bytes that `device`, by default the CPU, has free for this process; None where the system does not say.

    For a CPU that is what Linux calls available (it counts pages of files that can be dropped), and at most what the
    control groups of this process leave. `root` is the folder of `proc` and `sys`.
    """
    if device is not None:
        import torch

        from rlrat.rational.launching import is_gpu

        if is_gpu(device):
            cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            return torch.cuda.mem_get_info(device)[0] + cached
    try:
        return min([proc_bytes(root / "proc/meminfo", "MemAvailable"), *_left_by_control_groups(root)])
    except (OSError, TypeError):
        return None


def free_swap(root: Path = Path("/")) -> int:
    """Count the free bytes of swap; 0 where the system does not say."""
    try:
        return proc_bytes(root / "proc/meminfo", "SwapFree")
    except (OSError, TypeError):
        return 0


def _left_by_control_groups(root: Path) -> Iterator[int]:
    """Count the bytes that each control group of this process leaves, those above it included."""
    for hierarchy, (base, limit, used, droppable) in _CONTROL_GROUPS.items():
        for folder in _control_groups(root, {hierarchy: base}):
            if not (folder / limit).is_file() or (most := (folder / limit).read_text().strip()) == "max":
                continue
            files = re.search(rf"^{droppable} (\d+)", (folder / "memory.stat").read_text(), re.MULTILINE)
            yield int(most) - int((folder / used).read_text()) + int(files[1])


def most_resident_memory() -> int:
    """The most bytes that this process has had resident since it began; 0 where the system does not say."""
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def proc_bytes(file: Path, name: str) -> int:
    """Read the number of kB that stands in a file of /proc under `name`; return it in bytes."""
    return int(re.search(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)[1]) * 1024
