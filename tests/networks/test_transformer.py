"""The Decision Transformer's network: attention, padding, and acting step by step."""

import numpy as np
import pytest
import torch
from torch import nn

from rlrat.errors import InputError
from rlrat.networks.layers import initialize
from rlrat.networks.transformer import Attention, Gain, SequencePolicy, apply, check_target_returns

SIZES = {
    "return_scale": 10.0, "context_length": 5, "max_episode_steps": 12, "embedding_size": 8, "num_layers": 2,
    "hidden_dims": (16,), "activation": "gelu",
}  # fmt: skip


def make_policy(seeds=(0,), norm="layer", num_heads=1, target_returns=(30.0,), **settings) -> SequencePolicy:
    settings = {**SIZES, **settings}
    policy = SequencePolicy(
        4, 2, num_seeds=len(seeds), num_heads=num_heads, norm=norm, target_returns=target_returns, **settings
    )
    initialize(policy, seeds, "policy", "lecun_normal")  # larger than N(0, 0.02): a mistake must show
    if norm == "none":
        set_gains(policy, 0.7)
    return policy


def set_gains(policy: SequencePolicy, value: float) -> None:
    for module in policy.modules():
        if isinstance(module, Gain):
            module.weight.data.fill_(value)


def window(seeds: int, rows: int, steps: int) -> list[torch.Tensor]:
    timesteps = torch.randint(0, 6, (seeds, rows, 1)) + torch.arange(steps)
    shape = (seeds, rows, steps)
    return [torch.randn(*shape, 4), torch.rand(*shape, 2) * 2 - 1, torch.randn(shape), timesteps]


@pytest.mark.parametrize("num_heads", [1, 2])
def test_attention_is_pytorchs(num_heads):
    ours = Attention(8, num_heads, 1)
    initialize(ours, [0], "attention", "xavier_uniform")
    theirs = nn.MultiheadAttention(8, num_heads, batch_first=True)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight[0].T, ours.key_value.weight[0].T]))
        theirs.out_proj.weight.copy_(ours.output.weight[0].T)
        theirs.in_proj_bias.zero_()
        theirs.out_proj.bias.zero_()
    x = torch.randn(3, 7, 8)
    future = torch.ones(7, 7, dtype=torch.bool).triu(1)
    expected, _ = theirs(x, x, x, attn_mask=future, need_weights=False)
    torch.testing.assert_close(ours(x[None], slice(None))[0], expected, atol=1e-5, rtol=1e-5)
    some = ours(x[None], slice(1, 6, 3))[0]
    torch.testing.assert_close(some, expected[:, 1:6:3], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm", ["layer", "none"])
@pytest.mark.parametrize("num_heads", [1, 2])
def test_no_action_sees_itself_or_the_future(norm, num_heads):
    policy, parts = make_policy((0, 1), norm, num_heads), window(2, 3, 5)
    before = policy.predict(*parts)
    for step in range(5):
        changed = [part.clone() for part in parts]
        changed[1][:, :, step:] += 1.0  # this step's action too
        for part in (changed[0], changed[2], changed[3]):
            part[:, :, step + 1 :] += 3
        after = policy.predict(*changed)
        assert torch.equal(after[:, :, : step + 1], before[:, :, : step + 1])
        if step < 4:
            assert not torch.isclose(after[:, :, step + 1 :], before[:, :, step + 1 :]).all()
    for index in (0, 2, 3):  # but every step sees its own state, return-to-go and time
        changed = [part.clone() for part in parts]
        changed[index][:, :, 2] += 1
        assert not torch.isclose(policy.predict(*changed)[:, :, 2], before[:, :, 2]).all()


def test_padding_has_no_effect():
    policy, parts = make_policy(), window(1, 3, 5)
    whole = policy.predict(*parts)
    torch.testing.assert_close(policy.predict(*(part[:, :, :3] for part in parts)), whole[:, :, :3])
    for part in parts:
        part[:, :, 3:] = 7
    torch.testing.assert_close(policy.predict(*parts)[:, :, :3], whole[:, :, :3])


@pytest.mark.parametrize("num_heads", [1, 2])
def test_masked_steps_before_an_episode_have_no_effect(num_heads):
    """Each row has its own; the others are as they are without what is masked."""
    policy, parts = make_policy(num_heads=num_heads), window(1, 2, 5)
    mask = torch.tensor([[[0.0, 0.0, 1.0, 1.0, 1.0], [1.0] * 5]])
    masked = policy.predict(*parts, mask=mask)
    assert masked.isfinite().all()
    torch.testing.assert_close(masked[:, 1], policy.predict(*parts)[:, 1])
    torch.testing.assert_close(masked[:, :1, 2:], policy.predict(*(part[:, :1, 2:] for part in parts)))
    assert not torch.isclose(masked[:, 0, 2:], policy.predict(*parts)[:, 0, 2:]).all()


def test_wanted_steps_are_those_of_the_whole():
    policy, parts = make_policy((0, 1)), window(2, 3, 5)
    whole = policy.predict(*parts)
    torch.testing.assert_close(policy.predict(*parts, wanted=slice(4, 5)), whole[:, :, 4:])
    torch.testing.assert_close(policy.predict(*parts, wanted=slice(1, 4)), whole[:, :, 1:4])


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_the_batched_rollout_is_the_forward_pass_on_each_window(norm):
    """Two seeds, two targets, two episodes, some over early; raw units; beyond the context and the timestep table."""
    policy = make_policy((0, 1), norm, target_returns=(30.0, 12.0))
    mean, std = torch.tensor([1.0, -2.0, 0.0, 3.0]), torch.tensor([2.0, 0.5, 1.0, 4.0])
    policy.observation_mean.copy_(mean)
    policy.observation_std.copy_(std)
    policy.action_scale.fill_(2.5)
    random = np.random.default_rng(0)
    steps = 15
    observations = random.normal(size=(steps, 2, 4, 4))
    rewards = random.normal(size=(steps, 2, 4))
    ends = np.array([[3, 15, 8, 15], [15, 15, 2, 15]])
    acted = []
    policy.reset()
    for step in range(steps):
        acted.append(policy(observations[step]))
        policy.observe(np.where(step < ends, rewards[step], 0.0), step + 1 >= ends)
    acted = torch.from_numpy(np.stack(acted)) / 2.5
    states = (torch.from_numpy(observations).float() - mean) / std
    for seed in range(2):
        alone = make_policy((seed,), norm)
        for column in range(4):
            spent = np.cumsum(rewards[:, seed, column]) - rewards[:, seed, column]
            to_go = torch.from_numpy((30.0 if column < 2 else 12.0) - spent).float() / 10.0
            for step in range(min(steps, ends[seed, column])):
                first = max(0, step - 4)
                part = slice(first, step + 1)
                given = acted[part, seed, column].clone()
                given[-1] = 9.0  # not seen
                times = torch.arange(first, step + 1)
                parts = (states[part, seed, column], given, to_go[part], times)
                expected = alone.predict(*(x[None, None] for x in parts))[0, 0, -1]
                torch.testing.assert_close(acted[step, seed, column], expected, atol=1e-5, rtol=1e-5)


def test_an_episode_begins_anew_after_reset():
    policy = make_policy()
    first = policy(np.ones((1, 3, 4)))
    second = policy(np.ones((1, 3, 4)))
    assert not np.allclose(first, second)  # it knows what it has done
    policy.reset()
    np.testing.assert_array_equal(policy(np.ones((1, 3, 4))), first)
    policy.reset()
    with torch.no_grad():
        np.testing.assert_allclose(policy(np.ones(4)), first[0, 0], atol=1e-6)  # gymnasium's single observation
    policy.observe(1.0, False)


def test_episodes_must_divide_among_the_targets():
    policy = make_policy(target_returns=(3.0, 2.0))
    with pytest.raises(ValueError, match="3 episodes cannot be split among 2 target returns"):
        policy(np.zeros((1, 3, 4)))


@pytest.mark.parametrize("num_heads", [1, 2])
def test_dropout_multiplies_each_place(num_heads):
    policy, parts = make_policy(num_heads=num_heads), window(1, 3, 5)
    plain = policy.predict(*parts)
    shapes = policy.dropout_shapes(3, 0.1, 0.2, 0.3)
    assert [rate for rate, _ in shapes] == [0.1, 0.2, 0.3, 0.3, 0.2, 0.3, 0.3]
    ones = [torch.ones(1, *shape) for _, shape in shapes]
    torch.testing.assert_close(policy.predict(*parts, dropout=ones), plain)
    for place in range(len(ones)):
        masks = [None] * len(ones)
        masks[place] = 2 * ones[place]
        assert not torch.isclose(policy.predict(*parts, dropout=masks), plain).all()


@pytest.mark.parametrize("activation", ["relu", "gelu", "rational"])
def test_a_deep_network_without_normalisation_starts_as_the_identity(activation):
    """With branches at full strength the residual stream doubles with every block."""
    policy = make_policy(norm="none", num_layers=24, activation=activation)
    set_gains(policy, 0.0)
    parts = window(1, 3, 5)
    shallow = make_policy(norm="none", num_layers=1, activation=activation)
    set_gains(shallow, 0.0)
    for name in ("return_embedding", "observation_embedding", "action_embedding", "timestep_embedding", "head"):
        getattr(shallow, name).load_state_dict(getattr(policy, name).state_dict())
    torch.testing.assert_close(policy.predict(*parts), shallow.predict(*parts))
    policy.predict(*parts).square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.parameters())
    assert all(block.mlp_gain.weight.grad.abs().min() > 0 for block in policy.blocks)


def test_apply_keeps_the_leading_axes():
    linear = nn.Linear(3, 2)
    x = torch.randn(2, 4, 5, 3)
    torch.testing.assert_close(apply(linear, x), linear(x))


def test_observing_follows_an_action():
    with pytest.raises(RuntimeError, match="call the policy first"):
        make_policy().observe(1.0, False)


def test_an_episode_goes_along_where_the_policy_moves():
    policy, other = make_policy(target_returns=(3.0, 2.0)), make_policy(target_returns=(3.0, 2.0))
    for each in (policy, other):
        each(np.ones((1, 4, 4)))
        each.observe(np.ones((1, 4)), np.array([[False, True, False, False]]))
    other.to(torch.float64).to(torch.float32)
    np.testing.assert_array_equal(other(np.ones((1, 4, 4))), policy(np.ones((1, 4, 4))))
    other.to("meta")
    held = [*other._window, other._return_to_go, other._dones, *other.parameters(), *other.buffers()]
    assert len(other._window) == 4
    assert all(tensor.is_meta for tensor in held)
    policy.reset()
    assert not any(isinstance(value, torch.Tensor) for value in vars(policy).values())


def test_what_target_returns_may_be():
    assert check_target_returns([3, 2.5]) == (3.0, 2.5)
    for wrong in ((), (3.0, 3), [float("nan")], 5.0, ["a"], None):
        with pytest.raises(InputError, match="one or more different finite numbers"):
            check_target_returns(wrong)
