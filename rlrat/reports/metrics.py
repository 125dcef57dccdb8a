"""Read the metrics of runs from their metrics.csv: only where a report asks for them, and only those."""

import csv
import difflib
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TextIO

import numpy as np

from rlrat.errors import InputError, reason, warn
from rlrat.json_files import EXACT_INTEGERS
from rlrat.reports.cells import guarded
from rlrat.reports.read import MetricLine, RunRecord, as_text, listed, open_text, plain
from rlrat.runs.schema import METRICS

_MOST_BYTES = 2**30
_MOST_COLUMNS = 10_000
_LONGEST_LINE = 2**20  # characters
_NEAREST = 3  # names in a message
_NAMED = 3  # runs or metrics in a message
_PATTERN = "*?["


def with_metrics(records: Sequence[RunRecord], wanted: Sequence[str]) -> list[RunRecord]:
    """Return the records with the metrics that they have of those `wanted`, names or patterns such as `losses/*`.

    A warning names runs without some of them, and damaged parts of a file, which are left out.

    Raises:
        InputError: no run has one of the metrics.
    """
    if not wanted:
        return list(records)
    headers = [[] if record.imported else _read_header(record.path / METRICS) for record in records]
    known = list(dict.fromkeys(name for header in headers for name in header))
    names = list(dict.fromkeys(name for text in wanted for name in _find(text, known)))
    lacking: dict[tuple[Path, ...], list[str]] = {}  # runs -> what they lack; a pattern may find much of one agent
    for name in names:
        without = (record.path for record, header in zip(records, headers, strict=True) if name not in header)
        lacking.setdefault(tuple(without), []).append(name)
    for paths, own in lacking.items():
        if paths:
            of = f"{len(paths)} of {len(records)} runs have no {listed(own, _NAMED)} in a {METRICS}"
            whose = "its" if len(own) == 1 else "their"
            warn(f"{of}, and are not in {whose} curves: {listed(paths, _NAMED)}")
    found = []
    for record, header in zip(records, headers, strict=True):
        own = [name for name in names if name in header]
        found.append(replace(record, metrics=_read_metrics(record, own)) if own else record)
    return found


def _find(text: str, known: Sequence[str]) -> list[str]:
    if text in known:
        return [text]
    if set(text) & set(_PATTERN) and (names := [name for name in known if fnmatchcase(name, text)]):
        return names
    if not known:
        raise InputError(f"--metric has {as_text(text)}, but none of these runs has a {METRICS} that can be read")
    nearest = difflib.get_close_matches(text, known, n=_NEAREST, cutoff=0)
    raise InputError(f"no run has a metric {as_text(text)!r}; the nearest are {', '.join(nearest)}")


def _read_header(path: Path) -> list[str]:
    """Read the names of the metrics in a file; none where there is no file, or no header that can be read."""
    if not os.path.lexists(path):
        return []
    try:
        with open_text(path) as file:
            large = os.fstat(file.fileno()).st_size > _MOST_BYTES
            first, *names = _header(file)
    except OSError as error:
        warn(f"{path} cannot be read ({reason(error.strerror)}): its metrics are left out")
        return []
    if large:
        warn(f"{path} has more than {_MOST_BYTES >> 30} GiB: its metrics are left out")
    elif first != "update" or len({first, *names}) <= len(names) or len(names) > _MOST_COLUMNS:
        warn(f"{path} has no header that can be read: its metrics are left out")
    else:
        return names
    return []


def _header(file: TextIO) -> list[str]:
    line = file.readline(_LONGEST_LINE)
    return as_text(line.rstrip("\r\n")).split(",") if line.endswith("\n") else [""]


def _read_metrics(run: RunRecord, names: Sequence[str]) -> dict[str, MetricLine]:
    """Read these columns of a run's file, each where it is filled. A line cut short or damaged is left out."""
    path = run.path / METRICS
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
        warn(f"{path} cannot be read ({reason(error)}): its metrics are left out")
        return {}
    if damaged:
        warn(f"{path}: left out as damaged: line {listed(damaged)}")
    return {name: _line(run, *found) for name, found in points.items() if len(found[0])}


def _line(run: RunRecord, updates: array, values: array) -> MetricLine:
    at, heights = np.array(updates), np.array(values)
    order = np.argsort(at, kind="stable")
    order = order[np.append(np.diff(at[order]) > 0, True)]  # the last line of an update counts
    at, heights = at[order], heights[order]
    seconds = np.full(len(at), np.nan)
    if len(run.updates):
        seconds = np.interp(at, run.updates, run.train_seconds, left=np.nan, right=np.nan)
    return MetricLine(at, np.where(np.isfinite(heights), heights, np.nan), seconds)


def write_metrics(records: Iterable[RunRecord], names: Sequence[str], path: Path) -> None:
    """Write all points of these metrics as a table: a column for each metric, a line for each point of a run.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(guarded, ("agent", "dataset", "activation", "seed", "update", *names)))
        for run in records:
            points: dict[int, dict[str, float]] = {}
            for name, line in run.metrics.items():
                for update, value in zip(line.updates.tolist(), line.values.tolist(), strict=True):
                    points.setdefault(update, {})[name] = value
            for update in sorted(points):
                values = (points[update].get(name) for name in names)
                cells = ("" if value is None else f"{value:.9g}" for value in values)
                writer.writerow(map(guarded, (run.agent, run.dataset, run.variant, run.seed, update, *cells)))
