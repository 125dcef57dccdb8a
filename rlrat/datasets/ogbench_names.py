"""Know the names of OGBench's datasets, and which of them say a task that can be learned here.

Nothing here needs NumPy or torch.
"""

import os
import re
from collections.abc import Container
from pathlib import Path

from rlrat.errors import InputError

TASKS = 5  # of every dataset
FOLDER_VARIABLE = "OGBENCH_DATASET_DIR"
_MAZES = {
    **dict.fromkeys(("pointmaze", "antmaze"), ("medium", "large", "giant", "teleport")),
    "humanoidmaze": ("medium", "large", "giant"),
    "antsoccer": ("arena", "medium"),
}
_HANDLED = ("cube-single", "cube-double", "cube-triple", "cube-quadruple", "scene")
_PUZZLES = ("puzzle-3x3", "puzzle-4x4", "puzzle-4x5", "puzzle-4x6")
SETS = (
    *(f"{maze}-{size}-{how}" for maze, sizes in _MAZES.items() for size in sizes for how in ("navigate", "stitch")),
    *(f"antmaze-{size}-explore" for size in ("medium", "large", "teleport")),
    *(f"{task}-{how}" for task in (*_HANDLED, *_PUZZLES) for how in ("play", "noisy")),
)
"""Environment and kind of every dataset of vectors that OGBench published."""
_NAME = re.compile(
    rf"(?P<set>(visual-)?({'|'.join(SETS)}|cube-octuple-play)|powderworld-(easy|medium|hard)-play)"
    r"(?P<large>-100m)?(-(?P<kind>singletask|oraclerep)(?P<task>-task\d+)?)?-v0"
)


def is_name(id: str) -> bool:
    """Return whether an id is a name of OGBench's, of a dataset that can be read here or of another one."""
    return _NAME.fullmatch(id) is not None


def file_of(name: str) -> Path:
    """Return the file of a dataset in the folder of OGBench's, `OGBENCH_DATASET_DIR` or `~/.ogbench/data`.

    All tasks of a dataset share it.
    """
    folder = os.environ.get(FOLDER_VARIABLE) or os.path.expanduser("~/.ogbench/data")
    parts = _parts(name)
    return Path(folder, f"{parts['set']}{parts['large'] or ''}-v0.npz")


def task_of(name: str) -> str:
    """Return the id of the environment whose task the name of a dataset says.

    Raises:
        InputError: it says none that can be learned here; the message says which names do.
    """
    set, large, kind, task = (_parts(name)[part] for part in ("set", "large", "kind", "task"))
    if set.startswith("visual-"):
        raise InputError(f"{name} has images: only vectors can be read; {_advice(set.removeprefix('visual-'))}")
    if set.startswith("powderworld-"):
        raise InputError(f"{name} has images and discrete actions: only vectors can be read")
    if set.startswith("cube-octuple-"):
        raise InputError(f"{name}: OGBench has it with 100 million transitions alone, in many files: none are read")
    if large:
        raise InputError(f"{name} has 100 million transitions in many files, which are not read: {_advice(set)}")
    if kind != "singletask":
        raise InputError(f"{name} is goal-conditioned, and agents here learn a single task: {_advice(set)}")
    if task is not None and task not in {f"-task{number}" for number in range(1, TASKS + 1)}:
        raise InputError(f"there is no {name}: {_advice(set)}")
    return f"{set.rpartition('-')[0]}-singletask{task or ''}-v0"


def refuse_file(path: Path, arrays: Container[str]) -> None:
    """Refuse a file of OGBench's that is given by its path, which cannot say which task is to be learned.

    Raises:
        InputError: it is such a file; the message says how it is given.
    """
    name = path.stem.removesuffix("-val")
    if "rewards" in arrays or "terminals" not in arrays or not ("qpos" in arrays or is_name(name)):
        return
    if is_name(name):
        task_of(name.replace("-v0", "-singletask-v0"))  # refuses images
        advice = _advice(_parts(name)["set"])
    else:
        advice = "give it the name that OGBench has (antmaze-medium-navigate-v0.npz), and name one of its tasks"
    where = f"looked for in {FOLDER_VARIABLE}={path.parent}"
    raise InputError(f"{path} has no rewards, which in OGBench's files depend on the task: {advice}; it is {where}")


def _parts(name: str) -> dict[str, str | None]:
    return _NAME.fullmatch(name).groupdict()


def _advice(set: str) -> str:
    tasks = f"{set}-singletask-task1-v0 to {set}-singletask-task{TASKS}-v0"
    return f"give {set}-singletask-v0, which is its default task, or {tasks}"
