"""What is saved is read with the same fingerprint."""

import json
import shutil
import tempfile
import time
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrat import load_dataset
from rlrat.datasets import Dataset, progress, saving
from rlrat.errors import InputError
from tests.datasets.episode_lists import episode_lists


def with_log_probs(episodes):
    return [episode | {"log_probs": -np.arange(len(episode["rewards"])) / 3} for episode in episodes]


@settings(max_examples=15, deadline=None)
@given(episode_lists(), st.booleans(), st.sampled_from(["a.npz", "a.hdf5", "a.h5", "folder"]))
def test_a_round_trip_changes_no_byte(episodes, probs, name):
    dataset = Dataset.from_episodes(with_log_probs(episodes) if probs else episodes, env_id="Hopper-v5")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        dataset.save(path)
        again = load_dataset(path)
        assert (again.fingerprint, again.id) == (dataset.fingerprint, path.stem)
        np.testing.assert_allclose(again.episode_returns, dataset.episode_returns, rtol=1e-5, atol=1e-2)
        for field in ("action_low", "action_high", "episode_lengths", "episode_complete"):
            np.testing.assert_array_equal(getattr(again, field), getattr(dataset, field))
        assert (again.env_id, again.reference) == ("Hopper-v5", "v5")
        assert (again.log_probs is not None) == probs


@pytest.mark.parametrize("name", ["a.npz", "a.hdf5"])
def test_lost_steps_and_returns_survive(d4rl_arrays, write_hdf5, tmp_path, name):
    dataset = load_dataset(write_hdf5("hopper-medium-v2.hdf5", d4rl_arrays()))
    dataset.save(tmp_path / name)
    again = load_dataset(tmp_path / name)
    assert again.fingerprint == dataset.fingerprint
    for field in ("episode_returns", "episode_lengths", "episode_complete"):
        np.testing.assert_array_equal(getattr(again, field), getattr(dataset, field))
    assert (again.env_id, again.reference) == ("Hopper-v4", "d4rl")
    with pytest.raises(InputError, match=r"not made of whole episodes.*save it as \.npz or"):
        dataset.save(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def test_equal_observations_join_no_episodes(make_episode, tmp_path):
    """The next observation at an episode's end may be the next episode's first one."""
    episodes = [make_episode(3, terminal=False), make_episode(2)]
    for episode in episodes:
        episode["observations"] = np.ones_like(episode["observations"])
    dataset = Dataset.from_episodes(episodes)
    for name in ("a.npz", "a.hdf5"):
        dataset.save(tmp_path / name)
        assert load_dataset(tmp_path / name).fingerprint == dataset.fingerprint


def test_others_read_it_too(episodes, tmp_path):
    dataset = Dataset.from_episodes(episodes)
    dataset.save(tmp_path / "minari" / "own" / "set-v0")
    theirs = minari.load_dataset("own/set-v0")
    assert Dataset.from_episodes(theirs.iterate_episodes()).fingerprint == dataset.fingerprint
    dataset.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as arrays:
        np.testing.assert_array_equal(arrays["terminals"], dataset.terminations)
        assert json.loads(str(arrays["about"]))["env_id"] is None


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("there.npz", "exists already"),
        ("a.txt", "written as .npz, .hdf5, or a folder"),
        ("there.npz/a.npz", "cannot write"),
    ],
)
def test_where_nothing_can_be_written(episodes, tmp_path, name, said):
    (tmp_path / "there.npz").touch()
    with pytest.raises(InputError, match=said):
        Dataset.from_episodes(episodes).save(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["there.npz"]


def forge(path, name, value):
    with np.load(path) as arrays:
        content = dict(arrays)
    content[name] = value
    if value is None:
        del content[name]
    shutil.rmtree(f"{path}.rlrat-cache", ignore_errors=True)
    np.savez(path, **content)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("episode_starts", [1, 2, 3], "must be integers that start with 0"),
        ("episode_starts", [0, 5, 3], "must be integers that start with 0"),
        ("episode_starts", [0.0, 5.0, 8.0], "must be integers"),
        ("episode_lengths", [5, 3], "a finite number for each of 3 episodes"),
        ("episode_lengths", [5, 1, 1], "fewer steps than the episode"),
        ("episode_returns", [0, np.nan, 0], "a finite number for each"),
        ("next_observations", None, "no next_observations"),
        ("about", np.array("{"), "about cannot be read"),
        ("about", np.array('{"env_id": 3}'), "about has a wrong env_id"),
        ("about", np.array('{"notes": "x"}'), "about has a wrong notes"),
        ("action_low", np.array([0.5, 0.5]), "outside their bounds .* that it records: give --action-bounds"),
    ],
)
def test_what_others_wrote_into_it_is_checked(episodes, tmp_path, name, value, said):
    path = tmp_path / "a.npz"
    Dataset.from_episodes(episodes).save(path)
    forge(path, name, None if value is None else np.asarray(value))
    with pytest.raises(InputError, match=said) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)


def test_saved_without_more_than_starts_is_whole(episodes, tmp_path):
    path = tmp_path / "a.npz"
    dataset = Dataset.from_episodes(episodes)
    dataset.save(path)
    for name in ("about", "episode_lengths", "episode_returns", "episode_complete", "action_low", "action_high"):
        forge(path, name, None)
    again = load_dataset(path, action_bounds=[(-1, 1)])
    assert again.fingerprint == dataset.fingerprint
    np.testing.assert_allclose(again.episode_returns, dataset.episode_returns, rtol=1e-5)


def test_a_text_in_an_hdf5_file_is_one(episodes, tmp_path):
    path = tmp_path / "a.hdf5"
    Dataset.from_episodes(episodes).save(path)
    with h5py.File(path, "a") as file:
        file.attrs["about"] = 3
    with pytest.raises(InputError, match="about is no text"):
        load_dataset(path)


def test_writing_many_episodes_is_said(episodes, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "AFTER_SECONDS", 0.0)
    monkeypatch.setattr(saving, "_metadata", lambda fields: time.sleep(0.2) or {})
    Dataset.from_episodes(episodes).save(tmp_path / "log")
    assert capsys.readouterr().err == f"writing {tmp_path}/log: this takes a while\n"


@pytest.mark.parametrize("name", ["a.npz", "a.hdf5", "folder"])
@pytest.mark.parametrize("drop", [None, False])
def test_the_parts_of_dictionaries_survive(make_goals, tmp_path, name, drop):
    dataset = Dataset.from_episodes(make_goals(), drop_achieved_goal=drop)
    assert ("achieved_goal", 2) in dataset.observation_parts or drop is None
    dataset.save(tmp_path / name)
    again = load_dataset(tmp_path / name)
    assert (again.fingerprint, again.observation_parts) == (dataset.fingerprint, dataset.observation_parts)
    assert load_dataset(tmp_path / name, drop_achieved_goal=False).fingerprint == dataset.fingerprint
    dropped = load_dataset(tmp_path / name, drop_achieved_goal=True)
    assert dropped.fingerprint == Dataset.from_episodes(make_goals()).fingerprint


def test_minari_reads_dictionaries_too(make_goals, tmp_path):
    episodes = make_goals(stands=False)
    Dataset.from_episodes(episodes).save(tmp_path / "minari" / "own" / "set-v0")
    theirs = minari.load_dataset("own/set-v0")
    assert theirs.observation_space["desired_goal"]["height"].shape == (1,)
    found = [episode.observations for episode in theirs.iterate_episodes()]
    for ours, its in zip(episodes, found, strict=True):
        np.testing.assert_array_equal(its["observation"], ours["observations"]["observation"].astype(np.float32))
        place = ours["observations"]["desired_goal"]["place"].astype(np.float32)
        np.testing.assert_array_equal(its["desired_goal"]["place"], place)


@pytest.mark.parametrize("parts", [[["a", 3]], [["a", 4], ["a"]], "four"])
def test_parts_that_do_not_fit_are_one_line(episodes, tmp_path, parts):
    Dataset.from_episodes(episodes).save(tmp_path / "a.hdf5")
    with h5py.File(tmp_path / "a.hdf5", "r+") as file:
        file.attrs["about"] = json.dumps(json.loads(file.attrs["about"]) | {"observation_parts": parts})
    with pytest.raises(InputError, match=r"about has (a wrong|other) observation_parts") as caught:
        load_dataset(tmp_path / "a.hdf5")
    assert "\n" not in str(caught.value)
