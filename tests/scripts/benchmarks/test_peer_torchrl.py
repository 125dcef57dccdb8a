"""Without TorchRL, which no other test needs, these tests are left out."""

import io

import numpy as np
import pytest
import torch

pytest.importorskip("torchrl")
peer_torchrl = pytest.importorskip("peer_torchrl")


@pytest.fixture
def file(tmp_path):
    random, size = np.random.default_rng(0), 20
    columns = {"observations": (size, 3), "actions": (size, 2), "rewards": (size,), "next_observations": (size, 3)}
    data = {name: random.uniform(-1, 1, shape).astype(np.float32) for name, shape in columns.items()}
    data["terminations"] = np.float32(np.arange(size) % 5 == 4)
    np.savez(tmp_path / "data.npz", **data)
    return tmp_path / "data.npz"


def test_its_batches_are_rows_of_the_data(file):
    batch = peer_torchrl.read_buffer(str(file), 20).sample()
    with np.load(file) as found:
        order = [np.flatnonzero((found["actions"] == action.numpy()).all(-1))[0] for action in batch["action"]]
        assert sorted(order) == list(range(20))
        for name, column in {
            "observations": batch["observation"],
            "next_observations": batch["next", "observation"],
            "rewards": batch["next", "reward"][:, 0],
            "terminations": batch["next", "terminated"][:, 0].float(),
        }.items():
            np.testing.assert_array_equal(column.numpy(), found[name][order])
    assert torch.equal(batch["next", "done"], batch["next", "terminated"])


def test_losses_fall(file):
    torch.manual_seed(0)
    batch = peer_torchrl.read_buffer(str(file), 20).sample()
    update = peer_torchrl.iql(3, 2)
    losses = [float(update(batch.clone(), True)["loss_qvalue"]) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    update = peer_torchrl.td3_bc(3, 2)
    found = [update(batch.clone(), number % 2 == 0) for number in range(30)]
    assert float(found[-1][0]) < 0.5 * float(found[0][0])
    assert [actor is None for _, actor in found] == [False, True] * 15


@pytest.mark.parametrize("agent", ["iql", "td3_bc"])
def test_updates_are_timed_when_asked_for(file, agent, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("3\n"))
    monkeypatch.setattr("sys.argv", ["peer_torchrl.py", str(file), agent, "--batch-size", "8"])
    peer_torchrl.main()
    *_, ready, seconds = capsys.readouterr().out.splitlines()
    assert ready.startswith("ready TorchRL ")
    assert [float(value) > 0 for value in seconds.split()] == [True, True]
