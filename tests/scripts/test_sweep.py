import json
import subprocess
import sys

import gymnasium
import pytest

from rlrat.errors import InputError
from rlrat.sweeps.checks import DataCheck, check_datasets, check_folders
from rlrat.sweeps.folder import SweepFolder
from rlrat.sweeps.grid import expand
from rlrat.sweeps.remembered import recall
from tests.short_runs import ROOT

SCRIPT = ROOT / "scripts" / "sweep.py"


def sweep(*argv, code: int = 0) -> subprocess.CompletedProcess:
    done = subprocess.run([sys.executable, str(SCRIPT), *map(str, argv)], capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_help_needs_no_torch():
    script = f"""
import runpy, sys
sys.argv = ["sweep.py", "--help"]
try:
    runpy.run_path({str(SCRIPT)!r}, run_name="__main__")
except SystemExit:
    assert "torch" not in sys.modules
"""
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    for word in ("--grid.expectile 0.7 0.9", "--preset", "--dry-run", "--slurm.partition", "sweep.py status <run-dir>"):
        assert word in said


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--agentz", "iql"), "--agentz"),
        (("--agents", "iql", "--seeds", "many"), "--seeds"),
        (("--agents", "sac"), "no agent sac"),
        (("--grid.x", "1", "--grid.x", "2"), "--grid.x is given twice"),
        (("status",), "Missing from sweep.py status: RUN_DIR"),
        (("status", "nowhere"), "no sweep has begun in"),
    ],
)
def test_mistakes_are_one_line(tmp_path, argv, message):
    done = sweep(*argv, code=2)
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_an_agent_is_swept_in_an_environment_of_ones_own(tmp_path, monkeypatch):
    """Whose module lies in the working directory, of the sweep and so of its workers."""
    runs, entry = tmp_path / "runs", "gymnasium.envs.mujoco.hopper_v5:HopperEnv"
    (tmp_path / "swept_envs.py").write_text(f"import gymnasium\ngymnasium.register('Swept-v0', {entry!r})\n")
    monkeypatch.chdir(tmp_path)
    environment = ("--env-modules", "swept_envs", "--grid.env-id", "Swept-v0", "--grid.max-episode-steps", 100)
    short = ("--grid.total-updates", 40, "--grid.eval-every", 20, "--grid.eval-episodes", 2)
    short = (*short, "--grid.hidden-dims", "16 16")
    said = sweep("--agents", "bc", "--seeds", 2, "--run-dir", runs, "--device", "cpu", *short, *environment).stdout
    assert said.count(": finished") == 1
    for seed in range(2):
        folder = runs / "rlrat-hopper-mixed-v0" / "bc" / "relu+hidden_dims=16x16" / f"seed{seed}"
        assert json.loads((folder / "summary.json").read_text())["status"] == "finished"
        config = json.loads((folder / "config.json").read_text())
        assert (config["arguments"]["num_threads"], config["arguments"]["device"]) == (1, "cpu")
        assert config["identity"]["env_id"] == "Swept-v0"
    assert "1 cells, 2 runs: 2 finished" in sweep("status", runs).stdout

    # What the agent wrote of its dataset and environment is what a plan is compared with.
    (found,) = recall(SweepFolder(runs))
    grid, cells = found.grid, expand(found.grid, runs)
    check_folders(cells)
    monkeypatch.setattr(gymnasium.envs.registration, "registry", {**gymnasium.envs.registration.registry})
    gymnasium.register("Swept-v0", entry)
    assert check_datasets(cells, fetch=False) == DataCheck()
    other = expand(grid.changed(axes={"env_kwargs": ("healthy_reward=2",)}), runs)
    with pytest.raises(InputError, match=r"env_kwargs is \{\} there and \{'healthy_reward': 2\} here"):
        check_datasets(other, fetch=False)
