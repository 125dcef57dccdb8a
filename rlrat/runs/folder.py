"""Read and write the files of a run, so that a kill at any instant loses nothing that was finished."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlrat.errors import InputError, reason, warn
from rlrat.json_files import read_json
from rlrat.runs.checkpoints import checkpoint_bytes, load_checkpoint
from rlrat.runs.files import remove_temporaries, replace, temporary, unique_name, writing
from rlrat.runs.lines import Lines
from rlrat.runs.run_lock import RunLock
from rlrat.runs.schema import (
    ACTIVATIONS,
    BEST_CHECKPOINT,
    CHECKPOINT,
    COLUMNS,
    CONFIG,
    DONE,
    EPISODES,
    EVALUATIONS,
    GROWING,
    JUDGEMENT,
    LATER_COLUMNS,
    METRICS,
    OFFLINE,
    PREVIOUS_CHECKPOINT,
    STATUSES,
    SUMMARY,
    differing,
    recalled,
)

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

_WRITTEN = (CONFIG, SUMMARY, JUDGEMENT, CHECKPOINT, PREVIOUS_CHECKPOINT, BEST_CHECKPOINT, *COLUMNS)
_MOST_NAMED = 10  # settings in a message


class RunFolder:
    """The files of one seed's run; docs/runs.md says what is in each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: dict[str, Lines] = {
            name: Lines(path / name, columns, grows=name in GROWING, later=LATER_COLUMNS.get(name, 0))
            for name, columns in COLUMNS.items()
        }
        self._updates: dict[str, int] = {}  # of the checkpoints that load, by file name
        self._scalars: SummaryWriter | None = None
        self._lock: RunLock | None = None
        self._said: set[str] = set()

    def check(self, config: dict[str, Any], *, resume: bool, defaults: dict[str, Any] | None = None) -> None:
        """Compare the run that is in the folder, if any, with this one; write nothing.

        A setting that is newer than the run, so that the folder does not know it, counts as its default.

        Args:
            config: this run's, as `config.json` will have it.
            resume: whether an unfinished run may go on.
            defaults: of the settings of an identity.

        Raises:
            InputError: another identity is in the folder or, without `resume`, an unfinished run.
        """
        there = self.config()
        if there is None:
            return
        ours, theirs = config["identity"], {**(defaults or {}), **recalled(there["identity"])}
        different = [
            f"{reason(name)} is {reason(repr(theirs.get(name)))} there and {reason(repr(ours.get(name)))} here"
            for name in differing(ours, theirs)
        ]
        if different:
            more = [f"and {len(different) - _MOST_NAMED} more"] if len(different) > _MOST_NAMED else []
            raise InputError(
                f"{self.path} holds a run with other settings ({'; '.join([*different[:_MOST_NAMED], *more])}): "
                "give another --run-name or --run-dir, or --overwrite to delete it"
            )
        if not resume and not self.is_done():
            raise InputError(f"{self.path} holds an unfinished run: leave out --no-resume, or give --overwrite")
        for name, version in config["versions"].items():
            before = there["versions"].get(name)
            if before != version and not self.is_done():
                self._warn_once(f"{self.path} was begun with {name} {reason(before)} and goes on with {version}")

    def _warn_once(self, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            warn(message)

    def create(self, config: dict[str, Any], update: int = 0) -> None:
        """Make the folder with its `config.json`; a run that `check` has passed goes on from `update`.

        Where it goes on in another way (device, threads, runs in the process, versions), `config.json` says so, too.
        """
        with writing(self.path, saved=False):
            self.path.mkdir(parents=True, exist_ok=True)
        if update and (there := self.config()) is not None:
            config = _gone_on(there, config, update)
        self.write_json(CONFIG, config)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the folder: two would leave lines and checkpoints of both.

        Inside the block, nothing is written once the lock is lost.

        Raises:
            InputError: another one has it.
        """
        self._lock = RunLock(self.path)
        try:
            yield
        finally:
            self._lock.release()
            self._lock = None

    def _check_lock(self) -> None:
        if self._lock is not None:
            self._lock.check()

    def remove_temporaries(self) -> None:
        """Remove the half written files that killed processes left; only while the folder is `locked`."""
        remove_temporaries(self.path, _WRITTEN)

    def forget(self) -> None:
        """Remove summary and checkpoints: a run killed after this begins anew."""
        self._check_lock()
        with writing(self.path, saved=False):
            for name in (SUMMARY, CHECKPOINT, PREVIOUS_CHECKPOINT, BEST_CHECKPOINT):
                _remove(self.path / name)

    def delete(self) -> None:
        """Remove all that was written in the folder, which may be a link to another."""
        self.forget()
        with writing(self.path, saved=False):
            if not self.path.exists():
                return
            for path in sorted(self.path.iterdir(), key=lambda path: path.name == CONFIG):
                _remove(path)

    def config(self) -> dict[str, Any] | None:
        """Read `config.json`; return None where no run has begun.

        Raises:
            InputError: it cannot be read, or is no run's.
        """
        config = self._read_json(CONFIG)
        if config is not None and not all(isinstance(config.get(name), dict) for name in ("identity", "versions")):
            raise _damaged(f"{self.path / CONFIG} is damaged (it is not a run's)")
        return config

    def summary(self) -> dict[str, Any] | None:
        """Read `summary.json`; return None while there is none.

        Raises:
            InputError: it cannot be read, or is no run's.
        """
        summary = self._read_json(SUMMARY)
        if summary is not None and summary.get("status") not in STATUSES:
            raise _damaged(f"{self.path / SUMMARY} is damaged (it has no status of a run)")
        return summary

    def is_done(self) -> bool:
        """Tell whether the run has ended with a result: finished or diverged."""
        summary = self.summary()
        return summary is not None and summary["status"] in DONE

    def _read_json(self, name: str) -> dict[str, Any] | None:
        try:
            return read_json(self.path / name)
        except InputError as error:
            if isinstance(error.__cause__, OSError):  # it may be whole
                raise InputError(f"{error}: make it readable, or choose another --run-dir") from error
            raise _damaged(str(error)) from error

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write or replace a JSON file atomically, after all lines that it may count on."""
        self._check_lock()
        self._sync()
        replace(self.path / name, (json.dumps(content, indent=2) + "\n").encode())

    def append_activations(self, update: int, rows: list[dict[str, Any]]) -> None:
        """Append what `inspection.activation_rows` saw to `activations.csv`, ahead of the evaluation's lines."""
        self._check_lock()
        self.lines[ACTIVATIONS].append([row | {"update": update} for row in rows])

    def append_evaluation(self, lines: list[dict[str, Any]], episodes: list[dict[str, Any]]) -> None:
        """Append to `episodes.csv`, then to `evaluations.csv` one line for each target return."""
        self._check_lock()
        self.lines[EPISODES].append(episodes)
        self.lines[EVALUATIONS].append(lines)

    def evaluations(self) -> list[dict[str, str]]:
        """Read the whole lines of `evaluations.csv`, as text, their updates ascending."""
        lines = self.lines[EVALUATIONS]
        found = lines.read()
        return [row for update in sorted(lines.whole(found)) for row in found.rows[update]]

    def curve(self) -> list[dict[str, str]]:
        """Read the lines of `evaluations.csv` that make the run's score: those at its first target return, if any."""
        rows = self.evaluations()
        return [row for row in rows if row["target_return"] == rows[0]["target_return"]]

    def lost(self, name: str) -> set[int]:
        """Find the updates whose lines were written to a CSV file and are not there any more."""
        lines = self.lines[name]
        return set(lines.expected) - lines.whole(lines.read())

    def append_offline(self, update: int, values: dict[str, float]) -> None:
        """Append what was found without rollouts to `offline.csv`, ahead of the evaluation's line; tell TensorBoard."""
        self._check_lock()
        self.lines[OFFLINE].append([{"update": update} | {name: f"{value:.9g}" for name, value in values.items()}])
        self.add_scalars({f"offline/{name}": value for name, value in values.items()}, update)

    def offline(self) -> list[dict[str, str]]:
        """Read the whole lines of `offline.csv`, as text, their updates ascending."""
        found = self.lines[OFFLINE].read()
        return [row for update in sorted(found.rows) for row in found.rows[update]]

    def save_best(self, checkpoint: dict[str, Any]) -> None:
        """Replace `checkpoint.best.pt`, which holds a policy and how it was `chosen`, atomically."""
        self._check_lock()
        replace(self.path / BEST_CHECKPOINT, checkpoint_bytes(checkpoint))

    def best(self) -> dict[str, Any] | None:
        """Load `checkpoint.best.pt`; None where there is none that loads."""
        try:
            return load_checkpoint(self.path / BEST_CHECKPOINT)
        except InputError:
            return None

    def _sync(self) -> None:
        for lines in self.lines.values():
            lines.sync()

    def save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Replace `checkpoint.pt` atomically and keep the one before it as `checkpoint.previous.pt`.

        A checkpoint of the same update is not kept: there would be nothing to go back to. All lines that the new one
        counts on are on the disk before it.
        """
        content = checkpoint_bytes(checkpoint)
        self._check_lock()
        self._sync()
        newest = self.path / CHECKPOINT
        with temporary(newest, content) as file:
            if newest.exists() and self._updates.get(CHECKPOINT) != checkpoint["update"]:
                # A second name for the old file, so that at every instant checkpoint.pt is there and whole.
                second = file.with_name(file.name.replace(CHECKPOINT, PREVIOUS_CHECKPOINT))
                try:
                    try:
                        os.link(newest, second)
                    except OSError:  # a file system without hard links
                        shutil.copyfile(newest, second)
                    os.replace(second, self.path / PREVIOUS_CHECKPOINT)
                finally:
                    with contextlib.suppress(OSError):
                        second.unlink(missing_ok=True)
            os.replace(file, newest)
        self._updates[CHECKPOINT] = checkpoint["update"]

    def checkpoints(self) -> dict[int, dict[str, Any]]:
        """Load the checkpoints, by update; name a damaged one in a warning.

        Raises:
            InputError: there are some, and none loads.
        """
        found: dict[int, dict[str, Any]] = {}
        self._updates.clear()
        there = [name for name in (CHECKPOINT, PREVIOUS_CHECKPOINT) if os.path.lexists(self.path / name)]
        for name in there:
            try:
                checkpoint = load_checkpoint(self.path / name)
                found.setdefault(checkpoint["update"], checkpoint)
                self._updates[name] = checkpoint["update"]
            except InputError as error:
                warn(f"{error}: it is not used")
        if there and not found:
            raise InputError(f"no checkpoint in {self.path} can be read: give --overwrite to start this run anew")
        return found

    def go_back(
        self, update: int, evaluations: Set[int], pending: Set[int] = frozenset(), missing: Set[int] = frozenset()
    ) -> None:
        """Leave only what belongs to `update`: no later or damaged checkpoint, no line of another evaluation.

        `pending` evaluations are still to come, but have their lines of `activations.csv` and `offline.csv`; `missing`
        ones keep what is left of them, but for lines of `evaluations.csv`. `metrics.csv` ends at `update`. The next
        checkpoint then takes the place of none that is still needed. Call `checkpoints` first.
        """
        self._check_lock()
        newest, previous = self.path / CHECKPOINT, self.path / PREVIOUS_CHECKPOINT
        kept = next((name for name, at in self._updates.items() if at == update), None)
        with writing(self.path):
            for path in (newest, previous):
                if path.is_dir():  # nobody's checkpoint, and in the way of one: its content stays under another name
                    os.replace(path, unique_name(path, "moved"))
            if kept == PREVIOUS_CHECKPOINT:
                os.replace(previous, newest)
            elif kept is None:
                previous.unlink(missing_ok=True)
                newest.unlink(missing_ok=True)
            elif self._updates.get(PREVIOUS_CHECKPOINT, update) >= update:
                previous.unlink(missing_ok=True)
        self._updates = {} if kept is None else {CHECKPOINT: update}
        known = evaluations | missing
        points = self.lines[METRICS].expected or range(update + 1)  # of a checkpoint of before, or without any
        seen = known | pending
        stay = {EVALUATIONS: evaluations, EPISODES: known, ACTIVATIONS: seen, OFFLINE: seen, METRICS: points}
        for name, updates in stay.items():
            self.lines[name].keep(updates)

    def open_scalars(self, layout: dict[str, Any], purge_step: int) -> None:
        """Begin a TensorBoard file, and hide what earlier files say from `purge_step` on.

        Args:
            layout: of its custom scalars, as `SummaryWriter.add_custom_scalars` takes it.
        """
        from torch.utils.tensorboard import SummaryWriter  # takes a while to import

        with writing(self.path):
            self._scalars = SummaryWriter(str(self.path), purge_step=purge_step)
            self._scalars.add_custom_scalars(layout)

    def add_scalars(self, scalars: dict[str, Any], update: int) -> None:
        """Add one point of each scalar to TensorBoard's file; `flush_scalars` brings it to the disk."""
        with writing(self.path):
            for name, value in scalars.items():
                self._scalars.add_scalar(name, value, update)

    def add_metrics(self, metrics: dict[str, float], update: int) -> None:
        """Add one point of each metric to `metrics.csv`, with nine digits, and to TensorBoard's file."""
        self._check_lock()
        self.lines[METRICS].append([{"update": update} | {name: f"{value:.9g}" for name, value in metrics.items()}])
        self.add_scalars(metrics, update)

    @contextlib.contextmanager
    def board(self) -> Iterator["SummaryWriter"]:
        """Give TensorBoard's file, for what is no scalar."""
        with writing(self.path):
            yield self._scalars

    def flush_scalars(self) -> None:
        with writing(self.path):
            self._scalars.flush()

    def close_scalars(self) -> None:
        """Close the file, also where its disk is full: whatever matters has been flushed."""
        if self._scalars is not None:
            with contextlib.suppress(OSError):
                self._scalars.close()


def _damaged(message: str) -> InputError:
    return InputError(f"{message}: mend it, or give --overwrite to start anew")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def starts(config: dict[str, Any]) -> list[dict[str, Any]]:
    """List a run's `config.json` and the whole entries of `resumed`, which say how it went on in another way."""
    resumed = config.get("resumed")
    entries = resumed if isinstance(resumed, list) else []
    return [config, *(start for start in entries if isinstance(start, dict) and isinstance(start.get("update"), int))]


def _gone_on(there: dict[str, Any], now: dict[str, Any], update: int) -> dict[str, Any]:
    """Add to the `config.json` that is `there` the way in which its run goes on from `update`."""
    resumed = [start for start in starts(there)[1:] if start["update"] < update]  # later ones led nowhere
    if _way(resumed[-1] if resumed else there) != _way(now):
        resumed.append({"update": update, **_way(now)})
    return {**there, "resumed": resumed}


def _way(config: dict[str, Any]) -> dict[str, Any]:
    """Collect how a run is trained: settings that change its speed, and its result by rounding alone."""
    arguments = config.get("arguments")
    arguments = arguments if isinstance(arguments, dict) else {}
    own = {name: config.get(name) for name in ("members", "group", "device", "versions")}
    return {**own, "arguments": {name: arguments.get(name) for name in ("num_threads", "compile", "capture")}}
