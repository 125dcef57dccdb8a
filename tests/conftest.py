"""A small dataset and short runs, shared by the tests."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rlrat
from rlrat.arguments import parse
from rlrat.errors import one_line_errors

ROOT = Path(__file__).parents[1]
SHORT = (
    *("--total-updates", "40", "--batch-size", "16", "--hidden-dims", "16", "16", "--num-threads", "1"),
    *("--eval-every", "20", "--eval-episodes", "2", "--log-every", "10", "--checkpoint-every", "20"),
)


@pytest.fixture
def small_dataset() -> rlrat.Dataset:
    """Five episodes with Hopper's shapes."""
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.normal(2.0, 3.0, (steps + 1, 11)),
            "actions": random.uniform(-1, 1, (steps, 3)),
            "rewards": random.normal(1.0, 1.0, steps),
            "terminations": np.arange(steps) == steps - 1,
            "truncations": np.zeros(steps, bool),
        }
        for steps in (20, 30, 40, 50, 60)
    ]
    return rlrat.Dataset.from_episodes(episodes, id="test/hopper", env_id="Hopper-v5")


@pytest.fixture
def command(tmp_path):
    """`command("--seed", "3")`: the command line of a short IQL run below `tmp_path`."""

    def build(*extra: str) -> list[str]:
        agent = str(ROOT / "agents" / "iql.py")
        return [sys.executable, agent, *SHORT, "--run-dir", str(tmp_path / "runs"), *map(str, extra)]

    return build


@pytest.fixture
def run_agent(command, capfd):
    """Do what the command does in this process, which saves the imports: an object with returncode, stdout, stderr."""
    import torch

    from agents import iql

    def run(*extra: str, check: bool = True) -> subprocess.CompletedProcess:
        argv = command(*extra)[2:]
        capfd.readouterr()
        code = 0
        try:
            with one_line_errors():
                iql.main(parse(iql.Arguments, "IQL", argv))
        except SystemExit as stop:
            code = stop.code or 0
        output = capfd.readouterr()
        assert not check or code == 0, output.err
        return subprocess.CompletedProcess(argv, code, output.out, output.err)

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


def read_run(folder: Path) -> dict:
    """What a finished run must have repeated bit for bit: its evaluations without time columns, and its last state."""
    import torch

    from rlrat.runs import RunFolder

    rows = [{k: v for k, v in row.items() if "seconds" not in k} for row in RunFolder(folder).evaluations()]
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    return {
        "rows": rows,
        "episodes": (folder / "episodes.csv").read_text(),
        "state": checkpoint["state"],
        "status": json.loads((folder / "summary.json").read_text())["status"],
    }
