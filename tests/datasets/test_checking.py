"""What a check of the caches finds."""

import os
import shutil

import h5py
import numpy as np
import pytest

from rlrat import load_dataset
from rlrat.datasets import cache
from rlrat.datasets.checking import check_caches
from rlrat.errors import InputError


@pytest.fixture
def loaded(write_hdf5, d4rl_arrays):
    path = write_hdf5("data/a.hdf5", d4rl_arrays())
    load_dataset(path)
    return path


def only(*datasets):
    (finding,) = check_caches(datasets)
    return finding


def flip(root, name="rewards.npy"):
    """Change a bit of an array, and not its time."""
    (path,) = root.glob(f"*/{name}")
    about, content = path.stat(), bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.mark.parametrize(("id", "said"), [("a" * 300, "cannot read a+"), ("~nobody-here/x", "is in no cache")])
def test_what_cannot_be_looked_at_is_one_line(id, said):
    with pytest.raises(InputError, match=said):
        only(id)


def test_what_is_whole(loaded):
    finding = only(str(loaded))
    assert str(finding) == f"a in {cache.beside_file(loaded)}: ok"
    assert not finding.is_damaged
    assert list(check_caches()) == []  # none is the user's


def test_a_flipped_bit_is_found_and_the_entry_made_anew(loaded):
    before = load_dataset(loaded)
    flip(cache.beside_file(loaded))
    assert load_dataset(loaded).fingerprint == before.fingerprint  # only a check reads it all
    finding = only(str(loaded))
    assert finding.is_damaged
    assert finding.said == "damaged (rewards.npy has another content): it is made anew when it is loaded next"
    assert not only(str(loaded)).is_damaged
    assert only(str(loaded)).said == "there is none; it is made anew when it is loaded next"
    assert load_dataset(loaded).fingerprint == before.fingerprint
    assert only(str(loaded)).said == "ok"


@pytest.mark.parametrize("change", ["touched", "changed", "gone"])
def test_a_source_that_is_not_as_it_was(loaded, change):
    os.utime(loaded, (1, 1))
    said = "ok"
    if change == "changed":
        with h5py.File(loaded, "a") as file:
            file["rewards"][0] = 3
        said = "the source has changed: it is made anew when it is loaded next"
    if change == "gone":
        loaded.unlink()
        said = "ok, but its source is gone or cannot be read"
    finding = only(str(loaded))
    assert finding.said == said
    assert not finding.is_damaged


def test_all_of_the_users(loaded, tmp_path):
    load_dataset("rlrat/hopper/medium-v0")
    flip(tmp_path / "cache" / "rlrat" / "datasets")
    assert [(finding.id, finding.is_damaged) for finding in check_caches()] == [("rlrat/hopper/medium-v0", True)]


def test_a_dataset_is_named_as_agents_name_it(
    make_minari, make_episode, d4rl_arrays, write_hdf5, monkeypatch, tmp_path
):
    make_minari("some/set-v0", [make_episode(5)])
    path = write_hdf5("d4rl/hopper_medium-v2.hdf5", d4rl_arrays())
    monkeypatch.chdir(tmp_path)
    for id in ("some/set-v0", "hopper-medium-v2", "d4rl/hopper_medium-v2.hdf5"):
        load_dataset(id)
        assert only(id).said == "ok"
    assert only(str(path)).id == only("hopper-medium-v2").id == "hopper-medium-v2"
    assert [finding.said for finding in check_caches(["some/set-v0", "hopper-medium-v2"])] == ["ok", "ok"]


def test_a_file_whose_cache_is_the_users(loaded, tmp_path):
    root = cache.beside_file(loaded)
    shutil.rmtree(root)
    root.touch()
    load_dataset(loaded)
    assert only(str(loaded)).root == tmp_path / "cache" / "rlrat" / "datasets"


def test_what_is_in_no_cache(loaded):
    for id in ("nonsense", "", "/", str(loaded.with_name("b.hdf5"))):
        with pytest.raises(InputError, match="is in no cache: it comes there when it is loaded"):
            list(check_caches([id]))


def test_what_others_can_write_is_said(loaded):
    cache.beside_file(loaded).chmod(0o777)
    assert only(str(loaded)).said == "it is not used, since others can write there"


def test_what_cannot_be_taken_away(loaded, monkeypatch):
    flip(cache.beside_file(loaded))

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "rename", refuse)
    finding = only(str(loaded))
    assert finding.is_damaged
    assert finding.said.endswith("and it cannot be taken away (Permission denied): its owner can")


def test_damaged_stamps_are_left_out(loaded):
    root = cache.beside_file(loaded)
    content = (root / "source.json").read_text()
    for text in ("[]", "{", '{"entry": "x"}', content.replace('"files": ["', '"files": [3, "'), "[" * 100_000):
        (root / "source.json").write_text(text)
        with pytest.raises(InputError, match="is in no cache"):
            list(check_caches([str(loaded)]))
    np.testing.assert_array_equal(load_dataset(loaded).rewards.shape, (38,))
