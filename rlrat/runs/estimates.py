"""What a run of many seeds takes, memory and time, from learners of a few: said before the whole one is built."""

import contextlib
import ctypes
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from rlrat.errors import InputError
from rlrat.updates.learner import Learner
from rlrat.updates.machine import available_memory, proc_bytes

SMALLEST = 16
"""Of fewer members nothing is measured: they are as small as the learners that would be."""
_SIZES = (2, 16)  # members of the two learners that are compared; the larger one is at most half of all

_WARM, _TIMED, _SECONDS = 2, 10, 0.5  # updates left out, updates timed at most, and after how long no more
_SPARE = 1.2  # of 8 and 64 members, 0.82 to 1.10 times their memory was predicted: gaps differ from run to run


@dataclass(frozen=True)
class ResourceEstimate:
    """What `num_members` members side by side take on `device`: seeds, or each of them with several settings."""

    num_members: int
    device: torch.device
    bytes_per_member: int
    """At the peak of an update, with the gaps that the allocator leaves."""
    fixed_bytes: int
    """However many they are: the dataset's, and what a first update loads."""
    seconds_per_update: float
    """Of all members together, sampling included."""
    available_bytes: int | None
    """What `device` had free before; None where the system does not say."""

    @property
    def bytes(self) -> int:
        """What must be free, with a fifth to spare."""
        return int(_SPARE * (self.fixed_bytes + self.num_members * self.bytes_per_member))

    @property
    def fits(self) -> bool:
        """True also where the system does not say."""
        return self.available_bytes is None or self.bytes <= self.available_bytes

    def check(self) -> None:
        """Raises InputError where there is not the memory, saying for how many members there is."""
        if not self.fits:
            most = int((self.available_bytes / _SPARE - self.fixed_bytes) // self.bytes_per_member)
            advice = f"at most {most} fit: give a smaller --num-seeds" if most > 0 else "not even one fits"
            raise InputError(
                f"{self.num_members} members side by side need {gigabytes(self.bytes)}, but of "
                f"{memory_of(self.device)} {gigabytes(self.available_bytes)} are free: {advice}"
            )

    def __str__(self) -> str:
        free = "" if self.available_bytes is None else f" of {gigabytes(self.available_bytes)} free"
        speed = self.num_members / self.seconds_per_update
        return (
            f"{self.num_members} members side by side: about {gigabytes(self.bytes)}{free}, "
            f"{self.seconds_per_update:.2g} s an update, {speed:,.0f} seed-updates/s"
        )


def estimate_resources(build: Callable[[int], Learner], num_members: int, device: torch.device) -> ResourceEstimate:
    """Measure two small learners of `num_members` (at least `SMALLEST`), for seconds, and draw the line through both.

    On a CPU it was within a fifth of the memory that 8 and 64 members of each agent took; the time is as good as the
    machine is quiet. A GPU that a few members leave idle takes more time for many than the line says, a compiled update
    usually less of both. What the evaluation's environments take is not in it (Hopper: nothing much; Ant: 4 MB a seed
    with 20 episodes).

    Args:
        build: makes the learner (see `run.Run`) of the first so many members.

    Raises:
        InputError: where not even the small learners fit.
    """
    # The nearer to all of them, the less do gaps, which differ by 60 MB from run to run of CQL, count.
    sizes = (_SIZES[0], min(_SIZES[1], num_members // 2))
    before, available = track_peak(device), available_memory(device)
    try:
        _measure(build, 1, device)  # loads what first updates load
        loaded = track_peak(device) - before
        (small, seconds, _), (large, more_seconds, state) = (_measure(build, size, device) for size in sizes)
    except (RuntimeError, MemoryError) as error:
        # On a CPU, PyTorch has no type of its own for it.
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "t allocate memory" not in str(error):
            raise
        raise InputError(
            f"{num_members} members side by side need more than {memory_of(device)}: not even {sizes[1]} fit, "
            "give a smaller --num-seeds"
        ) from None
    finally:
        track_peak(device)  # the whole learner finds the memory as it was
    more = sizes[1] - sizes[0]
    # Where drawing noise for many updates at once needs the most, it hides what the members need.
    per_member = max(state // sizes[1], (large - small) // more, 1)
    return ResourceEstimate(
        num_members,
        device,
        bytes_per_member=per_member,
        fixed_bytes=max(0, loaded + large - sizes[1] * per_member),
        seconds_per_update=more_seconds + max(0.0, more_seconds - seconds) / more * (num_members - sizes[1]),
        available_bytes=available,
    )


def track_peak(device: torch.device) -> int:
    """Give back what is free, and have `peak_memory` count from here on: the bytes in use."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
        if trim is not None:
            trim(0)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
    return peak_memory(device)


def peak_memory(device: torch.device) -> int:
    """The most bytes in use since `track_peak`; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        return proc_bytes(Path("/proc/self/status"), "VmHWM")
    except OSError:  # not Linux: since the process began
        try:
            import resource
        except ModuleNotFoundError:  # Windows
            return 0
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _measure(build: Callable[[int], Learner], size: int, device: torch.device) -> tuple[int, float, int]:
    """The bytes that it takes at its peak, the mean seconds of an update, and the bytes of its state alone."""
    before = track_peak(device)
    learner = build(size)
    for update in range(_WARM + _TIMED):
        if update == _WARM:
            _synchronize(device)
            started = time.perf_counter()
        learner.update(*learner.inputs(update))
        # In pairs: TD3+BC's policy learns in every second update.
        if update > _WARM and update % 2 and time.perf_counter() - started > _SECONDS:
            break
    _synchronize(device)
    seconds = (time.perf_counter() - started) / (update + 1 - _WARM)
    return peak_memory(device) - before, seconds, sum(value.nbytes for value in learner.state_dict().values())


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory_of(device: torch.device) -> str:
    return "this machine's memory" if device.type == "cpu" else f"the memory of {device}"


def gigabytes(number: float) -> str:
    """Three digits of a number of bytes, such as `94.2 GB` or `8,000 GB`."""
    value, unit = (number / 1e9, "GB") if number >= 1e7 else (number / 1e6, "MB")
    return f"{float(f'{value:.3g}'):,.12g} {unit}"
