"""Datasets: Minari's, D4RL's, the packaged ones and a user's own, all as one type."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from rlrat.datasets import d4rl, minari
from rlrat.datasets.dataset import Dataset
from rlrat.environments import import_modules
from rlrat.errors import InputError

__all__ = ["Dataset", "load_dataset"]

_MINARI_MUJOCO = [
    f"mujoco/{agent}/{level}-v0"
    for agent in ("halfcheetah", "hopper", "walker2d")
    for level in ("simple", "medium", "expert")
]


def load_dataset(
    id: str | os.PathLike[str],
    *,
    env_id: str | None = None,
    env_modules: Sequence[str] = (),
    action_bounds: Sequence[tuple[float, float]] | None = None,
) -> Dataset:
    """The dataset of an id; from its second loading on a memory-mapped cache.

    Args:
        id: `rlrat/hopper/mixed-v0` or `rlrat/hopper/medium-v0`, which ship inside the package; a Minari id such as
            `mujoco/hopper/medium-v0`, looked for under `MINARI_DATASETS_PATH` (`~/.minari/datasets`) and then
            downloaded; a D4RL name such as `hopper-medium-v2`, looked for under `D4RL_DATASET_DIR`
            (`~/.d4rl/datasets`) and then downloaded; or a path to an .hdf5 file of D4RL's layout.
        env_id: the Gymnasium environment that the data belongs to, `module:id` included, where it does not say so:
            its bounds of actions apply.
        env_modules: your modules that register environments; they are imported.
        action_bounds: least and greatest action, a pair, or one for each component, over all that is recorded.

    Raises:
        InputError: no such dataset, no network to fetch it, or unusable data.
    """
    import_modules(env_modules)
    id = os.fspath(id)
    if id in minari.PACKAGED:
        return minari.load_packaged(id)
    path = Path(id).expanduser()
    if path.suffix in (".hdf5", ".h5") or path.is_file():
        return d4rl.load_file(path)
    if id in d4rl.FILES:
        return d4rl.load_name(id)
    if minari.is_local(id):
        return minari.load_local(id)
    if "/" in id and not id.startswith("rlrat/") and minari.is_id(id):  # Minari's server has none without a namespace
        try:
            minari.download(id)
        except InputError as error:
            raise InputError(f"{error}{_nearest(id)}") from error
        return minari.load_local(id)
    raise InputError(
        f"unknown dataset {id!r}{_nearest(id)}; give {' or '.join(minari.PACKAGED)} (packaged), a Minari id "
        "(mujoco/hopper/medium-v0), a D4RL name (hopper-medium-v2) or a path to an .hdf5 file of D4RL's layout"
    )


def _nearest(id: str) -> str:
    known = {*minari.PACKAGED, *_MINARI_MUJOCO, *minari.local_ids(), *d4rl.FILES}
    nearest = difflib.get_close_matches(id, sorted(known - {id}))
    return f"; the nearest known: {', '.join(nearest)}" if nearest else ""
