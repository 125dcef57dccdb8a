"""AWAC's update beside the paper's equations, computed a second time in NumPy and float64, and beside CORL's."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from tests.agents.learners import HEADS, NO_DROPOUT, assert_gradients, forward, log_prob, make_learner
from tests.agents.peers import assert_equals_its_peer

# No setting of the equations has its default, so that none is taken in another's place.
_learner = partial(make_learner, "awac", discount=0.9, temperature=0.1, max_weight=1.1, polyak=0.01)


def _min_q(network, s, a, seed):
    sa = np.concatenate([s, a], 1)
    return np.min([forward(network, sa, (seed, c))[:, 0] for c in range(2)], axis=0)


def _sample(policy, s, noise, seed):
    mean = forward(policy.mean, s, seed)
    if policy.head == "deterministic":
        return np.tanh(mean)
    sigma = np.exp(policy.log_std.detach().double().numpy()[seed])
    if policy.head == "tanh_gaussian":
        return np.clip(np.tanh(mean) + sigma * noise, -1.0, 1.0)
    return np.tanh(mean + sigma * noise)


def _q_loss(learner, q, batch, noise, seed):
    """Both critics' error towards r + gamma (1 - d) min Q'(s', a'), a' of the policy."""
    s, a, r, s2, d = (t[seed].double().numpy() for t in batch)
    a2 = _sample(learner.policy, s2, noise[seed, 0].double().numpy(), seed)
    target = r + learner.args.discount * (1 - d) * _min_q(learner.q_target, s2, a2, seed)
    sa = np.concatenate([s, a], 1)
    return sum(np.mean((forward(q, sa, (seed, c))[:, 0] - target) ** 2) for c in range(2))


def _weights(learner, q, batch, noise, seed):
    s, a = (t[seed].double().numpy() for t in batch[:2])
    drawn = _sample(learner.policy, s, noise[seed, 1].double().numpy(), seed)
    advantage = _min_q(q, s, a, seed) - _min_q(q, s, drawn, seed)
    return np.minimum(np.exp(advantage / learner.args.temperature), learner.args.max_weight), advantage


def _actor_loss(policy, weights, batch, seed):
    s, a = (t[seed].double().numpy() for t in batch[:2])
    return -np.mean(weights * log_prob(policy, s, a, seed))


@pytest.mark.parametrize("policy", HEADS)
def test_losses_and_their_order_are_the_papers(small_dataset, policy):
    learner, _ = _learner(small_dataset, [3, 4], policy=policy, learning_rate=3e-3)
    for update in range(5):
        before, (batch, noise, _) = copy.deepcopy(learner), learner.inputs(update)
        metrics = learner.update(batch, noise, NO_DROPOUT)
        for seed in range(2):
            got = {name: values[seed].item() for name, values in metrics.items()}
            assert got["losses/q"] == pytest.approx(_q_loss(before, before.q, batch, noise, seed), rel=1e-4)
            weights, advantage = _weights(
                before, learner.q, batch, noise, seed
            )  # of the critics that have just stepped
            expected = _actor_loss(before.policy, weights, batch, seed)
            assert got["losses/actor"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
            assert got["charts/advantage_mean"] == pytest.approx(advantage.mean(), rel=1e-4, abs=1e-6)
            assert got["charts/weight_clipped"] == pytest.approx(np.mean(weights == 1.1))
            assert 0 < got["charts/weight_clipped"] < 1
        target = 0.99 * before.q_target.output.weight + 0.01 * learner.q.output.weight
        torch.testing.assert_close(learner.q_target.output.weight, target)


@pytest.mark.parametrize("policy", HEADS)
def test_the_gradient_of_each_loss_is_the_one_that_steps(small_dataset, policy):
    learner, _ = _learner(small_dataset, [0], policy=policy)
    before, (batch, noise, _) = copy.deepcopy(learner), learner.inputs(0)
    learner.update(batch, noise, NO_DROPOUT)
    weights, _ = _weights(before, learner.q, batch, noise, 0)
    losses = {
        "q": lambda moved: _q_loss(before, moved.q, batch, noise, 0),
        "policy": lambda moved: _actor_loss(moved.policy, weights, batch, 0),
    }
    for network, loss in losses.items():
        assert_gradients(learner, before, network, getattr(learner, f"{network}_optimizer"), loss)


def test_losses_gradients_and_parameters_are_corls():
    """Whose policy is given the bounded mean of ours and of the authors', see `record_peers.py`."""

    def inputs(module, columns, update):
        batch = module.Batch(*(columns[name] for name in module.Batch._fields))
        return batch, torch.stack([columns["noise"], columns["current_noise"]], dim=1), NO_DROPOUT

    settings = {"learning_rate": 1e-3, "discount": 0.95, "polyak": 0.02, "temperature": 0.7, "max_weight": 1.3}
    assert_equals_its_peer("awac", settings, inputs)
