"""Load a dataset by its id or path, from whichever source knows it."""

import os
from collections.abc import Sequence

from rlrat.datasets import sources
from rlrat.datasets.bounds import typed_bounds
from rlrat.datasets.dataset import Dataset
from rlrat.environments.registry import NO_ENVIRONMENT, import_modules
from rlrat.errors import InputError, reason, warn


def load_dataset(
    id: str | os.PathLike[str],
    *,
    env_id: str | None = None,
    env_modules: Sequence[str] = (),
    action_bounds: Sequence[tuple[float, float]] | None = None,
    drop_achieved_goal: bool | None = None,
) -> Dataset:
    """Load the dataset of an id; from the second time on it is a memory-mapped cache.

    Args:
        id: `rlrat/hopper/mixed-v0` or `rlrat/hopper/medium-v0`, which ship inside the package; a Minari id such as
            `mujoco/hopper/medium-v0`, looked for under `MINARI_DATASETS_PATH` (`~/.minari/datasets`) and then
            downloaded; a D4RL name such as `hopper-medium-v2`, looked for under `D4RL_DATASET_DIR`
            (`~/.d4rl/datasets`) and then downloaded; a single task of OGBench's such as
            `cube-double-play-singletask-task2-v0`, looked for under `OGBENCH_DATASET_DIR` (`~/.ogbench/data`) and then
            downloaded; or a path to an .npz, .csv, .parquet or .hdf5 file (of D4RL's layout), or to a folder of .npz
            files or of Minari's; docs/data.md says what is in them.
        env_id: the Gymnasium environment that the data belongs to, or `module:id`: its bounds of actions and its time
            limit apply if the data does not record them itself.
        env_modules: your modules that register environments; they are imported. Modules that data names are not.
        action_bounds: least and greatest action, one pair or one for each component; they replace recorded bounds.
        drop_achieved_goal: of dictionary observations, whether to leave `achieved_goal` out, which must stand in
            `observation` then; by default it is left out where it stands there.

    Each load warns of what was changed or assumed in the data, see `Dataset.notes`.

    Raises:
        InputError: no such dataset, no network to fetch it, or unusable data or bounds.
    """
    import_modules(env_modules)
    env_id = None if env_id == NO_ENVIRONMENT else env_id
    bounds = None if action_bounds is None else typed_bounds(action_bounds)
    id = os.fspath(id)
    try:
        source = sources.find(id)
        if source is None:
            raise sources.unknown(id)
        dataset = source.load(id, env_id, bounds, *([False] if drop_achieved_goal is False else []))
    except OSError as error:  # a file or a folder that may not be read, a name that is too long
        raise InputError(f"cannot read dataset {id}: {reason(error)}") from None
    if drop_achieved_goal:
        dataset = dataset.without_achieved_goal()
    for note in dataset.notes:
        warn(note)
    return dataset
