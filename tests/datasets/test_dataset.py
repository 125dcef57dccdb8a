import dataclasses
import hashlib
import struct
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrat.datasets import Dataset
from rlrat.datasets.units import Units
from rlrat.errors import InputError
from tests.datasets.episode_lists import episode_lists


def arrays(dataset: Dataset) -> dict[str, np.ndarray]:
    values = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    return {name: value for name, value in values.items() if isinstance(value, np.ndarray)}


@settings(max_examples=30, deadline=None)
@given(episode_lists(), st.data())
def test_fingerprint_is_of_the_content_alone(episodes, data):
    dataset = Dataset.from_episodes(episodes)
    again = Dataset.from_episodes([SimpleNamespace(**episode) for episode in episodes], id="other", env_id="Ant-v5")
    assert dataset.fingerprint == again.fingerprint
    changed = data.draw(st.sampled_from(["observations", "actions", "rewards"]))
    episodes[-1][changed] = episodes[-1][changed] * 0.5
    assert dataset.fingerprint != Dataset.from_episodes(episodes).fingerprint


def test_fingerprint_is_the_hash_of_names_shapes_types_and_little_endian_bytes():
    episode = {
        "observations": [[0.0], [1.0], [2.0]],
        "actions": [[0.5], [-0.5]],
        "rewards": [1, 2],
        "terminations": [0, 1],
        "truncations": [0, 0],
    }
    parts = [
        b"observations (2, 1) <f4\n" + struct.pack("<2f", 0, 1),
        b"actions (2, 1) <f4\n" + struct.pack("<2f", 0.5, -0.5),
        b"rewards (2,) <f4\n" + struct.pack("<2f", 1, 2),
        b"next_observations (2, 1) <f4\n" + struct.pack("<2f", 1, 2),
        b"terminations (2,) |b1\n" + bytes([0, 1]),
        b"truncations (2,) |b1\n" + bytes([0, 0]),
        b"episode_starts (1,) <i8\n" + struct.pack("<q", 0),
    ]
    assert Dataset.from_episodes([episode]).fingerprint == hashlib.sha256(b"".join(parts)).hexdigest()


def test_arrays_are_typed_and_read_only(make_episode):
    dataset = Dataset.from_episodes([make_episode(3)])
    wanted = {"episode_returns": "<f8", "episode_starts": "<i8", "episode_lengths": "<i8"}
    wanted |= dict.fromkeys(["terminations", "truncations", "episode_complete"], "|b1")
    for name, array in arrays(dataset).items():
        assert array.dtype.str == wanted.get(name, "<f4"), name
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_own_bounds_and_environment(make_episode):
    episode = make_episode(4) | {"actions": np.full((4, 2), [2.0, -0.1])}
    dataset = Dataset.from_episodes(
        [episode], id="mine", env_id="Hopper-v5", env_kwargs={"a": 1}, action_low=[-2, -0.1], action_high=2
    )
    assert (dataset.id, dataset.env_id, dataset.env_kwargs, dataset.reference) == ("mine", "Hopper-v5", {"a": 1}, "v5")
    np.testing.assert_array_equal(dataset.action_low, np.float32([-2, -0.1]))
    np.testing.assert_array_equal(dataset.action_high, np.float32([2, 2]))


@pytest.mark.parametrize(
    ("env_id", "reference"),
    [
        *[("Walker2d-v5", "v5"), ("Hopper-v4", None), ("My-v5", None), (None, None), ("PointMaze_UMaze-v3", None)],
        *[("AntMaze_UMaze-v5", "success"), ("scene-singletask-task2-v0", "success"), ("scene-v0", None)],
    ],
)
def test_reference_belongs_to_an_environment(make_episode, env_id, reference):
    assert Dataset.from_episodes([make_episode(2)], env_id=env_id).reference == reference


def test_observation_statistics_are_in_float64(monkeypatch, make_episode):
    episode = make_episode(5000, observations=3)
    episode["observations"] = episode["observations"] * [1e-3, 1.0, 0.0] + [1000.0, 0.0, 7.0]
    dataset = Dataset.from_episodes([episode])
    exact = dataset.observations.astype(np.float64)
    monkeypatch.setattr("rlrat.datasets.dataset._CHUNK", 999)
    mean, std = dataset.observation_statistics(floor=1e-2)
    assert mean.dtype == std.dtype == np.float64
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(std, [1e-2, exact[:, 1].std(), 1e-2], rtol=1e-12)
    np.testing.assert_allclose(dataset.observation_statistics()[1][:2], exact.std(axis=0)[:2], rtol=1e-9)


def with_returns(make_episode, returns, **about):
    """Episodes of 3, 4, ... steps, every other one truncated, with these returns."""
    episodes = []
    for index, total in enumerate(returns):
        episode = make_episode(index + 3, seed=index, terminal=index % 2 == 0)
        episodes.append(episode | {"rewards": np.append(np.zeros(index + 2), total)})
    return episodes, Dataset.from_episodes(episodes, **about)


def assert_same(dataset, other):
    assert dataset.fingerprint == other.fingerprint
    for name, array in arrays(dataset).items():
        np.testing.assert_array_equal(array, getattr(other, name), err_msg=name)
        assert array.dtype == getattr(other, name).dtype
        assert not array.flags.writeable


@pytest.mark.parametrize(
    ("returns", "share", "best"),
    [
        ([3, 1, 5, 4, 2], 0.2, [2]),
        ([3, 1, 5, 4, 2], 0.21, [2, 3]),  # rounded up, and in the order of the dataset
        ([3, 1, 5, 4, 2], 0.6, [0, 2, 3]),
        ([-3, -1, -5, -4], 0.5, [0, 1]),
        ([3, 1, 5], 1e-9, [2]),
        ([1, 2, 2, 0, 2], 0.4, [1, 2]),  # of equal ones the earlier
        ([2, 1, 2, 1, 1], 0.6, [0, 1, 2]),
    ],
)
def test_best_episodes_are_whole_and_as_if_loaded_alone(make_episode, returns, share, best):
    about = {"id": "own", "env_id": "Hopper-v5", "env_kwargs": {"a": 1}, "action_low": -2}
    episodes, dataset = with_returns(make_episode, returns, **about)
    chosen = dataset.best_episodes(share)
    assert_same(chosen, Dataset.from_episodes([episodes[index] for index in best], **about))
    assert (chosen.id, chosen.env_id, chosen.env_kwargs, chosen.reference) == ("own", "Hopper-v5", {"a": 1}, "v5")
    assert chosen.episode_returns.tolist() == [returns[index] for index in best]
    assert chosen.fingerprint != dataset.fingerprint == Dataset.from_episodes(episodes).fingerprint


@settings(max_examples=50, deadline=None)
@given(episode_lists(), st.floats(0.0, 1.0, exclude_min=True))
def test_no_other_episode_is_better_than_the_best(episodes, share):
    dataset = Dataset.from_episodes(episodes)
    if len(set(dataset.episode_returns.tolist())) > 1:
        chosen, wanted = dataset.best_episodes(share), sorted(dataset.episode_returns)
        assert sorted(chosen.episode_returns) == wanted[-len(chosen.episode_returns) :]
        assert len(chosen) == chosen.episode_lengths.sum()


def test_the_share_is_the_decimal_number_as_written(make_episode):
    _, dataset = with_returns(make_episode, range(100))
    assert 0.07 * 100 > 7
    assert dataset.best_episodes(0.07).episode_returns.tolist() == [*range(93, 100)]
    assert len(dataset.best_episodes(np.float32(0.07)).episode_returns) == 7


@pytest.mark.parametrize(("returns", "share"), [([1, 3, 2], 1.0), ([2, 2], 1), ([1, 3, 2], 0.7), ([5], 0.1)])
def test_a_share_that_takes_every_episode_is_the_dataset_itself(make_episode, returns, share):
    _, dataset = with_returns(make_episode, returns)
    assert dataset.best_episodes(share) is dataset


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, float("nan"), float("inf")])
def test_no_such_share(make_episode, share):
    _, dataset = with_returns(make_episode, [1, 2])
    with pytest.raises(InputError, match=f"is {share}, but must be above 0 and at most 1"):
        dataset.best_episodes(share)


def test_equal_returns_have_no_best(make_episode):
    _, dataset = with_returns(make_episode, [2, 2, 2], id="own")
    with pytest.raises(InputError, match="own: all 3 episodes have the return 2, but for") as caught:
        dataset.best_episodes(0.5)
    assert "\n" not in str(caught.value)


def test_returns_that_differ_by_rounding_alone_are_equal(make_episode):
    """Rewards as of a potential: their sums are those of the two ends, whatever lies between."""
    rng = np.random.default_rng(0)
    paths = [np.append(np.append(-5.3, rng.normal(size=49) * 700), 7.1) for _ in range(8)]
    for dtype in (np.float32, np.float64):
        episodes = [make_episode(50) | {"rewards": np.diff(path).astype(dtype)} for path in paths]
        dataset = Dataset.from_episodes(episodes)
        assert len(set(dataset.episode_returns.tolist())) > 1
        assert not dataset.returns_differ
        with pytest.raises(InputError, match=r"the return 12\.4, but for rounding"):
            dataset.best_episodes(0.5)
    episodes[3]["rewards"][7] += 1.0
    assert Dataset.from_episodes(episodes).best_episodes(0.1).episode_returns.round(3).tolist() == [13.4]


def test_small_returns_differ_as_large_ones_do(make_episode):
    for scale in (1e-20, 1.0, 1e20):
        assert with_returns(make_episode, [scale, 2 * scale])[1].returns_differ
        assert not with_returns(make_episode, [scale, scale * (1 + 1e-7)])[1].returns_differ


@settings(max_examples=30, deadline=None)
@given(episode_lists(), st.floats(0.01, 0.99), st.integers(0, 2**32))
def test_a_split_is_a_partition_of_the_episodes(episodes, share, seed):
    for index, episode in enumerate(episodes):
        episode["rewards"] = np.full(len(episode["rewards"]), index / len(episode["rewards"]))
    dataset = Dataset.from_episodes(episodes)
    if len(episodes) == 1:
        with pytest.raises(InputError, match="episodes has one episode: holding some out needs at least two"):
            dataset.split(share, seed)
        return
    train, held_out = dataset.split(share, seed)
    numbers = [part.episode_returns.round().astype(int).tolist() for part in (train, held_out)]
    assert sorted(numbers[0] + numbers[1]) == list(range(len(episodes)))
    assert numbers == [sorted(part) for part in numbers]
    assert len(numbers[1]) == min(max(round(share * len(episodes)), 1), len(episodes) - 1)
    for part, chosen in zip((train, held_out), numbers, strict=True):
        alone = Dataset.from_episodes([episodes[number] for number in chosen])
        assert (part.fingerprint, part.id) == (alone.fingerprint, dataset.id)
    assert_same(train, Dataset.from_episodes([episodes[number] for number in numbers[0]]))
    again = dataset.split(share, seed)
    assert [part.fingerprint for part in again] == [train.fingerprint, held_out.fingerprint]


def test_what_is_held_out_is_in_the_units_of_the_training_set(make_episode):
    _, dataset = with_returns(make_episode, [1, 2, 3, 4, 5, 6])
    train, held_out = dataset.split(0.34, 1)
    assert (len(train.episode_starts), len(held_out.episode_starts)) == (4, 2)
    for theirs, ours in zip(train.observation_statistics(0.5), held_out.observation_statistics(0.5), strict=True):
        np.testing.assert_array_equal(theirs, ours)
    for name in ("best_return", "worst_return", "returns_differ", "longest_episode"):
        assert getattr(held_out, name) == getattr(train, name)
    np.testing.assert_array_equal(held_out.action_low, train.action_low)
    units = [Units.of(part, True, 1e-3, "iql") for part in (train, held_out)]
    np.testing.assert_array_equal(units[0].observation_mean, units[1].observation_mean)
    assert units[0].reward_scale == units[1].reward_scale
    assert "held out  from" in repr(held_out)
    assert {dataset.split(0.34, seed)[1].fingerprint for seed in range(8)} != {held_out.fingerprint}


@pytest.mark.parametrize("share", [-0.1, 0.0, 1.0, float("nan")])
def test_no_such_share_to_hold_out(make_episode, share):
    with pytest.raises(InputError, match=r"the share of held-out episodes is .* must be above 0 and below 1"):
        Dataset.from_episodes([make_episode(3)] * 2).split(share, 0)


def test_log_probs_are_kept_and_are_a_part_of_the_fingerprint(episodes):
    plain = Dataset.from_episodes(episodes)
    for episode in episodes:
        episode["log_probs"] = -np.arange(len(episode["rewards"]))
    dataset = Dataset.from_episodes(episodes)
    assert dataset.log_probs.dtype == np.float32
    assert dataset.log_probs.tolist() == [0, -1, -2, -3, -4, 0, -1, -2, 0]
    assert (plain.log_probs, plain.fingerprint != dataset.fingerprint) == (None, True)
    train, held_out = dataset.split(0.5, 0)
    assert sorted([*train.log_probs, *held_out.log_probs]) == sorted(dataset.log_probs)
    del episodes[1]["log_probs"]
    with pytest.raises(InputError, match="episodes: episode 1 lacks log_probs, which episode 0 has"):
        Dataset.from_episodes(episodes)
    episodes[1]["log_probs"] = np.zeros(4)
    with pytest.raises(InputError, match=r"episode 1 has .* 4 log_probs: T"):
        Dataset.from_episodes(episodes)
    episodes[1]["log_probs"] = [0, np.nan, 0]
    with pytest.raises(InputError, match="log_probs hold nan at episode 1, step 1"):
        Dataset.from_episodes(episodes)


def test_a_dataset_says_in_a_few_lines_what_it_is(make_episode):
    episodes = [make_episode(3), make_episode(5, terminal=False)]
    for episode in episodes:
        episode["rewards"] = np.ones(len(episode["rewards"]))
    dataset = Dataset.from_episodes(episodes, id="mine", env_id="Hopper-v5", action_low=-2, action_high=[2, 3])
    assert repr(dataset).splitlines() == [
        "Dataset mine: 8 transitions (4 observations, 2 actions)",
        "  episodes  2; 1 end in a terminal state",
        "  returns   3 to 5, mean 4, std 1",
        "  lengths   3 to 5, mean 4, std 1 steps",
        "  actions   from [-2, -2] to [2, 3]",
        "  env_id    Hopper-v5",
    ]


def test_what_dictionaries_are_made_of_is_shown_and_kept(make_goals):
    dataset = Dataset.from_episodes(make_goals())
    parts = (("desired_goal/height", 1), ("desired_goal/place", 2), ("observation", 4))
    assert repr(dataset).splitlines()[1] == "  parts     desired_goal/height 1, desired_goal/place 2, observation 4"
    rest, held = dataset.split(0.4, seed=0)
    assert rest.observation_parts == held.observation_parts == dataset.observation_parts == parts
    assert dataset.without_achieved_goal() is dataset


def test_a_component_that_never_changes_is_normalised_to_nothing(make_goals, make_episode):
    """Another goal than the data's one would be some hundred thousand, divided by the least deviation."""
    episodes = make_goals()
    for episode in episodes:
        goal = episode["observations"]["desired_goal"]
        goal["place"] = goal["place"] * [1.0, 0.0] + [0.0, 0.3]
    dataset = Dataset.from_episodes(episodes)
    units = Units.of(dataset, True, 1e-6, "none")
    assert (units.observation_std == 1e30).tolist() == [False, False, True, False, False, False, False]
    shown = dataset.observations[0].copy()
    shown[2] = 5.0
    assert np.float32((shown - units.observation_mean) / units.observation_std)[2] == pytest.approx(0, abs=1e-20)
    np.testing.assert_allclose(units.observation_std[3:], dataset.observations[:, 3:].std(axis=0), rtol=1e-5)
    # Flat vectors have the floor, as published results do.
    flat = make_episode(4)
    flat["observations"][:, 1] = 0.3
    assert Units.of(Dataset.from_episodes([flat]), True, 1e-6, "none").observation_std[1] == 1e-6


def test_what_varies_only_in_held_out_episodes_is_not_read_in_training(make_goals):
    episodes = make_goals()
    for number, episode in enumerate(episodes):
        episode["observations"]["desired_goal"]["height"] = np.full(len(episode["rewards"]) + 1, float(number == 0))
    dataset = Dataset.from_episodes(episodes)
    assert dataset.observation_statistics()[1][0] < 1
    for rest, held in (dataset.split(0.3, seed=seed) for seed in range(5)):
        constant = np.ptp(rest.observations[:, 0]) == 0
        assert (rest.observation_statistics()[1][0] == 1e30) == constant
        np.testing.assert_array_equal(held.observation_statistics()[1], rest.observation_statistics()[1])
