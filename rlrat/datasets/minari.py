"""Minari datasets: local ones, downloads, and those that ship inside the package."""

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlrat.datasets import cache
from rlrat.datasets.dataset import STEP_FIELDS, Dataset
from rlrat.datasets.hdf5 import open_group, open_hdf5, read
from rlrat.errors import InputError, reason

PACKAGED_ROOT = Path(__file__).with_name("packaged")
PACKAGED = ("rlrat/hopper/mixed-v0", "rlrat/hopper/medium-v0")
_SPACES = ("observation_space", "action_space")
_ID = re.compile(r"[-\w]+(/[-\w]+)*-v\d+")


def is_id(id: str) -> bool:
    """Whether `id` has Minari's form, (namespace/)name-v<version>."""
    return _ID.fullmatch(id) is not None


def local_root() -> Path:
    """Where Minari keeps datasets: `MINARI_DATASETS_PATH` or `~/.minari/datasets`."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or os.path.expanduser("~/.minari/datasets"))


def local_ids() -> list[str]:
    """Ids of the datasets under `local_root`."""
    return sorted(path.parent.parent.relative_to(local_root()).as_posix() for path in _metadata_files())


def is_local(id: str) -> bool:
    """Whether a whole dataset lies under `local_root`."""
    return is_id(id) and _is_whole(local_root() / id / "data")


def load_packaged(id: str) -> Dataset:
    """A dataset of `PACKAGED`; its cache is the user's, since the package may be shared or read-only."""
    return _load_folder(id, PACKAGED_ROOT / id, beside=False)


def load_local(id: str) -> Dataset:
    """A dataset under `local_root`."""
    return _load_folder(id, local_root() / id, beside=True)


def download(id: str) -> None:
    """Have Minari bring a dataset to `local_root`, or the rest of one whose download broke.

    Raises:
        InputError: its server does not have it, or cannot be reached.
    """
    import minari

    folder = local_root() / id
    with suppress(ImportError):  # Minari says that it is missing, where it needs it
        from huggingface_hub import logging  # its import sets the level, and Minari imports it late

        logging.set_verbosity_error()  # each of its five tries is two lines, the last raises
    try:
        minari.download_dataset(id, force_download=folder.exists())
    except ImportError as error:
        raise InputError(f"{id} is not in {local_root()} and cannot be downloaded: {reason(error)}") from None
    except ValueError as error:
        raise InputError(f"{id} is neither in {local_root()} nor on Minari's server: {reason(error)}") from None
    except Exception as error:  # whatever the HTTP library of Minari's storage raises
        what = f"{type(error).__name__}: {reason(error)}"
        raise InputError(f"{id} is not in {local_root()}, and no download without a network ({what})") from error
    if not is_local(id):
        raise InputError(f"the download of {id} left no data in {folder}: remove that folder and try again")


def _metadata_files() -> Iterator[Path]:
    return local_root().glob("**/data/metadata.json")


def _is_whole(data: Path) -> bool:
    # an interrupted download leaves the metadata without the data
    return (data / "metadata.json").is_file() and len(list(data.iterdir())) > 1


def _load_folder(id: str, folder: Path, *, beside: bool) -> Dataset:
    files = tuple(sorted(path for path in (folder / "data").rglob("*") if path.is_file()))
    source = cache.Source(id, files, folder / ".rlrat-cache" if beside else None)
    return cache.load(source, lambda: _convert(id, folder / "data"))


def _convert(id: str, data: Path) -> Dataset:
    try:
        metadata = json.loads((data / "metadata.json").read_text(encoding="utf-8"))
        spaces = {name: json.loads(metadata[name]) for name in _SPACES if name in metadata}
        env_spec = json.loads(metadata.get("env_spec") or "{}")
        count = int(metadata["total_episodes"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{data / 'metadata.json'} is damaged ({error!r}): download {id} again") from None
    if len(spaces) < 2:
        spaces = _environment_spaces(id, data)
    for kind, space in spaces.items():
        _check_space(id, kind, space)
    hdf5 = metadata.get("data_format", "hdf5") == "hdf5"
    return Dataset.from_episodes(
        _hdf5_episodes(id, data / "main_data.hdf5", count) if hdf5 else _minari_episodes(data),
        id=id,
        env_id=env_spec.get("id"),
        env_kwargs=env_spec.get("kwargs"),
        action_low=spaces["action_space"]["low"],
        action_high=spaces["action_space"]["high"],
    )


def _environment_spaces(id: str, data: Path) -> dict[str, dict]:
    """Spaces that the metadata leaves out are the environment's, which Minari then makes."""
    from minari import MinariDataset
    from minari.serialization import serialize_space

    try:
        dataset = MinariDataset(data)
    except Exception as error:  # gymnasium's: an environment that is not installed, or too old
        raise InputError(f"{id} names no spaces, and its environment cannot be made: {reason(error)}") from error
    return {name: json.loads(serialize_space(getattr(dataset, name))) for name in _SPACES}


def _check_space(id: str, name: str, space: dict[str, Any]) -> None:
    box = space["type"] == "Box"
    found = f"{space['type']}, {space['dtype']}, shape {space['shape']}" if box else space["type"]
    if name == "action_space" and not (box and space["dtype"].startswith("float")):
        raise InputError(f"{id} has the action space {found}: continuous actions only (a Box of floats)")
    if not box or len(space["shape"]) != 1:
        name = name.replace("_", " ")
        raise InputError(f"{id} has the {name} {found}: only flat vectors (a Box of one axis) can be read")


def _hdf5_episodes(id: str, path: Path, count: int) -> Iterator[dict]:
    """Read by h5py: Minari's own loop reads every `infos` array too (10,000 episodes of 100 steps: 67 s against 13)."""
    with open_hdf5(path) as file:
        for index in range(count):
            name = f"episode_{index}"
            group = open_group(file.id, name)
            if group is None:
                raise InputError(f"{path} has no {name}, though {id} should have {count}: download it again")
            yield {field: read(group, field) for field in STEP_FIELDS}


def _minari_episodes(data: Path) -> Iterator[Any]:
    from minari import MinariDataset

    return MinariDataset(data).iterate_episodes()
