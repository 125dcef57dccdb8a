"""Read OGBench's datasets with the rewards of one of their tasks, as OGBench's `make_env_and_datasets` does.

A file has trajectories one after the other: `observations`, `actions`, `qpos` and, of buttons, `button_states`.
`terminals` is set at a trajectory's last row, whose observation is only the next observation of the row before. There
are no rewards. OGBench's own `relabel_dataset` makes them: minus the number of sub-goals that the state before the step
leaves unsolved, and a step from a solved state ends the task. Park et al. 2025, arXiv 2410.20092.

No trajectory stops where it solves a task, as it was collected for none. Here an episode ends there, with a
termination, and what follows in the trajectory begins another one. Thus every transition of OGBench's is there, in its
order and with its reward, and `terminations` are where its `masks` are 0. A piece that begins within a trajectory is no
complete episode; one that begins with a trajectory is, whether it ends in a solved state or with the trajectory.
"""

import importlib.metadata
import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlrat.datasets import cache, npz
from rlrat.datasets.bounds import Bounds
from rlrat.datasets.dataset import Dataset, assemble, reference_of
from rlrat.datasets.download import download
from rlrat.datasets.ogbench_names import FOLDER_VARIABLE, file_of, task_of
from rlrat.datasets.steps import check_finite, step_array, step_flags, to_float32
from rlrat.environments.global_random import lent
from rlrat.environments.registry import find_spec
from rlrat.errors import InputError, reason

BASE_URL = "https://rail.eecs.berkeley.edu/datasets/ogbench"
HOSTS = ("rail.eecs.berkeley.edu",)  # a download may be redirected to these
_STEPS = ("observations", "actions", "terminals", "qpos")
_READ = (*_STEPS, "button_states", "valids", "next_observations")
_COPIES = 2.25  # what a conversion takes at its peak: 0.98 GB for a million steps of Humanoid, of 0.47 GB


def load_name(name: str, bounds: Bounds | None = None) -> Dataset:
    """Load a dataset of OGBench's with the rewards of a task; download it if it is not there.

    Args:
        name: as OGBench has it, such as cube-double-play-singletask-task2-v0; without a number it is the default task.
        bounds: the bounds that the user gave; they replace the environment's.

    Raises:
        InputError: it is goal-conditioned or of pixels, OGBench is not installed, or the file cannot be downloaded or
            is unusable.
    """
    env_id = task_of(name)
    try:
        version = importlib.metadata.version("ogbench")
    except importlib.metadata.PackageNotFoundError:
        raise InputError(
            f"{name}: its rewards are computed by OGBench, which is not installed: pip install 'rlrat[ogbench]'"
        ) from None
    path = file_of(name)
    if not path.exists():
        url = f"{BASE_URL}/{path.name}"
        download(url, path, check=_check_opens, hosts=HOSTS, folder_variable=FOLDER_VARIABLE)
    # Another version may have another goal; all tasks of a file have their caches beside it.
    settings = json.dumps([name, version, bounds.settings() if bounds else None])
    source = cache.Source(name, (path,), cache.beside_file(path), settings)
    return cache.load(source, lambda: _convert(path, name, env_id, bounds))


def _check_opens(path: Path) -> None:
    npz.read(path, ("terminals",))


def _convert(path: Path, name: str, env_id: str, given: Bounds | None) -> Dataset:
    label = str(path)
    arrays = _checked(label, npz.read(path, _READ, _COPIES))
    ends = arrays.pop("terminals")
    rows = np.flatnonzero(~ends)  # each is followed by its next observation
    begins = np.append(True, ends[:-1])  # a trajectory
    for each in ("observations", "actions", "qpos"):
        check_finite(label, each, arrays[each], np.flatnonzero(begins))
    begins = begins[rows]
    widths = {each: array.shape[1] for each, array in arrays.items()}
    state = {each: arrays.pop(each)[rows] for each in ("qpos", "button_states") if each in arrays}
    rewards, terminations, bounds = _relabelled(label, env_id, widths, state)
    del state
    bounds = given or bounds
    low, high = bounds.of(label, widths["actions"])
    starts = np.flatnonzero(begins | np.append(False, terminations[:-1]))
    actions, notes = bounds.clip(label, arrays.pop("actions")[rows], starts, low, high)
    observations = arrays.pop("observations")
    return assemble(
        name,
        observations=observations[rows],
        actions=actions,
        rewards=rewards,
        next_observations=observations[rows + 1],
        terminations=terminations,
        episode_starts=starts,
        episode_returns=np.add.reduceat(rewards, starts, dtype=np.float64),
        episode_lengths=np.diff(np.append(starts, len(rows))),
        episode_complete=begins[starts],
        action_low=low,
        action_high=high,
        env_id=env_id,
        env_kwargs={},
        reference=reference_of(env_id),
        notes=notes,
    )


def _checked(label: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Check the arrays of a file; return them with `terminals` as flags of trajectories' last rows."""
    if missing := [name for name in _STEPS if name not in arrays]:
        raise InputError(f"{label} lacks {', '.join(missing)}: OGBench's files have {', '.join(_STEPS)}")
    if "next_observations" in arrays:
        raise InputError(f"{label} has next_observations: it is no file of OGBench's, but what OGBench loads of one")
    found = {name: step_flags(label, name, arrays.pop(name)) for name in ("terminals", "valids") if name in arrays}
    if (valids := found.pop("valids", None)) is not None:  # `terminals` of a compact dataset have the row before, too
        found["terminals"] = ~valids
    for name, array in arrays.items():
        kinds = "f" if name == "actions" else "fiub"
        found[name] = step_array(label, name, array, kinds, 2)
        if name in ("observations", "actions"):
            found[name] = to_float32(found[name])
    lengths = {name: len(array) for name, array in found.items()}
    if len(set(lengths.values())) > 1 or not lengths["terminals"]:
        counts = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise InputError(f"{label} has {counts}: all must be equally many, and at least two")
    ends = found["terminals"]
    if (single := ends & np.append(True, ends[:-1])).any():
        advice = "a trajectory has two rows at least, and ends with one flag; a compact dataset needs its valids"
        raise InputError(f"{label}: terminals end a trajectory of a single row at row {single.argmax()}: {advice}")
    if not ends[-1]:
        raise InputError(f"{label}: terminals do not end the last trajectory: a part of the file is missing")
    return found


def _relabelled(
    label: str, env_id: str, widths: Mapping[str, int], state: dict[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, Bounds]:
    """Let OGBench compute the rewards `[N]` and terminations `[N]` of states; return them and its bounds of actions."""
    import gymnasium

    try:
        from ogbench.relabel_utils import relabel_dataset
    except Exception as error:  # its dependencies may raise anything
        raise InputError(f"{label}: OGBench cannot be imported: {type(error).__name__}: {reason(error)}") from None
    with lent(), warnings.catch_warnings():  # its `reset` draws from there
        warnings.simplefilter("ignore")  # of a missing display, and of spaces that are rounded
        env: Any = gymnasium.make(find_spec(env_id), disable_env_checker=True)
        try:
            space, unwrapped = env.action_space, env.unwrapped
            expected = {
                "observations": env.observation_space.shape[0],
                "actions": space.shape[0],
                "qpos": unwrapped.model.nq,
                "button_states": getattr(unwrapped, "_num_buttons", None),
            }
            for name, width in expected.items():
                if width is not None and widths.get(name) != width:
                    has = f"{name} of {widths[name]} components" if name in widths else f"no {name}"
                    raise InputError(f"{label} has {has}, {env_id} has {width}: it is no dataset of this environment")
            relabel_dataset(env_id, env, state)
        finally:
            env.close()
    bounds = Bounds(space.low, space.high, f"of {env_id}", "give --action-bounds LOW HIGH if it has others")
    return state["rewards"], state["masks"] == 0, bounds
