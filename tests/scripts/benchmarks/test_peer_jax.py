"""IQL and TD3+BC in JAX are those of rlrat. Without JAX, which no other test needs, these tests are left out."""

import io

import numpy as np
import pytest
import torch

from agent_speed import make_learner, write_data
from rlrat import load_dataset

jax = pytest.importorskip("jax")
peer_jax = pytest.importorskip("peer_jax")


def make(name, activation, **settings):
    dataset = load_dataset("rlrat/hopper/mixed-v0")
    return dataset, make_learner(name, dataset, 2, "cpu", activation=activation, batch_size=32, **settings)


def test_its_settings_are_the_agents_defaults():
    for name, settings in peer_jax.SETTINGS.items():
        args = make(name, "relu")[1].args
        assert {setting: getattr(args, setting) for setting in settings} == settings
        assert tuple(args.hidden_dims) == (256, 256)
        assert args.batch_size == 32
    args = make("iql", "relu")[1].args
    assert (args.update_order, args.actor_schedule, args.policy) == ("paper", "cosine", "squashed_gaussian")


@pytest.mark.parametrize("name", ["iql", "td3_bc"])
@pytest.mark.parametrize("activation", ["relu", "rational"])
def test_updates_from_the_same_weights_on_the_same_batches_are_the_same(name, activation):
    learner = make(name, activation, hidden_dims=(32, 32))[1]
    weights = {name: parameter.detach().numpy() for name, parameter in learner.named_parameters()}
    state = peer_jax.make_state(weights)
    state["step"] = np.zeros(2, np.float32)
    with jax.default_matmul_precision("highest"):
        kinds = [jax.jit(jax.vmap(kind)) for kind in peer_jax.KINDS[name]]
        for number in range(4):
            batch, noise, *_ = inputs = learner.inputs(number)
            expected = learner.update(*inputs)
            drawn = [noise.numpy()] if name == "td3_bc" else []
            columns = {column: value.numpy() for column, value in batch._asdict().items()}
            state, metrics = kinds[number % len(kinds)](state, columns, *drawn)
            assert metrics.keys() == expected.keys()
            for key, value in expected.items():
                torch.testing.assert_close(
                    torch.tensor(np.array(metrics[key])), value.detach(), rtol=1e-4, atol=1e-5, msg=f"{key}, {number}"
                )
    for parameter, value in learner.named_parameters():
        network, _, rest = parameter.partition(".")
        ours = torch.tensor(np.array(state[network][rest]))
        torch.testing.assert_close(ours, value.detach(), rtol=1e-3, atol=1e-5, msg=parameter)


def test_it_reads_what_is_written_for_it_and_answers_with_seconds(tmp_path, monkeypatch, capsys):
    dataset, learner = make("iql", "rational", hidden_dims=(8, 8))
    file = tmp_path / "iql.npz"
    one = make_learner("iql", dataset, 1, "cpu", activation="rational", hidden_dims=(8, 8))
    write_data(file, dataset, {"rational": one})
    with np.load(file) as found:
        rows = [found[name] for name in peer_jax.COLUMNS]
    assert all(len(row) == len(dataset) for row in rows)
    batch = learner.inputs(0)[0]
    place = np.flatnonzero((rows[0] == batch.observations[0, 0].numpy()).all(-1))[0]
    for column, row in zip(batch, rows, strict=True):
        np.testing.assert_array_equal(column[0, 0].numpy(), row[place])
    monkeypatch.setattr("sys.stdin", io.StringIO("rational 2 fp32 5\nrational 1 fp32 1\n3\n"))
    sizes = ["--activations", "rational", "--num-seeds", "1", "2", "--batch-size", "4", "--scan", "2"]
    peer_jax.main([str(file), "iql", *sizes])
    ready, *answers = capsys.readouterr().out.splitlines()
    assert ready.startswith("ready JAX ")
    assert [len(line.split()) for line in answers] == [2, 2, 2]
    assert all(float(value) > 0 for line in answers for value in line.split())


def test_an_agents_kinds_of_updates_are_made_equally_often(tmp_path):
    dataset = load_dataset("rlrat/hopper/mixed-v0")
    learner = make_learner("td3_bc", dataset, 1, "cpu", activation="relu", hidden_dims=(8, 8))
    write_data(tmp_path / "data.npz", dataset, {"relu": learner})
    with np.load(tmp_path / "data.npz") as found:
        data = {name: found[name] for name in peer_jax.COLUMNS}
        weights = {name.removeprefix("relu/"): found[name] for name in found if name.startswith("relu/")}
    turn = peer_jax.compile_updates("td3_bc", data, weights, 1, "fp32", 4, scan=3)
    assert [turn(count) for count in (1, 4, 5)] == [4, 4, 8]
