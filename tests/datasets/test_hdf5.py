"""HDF5 files of all kinds: what cannot be read as an array of this very file is one line."""

import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from rlrat import load_dataset
from rlrat.datasets import hdf5
from rlrat.datasets.hdf5 import open_group, open_hdf5, read, read_attribute, read_text, read_tree
from rlrat.errors import InputError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.hdf5"


@pytest.fixture
def secret(write_hdf5):
    """Another file of the machine, which nothing that is downloaded may lead to."""
    return write_hdf5("secret.hdf5", {"observations": np.zeros((40, 3), np.float32)})


def external_link(file, name, secret):
    file[name] = h5py.ExternalLink(str(secret), "observations")


def through_soft_link(file, name, secret):
    file["hidden"] = h5py.ExternalLink(str(secret), "/")
    file[name] = h5py.SoftLink("hidden/observations")


def virtual(file, name, secret):
    layout = h5py.VirtualLayout((40, 3), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "observations", (40, 3))
    file.create_virtual_dataset(name, layout)


def external_storage(file, name, secret):
    file.create_dataset(name, (40, 3), "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


OUTSIDE = [external_link, through_soft_link, virtual, external_storage]


@pytest.mark.parametrize("place", OUTSIDE)
def test_a_d4rl_file_leads_to_no_other_file(d4rl_arrays, write_hdf5, secret, monkeypatch, place):
    arrays = d4rl_arrays()
    del arrays["observations"]
    path = write_hdf5("a.hdf5", arrays)
    with h5py.File(path, "a") as file:
        place(file, "observations", secret)
    secret.unlink()  # the answer is the same where nothing is there
    with pytest.raises(InputError, match=r"a\.hdf5: observations .*another file: copy the data into this one"):
        load_dataset(path)


@pytest.mark.parametrize("place", OUTSIDE)
def test_a_minari_file_leads_to_no_other_file(make_minari, make_episode, secret, place):
    path = make_minari("some/set-v0", [make_episode(39)]) / "data" / "main_data.hdf5"
    with h5py.File(path, "a") as file:
        del file["episode_0/observations"]
        place(file["episode_0"], "observations", secret)
    with pytest.raises(InputError, match=r"main_data\.hdf5: episode_0/observations .*another file"):
        load_dataset("some/set-v0")


def test_a_minari_episode_lies_in_its_file(make_minari, make_episode, secret):
    path = make_minari("some/set-v0", [make_episode(5)]) / "data" / "main_data.hdf5"
    with h5py.File(path, "a") as file:
        file.move("episode_0", "other")
        file["episode_0"] = h5py.ExternalLink(str(secret), "/")
    with pytest.raises(InputError, match="episode_0 is a link to another file"):
        load_dataset("some/set-v0")


def test_soft_links_within_the_file_are_followed(path):
    with h5py.File(path, "w") as file:
        file["group/array"] = np.arange(3.0)
        file["group/near"] = h5py.SoftLink("./array")
        file["far"] = h5py.SoftLink("/group/near")
        file["folder"] = h5py.SoftLink("group")
        file["round"] = h5py.SoftLink("/round")
        file["dangling"] = h5py.SoftLink("/none/array")
    with open_hdf5(path) as file:
        for name in ("far", "folder/near", "/group/array"):
            assert read(file.id, name).tolist() == [0, 1, 2]
        assert read(open_group(file.id, "folder"), "near").tolist() == [0, 1, 2]
        assert read(file.id, "dangling") is read(file.id, "none") is read(file.id, "far/array") is None
        assert open_group(file.id, "far") is open_group(file.id, "none") is None
        with pytest.raises(InputError, match=r"a\.hdf5: round is a link that leads to no end"):
            read(file.id, "round")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (np.zeros(3, [("reward", "f4")]), "records of several fields"),
        (np.array(["a"], h5py.string_dtype()), "texts"),
        (np.array([b"a"]), "texts"),
        (np.array([np.zeros(2), np.zeros(3)], h5py.vlen_dtype("f8")), "rows of unequal lengths"),
        (np.zeros(3, ("f4", (2,)))[:0], None),
        (np.zeros(3, complex), "records of several fields"),
        (np.zeros(3, "V4"), "something else"),
        (h5py.Empty("f4"), "is empty"),
    ],
)
def test_numbers_are_needed(path, value, said):
    with h5py.File(path, "w") as file:
        file["rewards"] = value
        file["types"] = np.dtype("f4")
        if said is None:
            del file["rewards"]
            file.create_dataset("rewards", (3,), np.dtype(("f4", (2,))))
    with open_hdf5(path) as file:
        with pytest.raises(InputError, match=rf"a\.hdf5: rewards (holds )?{said or 'something else'}"):
            read(file.id, "rewards")
        with pytest.raises(InputError, match=r"a\.hdf5: types is no array"):
            read(file.id, "types")


def test_references_are_no_numbers(path):
    with h5py.File(path, "w") as file:
        file["x"] = 1.0
        file.create_dataset("rewards", data=np.array([file["x"].ref], h5py.ref_dtype), dtype=h5py.ref_dtype)
    with open_hdf5(path) as file, pytest.raises(InputError, match="holds references: numbers"):
        read(file.id, "rewards")


@pytest.mark.parametrize("kind", ["f2", ">f8", "u1", "i8", "?"])
@pytest.mark.parametrize("packed", [{}, {"compression": "gzip", "shuffle": True, "fletcher32": True}], ids=["", "gzip"])
def test_numbers_of_any_kind_are_read(path, kind, packed):
    with h5py.File(path, "w") as file:
        file.create_dataset("rewards", data=np.arange(6).astype(kind), **packed)
    with open_hdf5(path) as file:
        found = read(file.id, "rewards")
    assert found.dtype == kind
    np.testing.assert_array_equal(found, np.arange(6).astype(kind))


def test_what_is_declared_is_in_the_file(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("rewards", (10**12,), "f8", chunks=(1000,), compression="gzip")
        file.create_dataset("actions", (10, 2), "f8", chunks=(10**7, 2), maxshape=(None, 2), compression="gzip")
        file.create_dataset("timeouts", (10**6,), "?", chunks=(1000,))  # never written: all false
    with open_hdf5(path) as file:
        with pytest.raises(InputError, match=r"rewards has the shape .* 8,000\.0 GB of memory, but the whole file has"):
            read(file.id, "rewards")
        with pytest.raises(InputError, match=r"actions has the shape \[10000000, 2\], which needs 0\.2 GB"):
            read(file.id, "actions")
        assert not read(file.id, "timeouts").any()


def test_what_needs_more_memory_than_is_free(path, monkeypatch):
    with h5py.File(path, "w") as file:
        file.create_dataset("rewards", data=np.zeros(2**20), compression="gzip")
    monkeypatch.setattr(hdf5, "available_memory", lambda: 2**22)
    with open_hdf5(path) as file, pytest.raises(InputError, match=r"rewards .* needs 0\.0 GB .* and 0\.0 GB are free"):
        read(file.id, "rewards")


def test_what_is_packed_twice_is_not_unpacked(path):
    settings = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    settings.set_chunk((10,))
    settings.set_deflate(1)
    settings.set_deflate(1)
    with h5py.File(path, "w") as file:
        space = h5py.h5s.create_simple((10,))
        h5py.h5d.create(file.id, b"rewards", h5py.h5t.NATIVE_FLOAT, space, settings)
    with open_hdf5(path) as file, pytest.raises(InputError, match="compressed more than once"):
        read(file.id, "rewards")


def test_a_missing_filter_is_named(path):
    with h5py.File(path, "w") as file:
        file.create_dataset("rewards", data=np.arange(100.0), compression="lzf")
    content = path.read_bytes()
    assert content.count(b"\x00\x7d\x08\x00") == 1
    path.write_bytes(content.replace(b"\x00\x7d\x08\x00", b"\xfd\x7d\x08\x00"))  # a number of HDF5's registry
    message = r"rewards needs the HDF5 filter 32253 \(lzf\): pip install hdf5plugin"
    with open_hdf5(path) as file, pytest.raises(InputError, match=message):
        read(file.id, "rewards")


def test_a_file_that_another_process_writes_is_in_use(path):
    holder = "import h5py, sys\nwith h5py.File(sys.argv[1], 'w'): print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", holder, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        with pytest.raises(InputError, match=r"a\.hdf5 is in use by another process: close it there"), open_hdf5(path):
            pass
        process.stdin.close()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(38, "unable to lock file, errno = 38"), "lies on a file system without locks: set HDF5_USE_FILE"),
        (OSError("file is already open for write (may use <h5clear file>)"), "or its writer was killed"),
        (PermissionError(13, "Unable to open file"), "cannot read .*: Permission denied"),
        (FileNotFoundError(2, "No such file"), "no file "),
        (RuntimeError("Unspecified\nerror"), r"is truncated or not an HDF5 file \(Unspecified error\): get it again"),
    ],
)
def test_why_a_file_is_not_opened(path, monkeypatch, error, said):
    path.touch()

    def refuse(*_):
        raise error

    monkeypatch.setattr(h5py, "File", refuse)
    with pytest.raises(InputError, match=said) as caught, open_hdf5(path):
        pass
    assert "delete" not in str(caught.value)


def test_what_is_no_file_is_not_waited_for(path, tmp_path):
    os.mkfifo(path)
    for place in (path, tmp_path):
        with pytest.raises(InputError, match="is no file: give an HDF5 file"), open_hdf5(place):
            pass
    path.unlink()
    with pytest.raises(InputError, match="no file "), open_hdf5(path):
        pass


def test_damage_that_shows_late_is_one_line(write_hdf5, d4rl_arrays):
    path = write_hdf5("a.hdf5", d4rl_arrays())
    with h5py.File(path, "a") as file:
        del file["observations"]
        file.create_dataset("observations", data=np.random.default_rng(0).random((45, 3)), compression="gzip")
        start = file["observations"].id.get_chunk_info(0).byte_offset
    with path.open("r+b") as file:
        file.seek(start)
        file.write(bytes(100))
    message = r"a\.hdf5: observations cannot be read, the file is damaged .*: get it again from its source"
    with pytest.raises(InputError, match=message) as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyError("x"), RuntimeError("x"), TypeError("x"), OverflowError("x"), OSError("x")])
def test_whatever_h5py_raises_is_one_line(write_hdf5, monkeypatch, error):
    def fail(*_):
        raise error

    path = write_hdf5("a.hdf5", {"rewards": np.zeros(3)})
    with open_hdf5(path) as file:
        for opener in (hdf5.h5o, hdf5.h5d, hdf5.h5g):
            monkeypatch.setattr(opener, "open", fail)
        for door in (read, open_group):
            with pytest.raises(InputError, match="rewards cannot be read, the file is damaged"):
                door(file.id, "rewards")


def test_no_memory_is_no_damage(write_hdf5, monkeypatch):
    def fail(*_):
        raise MemoryError

    path = write_hdf5("a.hdf5", {"rewards": np.zeros(3)})
    monkeypatch.setattr(hdf5.np, "empty", fail)
    with open_hdf5(path) as file, pytest.raises(InputError, match="rewards needs more memory than there is"):
        read(file.id, "rewards")


def test_a_path_of_any_bytes_is_named(tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.hdf5")
    with h5py.File(path, "w") as file:
        file["rewards"] = np.array([b"a"])
    with open_hdf5(path) as file, pytest.raises(InputError, match="rewards holds texts"):
        read(file.id, "rewards")


def test_groups_are_read_as_dictionaries(path):
    with h5py.File(path, "w") as file:
        file["a/b/c"], file["a/d"], file["e"] = [1.0, 2.0], [[3.0]], [4]
        file["f"] = h5py.SoftLink("/a/b")
    with open_hdf5(path) as file:
        found = read_tree(file.id, "a")
        assert found.keys() == {"b", "d"}
        np.testing.assert_array_equal(found["b"]["c"], [1.0, 2.0])
        np.testing.assert_array_equal(read_tree(file.id, "e"), [4])
        assert read_tree(file.id, "f").keys() == {"c"}
        assert read_tree(file.id, "g") is None


def test_groups_that_hold_each_other_are_one_line(path):
    with h5py.File(path, "w") as file:
        group = file.create_group("a")
        group["b"], group["c"] = group, group
    with open_hdf5(path) as file, pytest.raises(InputError, match="a has more than 500 groups and arrays, or groups "):
        read_tree(file.id, "a")


def test_an_attribute_is_a_text_or_a_number(path):
    with h5py.File(path, "w") as file:
        file.attrs.update(text="a", count=np.int64(3), share=np.float32(0.5), array=np.zeros(2), raw=np.void(b"x"))
    with open_hdf5(path) as file:
        assert [read_attribute(file, name) for name in ("text", "count", "share", "none")] == ["a", 3, 0.5, None]
        for name in ("array", "raw"):
            with pytest.raises(InputError, match=f"{name} is neither a text nor a number"):
                read_attribute(file, name)
        with pytest.raises(InputError, match="count is no text"):
            read_text(file, "count")
