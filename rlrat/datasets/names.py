"""Know the names of datasets and their folders: one name for all spellings of an argument.

Nothing here needs NumPy or torch.
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
HDF5_SUFFIXES = (".hdf5", ".h5")
TABLE_SUFFIXES = (".csv", ".parquet")
METADATA_FILE, MAIN_FILE = "metadata.json", "main_data.hdf5"
"""Of a dataset of Minari's, in its folder `data`."""
FILE_SUFFIXES = (*HDF5_SUFFIXES, ".npz", *TABLE_SUFFIXES)
"""What the name of a file loses to become the name of its dataset."""
_D4RL_AGENTS = ("halfcheetah", "hopper", "walker2d", "ant")
_D4RL_STEM = re.compile(rf"({'|'.join(_D4RL_AGENTS)})-({'|'.join(D4RL_LEVELS)})(-v[012])?")
_ID = re.compile(r"[-\w]+(/[-\w]+)*-v\d+")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def minari_root() -> Path:
    """Return the folder of Minari's datasets: `MINARI_DATASETS_PATH` or `~/.minari/datasets`."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or os.path.expanduser("~/.minari/datasets"))


def d4rl_name(environment: str, level: str) -> str:
    """Return D4RL's name of its v2 dataset of an environment, for example hopper-medium-v2 for Hopper."""
    return f"{environment.lower()}-{level}-v2"


D4RL_FILES = {
    d4rl_name(agent, level): f"{agent}_{level.replace('-', '_')}-v2.hdf5"
    for agent in _D4RL_AGENTS
    for level in D4RL_LEVELS
}
"""File name of every dataset that D4RL published."""


def d4rl_folder() -> Path:
    """Return the folder of d4rl's files: `D4RL_DATASET_DIR` or `~/.d4rl/datasets`."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or os.path.expanduser("~/.d4rl/datasets"))


def d4rl_agent(id: str) -> str | None:
    """Return the D4RL agent, such as hopper, that a dataset's id names; None if it is not named as D4RL's are."""
    known = _D4RL_STEM.fullmatch(id)
    return known and known[1]


def local_ids() -> list[str]:
    """List the ids of the datasets under Minari's folder."""
    root = minari_root()
    return sorted(path.parent.parent.relative_to(root).as_posix() for path in root.glob(f"**/data/{METADATA_FILE}"))


def is_local(id: str) -> bool:
    """Return whether a whole dataset lies under Minari's folder.

    An interrupted download may leave the metadata without the data, or the data without the metadata. The latter is
    what Minari itself wrote before version 0.5, whose ids had no namespaces yet.
    """
    folder = minari_root() / id
    return is_id(id) and is_minari_folder(folder) and ("/" not in id or (folder / "data" / METADATA_FILE).is_file())


def is_minari_folder(path: Path) -> bool:
    """Return whether a dataset of Minari's layout lies in a folder, of today's or of that before version 0.5."""
    data = path / "data"
    if (data / METADATA_FILE).is_file():
        return len(list(data.iterdir())) > 1
    return (data / MAIN_FILE).is_file()


def is_id(text: str) -> bool:
    """Return whether `text` has the form (namespace/)name-v<version> of the ids of Minari, D4RL and this package."""
    return _ID.fullmatch(text) is not None


def as_id(text: str) -> str | None:
    """Return the id that `text` spells, also with doubled or final slashes; None for a path."""
    text = re.sub("/+", "/", text.rstrip("/"))
    return text if is_id(text) else None


def dataset_path(text: str) -> Path:
    """Return the path that `text` spells."""
    return Path(os.path.expanduser(text))


def dataset_id(text: str) -> str:
    """Return the id that `text` spells: the same for every spelling of an id or a path, whatever is there.

    A path below Minari's folder has the id that it has there. Any other path is named by its last part: a file without
    its suffix, and a file that is named as D4RL's are with dashes, as D4RL's names have.
    """
    if (id := as_id(text)) is not None:
        return id
    path = Path(os.path.abspath(dataset_path(text)))
    if (suffix := path.suffix.lower()) in FILE_SUFFIXES:
        dashed = path.stem.replace("_", "-")
        return dashed if suffix in HDF5_SUFFIXES and d4rl_agent(dashed) else safe(path.stem)
    root = Path(os.path.abspath(minari_root()))
    if path.is_relative_to(root) and is_id(id := path.relative_to(root).as_posix()):
        return id
    return safe(path.name)


def safe(name: str) -> str:
    """Make a name safe: without control characters, not empty and neither `.` nor `..`."""
    name = _UNSAFE.sub("_", name)
    return name if name.strip(".") else f"dataset{name}"
