"""Read others' results to stand beside ours: a table of curves, or the log folders that d3rlpy leaves."""

import csv
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rlrat.errors import InputError, reason, warn
from rlrat.json_files import EXACT_INTEGERS, find_json
from rlrat.reports.cells import guarded, unguarded
from rlrat.reports.differences import reference_key
from rlrat.reports.files import open_text, plain
from rlrat.reports.read import RunRecord, as_text, cannot_list, is_of_success, normalized
from rlrat.runs.schema import DIVERGED, IMPORTED, NO_FINAL, UNFINISHED

_COLUMNS = ("agent", "dataset", "activation", "seed", "update", "score")
_AGENTS = {"td3_plus_bc": "td3_bc"}  # where d3rlpy's name is not ours
_RATE = "success_rate"  # a column that need not be there
_STATUSES = (*NO_FINAL, UNFINISHED)  # that a table's lines may say
_LOG = "environment.csv"  # what d3rlpy's own examples call an EnvironmentEvaluator


def import_runs(sources: Iterable[str]) -> list[RunRecord]:
    """Read runs of other libraries; their name is the file's or `d3rlpy`, which keeps them apart from ours.

    A table or log folder that is given twice is read once.

    Args:
        sources: tables (`results.csv`), or d3rlpy's log folders with the dataset that they do not name
            (`hopper-medium-v2=d3rlpy_logs`).

    Raises:
        InputError: a source does not exist, is neither of these or cannot be read.
    """
    records: list[RunRecord] = []
    for source in sources:
        dataset, _, place = source.rpartition("=")
        if os.path.isfile(source):
            if os.path.realpath(source) in _places(records):
                warn(f"--import has {source} twice: it is read once")
            else:
                records += read_table(Path(source))
        elif dataset and os.path.isdir(place):
            records += read_d3rlpy(Path(place), dataset, records)
        elif os.path.isdir(source):
            raise InputError(
                f"--import has the folder {source}, but d3rlpy's logs do not name their dataset: "
                f"give --import DATASET={source}, such as hopper-medium-v2={source}"
            )
        else:
            raise InputError(f"--import has {source}, but there is no such file: give a .csv, or DATASET=FOLDER")
    return records


def read_table(path: Path) -> list[RunRecord]:
    """Read curves from a CSV file with the columns agent, dataset, activation, seed, update, score.

    An optional column status may say `diverged`, `failed` or `unfinished` in the lines of a run. A line with one of the
    first two may have no score, so that a run without any evaluation is counted, too. An optional column success_rate
    has numbers in [0, 1], or nothing. Other columns are ignored.

    Raises:
        InputError: the file cannot be read, a column is missing, or a line is no evaluation.
    """
    statuses: dict[tuple, str] = {}
    rates: dict[tuple, float] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
            curves = _read_curves(path, csv.DictReader(file), statuses, rates)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except csv.Error as error:
        raise InputError(f"{path} is no table of comma-separated values: {error}") from None
    if not any(curves.values()):
        raise InputError(f"{path} has no evaluation: give a line for each seed and update")
    found = []
    for key, curve in curves.items():
        *names, seed = key
        run = _record(path, *names, path.stem, seed, sorted(curve), scores=[curve[update] for update in sorted(curve)])
        own = np.array([rates.get((*key, update), np.nan) for update in sorted(curve)])
        known = None if np.isnan(own).all() else own
        found.append(replace(run, status=statuses.get(key, run.status), successes=known))
    return found


def write_table(records: Iterable[RunRecord], path: Path) -> None:
    """Write the scores of runs as a table that `read_table` reads; run names tell runs of one activation apart.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        records = list(records)
        with_rates = any(run.successes is not None for run in records)
        writer.writerow((*_COLUMNS, "status", *([_RATE] if with_rates else [])))
        seen: Counter[tuple] = Counter()
        for run in records:
            known = np.isfinite(run.scores)
            key = (run.agent, run.dataset, run.variant, run.seed)
            seen[key] += 1  # for example of several lengths or settings
            variant = run.variant + (f" ({seen[key]})" if seen[key] > 1 else "")
            rates = np.full(len(known), np.nan) if run.successes is None else run.successes
            for update, score, rate in zip(*(a[known].tolist() for a in (run.updates, run.scores, rates)), strict=True):
                own = ["" if np.isnan(rate) else f"{rate:.6g}"] if with_rates else []
                cells = (run.agent, run.dataset, variant, run.seed, update, f"{score:.6g}", run.status, *own)
                writer.writerow(map(guarded, cells))
            if not len(run.updates):
                own = [""] if with_rates else []
                writer.writerow(map(guarded, (run.agent, run.dataset, variant, run.seed, 0, "", run.status, *own)))


def _read_curves(
    path: Path, reader: csv.DictReader, statuses: dict[tuple, str], rates: dict[tuple, float]
) -> dict[tuple[str, str, str, int], dict[int, float]]:
    """Read scores by update for each agent, dataset, activation and seed.

    `statuses` gets runs that did not finish, `rates` the success rates by run and update.
    """
    missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise InputError(f"{path} has no column {', '.join(missing)}: it takes {', '.join(_COLUMNS)}")
    curves: dict[tuple[str, str, str, int], dict[int, float]] = {}
    for row in reader:
        try:
            *key, seed, update, score = (row[column] for column in _COLUMNS)
            if not all(key) or not 0 <= int(update) < EXACT_INTEGERS or abs(int(seed)) >= EXACT_INTEGERS:
                raise ValueError
            run = (*(as_text(unguarded(text)) for text in key), int(seed))
            if (status := row.get("status")) in _STATUSES:
                statuses[run] = status
            if status in NO_FINAL and score.strip().lower() in ("", "nan"):
                curves.setdefault(run, {})
                continue
            if not np.isfinite(float(score)):
                raise ValueError
            if text := (row.get(_RATE) or "").strip():
                rates[*run, int(update)] = float(text)
                if not 0 <= float(text) <= 1:
                    raise ValueError
            if curves.setdefault(run, {}).setdefault(int(update), float(score)) != float(score):
                raise InputError(f"line {reader.line_num} of {path} has another score of a seed and update than before")
        except InputError:
            raise
        except (ValueError, TypeError, AttributeError):
            raise InputError(
                f"line {reader.line_num} of {path} is no evaluation: it takes names in {', '.join(_COLUMNS[:3])}, "
                "whole numbers below 2**53 in seed and update, the update from 0, a number in score (or the status "
                f"diverged), and in {_RATE}, if it is there, nothing or a number from 0 to 1"
            ) from None
    return curves


def _places(records: Iterable[RunRecord]) -> set[str]:
    return {os.path.realpath(record.path) for record in records}


def read_d3rlpy(folder: Path, dataset: str, before: Sequence[RunRecord] = ()) -> list[RunRecord]:
    """Read the runs below a folder that d3rlpy's FileAdapter wrote, evaluated by an evaluator called `environment`.

    The logs hold no seeds: runs are numbered in the order of their folders.

    Args:
        folder: at any height above the runs.
        dataset: that the runs were trained on; they do not log it.
        before: runs that are imported already; these are left out, and the numbers continue after them.

    Raises:
        InputError: there is no such run.
    """
    records: list[RunRecord] = []
    dataset = as_text(dataset)
    there = _places(before)
    numbers = Counter((run.agent, run.dataset, run.activation) for run in before if run.path.is_dir())
    paths = sorted(Path(root) for root, _, files in os.walk(folder, onerror=cannot_list) if "params.json" in files)
    fresh = [path for path in paths if os.path.realpath(path) not in there]
    if len(fresh) < len(paths):
        warn(f"{len(paths) - len(fresh)} of the runs below {folder} are imported already: they are read once")
    for path in fresh:
        if not os.path.lexists(path / _LOG):
            warn(f"{path} has no {_LOG}: it is left out; name the EnvironmentEvaluator of `fit` `environment`")
            continue
        try:
            agent, activation = _names(path / "params.json")
            updates, returns = _read_log(path / _LOG)
        except (ValueError, OSError) as error:
            warn(f"{path} is no whole log of d3rlpy ({reason(error)}): it is left out")
            continue
        seed = numbers[agent, dataset, activation]
        numbers[agent, dataset, activation] += 1
        # Once an evaluation is no number, the policy can no longer be used: leave out what follows.
        finite = np.logical_and.accumulate(np.isfinite(returns))
        run = _record(path, agent, dataset, activation, "d3rlpy", seed, updates[finite], returns[finite])
        if not finite.all():
            warn(
                f"{path} has an evaluation that is no number, at update {updates[~finite][0]:,}: it counts as diverged"
            )
            run = replace(run, status=DIVERGED)
        records.append(replace(run, train_seconds=_seconds(path / "time_step.csv", run.updates)))
    if not records and len(fresh) == len(paths):
        raise InputError(f"no log of d3rlpy below {folder}: give a folder that holds params.json and {_LOG}")
    return records


def _names(path: Path) -> tuple[str, str]:
    """Read agent and activation from a run's params.json.

    Raises:
        ValueError: it has none.
    """
    config = (find_json(path) or {}).get("config")
    kind, params = (config.get(name) for name in ("type", "params")) if isinstance(config, dict) else (None, None)
    activation = _activation(params) if isinstance(params, dict) else None
    if not (isinstance(kind, str) and isinstance(activation, str)):
        raise ValueError(f"{path.name} cannot be read, or has no name of an agent and an activation")
    return as_text(_AGENTS.get(kind, kind)), as_text(activation)


def with_scores(imported: Sequence[RunRecord], ours: Sequence[RunRecord]) -> list[RunRecord]:
    """Normalise returns imported without scores as our runs on the same dataset are, where these agree."""
    found = []
    for record in imported:
        played = [run for run in ours if run.dataset == record.dataset and run.values is None]
        there = {reference_key(run): run.reference for run in played}
        reference = next(iter(there.values())) if len(there) == 1 else None
        if reference is not None and not is_of_success(reference) and np.isnan(record.scores).all():
            record = replace(record, scores=normalized(record.returns, reference))
        found.append(record)
    return found


def _record(
    path: Path,
    agent: str,
    dataset: str,
    activation: str,
    name: str,
    seed: int,
    updates: Sequence[int],
    returns: Sequence[float] | None = None,
    scores: Sequence[float] | None = None,
) -> RunRecord:
    unknown = np.full(len(updates), np.nan)
    return RunRecord(
        *(path, agent, dataset, activation, as_text(name), seed, IMPORTED, np.array(updates, np.int64)),
        returns=unknown if returns is None else np.array(returns),
        scores=unknown if scores is None else np.array(scores),
        train_seconds=unknown,
        wall_seconds=unknown,
    )


def _activation(params: dict[str, Any]) -> Any:
    """Return the activation of the actor, or of the only network; d3rlpy's own default is ReLU. None if unreadable."""
    if "activation_type" in params:
        return params["activation_type"]
    factory = params.get("actor_encoder_factory") or params.get("encoder_factory") or {}
    settings = factory.get("params", {}) if isinstance(factory, dict) else None
    return settings.get("activation", "relu") if isinstance(settings, dict) else None


def _read_log(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read steps and values of a metric, NaN where they are no numbers: lines of epoch, step, value, without a header.

    The last line of a step counts.

    Raises:
        ValueError: a line is none of these, or there is no line.
        OSError: the file cannot be read.
    """
    rows = {}
    with open_text(path) as file:
        for number, line in enumerate(file.read().splitlines(), start=1):
            try:
                _, step, value = plain(line).split(",")
                if not 0 <= int(step) < EXACT_INTEGERS:
                    raise ValueError
                rows[int(step)] = float(value)
            except ValueError:
                raise ValueError(f"line {number} of {path.name} is no epoch, step below 2**53 and value") from None
    if not rows:
        raise ValueError(f"{path.name} has no evaluation")
    steps = np.array(sorted(rows), dtype=np.int64)
    return steps, np.array([rows[step] for step in steps])


def _seconds(path: Path, updates: np.ndarray) -> np.ndarray:
    """Return training seconds at `updates`, from the mean seconds of a step that d3rlpy logs for each epoch.

    NaN where they are not known.
    """
    unknown = np.full(len(updates), np.nan)
    if not os.path.lexists(path):
        return unknown
    try:
        steps, means = _read_log(path)
    except (ValueError, OSError) as error:
        warn(f"{path} cannot be read ({reason(error)}): training seconds are not known")
        return unknown
    if not np.isfinite(means).all():
        return unknown
    return np.interp(updates, steps, np.cumsum(means * np.diff(steps, prepend=0)))
