"""Damaged sources with a fixed seed, and what a reader may make of them: a valid dataset or one line.

`python fuzz.py KIND FOLDER FIRST COUNT` reads inputs FIRST to FIRST + COUNT - 1 of a kind, with a bound on memory, and
prints what was wrong as JSON, the number of each input before it is read: HDF5 itself may crash on damaged bytes.
"""

import copy
import json
import random
import resource
import sys
from pathlib import Path

import h5py
import numpy as np

from rlrat import InputError
from rlrat.datasets import Dataset, cache, d4rl, minari
from rlrat.datasets.bounds import Bounds

ID = "own/set-v0"
MOST_MEMORY = 2**31  # bytes beyond what a process has at its start
HUGE = (10**12, 2**31, 2**63, 10**400, -(10**30), 1e308, float("inf"), float("nan"))
WRONG = (None, True, False, 0, -1, 2.5, "", "x", "-1", [], {}, [[]], [None], [1, 2], {"a": 1}, "\x1b[31m\n", "\ud800")
EXPECTED: dict[str, str] = {}  # fingerprints of what is not damaged


# What is damaged.


def arrays(steps: int = 40) -> dict[str, np.ndarray]:
    rng, last = np.random.default_rng(0), np.arange(steps) % 10 == 9
    return {
        "observations": rng.standard_normal((steps, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "rewards": rng.standard_normal(steps).astype(np.float32),
        "terminals": last & (np.arange(steps) % 20 == 9),
        "timeouts": last & (np.arange(steps) % 20 == 19),
    }


def write_flat(path: Path, **settings) -> None:
    """A file of D4RL's layout; with `libver="latest"` and checksums no changed byte goes unseen."""
    with h5py.File(path, "w", libver=settings.pop("libver", None)) as file:
        for name, array in arrays().items():
            file.create_dataset(name, data=array, track_times=False, **settings)


def write_minari(folder: Path, goals: bool) -> None:
    """A Minari dataset of two episodes, with all of the metadata that is looked at; with `goals` of dictionaries."""
    data = folder / ID / "data"
    data.mkdir(parents=True)
    rng = np.random.default_rng(0)
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for index in range(2):
            group = file.create_group(f"episode_{index}")
            whole = rng.standard_normal((6, 11))
            if goals:
                for name, columns in (
                    ("achieved_goal", whole[:, :2]),
                    ("desired_goal/a b", whole[:, 2]),
                    ("seen", whole),
                ):
                    group[f"observations/{name}"] = columns
            else:
                group["observations"] = whole
            group["actions"] = rng.uniform(-1, 1, (5, 3)).astype(np.float32)
            group["rewards"] = rng.standard_normal(5)
            group["terminations"], group["truncations"] = np.arange(5) == 4, np.zeros(5, bool)
    box = {"type": "Box", "dtype": "float32", "shape": [3], "low": [-1.0] * 3, "high": [1.0] * 3}
    seen = box | {"shape": [11], "low": [-1e9] * 11, "high": [1e9] * 11}
    if goals:
        goal = {"type": "Dict", "subspaces": {"a b": box | {"shape": []}}}
        seen = {
            "type": "Dict",
            "subspaces": {"seen": seen, "achieved_goal": box | {"shape": [2]}, "desired_goal": goal},
        }
    spec = {"id": "Hopper-v5", "entry_point": "a:B", "kwargs": {"g": 1}, "additional_wrappers": [], "vector": None}
    metadata = {
        "total_episodes": 2,
        "total_steps": 10,
        "data_format": "hdf5",
        "dataset_id": ID,
        "minari_version": "0.5.4",
        "observation_space": json.dumps(seen),
        "action_space": json.dumps(box),
        "env_spec": json.dumps(spec),
        "eval_env_spec": json.dumps(spec | {"kwargs": {}}),
    }
    (data / "metadata.json").write_text(json.dumps(metadata))


# How it is damaged.


def change_bytes(content: bytes, rng: random.Random) -> bytes:
    """Some flipped bits, a part that is zero or gone, an insertion, a cut."""
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if not changed:
            break
        at, size = rng.randrange(len(changed)), rng.randrange(1, 64)
        kind = rng.randrange(8)
        if kind <= 3:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 4:
            changed[at : at + size] = bytes(len(changed[at : at + size]))
        elif kind == 5:
            del changed[at : at + size]
        elif kind == 6:
            changed[at:at] = rng.randbytes(size)
        else:
            del changed[rng.choice((at, at, at, 0)) :]
    return bytes(changed)


def change_json(content: str, rng: random.Random) -> str:
    """One place of the metadata or of what is JSON within it has another value, another name, or is gone."""
    metadata = json.loads(content)
    name = rng.choice(sorted(metadata))
    inner = name.endswith(("space", "spec")) and rng.random() < 0.7
    tree = json.loads(metadata[name]) if inner else metadata
    if rng.random() < 0.05:
        depth = rng.choice((40, 900, 100_000))
        opened, closed = rng.choice((("[", "]"), ('{"a":', "}")))
        metadata[name] = text = opened * depth + "1" + closed * depth
        return json.dumps(metadata) if inner else f'{{"total_episodes": {text}}}'
    parent, key = rng.choice(list(_places(tree)))
    kind = rng.randrange(5)
    if kind == 0:
        del parent[key]
    elif kind == 1 and isinstance(parent, dict):
        parent[rng.choice(("x", f"{key}s", ""))] = parent.pop(key)
    elif kind == 2:
        parent[key] = rng.choice(HUGE)
    elif kind == 3:
        other, place = rng.choice(list(_places(copy.deepcopy(tree))))
        parent[key] = other[place]
    else:
        parent[key] = rng.choice(WRONG)
    if inner:
        metadata[name] = json.dumps(tree)
    return json.dumps(metadata)


def _places(tree):
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in list(pairs):
        yield tree, key
        if isinstance(value, dict | list):
            yield from _places(value)


def change_hdf5(path: Path, rng: random.Random) -> None:
    """One array of a file of either layout is gone, another kind of thing, or of another shape, type or content."""
    with h5py.File(path, "a") as file:
        names = [name for name in ("observations", "actions", "rewards", "terminals", "timeouts") if name in file]
        group = file if names else file[rng.choice(sorted(file))]
        name = rng.choice(names or sorted(group))
        while isinstance(group[name], h5py.Group):
            group = group[name]
            name = rng.choice(sorted(group))
        array = group[name][()]
        del group[name]
        _REPLACEMENTS[rng.randrange(len(_REPLACEMENTS))](group, name, array, rng)


def _typed(kind):
    return lambda group, name, array, rng: group.create_dataset(name, data=array.astype(kind))


def _shaped(change):
    def replace(group, name, array, rng):
        group[name] = change(array)

    return replace


def _poked(group, name, array, rng):
    array = array.astype(np.float64)
    array.flat[rng.randrange(array.size)] = rng.choice((np.nan, np.inf, -np.inf, 1e300, 1e38, 2.0, -0.5))
    group[name] = array


def _unwritten(*shape):
    def replace(group, name, array, rng):
        chunks = rng.choice((None, True)) if shape else None
        group.create_dataset(name, shape=shape, dtype=rng.choice(("f4", "f8", "?", "S1000")), chunks=chunks)

    return replace


def _virtual(group, name, array, rng):
    layout = h5py.VirtualLayout(shape=array.shape, dtype=array.dtype)
    layout[...] = h5py.VirtualSource("elsewhere.hdf5", "x", shape=array.shape)
    group.create_virtual_dataset(name, layout)


_REPLACEMENTS = (
    lambda group, name, array, rng: None,
    lambda group, name, array, rng: group.create_dataset(f"{name}s", data=array),
    lambda group, name, array, rng: group.create_group(name),
    lambda group, name, array, rng: group.create_group(name).create_dataset(name, data=array),
    lambda group, name, array, rng: group.__setitem__(name, h5py.SoftLink(f"/{name}")),
    lambda group, name, array, rng: group.__setitem__(name, h5py.SoftLink("/nowhere")),
    lambda group, name, array, rng: group.__setitem__(name, group.file["/"]),
    lambda group, name, array, rng: group.__setitem__(name, h5py.ExternalLink("elsewhere.hdf5", "x")),
    lambda group, name, array, rng: group.__setitem__(name, np.dtype("f4")),  # a type with a name
    lambda group, name, array, rng: group.__setitem__(name, h5py.Empty("f4")),
    lambda group, name, array, rng: group.__setitem__(name, 1.0),
    lambda group, name, array, rng: group.__setitem__(name, "text"),
    lambda group, name, array, rng: group.__setitem__(name, ["text"] * len(array)),
    lambda group, name, array, rng: group.__setitem__(name, np.array([b"1.0"] * len(array))),
    lambda group, name, array, rng: group.create_dataset(name, (len(array),), h5py.vlen_dtype(np.float32)),
    lambda group, name, array, rng: group.create_dataset(name, (len(array),), h5py.ref_dtype),
    lambda group, name, array, rng: group.create_dataset(name, (len(array),), np.dtype([("a", "f4"), ("b", "i8")])),
    lambda group, name, array, rng: group.create_dataset(name, (len(array),), np.dtype(("f4", (2,)))),
    lambda group, name, array, rng: group.create_dataset(name, (len(array),), h5py.opaque_dtype(np.dtype("M8[s]"))),
    lambda group, name, array, rng: group.create_dataset(name, (len(array),), h5py.enum_dtype({"A": 1, "B": 7})),
    *(_typed(kind) for kind in ("f2", ">f4", ">f8", "i1", "u1", ">i8", "u8", "?", "c8", "S8", "f8")),
    *(_shaped(change) for change in (
        lambda array: array[:-1], lambda array: array[:0], lambda array: array[:1], lambda array: array[None],
        lambda array: array[..., None], lambda array: array.ravel(), lambda array: array[..., :0],
        lambda array: np.concatenate([array, array]), lambda array: array.T,
        lambda array: array.reshape(len(array), -1)[:, :1], lambda array: array[::-1],
    )),
    *[_poked] * 4,
    *(_unwritten(*shape) for shape in ((10**12,), (10**6, 10**6), (40, 10**11), (2**40, 3), (40,), (40, 3), (5,), ())),
    _virtual,
    lambda group, name, array, rng: group.create_dataset(name, data=array, compression="lzf", fletcher32=True),
)  # fmt: skip


# What a reader makes of it.


def read(make) -> Dataset | str:
    """The dataset, or what is wrong with the way in which it was refused, or an empty text."""
    try:
        return make()
    except InputError as error:
        line = str(error)
        wrong = [part for part in ("\n", "\r", "\x1b", "delete", "Traceback") if part in line]
        return f"the line holds {wrong}: {line!r}" if wrong or not line or len(line) > 1000 else ""
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:300]


def complaint(found: Dataset | str, expected: str | None) -> str:
    """What is wrong with what was read; `expected` is a fingerprint where no other data may come of it."""
    if isinstance(found, str):
        return found
    if (
        expected is not None
        and found.fingerprint != expected
        and not any("should have" in note for note in found.notes)
    ):
        return "other data"
    json.dumps([found.env_kwargs, found.env_recorded, found.env_id, found.notes], indent=1)  # as a cache does
    count, low, high = len(found), found.action_low, found.action_high
    valid = (
        count > 0
        and found.observations.shape == found.next_observations.shape
        and found.actions.shape == (count, len(low))
        and found.rewards.shape == found.terminations.shape == found.truncations.shape == (count,)
        and all(np.isfinite(getattr(found, name)).all() for name in ("observations", "actions", "rewards"))
        and np.isfinite(found.next_observations).all()
        and ((low <= found.actions) & (found.actions <= high)).all()
        and (np.diff(found.episode_starts) >= 0).all()
        and len(found.episode_starts) == len(found.episode_returns) == len(found.episode_complete)
    )
    return "" if valid else "an impossible dataset"


def metadata_case(folder: Path, number: int) -> str:
    """Input `number` of the metadata, of which even ones are damaged in structure and odd ones in bytes."""
    path, rng = folder / ID / "data" / "metadata.json", random.Random(number)
    whole = path.read_bytes()
    given = Bounds(-1.0, 1.0) if number % 8 == 0 else None
    if number % 2:
        changed = change_bytes(whole, rng)
    else:
        changed = change_json(whole.decode(), rng).encode(errors="surrogatepass")
    try:
        path.write_bytes(changed)
        return complaint(read(lambda: load_minari(folder, given)), EXPECTED["minari"])
    finally:
        path.write_bytes(whole)


def load_minari(folder: Path, given: Bounds | None = None) -> Dataset:
    return minari.load_folder(ID, folder / ID, None, given)


def hdf5_case(folder: Path, number: int, goals: bool = False) -> str:
    """Input `number` of the HDF5 files: structure, bytes with checksums in the file, bytes without."""
    rng, kind = random.Random(number), ("structure", "checksums", "structure", "bytes")[number % 4]
    kind = "bytes" if goals and kind == "checksums" else kind
    if goals or (kind == "structure" and number % 8 == 0):
        path, make = folder / ID / "data" / "main_data.hdf5", lambda: load_minari(folder)
        whole = path.read_bytes()
    else:
        path, make = folder / "damaged.hdf5", lambda: d4rl.load_file(folder / "damaged.hdf5")
        whole = (folder / ("checked.hdf5" if kind == "checksums" else "plain.hdf5")).read_bytes()
    try:
        path.write_bytes(whole if kind == "structure" else change_bytes(whole, rng))
        if kind == "structure":
            change_hdf5(path, rng)
        return complaint(read(make), EXPECTED["checked"] if kind == "checksums" else None)
    finally:
        path.write_bytes(whole)


def goals_case(folder: Path, number: int) -> str:
    """Input `number` of dictionary observations: the metadata, or the HDF5 file."""
    return hdf5_case(folder, number, goals=True) if number % 3 else metadata_case(folder, number)


def prepare(folder: Path, goals: bool) -> None:
    """The whole sources, and no cache."""
    cache.load = lambda source, convert: convert()
    write_minari(folder, goals)
    write_flat(folder / "plain.hdf5")
    write_flat(folder / "checked.hdf5", libver="latest", chunks=True, fletcher32=True)
    EXPECTED["minari"] = load_minari(folder).fingerprint
    EXPECTED["checked"] = d4rl.load_file(folder / "checked.hdf5").fingerprint


def main(kind: str, folder: str, first: str, count: str) -> None:
    prepare(Path(folder), goals=kind == "goals")
    case = {"metadata": metadata_case, "hdf5": hdf5_case, "goals": goals_case}[kind]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, resource.RLIM_INFINITY))
    for number in range(int(first), int(first) + int(count)):
        print(number, flush=True)
        if wrong := case(Path(folder), number):
            print(json.dumps([number, wrong]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
