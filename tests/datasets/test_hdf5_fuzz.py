"""Damaged and rebuilt HDF5 files: each is read as it was or is one line, and never a traceback."""

import random
from collections import Counter

import h5py
import numpy as np
import pytest

from rlrat.datasets import d4rl
from rlrat.datasets.bounds import Bounds
from rlrat.errors import InputError

pytestmark = pytest.mark.slow

ASSUMED = (Bounds(-1.0, 1.0), d4rl._Limit(1000, None))
COUNT = 1200  # rebuilt files, and as many with changed bytes


def convert(path):
    """The arrays that are read, or None where it is one line."""
    said = ""
    try:
        dataset = d4rl._convert(path, "fuzz", *ASSUMED, env_id="Toy-v0", env_kwargs={}, reference=None)
    except InputError as error:
        said = str(error)
    assert "\n" not in said
    assert "delete" not in said
    if said:
        return None
    return {name: value for name, value in vars(dataset).items() if isinstance(value, np.ndarray)}


def is_same(found, wanted):
    return all(np.array_equal(found[name], wanted[name], equal_nan=True) for name in wanted)


@pytest.mark.parametrize("checked", [False, True], ids=["plain", "with checksums"])
@pytest.mark.filterwarnings("ignore")
def test_changed_bytes(tmp_path, d4rl_arrays, checked):
    """With HDF5's own checksums no change goes unseen; without them a flipped number is another number."""
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w", libver="latest" if checked else "earliest") as file:
        for place, (name, array) in enumerate(d4rl_arrays().items()):
            packed = {"compression": "gzip"} if place % 2 else {}
            file.create_dataset(name, data=array, chunks=array.shape, fletcher32=checked, **packed)
    good, wanted = path.read_bytes(), convert(path)
    assert wanted is not None
    used = [place for place, byte in enumerate(good) if byte]
    generator, outcomes = random.Random(0), Counter()
    for _ in range(COUNT * (1 + (not checked)) // 3):
        content = bytearray(good)
        for _ in range(generator.choice([1, 1, 2, 8])):
            place = generator.choice(used)
            content[place] = generator.choice([0, 255, generator.randrange(256), content[place] ^ 1 << place % 8])
        if generator.random() < 0.1:
            del content[generator.randrange(len(content)) :]
        path.write_bytes(content)
        found = convert(path)
        outcomes["one line" if found is None else "same" if is_same(found, wanted) else "other"] += 1
    assert outcomes["one line"] > 0
    assert outcomes["same"] > 0 or checked  # which leave no byte out
    assert outcomes["other"] == 0 or not checked


def other_type(generator, array):
    kinds = ["f2", "f8", ">f4", "i1", "u8", "S4", "?", "c8", "V3", [("x", "f4")], h5py.string_dtype(), h5py.ref_dtype]
    kind = generator.choice(kinds)
    shape = generator.choice([array.shape, (), (0,), array.shape[:1], array.shape[::-1], (*array.shape, 1), (1, 10**9)])
    return {"shape": shape, "dtype": kind}


def rebuild(generator, file, name, array, elsewhere):
    """Put something else in an array's place."""
    kind = generator.randrange(9)
    if kind == 0:
        file.create_dataset(name, **other_type(generator, array))
    elif kind == 1:
        file[name] = generator.choice([array[:-1], array[None], array.astype("f8"), array * np.nan, array[:0]])
    elif kind == 2:
        file.create_group(generator.choice([name, f"{name}/deeper"]))
    elif kind == 3:
        file[name] = h5py.ExternalLink(generator.choice([elsewhere, "none.hdf5", file.filename]), f"/{name}")
    elif kind == 4:
        file[name] = h5py.SoftLink(generator.choice([f"/{name}", "/rewards", "/actions/..", "//", ".", "none"]))
    elif kind == 5:
        layout = h5py.VirtualLayout(array.shape, array.dtype)
        layout[...] = h5py.VirtualSource(elsewhere, name, array.shape)
        file.create_virtual_dataset(name, layout)
    elif kind == 6:
        file.create_dataset(name, array.shape, array.dtype, external=[(elsewhere, 0, h5py.h5f.UNLIMITED)])
    elif kind == 7:
        file[name] = generator.choice([np.dtype("f4"), h5py.Empty("f4"), "text", 3.0, [b"a"]])
    else:
        most = generator.choice([None, 10**15])
        shape = (generator.choice([10**6, 10**9, 10**12]), *array.shape[1:])
        file.create_dataset(name, shape, array.dtype, maxshape=(most, *array.shape[1:]) if most is None else None)


@pytest.mark.filterwarnings("ignore")
def test_rebuilt_files(tmp_path, d4rl_arrays):
    arrays, path = d4rl_arrays(), tmp_path / "a.hdf5"
    elsewhere = str(tmp_path / "elsewhere.hdf5")
    with h5py.File(elsewhere, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    wanted = convert(tmp_path / "elsewhere.hdf5")
    generator, outcomes = random.Random(1), Counter()
    for _ in range(COUNT):
        changed = generator.sample(sorted(arrays), generator.choice([1, 1, 2]))
        with h5py.File(path, "w") as file:
            for name, array in arrays.items():
                if name not in changed:
                    file[name] = array
            for name in changed:
                if generator.random() < 0.9:
                    rebuild(generator, file, name, arrays[name], elsewhere)
        found = convert(path)
        outcomes["one line" if found is None else "same" if is_same(found, wanted) else "other"] += 1
    assert outcomes["one line"] > COUNT // 2
