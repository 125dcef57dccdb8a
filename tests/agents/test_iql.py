"""IQL's update beside the paper's equations, computed a second time in NumPy and float64."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from learners import forward, make_learner

_learner = partial(make_learner, "iql")


def _numpy_losses(learner, q, v_next, v, v_actor, batch, seed):
    """Losses of one seed: Q's with V(s') of `v_next`, V's of `v`, the actor's with the advantage of `v_actor`."""
    args = learner.args
    s, a, r, s2, d = (t[seed].double().numpy() for t in batch)
    sa = np.concatenate([s, a], 1)
    target = r + args.discount * (1 - d) * forward(v_next, s2, seed)[:, 0]
    q_loss = sum(np.mean((forward(q, sa, (seed, c))[:, 0] - target) ** 2) for c in range(2))
    min_q = np.min([forward(learner.q_target, sa, (seed, c))[:, 0] for c in range(2)], axis=0)
    u = min_q - forward(v, s, seed)[:, 0]
    v_loss = np.mean(np.abs(args.expectile - (u < 0)) * u**2)
    weight = np.minimum(np.exp(args.inverse_temperature * (min_q - forward(v_actor, s, seed)[:, 0])), args.max_weight)
    mean = forward(learner.policy.mean, s, seed)
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


@pytest.mark.parametrize("policy", ["squashed_gaussian", "tanh_gaussian", "deterministic"])
@pytest.mark.parametrize("variant", [{}, {"gated": True, "norm": "layer"}, {"initialization": "orthogonal"}])
def test_losses_fall_on_a_fixed_batch(small_dataset, policy, variant):
    learner, batches = _learner(small_dataset, [0], policy=policy, activation="rational", learning_rate=3e-3, **variant)
    batch = batches.at(0)
    losses = [learner.update(batch) for _ in range(50)]
    assert torch.isfinite(torch.stack([loss["losses/actor"] for loss in losses])).all()
    assert losses[-1]["losses/q"] < losses[0]["losses/q"]
    assert learner.guard.alive.all()
