"""What is found in an entry is used only as it was written."""

import dataclasses
import hashlib
import json
import os

import numpy as np
import pytest

from rlrat.datasets import Dataset, entries


@pytest.fixture
def dataset(make_episode):
    return Dataset.from_episodes([make_episode(5), make_episode(3)], id="some/set-v0", env_id="A-v5")


@pytest.fixture
def entry(dataset, tmp_path):
    folder = tmp_path / "entry"
    folder.mkdir()
    entries.write(folder, dataset, ())
    return folder


def forge(entry, change):
    """Another manifest, with its own checksum."""
    path = entry / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["checksum"]
    change(manifest)
    path.write_text(json.dumps({**manifest, "checksum": hashlib.sha256(json.dumps(manifest).encode()).hexdigest()}))


def forge_array(entry, name, array):
    """Another array with its own numbers in the manifest."""

    def change(manifest):
        path = entry / f"{name}.npy"
        np.save(path, array, allow_pickle=array.dtype.hasobject)
        os.utime(path, (manifest["seconds"], manifest["seconds"]))
        checksum = hashlib.sha256(path.read_bytes()).hexdigest()
        manifest["arrays"][name] = [array.shape, array.dtype.str, path.stat().st_size, checksum]

    forge(entry, change)


def test_every_field_of_a_dataset_is_checked(dataset):
    arrays = {name for name, value in vars(dataset).items() if isinstance(value, np.ndarray)}
    assert arrays == set(entries._ARRAYS)
    fields = {field.name for field in dataclasses.fields(Dataset)}
    assert fields == {*arrays, *entries.VALUES, *entries.OPTIONAL_VALUES, *entries._OPTIONAL, "training"}


def test_what_was_written_is_read(entry, dataset):
    found = entries.read(entry, "some/set-v0")
    assert vars(found).keys() == vars(dataset).keys()
    for name, value in vars(dataset).items():
        np.testing.assert_array_equal(getattr(found, name), value)
    assert entries.damage(entry) is None
    forge(entry, lambda manifest: None)
    assert entries.read(entry, "some/set-v0") is not None


def test_all_is_on_the_disk(dataset, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: kept.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    entries.write(tmp_path, dataset, ())
    assert sorted(kept) == sorted(map(str, tmp_path.iterdir()))


def test_arrays_of_any_order_are_written_in_one(dataset, tmp_path):
    dataset = dataclasses.replace(dataset, observations=np.asfortranarray(dataset.observations))
    entries.write(tmp_path, dataset, ())
    np.testing.assert_array_equal(entries.read(tmp_path, dataset.id).observations, dataset.observations)


def test_settings_with_numbers_as_names_keep_their_checksum(dataset, tmp_path):
    dataset = dataclasses.replace(dataset, env_kwargs={10: 0.1, 9: float("inf"), "a": [1, None]})
    entries.write(tmp_path, dataset, ())
    assert entries.read(tmp_path, dataset.id).env_kwargs == {"10": 0.1, "9": float("inf"), "a": [1, None]}


def test_an_entry_of_another_dataset(entry):
    assert entries.read(entry, "another") is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("id", 3), ("env_id", ["A"]), ("env_kwargs", []), ("env_kwargs", None), ("env_recorded", "{}")],
        *[("notes", "note"), ("notes", [3]), ("reference", "v6"), ("reference", {}), ("fingerprint", "0" * 63)],
        *[("fingerprint", None), ("observations", [0])],
    ],
)
def test_wrong_values(entry, name, value):
    forge(entry, lambda manifest: manifest["values"].update({name: value}))
    assert entries.read(entry, "some/set-v0") is None
    assert "manifest.json" in entries.damage(entry)


@pytest.mark.parametrize(
    "content", ["null", "[]", "3", "[" * 100_000, '{"a": ' * 100_000, "{}", '{"checksum": 1}', "NaN", "\udcff", ""]
)
def test_a_garbled_manifest(entry, content):
    (entry / "manifest.json").write_bytes(content.encode(errors="surrogateescape"))
    assert entries.read(entry, "some/set-v0") is None
    assert entries.damage(entry) is not None


def test_a_changed_manifest(entry):
    path = entry / "manifest.json"
    path.write_text(path.read_text().replace("A-v5", "B-v5"))
    assert entries.read(entry, "some/set-v0") is None
    assert entries.damage(entry) == "manifest.json has another content"


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("observations", np.asfortranarray(np.zeros((8, 4), np.float32))),
        ("observations", np.zeros((8, 4), np.float64)),
        ("observations", np.zeros((8, 0), np.float32)),
        ("rewards", np.zeros((8, 1), np.float32)),
        ("rewards", np.zeros(7, np.float32)),
        ("rewards", np.array([None] * 8)),
        ("rewards", np.zeros(8, [("x", "f4")])),
        ("actions", np.zeros((8, 3), np.float32)),
        ("episode_starts", np.array([0, 9])),
        ("episode_starts", np.array([1, 5])),
        ("episode_starts", np.array([0, -1])),
        ("episode_starts", np.array([0, 5, 6])),
        ("episode_lengths", np.array([5, 0])),
        ("episode_returns", np.array([0.0, np.nan])),
        ("action_low", np.ones(2, np.float32)),
        ("action_high", np.array([1, np.inf], np.float32)),
    ],
)
def test_impossible_arrays(entry, name, array):
    forge_array(entry, name, array)
    assert entries.read(entry, "some/set-v0") is None
    assert entries.damage(entry) is not None


def test_a_header_that_lies(entry):
    path = entry / "rewards.npy"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"(8,), }              ", b"(8000000000000000,), }"[:22].ljust(21)))
    assert entries.read(entry, "some/set-v0") is None


def test_a_file_elsewhere_is_not_followed(entry):
    path = entry / "rewards.npy"
    path.rename(entry.parent / "rewards.npy")
    path.symlink_to(entry.parent / "rewards.npy")
    assert entries.read(entry, "some/set-v0") is None
    assert entries.damage(entry) == "rewards.npy is a link, or others can write it"
    forge(entry, lambda manifest: manifest["arrays"].update({"../rewards": manifest["arrays"].pop("rewards")}))
    assert entries.read(entry, "some/set-v0") is None


def test_a_file_that_others_can_write(entry):
    (entry / "rewards.npy").chmod(0o666)
    assert entries.read(entry, "some/set-v0") is None


def change_rewards(entry, keep_time):
    path = entry / "rewards.npy"
    about, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    if keep_time:
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


def test_a_change_shows_by_the_time(entry):
    change_rewards(entry, keep_time=False)
    assert entries.read(entry, "some/set-v0") is None


def test_a_flipped_bit_shows_in_a_check(entry):
    change_rewards(entry, keep_time=True)
    assert entries.read(entry, "some/set-v0") is not None
    assert entries.damage(entry) == "rewards.npy has another content"
    (entry / "rewards.npy").unlink()
    assert entries.damage(entry) == "rewards.npy is missing"


def test_whose_time_cannot_be_set_back_is_read_nonetheless(entry, monkeypatch):
    os.utime(entry / "rewards.npy")

    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    assert entries.read(entry, "some/set-v0") is not None


def test_dictionary_observations_are_kept_and_checked(make_goals, tmp_path):
    dataset = Dataset.from_episodes(make_goals(), id="some/set-v0")
    entries.write(tmp_path, dataset, ())
    assert entries.read(tmp_path, "some/set-v0").observation_parts == dataset.observation_parts != ()
    assert entries.damage(tmp_path) is None
    for wrong in ([["a", 1]], [["a", 0], ["b", 7]], "abcdefg", None, [["a", 7.0]], 7):
        forge(tmp_path, lambda manifest, wrong=wrong: manifest["values"].update(observation_parts=wrong))
        assert entries.read(tmp_path, "some/set-v0") is None
    forge(tmp_path, lambda manifest: manifest["values"].update(observation_parts=[["a", 7]]))
    assert entries.read(tmp_path, "some/set-v0").observation_parts == (("a", 7),)


def test_an_entry_of_flat_observations_is_as_before_there_were_parts(entry):
    assert "observation_parts" not in json.loads((entry / "manifest.json").read_text())["values"]
