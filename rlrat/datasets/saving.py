"""Write a dataset to a file or a folder that `load_dataset` reads with the same fingerprint."""

import json
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rlrat.datasets.names import HDF5_SUFFIXES
from rlrat.datasets.progress import counted, told_if_slow
from rlrat.environments.observations import places
from rlrat.errors import InputError, reason

_STEPS = {
    **{name: name for name in ("observations", "actions", "rewards", "next_observations")},
    **{"terminals": "terminations", "timeouts": "truncations", "log_probs": "log_probs"},
}
"""D4RL's names of the arrays of steps, and ours."""
_EPISODES = ("episode_starts", "episode_lengths", "episode_returns", "episode_complete", "action_low", "action_high")
PARTS_NAME = "rlrat_observation_parts"
"""In a metadata.json: that these are all parts of the observations, none of which is to be left out."""
_ABOUT = ("env_id", "env_kwargs", "env_recorded", "notes", "reference")


def write(path: Path, fields: Mapping[str, Any]) -> None:
    """Write the fields of a `Dataset`; arguments and errors are those of `Dataset.save`."""
    path = Path(os.path.expanduser(path))
    if os.path.lexists(path):
        raise InputError(f"{path} exists already: name another")
    writer: Callable[[Path, Mapping[str, Any]], None] = _write_minari
    if path.suffix == ".npz":
        writer = _write_npz
    elif path.suffix in HDF5_SUFFIXES:
        writer = _write_hdf5
    elif path.suffix:
        raise InputError(f"{path}: a dataset is written as .npz, .hdf5, or a folder, whose name has no dot")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with told_if_slow(f"writing {path}"):
            writer(temporary, fields)
        os.rename(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {reason(error.strerror or error)}") from None
    finally:
        with suppress(OSError):  # there is none, or not even its folder
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()


def _arrays(fields: Mapping[str, Any]) -> dict[str, np.ndarray]:
    found = {name: fields[ours] for name, ours in _STEPS.items()} | {name: fields[name] for name in _EPISODES}
    return {name: array for name, array in found.items() if array is not None}


def _about(fields: Mapping[str, Any]) -> str:
    found = {name: fields[name] for name in _ABOUT}
    return json.dumps(found | ({"observation_parts": parts} if (parts := fields["observation_parts"]) else {}))


def _write_npz(path: Path, fields: Mapping[str, Any]) -> None:
    np.savez(path, **_arrays(fields), about=np.array(_about(fields)))


def _write_hdf5(path: Path, fields: Mapping[str, Any]) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for name, array in _arrays(fields).items():
            file.create_dataset(name, data=array, track_times=False)
        file.attrs["about"] = _about(fields)


def _write_minari(path: Path, fields: Mapping[str, Any]) -> None:
    import h5py

    observations, following = fields["observations"], fields["next_observations"]
    starts = fields["episode_starts"]
    ends = np.append(starts[1:], len(observations))
    inner = np.delete(np.arange(len(observations)), ends[ends > starts] - 1)
    whole = fields["episode_complete"].all() and (fields["episode_lengths"] == ends - starts).all()
    if not (whole and np.array_equal(following[inner], observations[inner + 1])):
        raise InputError(
            f"{fields['id']} is not made of whole episodes, which alone a folder of Minari's layout can hold: "
            "save it as .npz or .hdf5"
        )
    data = path / "data"
    data.mkdir(parents=True)
    with h5py.File(data / "main_data.hdf5", "w") as file:
        for index, (start, end) in enumerate(counted(zip(starts, ends, strict=True), len(starts))):
            group = file.create_group(f"episode_{index}")
            group.attrs.update({"id": index, "total_steps": end - start})
            whole = np.append(observations[start:end], following[end - 1 : end], axis=0)
            for name, place in places(fields["observation_parts"]):
                group[f"observations/{name}"] = whole[:, place]
            if not fields["observation_parts"]:
                group["observations"] = whole
            for name in ("actions", "rewards", "terminations", "truncations", "log_probs"):
                if fields[name] is not None:
                    group[name] = fields[name][start:end]
    (data / "metadata.json").write_text(json.dumps(_metadata(fields), indent=1) + "\n", encoding="utf-8")


def _metadata(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Minari records; it reads spaces and specs as JSON within JSON."""
    low, high = (fields[name].tolist() for name in ("action_low", "action_high"))
    box = {"type": "Box", "dtype": "float32"}
    specs = dict(fields["env_recorded"])
    if fields["env_id"] is not None and "env_spec" not in specs:
        specs["env_spec"] = {"id": fields["env_id"], "kwargs": fields["env_kwargs"]}
    spaces = {
        "observation_space": _observation_space(fields),
        "action_space": {**box, "shape": [len(low)], "low": low, "high": high},
    }
    return {
        **{name: json.dumps(value) for name, value in {**spaces, **specs}.items()},
        "dataset_id": fields["id"],
        "total_episodes": len(fields["episode_starts"]),
        "total_steps": len(fields["observations"]),
        "data_format": "hdf5",
        "minari_version": "0.5.3",
        **({PARTS_NAME: fields["observation_parts"]} if fields["observation_parts"] else {}),
    }


def _observation_space(fields: Mapping[str, Any]) -> dict[str, Any]:
    def box(width: int) -> dict[str, Any]:
        bounds = {"low": [-np.inf] * width, "high": [np.inf] * width}
        return {"type": "Box", "dtype": "float32", "shape": [width], **bounds}

    if not fields["observation_parts"]:
        return box(fields["observations"].shape[1])
    space: dict[str, Any] = {"type": "Dict", "subspaces": {}}
    for name, width in fields["observation_parts"]:
        *above, last = name.split("/")
        inner = space
        for key in above:
            inner = inner["subspaces"].setdefault(key, {"type": "Dict", "subspaces": {}})
        inner["subspaces"][last] = box(width)
    return space
