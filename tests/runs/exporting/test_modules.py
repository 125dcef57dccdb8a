"""What is exported: the policy's own actions, of plain modules, with any activation, head, norm and gate."""

import numpy as np
import pytest
import torch

from rlrat.networks import activations, names
from rlrat.rational import Rational
from rlrat.runs.exporting.modules import example, plain_policy
from rlrat.runs.exporting.modules import names as names_of
from tests.runs.exporting.policies import HEADS, difference, make_policy

OBSERVATIONS = np.random.default_rng(0).normal(size=(50, 11)).astype(np.float32)
OTHERS = ("rational:gelu", "rational:identity")


@pytest.mark.parametrize("activation", [*names(), *OTHERS])
def test_a_plain_policy_acts_as_ours(activation):
    after = {"norm": "layer_after", "norm_epsilon": 0.1}
    for place, network in enumerate(({}, {"gated": True, "norm": "layer"}, after, {**after, "gated": True})):
        policy = make_policy(head=HEADS[place], activation=activation, **network)
        plain = plain_policy(policy)
        assert not any(isinstance(module, Rational) for module in plain.modules())
        assert difference(policy, plain(torch.from_numpy(OBSERVATIONS)), OBSERVATIONS) < 1e-5


class Slope(torch.nn.Module):
    """A user's: it needs the seed axis."""

    trained_activation = True

    def __init__(self, features, batch_shape):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.linspace(0.5, 1.5, features).expand(*batch_shape, features).clone())

    def forward(self, x):
        return torch.where(x > 0, x, x * self.slope.unsqueeze(-2))


@pytest.mark.parametrize("sequence", [False, True])
def test_a_class_of_the_users_keeps_its_seed_axis(sequence, monkeypatch):
    monkeypatch.setattr(activations, "_modules", {__name__})
    policy = make_policy(sequence=sequence, activation=f"{__name__}:Slope")
    plain = plain_policy(policy)
    if not sequence:
        assert difference(policy, plain(torch.from_numpy(OBSERVATIONS)), OBSERVATIONS) < 1e-5
        return
    policy.target_returns = (100.0,)
    policy.reset()
    context = list(plain.start(2, 100.0))
    context[0][:, -1] = torch.from_numpy(OBSERVATIONS[:2])
    np.testing.assert_allclose(plain(*context)[0], policy(OBSERVATIONS[:2]), rtol=0, atol=1e-5)


def test_the_usual_bounds_of_actions_cost_no_operation():
    policy = make_policy()
    policy.action_scale.fill_(1.0)
    policy.action_offset.zero_()
    *_, last, _ = torch.fx.symbolic_trace(plain_policy(policy)).graph.nodes
    assert last.target is torch.tanh


@pytest.mark.parametrize("network", [{}, {"norm": "none"}, {"gated": True, "activation": "prelu"}])
def test_a_sequence_policy_moves_its_context_on(network):
    """By its own outputs alone it acts as ours does over an episode longer than the context; columns are apart."""
    policy = make_policy(sequence=True, **network)
    policy.target_returns = (100.0,)
    policy.reset()
    plain = plain_policy(policy)
    context = list(plain.start(2, 100.0))
    assert names_of(plain)[1] == (
        *("action", "next_observations", "next_actions", "next_returns_to_go", "next_timesteps", "next_mask"),
    )
    random = np.random.default_rng(0)
    for step in range(9):
        observation, reward = random.normal(size=(2, 11)).astype(np.float32), random.normal(size=2)
        context[0][:, -1] = torch.from_numpy(observation)
        action, *context = plain(*context)
        np.testing.assert_allclose(action, policy(observation), rtol=0, atol=1e-5)
        policy.observe(reward, np.zeros(2, bool))
        context[2][:, -1] -= torch.from_numpy(reward)
        assert context[3][:, -1].tolist() == [step + 1] * 2
        assert context[4].sum(1).tolist() == [min(step + 2, 4)] * 2


def test_what_stands_before_an_episode_does_not_count():
    plain = plain_policy(make_policy(sequence=True))
    context = example(plain)
    observations, actions, returns_to_go, timesteps, mask = context
    expected = plain(*context)[0]
    other = (observations.clone(), actions.clone(), returns_to_go.clone(), timesteps.clone())
    for part in other:
        part[:, :-1] += 7
    torch.testing.assert_close(plain(*other, mask)[0], expected)
    seen = plain(*other, torch.ones_like(mask))[0]
    assert (seen - expected).abs().max() > 1e-3
