"""Choose how many CPU threads PyTorch takes: what an update keeps busy, and other work leaves free."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from rlrat.updates.machine import limited_groups

_FIRST_LOOK_SECONDS, _LOOK_SECONDS = 1.0, 3.0  # between two looks; a look takes less than 1 ms
_LEAST_SECONDS = 0.5  # what is shorter says little of other work
# Two threads are faster than one if they have 1.75 cores: one alone makes 0.64 to 0.72 of them, and each barrier waits
# for the thread whose core is taken.
_TOLERATED_CORES = 0.25
_QUIET_LOOKS, _MOST_QUIET_LOOKS = 1, 64  # in a row, before more threads: doubled whenever these become fewer
_BY_USER = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Reading:
    """What has been worked until an instant; all times are seconds."""

    at: float
    own: float
    """CPU time of this process."""
    shared: tuple[tuple[float, float], ...]
    """Cores and the CPU time that all processes have had there: this process's cores, each limited control group."""


def read_machine(root: Path = Path("/")) -> Reading | None:
    """Read what has been worked, from `proc` and `sys` below `root`; None where the system does not say (not Linux)."""
    at, own = time.monotonic(), time.process_time()
    try:
        cores = os.sched_getaffinity(0)
        rows = [line.split() for line in (root / "proc/stat").read_text().splitlines() if line.startswith("cpu")]
        # user, nice, system, (idle, waiting for a disk), interrupts, taken by other virtual machines
        busy = [sum(map(int, row[1:4] + row[6:9])) for row in rows if row[0][3:].isdigit() and int(row[0][3:]) in cores]
        if len(busy) < len(cores):  # a container that numbers them in another way
            return None
        groups = limited_groups(root)
    except (AttributeError, OSError, ValueError):
        return None
    return Reading(at, own, ((len(cores), sum(busy) / os.sysconf("SC_CLK_TCK")), *groups))


def free_cores(before: Reading, now: Reading) -> float | None:
    """Count the cores that this process had or could have had; None where two readings cannot say."""
    seconds, own = now.at - before.at, now.own - before.own
    if seconds < _LEAST_SECONDS or [cores for cores, _ in before.shared] != [cores for cores, _ in now.shared]:
        return None
    pairs = zip(before.shared, now.shared, strict=True)
    return min(cores - max(0.0, later - earlier - own) / seconds for (_, earlier), (cores, later) in pairs)


def threads_for(free: float, most: int) -> int:
    """Return how many threads to take of at most `most`, with so many cores free: at least one."""
    return max(1, min(most, int(free + _TOLERATED_CORES)))


class ThreadCount:
    """PyTorch's number of CPU threads in a run, from now until `close`.

    A number that the user has set is kept: `--num-threads`, or the variables of OpenMP and MKL. Else it is at most the
    number that an update keeps busy, and follows what other work leaves of the cores. One thread waits for another at
    each operation: where other work has a core, two make as little as a quarter of the updates that one makes.

    Args:
        given: `--num-threads`.
        device: what is trained on; on a GPU nothing is chosen.
        read: reads what has been worked.
    """

    most: int | None = None
    """The most that it may be, where it may change while the run goes on."""

    def __init__(
        self, given: int | None, device: torch.device, read: Callable[[], Reading | None] = read_machine
    ) -> None:
        self._before, self._read = torch.get_num_threads(), read
        if given is not None:
            torch.set_num_threads(given)
        self._chosen = given is None and device.type == "cpu"
        self._seen: Reading | None = None
        self._next, self._quiet, self._needed = 0.0, 0, _QUIET_LOOKS

    def choose(self, useful: int) -> str | None:
        """Take as many threads as there are, at most `useful`; say why where these are fewer."""
        if not self._chosen:
            return None
        there = torch.get_num_threads()
        count = min(there, useful)
        if count > 1 and not any(name in os.environ for name in _BY_USER) and (now := self._read()) is not None:
            self.most = count = threads_for(min(cores for cores, _ in now.shared), count)
        torch.set_num_threads(count)
        why = "updates are small" if count == useful else "this process may not use more"
        return f"{count} of {there} CPU threads: {why} (--num-threads)" if count < there else None

    def follow(self) -> str | None:
        """Look at the machine again where it is time to, and change the number of threads; say so where it changes.

        To be called after each update. The first call begins to watch: compiling is no other work.
        """
        if self.most is None or (now := time.monotonic()) < self._next:
            return None
        self._next = now + (_FIRST_LOOK_SECONDS if self._seen is None else _LOOK_SECONDS)
        seen, self._seen = self._seen, self._read()
        if seen is None or self._seen is None or (free := free_cores(seen, self._seen)) is None:
            return None
        wanted, count = threads_for(free, self.most), torch.get_num_threads()
        self._quiet = self._quiet + 1 if wanted > count else 0
        if wanted == count or 0 < self._quiet < self._needed:
            return None
        if wanted < count:
            self._needed = min(2 * self._needed, _MOST_QUIET_LOOKS)
        self._quiet = 0
        torch.set_num_threads(wanted)
        return f"{wanted} of {self.most} CPU threads: {free:.1f} cores are free (--num-threads)"

    def close(self) -> None:
        """Set the number that there was before."""
        torch.set_num_threads(self._before)
