"""Each column against its definition, step by step."""

import dataclasses
from typing import NamedTuple, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlrat.datasets.batches import Batches
from rlrat.datasets.columns import COLUMNS, make_columns
from rlrat.datasets.dataset import Dataset
from rlrat.datasets.units import Units
from rlrat.errors import InputError

SETTINGS = {"discount": 0.9, "steps": 3, "horizon": 4}
DISCOUNT, STEPS, HORIZON = SETTINGS.values()


def make(lengths, terminal) -> Dataset:
    """Episodes of these lengths, of which some end in a terminal state and the others are truncated."""
    random = np.random.default_rng(len(lengths))
    episodes = [
        {
            "observations": random.normal(2.0, 3.0, (steps + 1, 2)),
            "actions": random.uniform(-3.0, 1.0, (steps, 2)),
            "rewards": random.normal(1.0, 1.0, steps),
            "terminations": (np.arange(steps) == steps - 1) & end,
            "truncations": np.zeros(steps, bool),
            "log_probs": random.normal(size=steps),
        }
        for steps, end in zip(lengths, terminal, strict=True)
    ]
    return Dataset.from_episodes(episodes, action_low=(-3.0, -4.0), action_high=(1.0, 4.0))


def expected(data: Dataset, units: Units) -> dict[str, np.ndarray]:
    """What the definitions say, transition by transition."""
    found = {name: [] for name in COLUMNS}
    ends = np.append(data.episode_starts[1:], len(data))
    observations, following = (
        (x - units.observation_mean) / units.observation_std for x in (data.observations, data.next_observations)
    )
    actions = (data.actions - units.action_offset) / units.action_scale
    for episode, (start, end) in enumerate(zip(data.episode_starts, ends, strict=True)):
        rewards = [(float(r) + units.reward_shift) * units.reward_scale for r in data.rewards[start:end]]
        lost = data.episode_returns[episode] - data.rewards[start:end].sum(dtype=np.float64)
        more = [(lost + units.reward_shift) * units.reward_scale] * (data.episode_lengths[episode] - (end - start))
        for i in range(start, end):
            found["observations"].append(observations[i])
            found["actions"].append(actions[i])
            found["rewards"].append(rewards[i - start])
            found["next_observations"].append(following[i])
            found["terminations"].append(data.terminations[i])
            found["next_actions"].append(actions[i + 1] if i + 1 < end else actions[i])
            found["next_action_mask"].append(i + 1 < end)
            chunk = [i + k for k in range(HORIZON)]
            found["action_chunks"].append([actions[k] if k < end else actions[end - 1] for k in chunk])
            found["action_chunk_mask"].append([k < end for k in chunk])
            summed = rewards[i - start :][:STEPS]
            last = i + len(summed) - 1
            found["n_step_returns"].append(sum(DISCOUNT**k * r for k, r in enumerate(summed)))
            found["n_step_observations"].append(following[last])
            found["n_step_discounts"].append(0.0 if data.terminations[last] else DISCOUNT ** len(summed))
            every = [*rewards[i - start :], *more]
            found["monte_carlo_returns"].append(sum(DISCOUNT**k * r for k, r in enumerate(every)))
            found["log_probs"].append(data.log_probs[i] + np.log(2.0) + np.log(4.0))
    return {name: np.array(values, dtype=np.float64) for name, values in found.items()}


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 7), st.booleans()), min_size=2, max_size=5).filter(lambda e: max(e)[0] > 1))
def test_every_column_is_its_definition_and_stays_in_the_episode(episodes):
    data = make(*zip(*episodes, strict=True))
    # As D4RL's, where a time limit cuts an episode: the last step is lost, but not its reward.
    cut = (np.arange(len(episodes)) == 1) & ~np.array([end for _, end in episodes])
    data = dataclasses.replace(
        data, episode_lengths=data.episode_lengths + cut, episode_returns=data.episode_returns + 5.0 * cut
    )
    units = dataclasses.replace(Units.of(data, True, 1e-6, "none"), reward_shift=-0.5, reward_scale=3.0)
    for name, values in expected(data, units).items():
        own = {key: SETTINGS[key] for key in get_type_hints(COLUMNS[name]) if key in SETTINGS}
        (column,) = make_columns([name], data, units, own)
        found = column.read(slice(0, len(data)))
        assert found.shape == (len(data), *column.shape)
        np.testing.assert_allclose(found, values, rtol=1e-5, atol=1e-5, err_msg=name)
        some = np.array([len(data) - 1, 0, 0])  # as rows that are gathered in advance are read
        np.testing.assert_array_equal(column.read(some), found[some], err_msg=name)


class Columns(NamedTuple):
    """Also those that a batch turns into another form, in an order of their own."""

    action_chunks: Tensor
    rewards: Tensor
    next_actions: Tensor
    observations: Tensor


def test_a_batch_holds_the_columns_that_are_asked_for(small_dataset):
    units = Units.of(small_dataset, True, 1e-6, "iql")
    batch = Batches(small_dataset, [3, 9], 50, "cpu", units, Columns, horizon=4).at(7)
    usual = Batches(small_dataset, [3, 9], 50, "cpu", units).at(7)
    assert type(batch) is Columns
    assert [tuple(column.shape) for column in batch] == [(2, 50, 4, 3), (2, 50), (2, 50, 3), (2, 50, 11)]
    assert torch.equal(batch.observations, usual.observations)  # the same draws
    assert torch.equal(batch.rewards, usual.rewards)
    assert torch.equal(batch.action_chunks[:, :, 0], usual.actions)
    assert torch.equal(batch.action_chunks[:, :, 1], batch.next_actions)


def ask(dataset, *names, **settings):
    units = Units.of(dataset, True, 1e-6, "none")
    columns = NamedTuple("Asked", [(name, Tensor) for name in names])
    return Batches(dataset, [0], 4, "cpu", units, columns, **settings)


def test_what_a_dataset_lacks_is_said_in_one_line(small_dataset):
    single = make([1, 1, 1], [True, True, False])
    broken = dataclasses.replace(small_dataset, episode_complete=np.zeros(5, bool))
    for data, name, own, wanted in (
        (small_dataset, "log_probs", {}, "test/hopper has no log_probs, which the agent's column log_probs needs"),
        (
            single,
            "next_actions",
            {},
            "episodes holds single transitions, but the agent's column next_actions needs an action that",
        ),
        (single, "next_action_mask", {}, "column next_action_mask needs"),
        (single, "action_chunks", {"horizon": 2}, "column action_chunks needs"),
        (broken, "monte_carlo_returns", {"discount": 0.9}, "test/hopper has no complete episodes"),
    ):
        with pytest.raises(InputError, match=wanted) as error:
            ask(data, name, **own)
        assert "\n" not in str(error.value)


def test_columns_and_settings_that_do_not_fit_are_named(small_dataset):
    for name, own, wanted in (
        ("next_action", {}, "asks for the column next_action, which does not exist: did you mean next_actions"),
        ("xyz", {}, "column xyz, which does not exist: there are observations, actions"),
        ("n_step_returns", {"discount": 0.9}, r"n_step_returns needs steps: give Batches\(..., steps=...\)"),
        ("rewards", {"horizon": 3}, "given horizon, which no column of the agent's batch takes"),
        ("monte_carlo_returns", {"discount": torch.ones(2, 1)}, "discount has several values"),
    ):
        with pytest.raises(InputError, match=wanted):
            ask(small_dataset, name, **own)
