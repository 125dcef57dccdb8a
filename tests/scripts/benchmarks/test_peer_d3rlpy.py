"""The peer process beside a stand-in for d3rlpy, in a Python that has little else."""

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from peers import PEERED
from rlrat import load_dataset
from rlrat.reports.read import read_runs
from tests.short_runs import ROOT

PEER = ROOT / "scripts" / "benchmarks" / "peer_d3rlpy.py"
D3RLPY = """
import sys, types
import numpy as np

__version__ = "0"
sys.modules.update({f"d3rlpy.{name}": types.ModuleType(name) for name in ("models", "preprocessing", "algos.utility")})
for name in ("models.VectorEncoderFactory", "preprocessing.ReturnBasedRewardScaler",
             "preprocessing.StandardObservationScaler"):
    module, name = name.split(".")
    setattr(sys.modules[f"d3rlpy.{module}"], name, lambda *_, **__: None)
for kind in ("trajectory_slicer", "transition_picker"):
    setattr(sys.modules["d3rlpy.algos.utility"], f"build_scalers_with_{kind}", lambda algorithm, data: None)


def seed(number): ...


class Algorithm:
    def __init__(self, **settings):
        self.batch_size = settings["batch_size"]

    def create(self, device):
        return self

    def build_with_dataset(self, data): ...

    def update(self, batch):
        assert batch == self.batch_size

    def predict(self, observations):
        assert observations.dtype == np.float32
        return np.zeros((len(observations), 3), np.float32)


class MDPDataset:
    def __init__(self, observations, actions, rewards, terminations, truncations):
        assert rewards.shape == (len(observations), 1)

    def sample_transition_batch(self, size):
        return size

    def sample_trajectory_batch(self, size, length):
        return size


algos = sys.modules["d3rlpy.algos"] = types.ModuleType("algos")
for name in ("IQL", "TD3PlusBC", "CQL", "DecisionTransformer", "ReBRAC", "AWAC"):
    setattr(algos, f"{name}Config", Algorithm)
dataset = types.SimpleNamespace(MDPDataset=MDPDataset)
"""
BLOCKED = """
import sys
sys.modules.update(dict.fromkeys(("tyro", "minari", "tensorboard", "matplotlib")))
sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in str(finder)]  # nor rlrat
"""


@pytest.fixture
def peer(tmp_path):
    (tmp_path / "d3rlpy").mkdir()
    (tmp_path / "d3rlpy" / "__init__.py").write_text(D3RLPY)
    (tmp_path / "sitecustomize.py").write_text(BLOCKED)

    def run(*argv: str, asked: str = "") -> subprocess.CompletedProcess:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
        command = [sys.executable, str(PEER), *argv]
        return subprocess.run(command, capture_output=True, text=True, input=asked, env=environment, cwd=tmp_path)

    return run


@pytest.mark.parametrize("agent", ["cql", "decision_transformer"])
def test_updates_are_timed_when_asked_for(peer, agent):
    done = peer("speed", agent, "--batch-size", "8", asked="2\n3\n")
    assert done.returncode == 0, done.stderr
    ready, *seconds = done.stdout.splitlines()
    assert ready == "ready d3rlpy 0"
    assert [len(line.split()) for line in seconds] == [2, 2]
    assert all(float(value) > 0 for line in seconds for value in line.split())


def test_trained_runs_are_read_as_ours(peer, tmp_path):
    argv = ("--seeds", "3", "--updates", "2", "--eval-every", "1", "--episodes", "2", "--run-dir", "runs")
    done = peer("train", "td3_bc", *argv)
    assert done.returncode == 0, done.stderr
    (run,) = read_runs([tmp_path / "runs"])
    assert (run.agent, run.dataset, run.seed) == ("td3_bc", "rlrat/hopper/mixed-v0", 3)
    assert run.updates.tolist() == [0, 1, 2]
    assert len(set(run.returns)) == 1  # of a policy that learns nothing
    assert (np.diff(run.train_seconds) >= 0).all()
    assert run.config["dataset"]["return_mean"] == load_dataset("rlrat/hopper/mixed-v0").episode_returns.mean()


def test_every_agent_of_the_peers_is_made():
    made = PEER.read_text(encoding="utf-8").partition("def make_algorithm")[2].partition("\ndef ")[0]
    assert set(re.findall(r'agent == "(\w+)"', made)) == set(PEERED)


def test_what_is_not_trained_is_a_mistake(peer):
    done = peer("train", "decision_transformer")
    assert done.returncode == 2
    assert "only timed here: give another agent" in done.stderr
