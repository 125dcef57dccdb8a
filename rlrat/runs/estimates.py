"""Estimate the memory and time of a run of many members from small learners, before the whole learner is built."""

import contextlib
import ctypes
import gc
import itertools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlrat.errors import InputError
from rlrat.rational.launching import is_gpu
from rlrat.updates.captured import captured
from rlrat.updates.learner import Learner
from rlrat.updates.machine import available_memory, most_resident_memory, proc_bytes, synchronize

LEAST_MEMBERS = 16
"""Fewer members are not estimated: they are no larger than the learners that would be measured."""
_MEASURED_MEMBERS = (2, 16)  # of the two learners that are compared; the larger one has at most half of all members

_WARM_UP_UPDATES, _TIMED_UPDATES = 2, 10  # left out, and timed at most
_TIMED_SECONDS = 0.5  # after which no more updates are timed
_RECORDING_UPDATES = 50  # among these, the ones that prepare or make a recording are left out, too
_SPARE_FACTOR = 1.2  # for 8 and 64 members, 0.82 to 1.10 times their memory was predicted: gaps differ between runs


@dataclass(frozen=True)
class ResourceEstimate:
    """What `num_members` members side by side take on `device`."""

    num_members: int
    device: torch.device
    bytes_per_member: int
    """At the peak of an update, with the gaps that the allocator leaves."""
    fixed_bytes: int
    """Taken by any number of members: the dataset's, and what a first update loads."""
    seconds_per_update: float
    """Of all members together, sampling included."""
    available_bytes: int | None
    """What `device` had free before; None where the system does not say."""

    @property
    def bytes(self) -> int:
        """The bytes that must be free, a fifth to spare included."""
        return int(_SPARE_FACTOR * (self.fixed_bytes + self.num_members * self.bytes_per_member))

    @property
    def fits(self) -> bool:
        """Whether there is the memory; True where the system does not say."""
        return self.available_bytes is None or self.bytes <= self.available_bytes

    def check(self) -> None:
        """Raise `InputError` where there is not the memory; say how many members fit."""
        if not self.fits:
            most = int((self.available_bytes / _SPARE_FACTOR - self.fixed_bytes) // self.bytes_per_member)
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


def estimate_resources(
    build: Callable[[int], Learner], num_members: int, device: torch.device, capture: bool = False
) -> ResourceEstimate:
    """Measure two small learners for seconds, and draw the line through both up to `num_members`.

    On a CPU the memory was within a fifth of what 8 and 64 members of each agent took; the time is as good as the
    machine is quiet. On a GPU that a few members leave idle, many members take more time than the line says. The update
    is measured as it is without `--compile`: a compiled one usually takes less of both. The environments of the
    evaluation are not counted (Hopper: nothing much; Ant: 4 MB a seed with 20 episodes).

    Args:
        build: makes the learner of the first so many members.
        num_members: at least `LEAST_MEMBERS`.
        capture: whether the update will be replayed as CUDA graphs, if `device` is a GPU: then replays are timed, and
            what the graphs keep is counted.

    Raises:
        InputError: where not even the small learners fit.
    """
    # The larger they are, the less count the allocator's gaps, which differ by 60 MB between runs of CQL.
    sizes = (_MEASURED_MEMBERS[0], min(_MEASURED_MEMBERS[1], num_members // 2))
    before, available = track_peak(device), available_memory(device)
    place = device, capture and is_gpu(device)
    try:
        _measure(build, 1, *place)  # so that what a first update loads is loaded
        loaded = track_peak(device) - before
        (small, seconds, _), (large, more_seconds, state) = (_measure(build, size, *place) for size in sizes)
    except (RuntimeError, MemoryError) as error:
        # On a CPU, PyTorch raises a plain RuntimeError for it.
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and "t allocate memory" not in str(error):
            raise
        raise InputError(
            f"{num_members} members side by side need more than {memory_of(device)}: not even {sizes[1]} fit, "
            "give a smaller --num-seeds"
        ) from None
    finally:
        track_peak(device)  # leave the memory as it was for the whole learner
    more = sizes[1] - sizes[0]
    # At least the state: where noise for many updates takes the most memory, the peaks hide what the members take.
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
    """Give free memory back, start `peak_memory` anew, and return the bytes in use."""
    gc.collect()
    if is_gpu(device):
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
    """Return the most bytes in use since `track_peak`; 0 where the system does not say.

    Of a GPU these are the bytes that PyTorch has reserved: a CUDA graph keeps its memory for the next replay, but that
    counts as allocated only while the graph is recorded.
    """
    if is_gpu(device):
        return torch.cuda.max_memory_reserved(device)
    try:
        return proc_bytes(Path("/proc/self/status"), "VmHWM")
    except OSError:  # not Linux: since the process began
        return most_resident_memory()


def _measure(build: Callable[[int], Learner], size: int, device: torch.device, capture: bool) -> tuple[int, float, int]:
    """Measure a learner of `size` members: bytes at its peak, mean seconds of an update, and bytes of its state."""
    before = track_peak(device)
    learner = build(size)
    plain, called = learner.update, False

    def noted(*inputs: Any) -> dict[str, Tensor]:
        nonlocal called
        called = True
        return plain(*inputs)

    if capture:
        learner.update = noted
        learner.update = captured(learner)  # a replay does not call it
    timed = -_WARM_UP_UPDATES
    for number in itertools.count():
        if timed == 0:
            synchronize(device)
            started = time.perf_counter()
        called = False
        learner.update(*learner.inputs(number))
        timed += 1
        if called and number < _RECORDING_UPDATES:
            timed = min(timed, 0)
        # In pairs: TD3+BC's policy learns in every second update.
        late = timed > 0 and timed % 2 == 0 and time.perf_counter() - started > _TIMED_SECONDS
        if late or timed == _TIMED_UPDATES:
            break
    synchronize(device)
    seconds = (time.perf_counter() - started) / timed
    return peak_memory(device) - before, seconds, sum(value.nbytes for value in learner.state_dict().values())


def memory_of(device: torch.device) -> str:
    return "this machine's memory" if device.type == "cpu" else f"the memory of {device}"


def gigabytes(number: float) -> str:
    """Write a number of bytes with three digits, such as `94.2 GB` or `8,000 GB`."""
    value, unit = (number / 1e9, "GB") if number >= 1e7 else (number / 1e6, "MB")
    return f"{float(f'{value:.3g}'):,.12g} {unit}"
