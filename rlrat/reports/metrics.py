"""Read the metrics of runs from their metrics.csv: only where a report asks for them, and only those."""

import csv
import difflib
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from rlrat.errors import InputError, warn
from rlrat.reports.cells import guarded
from rlrat.reports.files import listed, read_columns, read_names
from rlrat.reports.read import MetricLine, RunRecord, as_text
from rlrat.runs.schema import METRICS

_WHAT = "metrics"
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
    headers = [[] if record.imported else read_names(record.path / METRICS, _WHAT) for record in records]
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
        if own := [name for name in names if name in header]:
            points = read_columns(record.path / METRICS, own, _WHAT)
            record = replace(record, metrics={name: _line(record, *point) for name, point in points.items()})
        found.append(record)
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


def _line(run: RunRecord, updates: np.ndarray, values: np.ndarray) -> MetricLine:
    seconds = np.full(len(updates), np.nan)
    if len(run.updates):
        seconds = np.interp(updates, run.updates, run.train_seconds, left=np.nan, right=np.nan)
    return MetricLine(updates, values, seconds)


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
