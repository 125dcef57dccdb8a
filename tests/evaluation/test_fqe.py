"""Fitted Q evaluation, against a problem of two states whose values are known in closed form."""

import dataclasses

import numpy as np
import pytest
import torch

import rlrat
from rlrat.errors import InputError
from rlrat.evaluation.fqe import (
    FQESettings,
    Stopped,
    cut_share,
    data_value,
    discounted_returns,
    episode_draws,
    fit_q,
    initial_rows,
)
from tests.emulator import Emulator

SETTINGS = FQESettings(updates=600, batch_size=128, discount=0.9, hidden_dims=(32, 32), polyak=0.1, learning_rate=2e-3)
REWARDS = np.array([[0.2, 0.0], [2.0, 1.0]])  # of the state and the action
# Action 1 leads to state 1, action 0 to state 0; both states are left by every step. V(1) = r(1, 1) / (1 - 0.9).
ALWAYS_ONE = np.array([0.9 * 10.0, 10.0])
# a = 0 for ever: V(0) = 0.2 / (1 - 0.9), V(1) = 2 + 0.9 V(0).
ALWAYS_ZERO = np.array([2.0, 3.8])


def two_states(episodes: int = 60, steps: int = 20, ends: bool = False) -> rlrat.Dataset:
    """Random actions in a problem of two states; with `ends`, action 0 in state 1 is terminal."""
    random, found = np.random.default_rng(0), []
    for _ in range(episodes):
        states, actions = [int(random.integers(2))], []
        for _ in range(steps):
            actions.append(int(random.integers(2)))
            if ends and (states[-1], actions[-1]) == (1, 0):
                states.append(0)
                break
            states.append(actions[-1])
        over = ends and (states[-2], actions[-1]) == (1, 0)
        last = np.arange(len(actions)) == len(actions) - 1
        found.append(
            {
                "observations": np.eye(2)[states],
                "actions": 2.0 * np.array(actions)[:, None] - 1.0,
                "rewards": REWARDS[states[:-1], actions],
                "terminations": last & over,
                "truncations": last & (not over),
            }
        )
    return rlrat.Dataset.from_episodes(found, id="test/two-states")


def always(*actions: float):
    """Policies that each take one action, side by side."""

    def act(observations: np.ndarray) -> np.ndarray:
        return np.broadcast_to(np.reshape(actions, (-1, 1, 1)), (*observations.shape[:-1], 1))

    return act


def test_values_are_those_of_the_bellman_equation_and_truncated_ends_bootstrap():
    data = two_states()
    fitted = fit_q(data, always(1.0, -1.0), [0, 1], SETTINGS)
    first = data.observations[initial_rows(data)] @ [0, 1]
    expected = [value[first.astype(int)].mean() for value in (ALWAYS_ONE, ALWAYS_ZERO)]
    np.testing.assert_allclose(fitted.values(), expected, rtol=0.03)
    q = fitted.q(np.eye(2, dtype=np.float32), np.full((2, 2, 1), -1.0, np.float32))
    np.testing.assert_allclose(q[0], REWARDS[:, 0] + 0.9 * ALWAYS_ONE[0], rtol=0.03)  # then it acts by 1 again
    assert [update for update, _ in fitted.checks] == [60 * k for k in range(1, 11)]
    np.testing.assert_array_equal(fitted.checks[-1][1], fitted.values())


def test_nothing_comes_after_a_terminal_state():
    data = two_states(ends=True)
    fitted = fit_q(data, always(-1.0), [0], SETTINGS)
    q = fitted.q(np.eye(2, dtype=np.float32), np.full((1, 2, 1), -1.0, np.float32))
    np.testing.assert_allclose(q[0], [2.0, 2.0], rtol=0.03)  # 0.2 / (1 - 0.9) for ever, and one last reward


def test_same_seeds_give_the_same_bits_and_entries_do_not_know_each_other():
    data, few = two_states(), FQESettings(updates=20, batch_size=64, discount=0.9, hidden_dims=(16,))
    values = fit_q(data, always(1.0, -1.0), [3, 4], few, resample=True).values()
    np.testing.assert_array_equal(fit_q(data, always(1.0, -1.0), [3, 4], few, resample=True).values(), values)
    np.testing.assert_allclose(fit_q(data, always(-1.0), [4], few, resample=True).values(), values[1:], rtol=1e-5)
    assert fit_q(data, always(1.0, -1.0), [5, 4], few, resample=True).values()[0] != values[0]


def test_a_resample_leaves_out_the_episodes_that_it_did_not_draw():
    data = two_states(episodes=4, steps=5)
    draws = episode_draws(data, range(50))
    assert draws.shape == (50, 4)
    assert set(draws.sum(1)) == {4}
    assert 0.5 < (draws > 0).mean() < 0.85  # 1 - (1 - 1/4)^4 = 0.68
    # Rewards that tell the episodes apart: with a discount of 0, Q is the reward.
    rewards = np.repeat([1.0, 2.0, 4.0, 8.0], 5)
    episodes = [
        {
            "observations": np.full((6, 1), float(e)) + 0.01 * np.arange(6)[:, None],
            "actions": np.zeros((5, 1)),
            "rewards": rewards[5 * e : 5 * e + 5],
            "terminations": np.zeros(5, bool),
            "truncations": np.arange(5) == 4,
        }
        for e in range(4)
    ]
    data = rlrat.Dataset.from_episodes(episodes)
    seen = FQESettings(updates=200, batch_size=64, discount=0.0, hidden_dims=(32,), learning_rate=1e-2)
    fitted = fit_q(data, always(0.0, 0.0), [0, 1], seen, resample=True)
    np.testing.assert_array_equal(fitted.initial_weights, draws[:2])
    q = fitted.q(fitted.initial_observations, fitted.initial_actions)
    for own, drawn in zip(q, draws[:2] > 0, strict=True):
        np.testing.assert_allclose(own[drawn], np.array([1.0, 2.0, 4.0, 8.0])[drawn], rtol=0.1)
    expected = (draws[:2] * q).sum(1) / 4
    np.testing.assert_allclose(fitted.values(), expected)


def test_an_episode_that_may_begin_anywhere_has_no_initial_state():
    few = FQESettings(updates=2, batch_size=8, hidden_dims=(8,))
    data = dataclasses.replace(two_states(episodes=3, steps=5), episode_complete=np.array([True, False, True]))
    for resample in (False, True):
        weights = fit_q(data, always(1.0, 1.0), [0, 1], few, resample=resample).initial_weights
        assert weights[:, 1].max() == 0
        assert weights[:, [0, 2]].sum(1).min() > 0
    none = dataclasses.replace(data, episode_complete=np.zeros(3, bool))
    np.testing.assert_array_equal(fit_q(none, always(1.0), [0], few).initial_weights, np.ones((1, 3)))


@pytest.mark.slow  # the kernels run in an interpreter
@pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles where there is a GPU")
def test_on_a_gpu_an_update_is_captured_and_computes_the_same():
    data, few = two_states(episodes=20, steps=8), FQESettings(updates=12, batch_size=16, hidden_dims=(8,))
    values = fit_q(data, always(1.0, -1.0), [3, 4], few, resample=True).values()
    with Emulator() as emulator:
        found = fit_q(data, always(1.0, -1.0), [3, 4], few, resample=True).values()
    assert (emulator.refused, emulator.unordered, emulator.captures) == ([], [], 1)
    assert emulator.replays > 0
    np.testing.assert_allclose(found, values, rtol=1e-5)


def test_a_fit_ends_early_where_its_caller_asks_for_it():
    asked = []

    def stopped() -> bool:
        asked.append(True)
        return len(asked) == 2

    with pytest.raises(Stopped):
        fit_q(two_states(), always(1.0), [0], SETTINGS, stopped=stopped)
    assert len(asked) == 2


def test_an_entry_whose_policy_is_not_finite_has_no_value_and_leaves_the_others_alone():
    data, few = two_states(), FQESettings(updates=20, batch_size=64, discount=0.9, hidden_dims=(16,))
    values = fit_q(data, always(1.0, np.nan), [0, 1], few).values()
    assert np.isnan(values[1])
    np.testing.assert_allclose(values[:1], fit_q(data, always(1.0), [0], few).values(), rtol=1e-5)


def test_what_does_not_fit_is_refused_in_one_line():
    data = two_states()
    with pytest.raises(InputError, match=r"actions of shape \(1, \d+, 2\), but must give 1 x [\d,]+ actions of size 1"):
        fit_q(data, lambda observations: np.zeros((*observations.shape[:-1], 2)), [0], SETTINGS)
    with pytest.raises(InputError, match=r"the discount is 1\.0, but must be at least 0 and below 1"):
        fit_q(data, always(1.0), [0], FQESettings(discount=1.0))


def test_discounted_returns_are_those_of_each_episode():
    data = two_states(episodes=7, steps=11, ends=True)
    expected, ends = np.zeros(len(data)), np.append(data.episode_starts[1:], len(data))
    for start, end in zip(data.episode_starts, ends, strict=True):
        for row in range(start, end):
            expected[row] = sum(0.8**k * data.rewards[row + k] for k in range(end - row))
    np.testing.assert_allclose(discounted_returns(data, 0.8), expected)
    np.testing.assert_allclose(data_value(data, 0.8), expected[data.episode_starts].mean())
    whole = dataclasses.replace(data, episode_complete=np.arange(7) < 2)
    np.testing.assert_allclose(data_value(whole, 0.8), expected[data.episode_starts[:2]].mean())
    assert np.isnan(data_value(dataclasses.replace(data, episode_complete=np.zeros(7, bool)), 0.8))


def test_what_truncation_leaves_out_of_the_datas_value():
    assert cut_share(two_states(episodes=3, steps=20), 0.9) == pytest.approx(0.9**20)
    mixed = two_states(episodes=60, ends=True)  # those that end in a terminal state leave nothing out
    share = np.mean(~mixed.terminations[np.append(mixed.episode_starts[1:], len(mixed)) - 1])
    assert 0.0 <= cut_share(mixed, 0.9) == pytest.approx(share * 0.9**20)
