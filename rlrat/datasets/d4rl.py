"""Read D4RL's datasets and any HDF5 file of D4RL's layout, without d4rl, gym or mujoco_py.

Such a file is one flat sequence of steps. The transitions of D4RL's own sets (`NAMES`) are those of d4rl's
`qlearning_dataset`: the next observation of step i is that of step i + 1, and

- a step whose `timeouts` flag is set is left out: the observation after it is the next episode's first one;
- the last step of the file is left out, even if it is terminal;
- the next observation of a terminal step is the following episode's first one, and no code may use it;
- a file's own `next_observations` are not used.

In every other file more is kept, see `rlrat.datasets.flat`.

Without `timeouts`, episodes are split at the environment's time limit. There d4rl counts one step too many after every
terminal state. It cuts each time-limited episode that follows a terminal state one step too early, and joins its true
last step to the next episode. This reader counts from the episode's first step.

Steps after the last terminal or timeout flag are an episode that the file breaks off. Its transitions are kept, as in
d4rl, but its return is not an episode's return and counts neither for the best nor for the worst return.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py

from rlrat.datasets import cache
from rlrat.datasets.bounds import Bounds
from rlrat.datasets.d4rl_names import AGENTS, LOCOMOTION_LIMIT, NAMES, D4RLName, agent_of
from rlrat.datasets.dataset import Dataset, reference_of
from rlrat.datasets.download import download
from rlrat.datasets.flat import ABOUT_NAME, NEEDED, SAVED, STEPS, Limit, check_steps, of_saved, of_steps
from rlrat.datasets.hdf5 import open_group, open_hdf5, read, read_text
from rlrat.datasets.names import FILE_SUFFIXES, HDF5_SUFFIXES, d4rl_folder, dataset_id
from rlrat.datasets.own import Words
from rlrat.environments.d4rl import ROOT
from rlrat.errors import InputError

BASE_URL = ROOT
HOSTS = ("rail.eecs.berkeley.edu",)  # a download may be redirected to these
_NEEDED = (*NEEDED, "terminals")


def load_name(name: str, env_id: str | None = None, bounds: Bounds | None = None) -> Dataset:
    """Load a dataset of `NAMES` as `load_file` does; download it first if it is not in `d4rl_folder()`.

    Raises:
        InputError: it cannot be downloaded, or its file is unusable.
    """
    path = d4rl_folder() / NAMES[name].file
    if not path.exists():
        download(f"{BASE_URL}/{NAMES[name].path}", path, check=_check_opens, hosts=HOSTS)
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
    if path.suffix.lower() not in HDF5_SUFFIXES and not h5py.is_hdf5(path):
        raise InputError(f"{path} is no HDF5 file, and its name ends in none of {', '.join(FILE_SUFFIXES)}: save it so")
    id = dataset_id(str(path))
    published, agent = NAMES.get(id), AGENTS.get(agent_of(id) or "")
    known = published or agent
    given = bounds
    words = Words.of(str(path), env_id if known is None else None, bounds)
    if known is not None:
        limit = Limit(published.time_limit if published else LOCOMOTION_LIMIT, known.env_id)
        bounds = bounds or Bounds(-1.0, 1.0, f"of {known.env_id}", "give --action-bounds LOW HIGH if it has others")
    elif env_id is not None:
        limit, bounds = words.limit, words.bounds
    else:
        limit = Limit(LOCOMOTION_LIMIT, None)
        advice = "give --env-id with the environment they are of, or --action-bounds LOW HIGH"
        bounds = bounds or Bounds(-1.0, 1.0, "that are assumed of it", advice)
    about: dict[str, Any] = {}
    if known is not None:
        about = {"env_id": known.env_id, "env_kwargs": dict(known.env_kwargs)}
    source = cache.Source(id, (path,), cache.beside_file(path), words.settings())
    return cache.load(source, lambda: _convert(path, id, published, given, bounds, limit, **about))


def _check_opens(path: Path) -> None:
    with open_hdf5(path) as file:
        file.keys()


def _convert(
    path: Path, id: str, published: D4RLName | None, given: Bounds | None, bounds: Bounds, limit: Limit, **about: Any
) -> Dataset:
    names = [name for name in STEPS if published is None or name != "next_observations"]
    with open_hdf5(path) as file:
        episodes = {name: read(file.id, name) for name in SAVED}
        is_saved = episodes["episode_starts"] is not None
        arrays = {name: read(file.id, name) for name in (STEPS if is_saved else names)}
        told = read_text(file, ABOUT_NAME) if is_saved else None
        if arrays["observations"] is None and open_group(file.id, "episode_0") is not None:
            raise InputError(f"{path} is a part of a dataset of Minari's: give its folder, which has it in data")
    arrays = check_steps(str(path), arrays, _NEEDED, "a D4RL file")
    if is_saved:
        return of_saved(id, str(path), arrays, episodes, given, bounds, told)
    if published is None:
        return of_steps(id, str(path), arrays, bounds, limit, **about)
    for name, width in zip(("observations", "actions"), published.widths, strict=True):
        if (there := arrays[name].shape[1]) != width:
            raise InputError(
                f"{path} has {there} {name} a step, D4RL's {id} has {width}: give the file another name if it is not "
                "D4RL's"
            )
    about["reference"] = reference_of(id) or "d4rl"
    dataset = of_steps(id, str(path), arrays, bounds, limit, published=True, **about)
    return replace(dataset, notes=(f"{id}: {published.note}", *dataset.notes)) if published.note else dataset
