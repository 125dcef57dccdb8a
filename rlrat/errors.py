"""What the user is told in one line: errors that can be mended, and warnings."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class InputError(ValueError):
    """Something the user gave is wrong: the message is one line that says what, where, and what would be right."""


def warn(message: str) -> None:
    """One line on stderr about something that goes on nonetheless."""
    print(f"warning: {message}", file=sys.stderr)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print an `InputError` as one line on stderr and exit with code 2; every other exception keeps its traceback."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
