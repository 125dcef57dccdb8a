import sys
import warnings

import gymnasium
import numpy as np
import pytest

from rlrat.environments.observations import Flattener
from rlrat.environments.success import success_of
from rlrat.errors import InputError
from rlrat.evaluation import stepping, stepping_robotics
from rlrat.evaluation.evaluator import Evaluator
from rlrat.evaluation.gymnasium_rows import GymnasiumRows
from rlrat.evaluation.stepping import NativeRows, native_rows

gymnasium.register_envs(pytest.importorskip("gymnasium_robotics"))
from gymnasium_robotics.envs.adroit_hand.adroit_pen import AdroitHandPenEnv  # noqa: E402
from gymnasium_robotics.envs.maze import maze, maze_v4  # noqa: E402
from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv  # noqa: E402

ROOM = [[1, 1, 1, 1], [1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 1]]
SEEDS = (3, 2**31, 12345)
HANDS = ("Door", "Hammer", "Pen", "Relocate")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """MuJoCo logs warnings to the working directory."""
    monkeypatch.chdir(tmp_path)


def make(env_id, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # v3 and v4 are out of date
        return gymnasium.make(env_id, disable_env_checker=True, **kwargs)


def flattener_of(env, names=None):
    is_dict = isinstance(env.observation_space, gymnasium.spaces.Dict)
    return Flattener(env.observation_space, env.spec.id, names) if is_dict else None


def both(env, seeds, num_threads) -> list[NativeRows]:
    """Rows on MuJoCo 4's threads and on Python's; with an older MuJoCo both are the latter."""
    with pytest.MonkeyPatch.context() as patch:
        rows = [native_rows(env, seeds, num_threads, flattener_of(env))]
        patch.setitem(sys.modules, "mujoco.batch", None)
        rows.append(native_rows(env, seeds, num_threads, flattener_of(env)))
    assert isinstance(rows[1]._physics, stepping._ThreadedPhysics)
    return rows


def flat(observation):
    if not isinstance(observation, dict):
        return observation
    return np.concatenate([observation[name] for name in ("achieved_goal", "desired_goal", "observation")])


def towards_the_goal(random, observations, size):
    """A point is pushed to its goal, and into the walls between."""
    return np.sign(observations[:, 2:4] - observations[:, :2]) * random.uniform(0, 1.2, (len(observations), size))


def anyhow(random, observations, size):
    return random.uniform(-1.3, 1.3, (len(observations), size))


def hold(random, observations, size):
    return np.zeros((len(observations), size)) + 0.02 * random.standard_normal((len(observations), size))


def assert_episodes_are_equal(made, steps, policy, seeds=SEEDS):
    """Play two episodes of each seed, of which some rows pause now and then; return the successes in every step."""
    natives = both(made(), seeds, 2)
    envs, random, every = [made() for _ in seeds], np.random.default_rng(0), np.arange(len(seeds))
    said = []
    for _ in range(2):
        observations = np.stack([flat(env.reset(seed=seed)[0]) for env, seed in zip(envs, seeds, strict=True)])
        for native in natives:
            np.testing.assert_array_equal(native.reset(), observations)
        going = every
        for step in range(steps):
            rows = going if step % 4 else going[: 1 + len(going) // 2]
            actions = policy(random, observations[rows], *envs[0].action_space.shape).astype(np.float32)
            found = [envs[row].step(action) for row, action in zip(rows, actions, strict=True)]
            expected = [np.array(values) for values in list(zip(*found, strict=True))[1:4]]
            expected = [
                np.stack([flat(one[0]) for one in found]), *expected, np.array([success_of(one[4]) for one in found])
            ]  # fmt: skip
            for native in natives:
                for own, its in zip(native.step(rows, actions), expected, strict=True):
                    assert own.dtype == its.dtype
                    np.testing.assert_array_equal(own, its)
            observations[rows] = expected[0]
            said.extend(expected[4])
            ended = expected[2] | expected[3]
            going = np.setdiff1d(going, rows[ended])
            if not len(going):
                break
    for rows in natives:
        rows.close()
    return np.array(said), going


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("PointMaze_UMazeDense-v3", {"maze_map": ROOM}),
        ("PointMaze_UMaze-v3", {"maze_map": ROOM, "reset_target": True}),
        ("PointMaze_UMaze-v3", {"maze_map": ROOM, "continuing_task": False}),
        ("PointMaze_UMaze-v3", {"maze_map": [[1, 1, 1, 1], [1, "r", "g", 1], [1] * 4], "reset_target": True}),
    ],
)
def test_points_that_reach_their_goals(env_id, kwargs):
    said, going = assert_episodes_are_equal(lambda: make(env_id, **kwargs), 45, towards_the_goal)
    assert 0 < said.mean() < 1
    assert (len(going) < 3) == ("continuing_task" in kwargs)


def test_points_that_run_into_walls():
    assert_episodes_are_equal(lambda: make("PointMaze_UMaze-v3"), 45, towards_the_goal)


@pytest.fixture
def near(monkeypatch):
    """An Ant that starts at its goal."""
    for module in (maze, maze_v4):
        monkeypatch.setattr(module.MazeEnv, "generate_reset_pos", lambda self: self.goal.copy())
        monkeypatch.setattr(module.MazeEnv, "__init__", _noiseless(module.MazeEnv.__init__))


def _noiseless(init):
    def initialize(self, *arguments, **kwargs):
        init(self, *arguments, **kwargs, position_noise_range=0.05)

    return initialize


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("AntMaze_UMaze-v3", {}),
        ("AntMaze_UMazeDense-v3", {"continuing_task": False, "use_contact_forces": True}),
        ("AntMaze_UMaze-v4", {}),
        ("AntMaze_UMaze-v4", {"reset_target": True, "use_contact_forces": True}),
        ("AntMaze_UMazeDense-v5", {"reset_target": True}),
        ("AntMaze_UMaze-v5", {"include_cfrc_ext_in_observation": False, "continuing_task": False}),
        ("AntMaze_UMaze-v5", {"contact_force_range": (-0.2, 0.3), "frame_skip": 2, "main_body": 2}),
    ],
)
def test_ants_that_start_at_their_goals(env_id, kwargs, near):
    said, going = assert_episodes_are_equal(lambda: make(env_id, max_episode_steps=20, **kwargs), 30, anyhow)
    assert np.isnan(said).all() if "v3" in env_id else said.mean() > 0
    assert not len(going)


def closing(env):
    hinge = env.door_hinge_addrs
    env.init_qpos[hinge], env.init_qvel[hinge] = 1.5, -6.0


def hammered(env):
    nail = env.model.joint("nail_dir").qposadr[0]
    env.init_qpos[nail], env.init_qvel[nail] = 0.06, 2.0
    env.init_qpos[env.model.joint("OBJTz").qposadr[0]] = 0.04


def lifted(env):
    env.reset(seed=12)
    there = env.data.site_xpos[env.target_obj_site_id] - env.data.xpos[env.obj_body_id]
    for axis, name in enumerate(("OBJTx", "OBJTy", "OBJTz")):
        env.init_qpos[env.model.joint(name).qposadr[0]] = there[axis]


@pytest.mark.parametrize("kind", ["", "Sparse"])
@pytest.mark.parametrize(
    ("task", "start"), [("Door", closing), ("Hammer", hammered), ("Pen", None), ("Relocate", lifted)]
)
def test_hands_that_are_done(task, start, kind):
    def made():
        env = make(f"AdroitHand{task}{kind}-v1")
        if start is not None:
            start(env.unwrapped)
        return env

    # Among these seeds' targets for the pen two are near to how it lies.
    said, _ = assert_episodes_are_equal(made, 16, hold, (8, 12, 3))
    assert 0 < said.mean() < 1


def test_dot_products_are_rounded_as_those_of_single_vectors():
    for width in (2, 3, 33):
        vectors, others = np.random.default_rng(0).standard_normal((2, 500, width))
        own = np.array([vector.copy().dot(other.copy()) for vector, other in zip(vectors, others, strict=True)])
        np.testing.assert_array_equal(stepping_robotics._dots(vectors, others), own)
        lengths = [np.linalg.norm(vector.copy()) for vector in vectors]
        np.testing.assert_array_equal(stepping_robotics._norms(vectors), lengths)


def made_point(**kwargs):
    return make("PointMaze_UMaze-v3", maze_map=ROOM, reset_target=True, **kwargs)


@pytest.mark.parametrize("made", [made_point, lambda: make("AdroitHandPen-v1")])
def test_a_row_does_not_depend_on_others_nor_on_threads(made):
    """Each has its own generator of goals, its own target."""
    env, random = made(), np.random.default_rng(0)
    actions = random.uniform(-1, 1, (25, 5, *env.action_space.shape)).astype(np.float32)
    for alone, several in zip(both(env, [3], 1), both(env, range(5), 3), strict=True):
        np.testing.assert_array_equal(alone.reset()[0], several.reset()[3])
        for step, wanted in enumerate(actions):
            rows = np.array([0, 3, 4]) if step % 2 else np.arange(5)
            expected = alone.step(np.arange(1), wanted[3:4])
            for own, its in zip(several.step(rows, wanted[rows]), expected, strict=True):
                np.testing.assert_array_equal(own[rows == 3], its)
        alone.close()
        several.close()


def play(env_id, seeds, episodes, policy, native=True, **settings):
    with pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr("rlrat.evaluation.evaluator.native_rows", lambda *_: None)
        evaluator = Evaluator(env_id, seeds, episodes, **settings)
    with evaluator:
        assert len(evaluator.envs) == (1 if native else len(seeds) * episodes)
        assert evaluator.num_threads == settings["num_threads"]
        return evaluator.run(policy), evaluator.run(policy)


def test_evaluations_equal_those_through_gymnasium():
    def towards(place, goal):
        return lambda observations: 2 * (observations[..., goal] - observations[..., place])

    kwargs = {"maze_map": ROOM, "continuing_task": False}
    settings = {"env_kwargs": kwargs, "max_episode_steps": 25, "num_threads": 2}
    seen = [
        (("observation", "desired_goal"), slice(0, 2), slice(4, 6)),
        (("desired_goal", "achieved_goal"), slice(2, 4), slice(0, 2)),
        (None, slice(0, 2), slice(2, 4)),
    ]
    found = [play("PointMaze_UMaze-v3", [0, 1], 3, towards(*at), observation_parts=of, **settings) for of, *at in seen]
    parts, *at = seen[0]
    policy = towards(*at)
    found.append(play("PointMaze_UMaze-v3", [0, 1], 3, policy, native=False, observation_parts=parts, **settings))
    expected = found[-1][0]
    for name in ("returns", "lengths", "terminated", "successes", "reset_seeds"):
        for twice in found:
            for one in twice:
                np.testing.assert_array_equal(getattr(one, name), getattr(expected, name))
    assert 0 < expected.success_rate.mean() < 1
    np.testing.assert_array_equal(expected.terminated, expected.successes)
    assert expected.lengths.max() == 25


def test_policies_see_the_parts_that_they_ask_for():
    seen = []

    def remember(observations):
        seen.append(observations)
        return np.zeros((1, 2, 2))

    for names in (None, ["observation", "desired_goal"]):
        with Evaluator("PointMaze_UMaze-v3", 0, 2, max_episode_steps=2, observation_parts=names) as evaluator:
            evaluator.run(remember)
    np.testing.assert_array_equal(seen[1][..., 4:], seen[3][..., :4])
    np.testing.assert_array_equal(seen[1][..., 2:4], seen[3][..., 4:])
    np.testing.assert_array_equal(seen[1][..., :2], seen[3][..., :2])


def other_reward(self, achieved_goal, desired_goal, info):
    return np.float64(0.5)


def silent(self, action, _original=PointMazeEnv.step):
    *found, _ = _original(self, action)
    return *found, {}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("compute_reward", other_reward, "its reward differs in step 1"),
        ("step", silent, "its success differs in step 1"),
        ("compute_truncated", lambda *_: True, "its time limit differs in step 1"),
        (
            "update_goal",
            lambda self, _: self.point_env.data.qpos.__setitem__(0, 0.0),
            "its observation differs in step 2",
        ),
    ],
)
def test_a_maze_that_differs_steps_itself_after_one_warning(name, value, reason, monkeypatch):
    monkeypatch.setattr(PointMazeEnv, name, value)
    expected = f"PointMaze_UMaze-v3 is not stepped natively but by Gymnasium, at a fraction of the speed: {reason}"
    with pytest.warns(UserWarning, match=expected) as caught:
        evaluator = Evaluator("PointMaze_UMaze-v3", 0, 2)
    assert [warning.filename for warning in caught] == [__file__]
    with evaluator:
        assert len(evaluator.envs) == 2


def test_settings_under_other_names(monkeypatch):
    init = AdroitHandPenEnv.__init__

    def renamed(self, **kwargs):
        init(self, **kwargs)
        self.mean = self.__dict__.pop("act_mean")

    monkeypatch.setattr(AdroitHandPenEnv, "__init__", renamed)
    with pytest.warns(UserWarning, match="act_mean"), Evaluator("AdroitHandPen-v1", 0, 1) as evaluator:
        assert type(evaluator._rows) is GymnasiumRows


def test_a_reward_of_no_known_type_is_gymnasiums_to_refuse():
    with (
        pytest.warns(UserWarning, match="its reward differs"),
        pytest.raises(InputError, match="a reward that is None"),
    ):
        Evaluator("PointMaze_UMaze-v3", 0, 1, {"reward_type": "steep"}).run(lambda _: np.zeros((1, 1, 2)))


class MyMaze(PointMazeEnv):
    pass


def test_everything_else_is_left_to_gymnasium(monkeypatch, recwarn):
    spec = gymnasium.envs.registration.EnvSpec("MyMaze-v0", entry_point=MyMaze, max_episode_steps=100)
    monkeypatch.setitem(gymnasium.registry, "MyMaze-v0", spec)
    wrapped = gymnasium.wrappers.TransformReward(make("PointMaze_UMaze-v3"), lambda reward: 2 * reward)
    for env in (make("MyMaze-v0"), make("PointMaze_UMaze-v3", render_mode="rgb_array"), wrapped):
        assert native_rows(env, [0], 1, flattener_of(env)) is None
    assert not recwarn.list


@pytest.mark.slow
@pytest.mark.parametrize(
    "env_id",
    [
        "PointMaze_UMaze-v3",
        "PointMaze_LargeDense-v3",
        "AntMaze_UMaze-v4",
        "AntMaze_UMazeDense-v5",
        *(f"AdroitHand{task}-v1" for task in HANDS),
    ],
)
def test_twenty_whole_episodes_equal_a_plain_loop(env_id):
    env, random = make(env_id), np.random.default_rng(0)
    limit, size = env.spec.max_episode_steps, env.action_space.shape[0]
    actions = np.clip(random.standard_normal((limit, 20, size)).cumsum(axis=0) / 5, -1, 1).astype(np.float32)
    replayed = iter(actions)
    with Evaluator(env_id, 0, 20, num_threads=2) as evaluator:
        assert len(evaluator.envs) == 1
        found = evaluator.run(lambda _: next(replayed)[None])
    for episode, seed in enumerate(found.reset_seeds[0].tolist()):
        env.reset(seed=seed)
        total, success, length, over = 0.0, 0.0, 0, False
        while not over:
            _, reward, terminated, truncated, info = env.step(actions[length, episode])
            total, success, length, over = (
                total + reward,
                max(success, info["success"]),
                length + 1,
                terminated or truncated,
            )
        assert (total, length, success) == (
            found.returns[0, episode], found.lengths[0, episode], found.successes[0, episode],
        )  # fmt: skip
