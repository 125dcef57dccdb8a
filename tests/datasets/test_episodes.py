import numpy as np
import pytest
from hypothesis import given, settings

from rlrat.datasets import Dataset
from rlrat.errors import InputError
from tests.datasets.episode_lists import episode_lists


@settings(max_examples=50, deadline=None)
@given(episode_lists())
def test_from_episodes_keeps_every_step(episodes):
    dataset = Dataset.from_episodes(episodes)
    lengths = [len(episode["rewards"]) for episode in episodes]
    assert len(dataset) == sum(lengths)
    assert dataset.episode_lengths.tolist() == lengths
    assert dataset.episode_starts.tolist() == [sum(lengths[:i]) for i in range(len(lengths))]
    assert dataset.episode_complete.all()
    for index, episode in enumerate(episodes):
        rows = slice(dataset.episode_starts[index], dataset.episode_starts[index] + lengths[index])
        seen = np.asarray(episode["observations"], np.float32)
        np.testing.assert_array_equal(dataset.observations[rows], seen[:-1])
        np.testing.assert_array_equal(dataset.next_observations[rows], seen[1:])
        np.testing.assert_array_equal(dataset.actions[rows], episode["actions"].astype(np.float32))
        np.testing.assert_array_equal(dataset.rewards[rows], episode["rewards"].astype(np.float32))
        np.testing.assert_array_equal(dataset.terminations[rows], episode["terminations"])
        np.testing.assert_array_equal(dataset.truncations[rows][:-1], False)
        assert dataset.truncations[rows][-1] != episode["terminations"][-1]
        assert dataset.episode_returns[index] == pytest.approx(sum(map(float, episode["rewards"])), rel=1e-12, abs=1e-9)
    assert dataset.best_return == dataset.episode_returns.max()
    assert dataset.worst_return == dataset.episode_returns.min()


def test_minari_episode_data_is_accepted(make_episode):
    from minari import EpisodeData

    episode = make_episode(5)
    assert (
        Dataset.from_episodes([EpisodeData(id=0, infos={}, **episode)]).fingerprint
        == Dataset.from_episodes([episode]).fingerprint
    )


def edited(name, change):
    def edit(episodes):
        episodes[1][name] = change(episodes[1][name])

    return edit


def poke(value, *index):
    def change(array):
        array = np.array(array, np.float64)
        array[index] = value
        return array

    return change


def empty(episodes):
    episodes[1] = {name: array[: name == "observations"] for name, array in episodes[1].items()}


MISTAKES = {
    "no episodes": (lambda episodes: episodes.clear(), "no episodes"),
    "missing": (lambda episodes: episodes[1].pop("rewards"), "episode 1 lacks rewards"),
    "short observations": (edited("observations", lambda a: a[:-1]), "6 observations, 6 actions.* T \\+ 1"),
    "short rewards": (edited("rewards", lambda a: a[:-1]), "5 rewards"),
    "long flags": (edited("truncations", lambda a: np.append(a, False)), "7 truncations"),
    "empty": (empty, "episode 1 is empty"),
    "nan observation": (edited("observations", poke(np.nan, 4, 2)), "observations hold nan at episode 1, step 4 .* 2"),
    "nan in the last observation": (edited("observations", poke(np.nan, 6, 0)), "episode 1, step 6"),
    "inf action": (edited("actions", poke(-np.inf, 0, 1)), "actions hold -inf at episode 1, step 0"),
    "nan reward": (edited("rewards", poke(np.nan, 3)), "rewards hold nan at episode 1, step 3:"),
    "beyond float32": (edited("rewards", poke(1e300, 3)), "rewards hold inf at episode 1, step 3"),
    "out of bounds": (edited("actions", poke(1.25, 2, 1)), "actions hold 1.25 at episode 1, step 2 .*\\[-1, 1\\]"),
    "below bounds": (edited("actions", poke(-1.01, 2, 0)), "actions hold -1.01 at episode 1, step 2"),
    "discrete": (edited("actions", lambda a: np.zeros(6, np.int64)), "continuous actions only"),
    "integers": (edited("actions", lambda a: np.zeros((6, 2), np.int64)), "continuous actions only"),
    "dict": (
        edited("observations", lambda a: {"position": a}),
        r"episode 1 has as observations dictionaries \(position 4\), episode 0 vectors of 4",
    ),
    "image": (edited("observations", lambda a: np.zeros((7, 8, 8, 3), np.uint8)), r"shape \[7, 8, 8, 3\]"),
    "text": (edited("rewards", lambda a: np.array(["a"] * 6)), "rewards are <U1"),
    "ragged": (edited("observations", lambda a: [[1.0]] * 6 + [[1.0, 2.0]]), "ragged"),
    "flat actions": (edited("actions", lambda a: a[:, 0]), r"actions have shape \[6\]"),
    "no features": (edited("observations", lambda a: a[:, :0]), r"shape \[7, 0\]"),
    "other width": (edited("observations", lambda a: a[:, :-1]), "observations of 3 components, episode 0 of 4"),
    "numbers as flags": (edited("terminations", lambda a: np.full(6, 0.5)), "terminations hold 0.5"),
    "early end": (edited("terminations", poke(1, 2)), "terminations set at step 2 of 6"),
}


@pytest.mark.parametrize(("mistake", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_named_in_one_line(make_episode, mistake, message):
    episodes = [make_episode(4), make_episode(6, seed=1)]
    mistake(episodes)
    with pytest.raises(InputError, match=message) as caught:
        Dataset.from_episodes(episodes, id="own")
    assert str(caught.value).startswith("own")
    assert "\n" not in str(caught.value)
