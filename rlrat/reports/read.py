"""Runs as a report needs them, from folders in any state: nothing that a kill or a disk left behind stops it."""

import difflib
import json
import math
import os
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlrat.errors import InputError, printable, warn

_COLUMNS = {  # of evaluations.csv, by field of a RunRecord
    "updates": "update",
    "train_seconds": "train_seconds",
    "wall_seconds": "wall_seconds",
    "returns": "return_mean",
    "scores": "normalized_score",
}

LAST_UPDATE = 2**53
"""Updates are below it, where JavaScript has every whole number."""

_FIELDS = ("agent", "dataset", "activation", "name", "variant", "seed", "status")


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
    """finished, diverged, unfinished, or imported, where no more is known."""
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

    @property
    def imported(self) -> bool:
        """How it was evaluated, and against what reference, is not known."""
        return not self.config

    @property
    def variant(self) -> str:
        """Activation and run name, as the run folder is called: `rational+expectile=0.9`."""
        return self.activation + (f"+{self.name}" if self.name else "")

    @property
    def reference(self) -> dict[str, Any] | None:
        """What a score of 0 and 100 stand for: name, env_id, random, expert, source, date."""
        return self.config.get("reference")

    @property
    def starts(self) -> list[dict[str, Any]]:
        """Where it was begun, and where it went on in another way: members, device, versions, arguments of each."""
        return [self.config, *self.config.get("resumed", ())]

    def settings(self) -> dict[str, Any]:
        """Whatever can be filtered and grouped by: identity, other arguments, and what the folder says."""
        return {
            **self.config.get("arguments", {}),
            **self.config.get("identity", {}),
            **{name: getattr(self, name) for name in _FIELDS},
            "run_name": self.name,
        }


def read_runs(paths: Iterable[Path]) -> list[RunRecord]:
    """Every run with an evaluation at or below `paths`, in the order of their folders.

    Whatever is empty, cut short or damaged is named in a warning and left out.

    Args:
        paths: run folders, or folders that hold some at any depth.

    Raises:
        InputError: a path that does not exist, or no run with an evaluation.
    """
    records, folders = [], list(_run_folders(paths))
    for folder in folders:
        record = _read_run(folder)
        if record is None:
            warn(f"{folder} has no config.json that can be read: it is left out")
        elif not len(record.updates):
            warn(f"{folder} has no evaluation yet: it is left out")
        else:
            records.append(record)
    if not records:
        places = ", ".join(map(str, paths))
        raise InputError(f"no evaluated run below {places}: give folders that hold config.json and evaluations.csv")
    return _without_copies(records)


def filter_runs(records: Sequence[RunRecord], filters: Iterable[str]) -> list[RunRecord]:
    """The records that pass `name=value` over any setting: of values for one name any may hold, of names all must.

    Raises:
        InputError: a filter without "=", of a setting that no run has, or one that no run passes.
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
    """A setting of each record as text: lists as `256x256`, an empty one as '', a missing one as `-`.

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
    """A setting's value as run names have it, of characters that every file and terminal takes."""
    text = "x".join(map(str, value)) if isinstance(value, list) else str(value)
    return printable(text)


def normalized(returns: np.ndarray | float, reference: dict[str, Any]) -> np.ndarray | float:
    """Scores of returns against a run's reference."""
    return 100 * (returns - reference["random"]) / (reference["expert"] - reference["random"])


def _run_folders(paths: Iterable[Path]) -> Iterator[Path]:
    """Folders with a config.json or evaluations.csv, each once; nothing below one is looked at."""
    seen = set()
    for path in paths:
        if not path.is_dir():
            kind = "is a file" if path.exists() else "does not exist"
            raise InputError(f"{path} {kind}: give run folders, or folders that hold some")
        for root, folders, files in os.walk(path):
            folders.sort()
            if {"config.json", "evaluations.csv"} & set(files):
                folders.clear()
                if (real := os.path.realpath(root)) not in seen:
                    seen.add(real)
                    yield Path(root)


def _read_run(folder: Path) -> RunRecord | None:
    config = _read_json(folder / "config.json")
    if config is None:
        return None
    config = {**config, **{key: _mapping(config.get(key)) for key in ("identity", "arguments", "versions", "dataset")}}
    resumed = config.get("resumed")
    config["resumed"] = [
        {**start, **{key: _mapping(start.get(key)) for key in ("arguments", "versions")}}
        for start in (resumed if isinstance(resumed, list) else ())
        if isinstance(start, dict)
    ]
    config["reference"] = _reference(folder, _mapping(config.get("reference")))
    identity, dataset_id = config["identity"], config["dataset"].get("id")
    config["dataset"] = _with_numbers(config["dataset"], "return_mean")
    *_, dataset, agent, variant, last = ("", "", "", "", *folder.resolve().parts)
    activation, _, name = variant.partition("+")
    seed = config.get("seed", last.removeprefix("seed"))
    summary = (_read_json(folder / "summary.json") if (folder / "summary.json").exists() else None) or {}
    curve = _read_curve(folder / "evaluations.csv")
    if (reference := config["reference"]) is not None and (unknown := np.isnan(curve["scores"])).any():
        curve["scores"] = np.where(unknown, normalized(curve["returns"], reference), curve["scores"])
    return RunRecord(
        path=folder,
        agent=as_text(config.get("agent", agent)),
        dataset=as_text(identity.get("dataset") or dataset_id or dataset),
        activation=as_text(identity.get("activation") or activation),
        name=as_text(name),
        seed=int(seed) if str(seed).isdecimal() else -1,
        status=as_text(summary.get("status", "unfinished")),
        config=config,
        **curve,
    )


def _reference(folder: Path, content: dict[str, Any]) -> dict[str, Any] | None:
    reference = _with_numbers(content, "random", "expert") or None
    if reference is not None and reference["random"] == reference["expert"]:
        warn(f"{folder} has a reference whose random and expert return are the same: it is left out")
        return None
    return reference


def _with_numbers(mapping: dict[str, Any], *names: str) -> dict[str, Any]:
    """The mapping if it has finite numbers under these names, else an empty one."""
    values = [mapping.get(name) for name in names]
    return mapping if all(isinstance(value, int | float) and math.isfinite(value) for value in values) else {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(errors="replace"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _read_curve(path: Path) -> dict[str, np.ndarray]:
    """The curve's arrays. A line that is no evaluation is left out; the last counts only with its newline."""
    columns = {name: array("q" if name == "updates" else "d") for name in _COLUMNS}
    damaged: list[int] = []
    if path.exists():
        with path.open(errors="replace") as file:
            _read_lines(file, columns, damaged)
    if damaged:
        more = f" and {len(damaged) - 5} more" if len(damaged) > 5 else ""
        warn(f"{path}: left out as damaged: line {', '.join(map(str, damaged[:5]))}{more}")
    arrays = {name: np.array(values) for name, values in columns.items()}
    # A later line of the same update is of a run that went back to an earlier checkpoint.
    order = np.argsort(arrays["updates"], kind="stable")
    updates = arrays["updates"][order]
    order = order[np.append(updates[1:] != updates[:-1], True)] if len(order) else order
    return {name: values[order] for name, values in arrays.items()}


def _read_lines(file: Iterator[str], columns: dict[str, array], damaged: list[int]) -> None:
    """Append what the whole lines of an `evaluations.csv` say to `columns`, and the numbers of others to `damaged`."""
    header = next(file, "").rstrip("\n").split(",")
    if not {"update", "return_mean"} <= set(header):
        damaged += [1] if header != [""] else []
        return
    places = {name: header.index(column) for name, column in _COLUMNS.items() if column in header}
    missing = columns.keys() - places.keys()
    target = header.index("target_return") if "target_return" in header else None
    first_target = None
    for number, line in enumerate(file, start=2):
        row = line.rstrip("\n").split(",")
        try:
            if len(row) != len(header) or not line.endswith("\n"):
                raise ValueError
            update = int(row[places["updates"]])
            values = {name: float(row[place] or "nan") for name, place in places.items() if name != "updates"}
            if not 0 <= update < LAST_UPDATE or not math.isfinite(values["returns"]):
                raise ValueError
        except ValueError:
            damaged.append(number)
            continue
        if target is not None:
            first_target = row[target] if first_target is None else first_target
            if row[target] != first_target:
                continue
        columns["updates"].append(update)
        for name, value in values.items():
            columns[name].append(value)
        for name in missing:
            columns[name].append(math.nan)


def _without_copies(records: list[RunRecord]) -> list[RunRecord]:
    """Of runs with equal settings and seed, which a copied folder makes, only the one that has come furthest."""
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
