"""Decide who may write a cache: only the user, or those who can replace the data beside it."""

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_HAS_OWNERS = hasattr(os, "geteuid")  # Windows has neither owners nor modes


def make_private(folder: Path) -> bool:
    """Make a folder private, or make the user's existing one private; return whether it is now the user's alone."""
    try:
        folder.mkdir(0o700, exist_ok=True)
        if not _HAS_OWNERS:
            return True
        about = folder.stat()
        if {about.st_uid, folder.lstat().st_uid} != {os.geteuid()}:  # the user's own link to it is fine
            return False
        if about.st_mode & 0o077:
            folder.chmod(0o700)
        return not folder.stat().st_mode & 0o077
    except OSError:
        return False


def make_like(folder: Path, around: Path) -> None:
    """Make a folder as open as the one it lies in, whatever the umask; in a sticky one, only for its owner to write.

    Raises:
        OSError: it cannot be made.
    """
    folder.mkdir(0o700)
    if not _HAS_OWNERS:
        return
    outer = around.stat()
    mode = stat.S_IMODE(outer.st_mode) & ~(stat.S_ISUID | stat.S_ISVTX) | 0o700
    if outer.st_mode & stat.S_ISVTX:  # all users may add files there, but replace only their own
        mode &= ~0o022
    if folder.stat().st_gid != outer.st_gid:
        try:
            os.chown(folder, -1, outer.st_gid)
        except OSError:  # the user is not in that group
            mode &= ~0o020
    with suppress(OSError):  # a file system without modes
        folder.chmod(mode)


def close_file(path: Path, sources: Iterable[Path]) -> None:
    """Let only its owner write a cache's file, and let those read it who can read the data that it is made of."""
    if not _HAS_OWNERS:
        return
    mode, group = 0o644, path.stat().st_gid
    for source in sources:
        about = source.stat()
        mode &= about.st_mode | 0o600
        if about.st_gid != group and not about.st_mode & 0o004:
            mode &= ~0o040
    with suppress(OSError):
        path.chmod(mode)


def is_trusted(path: Path, around: Path) -> bool:
    """Return whether only users who can replace the other files in the folder `around` can have written `path`.

    A link is never trusted: it may lead to files that others have written.

    Raises:
        OSError: one of the two paths is not there.
    """
    about = path.lstat()
    if stat.S_ISLNK(about.st_mode):
        return False
    if not _HAS_OWNERS:
        return True
    outer = around.stat()
    shared = outer.st_mode if not outer.st_mode & stat.S_ISVTX else 0
    if shared & stat.S_IWOTH:
        return True
    if about.st_mode & stat.S_IWOTH:
        return False
    if about.st_mode & stat.S_IWGRP and not (shared & stat.S_IWGRP and about.st_gid == outer.st_gid):
        return False
    if about.st_uid in (os.geteuid(), 0, outer.st_uid):
        return True
    return bool(shared & stat.S_IWGRP) and _is_member(about.st_uid, outer.st_gid)


def _is_member(user: int, group: int) -> bool:
    import pwd

    try:
        about = pwd.getpwuid(user)
        return group in os.getgrouplist(about.pw_name, about.pw_gid)
    except (KeyError, OSError):
        return False
