import dataclasses

import numpy as np
import torch
from scipy import stats

from rlrat.datasets.batches import Batches, Windows
from rlrat.datasets.units import Units


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


def test_windows_are_the_steps_of_one_episode(small_dataset):
    units, data = Units.of(small_dataset, True, 1e-6, "none"), small_dataset
    windows = Windows(data, [3, 9], 500, 25, "cpu", units, return_scale=10.0)
    batch = windows.at(7)
    assert [tuple(x.shape) for x in batch] == [(2, 500, 25, 11), (2, 500, 25, 3), *[(2, 500, 25)] * 3]
    scaled = ((data.observations - units.observation_mean) / units.observation_std).astype(np.float32)
    where = {row.tobytes(): index for index, row in enumerate(scaled)}
    ends = np.append(data.episode_starts[1:], len(data))
    firsts = []
    for seed in range(2):
        for row in range(500):
            first = where[batch.observations[seed, row, 0].numpy().tobytes()]
            firsts.append(first)
            episode = np.searchsorted(data.episode_starts, first, side="right") - 1
            steps = min(25, ends[episode] - first)
            assert batch.mask[seed, row].tolist() == [1.0] * steps + [0.0] * (25 - steps)
            part = slice(first, first + steps)
            np.testing.assert_array_equal(batch.observations[seed, row, :steps], scaled[part])
            np.testing.assert_array_equal(batch.actions[seed, row, :steps], data.actions[part])
            start = first - data.episode_starts[episode]
            assert batch.timesteps[seed, row, :steps].tolist() == list(range(start, start + steps))
            to_go = [data.rewards[i : ends[episode]].sum(dtype=np.float64) / 10 for i in range(first, first + steps)]
            np.testing.assert_allclose(batch.returns_to_go[seed, row, :steps], to_go, rtol=1e-5, atol=1e-5)
    # Every transition is as likely as any other, so an episode is drawn in proportion to its length.
    counts = np.bincount(firsts, minlength=len(data))
    assert stats.chisquare(counts).pvalue > 0.01


def test_no_window_begins_in_an_episode_that_the_source_breaks_off(small_dataset):
    units = Units.of(small_dataset, True, 1e-6, "none")
    complete = np.array([True, True, False, True, False])
    data = dataclasses.replace(small_dataset, episode_complete=complete)
    batch = Windows(data, [0], 2000, 3, "cpu", units, 1.0).at(0)
    scaled = ((data.observations - units.observation_mean) / units.observation_std).astype(np.float32)
    sizes = np.diff(np.append(data.episode_starts, len(data)))
    allowed = {row.tobytes() for row in scaled[np.repeat(complete, sizes)]}
    assert {row.tobytes() for row in batch.observations[0, :, 0].numpy()} == allowed


def test_windows_are_a_function_of_seed_and_update(small_dataset):
    units = Units.of(small_dataset, True, 1e-6, "none")
    many, one = (Windows(small_dataset, seeds, 16, 5, "cpu", units, 1.0) for seeds in (range(8), [3]))
    for update in (0, 200):
        for together, alone in zip(many.at(update), one.at(update), strict=True):
            assert torch.equal(together[3], alone[0])
    assert not torch.equal(one.at(0).actions, one.at(1).actions)
