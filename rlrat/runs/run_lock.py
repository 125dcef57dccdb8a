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
    """The lock of a run folder, held from the object's creation until `release`.

    It is the kernel's lock of the file `.<name>.lock` beside the real folder; a link to the folder has no lock of its
    own. The kernel releases it when the process ends, for any reason. On a file system without kernel locks, it is a
    file `.<name>.owner.<n>` with a heartbeat (see `locks`).

    Raises:
        InputError: another process has the lock, or it cannot be made.
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
        """Check that this process still has the lock; call it before something is written.

        Raises:
            InputError: its file was removed or replaced, and another process may train here, too.
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
    """Warn that the file system has no locks, once in a process."""
    warn("the file system of --run-dir has no locks: files with a heartbeat keep other processes from the run folders")


class _KernelLock:
    """A lock of the kernel on a file; raises `BlockingIOError` if another process has it."""

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
            os.close(self._file)  # the file was removed meanwhile: nobody else would find this lock

    def is_held(self) -> bool:
        """Tell whether the file that others find is the locked one."""
        try:
            there = os.stat(self._path)
        except FileNotFoundError:
            return False
        return os.path.samestat(there, os.fstat(self._file))

    def release(self) -> None:
        os.close(self._file)  # keep the file: if it were removed, two processes could get the lock


class _OwnerFile:
    """A file that names the owner of the lock, who touches it while alive; raises `Held` if another has the lock."""

    def __init__(self, path: Path) -> None:
        (self._lock,) = acquire([path], Owner(), Watch())
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._over.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # the next check reports it
                self._lock.touch()

    def is_held(self) -> bool:
        return self._lock.touch()  # a process that has just judged the lock stale then backs out

    def release(self) -> None:
        self._over.set()
        self._thread.join()
        self._lock.release()
