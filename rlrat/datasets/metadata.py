"""Read Minari's metadata. Anybody may have written it: nothing that it names is made or imported.

Before version 0.5, Minari wrote it into the attributes of the HDF5 file; today it is metadata.json.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrat.datasets.bounds import Bounds
from rlrat.datasets.hdf5 import open_hdf5, read_attribute
from rlrat.datasets.names import HDF5_SUFFIXES, METADATA_FILE
from rlrat.datasets.saving import PARTS_NAME
from rlrat.environments.observations import leaves
from rlrat.errors import InputError, reason
from rlrat.json_files import load_json, parse_json

_ADVICE = "give --action-bounds LOW HIGH if these are wrong"


@dataclass(frozen=True)
class Metadata:
    """The part of the metadata that is used."""

    episodes: int
    steps: int | None
    data_format: str
    """`hdf5`, `arrow` or `parquet`."""
    action_bounds: Bounds | None
    """None where no action space is recorded: it is the environment's then."""
    env_id: str | None
    env_kwargs: dict[str, Any]
    env_recorded: dict[str, Any]
    """`env_spec` and `eval_env_spec`, whole, and `ref_min_score` and `ref_max_score`, as far as they are there."""
    dictionaries: bool | None
    """Whether observations are dictionaries; None where no space of them is recorded."""
    is_saved: bool
    """Whether `Dataset.save` wrote it with parts of observations: none is left out again."""


def read_metadata(id: str, path: Path) -> Metadata:
    """Read the metadata of the dataset `id`: a metadata.json, or an HDF5 file of before.

    Raises:
        InputError: the file is no such metadata, or the spaces are no vectors and no dictionaries of vectors.
        OSError: the file cannot be read.
    """
    try:
        content = _attributes(path) if path.suffix in HDF5_SUFFIXES else load_json(path)
        spaces = {name: _recorded(content, name) for name in ("observation_space", "action_space")}
        specs = {name: _recorded(content, name) for name in ("env_spec", "eval_env_spec")}
        env_recorded = {name: spec for name, spec in specs.items() if spec is not None} | _references(content)
        spec = env_recorded.get("env_spec", {})
        env_id, kwargs = spec.get("id"), spec.get("kwargs")
        if not isinstance(env_id, str | None):
            raise ValueError(f"env_spec has the id {_short(env_id)}, not a text")
        found = Metadata(
            episodes=_count("total_episodes", content.get("total_episodes")),
            steps=None if (steps := content.get("total_steps")) is None else _count("total_steps", steps),
            data_format=_format(content),
            action_bounds=_bounds(id, spaces["action_space"]),
            env_id=env_id or None,
            env_kwargs=_mapping("kwargs of env_spec", {} if kwargs is None else kwargs),
            env_recorded=env_recorded,
            dictionaries=(space := spaces["observation_space"]) and space.get("type") == "Dict",
            is_saved=PARTS_NAME in content,
        )
        _check_observations(id, spaces["observation_space"])
        return found
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged ({reason(error)}): metadata as Minari writes it is needed") from None


def _attributes(path: Path) -> dict[str, Any]:
    """Read what Minari before 0.5 recorded in its one file."""
    names = ("observation_space", "action_space", "env_spec", "eval_env_spec", "total_episodes", "total_steps")
    with open_hdf5(path) as file:
        if "total_episodes" not in file.attrs:
            raise InputError(
                f"{path} has no {METADATA_FILE} beside it, nor the attributes of Minari before 0.5: a part is missing"
            )
        return {name: read_attribute(file, name) for name in names}


def _recorded(content: dict[str, Any], name: str) -> dict[str, Any] | None:
    """Read a space or a spec, which Minari writes as JSON within JSON."""
    text = content.get(name)
    if not isinstance(text, str | None):
        raise ValueError(f"{name} is {_short(text)}, not a text")
    try:
        value = parse_json(text) if text else None
    except ValueError as error:
        raise ValueError(f"{name} cannot be read: {error}") from None
    return None if value is None else _mapping(name, value)


def _references(content: dict[str, Any]) -> dict[str, float]:
    """Read the mean returns of a random policy and an expert, which Minari's `create_dataset` may be given."""
    found = {name: content.get(name) for name in ("ref_min_score", "ref_max_score")}
    if None in found.values():
        return {}
    for name, value in found.items():
        if type(value) not in (int, float) or not math.isfinite(value):
            raise ValueError(f"{name} is {_short(value)}, not a number")
    return {name: float(value) for name, value in found.items()}


def _mapping(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{what} is {_short(value)}, not a mapping of names to values")
    return value


def _count(name: str, count: Any) -> int:
    if not isinstance(count, int | float) or isinstance(count, bool) or count != count // 1 or count < 0:
        raise ValueError(f"{name} is {_short(count)}, not a count")
    return int(count)


def _format(content: dict[str, Any]) -> str:
    name = content.get("data_format", "hdf5")
    if name not in ("hdf5", "arrow", "parquet"):
        raise ValueError(f"data_format is {_short(name)}, which is none of hdf5, arrow and parquet")
    return name


def _bounds(id: str, space: dict[str, Any] | None) -> Bounds | None:
    _check_box(id, "action_space", space)
    if space is None:
        return None
    for name in ("low", "high"):
        if not _are_numbers(space.get(name)):
            raise ValueError(f"action_space has the {name} {_short(space.get(name))}, not numbers")
    return Bounds(space["low"], space["high"], advice=_ADVICE)


def _check_observations(id: str, space: dict[str, Any] | None) -> None:
    if space is None or space.get("type") != "Dict":
        _check_box(id, "observation_space", space)
        return
    for name, (_, (part,)) in leaves(_subspaces(space), f"{id}: observations").items():
        _check_box(id, f"observation_space/{reason(name)}", part, axes=(0, 1))


def _subspaces(space: dict[str, Any]) -> dict[str, Any]:
    """Return nested dictionaries of what a recorded `Dict` space is made of, a leaf as a tuple of it."""
    found = {}
    for name, inner in _mapping("subspaces of observation_space", space.get("subspaces")).items():
        inner = _mapping(f"{name} of observation_space", inner)
        found[name] = _subspaces(inner) if inner.get("type") == "Dict" else (inner,)
    return found


def _check_box(id: str, name: str, space: dict[str, Any] | None, axes: tuple[int, ...] = (1,)) -> None:
    if space is None:
        return
    kind, dtype, shape = (space.get(key) for key in ("type", "dtype", "shape"))
    if not isinstance(kind, str):
        raise ValueError(f"{name} has the type {_short(kind)}, not a text")
    box = kind == "Box"
    if box and not isinstance(dtype, str):
        raise ValueError(f"{name} has the dtype {_short(dtype)}, not a text")
    if box and not (isinstance(shape, list) and all(type(size) is int and size >= 0 for size in shape)):
        raise ValueError(f"{name} has the shape {_short(shape)}, not a list of sizes")
    found = f"{_short(kind)[1:-1]}, {_short(dtype)[1:-1]}, shape {_short(shape)}" if box else _short(kind)[1:-1]
    if name == "action_space" and not (box and dtype.startswith("float")):
        wanted = "continuous actions only (a Box of floats); d3rlpy learns from discrete ones"
        raise InputError(f"{id} has the action space {found}: {wanted}")
    if not box or len(shape) not in axes:
        kind, _, part = name.partition("_space")
        more = "" if kind == "action" else " and dictionaries of them"
        wanted = f"only flat vectors (a Box of one axis){more} can be read; d3rlpy learns from images"
        raise InputError(f"{id} has the {kind} space{part} {found}: {wanted}")


def _are_numbers(value: Any) -> bool:
    return all(type(one) in (int, float) for one in (value if isinstance(value, list) else [value]))


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:50]}...{text[-1]}"
