"""What environments say of their task, each in its own way, and which tasks are scored by it."""

import gymnasium
import numpy as np
import pytest

from rlrat.environments.success import scored_by_success, success_of


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        ({"success": 1.0}, 1), ({"success": True}, 1), ({"success": np.bool_(False)}, 0), ({"success": 0}, 0),
        ({"is_success": np.float32(1.0)}, 1), ({"success": np.array([True])}, 1), ({"success": np.array(0.25)}, 0.25),
        ({"episode_task_completions": ["kettle"], "tasks_to_complete": ["microwave", "light switch", "burner"]}, 0.25),
        # remove_task_when_completed=False leaves what is done among what is to do.
        ({"episode_task_completions": ["kettle"], "tasks_to_complete": ["kettle", "microwave"]}, 0.5),
        ({"episode_task_completions": ["kettle", "microwave"], "tasks_to_complete": []}, 1),
        ({"episode_task_completions": [], "tasks_to_complete": ["kettle"]}, 0),
    ],
)  # fmt: skip
def test_each_family_says_it_in_its_own_way(info, expected):
    found = success_of(info)
    assert (type(found), found) == (float, expected)


@pytest.mark.parametrize(
    "info",
    [
        {}, None, [], {"success": None}, {"success": "yes"}, {"success": np.nan}, {"success": 2.0}, {"success": -1},
        {"success": [True, False]}, {"success": [[1], [1, 2]]}, {"success": {"goal": True}}, {"successes": 1.0},
        {"tasks_to_complete": ["kettle"]}, {"episode_task_completions": [], "tasks_to_complete": []},
        {"episode_task_completions": 3, "tasks_to_complete": ["kettle"]},
    ],
)  # fmt: skip
def test_anything_else_is_not_said(info):
    assert np.isnan(success_of(info))


def test_the_tasks_that_papers_score_by_success():
    d4rl, ogbench = scored_by_success("AntMaze_UMaze-v5"), scored_by_success("cube-double-singletask-v0")
    assert "2004.07219" in d4rl[0]
    assert "2410.20092" in ogbench[0]
    for env_id in (
        "AntMaze_Large_Diverse_GR-v4",
        "antmaze-umaze-v2",
        "antmaze-umaze-diverse-v0",
        "antmaze-large-play-v1",
    ):
        assert scored_by_success(env_id) == d4rl
    for env_id in ("antmaze-large-navigate-singletask-task1-v0", "visual-cube-single-singletask-task5-v0"):
        assert scored_by_success(env_id) == ogbench
    for env_id in (
        None,
        "",
        "Ant-v5",
        "PointMaze_UMaze-v3",
        "FrankaKitchen-v1",
        "antmaze-medium-v0",
        "maze2d-umaze-v1",
    ):
        assert scored_by_success(env_id) is None


def test_every_registered_antmaze_and_single_task_is_among_them():
    pytest.importorskip("gymnasium_robotics")
    pytest.importorskip("ogbench")
    ids = [env_id for env_id in gymnasium.registry if env_id.startswith("AntMaze") or "singletask" in env_id]
    assert len(ids) > 100
    assert all(scored_by_success(env_id) for env_id in ids)


@pytest.mark.slow
@pytest.mark.kitchen
@pytest.mark.parametrize("settings", [{}, {"remove_task_when_completed": False}])
def test_a_kitchen_says_the_share_of_its_tasks(settings):
    """Its joints are put where two of its three tasks want them, one after the other."""
    gymnasium.register_envs(pytest.importorskip("gymnasium_robotics"))
    from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_GOALS, OBS_ELEMENT_INDICES

    env = gymnasium.make("FrankaKitchen-v1", tasks_to_complete=["microwave", "kettle", "light switch"], **settings)
    _, info = env.reset(seed=0)
    found, robot = [success_of(info)], env.unwrapped.robot_env
    for task in ("microwave", "light switch"):
        place = robot.data.qpos.copy()
        place[OBS_ELEMENT_INDICES[task]] = OBS_ELEMENT_GOALS[task]
        robot.set_state(place, np.zeros_like(robot.data.qvel))
        found.append(success_of(env.step(np.zeros(9))[-1]))
    env.close()
    np.testing.assert_allclose(found, [0, 1 / 3, 2 / 3])
