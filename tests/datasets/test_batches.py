import dataclasses

import numpy as np
import pytest
import torch

from rlrat.datasets.batches import Batches, Units
from rlrat.errors import InputError


def test_a_batch_is_rows_of_the_dataset_in_the_agents_units(small_dataset):
    units = Units.of(small_dataset, True, 1e-6, "iql")
    batch = Batches(small_dataset, [3, 9], 2000, "cpu", units).at(7)
    assert [tuple(column.shape) for column in batch] == [
        (2, 2000, 11),
        (2, 2000, 3),
        (2, 2000),
        (2, 2000, 11),
        (2, 2000),
    ]
    columns = {
        "observations": (small_dataset.observations - units.observation_mean) / units.observation_std,
        "actions": small_dataset.actions,
        "rewards": small_dataset.rewards[:, None] * units.reward_scale,
        "next_observations": (small_dataset.next_observations - units.observation_mean) / units.observation_std,
        "terminations": small_dataset.terminations[:, None],
    }
    rows = {row.tobytes() for row in np.concatenate(list(columns.values()), axis=1).astype(np.float32)}
    got = torch.cat([t.unsqueeze(-1) if t.ndim == 2 else t for t in batch], dim=-1).flatten(0, 1).numpy()
    assert {row.tobytes() for row in got} == rows  # 4000 draws of 200 rows: all of them


def test_batches_are_a_function_of_seed_and_update(small_dataset):
    units = Units.of(small_dataset, True, 1e-6, "none")
    together, alone = Batches(small_dataset, range(8), 16, "cpu", units), Batches(small_dataset, [3], 16, "cpu", units)
    later = alone.at(200)  # not in order, and beyond a block of indices
    for update in (0, 63, 64, 200):
        for many, one in zip(together.at(update), alone.at(update), strict=True):
            assert torch.equal(many[3], one[0])
    assert torch.equal(later.actions, alone.at(200).actions)
    assert not torch.equal(alone.at(0).actions, alone.at(1).actions)


def test_units(small_dataset):
    returns = small_dataset.episode_returns
    spread = returns.max() - returns.min()
    for scaling, expected in (("none", 1.0), ("paper", 1 / spread), ("iql", 1000 / spread)):
        assert Units.of(small_dataset, True, 1e-6, scaling).reward_scale == pytest.approx(expected)
    plain = Units.of(small_dataset, False, 1e-6, "none")
    assert not plain.observation_mean.any()
    assert (plain.observation_std == 1).all()
    wide = dataclasses.replace(small_dataset, action_low=np.full(3, -4, np.float32))
    assert Units.of(wide, True, 1e-6, "none").action_scale == 4.0
    assert Units.of(small_dataset, True, 5.0, "none").observation_std.min() >= 5.0


def test_equal_returns_cannot_scale_rewards(small_dataset):
    flat = dataclasses.replace(small_dataset, episode_returns=np.ones(5))
    with pytest.raises(InputError, match="give --reward-scaling none"):
        Units.of(flat, True, 1e-6, "iql")
