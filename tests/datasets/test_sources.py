"""One name for a dataset, however it is spelled, and never a way out of the folder of runs."""

import inspect
import os
from pathlib import Path

import numpy as np
import pytest

from rlrat import load_dataset
from rlrat.datasets import Dataset, sources
from rlrat.datasets.sources import dataset_id, folder_name, given
from rlrat.errors import InputError
from rlrat.runs.arguments import RunArguments, run_folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path


@pytest.mark.parametrize(
    ("spellings", "id", "folder"),
    [
        (["rlrat/hopper/mixed-v0", "rlrat//hopper/mixed-v0/"], "rlrat/hopper/mixed-v0", "rlrat-hopper-mixed-v0"),
        (["hopper-medium-v2", "hopper-medium-v2/"], "hopper-medium-v2", "hopper-medium-v2"),
        (["x", "./x/", "{here}/x", "../{name}/x", "y/../x"], "x", "x"),
        (["deep/x", "./deep//x/", "{here}/deep/x"], "x", "x"),
        (["minari/toy/set-v0", "./minari/toy/set-v0", "{here}/minari/toy/set-v0/"], "{first}", "{first}"),
        (["./minari/toy/set-v0", "{here}/minari/toy/set-v0/"], "toy/set-v0", "toy-set-v0"),
        (["mine.hdf5", "./mine.hdf5", "a/../mine.hdf5", "{here}/mine.hdf5", "mine.h5"], "mine", "mine"),
        (["hopper_medium-v2.hdf5", "hopper-medium-v2"], "hopper-medium-v2", "hopper-medium-v2"),
        (["mine.npz", "./mine.npz", "{here}/mine.csv", "mine.parquet"], "mine", "mine"),
        (["hopper_medium-v2.npz"], "hopper_medium-v2", "hopper_medium-v2"),
        (["mine.bin", "./mine.bin", "{here}/mine.bin"], "mine.bin", "mine.bin"),
        (["...hdf5", "./...hdf5"], "dataset..", "dataset.."),
        (["..hdf5"], "dataset.", "dataset."),
        (["/", "//"], "dataset", "dataset"),
        (["a\x1b[31m\nb.hdf5"], "a_[31m_b", "a_[31m_b"),
    ],
)
def test_every_spelling_has_one_name(here, spellings, id, folder):
    if id == "{first}":  # what has the form of an id is one
        spellings, id, folder = spellings[:1], "minari/toy/set-v0", "minari-toy-set-v0"
    for spelling in spellings:
        text = spelling.format(here=here, name=here.name)
        assert (dataset_id(text), folder_name(text)) == (id, folder), text
        run = run_folder(RunArguments(dataset=text, run_dir=Path("runs")), "iql", 3)
        assert run == Path("runs", folder, "iql", "relu", "seed3")


def test_no_dataset_leads_out_of_the_folder_of_runs(here):
    for text in ("", ".", "..", "../..", "...hdf5", "x/..", "/", "~", "\0", "./.hdf5", "..", "a\\..\\b"):
        folder = run_folder(RunArguments(dataset=text, run_dir=here / "runs"), "iql", 0)
        assert Path(os.path.abspath(folder)) == folder
        assert folder.relative_to(here / "runs").parts[1:] == ("iql", "relu", "seed0")


def test_every_spelling_of_a_file_is_loaded_under_its_runs_name(write_hdf5, d4rl_arrays, tmp_path, monkeypatch):
    write_hdf5("home/data/hopper_medium-v2.hdf5", d4rl_arrays())
    write_hdf5("home/data/mine.bin", d4rl_arrays())
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    for name, id in {"hopper_medium-v2.hdf5": "hopper-medium-v2", "mine.bin": "mine.bin"}.items():
        for folder in ("data", "./data", "~/data", str(tmp_path / "home/data"), "data/../data//"):
            text = f"{folder}/{name}"
            assert load_dataset(text).id == dataset_id(text) == folder_name(text) == id


def test_a_dataset_in_memory_wins_while_it_is_given(episodes):
    dataset = Dataset.from_episodes(episodes, id="rlrat/hopper/mixed-v0")
    other = Dataset.from_episodes(episodes[:2], id="rlrat/hopper/mixed-v0")
    with given(dataset) as id:
        assert load_dataset(id) is dataset
        with given(other):
            assert load_dataset(id) is other
        assert load_dataset(id) is dataset
        assert folder_name(id) == "rlrat-hopper-mixed-v0"
        assert not sources.is_to_be_fetched(id)
    assert len(load_dataset(id)) > len(dataset)


def test_a_dataset_that_is_not_given_any_more_is_unknown(episodes):
    with given(Dataset.from_episodes(episodes, id="a ../log")) as id:
        assert folder_name(id) == "a ..-log"
    with pytest.raises(InputError, match=r"unknown dataset 'a \.\./log'"):
        load_dataset(id)


def test_other_bounds_of_a_dataset_in_memory(episodes):
    dataset = Dataset.from_episodes(episodes)
    with given(dataset) as id:
        wider = load_dataset(id, action_bounds=[(-2, 4)])
        assert (wider.action_low.tolist(), wider.action_high.tolist()) == ([-2, -2], [4, 4])
        assert wider.fingerprint == dataset.fingerprint
        np.testing.assert_array_equal(wider.truncations, dataset.truncations)
        with pytest.raises(InputError, match="outside their bounds"):
            load_dataset(id, action_bounds=[(0, 1)])


def test_what_has_to_be_fetched(write_hdf5, d4rl_arrays, make_minari, make_episode):
    make_minari("own/set-v0", [make_episode(3)])
    path = str(write_hdf5("mine.hdf5", d4rl_arrays()))
    for text in ("rlrat/hopper/mixed-v0", "own/set-v0", path, "nonsense", "a" * 300):
        assert not sources.is_to_be_fetched(text), text
    for text in ("mujoco/hopper/medium-v0", "hopper-medium-v2"):
        assert sources.is_to_be_fetched(text), text
    write_hdf5("d4rl/hopper_medium-v2.hdf5", d4rl_arrays())
    assert not sources.is_to_be_fetched("hopper-medium-v2")


def test_a_name_of_d4rls_is_minaris_where_only_that_is_here(write_hdf5, d4rl_arrays, make_minari, make_episode):
    """As door-human-v0 of Minari before 0.5 is, which is no file of D4RL's."""
    name = "door-human-v0"
    assert sources.is_to_be_fetched(name)
    make_minari(name, [make_episode(3)])
    assert not sources.is_to_be_fetched(name)
    assert len(load_dataset(name)) == 3
    write_hdf5("d4rl/door-v0_demos_clipped.hdf5", d4rl_arrays("to", observations=39, actions=28))
    assert len(load_dataset(name)) == 9


def test_paths_alone_become_absolute(here, make_minari, make_episode, monkeypatch):
    make_minari("own/set-v0", [make_episode(3)])
    for text in ("rlrat/hopper/mixed-v0", "own/set-v0", "hopper-medium-v2", "nonsense", "a" * 300):
        assert sources.absolute(text) == text
    assert sources.absolute("x/../mine.hdf5") == str(here / "mine.hdf5")
    assert sources.absolute("./minari/own/set-v0") == str(here / "minari/own/set-v0")


def test_a_folder_of_files_is_known_by_them(here, make_episode):
    folder = here / "logs"
    folder.mkdir()
    with pytest.raises(InputError, match="unknown dataset 'logs'"):
        load_dataset("logs")
    np.savez(folder / "a.npz", **make_episode(3))
    for text in ("logs", "./logs/", str(folder), "logs/../logs"):
        assert load_dataset(text).id == folder_name(text) == "logs"


def test_every_source_has_all_that_a_source_has():
    members = {name for name in vars(sources.Source) if not name.startswith("_")} | set(sources.Source.__annotations__)
    assert all(hasattr(source, name) for source in sources.SOURCES for name in members)
    for source in sources.SOURCES:
        inspect.signature(source.load).bind("id", None, None, False)


def test_a_folder_that_is_named_as_an_id_is_hinted_at(here, make_episode, monkeypatch):
    (here / "logs" / "drive-v1").mkdir(parents=True)
    np.savez(here / "logs" / "drive-v1" / "0.npz", **make_episode(4))
    assert sources.hint("logs/drive-v1") == "; there is such a folder here, which ./logs/drive-v1 means"
    assert load_dataset("./logs/drive-v1").id == "drive-v1"


def test_what_no_source_knows(episodes):
    assert not sources.is_known("my-log")
    with given(Dataset.from_episodes(episodes, id="my-log")):
        assert sources.is_known("my-log")
