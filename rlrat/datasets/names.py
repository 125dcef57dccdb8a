"""Know the names of datasets and their folders: one name for all spellings of an argument.

Nothing here needs NumPy or torch.
"""

import os
import re
from pathlib import Path

from rlrat.datasets.d4rl_names import d4rl_name_of

PACKAGED = ("rlrat/hopper/mixed-v0", "rlrat/hopper/medium-v0")
"""Datasets that ship inside the package, the default one first."""
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
_ID = re.compile(r"[-\w]+(/[-\w]+)*-v\d+")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def minari_root() -> Path:
    """Return the folder of Minari's datasets: `MINARI_DATASETS_PATH` or `~/.minari/datasets`."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or os.path.expanduser("~/.minari/datasets"))


def d4rl_folder() -> Path:
    """Return the folder of d4rl's files: `D4RL_DATASET_DIR` or `~/.d4rl/datasets`."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or os.path.expanduser("~/.d4rl/datasets"))


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
    its suffix. A file that D4RL published has the dataset's name, which often is another (hammer-v0_demos_clipped.hdf5
    is hammer-human-v0), and so has one that is named after the dataset, with dashes or underlines. A file of
    locomotion's v0 (hopper_medium.hdf5) is D4RL's in its folder alone.
    """
    if (id := as_id(text)) is not None:
        return id
    path = Path(os.path.abspath(dataset_path(text)))
    if (suffix := path.suffix.lower()) in FILE_SUFFIXES:
        is_d4rls = path.parent == Path(os.path.abspath(d4rl_folder()))
        return (suffix in HDF5_SUFFIXES and d4rl_name_of(path.stem, is_d4rls)) or safe(path.stem)
    root = Path(os.path.abspath(minari_root()))
    if path.is_relative_to(root) and is_id(id := path.relative_to(root).as_posix()):
        return id
    return safe(path.name)


def safe(name: str) -> str:
    """Make a name safe: without control characters, not empty and neither `.` nor `..`."""
    name = _UNSAFE.sub("_", name)
    return name if name.strip(".") else f"dataset{name}"
