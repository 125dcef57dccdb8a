"""Lock a run folder: one process at a time trains in it, however its path is spelled."""

import errno
import os
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path

from rlrat.errors import InputError, warn
from rlrat.runs.files import writing
from rlrat.runs.locks import HEARTBEAT_SECONDS, Held, Owner, Watch, acquire

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

_NO_LOCKS = {
    getattr(errno, name) for name in ("ENOSYS", "ENOLCK", "ENOTSUP", "EOPNOTSUPP", "EINVAL") if hasattr(errno, name)
}
"""What file systems answer that have no locks, or whose lock server is away."""


class RunLock:
    """The lock of a run folder, held from its making until `release`.

    The kernel's lock of the file `.<name>.lock` beside the folder, where the folder really is: a link to it has no lock
    of its own. The kernel gives it back whatever ends the process. On a file system without such locks, a file
    `.<name>.owner.<n>` with a heartbeat (see `locks`).

    Raises:
        InputError: another process has it, or it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        taken = InputError(
            f"{folder} is being trained by another process: wait until it ends, or give another --run-name or --run-dir"
        )
        with writing(folder, saved=False):
            try:
                real = folder.resolve()
            except RuntimeError:  # links in a circle
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP)) from None
            real.parent.mkdir(parents=True, exist_ok=True)
            self._held: _KernelLock | _OwnerFile
            try:
                self._held = _KernelLock(real.with_name(f".{real.name}.lock"))
            except BlockingIOError:
                raise taken from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                _say_no_locks()
                try:
                    self._held = _OwnerFile(real.with_name(f".{real.name}.owner"))
                except Held:
                    raise taken from None

    def check(self) -> None:
        """See that the lock is still this process's, before something is written.

        Raises:
            InputError: its file was removed or replaced, so that another process may train here, too.
        """
        with writing(self._folder):
            if not self._held.is_held():
                raise InputError(
                    f"the lock file of {self._folder} was removed or replaced, and another process may train there: "
                    "stopped without writing; what was saved before is whole, and the same command goes on from there"
                )

    def release(self) -> None:
        self._held.release()


@cache
def _say_no_locks() -> None:
    """Once in a process."""
    warn("the file system of --run-dir has no locks: files with a heartbeat keep other processes from the run folders")


class _KernelLock:
    """A lock of the kernel on a file; `BlockingIOError` if another has it."""

    def __init__(self, path: Path) -> None:
        if fcntl is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        self._path = path
        while True:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BaseException:
                os.close(self._file)
                raise
            if self.is_held():
                return
            os.close(self._file)  # removed in between: a lock that nobody else would find

    def is_held(self) -> bool:
        """Whether the file that others find is the one that is locked."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._file))

    def release(self) -> None:
        os.close(self._file)  # the file stays: between its removal and a lock on it there would be room for two


class _OwnerFile:
    """A file that says who has the lock, and that is touched as long as he lives; `Held` if another has it."""

    def __init__(self, path: Path) -> None:
        (self._lock,) = acquire([path], Owner(), Watch())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # the next check says it
                self._lock.touch()

    def is_held(self) -> bool:
        return self._lock.touch()  # after which whoever had just judged it stale backs out

    def release(self) -> None:
        self._over.set()
        self._thread.join()
        self._lock.release()
