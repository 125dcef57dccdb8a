"""A run is its folder: the files in it, written so that a kill at any instant loses nothing that was finished."""

import contextlib
import csv
import errno
import io
import json
import os
import shutil
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from rlrat.errors import InputError

EVALUATION_COLUMNS = (
    *("update", "train_seconds", "wall_seconds", "target_return", "episodes"),
    *("return_mean", "return_std", "length_mean", "normalized_score"),
)
EPISODE_COLUMNS = ("update", "target_return", "episode", "reset_seed", "return", "length")


def warn(message: str) -> None:
    """One line on stderr about something that goes on nonetheless."""
    print(f"warning: {message}", file=sys.stderr)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn what a disk or its permissions refuse into the user's one line."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        mend = "make room and give the same command again" if full else "choose another --run-dir"
        raise InputError(f"cannot write {path}: {error.strerror}; what was saved before is whole: {mend}") from error


class RunFolder:
    """The files of one seed's run; DESIGN's contract says what is in each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def prepare(self, config: dict[str, Any], *, resume: bool, overwrite: bool) -> None:
        """Create the folder with `config.json`, or check that the run in it is this one.

        Raises `InputError` where another identity, or without `resume` an unfinished run, is in it.
        """
        with _writing(self.path):
            if overwrite and self.path.exists():
                shutil.rmtree(self.path)
            self.path.mkdir(parents=True, exist_ok=True)
        there = self._read_json("config.json")
        if there is None:
            # Whatever lies here was left by a run that was killed before it began.
            self.write_json("config.json", config)
            return
        different = [
            f"{name} is {there['identity'].get(name)!r} there and {value!r} here"
            for name, value in config["identity"].items()
            if there["identity"].get(name) != value
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

    def summary(self) -> dict[str, Any] | None:
        """`summary.json`, or None while the run is not finished."""
        return self._read_json("summary.json")

    def write_json(self, name: str, content: dict[str, Any]) -> None:
        """Write or replace a JSON file atomically."""
        self._replace(name, (json.dumps(content, indent=2) + "\n").encode())

    def append_evaluation(self, evaluation: dict[str, Any], episodes: list[dict[str, Any]]) -> None:
        """Append to `episodes.csv`, then the line of `evaluations.csv` that stands for them."""
        self._append("episodes.csv", EPISODE_COLUMNS, episodes)
        self._append("evaluations.csv", EVALUATION_COLUMNS, [evaluation])

    def evaluations(self) -> list[dict[str, str]]:
        """The whole lines of `evaluations.csv`, as text."""
        return self._read_csv("evaluations.csv", EVALUATION_COLUMNS)

    def keep_evaluations(self, updates: set[int]) -> None:
        """Cut every line off both CSV files whose update is not in `updates`."""
        for name, columns in (("evaluations.csv", EVALUATION_COLUMNS), ("episodes.csv", EPISODE_COLUMNS)):
            if (self.path / name).exists():
                rows = [row for row in self._read_csv(name, columns) if int(row["update"]) in updates]
                self._replace(name, _csv_text(columns, rows, header=True).encode())

    def save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Replace `checkpoint.pt` atomically and keep the one before it as `checkpoint.previous.pt`."""
        buffer = io.BytesIO()
        torch.save(checkpoint, buffer)
        newest = self.path / "checkpoint.pt"
        if newest.exists():
            with _writing(newest):
                # A second name for the old file, so that at every instant checkpoint.pt is there and whole.
                second = self.path / "checkpoint.previous.pt.tmp"
                second.unlink(missing_ok=True)
                try:
                    os.link(newest, second)
                except OSError:  # a file system without hard links
                    shutil.copyfile(newest, second)
                os.replace(second, self.path / "checkpoint.previous.pt")
        self._replace("checkpoint.pt", buffer.getvalue())

    def checkpoints(self) -> dict[int, dict[str, Any]]:
        """The checkpoints that load, by update; a damaged one is named in a warning."""
        found: dict[int, dict[str, Any]] = {}
        for name in ("checkpoint.pt", "checkpoint.previous.pt"):
            path = self.path / name
            if not path.exists():
                continue
            try:
                with zipfile.ZipFile(path) as archive:  # torch.load compares no checksums
                    if (part := archive.testzip()) is not None:
                        raise zipfile.BadZipFile(f"wrong checksum of {part}")
                checkpoint = torch.load(path, map_location="cpu", weights_only=True)
                found.setdefault(checkpoint["update"], checkpoint)
            except (zipfile.BadZipFile, RuntimeError, EOFError, UnpicklingError, TypeError, LookupError) as error:
                warn(f"{path} is damaged ({str(error).partition(chr(10))[0]}): going on from the one before it")
        return found

    def _replace(self, name: str, content: bytes) -> None:
        path, temporary = self.path / name, self.path / f"{name}.tmp"
        with _writing(path):
            try:
                with temporary.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
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


def _csv_text(columns: tuple[str, ...], rows: list[dict[str, Any]], *, header: bool) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
