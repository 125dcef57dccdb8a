"""Find the name of a dataset: one name for all spellings of an argument, without reading any file.

Run folders and datasets that are given by a path have this name. Nothing here needs NumPy or torch.
"""

import os
import re
from pathlib import Path

PACKAGED = ("rlrat/hopper/mixed-v0", "rlrat/hopper/medium-v0")
"""Datasets that ship inside the package, the default one first."""
D4RL_LEVELS = ("random", "medium", "expert", "medium-replay", "full-replay", "medium-expert")
"""How well the policies behind D4RL's locomotion datasets acted."""
MINARI_MUJOCO = tuple(
    f"mujoco/{agent}/{level}-v0"
    for agent in ("halfcheetah", "hopper", "walker2d")
    for level in ("simple", "medium", "expert")
)
"""Minari's datasets that rlrat's agents are trained on; there are more."""
FILE_SUFFIXES = (".hdf5", ".h5")
_ID = re.compile(r"[-\w]+(/[-\w]+)*-v\d+")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def minari_root() -> Path:
    """Return the folder of Minari's datasets: `MINARI_DATASETS_PATH` or `~/.minari/datasets`."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or os.path.expanduser("~/.minari/datasets"))


def d4rl_name(environment: str, level: str) -> str:
    """Return D4RL's name of its v2 dataset of an environment, for example hopper-medium-v2 for Hopper."""
    return f"{environment.lower()}-{level}-v2"


def is_id(text: str) -> bool:
    """Return whether `text` has the form (namespace/)name-v<version> of the ids of Minari, D4RL and this package."""
    return _ID.fullmatch(text) is not None


def as_id(text: str) -> str | None:
    """Return the id that `text` spells, also with doubled or final slashes; None for a path."""
    text = re.sub("/+", "/", text.rstrip("/"))
    return text if is_id(text) else None


def dataset_id(dataset: str) -> str:
    """Return the id of what the user typed: the same for every spelling of an id or a path.

    A path below Minari's folder has the id that it has there. Any other path is named by its last part, an .hdf5 or
    .h5 file without its suffix.
    """
    if (id := as_id(dataset)) is not None:
        return id
    path = Path(os.path.abspath(os.path.expanduser(dataset)))
    if path.suffix in FILE_SUFFIXES:
        return safe(path.stem)
    root = Path(os.path.abspath(minari_root()))
    if path.is_relative_to(root) and is_id(id := path.relative_to(root).as_posix()):
        return id
    return safe(path.name)


def folder_name(dataset: str) -> str:
    """Return the name of the folder of all runs on a dataset: one part, never empty, `.` or `..`."""
    return safe(dataset_id(dataset).replace("/", "-"))


def safe(name: str) -> str:
    """Make a name safe: without control characters, not empty and neither `.` nor `..`."""
    name = _UNSAFE.sub("_", name)
    return name if name.strip(".") else f"dataset{name}"
