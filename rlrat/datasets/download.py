"""Download a file: continue a broken transfer, check the file, and move it into place only when it is whole.

The server is not trusted: neither its redirects, nor the size and duration of what it sends, nor its messages.
"""

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

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
from rlrat.errors import NO_ROOM, InputError, reason

ATTEMPTS = 5
PAUSE_SECONDS = 1.0  # before the second attempt; it doubles before each further one
TIMEOUT_SECONDS = 30.0  # without a byte
LONGEST_SECONDS = 12 * 3600.0  # for all attempts: 4 GiB at 100 kB/s
LARGEST_BYTES = 4 * 2**30  # of a file
_BLOCK = 1 << 18
_BROKEN = (OSError, http.client.HTTPException)  # URLError and timeouts are OSErrors
_LOCAL = ("localhost", "127.0.0.1", "::1")  # tests may use these without encryption
_VALIDATOR = re.compile(r'"[\x21\x23-\x7e]{1,200}"|[\w,: +-]{1,100}', re.ASCII)  # a strong ETag, or a date


def download(
    url: str,
    target: Path,
    check: Callable[[Path], None],
    *,
    hosts: Collection[str] = (),
    largest: int = LARGEST_BYTES,
    sha256: str | None = None,
    folder_variable: str = "D4RL_DATASET_DIR",
) -> None:
    """Download `url` to `target`; continue from `<target>.part` if an earlier transfer broke.

    Several processes may ask for the same file: one downloads it, the others wait.

    Args:
        url: https, or also http on this machine.
        check: raises InputError if the file is not what it should be; that file is removed.
        hosts: the hosts to which the URL's own host may redirect.
        largest: the most bytes that the file may have.
        sha256: the published checksum of the file, in hexadecimal.
        folder_variable: the environment variable that names another folder.

    Raises:
        InputError: no network, no such file, no room, a folder that cannot be written, or a refused file.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):
            if not target.exists():
                transfer = _Transfer(url, part, _make_opener(url, hosts), largest, time.monotonic() + LONGEST_SECONDS)
                transfer.fetch()
                try:
                    _check_sum(part, sha256)
                    check(part)
                except InputError as error:
                    transfer.forget()
                    raise InputError(f"{url} sent something else than the dataset: {error}") from None
                os.replace(part, target)
                transfer.validator.unlink(missing_ok=True)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise InputError(f"no room for {target}: free some and run again, what came is kept") from None
        said = reason(error.strerror or error)
        raise InputError(f"cannot write {target} ({said}): name a writable folder in {folder_variable}") from None


def _check_sum(path: Path, sha256: str | None) -> None:
    if sha256 is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise InputError(f"its SHA-256 is {found}, {sha256} is published")


def _make_opener(url: str, hosts: Collection[str]) -> urllib.request.OpenerDirector:
    host = _host(url)
    hosts, plain = {host, *hosts}, host in _LOCAL
    if not _is_allowed(url, hosts, plain):
        raise InputError(f"{url} is no https address: nothing is downloaded without encryption")

    class Redirects(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, request: Any, file: Any, code: int, text: str, headers: Any, new: str) -> Any:
            if not _is_allowed(new, hosts, plain):
                raise InputError(f"{url} sends on to {reason(new)}, which is none of its places: it is not followed")
            return super().redirect_request(request, file, code, text, headers, new)

    return urllib.request.build_opener(Redirects)


def _is_allowed(url: str, hosts: Collection[str], plain: bool) -> bool:
    host, scheme = _host(url), url.partition(":")[0].lower()
    return host is not None and host in hosts and (scheme == "https" or (plain and scheme == "http" and host in _LOCAL))


def _host(url: str) -> str | None:
    try:
        return urllib.parse.urlsplit(url).hostname
    except ValueError:
        return None


class _Broken(Exception):
    """The transfer stopped early; the received bytes are kept."""


@dataclass
class _Transfer:
    url: str
    part: Path
    opener: urllib.request.OpenerDirector
    largest: int
    deadline: float
    """By `time.monotonic`."""
    size: int | None = None
    """Of the whole file, as the server said it."""

    @property
    def validator(self) -> Path:
        """Return the path that keeps the server's name of the file version of which `part` is the beginning."""
        return self.part.with_name(self.part.name + ".version")

    def forget(self) -> None:
        self.part.unlink(missing_ok=True)
        self.validator.unlink(missing_ok=True)

    def fetch(self) -> None:
        """Download the whole file to `part`.

        Raises:
            InputError: the file cannot be downloaded.
        """
        text = TextColumn("{task.description}", markup=False)
        columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(self.part.stem, total=None)
            for attempt in range(ATTEMPTS):
                if attempt:
                    time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
                try:
                    return self._attempt(progress, task)
                except _Broken as error:
                    why = reason(error)
                if time.monotonic() > self.deadline:
                    break
        have = self._have()
        place = f", or put {self.part.stem} into {self.part.parent} yourself"
        advice = f"; {have} bytes that came are kept" if have else place
        raise InputError(f"cannot download {self.url} ({why}): check the network and run again{advice}")

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def _attempt(self, progress: Progress, task: TaskID) -> None:
        have = self._have()
        known = self._known() if have else None
        headers = {"User-Agent": "rlrat", **({"Range": f"bytes={have}-"} if have else {})}
        if known is not None:
            headers["If-Range"] = known  # the server sends the whole file if it has changed
        try:
            response = self.opener.open(urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT_SECONDS)
        except urllib.error.HTTPError as error:
            if error.code == 416:  # no bytes after ours: the file is whole, or has another length
                if error.headers.get("Content-Range") == f"bytes */{have}":
                    return
                self.forget()
                raise _Broken("the server's file has changed") from None
            said = f"{error.code} {reason(error.reason)}"
            if error.code < 500:
                raise InputError(f"the server refuses {self.url}: {said}") from None
            raise _Broken(said) from None
        except _BROKEN as error:
            raise _Broken(reason(getattr(error, "reason", error))) from None
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{self.url} sends on to what is no address ({reason(error)})") from None
        with response:
            start, total = _extent(response)
            version = _version(response)
            if start and ((known is not None and version not in (None, known)) or self.size not in (None, total)):
                self.forget()
                raise _Broken("the server's file has changed")
            if start not in (0, have):
                raise _Broken(f"asked for bytes from {have} on, the server sends those from {start} on")
            self._check_size(total)
            self.size = total
            with open(self.part, "ab" if start else "wb") as file:  # a server that ignores the range sends everything
                if not start:
                    self._note(version)
                progress.update(task, total=total, completed=start)
                size = start + self._copy(response, file, start, lambda count: progress.advance(task, count))
        if total is not None and size != total:
            raise _Broken(f"{size} of {total} bytes came")

    def _known(self) -> str | None:
        try:
            text = self.validator.read_text(encoding="ascii")
        except (OSError, ValueError):
            return None
        return text if _VALIDATOR.fullmatch(text) else None

    def _note(self, version: str | None) -> None:
        if version is None:
            self.validator.unlink(missing_ok=True)
        else:
            self.validator.write_text(version, encoding="ascii")

    def _check_size(self, size: int | None) -> None:
        if size is not None and size > self.largest:
            self.forget()
            raise InputError(f"{self.url} sends {size:,} bytes or more: at most {self.largest:,} are taken")

    def _copy(self, response: http.client.HTTPResponse, file: BinaryIO, start: int, show: Callable[[int], None]) -> int:
        copied = 0
        while True:
            try:
                block = response.read1(_BLOCK)  # `read` would wait for a whole block from a slow server
            except _BROKEN as error:
                raise _Broken(reason(error)) from None
            if not block:
                return copied
            copied += len(block)
            self._check_size(start + copied)
            file.write(block)
            show(len(block))
            if time.monotonic() > self.deadline:
                raise _Broken(f"it took more than {LONGEST_SECONDS / 3600:g} hours")


def _extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Return the position of the response's first byte in the file, and the file's size if the server says it."""
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d{1,18})-\d{1,18}/(\d{1,18}|\*)", response.headers.get("Content-Range", ""))
        if match is None:
            raise _Broken("the server does not say which bytes it sends")
        return int(match[1]), None if match[2] == "*" else int(match[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if re.fullmatch(r"\d{1,18}", length) else None


def _version(response: http.client.HTTPResponse) -> str | None:
    """Return a strong ETag or a time of the file; a weak ETag does not promise the same bytes."""
    for name in ("ETag", "Last-Modified"):
        text = response.headers.get(name, "")
        if _VALIDATOR.fullmatch(text):
            return text
    return None
