"""D4RL's v2 locomotion datasets and any HDF5 file of D4RL's layout, read without d4rl, gym or mujoco_py.

Such a file is one flat sequence of steps without final observations: the next observation of step i is that of step
i + 1. Its transitions are those of d4rl's `qlearning_dataset`:

- a step whose `timeouts` flag is set is left out, for what follows it is the next episode's first observation;
- so is the last step of the file, even if it is terminal;
- the next observation of a terminal step is the following episode's first one, which nothing may look at;
- a file's own `next_observations` are not used.

Without `timeouts`, episodes are split at the environment's time limit. Here d4rl counts one step too many after every
terminal state and so cuts each time-limited episode that follows one a step too early, joining its true last step to
the next episode; this reader counts from the episode's first step.

Steps after the last terminal or timeout flag are an episode that the file breaks off: its transitions are kept, as in
d4rl, but its return is no episode's return, and is left out of the best and the worst.
"""

import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from rlrat.datasets import cache
from rlrat.datasets.dataset import (
    Dataset,
    assemble,
    check_finite,
    clip_actions,
    step_array,
    step_flags,
    to_float32,
)
from rlrat.datasets.download import download
from rlrat.datasets.hdf5 import open_hdf5, read
from rlrat.errors import InputError

BASE_URL = "https://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2"
HOSTS = ("rail.eecs.berkeley.edu",)  # that may be sent on to
TIME_LIMIT = 1000  # of all locomotion environments
LEVELS = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
# -v4 is the nearest to D4RL's -v2 that installs. Its Ant leaves out the contact forces, which the data has (as zeros).
_ENVIRONMENTS = {
    "halfcheetah": ("HalfCheetah-v4", {}),
    "hopper": ("Hopper-v4", {}),
    "walker2d": ("Walker2d-v4", {}),
    "ant": ("Ant-v4", {"use_contact_forces": True}),
}
FILES = {
    f"{agent}-{level}-v2": f"{agent}_{level.replace('-', '_')}-v2.hdf5" for agent in _ENVIRONMENTS for level in LEVELS
}
"""File name of every dataset; `BASE_URL/<file name>` is where it was published."""
_KEYS = ("observations", "actions", "rewards", "terminals", "timeouts")
_STEM = re.compile(rf"({'|'.join(_ENVIRONMENTS)})-({'|'.join(LEVELS)})(-v[012])?")


def folder() -> Path:
    """Where d4rl keeps its files: `D4RL_DATASET_DIR` or `~/.d4rl/datasets`."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or os.path.expanduser("~/.d4rl/datasets"))


def load_name(name: str) -> Dataset:
    """A dataset of `FILES`, downloaded first where it does not lie in `folder()`.

    Raises:
        InputError: it cannot be had, or its file is unusable.
    """
    path = folder() / FILES[name]
    if not path.exists():
        download(f"{BASE_URL}/{FILES[name]}", path, check=_check_opens, hosts=HOSTS)
    return load_file(path)


def load_file(path: Path) -> Dataset:
    """A file of D4RL's layout; its name decides about the environment, the time limit and the reference scores.

    Raises:
        InputError: there is no such file, or it is unusable.
    """
    if not path.is_file():
        raise InputError(f"no file {path}")
    name = path.stem.replace("_", "-")
    known = _STEM.fullmatch(name)
    id = name if known else path.stem
    env_id, env_kwargs = _ENVIRONMENTS[known[1]] if known else (None, {})
    source = cache.Source(id, (path,), cache.beside_file(path))
    return cache.load(
        source,
        lambda: _convert(path, id, env_id=env_id, env_kwargs=env_kwargs, reference="d4rl" if id in FILES else None),
    )


def _check_opens(path: Path) -> None:
    with open_hdf5(path) as file:
        file.keys()


def _convert(path: Path, id: str, **about: Any) -> Dataset:
    observations, actions, rewards, terminals, timeouts = _read_steps(path)
    if timeouts is None:
        timeouts = _time_limits(terminals)
        if about["env_id"] is None:
            warnings.warn(f"{path} has no timeouts: episodes are split after {TIME_LIMIT} steps", stacklevel=2)
    steps = len(rewards)
    ends = np.flatnonzero(terminals | timeouts)
    starts = np.append(0, ends + 1)
    starts = starts[starts < steps]
    returns = np.add.reduceat(rewards.astype(np.float64), starts)
    complete = np.ones(len(starts), bool)
    complete[-1] = terminals[-1] or timeouts[-1]

    observations, actions, rewards = (to_float32(array) for array in (observations, actions, rewards))
    for name, array in (("observations", observations), ("actions", actions), ("rewards", rewards)):
        check_finite(str(path), name, array, starts)
    high = np.ones(actions.shape[1], np.float32)
    actions = clip_actions(str(path), actions, starts, -high, high)

    kept = ~timeouts
    kept[-1] = False
    rows = np.flatnonzero(kept)
    if len(rows) == 0:
        raise InputError(f"{path} has no transition: each needs the step that follows it in its episode")
    return assemble(
        id,
        observations=observations[rows],
        actions=actions[rows],
        rewards=rewards[rows],
        next_observations=observations[rows + 1],
        terminations=terminals[rows],
        episode_starts=np.append(0, np.cumsum(kept))[starts],
        episode_returns=returns,
        episode_lengths=np.diff(np.append(starts, steps)),
        episode_complete=complete,
        action_low=-high,
        action_high=high,
        **about,
    )


def _read_steps(path: Path) -> tuple[np.ndarray | None, ...]:
    """Observations, actions, rewards, terminals and (None where the file has none) timeouts, of equal lengths."""
    with open_hdf5(path) as file:
        arrays = {name: read(file.id, name) for name in _KEYS}
    if missing := [name for name in _KEYS[:-1] if arrays[name] is None]:
        raise InputError(f"{path} lacks {', '.join(missing)}: a D4RL file has {', '.join(_KEYS[:-1])}")
    if arrays["timeouts"] is None:
        del arrays["timeouts"]
    for name, array in arrays.items():
        if name not in ("observations", "actions") and array.shape[1:] == (1,):
            arrays[name] = array[:, 0]  # older files have columns
    for name, array in arrays.items():
        if name in ("terminals", "timeouts"):
            arrays[name] = step_flags(str(path), name, array)
        else:
            ndim = 1 if name == "rewards" else 2
            arrays[name] = step_array(str(path), name, array, "f" if name == "actions" else "fiu", ndim)
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise InputError(f"{path} has {found}: all must be equally many")
    if lengths["rewards"] == 0:
        raise InputError(f"{path} is empty: it has no steps")
    return tuple(arrays.get(name) for name in _KEYS)


def _time_limits(terminals: np.ndarray) -> np.ndarray:
    """Flags of the steps at which an episode has lasted `TIME_LIMIT` steps."""
    steps = np.arange(len(terminals))
    first = np.zeros(len(terminals), np.int64)
    first[1:] = np.maximum.accumulate(np.where(terminals, steps + 1, 0))[:-1]
    return (steps - first) % TIME_LIMIT == TIME_LIMIT - 1
