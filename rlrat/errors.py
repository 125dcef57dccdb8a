"""What the user is told in one line: errors that can be mended, and warnings."""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_LONGEST = 300  # characters: PyTorch and Ray say much more


class InputError(ValueError):
    """Something the user gave is wrong: the message is one line that says what, where, and what would be right."""


def reason(error: object, *, end: bool = False) -> str:
    """What an exception says, for the inside of one line: its beginning, or with `end` its end where it is long."""
    text = f"{error} is missing" if isinstance(error, KeyError) else str(error)
    line = " ".join(text.split()).rstrip(".") or type(error).__name__
    return line[-_LONGEST:] if end else line[:_LONGEST]


_listeners: list[list[str]] = []


def warn(message: str) -> None:
    """One line on stderr about something that goes on nonetheless."""
    print(f"warning: {message}", file=sys.stderr)
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


def out_of_memory(error: BaseException) -> str | None:
    """What to say of an allocation that failed, in Python, NumPy or PyTorch; None for any other exception."""
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
    """Print an `InputError` as one line on stderr and exit with code 2; so with memory that does not suffice.

    Every other exception keeps its traceback.
    """
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except (MemoryError, RuntimeError) as error:
        if (line := out_of_memory(error)) is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2) from None
