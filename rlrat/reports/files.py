"""Read a run's text files in any state, for reports: lines of numbers, and CSV files whose lines may add columns."""

import io
import os
import re
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import numpy as np

from rlrat.errors import printable, reason, warn
from rlrat.json_files import EXACT_INTEGERS, open_file

_MOST_BYTES = 2**30
_MOST_COLUMNS = 10_000
_LONGEST_LINE = 2**20  # characters


def open_text(path: Path) -> TextIO:
    """Open a file for reading as text; bytes that are no UTF-8 are replaced.

    Raises:
        OSError: there is no such file, or it is a folder, a pipe or a device, which might never end.
    """
    return io.TextIOWrapper(open_file(path), encoding="utf-8", errors="replace", newline="\n")


def plain(line: str) -> str:
    """Return a line of numbers and commas as it is.

    Raises:
        ValueError: it has what only Python takes for a part of a number: spaces, "_", digits of other scripts.
    """
    if not re.fullmatch(r"[0-9a-zA-Z.,+-]*", line):
        raise ValueError
    return line


def listed(items: Sequence[object], most: int = 5) -> str:
    """Return the first items, and how many more there are: `2, 4, 9, 10, 11 and 3 more`."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(str, items[:most])) + more


def read_names(path: Path, what: str) -> list[str]:
    """Read the columns after `update` of a file; none where there is no file, or no header that can be read.

    Args:
        what: the values in it, for the warning.
    """
    if not os.path.lexists(path):
        return []
    try:
        with open_text(path) as file:
            large = os.fstat(file.fileno()).st_size > _MOST_BYTES
            first, *names = _header(file)
    except OSError as error:
        warn(f"{path} cannot be read ({reason(error)}): its {what} are left out")
        return []
    if large:
        warn(f"{path} has more than {_MOST_BYTES >> 30} GiB: its {what} are left out")
    elif first != "update" or len({first, *names}) <= len(names) or len(names) > _MOST_COLUMNS:
        warn(f"{path} has no header that can be read: its {what} are left out")
    else:
        return names
    return []


def read_columns(path: Path, names: Sequence[str], what: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Read these columns, each where it is filled: updates, ascending, and values, NaN where not finite.

    A warning names lines that are cut short or damaged, which are left out. Of an update that is there twice, the last
    line counts.
    """
    points, damaged = {name: (array("q"), array("d")) for name in names}, []
    try:
        with open_text(path) as file:
            header = _header(file)
            places = {name: header.index(name) for name in names}
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), ""), start=2):
                try:
                    row = plain(line.removesuffix("\n").removesuffix("\r")).split(",")
                    if len(row) != len(header) or not line.endswith("\n") or not 0 <= int(row[0]) < EXACT_INTEGERS:
                        raise ValueError
                    values = {name: float(row[place]) for name, place in places.items() if row[place]}
                except ValueError:
                    damaged.append(number)
                    continue
                for name, value in values.items():
                    points[name][0].append(int(row[0]))
                    points[name][1].append(value)
    except (OSError, ValueError) as error:  # the file has changed since its header was read
        warn(f"{path} cannot be read ({reason(error)}): its {what} are left out")
        return {}
    if damaged:
        warn(f"{path}: left out as damaged: line {listed(damaged)}")
    return {name: _ascending(*found) for name, found in points.items() if len(found[0])}


def _header(file: TextIO) -> list[str]:
    line = file.readline(_LONGEST_LINE)
    return printable(line.rstrip("\r\n")).split(",") if line.endswith("\n") else [""]


def _ascending(updates: array, values: array) -> tuple[np.ndarray, np.ndarray]:
    at, heights = np.array(updates), np.array(values)
    order = np.argsort(at, kind="stable")
    order = order[np.append(np.diff(at[order]) > 0, True)]  # the last line of an update counts
    return at[order], np.where(np.isfinite(heights[order]), heights[order], np.nan)
