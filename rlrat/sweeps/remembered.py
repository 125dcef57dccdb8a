"""Write a sweep down in its folder, and read it back, as data: its plan for `status`, and its grid for `retry`.

Reading a plan needs no agent's code: its folders, seeds and numbers of updates are written down when it begins.
"""

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlrat.errors import InputError, printable, reason, warn
from rlrat.json_files import load_json
from rlrat.sweeps.folder import SweepFolder
from rlrat.sweeps.grid import Block, Grid, Job, Process, axis_name, in_processes
from rlrat.sweeps.records import fits

VERSION = 2  # 1 had no plan and no version
_MOST_RUNS = 10**7


@dataclass(frozen=True, eq=False)
class Remembered(Process):
    """A process as it was read from the sweep's folder."""

    run_dir: Path
    folder: Path
    seeds: range
    total_updates: int


@dataclass(frozen=True)
class Sweep:
    """A sweep that was begun in a folder; only the types of its data are trusted."""

    grid: Grid
    options: dict[str, Any]
    processes: list[Remembered] | None
    """None for one of an older version of rlrat, which did not write them down."""


def remember(folder: SweepFolder, grid: Grid, options: dict[str, Any], jobs: Sequence[Job]) -> None:
    """Write a sweep down; it replaces an earlier one with the same grid.

    Raises:
        InputError: the folder cannot be written.
    """
    name = hashlib.sha256(json.dumps(asdict(grid)).encode()).hexdigest()[:12]
    content = {"grid": asdict(grid), "options": options, "plan": _plan(jobs, options["seeds_per_process"])}
    folder.write(folder.grids / f"{name}.json", {"version": VERSION, "checksum": checksum(content), **content})


def recall(folder: SweepFolder) -> list[Sweep]:
    """Read every sweep that was begun here, the oldest first; leave out damaged ones with a warning.

    Raises:
        InputError: there is none, or none can be read.
    """
    found, wrong = [], []
    for file in folder.grid_files():
        try:
            found.append(_sweep(load_json(file), folder.run_dir))
        except (OSError, ValueError, RecursionError) as error:
            said = getattr(error, "strerror", None) or reason(error)
            wrong.append(f"{file} cannot be used ({said}): give its sweep's command again, which writes it anew")
    if wrong and not found:
        raise InputError("; ".join(wrong))
    for line in wrong:
        warn(line)
    return found


def _plan(jobs: Sequence[Job], seeds_per_process: int | None) -> dict[str, Any]:
    """Describe the plan briefly: leave out what is the same for all cells."""
    cells = {job.cell: None for job in jobs}
    parts = []
    for (parent, total_updates), own in itertools.groupby(cells, lambda cell: (cell.folder.parent, _updates(cell))):
        runs = [cell.folder.name for cell in own]
        folder = "/".join(parent.relative_to(jobs[0].run_dir).parts)
        parts.append({"folder": folder, "total_updates": total_updates, "runs": runs})
    seeds = jobs[0].cell.seeds
    return {"first_seed": seeds[0], "seeds": len(seeds), "seeds_per_process": seeds_per_process, "cells": parts}


def _updates(cell) -> int:
    return cell.arguments.total_updates


def checksum(content: dict[str, Any]) -> str:
    """Return the checksum of what `remember` writes; it shows that a file is damaged."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sweep(content: dict[str, Any], run_dir: Path) -> Sweep:
    """Turn a file's content into a sweep; raise `ValueError` if it is none."""
    version = content.pop("version", 1)
    if version not in (1, VERSION):
        raise ValueError("it is of a newer version of rlrat")
    known = content.pop("checksum", None)
    if (version == VERSION or known is not None) and known != checksum(content):
        raise ValueError("its checksum is wrong")
    grid, options = _grid(content.get("grid")), content.get("options")
    if not isinstance(options, dict):
        raise ValueError("it has no options")
    processes = list(_processes(content.get("plan"), run_dir)) if version == VERSION else None
    return Sweep(grid, options, processes)


def _grid(content: Any) -> Grid:
    _check(content, {"blocks": list[dict], "seeds": int, "first_seed": int}, "grid")
    if content["seeds"] < 1 or content["first_seed"] < 0:
        raise ValueError("its grid has no seeds")
    blocks = []
    for block in content["blocks"]:
        texts = list[str]
        _check(block, {"agents": texts, "datasets": texts, "activations": texts, "axes": dict}, "block")
        if not all(fits(values, texts) for values in block["axes"].values()):
            raise ValueError("an axis of its grid is of another type")
        axes = {axis_name(axis): tuple(values) for axis, values in block["axes"].items()}
        lists = (tuple(block[name]) for name in ("agents", "datasets", "activations"))
        blocks.append(Block(*lists, axes))
    return Grid(tuple(blocks), content["seeds"], content["first_seed"])


def _processes(plan: Any, run_dir: Path):
    seed = {"first_seed": int, "seeds": int, "seeds_per_process": int | None}
    _check(plan, {**seed, "cells": list[dict]}, "plan")
    first, number, size = (plan[name] for name in seed)
    for part in plan["cells"]:
        _check(part, {"folder": str, "total_updates": int, "runs": list[str]}, "plan")
    runs = number * sum(len(part["runs"]) for part in plan["cells"])
    if first < 0 or number < 1 or (size is not None and size < 1) or not 1 <= runs <= _MOST_RUNS:
        raise ValueError("its plan has numbers that cannot be")
    for part in plan["cells"]:
        if part["total_updates"] < 1:
            raise ValueError("its plan has numbers that cannot be")
        parents = part["folder"].split("/")
        for run in part["runs"]:
            folder = _below(run_dir, [*parents, run])
            for seeds in in_processes(range(first, first + number), size):
                yield Remembered(run_dir, folder, seeds, part["total_updates"])


def _below(run_dir: Path, parts: list[str]) -> Path:
    """Return `<run-dir>/<dataset>/<agent>/<run>`; raise `ValueError` for parts that leave the run directory."""
    if len(parts) != 3 or any(
        part in ("", ".", "..") or "/" in part or part != printable(part) or len(part) > 255 for part in parts
    ):
        raise ValueError("its plan has a folder that is no run's")
    return run_dir.joinpath(*parts)


def _check(content: Any, kinds: dict[str, Any], name: str) -> None:
    if not isinstance(content, dict) or not all(key in content and fits(content[key], kinds[key]) for key in kinds):
        raise ValueError(f"its {name} is of another type")
