"""Read D4RL's v2 locomotion datasets and any HDF5 file of D4RL's layout, without d4rl, gym or mujoco_py.

Such a file is one flat sequence of steps. The transitions of D4RL's own sets (`D4RL_FILES`) are those of d4rl's
`qlearning_dataset`: the next observation of step i is that of step i + 1, and

- a step whose `timeouts` flag is set is left out: the observation after it is the next episode's first one;
- the last step of the file is left out, even if it is terminal;
- the next observation of a terminal step is the following episode's first one, and no code may use it;
- a file's own `next_observations` are not used.

In every other file a terminal step is kept, even if its `timeouts` flag is set or it is the file's last step: no code
may use its next observation. If the file has `next_observations`, they are used, and steps may have any order. Then a
step is left out only if its `timeouts` flag is set and its next observation is the following step's observation: the
array was made by a shift, and that observation is the next episode's first one. A step whose next observation is not
the following step's observation ends its piece. If neither flag is set there, the piece is no complete episode. If
most steps end their piece, the file holds single transitions, and no episode is complete.

Without `timeouts`, episodes are split at the environment's time limit. There d4rl counts one step too many after every
terminal state. It cuts each time-limited episode that follows a terminal state one step too early, and joins its true
last step to the next episode. This reader counts from the episode's first step.

Steps after the last terminal or timeout flag are an episode that the file breaks off. Its transitions are kept, as in
d4rl, but its return is not an episode's return and counts neither for the best nor for the worst return.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlrat.datasets import cache
from rlrat.datasets.bounds import Bounds, environment_bounds
from rlrat.datasets.dataset import Dataset, assemble
from rlrat.datasets.download import download
from rlrat.datasets.hdf5 import open_hdf5, read
from rlrat.datasets.names import D4RL_FILES, d4rl_agent, d4rl_folder, dataset_id
from rlrat.datasets.steps import check_finite, step_array, step_flags, to_float32
from rlrat.environments.registry import find_spec, typed
from rlrat.errors import InputError

BASE_URL = "https://rail.eecs.berkeley.edu/datasets/offline_rl/gym_mujoco_v2"
HOSTS = ("rail.eecs.berkeley.edu",)  # a download may be redirected to these
TIME_LIMIT = 1000  # of all locomotion environments
# -v4 is the nearest to D4RL's -v2 that installs. Its Ant leaves out the contact forces, which the data has (as zeros).
_ENVIRONMENTS = {
    "halfcheetah": ("HalfCheetah-v4", {}),
    "hopper": ("Hopper-v4", {}),
    "walker2d": ("Walker2d-v4", {}),
    "ant": ("Ant-v4", {"use_contact_forces": True}),
}
_NEEDED = ("observations", "actions", "rewards", "terminals")
_VALUES = ("observations", "actions", "rewards", "next_observations")
_ROUNDING = 1e-5  # relative difference between two records of the same observation


@dataclass(frozen=True)
class _Limit:
    """The number of steps after which an episode ends if the file has no `timeouts`, and whose time limit it is."""

    steps: int | None
    """None for never."""
    env_id: str | None

    def __str__(self) -> str:
        if self.steps is None:
            return f"only terminal states end its episodes, as {self.env_id} has no time limit"
        why = f"the time limit of {self.env_id}" if self.env_id else "a guess (give --env-id for the right limit)"
        return f"its episodes are split after {self.steps} steps, {why}"


def load_name(name: str, env_id: str | None = None, bounds: Bounds | None = None) -> Dataset:
    """Load a dataset of `D4RL_FILES` as `load_file` does; download it first if it is not in `d4rl_folder()`.

    Raises:
        InputError: it cannot be downloaded, or its file is unusable.
    """
    path = d4rl_folder() / D4RL_FILES[name]
    if not path.exists():
        download(f"{BASE_URL}/{D4RL_FILES[name]}", path, check=_check_opens, hosts=HOSTS)
    return load_file(path, env_id, bounds)


def load_file(path: Path, env_id: str | None = None, bounds: Bounds | None = None) -> Dataset:
    """Load a file of D4RL's layout; its name decides the environment, the time limit and the reference scores.

    Args:
        env_id: the environment that the user named: its bounds of actions and its time limit apply if the name of
            the file is none of D4RL's.
        bounds: the bounds that the user gave; they replace all others.

    Raises:
        InputError: there is no such file, or it is unusable.
    """
    if not path.is_file():
        raise InputError(f"no file {path}")
    id = dataset_id(str(path))
    known = d4rl_agent(id)
    own_id, env_kwargs = _ENVIRONMENTS[known] if known else (None, {})
    settings = bounds.settings() if bounds else ""
    if known:
        limit = _Limit(TIME_LIMIT, own_id)
        bounds = bounds or Bounds(-1.0, 1.0, f"of {own_id}", "give --action-bounds LOW HIGH if it has others")
    elif env_id is not None:
        env_id = typed(env_id)
        limit = _Limit(find_spec(env_id).max_episode_steps, env_id)
        bounds = bounds or environment_bounds(str(path), env_id, None)
        settings = json.dumps([bounds.settings(), limit.steps])
    else:
        limit = _Limit(TIME_LIMIT, None)
        advice = "give --env-id with the environment they are of, or --action-bounds LOW HIGH"
        bounds = bounds or Bounds(-1.0, 1.0, "that are assumed of it", advice)
    about = {"env_id": own_id, "env_kwargs": env_kwargs, "reference": "d4rl" if id in D4RL_FILES else None}
    source = cache.Source(id, (path,), cache.beside_file(path), settings)
    return cache.load(source, lambda: _convert(path, id, bounds, limit, **about))


def _check_opens(path: Path) -> None:
    with open_hdf5(path) as file:
        file.keys()


def _convert(path: Path, id: str, bounds: Bounds, limit: _Limit, **about: Any) -> Dataset:
    published, notes = id in D4RL_FILES, []
    arrays = _read_steps(path, following=not published)
    rewards, terminals, timeouts = arrays["rewards"], arrays["terminals"], arrays["timeouts"]
    steps = len(rewards)
    with np.errstate(invalid="ignore"):  # numbers that are not finite are refused
        exact_rewards = rewards.astype(np.float64)
    for name in _VALUES:
        if arrays[name] is not None:
            arrays[name] = to_float32(arrays[name])
    observations, following = arrays["observations"], arrays["next_observations"]

    breaks = np.zeros(steps, bool) if following is None else _breaks(observations, following)
    if timeouts is None:
        timeouts = np.zeros(steps, bool)
        if following is not None and limit.steps is not None:  # the observations show where an episode continues
            timeouts = breaks & (_ages(terminals | breaks) == limit.steps - 1)
        elif limit.steps is not None:
            timeouts = _ages(terminals) % limit.steps == limit.steps - 1
        if following is None:
            notes.append(f"{path} has no timeouts: {limit}")
    flagged = terminals | timeouts
    ends = np.flatnonzero(flagged | breaks)
    starts = np.append(0, ends + 1)
    starts = starts[starts < steps]
    last = np.append(starts[1:], steps) - 1
    complete = flagged[last] & np.append(True, flagged[last[:-1]])
    if odd := np.count_nonzero((breaks & ~flagged)[:-1]):
        single = odd > np.count_nonzero(~breaks & ~flagged)
        complete &= not single
        what = "it holds single transitions, no episodes" if single else "the pieces count as no complete episodes"
        if not single and arrays["timeouts"] is None and limit.env_id is None:
            what += f" (without --env-id, their time limit is taken to be {limit.steps} steps)"
        notes.append(f"{path}: the next observation of {odd} of {steps} steps is not the following step's: {what}")
    for name in _VALUES:
        if arrays[name] is not None:
            check_finite(str(path), name, arrays[name], starts)
    low, high = bounds.of(str(path), arrays["actions"].shape[1])
    actions, clipped = bounds.clip(str(path), arrays["actions"], starts, low, high)
    kept = ~timeouts if published else ~timeouts | terminals
    kept[-1] = terminals[-1] and not published
    if following is not None:
        kept = breaks | terminals | ~timeouts
    rows = np.flatnonzero(kept)
    following = observations[np.minimum(rows + 1, steps - 1)] if following is None else following[rows]
    if len(rows) == 0:
        raise InputError(f"{path} has no transition: each needs the step that follows it in its episode")
    return assemble(
        id,
        observations=observations[rows],
        actions=actions[rows],
        rewards=arrays["rewards"][rows],
        next_observations=following,
        terminations=terminals[rows],
        episode_starts=np.append(0, np.cumsum(kept))[starts],
        episode_returns=np.add.reduceat(exact_rewards, starts),
        episode_lengths=np.diff(np.append(starts, steps)),
        episode_complete=complete,
        action_low=low,
        action_high=high,
        notes=(*notes, *clipped),
        **about,
    )


def _read_steps(path: Path, *, following: bool) -> dict[str, np.ndarray | None]:
    """Read the arrays of a file of D4RL's layout, all of one length; None for an optional array that it lacks.

    `next_observations` are read only if `following`.
    """
    names = (*_NEEDED, "timeouts", *(["next_observations"] if following else []))
    with open_hdf5(path) as file:
        arrays = {name: read(file.id, name) for name in names}
    if missing := [name for name in _NEEDED if arrays[name] is None]:
        raise InputError(f"{path} lacks {', '.join(missing)}: a D4RL file has {', '.join(_NEEDED)}")
    found = {name: array for name, array in arrays.items() if array is not None}
    for name, array in found.items():
        if name in ("rewards", "terminals", "timeouts") and array.shape[1:] == (1,):
            array = array[:, 0]  # older files have an axis of length 1
        if name in ("terminals", "timeouts"):
            found[name] = step_flags(str(path), name, array)
        else:
            ndim = 1 if name == "rewards" else 2
            found[name] = step_array(str(path), name, array, "f" if name == "actions" else "fiu", ndim)
    lengths = {name: len(array) for name, array in found.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise InputError(f"{path} has {counts}: all must be equally many")
    if lengths["rewards"] == 0:
        raise InputError(f"{path} is empty: it has no steps")
    shapes = [found[name].shape for name in ("observations", "next_observations") if name in found]
    if shapes[0] != shapes[-1]:
        raise InputError(f"{path} has observations {list(shapes[0])} and next_observations {list(shapes[1])}")
    return {"next_observations": None, **arrays, **found}


def _breaks(observations: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Return flags `[N]` of the steps whose next observation is not the following step's, and of the last step."""
    with np.errstate(invalid="ignore"):  # numbers that are not finite are refused
        differ = np.abs(following[:-1] - observations[1:]) > _ROUNDING * (1.0 + np.abs(observations[1:]))
    return np.append(differ.any(axis=1), True)


def _ages(ends: np.ndarray) -> np.ndarray:
    """Count for each step `[N]` the steps since the last one that `ends` an episode."""
    steps = np.arange(len(ends))
    first = np.zeros(len(ends), np.int64)
    first[1:] = np.maximum.accumulate(np.where(ends, steps + 1, 0))[:-1]
    return steps - first
