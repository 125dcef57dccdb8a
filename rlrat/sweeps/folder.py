"""What a sweep reads in run folders, and the few things it keeps beside them in `<run-dir>/.sweep/`."""

import contextlib
import csv
import hashlib
import json
import os
import uuid
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from rlrat.errors import InputError
from rlrat.locks import STALE, Owner
from rlrat.sweeps.grid import Block, Grid, Job


@dataclass(frozen=True)
class Progress:
    """How far a run has come, by its newest evaluation."""

    update: int
    wall_seconds: float
    train_seconds: float
    return_mean: float
    score: float | None


@dataclass(frozen=True)
class Failure:
    """Why a process was given up."""

    reason: str
    host: str
    attempts: int
    lines: list[str]
    """The last lines of its log."""


def read_summary(folder: Path) -> dict[str, Any] | None:
    """A finished run's summary; None while it is not finished, or its summary cannot be read."""
    return _read_json(folder / "summary.json")


def seed_status(folder: Path) -> str:
    """finished, diverged, failed (it has no evaluation, and its command tries again), unfinished or missing."""
    summary = read_summary(folder)
    if summary is not None:
        status = summary.get("status")
        return status if status in ("diverged", "failed") else "finished"
    return "unfinished" if os.path.exists(folder / "config.json") else "missing"


def is_done(job: Job) -> bool:
    return all(seed_status(folder) in ("finished", "diverged") for folder in job.folders)


def read_progress(folder: Path) -> Progress | None:
    """The newest evaluation of a run at its first target return, None before the first one."""
    try:
        with (folder / "evaluations.csv").open("rb") as file:
            header = file.readline().decode()
            size = os.fstat(file.fileno()).st_size
            file.seek(max(len(header), size - 4096))
            lines = file.read().decode(errors="replace").rpartition("\n")[0].splitlines()
        rows = list(csv.DictReader(lines, fieldnames=next(csv.reader([header]))))
        first = next(row for row in rows if row["update"] == rows[-1]["update"])
        score = first["normalized_score"]
        return Progress(
            int(first["update"]),
            float(first["wall_seconds"]),
            float(first["train_seconds"]),
            float(first["return_mean"]),
            float(score) if score else None,
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration):
        return None


def clash(folder: Path, ours: dict[str, Any], defaults: dict[str, Any]) -> str | None:
    """How the run in a folder differs from one with the identity `ours`, None where it does not or none is there.

    What the folder does not know is as `defaults` has it, or else not compared. The agent itself compares again.
    """
    config = _read_json(folder / "config.json")
    if config is None:
        return None
    there = {**defaults, **config.get("identity", {})}
    different = [
        f"{name} is {there[name]!r} there and {value!r} here"
        for name, value in ours.items()
        if name in there and there[name] != value
    ]
    return "; ".join(different) or None


def newest_updates(job: Job) -> tuple[int, ...]:
    """The newest update of each seed that was evaluated, -1 where none was."""
    found = (read_progress(folder) for folder in job.folders)
    return tuple(-1 if progress is None else progress.update for progress in found)


class SweepFolder:
    """`<run-dir>/.sweep/`."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir = run_dir.resolve()
        self.path = self.run_dir / ".sweep"

    def lock(self, folder: Path) -> Path:
        """The lock of a run folder."""
        return self.path / "locks" / folder.relative_to(self.run_dir)

    def locked(self) -> set[Path]:
        """The run folders that have a lock, in whatever hands and stale or not."""
        root = self.path / "locks"
        return {
            self.run_dir / Path(folder).relative_to(root) / name.rpartition(".")[0]
            for folder, _, names in os.walk(root)
            for name in names
            if not name.startswith(".")
        }

    def job_file(self, job: Job, name: str) -> Path:
        """A file of a process: log.txt, failed.json, or what its workers are told and leave."""
        return self.path / "jobs" / job.id / name

    def last_lines(self, job: Job, number: int = 5) -> list[str]:
        try:
            with self.job_file(job, "log.txt").open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            return []
        return [line for line in lines if line.strip()][-number:]

    def write(self, path: Path, content: dict[str, Any]) -> None:
        """Write a JSON file atomically.

        Raises:
            InputError: the folder cannot be written, with the refusal as its cause.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
            try:
                temporary.write_text(json.dumps(content, indent=1) + "\n")
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write {path}: {error.strerror}; choose another --run-dir, or make room"
            ) from error

    # The grids that were asked for, for `status` and `retry`.

    def remember(self, grid: Grid, options: dict[str, Any]) -> None:
        content = {"grid": asdict(grid), "options": options}
        name = hashlib.sha256(json.dumps(asdict(grid)).encode()).hexdigest()[:12]
        self.write(self.path / "grids" / f"{name}.json", content)

    def grids(self) -> list[tuple[Grid, dict[str, Any]]]:
        """Every grid that was asked for here, the oldest first, with the options of its newest sweep.

        Raises:
            InputError: there is none, or one cannot be read.
        """
        files = sorted((self.path / "grids").glob("*.json"), key=lambda file: file.stat().st_mtime)
        if not files:
            raise InputError(f"no sweep has begun in {self.run_dir}: give the --run-dir of one")
        found = []
        for file in files:
            try:
                content = json.loads(file.read_text())
                blocks = tuple(
                    Block(**{key: _tuples(value) for key, value in block.items()})
                    for block in content["grid"].pop("blocks")
                )
                found.append((Grid(blocks, **content["grid"]), content["options"]))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{file} is damaged ({error!r}): remove it and give the sweep's command again"
                ) from None
        return found

    # A sweep that is under way has a permit here, and so its workers have: to stop is to remove it, which works on a
    # full disk, too.

    def permit(self, owner: Owner) -> Path:
        """The permit of a sweep that begins."""
        path = self.path / "permits" / owner.token
        self.write(path, asdict(owner))
        return path

    def sweeps(self) -> list[Owner]:
        """The sweeps under way: their process lives on this machine, or has touched its permit of late on another.

        No two clocks are compared: the file system itself, whose time stamps they are, says what time it is.
        """
        now, found = self._time(), []
        for path, owner in self._permits().items():
            with contextlib.suppress(FileNotFoundError):
                gone = owner.is_gone()
                if gone is None and now is not None:
                    gone = now - path.stat().st_mtime >= STALE
                if not gone:
                    found.append(owner)
        return found

    def _time(self) -> float | None:
        """What time it is by the file system, None where nothing can be written."""
        trial = self.path / f".time.{uuid.uuid4().hex[:8]}"
        try:
            trial.touch()
            return trial.stat().st_mtime
        except OSError:
            return None
        finally:
            with contextlib.suppress(OSError):
                trial.unlink(missing_ok=True)

    def stop(self) -> None:
        """Ask every sweep on this folder to stop, wherever it is."""
        for path in self._permits():
            path.unlink(missing_ok=True)

    def _permits(self) -> dict[Path, Owner]:
        found = {}
        for path in (self.path / "permits").glob("[!.]*"):
            with contextlib.suppress(OSError, ValueError, TypeError):
                found[path] = Owner(**json.loads(path.read_text()))
        return found

    # What was given up.

    def failure(self, job: Job) -> Failure | None:
        content = _read_json(self.job_file(job, "failed.json"))
        if content is None:
            return None
        return Failure(**{entry.name: content.get(entry.name) for entry in fields(Failure)})

    def forget_failure(self, job: Job) -> None:
        with contextlib.suppress(OSError):
            self.job_file(job, "failed.json").unlink(missing_ok=True)

    def has_room(self, job: Job) -> bool:
        """Whether twice what the job's next checkpoints take can be written, and at least 1 MiB."""
        sizes = []
        for folder in job.folders:
            with contextlib.suppress(OSError):
                sizes.append((folder / "checkpoint.pt").stat().st_size)
        trial = self.path / f".room.{uuid.uuid4().hex[:8]}"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with trial.open("wb") as file:
                left = max(2**20, 2 * max(sizes, default=0) * len(job.seeds))
                while left > 0:
                    left -= file.write(bytes(min(left, 2**20)))
                file.flush()
                os.fsync(file.fileno())
            return True
        except OSError:
            return False
        finally:
            with contextlib.suppress(OSError):
                trial.unlink(missing_ok=True)


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: tuple(values) for key, values in value.items()}
    return tuple(value)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_bytes())
        return content if isinstance(content, dict) else None
    except (OSError, ValueError):
        return None
