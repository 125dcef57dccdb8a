"""Write and read one entry of a cache: a folder with a dataset's arrays as .npy files and a manifest of all else.

Everything is checked before it is used: every field's type, every array's shape, type, size and time. Only the content
of the arrays is not, as this means to read them whole: `damage` compares their checksums.
"""

import hashlib
import json
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import numpy as np

from rlrat.datasets.choices import ReferenceFamily
from rlrat.datasets.dataset import Dataset
from rlrat.datasets.sharing import close_file, is_trusted
from rlrat.environments.observations import are_parts, as_parts
from rlrat.json_files import load_json

# NumPy reads a header with ast.literal_eval. In CPython 3.11 it may raise SystemError if two threads run it at once.
_PARSING = threading.Lock()

_MANIFEST = "manifest.json"
_ARRAYS: dict[str, tuple[str, int]] = {  # type and axes
    **dict.fromkeys(("observations", "actions", "next_observations"), ("float32", 2)),
    **dict.fromkeys(("rewards", "action_low", "action_high"), ("float32", 1)),
    **dict.fromkeys(("terminations", "truncations", "episode_complete"), ("bool", 1)),
    **dict.fromkeys(("episode_starts", "episode_lengths"), ("int64", 1)),
    "episode_returns": ("float64", 1),
}
_OPTIONAL = {"log_probs": ("float32", 1)}
VALUES: dict[str, Callable[[Any], bool]] = {
    "id": lambda value: isinstance(value, str),
    "env_id": lambda value: value is None or isinstance(value, str),
    "env_kwargs": lambda value: isinstance(value, dict),
    "env_recorded": lambda value: isinstance(value, dict),
    "notes": lambda value: isinstance(value, list) and all(isinstance(note, str) for note in value),
    "reference": lambda value: value in (None, *get_args(ReferenceFamily)),
    "fingerprint": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None,
}
OPTIONAL_VALUES: dict[str, Callable[[Any], bool]] = {"observation_parts": are_parts}
"""Those that are left out where there are none: entries and files of before lack them."""


class _Damaged(Exception):
    """An entry that is not as it was written."""


def write(entry: Path, dataset: Dataset, sources: tuple[Path, ...]) -> None:
    """Write a dataset into an empty folder, and wait until it is on the disk.

    Args:
        sources: the files it was converted from: users who can read them can read the entry.

    Raises:
        OSError: no room, or a folder that cannot be written.
    """
    values = {name: getattr(dataset, name) for name in VALUES}
    values |= {name: value for name in OPTIONAL_VALUES if (value := getattr(dataset, name))}
    arrays = {name: getattr(dataset, name) for name in (*_ARRAYS, *_OPTIONAL)}
    seconds = int(time.time()) // 2 * 2  # every file system and archive keeps even seconds
    files = {}
    for name, array in arrays.items():
        if array is None:
            continue
        path = entry / f"{name}.npy"
        np.save(path, np.ascontiguousarray(array), allow_pickle=False)
        files[name] = [array.shape, array.dtype.str, *_finish(path, sources)]
        os.utime(path, (seconds, seconds))
    manifest = {"values": values, "arrays": files, "seconds": seconds}
    text = json.dumps({**manifest, "checksum": _checksum(manifest)}, indent=1)
    (entry / _MANIFEST).write_text(text, encoding="utf-8")
    _finish(entry / _MANIFEST, sources)


def _finish(path: Path, sources: tuple[Path, ...]) -> tuple[int, str]:
    """Wait until a written file is on the disk; return its size and SHA-256."""
    close_file(path, sources)
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def read(entry: Path, id: str) -> Dataset | None:
    """Read the dataset of an entry, its arrays memory-mapped; return None if the entry is missing or damaged.

    Args:
        id: the dataset's id, which the entry must have.
    """
    try:
        return _read(entry, id)
    except Exception:  # the readers of Python and NumPy may raise anything on a garbled file
        return None


def _read(entry: Path, id: str) -> Dataset:
    manifest = _manifest(entry)
    arrays = {}
    for name, (shape, dtype, size, checksum) in manifest["arrays"].items():
        path = entry / f"{name}.npy"
        about = _stat(path, entry)
        if about.st_size != size:
            raise _Damaged(f"{path.name} has another size")
        if about.st_mtime_ns != manifest["seconds"] * 10**9:  # changed, or copied without its time
            _check_content(path, checksum)
            with suppress(OSError):  # another user's file: it is checked again the next time
                os.utime(path, (manifest["seconds"], manifest["seconds"]))
        with _PARSING:
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        if list(array.shape) != shape or array.dtype.str != dtype or not array.flags.c_contiguous:
            raise _Damaged(f"{path.name} has another shape or type")
        arrays[name] = array
    values = manifest["values"]
    if values["id"] != id:
        raise _Damaged("it belongs to another dataset")
    _check_arrays(arrays)
    parts = as_parts(values.pop("observation_parts", []))
    if parts and sum(width for _, width in parts) != arrays["observations"].shape[1]:
        raise _Damaged("its observations have other parts")
    return Dataset(**{**values, "notes": tuple(values["notes"])}, **arrays, observation_parts=parts)


def damage(entry: Path) -> str | None:
    """Read every byte of an entry and return what is wrong with it; None if it is whole."""
    try:
        manifest = _manifest(entry)
        for name, (*_, checksum) in manifest["arrays"].items():
            path = entry / f"{name}.npy"
            _stat(path, entry)
            _check_content(path, checksum)
        _read(entry, manifest["values"]["id"])
    except _Damaged as error:
        return str(error)
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except Exception as error:  # as in `read`
        return f"it cannot be read ({type(error).__name__})"
    return None


def _manifest(entry: Path) -> dict[str, Any]:
    path = entry / _MANIFEST
    _stat(path, entry)
    manifest = load_json(path)
    if manifest.pop("checksum") != _checksum(manifest):
        raise _Damaged(f"{path.name} has another content")
    values, arrays = manifest["values"], manifest["arrays"]
    if set(values) - set(OPTIONAL_VALUES) != set(VALUES) or set(arrays) - set(_OPTIONAL) != set(_ARRAYS):
        raise _Damaged(f"{path.name} has other fields than a dataset")
    for name, is_right in {**VALUES, **OPTIONAL_VALUES}.items():
        if name in values and not is_right(values[name]):
            raise _Damaged(f"{path.name} has a wrong {name}")
    for name, (dtype, ndim) in {**_ARRAYS, **_OPTIONAL}.items():
        if name in arrays and (arrays[name][1] != np.dtype(dtype).str or len(arrays[name][0]) != ndim):
            raise _Damaged(f"{path.name} has a wrong shape or type of {name}")
    return manifest


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()


def _stat(path: Path, entry: Path) -> os.stat_result:
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode) or not is_trusted(path, entry):
        raise _Damaged(f"{path.name} is a link, or others can write it")
    return about


def _check_content(path: Path, checksum: str) -> None:
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != checksum:
            raise _Damaged(f"{path.name} has another content")


def _check_arrays(arrays: dict[str, np.ndarray]) -> None:
    steps, observations = arrays["observations"].shape
    actions, episodes = arrays["action_low"].shape[0], arrays["episode_starts"].shape[0]
    expected = {
        **dict.fromkeys(("observations", "next_observations"), (steps, observations)),
        **dict.fromkeys(("rewards", "terminations", "truncations", "log_probs"), (steps,)),
        **dict.fromkeys((name for name in _ARRAYS if name.startswith("episode_")), (episodes,)),
        **dict.fromkeys(("action_low", "action_high"), (actions,)),
        "actions": (steps, actions),
    }
    if 0 in (steps, observations, actions, episodes) or any(
        array.shape != expected[name] for name, array in arrays.items()
    ):
        raise _Damaged("its arrays do not fit together")
    if not all(_in_range(arrays, steps)):
        raise _Damaged("its episodes or bounds are impossible")


def _in_range(arrays: dict[str, np.ndarray], steps: int) -> Iterator[bool]:
    """Yield the cheap checks of the arrays; those of steps are not read."""
    starts, low, high = arrays["episode_starts"], arrays["action_low"], arrays["action_high"]
    yield starts[0] == 0 and starts[-1] <= steps and bool((np.diff(starts) >= 0).all())
    yield bool((arrays["episode_lengths"] >= 1).all()) and bool(np.isfinite(arrays["episode_returns"]).all())
    yield bool((low < high).all()) and bool(np.isfinite(low).all() and np.isfinite(high).all())
