"""A run is its folder: the files in it, written so that a kill at any instant loses nothing that was finished."""

import contextlib
import csv
import errno
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterator, Set
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock, Timeout

from rlrat.arguments import differing, recalled
from rlrat.dashboards import LAYOUT
from rlrat.errors import InputError, reason, warn

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

EVALUATION_COLUMNS = (
    *("update", "train_seconds", "wall_seconds", "target_return", "episodes"),
    *("return_mean", "return_std", "length_mean", "normalized_score"),
)
_NEWEST, _PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
EPISODE_COLUMNS = ("update", "target_return", "episode", "reset_seed", "return", "length")
ACTIVATION_COLUMNS = (
    *("update", "layer", "part", "group", "version", "numerator", "denominator"),
    *("low", "high", "counts"),
)


@contextlib.contextmanager
def _writing(path: Path, *, saved: bool = True) -> Iterator[None]:
    """Turn what a disk or its permissions refuse into the user's one line; whether something was `saved` before."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "make room and give the same command again" if full else "choose another --run-dir"
        whole = "; what was saved before is whole" if saved else ""
        raise InputError(f"cannot write {path}: {error.strerror or reason(error)}{whole}: {mend}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The checkpoint in a file, its tensors on the CPU.

    Raises:
        InputError: a file that is damaged or no checkpoint.
    """
    try:
        with zipfile.ZipFile(path) as archive:  # torch.load compares no checksums
            if (part := archive.testzip()) is not None:
                raise zipfile.BadZipFile(f"wrong checksum of {part}")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(checkpoint, dict) or "update" not in checkpoint:
            raise TypeError("it is no checkpoint of a run")
        return checkpoint
    except (zipfile.BadZipFile, RuntimeError, EOFError, UnpicklingError, TypeError, LookupError) as error:
        raise InputError(f"{path} is damaged ({str(error).partition(chr(10))[0]})") from None


class RunFolder:
    """The files of one seed's run; the README says what is in each."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._updates: dict[str, int] = {}  # of the checkpoints that load, by file name
        self._scalars: SummaryWriter | None = None

    def check(self, config: dict[str, Any], *, resume: bool, defaults: dict[str, Any] | None = None) -> None:
        """Compare the run that is in the folder, if any, with this one; nothing is written.

        A setting that the folder does not know, because it is newer than the run, was what is its default now.

        Raises `InputError` where another identity, or without `resume` an unfinished run, is in it.
        """
        there = self.config()
        if there is None:
            return
        ours, theirs = config["identity"], {**(defaults or {}), **recalled(there["identity"])}
        different = [
            f"{name} is {theirs.get(name)!r} there and {ours.get(name)!r} here" for name in differing(ours, theirs)
        ]
        if different:
            raise InputError(
                f"{self.path} holds a run with other settings ({'; '.join(different)}): "
                "give another --run-name or --run-dir, or --overwrite to delete it"
            )
        if not resume and self.summary() is None:
            raise InputError(f"{self.path} holds an unfinished run: leave out --no-resume, or give --overwrite")
        for name, version in config["versions"].items():
            if there["versions"].get(name) != version and self.summary() is None:
                warn(f"{self.path} was begun with {name} {there['versions'].get(name)} and goes on with {version}")

    def create(self, config: dict[str, Any], update: int = 0) -> None:
        """Make the folder with its `config.json`; a run that `check` has passed goes on from `update`.

        Where it goes on in another way (device, threads, runs in the process, versions), `config.json` says so, too.
        """
        with _writing(self.path, saved=False):
            self.path.mkdir(parents=True, exist_ok=True)
        if update and (there := self.config()) is not None:
            config = _gone_on(there, config, update)
        self.write_json("config.json", config)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the folder, which two would leave with lines and checkpoints of both.

        Raises:
            InputError: another one has it.
        """
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        with _writing(self.path, saved=False), contextlib.suppress(NotImplementedError):  # a file system without locks
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                raise InputError(
                    f"{self.path} is being trained by another process: wait until it ends, or give another --run-name "
                    "or --run-dir"
                ) from None
        try:
            yield
        finally:
            lock.release()

    def forget(self) -> None:
        """Make it a run that has only begun: what a kill leaves then is nothing to go on from."""
        with _writing(self.path, saved=False):
            for name in ("summary.json", _NEWEST, _PREVIOUS):
                (self.path / name).unlink(missing_ok=True)

    def delete(self) -> None:
        """Empty the folder, which may be a link to another, of all that was written there."""
        self.forget()
        if not self.path.exists():
            return
        with _writing(self.path, saved=False):
            for path in sorted(self.path.iterdir(), key=lambda path: path.name == "config.json"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def config(self) -> dict[str, Any] | None:
        """`config.json`, or None where no run has begun."""
        return self._read_json("config.json")

    def summary(self) -> dict[str, Any] | None:
        """`summary.json`, or None while the run is not finished."""
        return self._read_json("summary.json")

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write or replace a JSON file atomically."""
        self._replace(name, (json.dumps(content, indent=2) + "\n").encode())

    def append_activations(self, update: int, rows: list[dict[str, Any]]) -> None:
        """Append what `rlrat.inspection.activation_rows` saw to `activations.csv`, ahead of the evaluation's lines."""
        if rows:
            self._append("activations.csv", ACTIVATION_COLUMNS, [row | {"update": update} for row in rows])

    def append_evaluation(self, lines: list[dict[str, Any]], episodes: list[dict[str, Any]]) -> None:
        """Append to `episodes.csv`, then the lines of `evaluations.csv`, one a target return, that stand for them."""
        self._append("episodes.csv", EPISODE_COLUMNS, episodes)
        self._append("evaluations.csv", EVALUATION_COLUMNS, lines)

    def evaluations(self) -> list[dict[str, str]]:
        """The whole lines of `evaluations.csv`, as text."""
        return self._read_csv("evaluations.csv", EVALUATION_COLUMNS)

    def curve(self) -> list[dict[str, str]]:
        """Of the lines of `evaluations.csv`, those that make the run's score: at its first target return, if any."""
        rows = self.evaluations()
        return [row for row in rows if row["target_return"] == rows[0]["target_return"]]

    def save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Replace `checkpoint.pt` atomically and keep the one before it as `checkpoint.previous.pt`."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        newest = self.path / _NEWEST
        with self._temporary(_NEWEST, buffer.getvalue()) as temporary:
            if newest.exists():
                # A second name for the old file, so that at every instant checkpoint.pt is there and whole.
                second = self.path / f"{_PREVIOUS}.tmp"
                second.unlink(missing_ok=True)
                try:
                    os.link(newest, second)
                except OSError:  # a file system without hard links
                    shutil.copyfile(newest, second)
                os.replace(second, self.path / _PREVIOUS)
            os.replace(temporary, newest)

    def checkpoints(self) -> dict[int, dict[str, Any]]:
        """The checkpoints that load, by update; a damaged one is named in a warning.

        Raises `InputError` where there are some and none loads.
        """
        found: dict[int, dict[str, Any]] = {}
        self._updates.clear()
        there = [name for name in (_NEWEST, _PREVIOUS) if (self.path / name).exists()]
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

    def go_back(self, update: int, evaluations: Set[int], pending: Set[int] = frozenset()) -> None:
        """Leave only what belongs to `update`: no later or damaged checkpoint, no line of another evaluation.

        `pending` evaluations are still to come, but have their lines of `activations.csv`. After `checkpoints`. What is
        saved next can then never push a checkpoint out that is still needed.
        """
        newest, previous = self.path / _NEWEST, self.path / _PREVIOUS
        keep = next((name for name, at in self._updates.items() if at == update), None)
        with _writing(self.path):
            if keep == _PREVIOUS:
                os.replace(previous, newest)
            elif keep is None:
                previous.unlink(missing_ok=True)
                newest.unlink(missing_ok=True)
            elif self._updates.get(_PREVIOUS, update) >= update:
                previous.unlink(missing_ok=True)
        for name, columns in (("evaluations.csv", EVALUATION_COLUMNS), ("episodes.csv", EPISODE_COLUMNS)):
            self._keep(name, columns, lambda at: at in evaluations)
        known = evaluations | pending  # activations are written ahead of their evaluation
        self._keep("activations.csv", ACTIVATION_COLUMNS, lambda at: at in known)

    def _keep(self, name: str, columns: tuple[str, ...], wanted: Callable[[int], bool]) -> None:
        if (self.path / name).exists():
            rows = [row for row in self._read_csv(name, columns) if wanted(int(row["update"]))]
            self._replace(name, _csv_text(columns, rows, header=True).encode())

    def open_scalars(self, purge_step: int) -> None:
        """Begin a TensorBoard file; what earlier files say from `purge_step` on is not shown any more."""
        from torch.utils.tensorboard import SummaryWriter  # takes a while to import

        with _writing(self.path):
            self._scalars = SummaryWriter(str(self.path), purge_step=purge_step)
            self._scalars.add_custom_scalars(LAYOUT)

    def add_scalars(self, scalars: dict[str, Any], update: int) -> None:
        """Hand one point of each scalar to TensorBoard's file, on the disk from the next `flush_scalars` on."""
        with _writing(self.path):
            for name, value in scalars.items():
                self._scalars.add_scalar(name, value, update)

    @contextlib.contextmanager
    def board(self) -> Iterator["SummaryWriter"]:
        """TensorBoard's file, for what is no scalar."""
        with _writing(self.path):
            yield self._scalars

    def flush_scalars(self) -> None:
        with _writing(self.path):
            self._scalars.flush()

    def close_scalars(self) -> None:
        """Close the file, also where its disk is full: whatever matters has been flushed."""
        if self._scalars is not None:
            with contextlib.suppress(OSError):
                self._scalars.close()

    def _replace(self, name: str, content: bytes) -> None:
        with self._temporary(name, content) as temporary:
            os.replace(temporary, self.path / name)

    @contextlib.contextmanager
    def _temporary(self, name: str, content: bytes) -> Iterator[Path]:
        """A whole file on the disk that is to be moved to `name`; it is gone if anything fails."""
        temporary = self.path / f"{name}.tmp"
        with _writing(self.path / name):
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                yield temporary
            except OSError:
                temporary.unlink(missing_ok=True)
                raise

    def _append(self, name: str, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
        path = self.path / name
        with _writing(path), path.open("ab") as file:
            file.write(_csv_text(columns, rows, header=file.tell() == 0).encode())

    def _read_csv(self, name: str, columns: tuple[str, ...]) -> list[dict[str, str]]:
        path = self.path / name
        if not path.exists():
            return []
        # A kill can cut the last line short; without its newline it does not count.
        whole = path.read_text(errors="replace").rpartition("\n")[0].splitlines()
        rows = list(csv.DictReader(whole))
        for number, row in enumerate(rows, start=2):
            if tuple(row) != columns or None in row.values() or not row["update"].isdecimal():
                raise InputError(f"line {number} of {path} is damaged: mend it, or give --overwrite to start anew")
        return rows

    def _read_json(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        if not path.exists():
            return None
        try:
            content = json.loads(path.read_text())
            if not isinstance(content, dict) or (
                name == "config.json" and not {"identity", "versions"} <= set(content)
            ):
                raise ValueError("it is not a run's")
            return content
        except ValueError as error:
            raise InputError(f"{path} is damaged ({error}): mend it, or give --overwrite to start anew") from None


def starts(config: dict[str, Any]) -> list[dict[str, Any]]:
    """A run's `config.json`, and the entries of `resumed` that say how it went on otherwise; damaged ones are not."""
    resumed = config.get("resumed")
    entries = resumed if isinstance(resumed, list) else []
    return [config, *(start for start in entries if isinstance(start, dict) and isinstance(start.get("update"), int))]


def _gone_on(there: dict[str, Any], now: dict[str, Any], update: int) -> dict[str, Any]:
    """The `config.json` that is there, with the way in which its run goes on from `update`."""
    resumed = [start for start in starts(there)[1:] if start["update"] < update]  # later ones led nowhere
    if _way(resumed[-1] if resumed else there) != _way(now):
        resumed.append({"update": update, **_way(now)})
    return {**there, "resumed": resumed}


def _way(config: dict[str, Any]) -> dict[str, Any]:
    """How a run is trained: what its speed depends on, and its result by rounding alone."""
    arguments = config.get("arguments", {})
    own = {name: config.get(name) for name in ("members", "group", "device", "versions")}
    return {**own, "arguments": {name: arguments.get(name) for name in ("num_threads", "compile", "capture")}}


def _csv_text(columns: tuple[str, ...], rows: list[dict[str, Any]], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
