"""Define what all launchers have in common. A launcher is a place where processes run."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rlrat.errors import InputError
from rlrat.json_files import load_json
from rlrat.sweeps.grid import Job
from rlrat.sweeps.records import make
from rlrat.sweeps.worker import Work


@dataclass(frozen=True, eq=False)
class WorkerTask:
    """One attempt at a process."""

    job: Job
    outcome: Path
    """Where its worker says at its end how it went."""
    work: Work | None
    """What its worker is to do; None where another sweep has handed it over already."""
    avoid: frozenset[str] = frozenset()
    """Hosts on which it failed."""


@dataclass(frozen=True)
class Outcome:
    """The end of an attempt."""

    task: WorkerTask
    code: int | None
    """The worker's exit code, minus the signal's number where one ended it; None where it vanished with its host."""
    host: str
    why: str = ""
    """What the launcher knows beside the code."""


class Refused(InputError):
    """The error of a launcher that did not take all of the tasks."""

    def __init__(self, reason: str, left: list[WorkerTask]) -> None:
        """Take the reason, and in `left` the tasks that were not taken."""
        super().__init__(reason)
        self.left = left


class Launcher(Protocol):
    """A place where workers run, several at a time. No method blocks for longer than a look at their states."""

    many_hosts: bool
    """Whether another attempt may be on another host."""

    def describe(self) -> str:
        """Describe the place in words, for the plan."""

    def room(self) -> int:
        """Return how many more tasks the place takes now."""

    def submit(self, tasks: list[WorkerTask]) -> None:
        """Start tasks, at most `room()`.

        Raises:
            Refused: the place does not take all tasks; if the disk refused, the `OSError` is its cause.
        """

    def poll(self) -> list[Outcome]:
        """Return the outcomes of the tasks that ended since the last call."""

    def adopt(self, jobs: list[Job]) -> dict[str, WorkerTask]:
        """Return tasks of an earlier sweep that are still under way, by the job's id.

        Raises:
            InputError: the place cannot tell which are.
        """

    def drop_waiting(self) -> None:
        """Drop the tasks that no worker has begun; the sweep calls this when it stops."""

    def kill(self) -> None:
        """End every worker at once."""

    def close(self) -> None:
        """Let go of the place after all workers have ended."""


@dataclass(frozen=True)
class _Said:
    code: int
    host: str
    memory: int
    gpu_memory: int = 0


def read_outcome(task: WorkerTask) -> tuple[int | None, str]:
    """Read exit code and host as the worker wrote them at its end; None and '' if it could not write them."""
    try:
        said = make(_Said, load_json(task.outcome))
    except (OSError, ValueError):
        return None, ""
    return said.code, said.host if re.fullmatch(r"\w[\w.-]*", said.host) else ""
