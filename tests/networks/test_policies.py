"""Policy heads, and the units that a policy takes and gives."""

import numpy as np
import pytest
import torch
from scipy import stats

from rlrat.datasets.units import Units, _action_units
from rlrat.networks.layers import initialize
from rlrat.networks.policies import Policy


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


@pytest.mark.parametrize("head", list(Policy.HEADS))
def test_samples_are_the_mean_and_noise_of_the_spread_within_the_bounds(head):
    policy = Policy(4, 2, num_seeds=3, head=head, hidden_dims=(8,), activation="relu", log_std_offset=0.5)
    initialize(policy, [0, 1, 2], "actor", "orthogonal")
    observations, noise = torch.randn(3, 6, 4), torch.randn(3, 6, 2)
    if policy.log_std is not None:
        policy.log_std.data.fill_(0.5)
    mean, log_std = policy.mean(observations), torch.tensor(0.5)
    if head == "sac":
        mean, raw = mean.chunk(2, -1)
        log_std = (log_std + raw).clamp(-20.0, 2.0)
    expected = {
        "deterministic": torch.tanh(mean),
        "tanh_gaussian": (torch.tanh(mean) + log_std.exp() * noise).clamp(-1.0, 1.0),
    }.get(head, torch.tanh(mean + log_std.exp() * noise))
    torch.testing.assert_close(policy.sample(observations, noise), expected)
    assert head != "tanh_gaussian" or (expected.abs() == 1.0).any()  # some are clipped


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
    scale, offset = np.float32([2.5, 0.15]), np.float32([0.0, 0.15])
    policy.set_units(Units(mean, std, 2, scale, offset, reward_scale=1.0))
    raw = torch.randn(2, 5, 4, dtype=torch.float64)
    given = torch.tanh(policy.mean(((raw - torch.from_numpy(mean)) / torch.from_numpy(std)).float()))
    expected = given * torch.from_numpy(scale) + torch.from_numpy(offset)
    torch.testing.assert_close(policy(raw), expected.detach(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="choose from squashed_gaussian"):
        Policy(4, 2, num_seeds=1, head="categorical", hidden_dims=(8,), activation="relu")


BOUNDS = [
    (-1.0, 1.0),
    (-0.4, 0.4),
    (0.0, 0.3),
    (-1.0, 50.0),
    (-3.1, -0.7),
    (1000.0, 1000.001),
    (-1e-8, 7.0),
    (0.1, 0.7),
]


def units_of(low, high) -> Units:
    low, high = np.float32(low), np.float32(high)
    return Units(np.zeros(4), np.ones(4), len(low), *_action_units(low, high), reward_scale=1.0)


def test_actions_never_leave_the_bounds_of_their_component():
    low, high = np.float32(BOUNDS).T
    policy = Policy(4, len(low), num_seeds=1, head="deterministic", hidden_dims=(8,), activation="relu")
    policy.set_units(units_of(low, high))
    inside = np.linspace(-1, 1, 4001, dtype=np.float32)[:, None].repeat(len(low), 1)
    given = policy.give(torch.from_numpy(inside)[None], np.zeros((1, 4001, 4)))[0]
    assert ((low <= given) & (given <= high)).all()
    np.testing.assert_allclose(given[0], low, rtol=1e-6, atol=1e-6)  # -1 and 1 are the bounds
    np.testing.assert_allclose(given[-1], high, rtol=1e-6, atol=1e-6)
    back = units_of(low, high).actions(given)
    assert np.abs(back).max() <= 1.0
    wide = [0, 1, 2, 3, 4, 6, 7]  # 1000 to 1000.001 are 16 float32 numbers
    np.testing.assert_allclose(back[:, wide], inside[:, wide], atol=1e-5)


def test_bounds_around_zero_have_the_units_that_they_always_had():
    units = units_of([-1, -0.4], [1, 0.4])
    assert units.action_scale.tolist() == [1.0, np.float32(0.4)]
    actions = np.random.default_rng(0).uniform(-0.4, 0.4, (1000, 2)).astype(np.float32)
    np.testing.assert_array_equal(units.actions(actions), actions / np.float32([1.0, 0.4]))
    assert units.actions(actions).dtype == np.float32
    policy = Policy(4, 2, num_seeds=1, head="deterministic", hidden_dims=(8,), activation="relu")
    policy.set_units(units_of([-1, -1], [1, 1]))
    np.testing.assert_array_equal(policy.give(torch.from_numpy(actions)[None], actions[None]), actions[None])


def test_states_of_before_have_one_scale():
    make = lambda: Policy(4, 2, num_seeds=3, head="deterministic", hidden_dims=(8,), activation="relu")  # noqa: E731
    saved = make()
    saved.set_units(units_of([-2.5, -2.5], [2.5, 2.5]))
    state = saved.state_dict()
    before = {name: value for name, value in state.items() if name != "action_offset"}
    before["action_scale"] = state["action_scale"][:, :1]
    fresh, same, other = make(), make(), make()
    same.set_units(units_of([-2.5, -2.5], [2.5, 2.5]))
    other.set_units(units_of([-1, -2.5], [1, 2.5]))
    for policy in (fresh, same):
        policy.load_state_dict(before)
        assert {name: value.tolist() for name, value in policy.state_dict().items()} == {
            name: value.tolist() for name, value in state.items()
        }
    with pytest.raises(RuntimeError, match=r"over 2.5 in each component, where each has its own bounds now"):
        other.load_state_dict(before)
    learner = torch.nn.ModuleDict({"policy": make()})
    learner.load_state_dict({f"policy.{name}": value for name, value in before.items()})
    assert learner["policy"].action_scale.tolist() == [[2.5, 2.5]] * 3
