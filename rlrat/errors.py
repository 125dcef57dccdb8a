"""What the user is told in one line: errors that can be mended, and warnings."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 300  # characters: PyTorch and Ray say much more
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class InputError(ValueError):
    """Something the user gave is wrong: the message is one line that says what, where, and what would be right."""


def printable(text: str) -> str:
    """Text of a file, a server or the environment for a terminal: control characters, ESC above all, are replaced."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _line(text: str) -> str:
    return printable(re.sub(r"[\t\n\r]+", " ", text))


def reason(error: object, *, end: bool = False) -> str:
    """What an exception says, for the inside of one line: its beginning, or with `end` its end where it is long."""
    text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    line = printable(" ".join(text.split())).rstrip(".") or type(error).__name__
    return line[-_LONGEST:] if end else line[:_LONGEST]


_listeners: list[list[str]] = []


def warn(message: str) -> None:
    """One line on stderr about something that goes on nonetheless."""
    print(f"warning: {_line(message)}", file=sys.stderr)
    for said in _listeners:
        said.append(message)


@contextmanager
def heard_warnings() -> Iterator[list[str]]:
    """What `warn` says meanwhile, for those who do not see stderr."""
    said: list[str] = []
    _listeners.append(said)
    try:
        yield said
    finally:
        _listeners.remove(said)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an `InputError` as one line on stderr and exit with code 2; every other exception keeps its traceback."""
    try:
        yield
    except InputError as error:
        print(f"error: {_line(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
