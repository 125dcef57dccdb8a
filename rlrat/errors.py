"""Tell the user in one line of errors that can be mended, and of warnings, wherever they can be shown."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT))
"""Numbers of an `OSError` where a disk is full, or a user's share of it."""
_LONGEST = 300  # characters: PyTorch and Ray say much more
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class InputError(ValueError):
    """Something the user gave is wrong: the message is one line that says what, where, and what would be right.

    Several mistakes that are found at once are several arguments, and a line each.
    """

    def __str__(self) -> str:
        return "; ".join(map(str, self.args))


def printable(text: str) -> str:
    """Replace control characters, ESC above all, in text of a file, a server or the environment, for a terminal."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _line(text: str) -> str:
    return printable(re.sub(r"[\t\n\r]+", " ", text))


def reason(error: object, *, end: bool = False) -> str:
    """Return what an exception says as a part of one line: of a long text the beginning, or with `end` the end."""
    text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    line = printable(" ".join(text.split())).rstrip(".") or type(error).__name__
    return line[-_LONGEST:] if end else line[:_LONGEST]


_listeners: list[list[str]] = []


def warn(message: str) -> None:
    """Print one line on stderr about something that goes on nonetheless."""
    print(f"warning: {_line(message)}", file=sys.stderr)
    for said in _listeners:
        said.append(message)


@contextmanager
def heard_warnings() -> Iterator[list[str]]:
    """Collect what `warn` says inside the block, for those who do not see stderr."""
    said: list[str] = []
    _listeners.append(said)
    try:
        yield said
    finally:
        _listeners.remove(said)


def out_of_memory(error: BaseException) -> str | None:
    """Say in words that an allocation of Python, NumPy or PyTorch failed; return None for any other exception."""
    text = str(error)
    # On a CPU, PyTorch has no type of its own for it; sizes that no integer holds are its RuntimeErrors, too.
    refused = re.search(r"(?i)out of memory|allocate memory|Storage size calculation overflowed", text)
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and refused):
        return None
    # "tried to allocate 4000000000000 bytes" on a CPU, "20.00 GiB" on a GPU, "Unable to allocate 7.28 TiB" of NumPy.
    asked = re.search(r"(?i)to allocate ([\d.,]+) (bytes|\w*B)", text)
    size = ""
    if asked is not None:
        number, unit = asked.groups()
        amount = f"{float(f'{float(number) / 1e9:.3g}'):,.12g} GB" if unit == "bytes" else f"{number} {unit}"
        size = f": {amount} more would be needed at once"
    return f"there is not enough memory{size}; give smaller --hidden-dims, --batch-size or --num-seeds"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an `InputError` on stderr, each mistake as one line, and exit with code 2; the same where memory runs out.

    Every other exception keeps its traceback. Output that cannot be written ends nothing, see `guarded_output`.
    """
    with guarded_output():
        try:
            yield
        except InputError as error:
            for mistake in error.args:
                print(f"error: {_line(str(mistake))}", file=sys.stderr)
            raise SystemExit(2) from None
        except (MemoryError, RuntimeError) as error:
            if (line := out_of_memory(error)) is None:
                raise
            print(f"error: {_line(line)}", file=sys.stderr)
            raise SystemExit(2) from None


@contextmanager
def guarded_output() -> Iterator[None]:
    """Go on without stdout or stderr where they cannot be written any more, so that no work is lost for a message.

    A closed pipe (`| head -1`) is left quietly. Any other failure of stdout, such as a full disk, is said once, and
    what would have ended with code 0 ends with code 2.
    """
    if isinstance(sys.stdout, _Output):
        yield
        return
    before = sys.stdout, sys.stderr
    sys.stderr = err = _Output(sys.stderr)
    sys.stdout = out = _Output(sys.stdout, said_to=err)
    try:
        yield
    except SystemExit as stop:
        out.flush()
        if not out.is_lost or stop.code:
            raise
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before
    if out.is_lost:
        raise SystemExit(2)


class _Output:
    """A text stream that is left, for good, at its first failure."""

    def __init__(self, stream: TextIO | None, said_to: TextIO | None = None) -> None:
        self._stream = _nowhere() if stream is None else stream
        self._said_to, self._broken, self.is_lost = said_to, False, False
        if getattr(self._stream, "errors", None) == "strict" and hasattr(self._stream, "reconfigure"):
            self._stream.reconfigure(errors="replace")  # names of files may have any bytes, terminals few letters

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        self._try(self._stream.writelines, lines)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, function: Any, *arguments: Any) -> None:
        if self._broken:
            return
        try:
            function(*arguments)
        except OSError as error:
            self._broken = True
            self._leave()
            if self._said_to is not None and error.errno != errno.EPIPE:
                self.is_lost = True
                print(f"error: cannot write to stdout: {reason(error.strerror)}", file=self._said_to)

    def _leave(self) -> None:
        """What is still in the stream's buffer, and what Python flushes at its end, goes nowhere."""
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


def _nowhere() -> TextIO:
    """A stream instead of one that is closed (`>&-`), with its number, which else the next file gets that is opened."""
    number = os.open(os.devnull, os.O_WRONLY)
    os.set_inheritable(number, True)
    return open(number, "w", closefd=False)
