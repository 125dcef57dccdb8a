"""Policy heads, and the units that a policy takes and gives."""

import numpy as np
import pytest
import torch
from scipy import stats

from rlrat.datasets.batches import Units
from rlrat.networks import initialize
from rlrat.policies import Policy


@pytest.mark.parametrize("head", list(Policy.HEADS))
def test_policy_heads(head):
    policy = Policy(4, 2, num_seeds=3, head=head, hidden_dims=(8,), activation="relu")
    initialize(policy, [0, 1, 2], "actor", "orthogonal")
    observations, actions = torch.randn(3, 6, 4), torch.rand(3, 6, 2) * 1.8 - 0.9
    got = policy.log_prob(observations, actions).detach().double()
    mean = policy.mean(observations).detach().double()
    log_std = torch.tensor(-0.7)
    a = actions.double()
    if head == "deterministic":
        expected = -(torch.tanh(mean) - a).square().sum(-1)
    else:
        if head == "sac":
            policy.log_std_scale.data.fill_(0.5)
            policy.log_std_offset.data.fill_(-0.9)
            mean, raw = mean.chunk(2, -1)
            log_std = 0.5 * raw - 0.9
        else:
            policy.log_std.data.fill_(-0.7)
        got = policy.log_prob(observations, actions).detach().double()
        centre, at = (torch.tanh(mean), a) if head == "tanh_gaussian" else (mean, torch.atanh(a))
        expected = torch.from_numpy(stats.norm.logpdf(at, centre, torch.exp(log_std))).sum(-1)
        if head != "tanh_gaussian":
            expected -= torch.log(1 - a**2).sum(-1)
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_actions_on_the_bounds_have_a_finite_log_prob_and_gradient():
    policy = Policy(4, 2, num_seeds=1, head="squashed_gaussian", hidden_dims=(8,), activation="relu")
    loss = policy.log_prob(torch.zeros(1, 2, 4), torch.tensor([[[1.0, -1.0], [1.0, 1.0]]])).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters())


def test_act_takes_and_gives_the_environments_units():
    policy = Policy(4, 2, num_seeds=2, head="squashed_gaussian", hidden_dims=(8,), activation="relu")
    initialize(policy, [0, 1], "actor", "xavier_uniform")
    mean, std = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 0.5, 2.0, 0.1])
    policy.set_units(Units(mean, std, action_size=2, action_scale=2.5, reward_scale=1.0))
    raw = torch.randn(2, 5, 4, dtype=torch.float64)
    expected = 2.5 * torch.tanh(policy.mean(((raw - torch.from_numpy(mean)) / torch.from_numpy(std)).float()))
    torch.testing.assert_close(policy(raw), expected.detach(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="choose from squashed_gaussian"):
        Policy(4, 2, num_seeds=1, head="categorical", hidden_dims=(8,), activation="relu")
