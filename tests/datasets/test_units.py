import dataclasses

import numpy as np
import pytest

from rlrat.datasets.batches import Batches
from rlrat.datasets.units import Units, reward_rule
from rlrat.errors import InputError


def test_units(small_dataset):
    returns = small_dataset.episode_returns
    spread = returns.max() - returns.min()
    for scaling, expected in (("none", 1.0), ("paper", 1 / spread), ("iql", 1000 / spread)):
        assert Units.of(small_dataset, True, 1e-6, scaling).reward_scale == pytest.approx(expected)
    plain = Units.of(small_dataset, False, 1e-6, "none")
    assert not plain.observation_mean.any()
    assert (plain.observation_std == 1).all()
    wide = dataclasses.replace(small_dataset, action_low=np.float32([-1, -4, 0]), action_high=np.float32([1, 0, 2]))
    units = Units.of(wide, True, 1e-6, "none")
    assert (units.action_scale.tolist(), units.action_offset.tolist()) == ([1, 2, 1], [0, -2, 1])
    actions = np.float32([[-1, -4, 0], [0.5, -1, 1], [1, 0, 2]])
    assert units.actions(actions).tolist() == [[-1, -1, -1], [0.5, 0.5, 0], [1, 1, 1]]
    assert Units.of(small_dataset, True, 5.0, "none").observation_std.min() >= 5.0


def test_equal_returns_cannot_scale_rewards(small_dataset):
    flat = dataclasses.replace(small_dataset, episode_returns=np.ones(5))
    with pytest.raises(InputError, match="give --reward-scaling none"):
        Units.of(flat, True, 1e-6, "iql")


def sparse(dataset, **changes):
    """The dataset with AntMaze's rewards: 1 at the end of an episode that gets there, else 0."""
    rewards = np.zeros(len(dataset), np.float32)
    rewards[dataset.episode_starts[1:] - 1] = 1.0
    whole = {"episode_returns": np.add.reduceat(rewards, dataset.episode_starts).astype(float)}
    return dataclasses.replace(dataset, rewards=rewards, **whole, **changes)


def test_rewards_of_antmaze_are_those_of_iqls_authors(small_dataset):
    for about in ({"id": "antmaze-umaze-v2"}, {"env_id": "AntMaze_UMaze-v4"}):
        data = sparse(small_dataset, **about)
        for scaling in ("iql", "none"):
            units = Units.of(data, True, 1e-6, scaling, None)
            assert (units.reward_shift, units.reward_scale) == (-1.0, 1.0)
            rewards = Batches(data, [0], 500, "cpu", units).at(0).rewards
            assert set(rewards.flatten().tolist()) == {-1.0, 0.0}
        assert Units.of(data, True, 1e-6, "none").reward_shift == 0.0  # as FQE and judging have it
        assert reward_rule(data, "iql", 0.0) == ("none", 0.0)
        assert reward_rule(data, "paper", 0.5) == ("paper", 0.5)


def test_rewards_of_other_data_are_not_shifted(small_dataset):
    for about in ({}, {"id": "hopper-medium-v2"}):
        data = dataclasses.replace(small_dataset, **about)
        assert reward_rule(data, "iql", None) == ("iql", 0.0)
        assert Units.of(data, True, 1e-6, "iql", None).reward_scale == Units.of(data, True, 1e-6, "iql").reward_scale
    dense = dataclasses.replace(small_dataset, id="antmaze-umaze-v2")  # rewards that are not 0 and 1
    assert reward_rule(dense, "none", None) == ("none", 0.0)
    hands = dataclasses.replace(small_dataset, id="pen-human-v1")
    assert reward_rule(hands, "iql", None) == ("none", 0.0)
    assert reward_rule(hands, "paper", None) == ("paper", 0.0)
    task = dataclasses.replace(small_dataset, id="antmaze-large-navigate-singletask-task1-v0", reference="success")
    assert reward_rule(task, "iql", None) == ("none", 0.0)


def test_rewards_are_shifted_before_they_are_scaled(small_dataset):
    units = Units.of(small_dataset, True, 1e-6, "paper", -2.0)
    returns = small_dataset.episode_returns - 2.0 * small_dataset.episode_lengths
    assert units.reward_scale == pytest.approx(1 / np.ptp(returns))
    assert units.rewards(np.float32([3.0]))[0] == pytest.approx(units.reward_scale)
    plain = Units.of(small_dataset, True, 1e-6, "iql")
    np.testing.assert_array_equal(
        plain.rewards(small_dataset.rewards), small_dataset.rewards * plain.reward_scale
    )  # bit by bit
    same = dataclasses.replace(small_dataset, rewards=np.full(len(small_dataset), -1.0, np.float32))
    sums = -1.0 * small_dataset.episode_lengths
    for rounding in (0.0, 1e-9):
        returns = sums + rounding * np.arange(len(sums))
        with pytest.raises(InputError, match="but for rounding: give --reward-scaling none"):
            Units.of(dataclasses.replace(same, episode_returns=returns), True, 1e-6, "iql", 1.0)
