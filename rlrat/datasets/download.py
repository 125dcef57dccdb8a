"""A file from the web: resumed where a transfer broke, checked, and moved into place only when it is whole."""

import errno
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from filelock import FileLock
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from rlrat.console import Console
from rlrat.errors import InputError

ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt, twice as many before each further one
TIMEOUT = 30.0  # seconds without a byte
_BLOCK = 1 << 18
_BROKEN = (OSError, http.client.HTTPException)  # URLError and timeouts are OSErrors


def download(url: str, target: Path, check: Callable[[Path], None]) -> None:
    """Bring `url` to `target`, going on from `<target>.part` where an earlier transfer broke.

    Several processes may ask for the same file: one fetches it, the others wait.

    Args:
        check: raises InputError on a file that is not what it should be; that file is removed.

    Raises:
        InputError: no network, no such file, no room, a folder that cannot be written, or a refused file.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.exists():
                _fetch(url, part)
                try:
                    check(part)
                except InputError as error:
                    part.unlink()
                    raise InputError(f"{url} sent something else than the dataset: {error}") from None
                os.replace(part, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(f"no room for {target}: free some and run again, what came is kept") from None
        reason = error.strerror or error
        raise InputError(f"cannot write {target} ({reason}): name a writable folder in D4RL_DATASET_DIR") from None


class _Broken(Exception):
    """The transfer stopped early; what has come is kept."""


def _fetch(url: str, part: Path) -> None:
    text = TextColumn("{task.description}")
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(part.stem, total=None)
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE * 2 ** (attempt - 1))
            try:
                return _attempt(url, part, progress, task)
            except _Broken as error:
                reason = error
    have = part.stat().st_size if part.exists() else 0
    advice = f"; {have} bytes that came are kept" if have else f", or put {part.stem} into {part.parent} yourself"
    raise InputError(f"cannot download {url} ({reason}): check the network and run again{advice}")


def _attempt(url: str, part: Path, progress: Progress, task: TaskID) -> None:
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "rlrat", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing after what is here: all of it, or a file of another length
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return
            part.unlink()
            raise _Broken("the server's file has changed") from None
        if error.code < 500:
            raise InputError(f"the server refuses {url}: {error.code} {error.reason}") from None
        raise _Broken(f"{error.code} {error.reason}") from None
    except _BROKEN as error:
        raise _Broken(getattr(error, "reason", error)) from None
    with response:
        start, total = _extent(response)
        if start not in (0, have):
            raise _Broken(f"asked for bytes from {have} on, the server sends those from {start} on")
        with open(part, "ab" if start else "wb") as file:  # a server that ignores the range sends everything
            progress.update(task, total=total, completed=start)
            size = start + _copy(response, file, progress, task)
    if total is not None and size != total:
        raise _Broken(f"{size} of {total} bytes came")


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """First byte of what the response holds, and the size of the whole file if the server says it."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            raise _Broken("the server does not say which bytes it sends")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length")
    return 0, None if length is None else int(length)


def _copy(response: http.client.HTTPResponse, file: BinaryIO, progress: Progress, task: TaskID) -> int:
    copied = 0
    while True:
        try:
            block = response.read(_BLOCK)
        except _BROKEN as error:
            raise _Broken(error) from None
        if not block:
            return copied
        file.write(block)
        copied += len(block)
        progress.advance(task, len(block))
