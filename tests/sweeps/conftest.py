"""Sweeps of the agent that counts, in this process, and what they say."""

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
from rich.console import Console

from rlrat.runs.arguments import read_command_line
from rlrat.sweeps import commands, conductor
from rlrat.sweeps.options import Options, find_grid, split_axes
from scripts import sweep
from tests.sweeps.whole_sweeps import CELLS, begin, evaluations

TOY = Path(__file__).with_name("toy.py")


class Sweeper:
    """`sweeper("--seeds", 2)` sweeps below `run_dir`; returns the exit code and keeps what was said in `said`."""

    def __init__(self, run_dir: Path) -> None:
        self.run_dir, self.said = run_dir, ""

    def __call__(self, *argv, agents=(TOY,)) -> int:
        argv, axes = split_axes(["--run-dir", str(self.run_dir), "--agents", *map(str, agents), *map(str, argv)])
        options = read_command_line(Options, "", argv)
        return self._do(commands.sweep, options, find_grid(options, axes))

    def command(self, name: str, *words) -> int:
        """`command("retry", "--agents", "mine.py")` as on a command line."""
        return self._do(sweep.folder_command, [name, str(self.run_dir), *map(str, words)])

    def _do(self, function, *arguments) -> int:
        text = io.StringIO()
        try:
            return function(*arguments, Console(file=text, width=200, highlight=False, markup=False, emoji=False))
        finally:
            self.said = text.getvalue()

    def folder(self, run: str = "relu", seed: int = 0) -> Path:
        return self.run_dir / "rlrat-hopper-mixed-v0" / "toy" / run / f"seed{seed}"


@pytest.fixture
def sweeper(tmp_path, monkeypatch) -> Sweeper:
    monkeypatch.setattr(conductor, "_POLL_SECONDS", 0.02)
    monkeypatch.setattr(conductor, "_DELAY_SECONDS", 0.0)
    monkeypatch.setattr(conductor, "_LOOK_SECONDS", 0.2)
    return Sweeper(tmp_path / "runs")


@pytest.fixture
def mine(tmp_path) -> str:
    """A file of two episodes that names no environment."""
    steps = 6
    with h5py.File(tmp_path / "mine.hdf5", "w") as file:
        for name, shape in (("observations", (steps, 11)), ("actions", (steps, 3)), ("rewards", (steps,))):
            file[name] = np.zeros(shape, np.float32)
        for name in ("terminals", "timeouts"):
            file[name] = np.arange(steps) == (2 if name == "terminals" else 5)
    return str(tmp_path / "mine.hdf5")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> dict:
    run_dir = tmp_path_factory.mktemp("undisturbed") / "runs"
    assert begin(run_dir).wait() == 0
    found = evaluations(run_dir)
    assert len(found) == 2 * CELLS
    assert all([row["update"] for row in rows] == ["0", "400", "800", "1200"] for rows in found.values())
    return found
