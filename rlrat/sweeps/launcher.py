"""Define what all launchers, the places where processes run, have in common."""

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
    """How an attempt ended."""

    task: WorkerTask
    code: int | None
    """The worker's exit code, minus the signal's number where one ended it; None where it vanished with its host."""
    host: str
    why: str = ""
    """What the launcher knows beside the code."""


class Refused(InputError):
    """A place did not take all of the tasks."""

    def __init__(self, reason: str, left: list[WorkerTask]) -> None:
        """`left` are those that it did not take."""
        super().__init__(reason)
        self.left = left


class Launcher(Protocol):
    """Where workers run. Several may be under way; nothing here blocks for longer than a look at their states."""

    many_hosts: bool
    """Whether another attempt may be on another host."""

    def describe(self) -> str:
        """In words, for the plan."""

    def room(self) -> int:
        """How many more tasks it takes now."""

    def submit(self, tasks: list[WorkerTask]) -> None:
        """Start tasks, at most `room()`.

        Raises:
            Refused: the place does not take all; where its disk is why, with the refusal as its cause.
        """

    def poll(self) -> list[Outcome]:
        """The tasks that ended since the last call."""

    def adopt(self, jobs: list[Job]) -> dict[str, WorkerTask]:
        """Tasks of an earlier sweep that are still under way, by the job's id.

        Raises:
            InputError: that cannot be known.
        """

    def drop_waiting(self) -> None:
        """The sweep stops: what no worker has begun need not begin."""

    def kill(self) -> None:
        """End every worker at once."""

    def close(self) -> None:
        """Let go of the place; no worker is under way."""


@dataclass(frozen=True)
class _Said:
    code: int
    host: str
    memory: int
    gpu_memory: int = 0


def read_outcome(task: WorkerTask) -> tuple[int | None, str]:
    """Exit code and host, as the worker wrote them at its end; None and '' where it could not."""
    try:
        said = make(_Said, load_json(task.outcome))
    except (OSError, ValueError):
        return None, ""
    return said.code, said.host if re.fullmatch(r"\w[\w.-]*", said.host) else ""
