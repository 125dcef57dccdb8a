"""TD3+BC's update beside the paper's equations, computed a second time in NumPy and float64."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from tests.agents.learners import NO_DROPOUT, assert_gradients, forward, make_learner, make_trainer

_settings = {"discount": 0.9, "alpha": 1.5, "policy_noise": 0.3, "noise_clip": 0.4, "polyak": 0.01}  # no default
_learner = partial(make_learner, "td3_bc", **_settings)
_trainer = partial(make_trainer, "td3_bc", **_settings)


def _numpy_q_loss(learner, q, batch, noise, seed):
    """Both critics' error towards r + gamma (1 - d) min Q'(s', clip(pi'(s') + clip(noise)))."""
    args = learner.args
    s, a, r, s2, d = (t[seed].double().numpy() for t in batch)
    noise = np.clip(args.policy_noise * noise[seed].double().numpy(), -args.noise_clip, args.noise_clip)
    a2 = np.clip(np.tanh(forward(learner.policy_target, s2, seed)) + noise, -1, 1)
    next_q = [forward(learner.q_target, np.concatenate([s2, a2], 1), (seed, c))[:, 0] for c in range(2)]
    target = r + args.discount * (1 - d) * np.minimum(*next_q)
    sa = np.concatenate([s, a], 1)
    return sum(np.mean((forward(q, sa, (seed, c))[:, 0] - target) ** 2) for c in range(2))


def _numpy_actor_loss(learner, q, policy, batch, seed, weight=None):
    """-lambda mean Q1(s, pi(s)) + mean (pi(s) - a)^2 and lambda, which is `weight` where that is given."""
    s, a = (t[seed].double().numpy() for t in batch[:2])
    pi = np.tanh(forward(policy.mean, s, seed))
    q1 = forward(q, np.concatenate([s, pi], 1), (seed, 0))[:, 0]
    if weight is None:
        weight = learner.args.alpha / (np.mean(np.abs(q1)) + 1e-6)
    return -weight * np.mean(q1) + np.mean((pi - a) ** 2), weight


def test_losses_and_their_order_are_the_papers(small_dataset):
    # Noise beyond its clip and actions beyond their bound must occur.
    learner, batches = _learner(small_dataset, [3, 4], policy_noise=0.5, learning_rate=3e-3)
    for update in range(6):
        before, batch, noise = copy.deepcopy(learner), batches.at(update), learner.noise.at(update)
        assert ((0.5 * noise).abs() > 0.4).any()
        metrics = learner.update(batch, noise, NO_DROPOUT, update % 2 == 1)
        for seed in range(2):
            got = metrics["losses/q"][seed].item()
            assert got == pytest.approx(_numpy_q_loss(before, before.q, batch, noise, seed), rel=1e-4)
            if update % 2 == 1:  # the actor follows the critics that have just stepped
                expected, weight = _numpy_actor_loss(before, learner.q, before.policy, batch, seed)
                assert metrics["losses/actor"][seed].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
                assert metrics["charts/lambda"][seed].item() == pytest.approx(weight, rel=1e-4)


def test_the_actor_and_the_targets_move_at_the_delayed_updates(small_dataset):
    learner, _, train = _trainer(small_dataset, [3], policy_delay=3)
    flats = {
        "q": learner.q_optimizer.flat,
        "policy": learner.policy_optimizer.flat,
        "q_target": learner.q_target.flat,
        "policy_target": learner.policy_target.flat,
    }
    for update in range(7):
        before = {name: flat.clone() for name, flat in flats.items()}
        metrics = train(update)
        moved = {name for name, flat in flats.items() if not torch.equal(flat, before[name])}
        delayed = update in (2, 5)
        assert moved == (set(flats) if delayed else {"q"})
        assert ("losses/actor" in metrics) == delayed
        if delayed:
            for name in ("q", "policy"):
                target = 0.99 * before[f"{name}_target"] + 0.01 * flats[name]
                torch.testing.assert_close(flats[f"{name}_target"], target)
    assert learner.policy_optimizer.steps.item() == 2


def test_the_gradient_of_each_loss_is_the_one_that_steps(small_dataset):
    learner, batches = _learner(small_dataset, [0])
    before, batch, noise = copy.deepcopy(learner), batches.at(0), learner.noise.at(0)
    learner.update(batch, noise, NO_DROPOUT, True)
    _, weight = _numpy_actor_loss(before, learner.q, before.policy, batch, 0)
    losses = {
        "q": lambda moved: _numpy_q_loss(before, moved.q, batch, noise, 0),
        "policy": lambda moved: _numpy_actor_loss(before, learner.q, moved.policy, batch, 0, weight)[0],
    }
    for network, loss in losses.items():
        assert_gradients(learner, before, network, getattr(learner, f"{network}_optimizer"), loss)


def test_lambda_is_each_seeds_own(small_dataset):
    """Rewards of one seed times 1000 change nothing for the other."""
    plain, batches, _ = _trainer(small_dataset, [0, 1])
    scaled, _, _ = _trainer(small_dataset, [0, 1])
    factor = torch.tensor([[1.0], [1000.0]])
    for update in range(20):
        batch, noise = batches.at(update), plain.noise.at(update)
        ours = plain.update(batch, noise, NO_DROPOUT, update % 2 == 1)
        theirs = scaled.update(batch._replace(rewards=batch.rewards * factor), noise, NO_DROPOUT, update % 2 == 1)
        for name, value in ours.items():
            assert value[0] == theirs[name][0]
    for name, value in plain.state_dict().items():
        assert torch.equal(value[0], scaled.state_dict()[name][0]), name
    assert not torch.equal(plain.policy_optimizer.flat[1], scaled.policy_optimizer.flat[1])


def test_noise_is_a_function_of_seed_and_update(small_dataset):
    many, one = (_learner(small_dataset, seeds)[0].noise for seeds in ([0, 3], [3]))
    for update in (0, 1, 63, 64):
        torch.testing.assert_close(many.at(update)[1], one.at(update)[0])
    assert not torch.equal(one.at(0), one.at(1))
    assert many.at(0).shape == (2, 32, 3)


@pytest.mark.parametrize("agent", ["td3_bc"])
def test_tensorboards_points_are_means_over_the_updates_that_had_the_metric(agent, run_agent, tmp_path, scalars):
    points = {}
    for every in (1, 10):
        run_agent("--log-every", every, "--run-name", f"every{every}")
        points[every] = scalars(tmp_path / f"runs/rlrat-hopper-mixed-v0/td3_bc/relu+every{every}/seed0")
    for name, steps in (("losses/q", range(1, 41)), ("losses/actor", range(2, 41, 2))):
        assert list(points[1][name]) == list(steps)
        for step, mean in points[10][name].items():
            those = [points[1][name][at] for at in steps if step - 10 < at <= step]
            assert mean == pytest.approx(np.mean(those), rel=1e-5)
