"""The peer process beside stand-ins for orlax and JAX."""

import importlib
import io
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest


class Buffer:
    def __init__(self, capacity):
        self.capacity = capacity

    def load_dataset(self, data):
        assert {name: len(column) for name, column in data.items()} == dict.fromkeys(
            ("observations", "actions", "rewards", "next_observations", "dones"), self.capacity
        )
        assert data["dones"].tolist() == [0.0, 0.0, 1.0]

    def sample(self, size, key):
        return size, key


class Algorithm:
    seen = ()

    def __init__(self, observations, actions, training, model, settings):
        assert (observations, actions) == (2, 1)
        assert model == {"hidden_dims": (256, 256)}
        self.batch_size = training["batch_size"]

    def init(self, key):
        return [key]

    def update(self, state, batch, key):
        assert batch[0] == self.batch_size == 8
        Algorithm.seen = *state, batch[1], key
        return list(Algorithm.seen), {}


@pytest.fixture
def peer(monkeypatch):
    jax, orlax = ModuleType("jax"), ModuleType("orlax")
    jax.random = SimpleNamespace(PRNGKey=lambda seed: "k", split=lambda key: (f"{key}0", f"{key}1"))
    jax.block_until_ready = lambda values: None
    orlax.__version__, orlax.ReplayBuffer, orlax.ALGORITHMS = "0", Buffer, {"iql": Algorithm}
    orlax.AlgoCfg = orlax.ModelCfg = orlax.TrainingCfg = dict
    for module in (jax, orlax):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    yield importlib.import_module("peer_orlax")
    del sys.modules["peer_orlax"]


def test_updates_are_those_of_its_runner(peer, tmp_path, monkeypatch, capsys):
    columns = {"observations": np.zeros((3, 2)), "actions": np.zeros((3, 1)), "rewards": np.zeros(3)}
    ends = np.array([0.0, 0.0, 1.0])
    np.savez(tmp_path / "data.npz", **columns, next_observations=columns["observations"], terminations=ends)
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n2\n"))
    monkeypatch.setattr("sys.argv", ["peer_orlax.py", str(tmp_path / "data.npz"), "iql", "--batch-size", "8"])
    peer.main()
    ready, *answers = capsys.readouterr().out.splitlines()
    assert ready == "ready orlax 0"
    assert [len(line.split()) for line in answers] == [2, 2]
    assert Algorithm.seen[0] == "k1"
    assert len(set(Algorithm.seen)) == 7  # of three updates; every one has keys of its own
