"""D4RL's tasks by name, as Gymnasium registers them."""

import importlib.util

import pytest

from rlrat.environments import find_spec
from rlrat.environments.d4rl import MAZES, TASKS
from rlrat.errors import InputError

gymnasium = pytest.importorskip("gymnasium")


@pytest.mark.parametrize(
    ("name", "limit", "kwargs"),
    [
        ("antmaze-umaze-diverse-v0", 700, {"maze": "umaze", "goal": (3, 1)}),
        ("antmaze-large-play-v2", 1000, {"maze": "large", "goal": (7, 9)}),
        ("maze2d-medium-dense-v0", 250, {"maze": "medium", "goal": (6, 6), "dense": True}),
        ("maze2d-large-v1", 800, {"maze": "large", "goal": (7, 9), "dense": False}),
        ("pen-cloned-v1", 100, {"task": "pen"}),
        ("relocate-expert-v0", 200, {"task": "relocate"}),
        ("kitchen-mixed-v0", 280, {"tasks": ("microwave", "kettle", "bottom burner", "light switch")}),
    ],
)
def test_a_task_is_registered_under_d4rls_name(name, limit, kwargs):
    pytest.importorskip("gymnasium_robotics")
    spec = find_spec(name)
    assert (spec.id, spec.max_episode_steps, spec.kwargs) == (name, limit, kwargs)
    assert find_spec(name) is spec


def test_what_d4rl_has_not_is_unknown():
    with pytest.raises(InputError, match="unknown environment 'antmaze-umaze-v3'"):
        find_spec("antmaze-umaze-v3")


def test_without_gymnasium_robotics(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    for name, extra in {"door-human-v1": "robotics", "kitchen-partial-v0": "kitchen"}.items():
        gymnasium.registry.pop(name, None)
        with pytest.raises(InputError) as caught:
            find_spec(name)
        assert str(caught.value).startswith(f"{name} is made of gymnasium-robotics' ")
        assert f"pip install 'rlrat[{extra}]', or train without an environment: --env-id none" in str(caught.value)


def test_mazes_are_rectangles_with_free_goals():
    for rows in MAZES.values():
        assert {len(row) for row in rows} == {len(rows[0])}
        assert rows[0] == rows[-1] == "#" * len(rows[0])
    goals = {(task.kwargs["maze"], task.kwargs["goal"]) for task in TASKS.values() if "goal" in task.kwargs}
    assert all(MAZES[maze][row][column] == " " for maze, (row, column) in goals)
