import numpy as np
import pytest

from rlrat import load_dataset
from rlrat.datasets import Dataset
from rlrat.errors import InputError


def test_rounding_beyond_the_bounds_is_clipped_and_said_once(make_episode, capsys):
    episodes = [make_episode(3, seed=seed) for seed in range(3)]
    for episode in episodes:
        episode["actions"][0] = [1.0005, -1.0002]
    dataset = Dataset.from_episodes(episodes, id="own")
    note = "own: clipped 6 actions that lay outside their bounds by up to 0.0005"
    assert capsys.readouterr().err == f"warning: {note}\n"
    assert dataset.notes == (note,)
    assert dataset.best_episodes(0.4).notes == (note,)
    assert capsys.readouterr().err == ""
    assert dataset.actions.max() == 1.0
    assert dataset.actions.min() == -1.0


def test_actions_at_the_bounds_are_silent(make_episode, capsys):
    episode = make_episode(2)
    episode["actions"] = np.array([[1.0, -1.0], [1.0 + 1e-12, -1.0]])  # rounds to the bound in float32
    assert Dataset.from_episodes([episode]).notes == ()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [(-1, np.inf, "finite low < high"), (1, -1, "finite low < high"), ([-1, -1, -1], 1, "shapes")],
)
def test_unusable_bounds(make_episode, low, high, message):
    with pytest.raises(InputError, match=message):
        Dataset.from_episodes([make_episode(4)], action_low=low, action_high=high)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([], "must be LOW HIGH"),
        ([1.0], "must be LOW HIGH"),
        ([(1, 2, 3)], "must be LOW HIGH"),
        ([(1, 2), (1,)], "must be LOW HIGH"),
        ("ab", "must be LOW HIGH"),
        ([(1, 1)], "has 1 1, but must have finite LOW HIGH with LOW < HIGH"),
        ([(-1, 1), (2, -2)], "has 2 -2, but must"),
        ([(float("nan"), 1)], "has nan 1, but must"),
        ([(-1, float("inf"))], "has -1 inf, but must"),
    ],
)
def test_bounds_that_cannot_be_right(write_hdf5, d4rl_arrays, given, message):
    with pytest.raises(InputError, match=f"^--action-bounds .*{message}"):
        load_dataset(write_hdf5("small.hdf5", d4rl_arrays("to")), action_bounds=given)
