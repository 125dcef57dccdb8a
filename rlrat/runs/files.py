"""Write the files of a run: whole or not at all, and on the disk; say in one line what a disk refuses."""

import errno
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile

from rlrat.errors import NO_ROOM, InputError, reason

_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EACCES}  # of folders, on some systems


@contextmanager
def writing(path: Path, *, saved: bool = True) -> Iterator[None]:
    """Turn what a disk or its permissions refuse into the user's one line; whether something was `saved` before."""
    try:
        yield
    except OSError as error:
        full = error.errno in NO_ROOM
        mend = "make room and give the same command again" if full else "choose another --run-dir"
        whole = "; what was saved before is whole" if saved else ""
        raise InputError(f"cannot write {path}: {error.strerror or reason(error)}{whole}: {mend}") from error


def make_output(path: Path, content: str) -> None:
    """Make the folder of an `--output`, and try it: what cannot be written is said before the work, not after it.

    Args:
        path: the folder.
        content: what will be written in it, in words.

    Raises:
        InputError: it is a file, or cannot be made or written in.
    """
    if path.suffix in (".png", ".pdf", ".svg", ".html") or os.path.isfile(path):
        raise InputError(f"--output is {path}: give a folder, in which {content} are written")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {path}: {error.strerror}") from None
    try:
        TemporaryFile(dir=path).close()
    except OSError as error:
        raise InputError(f"cannot write in the folder {path}: {error.strerror}; choose another --output") from None


def unique_name(path: Path, suffix: str) -> Path:
    """A name beside `path` that no other process gives."""
    return path.with_name(f"{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}.{suffix}")


@contextmanager
def temporary(path: Path, content: bytes) -> Iterator[Path]:
    """A whole file on the disk that is to be moved to `path`, or else is removed again.

    Its name is this process's alone: two that write at once, against all locks, never write into one file.
    """
    file = unique_name(path, "tmp")
    with writing(path):
        try:
            with file.open("xb") as opened:
                opened.write(content)
                opened.flush()
                os.fsync(opened.fileno())
            yield file
        finally:
            with suppress(OSError):
                file.unlink(missing_ok=True)


def replace(path: Path, content: bytes) -> None:
    """Write or replace a file atomically."""
    with temporary(path, content) as file:
        os.replace(file, path)


def remove_temporaries(folder: Path, names: tuple[str, ...]) -> None:
    """Remove what killed processes left of files that were to have these `names`. Only under the folder's lock."""
    with writing(folder), suppress(FileNotFoundError):
        for entry in list(os.scandir(folder)):
            left = any(entry.name.startswith(f"{name}.") for name in names)
            if left and entry.name.endswith(".tmp") and entry.is_file(follow_symlinks=False):
                os.unlink(entry.path)


def sync(path: Path) -> None:
    """Have the disk hold what was appended to a file, or which files a folder has, where that can be asked for."""
    try:
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
