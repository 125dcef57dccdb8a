"""Read JSON files, which may be damaged or hostile, into plain values of a bounded size, or say in one line why not."""

import errno
import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from rlrat.errors import InputError, reason

MOST_BYTES = 64 * 2**20
DEEPEST = 64
"""Objects and arrays inside each other. What is written again recurses a few times for each."""
EXACT_INTEGERS = 2**53
"""Whole numbers below stay the same in JSON and CSV, whoever reads them (as float64, too)."""
_DIGITS = 19  # of an integer: 64 bits


def is_deep(content: Any) -> bool:
    """Tell whether plain values have more than `DEEPEST` objects and arrays inside each other."""
    level = [content]
    for _ in range(DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, Mapping | list | tuple)
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
    return any(isinstance(value, Mapping | list | tuple) for value in level)


def parse_json(text: str | bytes) -> Any:
    """Read the value of a JSON text, no deeper than `DEEPEST`, with integers of 64 bits.

    Raises:
        ValueError: it is no such text; says why in a few words.
    """
    return _parse(text.decode() if isinstance(text, bytes) else text, _integer)


def _parse(text: str, integer: Callable[[str], float]) -> Any:
    """Read the value of a JSON text, no deeper than `DEEPEST`; `integer` reads its integers.

    Raises:
        ValueError: it is no such text; says why in a few words.
    """
    try:
        content = json.loads(text, parse_int=integer)
    except RecursionError:
        content, deep = None, True
    else:
        deep = is_deep(content)
    if deep:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    return content


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a plain file for reading, and nothing that could keep the reader waiting, such as a named pipe.

    Raises:
        OSError: it cannot be read, or is none.
    """
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(errno.EINVAL, "it is no plain file", str(path))
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def load_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it holds no JSON object; says why in a few words.
    """
    return _load(path, "strict", _integer)


def find_json(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the JSON object in a file, for whoever can do without: return None where none can be read.

    What is no UTF-8 is replaced, and an integer of more than 64 bits is the float next to it, or infinite.
    """
    try:
        return _load(path, "replace", lambda text: int(text) if len(text.lstrip("-")) <= _DIGITS else float(text))
    except (OSError, ValueError):
        return None


def _load(path: str | os.PathLike[str], errors: str, integer: Callable[[str], float]) -> dict[str, Any]:
    with open_file(path) as file:
        text = file.read(MOST_BYTES + 1)
    if len(text) > MOST_BYTES:
        raise ValueError(f"it has more than {MOST_BYTES >> 20} MiB")
    try:
        content = _parse(text.decode(errors=errors), integer)
    except MemoryError:
        raise ValueError("it does not fit in memory") from None
    if not isinstance(content, dict):
        raise ValueError("it is no JSON object")
    return content


def read_json(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Read the JSON object in a file; return None where there is no such file.

    Raises:
        InputError: one line that ends in brackets: the file cannot be read, or holds no JSON object.
    """
    try:
        return load_json(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise InputError(f"{path} is damaged (it is no plain file)") from None
        raise InputError(f"cannot read {path} ({error.strerror or reason(error)})") from error
    except ValueError as error:
        raise InputError(f"{path} is damaged ({reason(error)})") from None


def as_number(value: Any) -> float | None:
    """Turn a finite number into a float; return None for all else, and for whole numbers beyond any float."""
    if type(value) not in (int, float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _DIGITS:
        raise ValueError(f"an integer has more than {_DIGITS} digits")
    return int(text)
