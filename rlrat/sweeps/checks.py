"""Check a plan as a whole before anything starts: name every mistake that can be seen from here at once."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrat.datasets.sources import is_to_be_fetched
from rlrat.errors import InputError
from rlrat.runs.arguments import RunArguments, held_out_share, identity, validate
from rlrat.runs.schema import CHECKPOINT, CONFIG, DONE, SUMMARY
from rlrat.sweeps.agents import Agent
from rlrat.sweeps.folder import clash, seed_status
from rlrat.sweeps.grid import Cell, Job
from rlrat.updates.seeds import SEED_LIMIT

_NAMED = 5  # mistakes that are named, the rest is counted
# A run's folder has them as the dataset completes them.
_COMPLETED = ("dataset", "env_id", "env_kwargs", "max_episode_steps", "holdout", "reward_scaling", "reward_shift")
_COMPLETED_BY = (
    *("dataset", "env_id", "env_kwargs", "max_episode_steps", "ignore_wrappers", "action_bounds"),
    *("drop_achieved_goal", "holdout", "keep_best", "reward_scaling", "reward_shift"),
)
_MEND = "give another --run-dir, or move these away"
_TOGETHER = ("total_updates", "eval_at")  # whether one is right depends on the other


def check_settings(cells: Sequence[Cell]) -> None:
    """Raise `InputError` for unknown activations, numbers out of range, and settings that exclude each other."""
    from rlrat.networks.activations import name_activation  # which imports torch

    named = (entry for cell in cells for entry in cell.values.items() if entry[0].endswith("activation"))
    names = dict.fromkeys(name for _, name in named if name is not None)
    _all_of((lambda name=name: name_activation(name)) for name in names)
    if cells and (top := cells[0].seeds[-1]) >= SEED_LIMIT:
        raise InputError(f"the last seed is {top:,}, but must be below {SEED_LIMIT:,}")
    # Check each value once, not each combination: an agent checks its own settings again.
    apart: dict[tuple, dict[str, Any]] = {}
    for cell in cells:
        together = {name: cell.values[name] for name in _TOGETHER if name in cell.values}
        for name, value in cell.values.items():
            apart[cell.agent, tuple(together.items()), name, value] = {**together, name: value}
    _all_of((lambda key=key, values=values: _check_ranges(key[0], values)) for key, values in apart.items())


def _check_ranges(agent: Agent, values: dict[str, Any]) -> None:
    try:
        validate(agent.build(values))
    except InputError as error:
        raise InputError(f"{agent.name}: {error}") from None


def check_device(name: str, *, here: bool) -> None:
    """Raise `InputError` if `name` is no device, or, with `here`, if this host lacks it; other hosts may have it."""
    if name == "auto":
        return
    import torch

    from rlrat.updates.machine import find_device

    try:
        device = torch.device(name)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name} cannot be used: {reason}; give auto, cpu or cuda:<number>") from None
    if device.index:
        raise InputError(
            f"--device is {name}, but a process knows the GPU that it is given as cuda: give that, and name GPUs in "
            "CUDA_VISIBLE_DEVICES"
        )
    if not here:
        return
    if device.type != "cuda":
        find_device(name)
    elif torch.cuda.device_count() == 0:  # counting GPUs takes no memory of them, using one does
        raise InputError(f"--device is {name}, but there is no GPU that PyTorch can use: give auto or cpu")


def check_folders(cells: Sequence[Cell]) -> None:
    """Raise `InputError` for run folders that hold other runs, or that this user may not write.

    `check_datasets` compares the settings that a dataset completes.
    """
    defaults = {agent: identity(agent.defaults) for agent in {cell.agent for cell in cells}}
    wrong = []
    for cell in cells:
        ours = {**cell.agent.identity(cell.values), "agent": cell.agent.name}
        ours = {name: value for name, value in ours.items() if name not in _COMPLETED}
        wrong += _clashes(cell, ours, defaults[cell.agent])
        wrong += filter(None, (_refusal(cell.run_folder(seed)) for seed in _begun(cell)))
    if cells:
        wrong += filter(None, [_refusal(cells[0].run_dir)])
    _raise(wrong, _MEND)


def check_together(jobs: Sequence[Job]) -> None:
    """Raise `InputError` if a process has seeds with a checkpoint and seeds that never began.

    Side by side, all of them would begin at update 0.
    """
    wrong = []
    for job in jobs:
        unfinished = [path for path in job.folders if seed_status(path) not in DONE]
        begun = [path.name for path in unfinished if os.path.exists(path / CHECKPOINT)]
        new = [path.name for path in unfinished if not os.path.exists(path / CONFIG)]
        if begun and new:
            wrong.append(f"{job.cell.label}: a checkpoint of {', '.join(begun)}, none of {', '.join(new)}")
    _raise(wrong, "give --seeds-per-process 1, or first let the seeds end that have begun")


def _clashes(cell: Cell, ours: dict[str, Any], defaults: dict[str, Any]) -> list[str]:
    """Return a line for each run of a cell whose folder holds another identity."""
    found = {folder: clash(folder, ours, defaults) for folder in map(cell.run_folder, _begun(cell))}
    return [f"{folder} holds a run with other settings ({what})" for folder, what in found.items() if what]


def _begun(cell: Cell) -> Sequence[int]:
    """Return the seeds of a cell if its folder exists, or if this cannot be known; else none."""
    try:
        cell.folder.stat()
    except FileNotFoundError:
        return ()
    except OSError:
        pass
    return cell.seeds


@dataclass(frozen=True)
class DataCheck:
    """What is known of a plan's datasets once they are checked."""

    missing: tuple[str, ...] = ()
    """Those still to be downloaded."""
    without_environment: frozenset[Cell] = frozenset()
    """The cells whose policies are judged on data alone."""


def check_datasets(cells: Sequence[Cell], *, fetch: bool, env_modules: Sequence[str] = ()) -> DataCheck:
    """Check that every dataset is here and readable, and that the environments exist which are named.

    Args:
        fetch: download what is missing; if False, read only what is here.
        env_modules: the user's modules that register environments.

    Raises:
        InputError: a dataset does not exist, cannot be downloaded or cannot be used, a run folder is of another
            dataset or environment, or there are settings of rollouts and no environment.
    """
    wrong, clashes, missing, without = [], [], {}, set()
    known: dict[tuple, dict[str, Any] | None] = {}  # what each choice of dataset and environment completes
    for cell in cells:
        arguments = cell.arguments
        if not fetch and is_to_be_fetched(arguments.dataset):
            missing[arguments.dataset] = None
            continue
        key = tuple(getattr(arguments, name, None) for name in _COMPLETED_BY)
        if key not in known:
            try:
                known[key] = _completed(arguments, env_modules)
            except InputError as error:
                known[key] = None
                wrong.append(str(error))
        if known[key] is not None:
            clashes += _clashes(cell, known[key], {})
            if known[key]["env_id"] is None:
                without.add(cell)
    _raise(wrong)
    _raise(clashes, _MEND)
    return DataCheck(tuple(missing), frozenset(without))


def _completed(arguments: RunArguments, env_modules: Sequence[str]) -> dict[str, Any]:
    """Return the part of a run's identity that its dataset completes."""
    from rlrat.datasets import load_dataset
    from rlrat.runs.environments import environment_identity, find_environment
    from rlrat.runs.offline import check_kept
    from rlrat.runs.rewards import reward_identity

    names = ("env_id", "action_bounds", "drop_achieved_goal")
    choices = {name: getattr(arguments, name) for name in names}
    dataset = load_dataset(arguments.dataset, env_modules=env_modules, **choices)
    environment = find_environment(dataset, arguments)
    env_id = None if environment is None else environment.env_id
    if env_id is None:
        check_kept(arguments, None, None)
    holdout = held_out_share(arguments, env_id, len(dataset.episode_starts))
    rewards = {
        name: getattr(arguments, name) for name in ("reward_scaling", "reward_shift") if hasattr(arguments, name)
    }
    found = {**environment_identity(environment, arguments), **rewards, **reward_identity(dataset, arguments)}
    found["holdout"] = holdout
    found["action_bounds"] = arguments.action_bounds  # by which an identity of today is known
    return json.loads(json.dumps({**found, "dataset": dataset.id, "dataset_fingerprint": dataset.fingerprint}))


def _refusal(folder: Path) -> str | None:
    """Return why a folder cannot be written or made; None if it can, or if it holds a finished run."""
    for path in (folder, *folder.parents):
        if os.path.exists(path):  # False for a path in a folder that may not be entered
            if os.access(path, os.W_OK | os.X_OK) or os.path.exists(path / SUMMARY):
                return None
            return f"{path} cannot be written: it is {_owner(path)}'s"
    return None


def _owner(path: Path) -> str:
    try:
        return path.owner()
    except (KeyError, OSError, NotImplementedError):
        return "somebody else"


def _all_of(checks) -> None:
    wrong = []
    for check in checks:
        try:
            check()
        except InputError as error:
            wrong.append(str(error))
    _raise(wrong)


def _raise(wrong: list[str], mend: str = "") -> None:
    wrong = list(dict.fromkeys(wrong))
    if wrong:
        more = f"; and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise InputError("; ".join(wrong[:_NAMED]) + more + (f": {mend}" if mend else ""))
