"""Arrays that are read from a file's bytes are those that HDF5 reads, and whatever is odd is left to HDF5."""

from contextlib import suppress

import h5py
import numpy as np
import pytest
from h5py import h5d

from rlrat.datasets import hdf5, hdf5_bytes
from rlrat.datasets.hdf5_bytes import open_small_arrays
from rlrat.errors import InputError

STEPS = 7
PLAIN = {
    "contiguous": {},
    "one chunk": {"chunks": True},
    "one larger chunk": {"chunks": (64, 2), "maxshape": (None, 2)},
}
ODD = {
    "several chunks": {"chunks": (3, 2)},
    "packed": {"compression": "gzip"},
    "shuffled": {"chunks": (7, 2), "shuffle": True},
    "checked": {"chunks": (7, 2), "fletcher32": True},
}


@pytest.fixture
def asked(monkeypatch):
    """The names that HDF5 was asked for."""
    names = []

    def read(group, name):
        names.append(name)
        return hdf5.read(group, name)

    monkeypatch.setattr(hdf5_bytes, "read", read)
    return names


def check(path, asked, by_library):
    """Read every array of a file, twice; compare them with h5py's; after the first look the library reads some."""
    with open_small_arrays(path) as arrays, h5py.File(path) as file:
        for name in file:
            first = arrays.read(arrays.file.id, name)
            asked.clear()
            again = arrays.read(arrays.file.id, name)
            assert asked == ([name] if by_library else []), name
            for found in (first, again):
                np.testing.assert_array_equal(found, file[name][()])
                assert (found.dtype, found.shape) == (file[name].dtype, file[name].shape)
                assert found.flags.writeable


@pytest.mark.parametrize("kind", ["<f4", ">f4", "<f8", "<f2", "<i8", ">i2", "u1", "?"])
@pytest.mark.parametrize("how", PLAIN)
def test_plain_arrays_are_read_from_the_bytes(tmp_path, asked, kind, how):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        for name, steps in (("a", STEPS), ("b", 1), ("c", STEPS)):
            value = (np.arange(2 * steps).reshape(steps, 2) % 3).astype(kind)
            settings = PLAIN[how]
            file.create_dataset(name, data=value, **settings)
        file["a"].attrs["unit"] = "rad"
    check(tmp_path / "a.hdf5", asked, by_library=False)


@pytest.mark.parametrize("how", ODD)
def test_all_else_is_left_to_the_library(tmp_path, asked, how):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("a", data=np.arange(14.0).reshape(7, 2), **ODD[how])
    check(tmp_path / "a.hdf5", asked, by_library=True)


@pytest.mark.parametrize("settings", [{"libver": "latest"}, {"userblock_size": 512}])
def test_files_of_another_layout_are_left_to_the_library(tmp_path, asked, settings):
    with h5py.File(tmp_path / "a.hdf5", "w", **settings) as file:
        file["a"] = np.arange(3.0)
    check(tmp_path / "a.hdf5", asked, by_library=True)


def test_odd_types_and_shapes_are_left_to_the_library(tmp_path, asked):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["shared"] = np.dtype("<f4")
        file.create_dataset("named type", data=np.arange(3.0), dtype=file["shared"])
        del file["shared"]
        file["cube"] = np.zeros((2, 2, 2))
        file["empty"] = np.zeros((0, 2))
        file["scalar"] = 3.0
        file.create_dataset("never written", (3,), "f4", chunks=(3,))
        file.create_dataset("never written at all", (3,), "f4")
        bits = h5py.h5t.NATIVE_INT32.copy()
        bits.set_precision(24)
        h5d.create(file.id, b"24 bits", bits, h5py.h5s.create_simple((3,)))
        file["24 bits"][:] = [1, 2, 3]
        for i in range(40):
            file["cube"].attrs[f"{i}"] = np.zeros(20)  # its header goes on elsewhere
    check(tmp_path / "a.hdf5", asked, by_library=True)


def test_what_is_no_array(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_group("group")
        file["text"] = "x"
        file["link"] = h5py.SoftLink("/group/rewards")
        file["group/rewards"] = np.arange(3.0)
    with open_small_arrays(tmp_path / "a.hdf5") as arrays:
        assert arrays.read(arrays.file.id, "nothing") is None
        assert arrays.read(arrays.file.id, "group/nothing") is None
        for name in ("link", "group/rewards"):
            assert arrays.read(arrays.file.id, name).tolist() == [0, 1, 2]
        with pytest.raises(InputError, match="text holds texts"):
            arrays.read(arrays.file.id, "text")
        with pytest.raises(InputError, match="group is no array"):
            arrays.read(arrays.file.id, "group")


def test_large_arrays_are_checked_by_the_library(tmp_path, asked, monkeypatch):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["a"] = np.arange(3.0)
    monkeypatch.setattr(hdf5_bytes, "ANY_FILE", 16)
    check(tmp_path / "a.hdf5", asked, by_library=True)


@pytest.mark.parametrize("chunks", [None, (5,)])
def test_damaged_headers_lead_to_no_other_error(tmp_path, chunks):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["kind"] = np.arange(3.0)
        file.create_dataset("a", data=np.arange(5.0), chunks=chunks)
    with h5py.File(path) as file:
        address = file.id.links.get_info(b"a").u
    content, random = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        changed = bytearray(content)
        for place in random.integers(address, min(address + 150, len(content)), 2):
            changed[place] = random.choice([0, 1, 2, 255, random.integers(256)])
        path.write_bytes(changed)
        with open_small_arrays(path) as arrays:
            arrays.read(arrays.file.id, "kind")
            with suppress(InputError):
                assert arrays.read(arrays.file.id, "a").nbytes <= hdf5.ANY_FILE
