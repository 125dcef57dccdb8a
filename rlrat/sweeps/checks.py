"""A plan, checked as a whole before anything starts: every mistake that can be seen from here is named at once."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlrat.arguments import identity, validate
from rlrat.errors import InputError
from rlrat.sweeps.agents import Agent
from rlrat.sweeps.folder import clash
from rlrat.sweeps.grid import Cell

_NAMED = 5  # of what is wrong, the rest is counted
_TOGETHER = ("total_updates", "eval_at")  # what is right of one depends on the other


def check_settings(cells: Sequence[Cell]) -> None:
    """Raise `InputError` for activations that do not exist, numbers out of their range, and settings that exclude."""
    from rlrat.activations import check_activation  # which imports torch

    names = dict.fromkeys(cell.values["activation"] for cell in cells)
    for key in ("actor_activation", "critic_activation"):
        names |= dict.fromkeys(cell.values[key] for cell in cells if cell.values.get(key) is not None)
    _all_of((lambda name=name: check_activation(name)) for name in names)
    if cells and (top := cells[0].seeds[-1]) >= 2**32:
        raise InputError(f"the last seed is {top:,}, but must be below {2**32:,}")
    # Each value once, not each combination: an agent checks its own again.
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


def check_folders(cells: Sequence[Cell]) -> None:
    """Raise `InputError` for run folders that hold other runs, or that this user may not write."""
    defaults = {agent: identity(agent.defaults) for agent in {cell.agent for cell in cells}}
    wrong = []
    for cell in cells:
        if not cell.folder.is_dir():
            continue
        for seed in cell.seeds:
            folder = cell.run_folder(seed)
            if (different := clash(cell, folder, defaults[cell.agent])) is not None:
                wrong.append(f"{folder} holds a run with other settings ({different})")
            elif not _may_write(folder) and not (folder / "summary.json").exists():
                wrong.append(f"{folder} cannot be written: it is {_owner(folder)}'s")
    if cells:
        there = next(parent for parent in (cells[0].run_dir, *cells[0].run_dir.parents) if parent.exists())
        if not _may_write(there):
            wrong.append(f"{there} cannot be written: it is {_owner(there)}'s")
    _raise(wrong, "give another --run-dir, or move these away")


def check_datasets(cells: Sequence[Cell], *, fetch: bool) -> list[str]:
    """Have every dataset here, readable, and with an environment; returns those that are still to be downloaded.

    Args:
        fetch: download what is missing; else only what is here is read.

    Raises:
        InputError: datasets that do not exist, cannot be had or cannot be used.
    """
    from rlrat.datasets import load_dataset

    wrong, missing = [], []
    for id in dict.fromkeys(cell.values["dataset"] for cell in cells):
        if not fetch and _is_to_be_fetched(id):
            missing.append(id)
            continue
        try:
            dataset = load_dataset(id)
        except InputError as error:
            wrong.append(str(error))
            continue
        if dataset.env_id is None and any(
            cell.values.get("env_id") is None for cell in cells if cell.values["dataset"] == id
        ):
            wrong.append(f"dataset {id} names no environment: give --grid.env-id")
    _raise(wrong)
    return missing


def _is_to_be_fetched(id: str) -> bool:
    from rlrat.datasets import d4rl, minari

    if id in minari.PACKAGED or minari.is_local(id) or Path(id).is_file():
        return False
    if id in d4rl.FILES:
        return not (d4rl.folder() / d4rl.FILES[id]).exists()
    return "/" in id and minari.is_id(id)


def _may_write(path: Path) -> bool:
    return not path.exists() or os.access(path, os.W_OK | os.X_OK)


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
