"""JSON files, whose content may be damaged or hostile, read into plain values of a bounded size, or one line."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from rlrat.errors import InputError, reason

MOST_BYTES = 64 * 2**20
DEEPEST = 64
"""Objects and arrays inside each other. What is written again recurses a few times for each."""
_DIGITS = 19  # of an integer: 64 bits


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text: no deeper than `DEEPEST`, its integers of 64 bits.

    Raises:
        ValueError: it is none, in a few words.
    """
    try:
        content = json.loads(text.decode() if isinstance(text, bytes) else text, parse_int=_integer)
    except RecursionError:
        content, deep = None, True
    else:
        deep = _is_deep(content)
    if deep:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
    return content


def read_json(path: str | os.PathLike) -> dict[str, Any] | None:
    """The JSON object in a file, None where there is no such file.

    Raises:
        InputError: one line that ends in brackets: the file cannot be read, or holds no JSON object.
    """
    path = Path(path)
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            raise InputError(f"{path} is damaged (it is not a file)")
        if state.st_size > MOST_BYTES:
            raise InputError(f"{path} is damaged (it has more than {MOST_BYTES >> 20} MiB)")
        content = parse_json(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it is no JSON object")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"cannot read {path} ({error.strerror or reason(error)})") from error
    except InputError:
        raise
    except (ValueError, MemoryError) as error:
        raise InputError(f"{path} is damaged ({reason(error)})") from None
    return content


def _integer(text: str) -> int:
    if len(text.lstrip("-")) > _DIGITS:
        raise ValueError(f"an integer has more than {_DIGITS} digits")
    return int(text)


def _is_deep(content: Any) -> bool:
    level = [content]
    for _ in range(DEEPEST):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return any(isinstance(value, dict | list) for value in level)
