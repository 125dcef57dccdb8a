"""Estimate a plan's time and memory from probes: a few updates of a process of each agent, in a temporary folder."""

import contextlib
import csv
import json
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rlrat.errors import InputError
from rlrat.json_files import load_json
from rlrat.runs.arguments import RunArguments
from rlrat.runs.schema import EPISODES, EVALUATIONS
from rlrat.sweeps.checks import DataCheck
from rlrat.sweeps.folder import SweepFolder
from rlrat.sweeps.grid import Job
from rlrat.sweeps.records import make
from rlrat.sweeps.worker import Work, start

# Updates; the first ones are slow, the rest is timed. On a GPU each of TD3+BC's two kinds is recorded when it comes for
# the fourth time.
_WARM, _UPDATES = 8, 28
_EPISODES = 2
_STEPS = 1000  # longest episode, rarely reached by an untrained policy
_FQE_UPDATES = 200  # of an evaluation without rollouts; the whole takes as much longer as it has more
_TIMEOUT_SECONDS = 600.0


@dataclass(frozen=True)
class Probe:
    """The time and memory that one process of an agent took. Times are of this machine under its current load."""

    label: str
    start_seconds: float
    """Until its first update, and after its last."""
    update_seconds: float
    step_seconds: float
    """Of one step of all the episodes of an evaluation that play side by side; 0 without an environment."""
    memory: int
    """Bytes, the most that was resident."""
    gpu_memory: int | None
    """Bytes that PyTorch reserved, None on a CPU."""
    judging_seconds: float = 0.0
    """Of one evaluation on data alone; 0 with an environment."""

    def seconds(self, job: Job) -> float:
        """Estimate the seconds of a whole process like the probed one, with all evaluation episodes at full length."""
        arguments = job.cell.arguments
        evaluations = 1 + -(-arguments.total_updates // arguments.eval_every) + len(arguments.eval_at)
        steps = min(_STEPS, arguments.max_episode_steps or _STEPS) * arguments.eval_episodes / _EPISODES
        each = steps * self.step_seconds + self.judging_seconds
        return self.start_seconds + arguments.total_updates * self.update_seconds + evaluations * each


def probe_name(job: Job, data: DataCheck) -> str:
    """Name the probe that a job is estimated by: its agent's, with an environment or without."""
    return f"{job.cell.agent.name}{' without an environment' * (job.cell in data.without_environment)}"


def probe(jobs: Sequence[Job], folder: SweepFolder, extra: dict[str, Any], data: DataCheck) -> dict[str, Probe]:
    """Probe the first job of each agent; return the probes by `probe_name`. A cache keeps those of equal settings.

    An agent whose datasets are all missing is probed on the packaged one.

    Raises:
        InputError: a process failed, with the last line that it printed.
    """
    first: dict[str, Job] = {}
    for job in sorted(jobs, key=lambda job: job.cell.values["dataset"] in data.missing):
        first.setdefault(probe_name(job, data), job)
    return {
        name: _cached(_stand_in(job) if job.cell.values["dataset"] in data.missing else job, folder, extra)
        for name, job in first.items()
    }


def _stand_in(job: Job) -> Job:
    own = ("env_id", "env_kwargs", "max_episode_steps", "ignore_wrappers", "action_bounds", "drop_achieved_goal")
    kept = {name: value for name, value in job.cell.values.items() if name not in own}
    values = {**kept, "dataset": RunArguments.dataset}
    return Job(replace(job.cell, values=values), job.seeds)


def _cached(job: Job, folder: SweepFolder, extra: dict[str, Any]) -> Probe:
    cache = folder.path / "probes" / f"{job.id}.json"
    key = [str(word) for word in job.argv(extra)]
    if (known := known_probe(cache, key)) is not None:
        return known
    found = _probe(job, extra)
    with contextlib.suppress(InputError):  # a dry run also works where nothing can be written
        folder.write(cache, {"argv": key, **asdict(found)})
    return found


def known_probe(cache: Path, argv: list[str]) -> Probe | None:
    """Read the earlier probe of the same command line from the cache; None if there is none."""
    try:
        content = load_json(cache)
        found = make(Probe, {name: value for name, value in content.items() if name != "argv"})
    except (OSError, ValueError):
        return None
    times = (found.start_seconds, found.update_seconds, found.step_seconds, found.judging_seconds)
    times += (found.memory, found.gpu_memory or 0)
    return found if content.get("argv") == argv and min(times) >= 0 and found.update_seconds > 0 else None


def _probe(job: Job, extra: dict[str, Any]) -> Probe:
    with tempfile.TemporaryDirectory() as temporary:
        run_dir = Path(temporary)
        fqe_updates = min(job.cell.arguments.fqe_updates, _FQE_UPDATES)
        short = {
            "total_updates": _UPDATES, "eval_every": _UPDATES, "eval_at": (_WARM,), "eval_episodes": _EPISODES,
            "checkpoint_every": _UPDATES, "log_every": _UPDATES, "fqe_updates": fqe_updates,
        }  # fmt: skip
        kept = {name: value for name, value in job.cell.values.items() if name != "keep_best"}
        cell = replace(job.cell, values={**kept, **short}, run_dir=run_dir)
        trial = Job(cell, job.seeds)
        permit = run_dir / "permit"
        permit.touch()
        paths = {name: str(run_dir / name) for name in ("log", "outcome")}
        work = Work(str(cell.agent.path), trial.argv(extra), [], permit=str(permit), **paths)
        began = time.monotonic()
        worker = start(work)
        try:
            code = worker.wait(_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            raise InputError(
                f"the probe of {job.label} took more than {_TIMEOUT_SECONDS:.0f} s for {_UPDATES} updates"
            ) from None
        finally:
            worker.kill()
            worker.wait()
        seconds = time.monotonic() - began
        rows = _read(trial.folders[0] / EVALUATIONS)
        if code or str(_UPDATES) not in rows:
            said = (run_dir / "log").read_text(errors="replace").strip().splitlines() or ["nothing"]
            raise InputError(f"the probe of {job.label} ended with exit code {code} and said: {said[-1]}")
        (warm, warmed), (trained, all_of_it) = (
            [float(rows[str(update)][name]) for name in ("train_seconds", "wall_seconds")]
            for update in (_WARM, _UPDATES)
        )
        steps = _steps(trial)
        last = max(0.0, all_of_it - trained - (warmed - warm))  # evaluation; the first ones load what they need
        outcome = json.loads((run_dir / "outcome").read_text())
        return Probe(
            label=job.label,
            start_seconds=max(0.0, seconds - all_of_it),
            update_seconds=max(trained - warm, 1e-3) / (_UPDATES - _WARM),
            step_seconds=max(0.0, all_of_it - trained) / steps if steps else 0.0,
            memory=outcome["memory"],
            gpu_memory=outcome.get("gpu_memory"),
            judging_seconds=0.0 if steps else last * max(1.0, job.cell.arguments.fqe_updates / _FQE_UPDATES),
        )


def _read(file: Path) -> dict[str, dict[str, str]]:
    """Read the lines of a run's evaluations by their update."""
    try:
        with file.open(newline="") as opened:
            return {row["update"]: row for row in csv.DictReader(opened)}
    except OSError:
        return {}


def _steps(job: Job) -> int:
    """Count the steps of a probe's evaluations; each is as long as the longest episode of any seed.

    0 without an environment.
    """
    longest: dict[str, int] = {}
    for folder in job.folders:
        with contextlib.suppress(FileNotFoundError), (folder / EPISODES).open(newline="") as opened:
            for row in csv.DictReader(opened):
                longest[row["update"]] = max(longest.get(row["update"], 1), int(row["length"]))
    return sum(longest.values())
