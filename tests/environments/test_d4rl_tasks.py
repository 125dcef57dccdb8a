"""D4RL's tasks on today's robots: D4RL's geometry, starts, rewards and ends."""

import numpy as np
import pytest

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("gymnasium_robotics")
mujoco = pytest.importorskip("mujoco")

from rlrat.environments import find_spec  # noqa: E402
from rlrat.environments.d4rl import MAZES, TASKS  # noqa: E402
from rlrat.evaluation import Evaluator  # noqa: E402

ONE_OF_EACH = (
    *("antmaze-umaze-v2", "maze2d-umaze-v1", "maze2d-open-dense-v0"),
    *(f"{task}-human-v1" for task in ("pen", "door", "hammer", "relocate")),
    pytest.param("kitchen-complete-v0", marks=pytest.mark.kitchen),
)


def made(name):
    return gymnasium.make(find_spec(name), disable_env_checker=True)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_seed_of_a_reset_decides_an_episode(name):
    env, task = made(name), TASKS[name]
    actions = np.random.default_rng(0).uniform(-1, 1, (4, task.widths[1])).astype(np.float32)

    def episode(seed):
        found = [env.reset(seed=seed)[0]]
        for action in actions:
            observation, reward, terminated, truncated, info = env.step(action)
            assert (type(reward), type(terminated), type(truncated)) == (float, bool, bool)
            assert 0 <= info["success"] <= 1
            found.append(np.append(observation, reward))
        return np.concatenate(found)

    first, other, again = episode(1), episode(2), episode(1)
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert env.observation_space.shape == (task.widths[0],)
    assert env.action_space.shape == (task.widths[1],)
    assert env.observation_space.contains(env.reset(seed=0)[0])
    env.close()


@pytest.mark.parametrize("name", ["pen-human-v1", "antmaze-umaze-v2"])
def test_episodes_are_the_same_in_any_number_of_threads(name):
    found = []
    for threads in (1, 2):
        with Evaluator(name, [0, 1], 2, num_threads=threads, max_episode_steps=40) as evaluator:
            assert evaluator._rows.num_threads == threads
            width = TASKS[name].widths[1]
            found.append(evaluator.run(lambda seen, width=width: np.sin(np.arange(width) + seen[..., :1])))
    np.testing.assert_array_equal(found[0].returns, found[1].returns)
    np.testing.assert_array_equal(found[0].lengths, found[1].lengths)


def cells(rows, sign):
    return np.argwhere([[cell == sign for cell in row] for row in rows])


@pytest.mark.parametrize("name", ["antmaze-umaze-v2", "antmaze-large-play-v0"])
def test_the_ants_maze_lies_where_d4rl_has_it(name):
    env = made(name).unwrapped
    model, rows = env._ant.model, MAZES[TASKS[name].kwargs["maze"]]
    walls = model.geom_pos[(model.geom_bodyid == 0) & (model.geom_type == mujoco.mjtGeom.mjGEOM_BOX.value)]
    # d4rl/locomotion/maze_env.py: a block is at 4 column - 4, 4 row - 4, the ant starts at the origin
    expected = 4.0 * cells(rows, "#")[:, ::-1] - 4.0
    np.testing.assert_allclose(sorted(map(tuple, walls[:, :2] - env._origin)), sorted(map(tuple, expected)))
    assert (model.opt.timestep, model.actuator_gear[:, 0].tolist()) == (0.02, [30.0] * 8)
    row, column = TASKS[name].kwargs["goal"]
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        assert (np.abs(observation[:2]) <= 0.1).all()
        noise = env.goal - (4.0 * column - 4.0, 4.0 * row - 4.0)
        assert (noise >= 0).all()
        assert (noise <= 1.5).all()


def test_an_ant_at_the_goal_is_done():
    env = made("antmaze-umaze-v2")
    env.reset(seed=0)
    ant, goal = env.unwrapped._ant, env.unwrapped.goal
    start = ant.data.time
    for away, there in ((0.7, False), (0.2, True)):
        positions = ant.data.qpos.copy()
        positions[:2] = goal + env.unwrapped._origin + (away, 0.0)
        ant.set_state(positions, np.zeros(14))
        observation, reward, terminated, truncated, info = env.step(np.zeros(8))
        assert (reward, terminated, truncated, info) == (float(there), there, False, {"success": there})
        assert np.linalg.norm(observation[:2] - goal) == pytest.approx(away, abs=0.1)
    assert ant.data.time - start == pytest.approx(2 * 0.1)


@pytest.mark.parametrize("name", ["maze2d-open-v0", "maze2d-large-v1"])
def test_the_balls_maze_lies_where_d4rl_has_it(name):
    env = made(name).unwrapped
    model, rows = env._ball.model, MAZES[TASKS[name].kwargs["maze"]]
    walls = model.geom_pos[model.geom_type == mujoco.mjtGeom.mjGEOM_BOX.value]
    # d4rl/pointmaze/maze_model.py: a block is at its row + 1, column + 1, and the ball at its position + 1.2
    expected = cells(rows, "#") + 1.0 - 1.2
    np.testing.assert_allclose(sorted(map(tuple, (walls[:, :2] - env._origin).round(9))), sorted(map(tuple, expected)))
    free = {tuple(cell) for cell in cells(rows, " ")}
    starts = [env.reset(seed=seed)[0][:2] for seed in range(100)]
    assert {tuple(start.round().astype(int)) for start in starts} <= free
    assert np.abs(np.array(starts) - np.round(starts)).max() <= 0.1


@pytest.mark.parametrize("dense", [False, True])
def test_a_ball_at_the_goal_goes_on(dense):
    env = made(f"maze2d-umaze{'-dense' * dense}-v1")
    env.reset(seed=0)
    ball, goal = env.unwrapped._ball, env.unwrapped.goal
    assert goal.tolist() == [1.0, 1.0]
    for away, reached in ((0.2, 1.0), (0.6, 0.0)):
        ball.set_state(goal + np.array([0.0, away]) + env.unwrapped._origin, np.zeros(2))
        observation, reward, terminated, truncated, info = env.step(np.zeros(2))
        np.testing.assert_allclose(observation, [1.0, 1.0 + away, 0.0, 0.0], atol=1e-6)
        assert reward == pytest.approx(np.exp(-away) if dense else reached)
        assert (terminated, truncated, info["success"]) == (False, False, away < 0.5)


# Of the observation: what is 0.1 times nearer in Gymnasium-Robotics' reward, and further in D4RL's.
FIRST_TERMS = {
    "door": lambda seen: seen[35:38],
    "hammer": lambda seen: seen[33:36] - seen[36:39],
    "relocate": lambda seen: seen[30:33],
    "pen": lambda seen: np.zeros(3),
}


@pytest.mark.parametrize("task", FIRST_TERMS)
def test_a_hand_is_gymnasium_robotics_but_for_the_sign_of_a_reward(task):
    ours, theirs = made(f"{task}-human-v1"), gymnasium.make(f"AdroitHand{task.capitalize()}-v1").unwrapped
    assert (ours.reset(seed=3)[0] == theirs.reset(seed=3)[0]).all()
    random, dropped = np.random.default_rng(0), False
    for _ in range(100):
        action = random.uniform(-1, 1, TASKS[f"{task}-human-v1"].widths[1])
        seen, reward, dropped, _, info = ours.step(action)
        expected, its_reward, *_, its_info = theirs.step(action)
        np.testing.assert_array_equal(seen, expected)
        assert reward == pytest.approx(its_reward - 0.2 * np.linalg.norm(FIRST_TERMS[task](seen)), abs=1e-9)
        assert info["success"] == its_info["success"]
        if dropped:
            break
    assert dropped == (task == "pen" and seen[26] < 0.075)
    assert dropped or task != "pen"


@pytest.mark.parametrize(
    ("task", "seen", "reward"),
    [
        # the palm 0.2 from the handle; the door open by 1.4
        ("door", {28: 1.4, 35: 0.2}, -0.02 - 0.1 * 0.17**2 + 2 + 8 + 10),
        # 0.05 from the target, and lying the same way by 0.96, then by 0.92
        ("pen", {39: 0.05, 33: 0.96, 36: 1.0}, 0.96 - 0.05 + 60),
        ("pen", {39: 0.05, 33: 0.92, 36: 1.0}, 0.92 - 0.05 + 10),
        # on the table: 0.3 to the ball, which is 0.04 from the target
        ("relocate", {30: 0.3, 36: 0.04}, -0.03 + 10 + 20),
    ],
)
def test_bonuses_of_hands(task, seen, reward):
    env = made(f"{task}-expert-v1").unwrapped
    env.reset(seed=0)
    observation = np.zeros(env.observation_space.shape)
    observation[list(seen)] = list(seen.values())
    assert env._reward(observation) == pytest.approx(reward)


@pytest.mark.kitchen
def test_tasks_of_the_kitchen_are_done_once():
    env = made("kitchen-mixed-v0")
    start, info = env.reset(seed=0)
    assert start[9:30][23 - 9 + 2] == pytest.approx(1.619, abs=0.01)  # the kettle's height
    np.testing.assert_allclose(start[30 + 11 : 30 + 13], [-0.88, -0.01])
    assert start[30 + 19] == 0.0  # the slide cabinet is not asked for
    assert info == {"success": 0.0}
    arm = env.unwrapped._arm
    done = []
    for task in ("microwave", "slide cabinet", "kettle", "bottom burner", "light switch"):
        joints, goal = env.unwrapped._GOALS[task]
        positions = arm.data.qpos.copy()
        positions[list(joints)] = goal
        arm.set_state(positions, np.zeros(29))
        _, reward, terminated, _, info = env.step(np.zeros(9))
        done.append((reward, terminated, info["success"]))
    assert done == [(1.0, False, 0.25), (0.0, False, 0.25), (1.0, False, 0.5), (1.0, False, 0.75), (1.0, True, 1.0)]
