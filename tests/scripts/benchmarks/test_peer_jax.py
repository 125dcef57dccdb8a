"""IQL in JAX is IQL here. Without JAX, which no other test needs, these tests are left out."""

import io

import numpy as np
import pytest
import torch

import gpu_steps
from agent_speed import make_learner
from rlrat import load_dataset

jax = pytest.importorskip("jax")
peer_jax = pytest.importorskip("peer_jax")


def agent(activation, **settings):
    dataset = load_dataset("rlrat/hopper/mixed-v0")
    return dataset, make_learner("iql", dataset, 2, "cpu", activation=activation, batch_size=32, **settings)


def test_its_settings_are_the_agents_defaults():
    args = agent("relu")[1].args
    assert {name: getattr(args, name) for name in peer_jax.SETTINGS} == peer_jax.SETTINGS
    assert (args.update_order, args.actor_schedule, args.policy) == ("paper", "cosine", "squashed_gaussian")
    assert tuple(args.hidden_dims) == (256, 256)
    assert args.batch_size == 32


@pytest.mark.parametrize("activation", ["relu", "rational"])
def test_updates_from_the_same_weights_on_the_same_batches_are_the_same(activation):
    learner = agent(activation, hidden_dims=(32, 32))[1]
    weights = {name: parameter.detach().numpy() for name, parameter in learner.named_parameters()}
    state = peer_jax.make_state(weights)
    state["step"] = np.zeros(2, np.float32)
    with jax.default_matmul_precision("highest"):
        update = jax.jit(jax.vmap(peer_jax.update))
        for number in range(4):
            batch, dropout = learner.inputs(number)
            expected = learner.update(batch, dropout)
            state, metrics = update(state, {name: column.numpy() for name, column in batch._asdict().items()})
            assert metrics.keys() == expected.keys()
            for name, value in expected.items():
                torch.testing.assert_close(
                    torch.tensor(np.array(metrics[name])), value.detach(), rtol=1e-4, atol=1e-5, msg=f"{name}, {number}"
                )
    for name, parameter in learner.named_parameters():
        network, _, rest = name.partition(".")
        ours = torch.tensor(np.array(state[network][rest]))
        torch.testing.assert_close(ours, parameter.detach(), rtol=1e-3, atol=1e-5, msg=name)


def test_it_reads_what_is_written_for_it_and_answers_with_seconds(tmp_path, monkeypatch, capsys):
    dataset, learner = agent("rational", hidden_dims=(8, 8))
    file = tmp_path / "iql.npz"
    one = make_learner("iql", dataset, 1, "cpu", activation="rational", hidden_dims=(8, 8))
    gpu_steps.write_iql(file, dataset, {"rational": one})
    with np.load(file) as found:
        rows = [found[name] for name in peer_jax.COLUMNS]
    assert all(len(row) == len(dataset) for row in rows)
    batch = learner.inputs(0)[0]
    place = np.flatnonzero((rows[0] == batch.observations[0, 0].numpy()).all(-1))[0]
    for column, row in zip(batch, rows, strict=True):
        np.testing.assert_array_equal(column[0, 0].numpy(), row[place])
    monkeypatch.setattr("sys.stdin", io.StringIO("rational 2 fp32 5\nrational 1 fp32 1\n"))
    sizes = ["--activations", "rational", "--num-seeds", "1", "2", "--batch-size", "4", "--scan", "2"]
    peer_jax.main([str(file), *sizes])
    ready, *seconds = capsys.readouterr().out.splitlines()
    assert ready.startswith("ready JAX ")
    assert len(seconds) == 2
    assert all(float(value) > 0 for value in seconds)
