"""Evaluations in environments with goals: success, and dictionary observations."""

import gymnasium
import numpy as np
import pytest

from rlrat.errors import InputError
from rlrat.evaluation.evaluator import Evaluation, Evaluator, check_spaces, evaluate, reset_seed
from rlrat.evaluation.scores import find_reference
from tests.environments.goals import Reach
from tests.goal_env import GOAL_ID, LIMIT
from tests.goal_env import SPEC as GOAL_SPEC


@pytest.fixture(scope="module")
def hopper() -> Evaluation:
    return evaluate(lambda seen: np.zeros((3, 2, 3)), "Hopper-v5", 2, [0, 3, 7], max_episode_steps=5)


@pytest.fixture
def goal(monkeypatch):
    monkeypatch.setitem(gymnasium.registry, GOAL_ID, GOAL_SPEC)


def still(observations):
    return np.zeros((*observations.shape[:2], 1))


def reaches(seeds, episodes):
    """Which of these episodes of `GoalEnv` reach its goal, by its own rule."""
    draws = [[np.random.default_rng(reset_seed(s, e)).uniform() for e in range(episodes)] for s in seeds]
    return np.array(draws) < 2 / 3


def test_a_goal_that_is_reached_in_one_step_alone_is_a_success(goal):
    expected = reaches([0, 3], 8)
    assert 0 < expected.mean() < 1
    for at in (1, 3, LIMIT):
        result = evaluate(still, GOAL_ID, 8, [0, 3], {"at": at})
        assert (result.lengths == LIMIT).all()
        np.testing.assert_array_equal(result.successes, expected)
        assert result.successes.dtype == np.float64
        np.testing.assert_allclose(result.success_rate, expected.mean(axis=1))
        # Whatever the returns are, which are negative here.
        np.testing.assert_allclose(result.scores(find_reference(GOAL_ID, "success")), 100 * expected.mean(axis=1))
    assert not evaluate(still, GOAL_ID, 8, [0, 3], {"at": LIMIT + 1}).successes.any()


def test_what_an_environment_does_not_say_is_no_success(goal, hopper):
    assert hopper.successes is None
    assert np.isnan(hopper.success_rate).tolist() == [True] * 3
    assert np.isnan(hopper.scores(find_reference(GOAL_ID, "success"))).all()
    np.testing.assert_array_equal(
        hopper.scores(find_reference("Hopper-v5")), find_reference("Hopper-v5").normalize(hopper.return_mean)
    )
    assert evaluate(still, GOAL_ID, 4, 0, {"says": lambda reached: {}}).successes is None
    # Said only where it is reached: elsewhere it was not.
    result = evaluate(still, GOAL_ID, 8, 0, {"says": lambda reached: {"is_success": np.float32(1)} if reached else {}})
    np.testing.assert_array_equal(result.successes, reaches([0], 8))


def test_a_share_of_tasks_is_the_largest_of_the_episode(goal):
    def says(reached):
        return {"episode_task_completions": ["kettle"] * reached, "tasks_to_complete": ["light", "kettle", "microwave"]}

    result = evaluate(still, GOAL_ID, 8, 0, {"says": says})
    np.testing.assert_allclose(result.successes, reaches([0], 8) / 3)


def test_repeats_have_successes_of_their_own_and_a_row_without_a_return_has_none(goal):
    def spoils(observations):
        actions = still(observations)
        actions[0, 5] = np.nan
        return actions

    with Evaluator(GOAL_ID, [0, 3], 4, repeats=2) as evaluator:
        first, second = evaluator.run(spoils).split(2)
    expected = reaches([0, 3], 4).astype(float)
    np.testing.assert_array_equal(first.successes, expected)
    expected[0, 1] = np.nan
    np.testing.assert_array_equal(second.successes, expected)
    np.testing.assert_array_equal(np.isnan(second.success_rate), [True, False])
    with Evaluator("Pendulum-v1", 0, 1, repeats=2, max_episode_steps=2) as evaluator:
        assert [part.successes for part in evaluator.run(still).split(2)] == [None, None]


@pytest.fixture
def reach(monkeypatch):
    """Registers `Reach-v0`, whose observations are dictionaries."""
    spec = gymnasium.envs.registration.EnvSpec("Reach-v0", entry_point=Reach, max_episode_steps=4)
    monkeypatch.setitem(gymnasium.registry, "Reach-v0", spec)
    return "Reach-v0"


@pytest.mark.parametrize("names", [None, ["observation", "desired_goal/height"]])
def test_dictionaries_are_played_as_a_plain_loop_flattens_them(reach, names):
    seen = []

    def policy(observations):
        seen.append(observations)
        return np.full((1, 2, 2), 0.25)

    with Evaluator(reach, 7, 2, observation_parts=names) as evaluator:
        result = evaluator.run(policy)
        width = sum(width for _, width in evaluator.observation_parts)
        assert evaluator.observation_space.shape == (width,)
        if names:
            assert evaluator.observation_parts == (("observation", 4), ("desired_goal/height", 1))
    for episode in range(2):
        env = gymnasium.make(reach)
        observation, _ = env.reset(seed=reset_seed(7, episode))
        total = 0.0
        for step in range(4):
            goal = observation["desired_goal"]
            parts = {"desired_goal/height": [goal["height"]], "observation": observation["observation"]}
            parts |= {"achieved_goal": observation["achieved_goal"], "desired_goal/place": goal["place"]}
            expected = np.concatenate([parts[name] for name in names or sorted(parts)])
            np.testing.assert_array_equal(seen[step][0, episode], expected)
            observation, reward, *_ = env.step(np.full(2, 0.25, np.float32))
            total += reward
        assert result.returns[0, episode] == total


def test_a_policys_own_parts_are_what_it_sees(reach):
    class Sees:
        observation_parts = (("observation", 4),)

        def __call__(self, observations):
            assert observations.shape == (1, 1, 4)
            return np.zeros((1, 1, 2))

    assert evaluate(Sees(), reach, 1, 0).lengths[0, 0] == 4


def test_dictionaries_that_do_not_fit_are_one_line(reach):
    low, high = -np.ones(2), np.ones(2)
    parts = (("achieved_goal", 2), ("desired_goal/height", 1), ("desired_goal/place", 2), ("observation", 4))
    with Evaluator(reach, 0, 1) as evaluator:
        check_spaces(evaluator, 9, low, high, observation_parts=parts)
        with pytest.raises(
            InputError, match=r"observations are vectors of 9, those of Reach-v0 dictionaries \(achieved_"
        ):
            check_spaces(evaluator, 9, low, high)
        other = (*parts[:2], ("desired_goal/place", 3), parts[3])
        message = "desired_goal/place in the data's observations has 3 components, that of Reach-v0 2: choose the env"
        with pytest.raises(InputError, match=message):
            check_spaces(evaluator, 10, low, high, observation_parts=other)
    with pytest.raises(InputError, match=r"are dictionaries \(a 11\), those of Hopper-v5 vectors of 11: choose"):
        check_spaces(gymnasium.make("Hopper-v5"), 11, -np.ones(3), np.ones(3), observation_parts=(("a", 11),))
    with pytest.raises(
        InputError, match=r"Hopper-v5 has the observations Box.*and the data's are dictionaries: choose"
    ):
        Evaluator("Hopper-v5", 0, 1, observation_parts=["a"])
    with pytest.raises(InputError, match="Reach-v0 has no kettle in its observations, which are achieved_goal, "):
        Evaluator(reach, 0, 1, observation_parts=["observation", "kettle"])
