"""Load Minari datasets: local ones, downloads, and those that ship inside the package."""

import dataclasses
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlrat.datasets import arrow, cache
from rlrat.datasets.bounds import Bounds, environment_bounds
from rlrat.datasets.dataset import Dataset, of_episodes
from rlrat.datasets.hdf5 import open_group, read_tree
from rlrat.datasets.hdf5_bytes import open_small_arrays
from rlrat.datasets.metadata import Metadata, read_metadata
from rlrat.datasets.names import MAIN_FILE, METADATA_FILE, is_local, minari_root
from rlrat.datasets.progress import counted
from rlrat.datasets.steps import STEP_FIELDS
from rlrat.environments.observations import described
from rlrat.errors import InputError, reason

PACKAGED_ROOT = Path(__file__).with_name("packaged")


def load_packaged(id: str, env_id: str | None = None, bounds: Bounds | None = None) -> Dataset:
    """Load a dataset of `names.PACKAGED`; its cache is the user's: the package may be shared or read-only."""
    return load_folder(id, PACKAGED_ROOT / id, env_id, bounds, beside=False)


def load_folder(
    id: str,
    folder: Path,
    env_id: str | None = None,
    bounds: Bounds | None = None,
    drop_achieved_goal: bool | None = None,
    *,
    beside: bool = True,
) -> Dataset:
    """Load the dataset in a folder of Minari's layout.

    Args:
        env_id: the environment that the user named: its bounds of actions apply if none are recorded.
        bounds: the bounds that the user gave; they replace all others.
        drop_achieved_goal: False keeps a part of the observations that stands in another one.
        beside: whether the cache may lie in the folder.

    Raises:
        InputError: the dataset is unusable, or it records no bounds and the environment is not available.
    """
    data = folder / "data"
    recorded = data / METADATA_FILE
    metadata = read_metadata(id, recorded if recorded.exists() or not (data / MAIN_FILE).exists() else data / MAIN_FILE)
    found = bounds or metadata.action_bounds
    settings = ""
    if found is None:
        found = environment_bounds(id, env_id, metadata.env_id, metadata.env_kwargs, metadata.env_recorded)
    if found is not metadata.action_bounds:
        settings = found.settings()
    keep = drop_achieved_goal is False or metadata.is_saved
    if drop_achieved_goal is False and metadata.dictionaries is not False and not metadata.is_saved:
        settings += "achieved_goal is kept"
    files = tuple(sorted(path for path in data.rglob("*") if path.is_file()))
    source = cache.Source(id, files, cache.beside_folder(folder) if beside else None, settings)
    return cache.load(source, lambda: _convert(id, data, metadata, found, keep))


def download(id: str) -> None:
    """Let Minari download a dataset to its folder, or the rest of it if an earlier download broke.

    Raises:
        InputError: Minari's server does not have it, or cannot be reached.
    """
    import minari

    root = minari_root()
    folder = root / id
    with suppress(ImportError):  # Minari itself reports a missing package that it needs
        from huggingface_hub import logging  # its import sets the level, and Minari imports it late

        logging.set_verbosity_error()  # it logs two lines for each of its five tries; the last one raises
    try:
        minari.download_dataset(id, force_download=folder.exists())
    except ImportError as error:
        raise InputError(f"{id} is not in {root} and cannot be downloaded: {reason(error)}") from None
    except ValueError as error:
        raise InputError(f"{id} is neither in {root} nor on Minari's server: {reason(error)}") from None
    except Exception as error:  # the HTTP library of Minari's storage may raise anything
        what = f"{type(error).__name__}: {reason(error)}"
        raise InputError(f"{id} is not in {root}, and no download without a network ({what})") from error
    if not is_local(id):
        raise InputError(f"the download of {id} left no data in {folder}: try again")


def _convert(id: str, data: Path, metadata: Metadata, bounds: Bounds, keep_achieved_goal: bool) -> Dataset:
    if metadata.data_format == "hdf5":
        episodes = _hdf5_episodes(id, data / MAIN_FILE, metadata.episodes)
    else:
        episodes = arrow.read_episodes(id, data, metadata.episodes, metadata.data_format)
    about = {name: getattr(metadata, name) for name in ("env_id", "env_kwargs", "env_recorded")}
    drop = False if keep_achieved_goal else None
    dataset = of_episodes(counted(episodes, metadata.episodes), bounds, id, **about, drop_achieved_goal=drop)
    if metadata.dictionaries and not dataset.observation_parts:
        raise InputError(
            f"{id} records dictionaries as observations and has {described((), dataset.observations.shape[1])}: in "
            "which order they became these is not known"
        )
    if metadata.steps not in (None, len(dataset)):
        note = f"{id} should have {metadata.steps} steps by its metadata, and has {len(dataset)}: a part may be missing"
        dataset = dataclasses.replace(dataset, notes=(*dataset.notes, note))
    return dataset


def _hdf5_episodes(id: str, path: Path, count: int) -> Iterator[dict[str, Any]]:
    """Read episodes with h5py: Minari's loop also reads all `infos` (10,000 episodes of 100 steps: 67 s against 13)."""
    with open_small_arrays(path) as arrays:
        fields, is_tree = STEP_FIELDS, False
        for index in range(count):
            name = f"episode_{index}"
            group = open_group(arrays.file.id, name)
            if group is None:
                raise InputError(f"{path} has no {name}, though {id} should have {count}: a part of it is missing")
            if index == 0:
                is_tree = open_group(group, "observations") is not None
                if arrays.read(group, "log_probs") is not None:
                    fields = (*STEP_FIELDS, "log_probs")
            episode = {field: arrays.read(group, field) for field in fields if field != "observations" or not is_tree}
            if is_tree:
                episode["observations"] = read_tree(group, "observations", arrays.read)
            yield episode
