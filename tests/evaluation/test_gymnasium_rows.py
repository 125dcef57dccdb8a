"""What an environment returns is Gymnasium's API, harmless spellings of it, or one line that says what it is."""

import functools

import gymnasium
import numpy as np
import pytest
import torch

from rlrat.environments.global_random import lent
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


class Dice(gymnasium.Env):
    """An environment that draws from NumPy's global generator: at a reset and at even steps, or at these alone."""

    def __init__(self, at_reset=True):
        self.at_reset, self.action_space = at_reset, gymnasium.spaces.Box(-1.0, 1.0, (2,))
        np.random.uniform()

    @functools.cached_property
    def observation_space(self):
        np.random.uniform()  # OGBench's are reset, and draw a task, when they are asked for it
        return gymnasium.spaces.Box(-np.inf, np.inf, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.array([np.random.uniform() if self.at_reset else 0.0, self.np_random.uniform()]), {}

    def step(self, action):
        luck = np.random.uniform() if self.steps % 2 == 0 else 0.5
        self.steps += 1
        return np.array([luck, self.steps], float), luck + float(action.sum()), luck > 0.8, False, {}


def walk(observations, action=None):
    """Act by what a row sees, or always in the same way."""
    if action is None:
        return np.sin(3.0 * observations[..., :1]) * np.array([1.0, -1.0, 0.5, 0.2, 0.7, -0.4, 0.1, 0.9])
    return np.broadcast_to(action, (*observations.shape[:-1], len(action)))


def played(evaluator, action=None):
    """Return returns, lengths and what was seen, of all rows."""
    seen, width = [], evaluator.action_space.shape[0]

    def policy(observations):
        seen.append(observations)
        return walk(observations, action)[..., :width]

    found = evaluator.run(policy)
    rows = np.stack(seen).reshape(len(seen), found.lengths.size, -1)
    lengths = found.lengths.ravel().tolist()
    return found.returns.ravel().tolist(), lengths, [rows[:length, row].tolist() for row, length in enumerate(lengths)]


def played_alone(evaluator, action=None):
    """Return the same of a plain loop: the global generator and the environment have the seed of the reset."""
    returns, lengths, seen = [], [], []
    with lent():
        env = gymnasium.make(evaluator.envs[0].spec, disable_env_checker=True)
        for seed in evaluator.reset_seeds.ravel().tolist():
            np.random.seed(seed)
            observation, _ = env.reset(seed=seed)
            rewards, rows, done = [], [], False
            while not done:
                rows.append(observation.tolist())
                chosen = walk(observation, action)[: env.action_space.shape[0]].astype(env.action_space.dtype)
                observation, reward, terminated, truncated, _ = env.step(chosen)
                rewards.append(reward)
                done = terminated or truncated
            returns.append(sum(rewards))
            lengths.append(len(rewards))
            seen.append(rows)
        env.close()
    return returns, lengths, seen


def assert_episodes_are_their_seeds(env_id, env_kwargs=None, limit=20, action=None):
    """Each episode is that of a plain loop, in any number of threads, and leaves the caller's generator alone."""
    np.random.seed(2)
    np.random.normal()
    state, found = np.random.get_state(), []
    is_arm = env_id.startswith(("cube", "puzzle"))  # a quarter of a second to make each
    several, episodes = ((1, 4), 1) if is_arm else ((1, 2, 4), 2)
    for threads in several:
        with Evaluator(env_id, [0, 7], episodes, env_kwargs, threads, max_episode_steps=limit) as evaluator:
            evaluator.probe()
            found += [played(evaluator, action) for _ in range(2)]
            if threads == 1:
                expected = played_alone(evaluator, action)
        np.testing.assert_equal(np.random.get_state(), state)
        np.random.uniform(size=threads)  # others draw, too
        state = np.random.get_state()
    if is_arm:  # their resets leave a trace of spaces that the plain loop does not seed
        assert expected[:2] == found[0][:2]
        np.testing.assert_allclose(expected[2], found[0][2], rtol=0, atol=1e-12)
        expected = found[0]
    assert found == [expected] * 2 * len(several)
    with Evaluator(env_id, 7, 1, env_kwargs, max_episode_steps=limit) as evaluator:
        assert played(evaluator, action) == tuple(column[episodes : episodes + 1] for column in expected)
    return expected


@pytest.mark.parametrize("at_reset", [True, False], ids=["at resets", "at steps"])
def test_an_environment_that_draws_from_the_global_generator(monkeypatch, at_reset):
    spec = gymnasium.envs.registration.EnvSpec("Dice-v0", entry_point=Dice)
    monkeypatch.setitem(gymnasium.registry, "Dice-v0", spec)
    returns, lengths, seen = assert_episodes_are_their_seeds("Dice-v0", {"at_reset": at_reset})
    assert len(set(returns)) == 4
    assert len(set(lengths)) > 1
    assert len({rows[0][0] for rows in seen}) == (4 if at_reset else 1)


class Samples(Dice):
    """An environment that draws from spaces: from its actions', or as OGBench's arms from one made anew."""

    def reset(self, *, seed=None, options=None):
        first, _ = super().reset(seed=seed)
        return first + self.action_space.sample() + gymnasium.spaces.Box(-1.0, 1.0, (2,)).sample(), {}


def test_an_environment_that_samples_from_its_spaces(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Samples-v0", entry_point=Samples)
    monkeypatch.setitem(gymnasium.registry, "Samples-v0", spec)
    found = []
    for seeds in ([0, 7], [7, 0], [7]):
        with Evaluator("Samples-v0", seeds, 1, max_episode_steps=5) as evaluator:
            for _ in range(2):
                found.append(dict(zip(seeds, zip(*played(evaluator), strict=True), strict=True)))
    assert all(each[7] == found[0][7] for each in found)
    assert all(each[0] == found[0][0] for each in found[:4])
    assert found[0][0] != found[0][7]
    assert (
        gymnasium.spaces.Box(-1.0, 1.0, (9,)).sample().tolist()
        != gymnasium.spaces.Box(-1.0, 1.0, (9,)).sample().tolist()
    )


def test_threads_step_what_does_not_draw():
    with Evaluator("Swimmer-v5", 0, 4, num_threads=2) as evaluator:
        chunks = []
        threads = evaluator._rows._threads
        evaluator._rows._threads = lambda step, rows: (chunks.append(len(rows)), threads(step, rows))
        evaluator.run(lambda observations: np.zeros((1, 4, 2)) if len(chunks) < 3 else np.full((1, 4, 2), np.nan))
        evaluator._rows._threads = threads
    assert chunks == [4, 4, 4]


@pytest.mark.parametrize(
    "env_id",
    [
        "pointmaze-medium-singletask-v0",
        "antmaze-medium-singletask-task2-v0",
        *(
            pytest.param(env_id, marks=pytest.mark.slow)
            for env_id in ("cube-single-singletask-v0", "puzzle-3x3-singletask-v0", "antsoccer-arena-singletask-v0")
        ),
        pytest.param("pointmaze-large-v0", marks=pytest.mark.slow),  # draws a task, too
    ],
)
def test_ogbenchs_episodes_are_their_seeds(env_id):
    pytest.importorskip("ogbench", exc_type=ImportError)
    _, _, seen = assert_episodes_are_their_seeds(env_id, limit=8)
    assert len({tuple(rows[0]) for rows in seen}) == len(seen) > 1


def test_a_teleport_leads_where_the_seed_says():
    """OGBench's environment draws it in a step: of three places, none of them near the other two."""
    pytest.importorskip("ogbench", exc_type=ImportError)
    _, _, seen = assert_episodes_are_their_seeds("pointmaze-teleport-singletask-task3-v0", limit=40, action=(0.0, -1.0))
    assert len({tuple(np.round(np.array(rows[-1]) / 16).tolist()) for rows in seen}) > 1
