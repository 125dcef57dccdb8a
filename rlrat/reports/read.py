"""Read runs for a report from folders in any state: nothing that a kill or a disk left behind stops the reading."""

import difflib
import json
import math
import os
import re
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from rlrat.errors import InputError, printable, reason, warn
from rlrat.evaluation.scores import Measure, normalize
from rlrat.json_files import EXACT_INTEGERS, as_number, find_json
from rlrat.reports.best import Best, read_best
from rlrat.reports.files import listed, open_text, plain
from rlrat.reports.offline import read_offline
from rlrat.runs.schema import (
    CONFIG,
    EVALUATIONS,
    NO_FINAL,
    STATUSES,
    SUMMARY,
    UNFINISHED,
    is_update,
)

_COLUMNS = {  # of evaluations.csv, by field of a RunRecord
    "updates": "update",
    "train_seconds": "train_seconds",
    "wall_seconds": "wall_seconds",
    "returns": "return_mean",
    "scores": "normalized_score",
    "successes": "success_rate",
}

_FIELDS = ("agent", "dataset", "activation", "name", "variant", "seed", "status")
_WHOLE = 2**24  # characters of a file that is read at once
_PLAIN = re.compile(r"[0-9a-zA-Z.,+\n-]*")
_LEAST_RANGE = 1e-9  # of returns: over a smaller range a score is rounding


@dataclass(frozen=True, eq=False)
class MetricLine:
    """A metric of one run, a mean over the updates since the point before; all arrays `[N]`."""

    updates: np.ndarray
    """int64, ascending, each once."""
    values: np.ndarray
    """NaN where the mean was not finite."""
    train_seconds: np.ndarray
    """Interpolated between evaluations; NaN beyond them, or where theirs are unknown."""


@dataclass(frozen=True, eq=False)
class RunRecord:
    """One seed's run. The arrays are its curve (for a Decision Transformer, at its first target return), `[N]` each."""

    path: Path
    agent: str
    dataset: str
    activation: str
    name: str
    """The run name, which tells runs of one activation apart; often empty."""
    seed: int
    status: str
    """finished, diverged, failed (no evaluation of a trained policy exists), unfinished, or imported, where no more is
    known."""
    updates: np.ndarray
    """int64, ascending, each once."""
    returns: np.ndarray
    """Mean return of an evaluation; NaN where only scores are known."""
    scores: np.ndarray
    """Normalised score, NaN where there is no reference."""
    train_seconds: np.ndarray
    """Seconds spent in updates until then; NaN where unknown, as `wall_seconds`."""
    wall_seconds: np.ndarray
    config: dict[str, Any] = field(default_factory=dict)
    """`config.json`: identity, arguments, dataset, reference, versions, resumed; empty for an imported run."""
    missing: tuple[int, ...] = ()
    """Updates whose evaluations were lost or failed, as `summary.json` has them."""
    metrics: dict[str, MetricLine] = field(default_factory=dict)
    """Those of its `metrics.csv` that were asked for (`rlrat.reports.metrics`)."""
    values: np.ndarray | None = None
    """Of a run without an environment, which has no returns: the estimated discounted value of its policy (fitted Q
    evaluation), all NaN where there is no estimate. None for every other run."""
    successes: np.ndarray | None = None
    """Success rate of an evaluation, in [0, 1], NaN where it is not known; None where the environment never says it."""
    offline: dict[str, float] = field(default_factory=dict)
    """What the last evaluation of a run without an environment found, by the columns of `offline.csv`."""
    best: Best | None = None
    """The checkpoint that it kept as its best, if it kept one."""

    @property
    def last(self) -> int:
        """Return the update of its last evaluation; -1 without any, as a run that diverged or failed may be."""
        return int(self.updates[-1]) if len(self.updates) else -1

    @property
    def imported(self) -> bool:
        """Return whether it is imported: how it was evaluated, and against what reference, is not known."""
        return not self.config

    @property
    def measured(self) -> bool:
        """Return whether it has a curve that it can be judged by; False only where estimated values are missing."""
        return self.values is None or bool(np.isfinite(self.values).any())

    @property
    def variant(self) -> str:
        """Return activation and run name, as the run folder is called: `rational+expectile=0.9`."""
        return self.activation + (f"+{self.name}" if self.name else "")

    @property
    def reference(self) -> dict[str, Any] | None:
        """Return what scores of 0 and 100 stand for: name, env_id, random, expert, source, date, measure."""
        return self.config.get("reference")

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Return how it was begun, and each time resumed in another way: members, device, versions, arguments."""
        return [self.config, *self.config.get("resumed", ())]

    def settings(self) -> dict[str, Any]:
        """Return all that can be filtered and grouped by: identity, other arguments, and what the folder says."""
        return {
            **self.config.get("arguments", {}),
            **self.config.get("identity", {}),
            **({} if self.values is None else {"env_id": "none"}),
            **{name: getattr(self, name) for name in _FIELDS},
            "run_name": self.name,
        }


def read_runs(paths: Iterable[Path]) -> list[RunRecord]:
    """Read every run with an evaluation at or below `paths`, in the order of their folders.

    A warning names what is empty, cut short or damaged; this is left out. A run that diverged or failed before its
    first evaluation is kept without one, so that it is counted.

    Args:
        paths: run folders, or folders that hold some at any depth.

    Raises:
        InputError: a path does not exist, or no run has an evaluation.
    """
    records, folders = [], list(_run_folders(paths))
    for folder in folders:
        record = _read_run(folder)
        if record is None:
            warn(f"{folder} has no {CONFIG} that can be read: it is left out")
        elif not len(record.updates) and record.status not in NO_FINAL:
            warn(f"{folder} has no evaluation yet: it is left out")
        else:
            records.append(record)
    if not any(len(record.updates) for record in records):
        places = ", ".join(map(str, paths))
        raise InputError(f"no evaluated run below {places}: give folders that hold {CONFIG} and {EVALUATIONS}")
    return _without_copies(records)


def filter_runs(records: Sequence[RunRecord], filters: Iterable[str]) -> list[RunRecord]:
    """Return the records that pass `name=value` over any setting: any value of a name may match, all names must.

    Raises:
        InputError: a filter has no "=", no run has its setting, or no run passes it.
    """
    wanted = defaultdict(set)
    for text in filters:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--filter has {text!r}, but expects name=value, such as activation=relu")
        wanted[name].add(value)
    for name, values in wanted.items():
        there = setting_texts(records, name)
        records = [record for record, text in zip(records, there, strict=True) if text in values]
        if not records:
            raise InputError(
                f"no run passes --filter {name}={' or '.join(sorted(values))}: "
                f"{name} is {', '.join(sorted(set(there))) or 'of no run that is left'}"
            )
    return list(records)


def setting_texts(records: Sequence[RunRecord], name: str) -> list[str]:
    """Return a setting of each record as text: lists as `256x256`, an empty one as '', a missing one as `-`.

    Raises:
        InputError: no record has it.
    """
    name = name.removeprefix("--").replace("-", "_")
    found = [record.settings() for record in records]
    known = {key for settings in found for key in settings}
    if name not in known:
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
        raise InputError(f"no run has a setting {name!r}; the nearest is {nearest[0]}" if nearest else "no run is left")
    return [as_text(settings.get(name, "-")) for settings in found]


def as_text(value: Any) -> str:
    """Return a setting's value as run names have it, in characters that every file and terminal takes."""
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if text.isascii() and text.isprintable() else printable(text)


def normalized(values: np.ndarray | float, reference: dict[str, Any]) -> np.ndarray | float:
    """Return the scores of returns, or of success rates, against a run's reference: see `is_of_success`."""
    return normalize(values, reference["random"], reference["expert"])


def is_of_success(reference: dict[str, Any] | None) -> bool:
    """Return whether a run's scores are of its success rates, whatever its returns."""
    return reference is not None and reference.get("measure") == "success"


def _run_folders(paths: Iterable[Path]) -> Iterator[Path]:
    """Yield folders with a config.json or evaluations.csv, each once; do not look below them."""
    seen = set()
    for path in paths:
        if not os.path.isdir(path):
            kind = "is a file" if os.path.exists(path) else "does not exist"
            raise InputError(f"{path} {kind}: give run folders, or folders that hold some")
        for root, folders, files in os.walk(path, onerror=cannot_list):
            folders.sort()
            if {CONFIG, EVALUATIONS} & set(files):
                folders.clear()
                if (real := os.path.realpath(root)) not in seen:
                    seen.add(real)
                    yield Path(root)


def cannot_list(error: OSError) -> None:
    """Warn of a folder that `os.walk` cannot look into."""
    warn(f"the folder {as_text(error.filename)} cannot be read ({reason(error.strerror)}): it is left out")


def _read_run(folder: Path) -> RunRecord | None:
    config = find_json(folder / CONFIG)
    if config is None:
        return None
    config = _of_right_types(folder, config)
    identity, dataset_id = config["identity"], config["dataset"].get("id")
    *_, dataset, agent, variant, last = ("", "", "", "", *folder.resolve().parts)
    activation, _, name = variant.partition("+")
    status, missing, best = _read_summary(folder, config["reference"])
    without_environment = "env_id" in identity and identity["env_id"] is None
    curve, offline = _read_curve(folder / EVALUATIONS, without_environment), {}
    if without_environment:
        values, offline = read_offline(folder, curve["updates"])
        if (known := np.isfinite(values)).any():
            missing = tuple(sorted({*missing, *curve["updates"][~known].tolist()}))
            curve, values = {name: array[known] for name, array in curve.items()}, values[known]
        curve["values"] = values
    if (reference := config["reference"]) is not None and (unknown := np.isnan(curve["scores"])).any():
        scored = curve["successes" if is_of_success(reference) else "returns"]
        curve["scores"] = np.where(unknown, normalized(scored, reference), curve["scores"])
    if np.isnan(curve["successes"]).all():
        curve["successes"] = None
    return RunRecord(
        path=folder,
        agent=as_text(config.get("agent", agent)),
        dataset=as_text(identity.get("dataset") or dataset_id or dataset),
        activation=as_text(identity.get("activation") or activation),
        name=as_text(name),
        seed=_seed(folder, config.get("seed", last.removeprefix("seed"))),
        status=status,
        config=config,
        missing=missing,
        offline=offline,
        best=best,
        **curve,
    )


def _of_right_types(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with mappings, lists and finite numbers where these belong; leave out what is none."""

    def mapping(parent: dict[str, Any], name: str) -> dict[str, Any]:
        value = parent.get(name)
        if value is not None and not isinstance(value, dict):
            warn(f"{folder} has a {CONFIG} whose {name} is no mapping: it is left out")
        return {as_text(key): held for key, held in value.items()} if isinstance(value, dict) else {}

    found = {**config, **{name: mapping(config, name) for name in ("identity", "arguments", "versions", "dataset")}}
    resumed = config.get("resumed") or []
    starts = [start for start in resumed if isinstance(start, dict)] if isinstance(resumed, list) else []
    if not isinstance(resumed, list) or len(starts) < len(resumed):
        warn(f"{folder} has a {CONFIG} whose resumed is no list of mappings: what is none is left out")
    found["resumed"] = [
        {**start, **{name: mapping(start, name) for name in ("arguments", "versions")}} for start in starts
    ]
    if (level := found["dataset"].get("return_mean")) is not None and as_number(level) is None:
        warn(f"{folder} has a {CONFIG} whose dataset has a return_mean that is no number: it is left out")
    found["dataset"]["return_mean"] = as_number(level)
    found["reference"] = _reference(folder, mapping(config, "reference"))
    return found


def _reference(folder: Path, content: dict[str, Any]) -> dict[str, Any] | None:
    if not content:
        return None
    random, expert = (as_number(content.get(name)) for name in ("random", "expert"))
    if random is None or expert is None or not math.isfinite(expert - random):
        warn(f"{folder} has a reference without finite numbers as random and expert return: it is left out")
        return None
    if abs(expert - random) < _LEAST_RANGE:
        warn(f"{folder} has a reference whose random and expert return are the same: it is left out")
        return None
    if content.get("measure", "return") not in get_args(Measure):
        warn(f"{folder} has a reference of neither returns nor success rates: it is left out")
        return None
    return {**content, "random": random, "expert": expert}


def _seed(folder: Path, value: Any) -> int:
    """Return a seed, a whole number that JavaScript has, too; -1 where there is none."""
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if re.fullmatch(r"[0-9]{1,16}", text) and int(text) < EXACT_INTEGERS:
        return int(text)
    warn(f"{folder} says of no seed which it is: it counts as seed -1")
    return -1


def _read_summary(folder: Path, reference: dict[str, Any] | None) -> tuple[str, tuple[int, ...], Best | None]:
    """Read the status, the updates whose evaluations were lost or failed, and the best checkpoint."""
    path = folder / SUMMARY
    if not os.path.lexists(path):
        return UNFINISHED, (), None
    summary = find_json(path) or {}
    status = summary.get("status")
    if status not in STATUSES:
        warn(f"{path} cannot be read, or has no status that is known: the run counts as unfinished")
        status = UNFINISHED
    missing: set[int] = set()
    for name in ("missing_evaluations", "failed_evaluations"):
        said = summary.get(name) or []
        whole = [u for u in said if is_update(u)] if isinstance(said, list) else []
        if not isinstance(said, list) or len(whole) < len(said):
            warn(f"{path} has {name} that are no list of updates: what is none is left out")
        missing.update(whole)
    return status, tuple(sorted(missing)), read_best(folder, summary.get("best"), is_of_success(reference))


def _read_curve(path: Path, without_environment: bool) -> dict[str, np.ndarray]:
    """Read the curve's arrays. A line that is no evaluation is left out; the last line counts only with its newline.

    `without_environment`, a line with a return is none.
    """
    columns = {name: array("q" if name == "updates" else "d") for name in _COLUMNS}
    damaged: list[int] = []
    if os.path.lexists(path):
        try:
            with open_text(path) as file:
                text = file.read(_WHOLE + 1)
                if without_environment or len(text) > _WHOLE or not _read_whole(text, columns):
                    file.seek(0)
                    _read_lines(file, columns, damaged, without_environment)
        except OSError as error:
            warn(f"{path} cannot be read ({reason(error.strerror)}): its evaluations are left out")
    if damaged:
        warn(f"{path}: left out as damaged: line {listed(damaged)}")
    arrays = {name: np.array(values) for name, values in columns.items()}
    # Keep the last line of an update: the run went back to an earlier checkpoint and came there again.
    order = np.argsort(arrays["updates"], kind="stable")
    updates = arrays["updates"][order]
    order = order[np.append(updates[1:] != updates[:-1], True)] if len(order) else order
    return {name: values[order] for name, values in arrays.items()}


def _read_whole(text: str, columns: dict[str, array]) -> bool:
    """Append all lines of an undisturbed `evaluations.csv` at once; return False, with nothing done, of any other.

    `_read_lines` says what an evaluation is; here a doubt is enough.
    """
    first, _, body = text.partition("\n")
    header, rows = first.split(","), [line.split(",") for line in body.split("\n")]
    if rows.pop() != [""] or not rows or not _PLAIN.fullmatch(body) or any(len(row) != len(header) for row in rows):
        return False
    by_name = dict(zip(header, zip(*rows, strict=True), strict=True))
    if (
        len(by_name) < len(header)
        or not {"update", "return_mean"} <= by_name.keys()
        or any(by_name.get("target_return", ()))
    ):
        return False
    found = {}
    try:
        for name, column in _COLUMNS.items():
            texts = by_name.get(column, ("",) * len(rows))
            found[name] = [int(t) for t in texts] if name == "updates" else [float(t or "nan") for t in texts]
    except ValueError:
        return False
    rates = np.array(found["successes"])
    if min(found["updates"]) < 0 or max(found["updates"]) >= EXACT_INTEGERS:
        return False
    if not np.isfinite(found["returns"]).all() or not (np.isnan(rates) | ((rates >= 0) & (rates <= 1))).all():
        return False
    for name, values in found.items():
        columns[name].extend(values)
    return True


def _read_lines(file: Iterator[str], columns: dict[str, array], damaged: list[int], without_environment: bool) -> None:
    """Append the whole lines of an `evaluations.csv` to `columns`, and the line numbers of others to `damaged`."""
    header = next(file, "").rstrip("\r\n").split(",")
    if not {"update", "return_mean"} <= set(header):
        damaged += [1] if header != [""] else []
        return
    places = {name: header.index(column) for name, column in _COLUMNS.items() if column in header}
    missing = columns.keys() - places.keys()
    target = header.index("target_return") if "target_return" in header else None
    first_target = None
    for number, line in enumerate(file, start=2):
        line = line.removesuffix("\r\n") + "\n" if line.endswith("\r\n") else line
        row = line.rstrip("\n").split(",")
        try:
            if len(row) != len(header) or not line.endswith("\n"):
                raise ValueError
            plain(line.rstrip("\n"))
            update = int(row[places["updates"]])
            values = {name: float(row[place] or "nan") for name, place in places.items() if name != "updates"}
            played = not (math.isnan(values["returns"]) and math.isnan(values.get("scores", math.nan)))
            if not 0 <= update < EXACT_INTEGERS or played == without_environment:
                raise ValueError
            if played and not math.isfinite(values["returns"]):
                raise ValueError
            if not (math.isnan(rate := values.get("successes", math.nan)) or 0 <= rate <= 1):
                raise ValueError
            wanted = "" if target is None else row[target]
            first_target = wanted if first_target is None else first_target
            if bool(wanted) != bool(first_target) or (wanted and not math.isfinite(float(wanted))):
                raise ValueError
        except ValueError:
            damaged.append(number)
            continue
        if wanted != first_target:
            continue
        columns["updates"].append(update)
        for name, value in values.items():
            columns[name].append(value)
        for name in missing:
            columns[name].append(math.nan)


def _without_copies(records: list[RunRecord]) -> list[RunRecord]:
    """Keep only the longest of the runs with equal settings and seed, as they come from copied folders."""
    found: dict[tuple, RunRecord] = {}
    for record in records:
        identity = json.dumps(record.config.get("identity"), sort_keys=True)
        key = (record.agent, record.dataset, record.activation, record.name, record.seed, identity)
        other = found.get(key)
        if other is None:
            found[key] = record
            continue
        longer, shorter = (record, other) if len(record.updates) > len(other.updates) else (other, record)
        warn(f"{shorter.path} is seed {shorter.seed} with the settings of {longer.path}: it is left out as a copy")
        found[key] = longer
    return list(found.values())
