"""Write and read the CSV files of a run, whose lines belong to evaluations, also when a file has been damaged."""

import csv
import io
import math
import os
import zlib
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlrat.errors import InputError, reason
from rlrat.json_files import open_file
from rlrat.runs.files import replace, sync, writing


def _is_natural(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 19


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _is_number_or_empty(text: str) -> bool:
    return not text or _is_number(text)


def _is_metric_or_empty(text: str) -> bool:
    return _is_number_or_empty(text) or text in ("nan", "inf", "-inf")


_FITS: dict[str, Callable[[str], bool]] = {
    **dict.fromkeys(("update", "episode", "reset_seed", "part", "group"), _is_natural),
    **dict.fromkeys(("train_seconds", "wall_seconds", "episodes", "return", "length"), _is_number),
    **dict.fromkeys(("target_return", "normalized_score"), _is_number_or_empty),
    # Empty where there is no environment.
    **dict.fromkeys(("return_mean", "return_std", "length_mean"), _is_number_or_empty),
    # Empty where the environment does not say.
    **dict.fromkeys(("success_rate", "success"), _is_number_or_empty),
}
"""What a column holds; the others may hold any text."""


def is_metric(name: Any) -> bool:
    """Tell whether a metric may have this name: it heads a column, and simple readers split lines at commas."""
    return (
        isinstance(name, str)
        and name.isprintable()
        and name.strip() == name not in ("", "update")
        and not ({",", '"'} & set(name))
    )


@dataclass
class Found:
    """The whole lines of a file, each once."""

    texts: dict[int, list[str]] = field(default_factory=dict)
    """By update, as they stand in the file."""
    rows: dict[int, list[dict[str, str]]] = field(default_factory=dict)
    """The same, by column."""
    damaged: int = 0
    """Lines that are none, or that nobody wrote."""


class Lines:
    """A CSV file of a run.

    Args:
        path: the file; it need not be there.
        columns: `update` is the first.
        grows: whether lines may add columns, of numbers that need not be finite. A new column becomes the last of the
            file. It is empty in the lines before, whose checksums do not change.
        later: how many of the columns, the last ones, a file of an older version may lack. They are empty in its lines,
            whose checksums do not change.
    """

    path: Path

    def __init__(self, path: Path, columns: Sequence[str], *, grows: bool = False, later: int = 0) -> None:
        self.path, self._columns, self._grows, self._later = path, tuple(columns), grows, later
        self.expected: dict[int, list[int]] = {}
        """Of each update with lines, their checksums; none where they were written by a version without."""
        self._last = -1  # the last update in the file
        self._unsynced = self._new = False

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add the lines of one evaluation. Those of a late evaluation go between older lines: updates ascend."""
        rows, by_update = list(rows), {}
        if self._grows:
            self._widen(name for row in rows for name in row)
        for row in rows:
            by_update.setdefault(int(row["update"]), []).append(self._text(row))
        if not by_update:
            return
        self.expected |= {update: [self._checksum(text) for text in texts] for update, texts in by_update.items()}
        if min(by_update) < self._last:
            self.write(self.read().texts | by_update)
            return
        lines = [text for texts in by_update.values() for text in texts]
        with writing(self.path), self.path.open("ab") as file:
            if file.tell() == 0:
                self._new = True
                lines.insert(0, ",".join(self._columns))
            self._unsynced = True
            file.write("".join(f"{line}\n" for line in lines).encode())
        self._last = max(by_update)

    def write(self, texts: Mapping[int, Sequence[str]]) -> None:
        """Replace the file by these lines, in the order of their updates."""
        lines = [",".join(self._columns), *(text for update in sorted(texts) for text in texts[update])]
        replace(self.path, "".join(f"{line}\n" for line in lines).encode())
        for update, own in texts.items():
            if len(own) >= len(self.expected.get(update, ())):  # else the update still lacks lines
                self.expected[update] = [self._checksum(text) for text in own]
        self._last = max(texts, default=-1)
        self._new = True

    def keep(self, updates: Container[int]) -> None:
        """Keep only the undamaged lines of these updates, each once; remove empty columns at the end."""
        if self._is_there():
            kept = {update: texts for update, texts in self.read().texts.items() if update in updates}
            if self._grows:
                texts = [text for own in kept.values() for text in own]
                empty = min((len(text) - len(text.rstrip(",")) for text in texts), default=len(self._columns))
                self._columns = self._columns[: max(1, len(self._columns) - empty)]
                kept = {update: [text[: len(text) - empty] for text in own] for update, own in kept.items()}
            self.write(kept)

    def _widen(self, names: Iterable[str]) -> None:
        """Add the columns that the file lacks."""
        names = dict.fromkeys(names)
        if names.keys() <= set(self._columns):
            return
        there = self.read().texts if self._is_there() else None
        new = tuple(name for name in names if name not in self._columns)
        self._columns += new
        if there is not None:
            self.write({update: [text + "," * len(new) for text in texts] for update, texts in there.items()})

    def _is_there(self) -> bool:
        with writing(self.path):
            return os.path.lexists(self.path)  # a link to a missing file counts, as a write would follow it

    def sync(self) -> None:
        """Write all lines to the disk, before something is written that relies on them."""
        with writing(self.path):
            if self._unsynced:
                with suppress(FileNotFoundError):  # then its lines are missing, which is reported at the end
                    sync(self.path)
            if self._new:
                sync(self.path.parent)
        self._unsynced = self._new = False

    def read(self) -> Found:
        """Read the lines that are there: of an expected update those that were written, of others all whole ones.

        Raises:
            InputError: the file cannot be read.
        """
        found, seen, order = Found(), set(), {}
        names, lines = self._columns, self._read()
        if self._grows:
            header = next((tuple(line.split(",")) for line in lines if line.startswith("update,")), names)
            if len(set(header)) == len(header):
                names = self._columns = header
        elif lines and lines[0].startswith("update,") and set(header := lines[0].split(",")) < set(names):
            names = tuple(header)  # written by a version with fewer columns
        for line in lines:
            if line in seen or line == ",".join(names):
                continue
            seen.add(line)
            row = self._parse(line, names)
            if row is None:
                found.damaged += 1
                continue
            update = int(row["update"])
            row = {name: row.get(name, "") for name in self._columns}
            text = line if names is self._columns else self._text(row)
            checksum = self._checksum(text)
            if (checksums := self.expected.get(update)) and checksum not in checksums:
                found.damaged += 1
                continue
            found.texts.setdefault(update, []).append(text)
            found.rows.setdefault(update, []).append(row)
            if checksums:
                order.setdefault(update, []).append(checksums.index(checksum))
        for update, places in order.items():  # in the order of writing: the first target return gives the score
            for table in (found.texts, found.rows):
                table[update] = [line for _, line in sorted(zip(places, table[update], strict=True), key=_place)]
        return found

    def whole(self, found: Found) -> set[int]:
        """Return the updates whose lines are all there, as far as their checksums are known."""
        return {
            update
            for update, texts in found.texts.items()
            if not (checksums := self.expected.get(update)) or len(texts) == len(set(checksums))
        }

    def _read(self) -> list[str]:
        try:
            with open_file(self.path) as file:
                content = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            why = error.strerror or reason(error)
            raise InputError(
                f"cannot read {self.path} ({why}): make it readable, or choose another --run-dir"
            ) from error
        # A kill can cut the last line short; a line without a newline does not count.
        whole = content.decode(errors="replace").rpartition("\n")[0]
        return [line for text in whole.split("\n") if (line := text.removesuffix("\r"))]

    def _text(self, row: Mapping[str, Any]) -> str:
        text = io.StringIO()
        csv.DictWriter(text, self._columns, lineterminator="").writerow(row)
        return text.getvalue()

    def _parse(self, line: str, names: tuple[str, ...]) -> dict[str, str] | None:
        """Parse a line into its fields by column; None if the line is not whole."""
        try:
            (values,) = csv.reader([line], strict=True)
        except (csv.Error, ValueError):
            return None
        if len(values) != len(names):
            return None
        row = dict(zip(names, values, strict=True))
        if self._grows:
            fits = _is_natural(row["update"]) and all(map(_is_metric_or_empty, values[1:]))
        else:
            fits = all(_FITS[name](value) for name, value in row.items() if name in _FITS)
        return row if fits else None

    def _checksum(self, text: str) -> int:
        if self._grows:  # only of the cells with a value and their names, so that new empty columns change nothing
            cells = zip(self._columns, text.split(","), strict=False)
            text = ",".join(f"{name}={value}" for name, value in cells if value)
        for _ in range(self._later):  # as it was before there were these columns
            text = text.removesuffix(",")
        return zlib.crc32(text.encode())


def _place(line: tuple[int, Any]) -> int:
    return line[0]
