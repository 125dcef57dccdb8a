"""What tests of sweeps share: a sweep of 12 short cells of real agents, what is the same however it went, and waits."""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rlrat.sweeps import remembered
from rlrat.sweeps.folder import SweepFolder
from rlrat.sweeps.grid import Block, Cell, Grid, expand
from tests.short_runs import ROOT

TOY_FILE = ROOT / "tests" / "sweeps" / "toy.py"
CELLS = 12
GRID = (
    *("--agents", "iql", "td3_bc", "--activations", "relu", "rational", "gelu", "--seeds", "2"),
    *("--grid.discount", "0.9", "0.99", "--grid.hidden-dims", "16 16", "--grid.batch-size", "16"),
    *("--grid.total-updates", "1200", "--grid.eval-every", "400", "--grid.eval-episodes", "2"),
    *("--grid.log-every", "30", "--retries", "100"),
)


def begin(run_dir: Path, *extra: str, checkpoint_every: int = 30) -> subprocess.Popen:
    own = ("--run-dir", str(run_dir), "--grid.checkpoint-every", str(checkpoint_every))
    command = [sys.executable, str(ROOT / "scripts" / "sweep.py"), *GRID, *own, *extra]
    with (run_dir.parent / "said.txt").open("a") as said:
        return subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, "OMP_NUM_THREADS": "1"})


def evaluations(run_dir: Path) -> dict[str, list[dict[str, str]]]:
    """The lines of every run's evaluations.csv, without its time columns, by its folder."""
    found = {}
    for file in sorted(run_dir.glob("*/*/*/seed*/evaluations.csv")):
        with file.open(newline="") as opened:
            rows = [{k: v for k, v in row.items() if "seconds" not in k} for row in csv.DictReader(opened)]
        found[str(file.parent.relative_to(run_dir))] = rows
    return found


def check(run_dir: Path, undisturbed: dict) -> None:
    assert len(list(run_dir.glob("*/*/*/seed*/summary.json"))) == 2 * CELLS
    assert evaluations(run_dir) == undisturbed
    assert not SweepFolder(run_dir).locked()


def wait_until(true: Callable[[], object], seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)


def hold_back(run_dir: Path) -> Path:
    """The file that runs of the agent that counts, with `--hold`, wait for to go."""
    run_dir.mkdir()
    (run_dir / "hold").touch()
    return run_dir / "hold"


def write_record(file: Path, content: dict) -> None:
    """What a sweep remembers of itself, changed by somebody who knows its checksum."""
    content = {name: value for name, value in content.items() if name not in ("version", "checksum")}
    whole = {"version": remembered.VERSION, "checksum": remembered.checksum(content), **content}
    file.write_text(json.dumps(whole))


def cells(tmp_path: Path, *blocks: Block, seeds: int = 1) -> list[Cell]:
    """The cells of a grid, below `tmp_path`/runs."""
    return expand(Grid(blocks, seeds), tmp_path / "runs")
