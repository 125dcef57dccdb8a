"""IQL's update beside the paper's equations, computed a second time in NumPy and float64."""

import copy
import json

import numpy as np
import pytest
import torch
from short_runs import read_run

from agents.iql import IQL, Arguments
from rlrat import activations
from rlrat.arguments import RationalArguments
from rlrat.datasets.batches import Batches, Units
from rlrat.rational import Rational
from rlrat.runs import EVALUATION_COLUMNS


def _learner(dataset, seeds, **settings):
    args = Arguments(**{"hidden_dims": (16, 16), "batch_size": 32, "total_updates": 100, **settings})
    units = Units.of(dataset, args.normalize_observations, args.observation_floor, args.reward_scaling)
    return IQL(args, seeds, units, "cpu"), Batches(dataset, seeds, args.batch_size, "cpu", units)


def _forward(network, x, index):
    """A ReLU MLP in float64; `index` picks seed (and critic)."""
    for layer in network.hidden:
        w, b = (p.detach().double().numpy()[index] for p in (layer.linear.weight, layer.linear.bias))
        x = np.maximum(x @ w + b, 0.0)
    w, b = (p.detach().double().numpy()[index] for p in (network.output.weight, network.output.bias))
    return x @ w + b


def _numpy_losses(learner, q, v_next, v, v_actor, batch, seed):
    """Losses of one seed: Q's with V(s') of `v_next`, V's of `v`, the actor's with the advantage of `v_actor`."""
    args = learner.args
    s, a, r, s2, d = (t[seed].double().numpy() for t in batch)
    sa = np.concatenate([s, a], 1)
    target = r + args.discount * (1 - d) * _forward(v_next, s2, seed)[:, 0]
    q_loss = sum(np.mean((_forward(q, sa, (seed, c))[:, 0] - target) ** 2) for c in range(2))
    min_q = np.min([_forward(learner.q_target, sa, (seed, c))[:, 0] for c in range(2)], axis=0)
    u = min_q - _forward(v, s, seed)[:, 0]
    v_loss = np.mean(np.abs(args.expectile - (u < 0)) * u**2)
    weight = np.minimum(np.exp(args.inverse_temperature * (min_q - _forward(v_actor, s, seed)[:, 0])), args.max_weight)
    mean = _forward(learner.policy.mean, s, seed)
    clipped = np.clip(a, -0.999, 0.999)
    sigma = np.exp(learner.policy.log_std.detach().double().numpy()[seed])
    log_prob = -0.5 * ((np.arctanh(clipped) - mean) / sigma) ** 2 - np.log(sigma * np.sqrt(2 * np.pi))
    log_prob = (log_prob - np.log(1 - clipped**2)).sum(1)
    return q_loss, v_loss, -np.mean(weight * log_prob)


@pytest.mark.parametrize("order", ["paper", "corl"])
def test_losses_and_their_order_are_the_papers(small_dataset, order):
    learner, batches = _learner(small_dataset, [3, 4], update_order=order, reward_scaling="paper")
    for update in range(5):
        before, batch = copy.deepcopy(learner), batches.at(update)
        metrics = learner.update(batch)
        for seed in range(2):
            # Paper: Q from the old V, V, the actor from the new V. CORL: the actor's advantage is the old V's.
            v_actor = learner.v if order == "paper" else before.v
            expected = _numpy_losses(before, before.q, before.v, before.v, v_actor, batch, seed)
            got = [metrics[f"losses/{name}"][seed].item() for name in ("q", "v", "actor")]
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6)
        target = 0.995 * before.q_target.output.weight + 0.005 * learner.q.output.weight
        torch.testing.assert_close(learner.q_target.output.weight, target)


def test_the_gradient_of_each_loss_is_the_one_that_steps(small_dataset):
    """Adam's first step is the learning rate times the sign of the gradient: compare with finite differences."""
    learner, batches = _learner(small_dataset, [0], reward_scaling="paper", actor_schedule="constant")
    before, batch = copy.deepcopy(learner), batches.at(0)
    learner.update(batch)
    checked = 0
    for loss, name in enumerate(("q", "v", "policy.mean")):
        weight = f"{name}.output.weight"
        for position in (0, 7, 15):
            values = []
            for sign in (1, -1):
                moved = copy.deepcopy(before)
                moved.get_parameter(weight).data.view(-1)[position] += sign * 1e-3
                # Only the named network moves; everything else is what its loss sees as constant.
                v = moved.v if name == "v" else before.v
                values.append(_numpy_losses(moved, moved.q, before.v, v, learner.v, batch, 0)[loss])
            slope = (values[0] - values[1]) / 2e-3
            new, old = (x.get_parameter(weight).detach().reshape(-1)[position] for x in (learner, before))
            step = (new - old).item()
            if abs(slope) > 1e-3:
                assert step == pytest.approx(-3e-4 * np.sign(slope), rel=1e-2)
                checked += 1
    assert checked >= 6


def test_the_actors_rate_follows_a_cosine(small_dataset):
    learner, batches = _learner(small_dataset, [0], total_updates=4)
    steps = []
    for update in range(4):
        before = learner.policy_optimizer.flat.clone()
        learner.update(batches.at(update))
        steps.append((learner.policy_optimizer.flat - before).abs().max().item() / 3e-4)
    expected = [0.5 * (1 + np.cos(np.pi * t / 4)) for t in range(4)]
    assert steps[0] == pytest.approx(1, rel=1e-3)
    np.testing.assert_allclose(steps, expected, rtol=0.3)


@pytest.mark.parametrize("activation", ["relu", "rational"])
def test_a_seed_learns_alike_whatever_is_beside_it(small_dataset, activation):
    settings = {"activation": activation, "actor_dropout": 0.1}
    together, batches = _learner(small_dataset, list(range(8)), **settings)
    alone, own = _learner(small_dataset, [3], **settings)
    for name, value in together.state_dict().items():
        assert torch.equal(value[3], alone.state_dict()[name][0]), name
    for update in range(20):
        for many, one in zip(batches.at(update), own.at(update), strict=True):
            assert torch.equal(many[3], one[0])
        together.update(batches.at(update))
        alone.update(own.at(update))
    for name, value in together.state_dict().items():
        torch.testing.assert_close(value[3], alone.state_dict()[name][0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("policy", ["squashed_gaussian", "tanh_gaussian", "deterministic"])
@pytest.mark.parametrize("variant", [{}, {"gated": True, "norm": "layer"}, {"initialization": "orthogonal"}])
def test_losses_fall_on_a_fixed_batch(small_dataset, policy, variant):
    learner, batches = _learner(small_dataset, [0], policy=policy, activation="rational", learning_rate=3e-3, **variant)
    batch = batches.at(0)
    losses = [learner.update(batch) for _ in range(50)]
    assert torch.isfinite(torch.stack([loss["losses/actor"] for loss in losses])).all()
    assert losses[-1]["losses/q"] < losses[0]["losses/q"]
    assert learner.guard.alive.all()


@pytest.mark.parametrize("activation", [*activations.names(), "rational:gelu"])
def test_every_activation_trains(small_dataset, activation):
    learner, batches = _learner(small_dataset, [0, 1], activation=activation)
    before = {name: p.clone() for name, p in learner.named_parameters() if "q_target" not in name}
    for update in range(10):
        metrics = learner.update(batches.at(update))
    assert all(torch.isfinite(value).all() for value in metrics.values())
    unmoved = [name for name, p in learner.named_parameters() if name in before and torch.equal(p, before[name])]
    assert not unmoved


def test_actor_and_critics_may_differ_and_rational_settings_arrive(small_dataset):
    rational = RationalArguments(degrees=(3, 2), version="B", groups=4)
    learner, _ = _learner(small_dataset, [0], critic_activation="rational", rational=rational)
    assert not [m for m in learner.policy.modules() if isinstance(m, Rational)]
    rationals = [m for m in learner.q.modules() if isinstance(m, Rational)]
    assert len(rationals) == 2
    assert rationals[0].numerator.shape == (1, 2, 4, 4)
    assert rationals[0].denominator.shape == (1, 2, 4, 2)


def test_the_command_leaves_a_finished_run_folder(run_agent, tmp_path):
    run_agent("--activation", "rational", "--num-seeds", 2, "--expectile", 0.9, "--norm", "layer")
    folders = list((tmp_path / "runs/rlrat-hopper-mixed-v0/iql").iterdir())
    assert [f.name for f in folders] == ["rational+batch_size=16,expectile=0.9,hidden_dims=16x16,norm=layer"]
    for seed in (0, 1):
        folder = folders[0] / f"seed{seed}"
        names = {p.name for p in folder.iterdir()}
        assert {"config.json", "evaluations.csv", "episodes.csv", "checkpoint.pt", "summary.json"} <= names
        assert any(name.startswith("events.out.tfevents.") for name in names)
        run = read_run(folder)
        assert [row["update"] for row in run["rows"]] == ["0", "20", "40"]
        assert (folder / "evaluations.csv").read_text().splitlines()[0] == ",".join(EVALUATION_COLUMNS)
        summary = json.loads((folder / "summary.json").read_text())
        assert summary["status"] == "finished"
        expected = np.mean([float(row["return_mean"]) for row in run["rows"]])
        assert summary["final_return"] == pytest.approx(expected)
        assert summary["reference"]["name"].startswith("v5")
        config = json.loads((folder / "config.json").read_text())
        assert config["seed"] == seed
        assert config["arguments"]["expectile"] == 0.9
        assert len(config["dataset"]["fingerprint"]) == 64
    assert (
        "nothing to do"
        in run_agent("--activation", "rational", "--num-seeds", 2, "--expectile", 0.9, "--norm", "layer").stdout
    )


def test_tensorboard_shows_losses_evaluations_and_rational_layers(run_agent, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run_agent("--activation", "rational")
    (folder,) = tmp_path.glob("runs/*/*/*/seed0")
    events = EventAccumulator(str(folder))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"losses/q", "losses/v", "losses/actor", "charts/updates_per_second", "eval/return_mean"} <= tags
    assert {"charts/q_mean", "charts/v_mean", "charts/advantage_mean", "charts/weight_mean"} <= tags
    for what in ("asymptotic_slope", "largest_slope", "outside"):
        assert f"rational/policy.mean.hidden.0.activation/{what}" in tags
    assert [event.step for event in events.Scalars("losses/q")] == [10, 20, 30, 40]
    assert [event.step for event in events.Scalars("eval/return_mean")] == [0, 20, 40]
