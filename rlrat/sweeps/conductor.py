"""Run the loop of a sweep: hand processes to a launcher, try failed ones again, wait for room, know every state."""

import os
import signal
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlrat.errors import NO_ROOM, InputError
from rlrat.runs.locks import HEARTBEAT_SECONDS, Owner, Watch
from rlrat.runs.schema import DIVERGED, FAILED
from rlrat.sweeps.folder import Failure, SweepFolder, is_done, newest_updates, seed_status
from rlrat.sweeps.grid import Job
from rlrat.sweeps.launcher import Launcher, Outcome, Refused, WorkerTask
from rlrat.sweeps.worker import FULL, LOCKED, LOST, Work

MISTAKE = 2  # the exit code of a mistake that only the user can mend
_POLL_SECONDS = 0.1  # between looks at the workers
_LOOK_SECONDS = 2.0  # between looks at processes of other sweeps, or at a full disk
_DELAY_SECONDS = 1.0  # before a failed process is tried again, multiplied by its attempts
_REFUSED_SECONDS = 30.0  # before a refused task is handed to the cluster again
_MOST_VANISHED = 20
_GRACE_SECONDS = 120.0  # for workers that were asked to stop


@dataclass
class Entry:
    """The sweep's knowledge of a process."""

    job: Job
    state: str = "waiting"
    """waiting, running, elsewhere (another sweep's), done or given up."""
    attempts: int = 0
    """That failed since an update was evaluated that none before had reached."""
    vanished: int = 0
    """Times that its worker did, since then."""
    not_before: float = 0.0
    updates: tuple[int, ...] = ()
    """Newest that were evaluated, of each seed, before it began; going on from a checkpoint can take some back."""
    failed_on: set[str] = field(default_factory=set)


class Conductor:
    """Carry out the unfinished processes of a plan; `run` returns when none is left, or when the sweep was stopped."""

    launcher: Launcher
    folder: SweepFolder

    def __init__(
        self,
        jobs: list[Job],
        launcher: Launcher,
        folder: SweepFolder,
        *,
        extra: dict[str, Any],
        retries: int,
        say: Callable[[str], None],
        show: Callable[["Conductor"], None],
    ) -> None:
        """Take `extra`, settings of every process, `say`, which takes events, and `show`, called at every look."""
        self.entries: dict[str, Entry] = {job.id: Entry(job) for job in jobs}
        self.launcher, self.folder = launcher, folder
        self.paused_by: Job | None = None
        self.diverged: int = 0
        """Runs that did."""
        self.stopping: bool = False
        """Set it to stop the sweep and its workers with a checkpoint."""
        self.killing = False
        """Set it not to wait for that."""
        self.detaching = False
        """Set it to leave the sweep and let its workers go on."""
        self._extra, self._retries, self._say, self._show = extra, retries, say, show
        self._owner, self._watch = Owner(), Watch()
        self._permit: Path | None = None
        self._queue: deque[Entry] = deque()
        self._look_again = self._touched = 0.0
        self._has_begun = False

    def count(self, state: str) -> int:
        return sum(entry.state == state for entry in self.entries.values())

    def run(self) -> None:
        for entry in self.entries.values():
            self.folder.forget_failure(entry.job)
        adopted = self.launcher.adopt([entry.job for entry in self.entries.values()])
        self._permit = self.folder.permit(self._owner)
        for name, entry in self.entries.items():
            if name in adopted:
                self._begin(entry)
            else:
                self._queue.append(entry)
        try:
            while self._queue or self.count("running"):
                self._look_at_permit()
                if self.stopping or self.detaching:
                    return
                for outcome in self.launcher.poll():
                    self._take(outcome)
                if self.paused_by is None or self._is_room_again():
                    self._submit()
                self._show(self)
                time.sleep(_POLL_SECONDS)
        finally:
            if not self.detaching:
                self._permit.unlink(missing_ok=True)
                self._wait_for_the_end()
            self.launcher.close()

    def _look_at_permit(self) -> None:
        """Stop if another process has removed the permit; else touch it now and then to show that the sweep lives."""
        try:
            if time.monotonic() - self._touched < HEARTBEAT_SECONDS:
                self._permit.stat()
            else:
                os.utime(self._permit)
                self._touched = time.monotonic()
        except FileNotFoundError:
            self.stopping = True
        except OSError:  # the file system may come back
            pass

    def _wait_for_the_end(self) -> None:
        """Wait until the workers see that the permit is gone, save a checkpoint and end; kill those that do not."""
        until, killed = time.monotonic() + _GRACE_SECONDS, False
        if self.count("running"):
            self.stopping = True
            self._say("stopping: each process saves a checkpoint first")
            self.launcher.drop_waiting()
        while self.count("running"):
            for outcome in self.launcher.poll():
                self._take(outcome)
            if not killed and (self.killing or time.monotonic() > until):
                self.launcher.kill()
                killed = True
            self._show(self)
            time.sleep(_POLL_SECONDS)

    def _submit(self) -> None:
        """Fill the launcher's room from the queue; skip processes that another sweep has or that must wait."""
        room, now, tasks = self.launcher.room(), time.monotonic(), []
        for _ in range(len(self._queue)):
            if len(tasks) >= room:
                break
            entry = self._queue.popleft()
            if entry.not_before > now:
                self._queue.append(entry)
            elif is_done(entry.job):  # another sweep has finished it
                self._end(entry)
            elif holder := self._holder(entry.job):
                self._leave(entry, str(holder))
            else:
                tasks.append((entry, self._task(entry)))
        if not tasks:
            return
        left: set[WorkerTask] = set()
        try:
            self.launcher.submit([task for _, task in tasks])
        except Refused as refused:
            left = set(refused.left)
            self._has_begun |= len(left) < len(tasks)
            if _is_full(refused):
                self._pause(refused.left[0].job)
            elif self._has_begun:  # otherwise the launcher may never take any
                self._say(f"{refused}; {len(left)} processes are handed over again in {_REFUSED_SECONDS:.0f} s")
            else:
                raise
        for entry, task in tasks:
            if task in left:
                entry.not_before = now if self.paused_by else now + _REFUSED_SECONDS
                self._queue.append(entry)
            else:
                self._begin(entry)

    def _task(self, entry: Entry) -> WorkerTask:
        job, file = entry.job, self.folder.job_file
        work = Work(
            agent=str(job.cell.agent.path),
            argv=job.argv(self._extra),
            locks=[str(self.folder.lock(folder)) for folder in job.folders],
            log=str(file(job, "log.txt")),
            outcome=str(file(job, f"outcome-{uuid.uuid4().hex}.json")),  # two sweeps may try at once
            permit=str(self._permit),
        )
        return WorkerTask(job, Path(work.outcome), work, frozenset(entry.failed_on))

    def _begin(self, entry: Entry) -> None:
        newest = newest_updates(entry.job)
        entry.state, entry.updates = "running", tuple(map(max, entry.updates or newest, newest))
        self._has_begun = True

    def _holder(self, job: Job) -> Owner | None:
        holders = (self._watch.holder(self.folder.lock(folder)) for folder in job.folders)
        return next((holder for holder in holders if holder is not None), None)

    def _leave(self, entry: Entry, holder: str) -> None:
        """Leave a process to another sweep until that sweep lets go of it."""
        if entry.state != "elsewhere":
            self._say(f"{entry.job.label}: {holder or 'another process'} is at it")
        entry.state, entry.not_before = "elsewhere", time.monotonic() + _LOOK_SECONDS
        self._queue.append(entry)

    def _end(self, entry: Entry) -> None:
        entry.state = "done"
        diverged = [folder.name for folder in entry.job.folders if seed_status(folder) == DIVERGED]
        self.diverged += len(diverged)
        self._say(f"{entry.job.label}: finished" + (f", {', '.join(diverged)} diverged" if diverged else ""))

    def _take(self, outcome: Outcome) -> None:
        """Decide what follows from the end of an attempt."""
        entry = self.entries[outcome.task.job.id]
        with suppress(OSError):
            outcome.task.outcome.unlink()
        job, code = entry.job, outcome.code
        if is_done(job):
            return self._end(entry)
        entry.state = "waiting"
        self._look_at_permit()
        if self.stopping:  # the attempt ended because the sweep stops
            return None
        if code == LOCKED:
            holder = self._holder(job)
            return self._leave(entry, str(holder or ""))
        if code == FULL:
            self._queue.appendleft(entry)
            return self._pause(job)
        if any(after > before for before, after in zip(entry.updates, newest_updates(job), strict=True)):
            entry.attempts = entry.vanished = 0
        reason = _reason(outcome)
        if any(seed_status(folder) == FAILED for folder in job.folders):
            reason += ": no evaluation of what it trained worked"
        if code in (None, LOST, -signal.SIGALRM):  # not the run's fault
            entry.vanished += 1
            if entry.vanished > _MOST_VANISHED:
                return self._give_up(entry, reason, outcome.host)
            self._say(f"{job.label}: {reason}; it is started again")
            return self._again(entry)
        entry.attempts += 1
        if code == MISTAKE and self.launcher.many_hosts:
            entry.failed_on.add(outcome.host)
        if entry.attempts > self._retries or (code == MISTAKE and not self.launcher.many_hosts):
            return self._give_up(entry, reason, outcome.host)
        self._say(
            f"{job.label}: {reason}; attempt {entry.attempts + 1} of {self._retries + 1} goes on from its checkpoint"
        )
        return self._again(entry)

    def _again(self, entry: Entry) -> None:
        entry.not_before = time.monotonic() + _DELAY_SECONDS * min(entry.attempts, 10)
        self._queue.append(entry)

    def _give_up(self, entry: Entry, reason: str, host: str) -> None:
        entry.state = "given up"
        lines = self.folder.last_lines(entry.job)
        failure = Failure(reason, host, entry.attempts, lines)
        try:
            self.folder.write(self.folder.job_file(entry.job, "failed.json"), asdict(failure))
        except InputError as error:
            self._say(str(error))
        tail = "".join(f"\n    {line}" for line in lines)
        self._say(f"{entry.job.label}: FAILED: {reason} on {host}; its log ends with{tail}")

    def _pause(self, job: Job) -> None:
        if self.paused_by is None:
            self._say(f"{job.label}: the disk of {self.folder.run_dir} is full: paused until there is room")
        self.paused_by, self._look_again = job, time.monotonic() + _LOOK_SECONDS

    def _is_room_again(self) -> bool:
        if time.monotonic() < self._look_again:
            return False
        self._look_again = time.monotonic() + _LOOK_SECONDS
        if not self.folder.has_room(self.paused_by):
            return False
        self.paused_by = None
        self._say("there is room again: going on")
        return True


def _is_full(error: InputError) -> bool:
    return getattr(error.__cause__, "errno", None) in NO_ROOM


def _reason(outcome: Outcome) -> str:
    code = outcome.code
    if code is None:
        return outcome.why or "its worker vanished"
    if code == LOST:
        return "it lost its lock"
    if code == -signal.SIGALRM:
        return "it could not keep its locks alive"
    if code < 0:
        name = signal.Signals(-code).name if -code in [*signal.Signals] else f"signal {-code}"
        return f"killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return outcome.why or f"exit code {code}"
