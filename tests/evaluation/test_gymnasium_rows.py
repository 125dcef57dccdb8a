"""What an environment returns is Gymnasium's API, harmless spellings of it, or one line that says what it is."""

import gymnasium
import numpy as np
import pytest
import torch

from rlrat.errors import InputError
from rlrat.evaluation.evaluator import Evaluator, evaluate
from rlrat.evaluation.gymnasium_rows import GymnasiumRows


class Odd(gymnasium.Env):
    """An environment of three steps that returns what it is told to."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))
    first = (np.zeros(2), {})
    found = (np.zeros(2), 2.0, False, False, {})

    def __init__(self, **settings):
        self.settings = settings

    def reset(self, *, seed=None, options=None):
        return self.first

    def step(self, action):
        if "breaks" in self.settings:
            raise KeyError("no such joint")
        return self.found


@pytest.fixture(params=[3, None], ids=["limited", "endless"])
def odd(request, monkeypatch):
    """`odd(reward=...)`: registers an environment that returns this; the wrapper of a time limit takes steps apart."""
    spec = gymnasium.envs.registration.EnvSpec("Odd-v0", entry_point=Odd, max_episode_steps=request.param)
    monkeypatch.setitem(gymnasium.registry, "Odd-v0", spec)

    def register(first=None, found=None, **parts):
        names = ("observation", "reward", "terminated", "truncated", "info")
        whole = dict(zip(names, Odd.found, strict=True)) | {"terminated": request.param is None} | parts
        monkeypatch.setattr(Odd, "first", Odd.first if first is None else first[0])
        monkeypatch.setattr(Odd, "found", tuple(whole.values()) if found is None else found[0])
        return 3 if request.param and not whole["terminated"] else 1

    return register


def play():
    return evaluate(lambda o: np.zeros((1, 2, 1)), "Odd-v0", 2, 0)


@pytest.mark.parametrize(
    "parts",
    [
        {"reward": np.array([2.0])}, {"reward": np.array(2.0)}, {"reward": [[2]]}, {"reward": np.float32(2)},
        {"reward": 2}, {"reward": torch.tensor([2.0])}, {"observation": [0.0, 0]}, {"observation": torch.zeros(2)},
        {"terminated": np.array([True])}, {"terminated": 1}, {"truncated": np.bool_(False)},
    ],
)  # fmt: skip
def test_what_can_mean_only_one_number_is_that_number(odd, parts):
    steps = odd(**parts)
    if steps == 1 or "terminated" in parts:
        odd(**parts | {"terminated": parts.get("terminated", True)})
        steps = 1
    result = play()
    assert result.returns.tolist() == [[2.0 * steps] * 2]
    assert result.lengths.tolist() == [[steps] * 2]


ZEROS = np.zeros(2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"found": [(ZEROS, 1.0, False, {})]}, "Odd-v0 returned 4 values from step, Gymnasium's API has 5"),
        ({"found": [(ZEROS, 1.0, False, False, {}, 0)]}, "from step, Gymnasium's API has 5"),
        ({"found": [None]}, "from step, Gymnasium's API has 5"),
        ({"found": [7]}, "from step, Gymnasium's API has 5"),
        ({"first": [ZEROS]}, "Odd-v0 returned one value of type ndarray from reset, Gymnasium's API has 2"),
        ({"first": [None]}, "Odd-v0 returned one value None from reset, Gymnasium's API has 2"),
        ({"first": [(ZEROS, {}, 1)]}, "Odd-v0 returned 3 values from reset, Gymnasium's API has 2"),
        ({"first": [(np.zeros(3), {})]}, "an observation of shape (3,) from reset, its observation space has (2,)"),
        ({"observation": np.zeros(3)}, "an observation of shape (3,) from step, its observation space has (2,)"),
        ({"observation": np.zeros((2, 1))}, "an observation of shape (2, 1) from step"),
        ({"observation": 0.0}, "an observation of shape () from step"),
        ({"observation": {"a": ZEROS}}, "an observation that is of type dict from step"),
        ({"observation": ["a", "b"]}, "an observation that is of type list from step"),
        ({"observation": [[1], [1, 2]]}, "an observation that is of type list from step"),
        ({"reward": np.zeros(2)}, "a reward of shape (2,) from step, Gymnasium's API has a number"),
        ({"reward": []}, "a reward of shape (0,) from step"),
        ({"reward": None}, "a reward that is None from step"),
        ({"reward": "3"}, "a reward that is of type str from step"),
        ({"terminated": {}}, "a termination that is of type dict from step, Gymnasium's API has a bool"),
        ({"terminated": 0.5}, "a termination that is of type float from step"),
    ],
)
def test_what_breaks_gymnasiums_api_is_one_line(odd, settings, message):
    odd(**settings)
    with Evaluator("Odd-v0", 0, 1) as evaluator:
        for way in (play, evaluator.probe):  # in an evaluation, and before a run begins
            with pytest.raises(InputError) as caught:
                way()
            assert message in str(caught.value)
            assert str(caught.value).startswith("Odd-v0 returned ")
            assert "\n" not in str(caught.value)


def test_settings_that_are_refused_in_the_first_step_are_one_line(odd):
    odd()
    with Evaluator("Odd-v0", 0, 1, {"breaks": True}) as evaluator:
        with pytest.raises(InputError) as caught:
            evaluator.probe()
        said = "Odd-v0 refuses the settings {'breaks': True}: KeyError: 'no such joint' is missing"
        assert str(caught.value) == said
    for settings in ({}, {"fine": True}):
        with Evaluator("Odd-v0", 0, 1, settings) as evaluator:
            evaluator.probe()


def test_an_error_of_the_users_own_code_keeps_its_traceback(odd, monkeypatch):
    odd()
    monkeypatch.setattr(Odd, "__init__", lambda self: {}["mine"])
    with pytest.raises(KeyError, match="mine"):
        Evaluator("Odd-v0", 0, 1)


def test_a_maze_says_when_its_goal_is_reached():
    gymnasium_robotics = pytest.importorskip("gymnasium_robotics")
    gymnasium.register_envs(gymnasium_robotics)

    def make():
        return gymnasium.wrappers.FlattenObservation(gymnasium.make("PointMaze_Open-v3", max_episode_steps=120))

    def towards_goal(observation):  # achieved_goal, desired_goal, observation: places, then its velocity
        return np.clip(10 * (observation[2:4] - observation[:2]) - observation[6:8], -1, 1).astype(np.float32)

    rows = GymnasiumRows([make(), make()], [0, 1], 1)
    observations, both, said = rows.reset(), np.arange(2), []
    for _ in range(120):
        # The second row goes where nothing is.
        actions = np.stack([towards_goal(observations[0]), np.zeros(2, np.float32)])
        observations, *_, truncated, successes = rows.step(both, actions)
        said.append(successes)
    rows.close()
    env, expected = make(), []
    observation, _ = env.reset(seed=0)
    for _ in range(120):
        observation, *_, info = env.step(towards_goal(observation))
        expected.append(float(info["success"]))
    np.testing.assert_array_equal(np.array(said).T, [expected, [0.0] * 120])
    assert 0 < sum(expected) < 120
    assert truncated.all()


GOALS = {"observation": gymnasium.spaces.Box(-1.0, 1.0, (2,)), "goal": gymnasium.spaces.Box(-1.0, 1.0, (1,))}


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (
            {"observation": np.zeros(2)},
            "Odd-v0 returned an observation without goal, which its observation space has, fr",
        ),
        (np.zeros(3), "Odd-v0 returned an observation without goal"),
        (
            {"observation": np.zeros(3), "goal": np.zeros(1)},
            r"whose observation is float64 of shape \(3,\), not numbers",
        ),
    ],
)
@pytest.mark.parametrize("where", ["reset", "step"])
def test_dictionaries_that_are_not_of_their_space_are_one_line(odd, monkeypatch, observation, message, where):
    monkeypatch.setattr(Odd, "observation_space", gymnasium.spaces.Dict(GOALS))
    right = {"goal": np.array([3.0]), "observation": [1.0, 2]}
    odd(first=((right if where == "step" else observation, {}),), observation=observation)
    with pytest.raises(InputError, match=message) as caught:
        play()
    assert "\n" not in str(caught.value)
    assert f"from {where}" in str(caught.value)


def test_a_policy_sees_vectors_of_dictionaries_in_any_order(odd, monkeypatch):
    monkeypatch.setattr(Odd, "observation_space", gymnasium.spaces.Dict(GOALS))
    odd(first=(({"goal": [3.0], "observation": np.ones(2)}, {}),), observation={"observation": [1.0, 2], "goal": [4]})
    seen = []
    evaluate(lambda o: seen.append(o) or np.zeros((1, 2, 1)), "Odd-v0", 2, 0, max_episode_steps=2)
    np.testing.assert_array_equal(seen[0], [[[3, 1, 1]] * 2])
    if len(seen) > 1:
        np.testing.assert_array_equal(seen[1], [[[4, 1, 2]] * 2])
