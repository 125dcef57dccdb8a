"""One order of dictionary observations, the same in data and in evaluation."""

from collections import OrderedDict

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrat.datasets import Dataset
from rlrat.environments import observations as module
from rlrat.environments.observations import Flattener, are_parts, columns_of, constant, described, flattened, leaves
from rlrat.errors import InputError
from tests.environments.goals import Reach, play

KEYS = st.sampled_from(["b", "a", "B", "a-b", "a b", "goal", "ä", "zz", "10", "9"])
TREES = st.recursive(
    st.integers(0, 3), lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=4), max_leaves=9
)


def shuffled(tree, random):
    """The same dictionaries with their keys in another order."""
    if not isinstance(tree, dict):
        return tree
    return {key: shuffled(tree[key], random) for key in random.permutation(list(tree)).tolist()}


def mapped(tree, function):
    return {k: mapped(v, function) for k, v in tree.items()} if isinstance(tree, dict) else function(tree)


def space_of(tree):
    if isinstance(tree, dict):
        return Dict(OrderedDict((key, space_of(value)) for key, value in tree.items()))
    return Box(-np.inf, np.inf, (tree,) if tree else (), np.float64)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(KEYS, TREES, min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_data_and_evaluation_agree_in_any_insertion_order(tree, seed):
    random, steps = np.random.default_rng(seed), 3
    whole = mapped(tree, lambda width: random.standard_normal((steps + 1, *([width] if width else []))))
    episode = {"actions": np.zeros((steps, 1)), "rewards": np.arange(steps)}
    episode |= dict.fromkeys(("terminations", "truncations"), np.zeros(steps, bool))
    dataset = Dataset.from_episodes([{**episode, "observations": shuffled(whole, random)}], drop_achieved_goal=False)
    flattener = Flattener(space_of(shuffled(tree, random)), "Own-v0")
    assert flattener.parts == dataset.observation_parts
    assert flattener.box().shape == (flattener.size,)
    row = np.full(flattener.size, np.nan)
    for step in range(steps):
        observation = shuffled(mapped(whole, lambda array, step=step: array[step]), random)
        assert flattener(observation, row) is None
        np.testing.assert_array_equal(row.astype(np.float32), dataset.observations[step])
        np.testing.assert_array_equal(flattened(observation, flattener.parts, "x"), row)


def test_the_order_is_that_of_sorted_keys_dictionary_by_dictionary():
    space = Reach().observation_space
    assert list(space.spaces) == ["observation", "desired_goal", "achieved_goal"]  # Gymnasium keeps this order
    flattener = Flattener(space, "Reach-v0")
    assert flattener.parts == (
        *(("achieved_goal", 2), ("desired_goal/height", 1), ("desired_goal/place", 2), ("observation", 4)),
    )
    observation, _ = Reach().reset(seed=0)
    row = np.empty(9)
    flattener(observation, row)
    goal = observation["desired_goal"]
    expected = (observation["achieved_goal"], [goal["height"]], goal["place"], observation["observation"])
    np.testing.assert_array_equal(row, np.concatenate(expected))
    some = Flattener(space, "Reach-v0", ["observation", "desired_goal/place"])
    assert (some.parts, some.size) == ((("observation", 4), ("desired_goal/place", 2)), 6)
    some(observation, row[:6])
    np.testing.assert_array_equal(row[:6], np.concatenate([observation["observation"], goal["place"]]))


def test_a_dictionary_comes_before_longer_keys_and_a_slash_reads_as_two_keys():
    assert list(leaves({"a-b": 0, "a": {"z": 1}}, "x")) == ["a/z", "a-b"]  # as text, "a-b" would be first
    assert list(leaves({"a-b": 0, "a/z": 1}, "x")) == ["a/z", "a-b"]
    assert leaves({"b": 0, "a": {"z": 1}}, "x") == {"a/z": (("a", "z"), 1), "b": (("b",), 0)}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "x are an empty dictionary"),
        ({"a": {}}, "x are an empty dictionary"),
        ({1: 0}, "x have the key 1, which is no name"),
        ({"a": {"": 0}}, "x have the key '', which is no name"),
        ({"..": 0}, "which is no name"),
        ({"a\0b": 0}, "which is no name"),
        ({"a\x1b[31m\n": 0}, r"x have the key 'a\\x1b\[31m\\n', which is no name"),
        ({"a": {"b": 0}, "a/b": 1}, "x have two parts of the name a/b"),
        ({str(number): 0 for number in range(1001)}, "x have more than 1,000 parts"),
    ],
)
def test_what_cannot_be_named_is_one_line(tree, message):
    with pytest.raises(InputError, match=message) as caught:
        leaves(tree, "x")
    assert "\n" not in str(caught.value)


def test_dictionaries_in_themselves_are_one_line():
    tree = {"a": 0}
    tree["b"] = tree
    with pytest.raises(InputError, match="more than 8 deep"):
        leaves(tree, "x")


@pytest.mark.parametrize(
    "space",
    [Discrete(3), Tuple([Box(0, 1, (2,))]), Box(0, 255, (8, 8, 3), np.uint8), Box(-1, 1, (2, 2)), Box(-1, 1, (0,))],
)
def test_a_part_that_is_no_vector_is_one_line(space):
    with pytest.raises(InputError, match=r"^Own-v0 has in its observations, as a/b, .*: only vectors") as caught:
        Flattener(Dict({"a": Dict({"b": space})}), "Own-v0")
    assert "\n" not in str(caught.value)
    # What the data does not have may be anything.
    assert Flattener(Dict({"a": space, "b": Box(-1, 1, (2,))}), "Own-v0", ["b"]).size == 2


def test_a_name_that_is_not_there_is_one_line():
    with pytest.raises(InputError, match="Reach-v0 has no kettle, top in its observations, which are achieved_goal, "):
        Flattener(Reach().observation_space, "Reach-v0", ["observation", "kettle", "top"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({}, "without a, which its observation space has,"),
        (5, "without a, which its observation space has,"),
        ({"a": [[1.0], [2.0, 3.0]]}, "without a, which its observation space has,"),
        ({"a": np.zeros(3)}, "whose a is float64 of shape (3,), not numbers of shape (2,),"),
        ({"a": np.zeros(1)}, "whose a is float64 of shape (1,), not numbers of shape (2,),"),  # NumPy would repeat it
        ({"a": np.array(["b", "c"])}, "whose a is <U1 of shape (2,), not numbers of shape (2,),"),
    ],
)
def test_an_observation_that_is_not_of_its_space_is_said(wrong, message):
    assert Flattener(Dict({"a": Box(-1, 1, (2,))}), "x")(wrong, np.empty(2)) == message


def test_what_means_the_same_numbers_is_read():
    flattener, row = Flattener(Dict({"a": Box(-1, 1, (2,)), "b": Box(-1, 1, ())}), "x"), np.empty(3)
    assert flattener({"b": 3, "a": [1, 2]}, row) is None
    assert row.tolist() == [1.0, 2.0, 3.0]


def test_flattening_one_observation_says_what_is_missing():
    parts = (("a", 2), ("b/c", 1))
    np.testing.assert_array_equal(flattened({"b": {"c": 3.0}, "a": [1.0, 2.0], "d": 0.0}, parts, "x"), [1.0, 2.0, 3.0])
    for observation, message in (
        ({"a": [1, 2]}, "x lack b/c: they have a"),
        ({"a": 1, "b": {"c": 1}}, "1 numbers in a"),
    ):
        with pytest.raises(InputError, match=message):
            flattened(observation, parts, "x")
    with pytest.raises(InputError, match="x are a dictionary: vectors are needed"):
        flattened({"a": 1}, (), "x")


def test_constant_parts_are_named_once_for_a_whole_dictionary():
    parts = (("desired_goal/a", 1), ("desired_goal/b", 2), ("fixed", 1), ("observation", 2))
    rows = np.array([[1, 2, 3, 4, 0, 5], [1, 2, 3, 4, 1, 5.0]])
    assert constant(rows, parts) == ["desired_goal", "fixed"]
    rows[0, 0] = 0
    assert constant(rows, parts) == ["desired_goal/b", "fixed"]
    assert constant(rows, ()) == []


def test_columns_and_words():
    parts = (("achieved_goal/a", 1), ("achieved_goal/b", 2), ("observation", 2))
    assert columns_of(parts, "achieved_goal").tolist() == [0, 1, 2]
    assert columns_of((), "achieved_goal").tolist() == []
    assert described(parts, 5) == "dictionaries (achieved_goal/a 1, achieved_goal/b 2, observation 2)"
    assert described((), 5) == "vectors of 5"
    many = tuple((f"part{number}", 1) for number in range(20))
    assert described(many, 20).endswith("part11 1, ...)")
    assert are_parts([["a", 1]])
    for wrong in ([["", 1]], [["a\n", 1]], [["a", 0]], [["a", True]], [["a"]], [[1, 1]], "ab", [("a", 1)], {"a": 1}):
        assert not are_parts(wrong)


def test_no_gymnasium_is_imported():
    assert "gymnasium" not in vars(module)
    assert module.Flattener(gymnasium.spaces.Dict({"a": Box(-1, 1, (2,))}), "x").size == 2


def test_a_played_episode_has_the_parts_of_its_space():
    for places, parts in ((True, ("desired_goal/height", "desired_goal/place", "observation")), (False, None)):
        env = Reach(places=places)
        dataset = Dataset.from_episodes([play(env, 5, seed) for seed in range(2)])
        names = tuple(name for name, _ in Flattener(env.observation_space, "x").parts)
        assert tuple(name for name, _ in dataset.observation_parts) == (parts or names)
