"""IQL's update beside the paper's equations, computed a second time in NumPy and float64."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from tests.agents.learners import HEADS, NO_DROPOUT, assert_gradients, forward, log_prob, make_learner

# No setting of the equations has its default, so that none is taken in another's place.
_learner = partial(
    make_learner, "iql", reward_scaling="paper", discount=0.9, expectile=0.8, inverse_temperature=2.5, polyak=0.01
)


def _numpy_losses(learner, v_next, v_actor, batch, seed):
    """Losses of one seed at `learner`'s parameters: Q's with V(s') of `v_next`, the actor's with `v_actor`'s advantage.

    The weights of the actor come along.
    """
    args, q, v = learner.args, learner.q, learner.v
    s, a, r, s2, d = (t[seed].double().numpy() for t in batch)
    sa = np.concatenate([s, a], 1)
    target = r + args.discount * (1 - d) * forward(v_next, s2, seed)[:, 0]
    min_q = np.min([forward(learner.q_target, sa, (seed, c))[:, 0] for c in range(2)], axis=0)
    u = min_q - forward(v, s, seed)[:, 0]
    weight = np.minimum(np.exp(args.inverse_temperature * (min_q - forward(v_actor, s, seed)[:, 0])), args.max_weight)
    return {
        "q": sum(np.mean((forward(q, sa, (seed, c))[:, 0] - target) ** 2) for c in range(2)),
        "v": np.mean(np.abs(args.expectile - (u < 0)) * u**2),
        "actor": -np.mean(weight * log_prob(learner.policy, s, a, seed)),
    }, weight


def _advantage(q_target, v, batch, seed):
    s, a = (t[seed].double().numpy() for t in batch[:2])
    q = [forward(q_target, np.concatenate([s, a], 1), (seed, c))[:, 0] for c in range(2)]
    return np.minimum(*q) - forward(v, s, seed)[:, 0]


@pytest.mark.parametrize("order", ["paper", "corl"])
@pytest.mark.parametrize("policy", HEADS)
def test_losses_and_their_order_are_the_papers(small_dataset, order, policy):
    settings = {"max_weight": 1.5, "learning_rate": 3e-3}  # some weights are clipped; a step shows in the next loss
    learner, batches = _learner(small_dataset, [3, 4], update_order=order, policy=policy, **settings)
    for update in range(5):
        before, batch = copy.deepcopy(learner), batches.at(update)
        metrics = learner.update(batch, NO_DROPOUT)
        for seed in range(2):
            # Paper: Q from the old V, V, the actor from the new V. CORL: the actor's advantage is the old V's.
            v_actor = learner.v if order == "paper" else before.v
            expected, weight = _numpy_losses(before, before.v, v_actor, batch, seed)
            got = {name: metrics[f"losses/{name}"][seed].item() for name in expected}
            assert got == pytest.approx(expected, rel=1e-4, abs=1e-6)
            clipped = metrics["charts/weight_clipped"][seed].item()
            assert clipped == pytest.approx(np.mean(weight == 1.5))
            assert 0 < clipped < 1
            advantage = _advantage(before.q_target, v_actor, batch, seed)
            for name, value in (("mean", advantage.mean()), ("std", advantage.std())):
                assert metrics[f"charts/advantage_{name}"][seed].item() == pytest.approx(value, rel=1e-4, abs=1e-6)
        target = 0.99 * before.q_target.output.weight + 0.01 * learner.q.output.weight
        torch.testing.assert_close(learner.q_target.output.weight, target)


@pytest.mark.parametrize("order", ["paper", "corl"])
@pytest.mark.parametrize("policy", HEADS)
def test_the_gradient_of_each_loss_is_the_one_that_steps(small_dataset, order, policy):
    learner, batches = _learner(small_dataset, [0], update_order=order, policy=policy, max_weight=1.5)
    before, batch = copy.deepcopy(learner), batches.at(0)
    learner.update(batch, NO_DROPOUT)
    assert ("log_std" in dict(learner.policy.named_parameters())) == (policy != "deterministic")
    v_actor = learner.v if order == "paper" else before.v
    for network, name in (("q", "q"), ("v", "v"), ("policy", "actor")):
        optimizer = getattr(learner, f"{network}_optimizer")
        # Only the named network moves; everything else is what its loss sees as constant.
        assert_gradients(
            learner, before, network, optimizer,
            lambda moved, name=name: _numpy_losses(moved, before.v, v_actor, batch, 0)[0][name],
        )  # fmt: skip
