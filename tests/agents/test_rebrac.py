"""ReBRAC's update beside its equations, computed a second time in NumPy and float64, and beside its authors'."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

import rlrat
from tests.agents.learners import NO_DROPOUT, assert_gradients, make_learner
from tests.agents.peers import assert_equals_its_peer

# No setting of the equations has its default, so that none is taken in another's place.
_settings = {"discount": 0.9, "actor_penalty": 0.7, "critic_penalty": 0.3, "policy_noise": 0.3, "noise_clip": 0.4}
_learner = partial(make_learner, "rebrac", **_settings, polyak=0.01)


def _forward(network, x, index):
    """A ReLU MLP in float64, with LayerNorm after each activation where it has that."""
    numbers = {name: p.detach().double().numpy()[index] for name, p in network.named_parameters()}
    for layer in range(len(network.hidden)):
        at = f"hidden.{layer}"
        x = np.maximum(x @ numbers[f"{at}.linear.weight"] + numbers[f"{at}.linear.bias"], 0.0)
        if f"{at}.norm.weight" in numbers:
            x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
            x = x * numbers[f"{at}.norm.weight"] + numbers[f"{at}.norm.bias"]
    return x @ numbers["output.weight"] + numbers["output.bias"]


def _min_q(network, s, a, seed):
    sa = np.concatenate([s, a], 1)
    return np.min([_forward(network, sa, (seed, c))[:, 0] for c in range(2)], axis=0)


def _q_loss(learner, q, batch, noise, seed):
    """Both critics' error towards r + gamma (1 - d) (min Q'(s', a') - beta |a' - the data's|^2 where it has one)."""
    args = learner.args
    s, a, r, s2, data_a2, mask, d = (t[seed].double().numpy() for t in batch)
    noise = np.clip(args.policy_noise * noise[seed].double().numpy(), -args.noise_clip, args.noise_clip)
    a2 = np.clip(np.tanh(_forward(learner.policy_target, s2, seed)) + noise, -1, 1)
    value = _min_q(learner.q_target, s2, a2, seed) - args.critic_penalty * mask * np.sum((a2 - data_a2) ** 2, axis=1)
    target = r + args.discount * (1 - d) * value
    sa = np.concatenate([s, a], 1)
    return sum(np.mean((_forward(q, sa, (seed, c))[:, 0] - target) ** 2) for c in range(2))


def _actor_loss(learner, q, policy, batch, seed, weight=None):
    """Mean of beta |pi(s) - a|^2 - lambda min Q(s, pi(s)), and lambda, which is `weight` where that is given."""
    s, a = (t[seed].double().numpy() for t in batch[:2])
    pi = np.tanh(_forward(policy.mean, s, seed))
    value = _min_q(q, s, pi, seed)
    if weight is None:
        weight = 1 / np.mean(np.abs(value)) if learner.args.normalize_q else 1.0
    return np.mean(learner.args.actor_penalty * np.sum((pi - a) ** 2, axis=1) - weight * value), weight


@pytest.mark.parametrize("normalize_q", [True, False])
def test_losses_and_their_order_are_the_authors(small_dataset, normalize_q):
    settings = {"actor_learning_rate": 3e-3, "critic_learning_rate": 2e-3, "normalize_q": normalize_q}
    learner, _ = _learner(small_dataset, [3, 4], **settings)
    for update in range(4):
        before, (batch, noise, _, actor_step) = copy.deepcopy(learner), learner.inputs(update)
        assert actor_step == (update % 2 == 0)
        metrics = learner.update(batch, noise, NO_DROPOUT, actor_step)
        assert ("losses/actor" in metrics) == actor_step
        for seed in range(2):
            got = metrics["losses/q"][seed].item()
            assert got == pytest.approx(_q_loss(before, before.q, batch, noise, seed), rel=1e-4)
            if actor_step:  # the actor follows the critics that have just stepped
                expected, weight = _actor_loss(before, learner.q, before.policy, batch, seed)
                assert metrics["losses/actor"][seed].item() == pytest.approx(expected, rel=1e-4, abs=1e-6)
                assert metrics["charts/lambda"][seed].item() == pytest.approx(weight, rel=1e-4)
        for target, source in (("q_target", learner.q), ("policy_target", before.policy.mean)):
            weights = getattr(before, target).output.weight
            expected = 0.99 * weights + 0.01 * source.output.weight if actor_step else weights
            torch.testing.assert_close(getattr(learner, target).output.weight, expected)


def test_the_gradient_of_each_loss_is_the_one_that_steps(small_dataset):
    learner, _ = _learner(small_dataset, [0], initialization="pytorch")
    before, (batch, noise, *_) = copy.deepcopy(learner), learner.inputs(0)
    learner.update(batch, noise, NO_DROPOUT, True)
    _, weight = _actor_loss(before, learner.q, before.policy, batch, 0)
    losses = {
        "q": lambda moved: _q_loss(before, moved.q, batch, noise, 0),
        "policy": lambda moved: _actor_loss(before, learner.q, moved.policy, batch, 0, weight)[0],
    }
    for network, loss in losses.items():
        assert_gradients(learner, before, network, getattr(learner, f"{network}_optimizer"), loss)


def test_losses_gradients_and_parameters_are_the_authors():
    """CORL's, and theirs, which are the same; every row of the batches has a next action there."""

    def inputs(module, columns, update):
        columns = {**columns, "next_action_mask": torch.ones_like(columns["rewards"])}
        batch = module.Batch(*(columns[name] for name in module.Batch._fields))
        return batch, columns["noise"], NO_DROPOUT, update % 2 == 0

    settings = {"actor_learning_rate": 1e-3, "critic_learning_rate": 2e-3, "discount": 0.95, "polyak": 0.02}
    settings |= {"actor_penalty": 0.2, "critic_penalty": 0.3, "policy_noise": 0.3, "noise_clip": 0.4}
    assert_equals_its_peer("rebrac", settings, inputs)


def test_networks_begin_as_the_authors(small_dataset):
    learner, _ = make_learner("rebrac", small_dataset, [0, 1], hidden_dims=(256, 256))
    for network, bound in ((learner.q, 3e-3), (learner.policy.mean, 1e-3)):
        for layer in network.hidden:
            edge = layer.linear.weight.shape[-2] ** -0.5
            assert 0.95 * edge < layer.linear.weight.abs().max() <= edge
            assert (layer.linear.bias == 0.1).all()
        for parameter in (network.output.weight, network.output.bias):
            assert 0.1 * bound < parameter.abs().max() <= bound


def test_the_penalty_is_left_out_where_the_data_has_no_next_action():
    """After a truncation; its transition is learned from, without the penalty."""
    random = np.random.default_rng(0)
    episode = {
        "observations": random.normal(size=(9, 4)),
        "actions": random.uniform(-1.0, 1.0, (8, 2)),
        "rewards": random.normal(size=8),
        "terminations": np.zeros(8, bool),
        "truncations": np.arange(8) == 7,
    }
    dataset = rlrat.Dataset.from_episodes([episode, episode], env_id="Peer-v0", action_low=-1.0, action_high=1.0)
    batch = _learner(dataset, [0], batch_size=64)[1].at(0)
    last = (batch.actions[0, :, None] == torch.from_numpy(np.float32(episode["actions"][-1]))).all(-1).any(-1)
    assert torch.equal(batch.next_action_mask[0], 1.0 - last.float())
    assert 0 < last.sum() < 64

    def loss(moved):
        """Of the first step where the next actions of some transitions are others."""
        fresh, _ = _learner(dataset, [0], policy_noise=0.0, batch_size=64)
        elsewhere = batch._replace(next_actions=batch.next_actions + moved[:, None])
        return fresh.update_q(elsewhere, fresh.noise.at(0), None)["losses/q"]

    assert torch.equal(loss(last.float()), loss(torch.zeros(64)))
    assert not torch.equal(loss(1.0 - last.float()), loss(torch.zeros(64)))


def test_rewards_are_multiplied(small_dataset):
    plain, times = (_learner(small_dataset, [0], reward_factor=factor)[1].at(0).rewards for factor in (1.0, 100.0))
    torch.testing.assert_close(times, 100.0 * plain)
