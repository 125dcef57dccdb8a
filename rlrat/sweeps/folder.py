"""Read run folders for a sweep, and keep the sweep's own few files beside them, in `<run-dir>/.sweep/`."""

import contextlib
import csv
import json
import math
import os
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlrat.errors import InputError, printable, reason
from rlrat.json_files import EXACT_INTEGERS, find_json, load_json, open_file
from rlrat.runs.locks import STALE_SECONDS, Owner, read_owner
from rlrat.runs.schema import (
    CHECKPOINT,
    CONFIG,
    DONE,
    EVALUATIONS,
    FQE_VALUE,
    MISSING,
    OFFLINE,
    STATUSES,
    SUMMARY,
    UNFINISHED,
    differing,
    recalled,
)
from rlrat.sweeps.grid import Process
from rlrat.sweeps.records import make


@dataclass(frozen=True)
class SeedProgress:
    """The progress of a run at its newest evaluation."""

    update: int
    wall_seconds: float
    train_seconds: float
    return_mean: float | None
    score: float | None
    value: float | None
    """By fitted Q evaluation, of a run without an environment; None of every other, and where there is no estimate."""


@dataclass(frozen=True)
class Failure:
    """The reason why a process was given up."""

    reason: str
    host: str
    attempts: int
    lines: list[str]
    """The last lines of its log."""


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Read a finished run's summary; None if the run is not finished, or its summary cannot be read."""
    return find_json(folder / SUMMARY)


def seed_status(folder: Path) -> str:
    """Return the status of a seed: finished, diverged, failed (no evaluation worked), unfinished or missing.

    A seed with an invalid summary counts as unfinished: the agent reports what is wrong with it.
    """
    status = (read_summary(folder) or {}).get("status")
    if status in STATUSES:
        return status
    return UNFINISHED if os.path.exists(folder / CONFIG) else MISSING


def is_done(process: Process) -> bool:
    return all(seed_status(folder) in DONE for folder in process.folders)


def read_progress(folder: Path) -> SeedProgress | None:
    """Read the newest evaluation of a run at its first target return; None before the first evaluation."""
    try:
        rows = _last_rows(folder / EVALUATIONS)
        first = next(row for row in rows if row["update"] == rows[-1]["update"])
        update, score = int(first["update"]), first["normalized_score"]
        wall, trained = float(first["wall_seconds"]), float(first["train_seconds"])
        if not (0 <= update < EXACT_INTEGERS and 0 <= wall < math.inf and 0 <= trained < math.inf):
            return None
        returned, value = first["return_mean"], None if first["return_mean"] else _estimated(folder, first["update"])
        found = (float(text) if text else None for text in (returned, score, value))
        return SeedProgress(update, wall, trained, *found)
    except (OSError, ValueError, KeyError, TypeError, IndexError, StopIteration, csv.Error):
        return None


def _last_rows(path: Path) -> list[dict[str, str]]:
    """Read the last whole lines of a CSV file, as many as 4096 bytes hold; the first of them may be cut."""
    with open_file(path) as file:
        header = file.readline(4096).decode()
        size = os.fstat(file.fileno()).st_size
        file.seek(max(len(header), size - 4096))
        lines = file.read(4096).decode(errors="replace").rpartition("\n")[0].splitlines()
    return list(csv.DictReader(lines, fieldnames=next(csv.reader([header]))))


def _estimated(folder: Path, update: str) -> str | None:
    """Read the estimated value of an update from `offline.csv`; None where there is none."""
    try:
        rows = reversed(_last_rows(folder / OFFLINE))
        return next((row.get(FQE_VALUE) for row in rows if row["update"] == update), None)
    except (OSError, ValueError, StopIteration, csv.Error):
        return None


def clash(folder: Path, ours: dict[str, Any], defaults: dict[str, Any]) -> str | None:
    """Describe how the run in a folder differs from the identity `ours`; None if it does not, or if there is no run.

    A setting that the folder lacks has its value in `defaults`, or else is not compared. The agent compares again.
    """
    config = find_json(folder / CONFIG)
    if config is None:
        return None
    identity = config.get("identity")
    there = {**defaults, **recalled(identity if isinstance(identity, dict) else {})}
    ours = {name: value for name, value in recalled(ours).items() if name in there}
    different = differing(ours, {name: there[name] for name in ours})
    return (
        "; ".join(f"{name} is {_shown(there[name])} there and {_shown(ours[name])} here" for name in different) or None
    )


def newest_updates(job: Process) -> tuple[int, ...]:
    """Return the newest evaluated update of each seed, -1 where there is none."""
    found = (read_progress(folder) for folder in job.folders)
    return tuple(-1 if progress is None else progress.update for progress in found)


class SweepFolder:
    """The folder `<run-dir>/.sweep/`."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir: Path = run_dir.resolve()
        self.path: Path = self.run_dir / ".sweep"
        self.grids: Path = self.path / "grids"

    def lock(self, folder: Path) -> Path:
        """Return the path of a run folder's lock."""
        return self.path / "locks" / folder.relative_to(self.run_dir)

    def locked(self) -> set[Path]:
        """Return the run folders that have a lock, whoever holds it, stale or not."""
        root = self.path / "locks"
        return {
            self.run_dir / Path(folder).relative_to(root) / name.rpartition(".")[0]
            for folder, _, names in os.walk(root)
            for name in names
            if not name.startswith(".")
        }

    def job_file(self, job: Process, name: str) -> Path:
        """Return the path of a process's file: log.txt, failed.json, or a file that its workers are given or leave."""
        return self.path / "jobs" / job.id / name

    def last_lines(self, job: Process, number: int = 5) -> list[str]:
        try:
            with open_file(self.job_file(job, "log.txt")) as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - 4096))
                lines = file.read(4096).decode(errors="replace").splitlines()
        except OSError:
            return []
        return [printable(line) for line in lines if line.strip()][-number:]

    def write(self, path: Path, content: dict[str, Any]) -> None:
        """Write a JSON file atomically.

        Raises:
            InputError: the folder cannot be written; the `OSError` is its cause.
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

    def grid_files(self) -> list[Path]:
        """List the files in which sweeps are written down (`rlrat.sweeps.remembered`), the oldest first.

        Raises:
            InputError: there is none, or the folder cannot be read.
        """
        found = []
        try:
            with os.scandir(self.grids) as entries:
                for entry in entries:
                    if entry.name.endswith(".json") and not entry.name.startswith("."):
                        with contextlib.suppress(FileNotFoundError):  # the file is being replaced
                            found.append((entry.stat(follow_symlinks=False).st_mtime, Path(entry.path)))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise InputError(f"cannot read {self.grids}: {error.strerror}") from None
        if not found:
            raise InputError(f"no sweep has begun in {self.run_dir}: give the --run-dir of one")
        return [file for _, file in sorted(found)]

    # A running sweep and its workers have a permit here. Removing it stops them; this works on a full disk, too.

    def permit(self, owner: Owner) -> Path:
        """Write the permit of a sweep that begins, and return its path."""
        path = self.path / "permits" / owner.token
        self.write(path, asdict(owner))
        return path

    def sweeps(self) -> list[Owner]:
        """List the running sweeps: the process lives on this machine, or has touched its permit lately on another.

        Two clocks are never compared: the file system makes the time stamps and also gives the current time.
        """
        now, found = self._time(), []
        for path, owner in self._permits().items():
            with contextlib.suppress(OSError):
                gone = owner.is_gone()
                if gone is None and now is not None:
                    gone = now - path.stat().st_mtime >= STALE_SECONDS
                if not gone:
                    found.append(owner)
        return found

    def _time(self) -> float | None:
        """Return the current time of the file system, None where nothing can be written."""
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
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise InputError(f"cannot remove the sweep's permit {path}: {error.strerror}") from None

    def _permits(self) -> dict[Path, Owner]:
        found = {}
        with contextlib.suppress(OSError):
            for path in sorted((self.path / "permits").glob("[!.]*")):
                with contextlib.suppress(OSError, ValueError), open_file(path) as file:
                    found[path] = read_owner(file.read(2**16))
        return found

    # Processes that were given up.

    def failure(self, job: Process) -> Failure | None:
        try:
            found = make(Failure, load_json(self.job_file(job, "failed.json")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            return Failure(f"its record cannot be read ({reason(error)})", "an unknown host", 0, [])
        return Failure(printable(found.reason), printable(found.host), found.attempts, [*map(printable, found.lines)])

    def forget_failure(self, job: Process) -> None:
        with contextlib.suppress(OSError):
            self.job_file(job, "failed.json").unlink(missing_ok=True)

    def has_room(self, job: Process) -> bool:
        """Tell whether there is room for twice the size of the job's next checkpoints, and for at least 1 MiB."""
        sizes = []
        for folder in job.folders:
            with contextlib.suppress(OSError):
                sizes.append((folder / CHECKPOINT).stat().st_size)
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


def _shown(value: Any) -> str:
    try:
        return reason(repr(value))
    except RecursionError:
        return "nested too deep"
