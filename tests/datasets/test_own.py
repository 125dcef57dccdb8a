"""What the user's words decide about data that does not record it."""

import gymnasium
import pytest

from rlrat.datasets import Dataset
from rlrat.datasets.bounds import typed_bounds
from rlrat.datasets.flat import Limit
from rlrat.datasets.own import Words, note_unused
from rlrat.errors import InputError


def test_without_a_word_nothing_is_decided():
    words = Words.of("log", None, None)
    assert words == Words(None, None, Limit(None, None))
    assert words.settings() == ""


def test_an_environment_gives_bounds_and_time_limit():
    words = Words.of("log", "Pendulum-v1", None)
    assert (words.given, words.limit) == (None, Limit(200, "Pendulum-v1"))
    assert (words.bounds.low, words.bounds.high) == (-2, 2)


def test_typed_bounds_go_over_the_environments():
    bounds = typed_bounds([(-3, 3)])
    words = Words.of("log", "Pendulum-v1", bounds)
    assert words.given is words.bounds is bounds
    others = [Words.of("log", None, bounds), Words.of("log", "Pendulum-v1", None), words]
    assert len({each.settings() for each in others}) == 3


def test_an_unknown_environment():
    with pytest.raises(InputError, match="Pendulum-v1000"):
        Words.of("log", "Pendulum-v1000", None)
    assert "Pendulum-v1000" not in gymnasium.registry


def test_a_note_says_what_is_not_used(episodes):
    dataset = Dataset.from_episodes(episodes)
    assert note_unused(dataset, "log.npz", [], "...") is dataset
    noted = note_unused(dataset, "log.npz", ["done", "a\x1b"], "name them")
    assert noted.notes == (*dataset.notes, "log.npz: a\N{REPLACEMENT CHARACTER}, done are not used; name them")
    many = note_unused(dataset, "log.npz", map(str, range(100)), "name them")
    assert "19, ... are not used" in many.notes[-1]
