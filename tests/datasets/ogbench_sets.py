"""Write small files of OGBench's, with its own environments."""

from functools import cache
from pathlib import Path

import gymnasium
import numpy as np

from rlrat.datasets.ogbench_names import file_of, task_of
from rlrat.environments.global_random import lent
from rlrat.environments.registry import find_spec

LENGTHS = (12, 2, 20)  # rows of the trajectories


def write(name: str) -> Path:
    """Write the files of a dataset, to train with and to validate with, which are the same."""
    path = file_of(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    for each in (path, path.with_name(path.name.replace("-v0", "-v0-val"))):
        np.savez_compressed(each, **_arrays(name))
    return path


@cache
def _arrays(name: str) -> dict[str, np.ndarray]:
    """Make the arrays of a file as OGBench's scripts do: rows before each step, of actions that are drawn.

    In some rows the state of the task's objects is its goal: of the first one in row 4 and from row 14 on, of all of
    them from row 6 to row 8, in row 12 and in the last row.
    """
    rng = np.random.default_rng(0)
    rows = {key: [] for key in ("observations", "actions", "terminals", "qpos", "qvel", "button_states")}
    with lent():
        env = gymnasium.make(find_spec(task_of(name)), disable_env_checker=True)
        for length in LENGTHS:
            observation, _ = env.reset(seed=length)
            for row in range(length):
                action = rng.uniform(-1, 1, env.action_space.shape)
                following, _, _, _, info = env.step(action)
                rows["observations"].append(observation)
                rows["actions"].append(action)
                rows["terminals"].append(row == length - 1)
                for key in ("qpos", "qvel", "button_states"):
                    if f"prev_{key}" in info:
                        rows[key].append(info[f"prev_{key}"])
                observation = following
        goals = _goals(env.unwrapped)
        env.close()
    kinds = {"terminals": bool, "button_states": np.int64}
    arrays = {key: np.array(found, kinds.get(key, np.float32)) for key, found in rows.items() if found}
    for index, (key, columns, values) in enumerate(goals):
        solved = [6, 7, 8, 12, sum(LENGTHS) - 1, *([4, *range(14, sum(LENGTHS))] if index == 0 else [])]
        arrays[key][np.ix_(solved, columns)] = values
    return arrays


def _goals(env) -> list[tuple[str, list[int], np.ndarray]]:
    """Return the columns of each object of a task, and its goal."""
    if hasattr(env, "cur_goal_xy"):
        first = 15 if env.model.nq == 22 else 0
        return [("qpos", [first, first + 1], env.cur_goal_xy)]
    goals = []
    if hasattr(env, "_num_cubes"):
        goals = [("qpos", [14 + 7 * i + axis for axis in range(3)], xyz) for i, xyz in enumerate(env._data.mocap_pos)]
    if hasattr(env, "_num_buttons"):
        goals += [("button_states", [i], env._target_button_states[i]) for i in range(env._num_buttons)]
    if hasattr(env, "_target_drawer_pos"):
        drawer = 14 + 7 * env._num_cubes + env._num_buttons
        goals += [("qpos", [drawer], env._target_drawer_pos), ("qpos", [drawer + 1], env._target_window_pos)]
    return goals
