"""OGBench's names: which say a task, and what else to give where they say none."""

import re
from pathlib import Path

import pytest

from rlrat.datasets import ogbench_names, sources
from rlrat.datasets.ogbench_names import SETS, file_of, is_name, refuse_file, task_of
from rlrat.errors import InputError


def test_there_are_as_many_as_were_published():
    assert len(SETS) == len(set(SETS)) == 47  # of 85: 35 have images, 3 are of Powderworld


@pytest.mark.parametrize(
    ("name", "env_id", "file"),
    [
        ("antmaze-medium-navigate-singletask-v0", "antmaze-medium-singletask-v0", "antmaze-medium-navigate-v0"),
        ("cube-double-play-singletask-task2-v0", "cube-double-singletask-task2-v0", "cube-double-play-v0"),
        ("scene-noisy-singletask-task5-v0", "scene-singletask-task5-v0", "scene-noisy-v0"),
        ("puzzle-4x6-play-singletask-task1-v0", "puzzle-4x6-singletask-task1-v0", "puzzle-4x6-play-v0"),
    ],
)
def test_a_name_says_environment_and_file(name, env_id, file, tmp_path, monkeypatch):
    assert (task_of(name), file_of(name)) == (env_id, tmp_path / "ogbench" / f"{file}.npz")
    assert sources.find(name).place(f"{name}/") == file_of(name)
    assert not sources.find(name).is_present(name)
    monkeypatch.delenv("OGBENCH_DATASET_DIR")
    monkeypatch.setenv("HOME", "/home/me")
    assert file_of(name) == Path(f"/home/me/.ogbench/data/{file}.npz")


@pytest.mark.parametrize(
    "name",
    [
        "antmaze-medium-play-v0", "antmaze-umaze-v0", "antmaze-medium-diverse-v2", "hopper-medium-v2", "easy-play-v0",
        "antmaze-medium-navigate-singletask-v1", "antmaze-medium-navigate", "humanoidmaze-teleport-navigate-v0",
        "visual-powderworld-easy-play-v0", "cube-octuple-noisy-v0", "scene-v0",
    ],
)  # fmt: skip
def test_other_names_are_not_ogbenchs(name):
    assert not is_name(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("antmaze-medium-navigate-v0", "is goal-conditioned, .* give antmaze-medium-navigate-singletask-v0, which is"),
        ("antmaze-large-explore-oraclerep-v0", "is goal-conditioned, .* give antmaze-large-explore-singletask-v0, "),
        ("scene-play-v0", "or scene-play-singletask-task1-v0 to scene-play-singletask-task5-v0$"),
        ("scene-play-singletask-task6-v0", "^there is no scene-play-singletask-task6-v0: give scene-play-"),
        ("scene-play-singletask-task01-v0", "^there is no scene-play-singletask-task01-v0: give"),
        ("visual-scene-play-singletask-v0", "has images: only vectors can be read; give scene-play-singletask-v0"),
        ("visual-antmaze-medium-navigate-v0", "has images: only vectors"),
        ("powderworld-easy-play-v0", "has images and discrete actions"),
        ("cube-quadruple-play-100m-v0", "100 million .* not read: give cube-quadruple-play-singletask-v0"),
        ("cube-quadruple-play-100m-singletask-v0", "100 million"),
        ("cube-octuple-play-singletask-v0", "100 million transitions alone"),
    ],
)  # fmt: skip
def test_what_says_no_task_is_refused_with_what_does(name, message):
    with pytest.raises(InputError, match=message) as caught:
        task_of(name)
    assert "\n" not in str(caught.value)
    assert sources.find(name).form.startswith("a single task of OGBench's")


@pytest.mark.parametrize(
    ("file", "names", "message"),
    [
        ("cube-single-play-v0.npz", ["qpos"], "give cube-single-play-singletask-v0, which is its default task, or"),
        ("cube-single-play-v0-val.npz", [], "give cube-single-play-singletask-v0"),
        ("visual-cube-single-play-v0.npz", [], "has images: only vectors can be read"),
        ("mine.npz", ["qpos"], r"give it the name that OGBench has \(antmaze-medium-navigate-v0.npz\)"),
    ],
)
def test_a_file_cannot_say_which_task(tmp_path, file, names, message):
    path = tmp_path / file
    with pytest.raises(InputError, match=message) as caught:
        refuse_file(path, ["observations", "actions", "terminals", *names])
    if "images" not in message:
        assert str(caught.value).startswith(f"{path} has no rewards, which in OGBench's files depend on the task: ")
        assert re.search(rf"{ogbench_names.FOLDER_VARIABLE}={re.escape(str(tmp_path))}$", str(caught.value))


@pytest.mark.parametrize("names", [["rewards", "qpos", "terminals"], ["qpos"], ["terminals"]])
def test_other_files_are_let_through(tmp_path, names):
    refuse_file(tmp_path / "mine.npz", ["observations", "actions", *names])
    refuse_file(tmp_path / "scene-play-v0.npz", ["observations", "rewards", "terminals"])
