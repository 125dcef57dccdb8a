"""Name the tasks of D4RL that are made anew from Gymnasium-Robotics' robots, under D4RL's own names.

`antmaze-umaze-v2`, `maze2d-large-v1`, `pen-human-v1` or `kitchen-mixed-v0` names a dataset, and here also the
environment of Gymnasium that its policies are evaluated in, with D4RL's observations, rewards, starts, goals and time
limit (`rlrat.environments.d4rl_tasks`). They are no environments of Gymnasium-Robotics: those differ from D4RL's in all
of these. Locomotion has none: Gymnasium's own -v4 environments are near enough.

Facts of d4rl 1.1: d4rl/locomotion/__init__.py, d4rl/pointmaze/__init__.py, d4rl/hand_manipulation_suite/__init__.py and
d4rl/kitchen/__init__.py. Nothing here needs NumPy or Gymnasium.
"""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from rlrat.errors import InputError

ROOT = "https://rail.eecs.berkeley.edu/datasets/offline_rl"
_MODULE = "rlrat.environments.d4rl_tasks"

MAZES: dict[str, tuple[str, ...]] = {
    "open": ("#######", "#     #", "#     #", "#     #", "#######"),
    "umaze": ("#####", "#   #", "### #", "#   #", "#####"),
    "medium": (
        *("########", "#  ##  #", "#  #   #", "##   ###"),
        *("#  #   #", "# #  # #", "#   #  #", "########"),
    ),
    "large": (
        *("############", "#    #     #", "# ## # # # #", "#      #   #", "# #### ### #"),
        *("#  # #     #", "## # # # ###", "#  #   #   #", "############"),
    ),
}
"""Walls (#) of D4RL's mazes, which AntMaze and Maze2D share."""
TASKS_OF_KITCHEN = {
    "complete": ("microwave", "kettle", "light switch", "slide cabinet"),
    "partial": ("microwave", "kettle", "light switch", "slide cabinet"),
    "mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}


@dataclass(frozen=True)
class Task:
    """A task of D4RL's as Gymnasium registers it."""

    name: str
    maker: str
    """The class in `rlrat.environments.d4rl_tasks`."""
    max_episode_steps: int
    widths: tuple[int, int]
    """Of observations and of actions."""
    base: str
    """The environment of Gymnasium-Robotics that it is made of."""
    kwargs: dict[str, Any] = field(default_factory=dict)


def _antmaze() -> Iterator[Task]:
    goals = {"umaze": (3, 1), "medium": (6, 6), "large": (7, 9)}
    levels = {"umaze": ("", "-diverse"), "medium": ("-play", "-diverse"), "large": ("-play", "-diverse")}
    for maze, goal in goals.items():
        steps = 700 if maze == "umaze" else 1000
        for level in levels[maze]:
            for version in ("v0", "v1", "v2"):
                kwargs = {"maze": maze, "goal": goal}
                yield Task(f"antmaze-{maze}{level}-{version}", "AntMaze", steps, (29, 8), "AntMaze_UMaze-v5", kwargs)


def _maze2d() -> Iterator[Task]:
    goals = {"open": (2, 3), "umaze": (1, 1), "medium": (6, 6), "large": (7, 9)}
    steps = {"v0": {"open": 150, "umaze": 150, "medium": 250, "large": 600}}
    steps["v1"] = {"umaze": 300, "medium": 600, "large": 800}
    for version, limits in steps.items():
        for maze, limit in limits.items():
            for suffix in ("", "-dense"):
                kwargs = {"maze": maze, "goal": goals[maze], "dense": bool(suffix)}
                yield Task(f"maze2d-{maze}{suffix}-{version}", "Maze2D", limit, (4, 2), "PointMaze_UMaze-v3", kwargs)


def _adroit() -> Iterator[Task]:
    widths = {"pen": (45, 24), "hammer": (46, 26), "door": (39, 28), "relocate": (39, 30)}
    for task, its in widths.items():
        for level in ("human", "cloned", "expert"):
            for version in ("v0", "v1"):
                steps, base = 100 if task == "pen" else 200, f"AdroitHand{task.capitalize()}-v1"
                yield Task(f"{task}-{level}-{version}", "Adroit", steps, its, base, {"task": task})


def _kitchen() -> Iterator[Task]:
    for level, tasks in TASKS_OF_KITCHEN.items():
        yield Task(f"kitchen-{level}-v0", "Kitchen", 280, (60, 9), "FrankaKitchen-v1", {"tasks": tasks})


TASKS: dict[str, Task] = {task.name: task for family in (_antmaze, _maze2d, _adroit, _kitchen) for task in family()}
"""By D4RL's name."""


def register(name: str) -> None:
    """Register the task of D4RL's of that name with Gymnasium, if it is one and is not registered.

    Raises:
        InputError: Gymnasium-Robotics is not installed.
    """
    import gymnasium

    if name not in TASKS or name in gymnasium.registry:
        return
    task = TASKS[name]
    if importlib.util.find_spec("gymnasium_robotics") is None:
        extra = "kitchen" if task.maker == "Kitchen" else "robotics"
        raise InputError(
            f"{name} is made of gymnasium-robotics' {task.base}, which is not installed: pip install 'rlrat[{extra}]', "
            "or train without an environment: --env-id none"
        )
    gymnasium.register(
        name, f"{_MODULE}:{task.maker}", max_episode_steps=task.max_episode_steps, kwargs=dict(task.kwargs)
    )
