"""Load a dataset by its id: from Minari, D4RL, this package, a file or a folder."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from rlrat.datasets import d4rl, minari
from rlrat.datasets.bounds import Bounds, typed_bounds
from rlrat.datasets.dataset import Dataset
from rlrat.datasets.names import FILE_SUFFIXES, MINARI_MUJOCO, PACKAGED, as_id, dataset_id
from rlrat.environments.registry import NO_ENVIRONMENT, import_modules
from rlrat.errors import InputError, reason, warn


def load_dataset(
    id: str | os.PathLike[str],
    *,
    env_id: str | None = None,
    env_modules: Sequence[str] = (),
    action_bounds: Sequence[tuple[float, float]] | None = None,
) -> Dataset:
    """Load the dataset of an id; from the second time on it is a memory-mapped cache.

    Args:
        id: `rlrat/hopper/mixed-v0` or `rlrat/hopper/medium-v0`, which ship inside the package; a Minari id such as
            `mujoco/hopper/medium-v0`, looked for under `MINARI_DATASETS_PATH` (`~/.minari/datasets`) and then
            downloaded; a D4RL name such as `hopper-medium-v2`, looked for under `D4RL_DATASET_DIR`
            (`~/.d4rl/datasets`) and then downloaded; or a path to an .hdf5 file of D4RL's layout, or to a folder of
            Minari's.
        env_id: the Gymnasium environment that the data belongs to, or `module:id`: its bounds of actions and its time
            limit apply if the data does not record them itself.
        env_modules: your modules that register environments; they are imported. Modules that data names are not.
        action_bounds: least and greatest action, one pair or one for each component; they replace recorded bounds.

    Each load warns of what was changed or assumed in the data, see `Dataset.notes`.

    Raises:
        InputError: no such dataset, no network to fetch it, or unusable data or bounds.
    """
    import_modules(env_modules)
    env_id = None if env_id == NO_ENVIRONMENT else env_id
    bounds = None if action_bounds is None else typed_bounds(action_bounds)
    id = os.fspath(id)
    try:
        dataset = _find(id, env_id, bounds)
    except OSError as error:  # a file or a folder that may not be read, a name that is too long
        raise InputError(f"cannot read dataset {id}: {reason(error)}") from None
    for note in dataset.notes:
        warn(note)
    return dataset


def _find(text: str, env_id: str | None, bounds: Bounds | None) -> Dataset:
    id, path = as_id(text), Path(os.path.expanduser(text))
    if id in PACKAGED:
        return minari.load_packaged(id, env_id, bounds)
    if path.suffix in FILE_SUFFIXES or path.is_file():
        return d4rl.load_file(path, env_id, bounds)
    if id in d4rl.FILES:
        return d4rl.load_name(id, env_id, bounds)
    if id is not None and minari.is_local(id):
        return minari.load_local(id, env_id, bounds)
    is_folder = bool(text) and minari.is_folder(path)
    if is_folder and (id is None or "/" not in id):
        return minari.load_folder(dataset_id(text), path, env_id, bounds)
    here = f"; there is such a folder here, which ./{id} means" if is_folder else ""
    if id is not None and "/" in id and not id.startswith("rlrat/"):  # every dataset on Minari's server has a namespace
        try:
            minari.download(id)
        except InputError as error:
            raise InputError(f"{error}{here or _nearest(id)}") from error
        return minari.load_local(id, env_id, bounds)
    raise InputError(
        f"unknown dataset {text!r}{here or _nearest(text)}; give {' or '.join(PACKAGED)} (packaged), "
        "a Minari id (mujoco/hopper/medium-v0), a D4RL name (hopper-medium-v2) or a path to an .hdf5 file of D4RL's "
        "layout or to a folder of Minari's"
    )


def _nearest(id: str) -> str:
    known = {*PACKAGED, *MINARI_MUJOCO, *minari.local_ids(), *d4rl.FILES}
    nearest = difflib.get_close_matches(id, sorted(known - {id}))
    return f"; the nearest known: {', '.join(nearest)}" if nearest else ""
