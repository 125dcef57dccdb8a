"""The `shared` subcommand of `benchmark.py`: what each of several runs at once makes of the cores."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.table import Table

from benchmark_settings import Shared
from rlrat.console import Console
from rlrat.errors import InputError
from rlrat.json_files import load_json
from rlrat.runs.folder import starts
from rlrat.runs.schema import CONFIG, METRICS

_ROOT = Path(__file__).parents[2]
_LOG_EVERY = 25
_POLL_SECONDS = 0.02


def run_shared(settings: Shared) -> dict:
    builds = (_ROOT, *(Path(build).resolve() for build in settings.builds))
    if missing := [build for build in builds if not (build / "agents" / f"{settings.agent}.py").is_file()]:
        raise InputError(f"{missing[0]} has no agents/{settings.agent}.py: give the folder of a clone")
    names = [build.name for build in builds]
    speeds: dict[tuple[str, int], list[float]] = {}
    taken: dict[tuple[str, int], list[int]] = {}
    for _ in range(settings.rounds):
        for count in settings.counts:
            for name, build in zip(names, builds, strict=True):
                found, threads = _measure(settings, build, count)
                speeds.setdefault((name, count), []).extend(found)
                taken.setdefault((name, count), []).extend(threads)
    rows, table = {}, Table("build", "at once", "updates/s (median)", "lowest", "highest", "of one alone", "threads")
    for (name, count), found in speeds.items():
        median = statistics.median(found)
        alone = statistics.median(speeds.get((name, 1), [float("nan")]))
        row = {"median": median, "lowest": min(found), "highest": max(found)}
        figures = (f"{value:.1f}" for value in row.values())
        rows[f"{name}, {count}"] = {**row, "threads": taken[name, count]}
        threads = " ".join(map(str, taken[name, count]))
        table.add_row(name, str(count), *figures, f"{median / alone:.2f}", threads)
    Console().print(table)
    return rows


def _measure(settings: Shared, build: Path, count: int) -> tuple[list[float], list[int]]:
    """Start `count` runs at once; return each one's updates/s, while all of them train, and threads at the end."""
    never = str(10**9)
    command = [
        *(sys.executable, str(build / "agents" / f"{settings.agent}.py"), "--activation", settings.activation),
        *("--compile" if settings.compile else "--no-compile", "--device", "cpu", "--log-every", str(_LOG_EVERY)),
        *("--total-updates", never, "--eval-every", never, "--checkpoint-every", never, "--eval-episodes", "1"),
        *settings.options,
    ]
    own = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in own} | {"PYTHONPATH": str(build)}
    with tempfile.TemporaryDirectory() as folder:
        places, runs = [Path(folder) / str(index) for index in range(count)], []
        try:
            for place in places:
                to = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
                runs.append(subprocess.Popen([*command, "--run-dir", str(place)], env=environment, **to))
            _watch(runs, places, settings.startup, lambda seen: all(len(own) > 2 for own in seen))
            time.sleep(settings.settle)
            # At least two points of each, however slow it is.
            began = time.monotonic()
            seen = _watch(
                runs,
                places,
                10 * settings.seconds,
                lambda seen: time.monotonic() - began > settings.seconds and all(len(own) > 2 for own in seen),
            )
            threads = [starts(load_json(next(place.rglob(CONFIG))))[-1]["arguments"]["num_threads"] for place in places]
        finally:
            for run in runs:
                run.kill()
                run.communicate()
    return [(own[-1][0] - own[1][0]) / (own[-1][1] - own[1][1]) for own in seen], threads


def _watch(runs, places, seconds: float, enough) -> list[list[tuple[int, float]]]:
    """Watch each run's points until there are enough: the update of each, and when it was first seen."""
    seen: list[list[tuple[int, float]]] = [[] for _ in places]
    began = time.monotonic()
    while not enough(seen):
        for run, place, own in zip(runs, places, seen, strict=True):
            if run.poll() is not None:
                said = run.stderr.read().decode().strip().rpartition("\n")
                raise InputError(f"a run ended: {said[2]}")
            update = _last_update(place)
            if update is not None and (not own or update > own[-1][0]):
                own.append((update, time.monotonic()))
        if time.monotonic() - began > seconds:
            at = ", ".join(str(own[-1][0]) if own else "0" for own in seen)
            raise InputError(f"after {seconds:.0f} s the runs are at update {at}")
        time.sleep(_POLL_SECONDS)
    return seen


def _last_update(place: Path) -> int | None:
    for file in place.rglob(METRICS):
        whole = file.read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[2]
        first = whole.partition(b",")[0]
        return int(first) if first.isdigit() else None
    return None
