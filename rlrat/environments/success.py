"""Read from an environment whether its task is done, and know the tasks that papers score by how often they are.

| environments | what `info` has after a step |
| --- | --- |
| gymnasium-robotics: PointMaze, AntMaze, Adroit; OGBench; MetaWorld | `success`: a bool, a NumPy bool or a float |
| gymnasium-robotics: Fetch, Hand | `is_success`: a float32 |
| gymnasium-robotics: FrankaKitchen | `episode_task_completions`, done so far, and `tasks_to_complete`, still to do |

Nothing of it need be there after a reset. OGBench's single-task environments say it of the state before the step
(`success_timing="pre"`): a goal that is reached in an episode's last step does not count, as in its paper.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

_KEYS = ("success", "is_success")
_DONE, _TO_DO = "episode_task_completions", "tasks_to_complete"

SCORED_BY_SUCCESS = {
    r"AntMaze_\w+-v\d+|antmaze-(umaze(-diverse)?|(medium|large)-(play|diverse))-v[012]": (
        "Fu et al., D4RL, arXiv 2004.07219: a sparse reward of 1 at the goal, which ends the episode",
        "2020-04",
    ),
    r"[a-z\d-]+-singletask(-task[1-5])?-v\d+": ("Park et al., OGBench, arXiv 2410.20092: success rate", "2024-10"),
}
"""The ids of environments and data sets whose score is 100 x the success rate, as patterns: the paper, and its date."""


def success_of(info: Any) -> float:
    """Return how far the task is done after a step, in [0, 1]: 0 or 1, in FrankaKitchen the share of its tasks.

    NaN where the environment does not say: `info` may hold anything under these keys.

    Args:
        info: what `Env.step` returned last.
    """
    if not isinstance(info, Mapping):
        return np.nan
    for key in _KEYS:
        if key in info:
            return _share(info[key])
    if _DONE in info and _TO_DO in info:
        try:
            # A task that is done is no longer among those to do, unless remove_task_when_completed=False.
            done = set(info[_DONE])
            return len(done) / len(done | set(info[_TO_DO]))
        except (TypeError, ZeroDivisionError):
            return np.nan
    return np.nan


def _share(value: Any) -> float:
    """Return a bool or a number in [0, 1] as a float, also from an array of one element; NaN for anything else."""
    if type(value) in (bool, float):  # most environments; fast
        number = float(value)
    else:
        try:
            array = np.asarray(value)
        except Exception:  # ragged lists, tensors of a GPU
            return np.nan
        if array.size != 1 or array.dtype.kind not in "fiub":
            return np.nan
        number = float(array.reshape(())[()])
    return number if 0 <= number <= 1 else np.nan


def scored_by_success(env_id: str | None) -> tuple[str, str] | None:
    """Return the paper that scores a task by its success rate, and its date; None for all other tasks.

    Args:
        env_id: of an environment such as AntMaze_UMaze-v5, or of D4RL's or OGBench's data set.
    """
    found = (paper for ids, paper in SCORED_BY_SUCCESS.items() if env_id is not None and re.fullmatch(ids, env_id))
    return next(found, None)
