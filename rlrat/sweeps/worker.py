"""Run one process of a sweep: `python -P -m rlrat.sweeps.worker <parent>` is an agent's command, under locks.

A worker reads its `Work` from its standard input. Only the process that started it could write there. A file in the
sweep's folder would not be safe: others may be able to change it, and would choose what runs here.

The agent runs in the worker's own process, so a lock and the training that it guards always end at the same instant.
A thread touches the locks. It stops the training like SIGTERM when the sweep is gone or asks for it, and ends it at
once when a lock is lost. Locks that could not be touched for `LEASE_SECONDS` are lost, too: then the kernel's timer
ends the process with SIGALRM, even if a thread hangs in a file system. Exit codes are the agent's own, and:
"""

import errno
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rlrat.errors import NO_ROOM, InputError
from rlrat.runs.locks import HEARTBEAT_SECONDS, LEASE_SECONDS, Held, Lock, Owner, Watch, acquire
from rlrat.updates.machine import most_resident_memory

FULL = 74
"""The disk has no room."""
LOCKED = 75
"""Another process has one of the runs."""
LOST = 76
"""A lock was taken over: the training was ended without a checkpoint."""

_TICK_SECONDS = 0.5
_PASSING = {getattr(errno, name) for name in (
    *("EIO", "EREMOTEIO", "ESTALE", "EAGAIN", "EINTR", "EBUSY", "ENOLCK", "EMFILE", "ENFILE", "ENOMEM"),
    *("ETIMEDOUT", "ECONNRESET", "ECONNABORTED", "ENOTCONN", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH"),
) if hasattr(errno, name)}  # fmt: skip
"""What a file system or a machine says that may be well again soon; all else, such as EACCES, is the user's to mend."""


@dataclass(frozen=True)
class Work:
    """The task of a worker; paths are absolute."""

    agent: str
    """The agent's file."""
    argv: list[str]
    locks: list[str]
    """Of the run folders."""
    log: str
    """What the agent prints is appended here."""
    outcome: str
    """Where to write exit code, host and peak memory at the end."""
    permit: str
    """A file of the sweep; whoever removes it asks all its workers to stop."""


def start(work: Work, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a worker, which ends when this process ends."""
    with tempfile.TemporaryFile() as told:
        told.write(json.dumps(asdict(work)).encode())
        told.seek(0)
        return subprocess.Popen(
            # -P: import no module from the working directory, which may be somebody else's sweep folder.
            [sys.executable, "-P", "-m", "rlrat.sweeps.worker", str(os.getpid())],
            stdin=told,
            env=environment,
            start_new_session=True,  # a Ctrl-C reaches only the sweep, which then stops its workers
        )


class Heartbeat(threading.Thread):
    """Keep the locks alive, and end the training when it must not go on."""

    def __init__(self, locks: list[Lock], permit: str, parent: int | None) -> None:
        super().__init__(daemon=True)
        self._locks, self._permit, self._parent = locks, permit, parent
        self._ended = threading.Event()

    def start(self) -> None:
        self._rearm(time.monotonic())
        super().start()

    def run(self) -> None:
        last, asked = time.monotonic(), False
        while not self._ended.wait(_TICK_SECONDS):
            now = time.monotonic()
            if not asked and self._must_stop():
                asked = True
                _terminate()
            if now - last < HEARTBEAT_SECONDS:
                continue
            with suppress(OSError):  # the file system may come back in time
                if not all(lock.touch() for lock in self._locks):
                    self._lose("was taken over")
                last = now
                self._rearm(now)

    def end(self) -> None:
        self._ended.set()
        self.join()
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _rearm(self, touched: float) -> None:
        """Set the timer that ends the process when the lease of locks that were touched at `touched` ends."""
        signal.setitimer(signal.ITIMER_REAL, max(touched + LEASE_SECONDS - time.monotonic(), 1e-3))

    def _must_stop(self) -> bool:
        if self._parent is not None and os.getppid() != self._parent:
            return True
        try:
            os.stat(self._permit)
        except FileNotFoundError:
            return True
        except OSError:  # the file system may come back
            pass
        return False

    def _lose(self, why: str) -> None:
        with suppress(OSError):
            # Not through sys.stderr, which is replaced while the agent's command line is read.
            os.write(2, f"a lock of these runs {why}: ended without a checkpoint\n".encode())
        os._exit(LOST)


def run_agent(work: Work) -> int:
    """Do what `python <agent> <argv>` does, with modules beside the agent's file; return its exit code.

    Return `FULL` if a full disk ended it, and 1 if a passing error ended it, though the agent calls it a mistake.
    """
    sys.argv = [work.agent, *work.argv]
    sys.path.insert(0, os.path.dirname(work.agent))
    try:
        runpy.run_path(work.agent, run_name="__main__")
        return 0
    except SystemExit as stop:
        if _is_behind(stop, NO_ROOM):
            return FULL
        if stop.code == 2 and _is_behind(stop, _PASSING):
            return 1
        if stop.code is None or isinstance(stop.code, int):
            return stop.code or 0
        print(stop.code, file=sys.stderr)
        return 1
    except BaseException as error:
        with suppress(OSError):
            traceback.print_exc()
        return FULL if _is_behind(error, NO_ROOM) else 1


def _is_behind(error: BaseException, numbers: Set[int]) -> bool:
    """Tell whether an `OSError` with one of these numbers led to an error."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        error = waiting.pop()
        if error is None or id(error) in seen:
            continue
        if isinstance(error, OSError) and error.errno in numbers:
            return True
        seen.add(id(error))
        waiting += [error.__cause__, error.__context__]
    return False


def _listen() -> None:
    """Make SIGTERM unwind until the agent listens itself; make Slurm's warnings do the same as SIGTERM, once."""

    def unwind(number: int, _frame) -> None:
        signal.signal(number, signal.SIG_IGN)  # Slurm may send it twice
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, unwind)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda *_: _terminate())


def _terminate() -> None:
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:  # else the agent is stopping: a second one kills it
        os.kill(os.getpid(), signal.SIGTERM)


def _open_log(path: str) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        # A link in the sweep's folder could lead to any file of the user.
        log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise InputError(f"cannot write the log {path}: {error.strerror}") from error
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    sys.stdout.reconfigure(line_buffering=True)


def memory_taken() -> dict[str, int]:
    """Return bytes: `memory`, the most this process had resident, and `gpu_memory`, the most PyTorch took of a GPU."""
    used = {"memory": most_resident_memory()}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        used["gpu_memory"] = torch.cuda.max_memory_reserved()
    return used


def main(work: Work, parent: int | None = None) -> int:
    """Carry out the work and return the exit code. This process must not outlive the process `parent`."""
    try:
        _listen()
        _open_log(work.log)
        print(f"-- {socket.gethostname()}, process {os.getpid()}: {' '.join([work.agent, *work.argv])}")
        code = _run_locked(work, parent)
    except BaseException as error:
        full = _is_behind(error, NO_ROOM)
        if not full and not isinstance(error, InputError):
            raise
        code = FULL if full else 1 if _is_behind(error, _PASSING) else 2
        with suppress(OSError):
            print(f"error: {error}", file=sys.stderr)
    with suppress(OSError):
        outcome = {"code": code, "host": socket.gethostname(), **memory_taken()}
        temporary = Path(f"{work.outcome}.tmp")
        temporary.write_text(json.dumps(outcome))
        os.replace(temporary, work.outcome)
    return code


def _run_locked(work: Work, parent: int | None) -> int:
    """Run the agent under its locks; return its exit code, or `LOCKED`."""
    try:
        held = acquire([Path(lock) for lock in work.locks], Owner(), Watch())
    except Held as taken:
        print(taken, file=sys.stderr)
        return LOCKED
    try:
        heartbeat = Heartbeat(held, work.permit, parent)
        heartbeat.start()
        code = run_agent(work)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the rest takes an instant
        heartbeat.end()
        return code
    finally:
        for lock in held:
            lock.release()


def _told() -> Work:
    """Read this worker's task; its standard input is empty from then on."""
    work = Work(**json.load(sys.stdin))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return work


if __name__ == "__main__":
    CODE = main(_told(), *map(int, sys.argv[1:]))
    for _stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the disk is full
            _stream.flush()
    os._exit(CODE)  # do not wait for threads that still play or log
