"""Share locks among processes on any number of hosts, through a file system; a heartbeat shows that an owner lives.

The lock of `<name>` is a file `<name>.<generation>` in a folder; the highest generation counts. Only one process can
create the file. It names its owner, who touches it every `HEARTBEAT_SECONDS`. A process that finds it stale creates
the next generation, which again only one can do. If the folder then holds only the files that it judged and its own,
it has the lock; else it backs out. An owner loses the lock if it sees a higher generation, or if it could not touch
its file for `LEASE_SECONDS`.

A lock is stale when its process is gone, on the same machine, or when its file did not change for `STALE_SECONDS` of
the observer's own clock: two clocks are never compared.
"""

import errno
import json
import os
import socket
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

from rlrat.errors import InputError, printable
from rlrat.json_files import open_file, parse_json

HEARTBEAT_SECONDS = 5.0
LEASE_SECONDS = 40.0
STALE_SECONDS = 60.0


def _first_line(path: str) -> str:
    with suppress(OSError), open(path) as file:
        return file.readline().strip()
    return ""


@cache
def _machine() -> str:
    """Name the scope in which a process id means one process: the host, its boot and the container's namespace."""
    namespace = ""
    with suppress(OSError):
        namespace = os.readlink("/proc/self/ns/pid")
    return "/".join((socket.gethostname(), _first_line("/proc/sys/kernel/random/boot_id"), namespace))


def _started(pid: int) -> str:
    """Return when a process began, in its machine's ticks, to recognise a process id that was used again.

    Return '' if this cannot be known, and `ended` for a process that ended but whose parent has not noticed it.
    """
    with suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] in "ZX" else fields[19]
    return ""


@dataclass(frozen=True)
class Owner:
    """The holder of a lock, as the lock's file names it."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    machine: str = field(default_factory=_machine)
    started: str = field(default_factory=lambda: _started(os.getpid()))
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"

    def is_gone(self) -> bool | None:
        """Tell whether the process has ended; None if this machine cannot know."""
        if self.machine != _machine():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            pass  # the process lives, and is somebody else's
        return _started(self.pid) != self.started


def read_owner(text: str | bytes) -> Owner:
    """Read the owner from the text of a file that others may have written.

    Raises:
        ValueError: the text is no owner.
    """
    content = parse_json(text)
    kinds = {"host": str, "pid": int, "machine": str, "started": str, "token": str}
    if not isinstance(content, dict) or set(content) != set(kinds):
        raise ValueError("it is no owner")
    if not all(type(content[name]) is kind for name, kind in kinds.items()) or not 0 <= content["pid"] < 2**31:
        raise ValueError("it is no owner")
    return Owner(**{**content, "host": printable(content["host"])})


_UNKNOWN = Owner(host="an unknown host", pid=0, machine="?", started="", token="")


class Watch:
    """Remember how locks looked, and since when by this process's own clock."""

    def __init__(self, stale: float = STALE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._stale, self._clock = stale, clock
        self._seen: dict[Path, tuple[tuple, float]] = {}

    def holder(self, lock: Path) -> Owner | None:
        """Return who holds `lock`, None if it is free or stale.

        Raises:
            InputError: this user may not read the lock.
        """
        try:
            generations = _generations(lock)
            return self._living(generations[max(generations)]) if generations else None
        except PermissionError as error:
            raise InputError(f"cannot read the lock {lock}: {error.strerror}") from None
        except OSError:  # the file system may come back
            return _UNKNOWN

    def _living(self, file: Path) -> Owner | None:
        """Return the owner in a lock's file; None if the file is stale or gone."""
        found = _read(file)
        if found is None:
            return None
        owner, touched = found
        gone = owner.is_gone()
        if gone is not None:
            return None if gone else owner
        now = self._clock()
        looks = (owner.token, touched)
        before, since = self._seen.get(file, (None, now))
        if before != looks:
            since = now
        self._seen[file] = (looks, since)
        return None if now - since >= self._stale else owner

    def acquire(self, lock: Path, owner: Owner) -> "Lock | Owner":
        """Acquire the lock and return it, or return the owner who has it (or was quicker).

        Raises:
            InputError: its folder cannot be written; the `OSError` is its cause.
        """
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            found = _generations(lock)
            before = {number: _read(file) for number, file in found.items()}
            if found and (holder := self._living(found[max(found)])) is not None:
                return holder
            number = max(found, default=0) + 1
            mine = lock.with_name(f"{lock.name}.{number}")
            if not _create(mine, owner):
                return (_read(mine) or (_UNKNOWN, 0))[0]
            after = {n: _read(file) for n, file in _generations(lock).items()}
            if after.pop(number, None) is None or after != before:
                mine.unlink(missing_ok=True)
                return _UNKNOWN
            for file in found.values():
                file.unlink(missing_ok=True)
            return Lock(lock, number, owner)
        except OSError as error:
            raise InputError(f"cannot write the lock {lock}: {error.strerror}") from error


class Lock:
    """A lock that this process holds."""

    def __init__(self, lock: Path, number: int, owner: Owner) -> None:
        self._lock, self._number, self._owner = lock, number, owner
        self._file = lock.with_name(f"{lock.name}.{number}")

    def touch(self) -> bool:
        """Give one heartbeat; return False if the lock has been lost."""
        if max(_generations(self._lock), default=0) != self._number:
            return False
        found = _read(self._file)
        if found is None or found[0].token != self._owner.token:
            return False
        os.utime(self._file)
        return True

    def release(self) -> None:
        with suppress(OSError):
            if (found := _read(self._file)) is not None and found[0].token == self._owner.token:
                self._file.unlink()


class Held(Exception):
    """The error that another process holds a lock."""

    def __init__(self, lock: Path, owner: Owner) -> None:
        super().__init__(f"{lock.name} is in the hands of {owner}")
        self.owner = owner


def acquire(locks: list[Path], owner: Owner, watch: Watch) -> list[Lock]:
    """Acquire all locks. Watch one of another host until it moves or is stale, for a little more than `STALE_SECONDS`.

    Raises:
        Held: another process has one; then none is kept.
        InputError: `Watch.acquire` raises it.
    """
    until, first = time.monotonic() + STALE_SECONDS + 2 * HEARTBEAT_SECONDS, {}
    with ExitStack() as release:
        held: list[Lock] = []
        for lock in sorted(locks):
            while isinstance(got := watch.acquire(lock, owner), Owner):
                moved = lock in first and first[lock] != _stamp(lock)
                if got.is_gone() is False or moved or time.monotonic() > until:
                    raise Held(lock, got)
                first.setdefault(lock, _stamp(lock))
                time.sleep(0.2)
                for taken in held:
                    taken.touch()
            held.append(got)
            release.callback(got.release)
        release.pop_all()
        return held


def _stamp(lock: Path) -> list[tuple[str, int]]:
    files = sorted(lock.parent.glob(f"{lock.name}.*"))
    return [(file.name, file.stat().st_mtime_ns) for file in files if file.exists()]


def _generations(lock: Path) -> dict[int, Path]:
    found = {}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(lock.parent) as entries:
        for entry in entries:
            name, _, number = entry.name.rpartition(".")
            if name == lock.name and number.isdecimal():
                found[int(number)] = Path(entry.path)
    return found


def _read(file: Path) -> tuple[Owner, int] | None:
    """Read owner and time stamp of a lock's file; None if there is no file. Opening it makes NFS ask its server."""
    try:
        with open_file(file) as opened:
            touched = os.fstat(opened.fileno()).st_mtime_ns
            text = opened.read(2**16)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EINVAL):  # this user may not read it, or it is no file
            raise
        return _UNKNOWN, file.stat().st_mtime_ns
    try:
        return read_owner(text), touched
    except ValueError:
        return _UNKNOWN, touched  # the disk was full, or another version wrote it


def _create(file: Path, owner: Owner) -> bool:
    """Create a lock's file unless it exists; on a file system with hard links, it is complete at once."""
    whole = file.with_name(f".{owner.token}.tmp")
    try:
        whole.write_text(json.dumps(asdict(owner)))
        try:
            os.link(whole, file)
        except FileExistsError:  # it exists, or NFS repeated a request whose answer was lost
            return (_read(file) or (_UNKNOWN, 0))[0].token == owner.token
        except OSError:  # a file system without hard links
            with suppress(FileExistsError), file.open("x") as opened:
                opened.write(json.dumps(asdict(owner)))
                return True
            return False
        return True
    finally:
        whole.unlink(missing_ok=True)
