"""Know the sources of datasets: which one a text means, the dataset's name, whether it is here, and how to load it.

A new source is one class with the members of `Source`, and one line in `SOURCES`. For a form of files, one function
that loads them will do, and a line with `_AtPath`. Nothing here needs NumPy or torch.
"""

import difflib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rlrat.datasets import names, ogbench_names
from rlrat.datasets.d4rl_names import NAMES
from rlrat.datasets.names import HDF5_SUFFIXES, MINARI_MUJOCO, PACKAGED, TABLE_SUFFIXES, as_id, dataset_path
from rlrat.errors import InputError

if TYPE_CHECKING:
    from rlrat.datasets.bounds import Bounds
    from rlrat.datasets.dataset import Dataset


class Source(Protocol):
    """A kind of place that datasets come from."""

    form: str
    """How one of its datasets is given, for messages."""
    is_path: bool
    """Whether it is given by its path, which means another one from another working folder."""

    def knows(self, text: str) -> bool:
        """Return whether the text means one of its datasets, by the text and by what is there: no file is read."""

    def key(self, text: str) -> str:
        """Return the dataset's id, the same for every spelling of the text."""

    def place(self, text: str) -> Path | None:
        """Return the file or folder that the dataset lies in, with its cache beside or in it; None without such."""

    def is_present(self, text: str) -> bool:
        """Return whether the dataset can be loaded without a network."""

    def load(
        self, text: str, env_id: str | None, bounds: "Bounds | None", drop_achieved_goal: bool | None = None
    ) -> "Dataset":
        """Load the dataset; the arguments and errors are those of `load_dataset`.

        `drop_achieved_goal` is given where it is False, and matters where observations are dictionaries.
        """

    def known_ids(self) -> Iterable[str]:
        """Return the ids that a mistyped one is compared with."""


class _Given:
    """A dataset in memory, while it is given."""

    form, is_path = "", False

    def __init__(self) -> None:
        self.datasets: list[Dataset] = []

    def knows(self, text: str) -> bool:
        return text in self.known_ids()

    def key(self, text: str) -> str:
        return text

    def place(self, text: str) -> None:
        return None

    def is_present(self, text: str) -> bool:
        return True

    def load(self, text: str, env_id: str | None, bounds: "Bounds | None", _: bool | None = None) -> "Dataset":
        dataset = next(dataset for dataset in reversed(self.datasets) if dataset.id == text)
        return dataset if bounds is None else dataset.with_bounds(bounds)

    def known_ids(self) -> list[str]:
        return [dataset.id for dataset in self.datasets]


class _Packaged:
    form, is_path = f"{' or '.join(PACKAGED)} (packaged)", False
    key = staticmethod(names.dataset_id)

    def knows(self, text: str) -> bool:
        return as_id(text) in PACKAGED

    def place(self, text: str) -> None:  # its cache is the user's
        return None

    def is_present(self, text: str) -> bool:
        return True

    def load(self, text: str, env_id: str | None, bounds: "Bounds | None", _: bool | None = None) -> "Dataset":
        from rlrat.datasets import minari

        return minari.load_packaged(self.key(text), env_id, bounds)

    def known_ids(self) -> tuple[str, ...]:
        return PACKAGED


class _Minari:
    """An id of Minari's, of a dataset in its folder or on its server."""

    form, is_path = "a Minari id (mujoco/hopper/medium-v0)", False
    key = staticmethod(names.dataset_id)

    def knows(self, text: str) -> bool:
        id = as_id(text)  # every dataset on Minari's server has a namespace
        return id is not None and (names.is_local(id) or ("/" in id and not id.startswith("rlrat/")))

    def place(self, text: str) -> Path:
        return names.minari_root() / self.key(text)

    def is_present(self, text: str) -> bool:
        return names.is_local(self.key(text))

    def load(
        self, text: str, env_id: str | None, bounds: "Bounds | None", drop_achieved_goal: bool | None = None
    ) -> "Dataset":
        from rlrat.datasets import minari

        if not self.is_present(text):
            try:
                minari.download(self.key(text))
            except InputError as error:
                raise InputError(f"{error}{hint(text)}") from error
        return minari.load_folder(self.key(text), self.place(text), env_id, bounds, drop_achieved_goal)

    def known_ids(self) -> list[str]:
        return [*MINARI_MUJOCO, *names.local_ids()]


class _D4RL:
    form, is_path = "a D4RL name (hopper-medium-v2)", False
    key = staticmethod(names.dataset_id)

    def knows(self, text: str) -> bool:
        # Minari before 0.5 had some of these names, for data of its own: what is here counts.
        return (id := as_id(text)) in NAMES and (self.is_present(text) or not names.is_local(id))

    def place(self, text: str) -> Path:
        return names.d4rl_folder() / NAMES[self.key(text)].file

    def is_present(self, text: str) -> bool:
        return self.place(text).exists()

    def load(self, text: str, env_id: str | None, bounds: "Bounds | None", _: bool | None = None) -> "Dataset":
        from rlrat.datasets import d4rl

        return d4rl.load_name(self.key(text), env_id, bounds)

    def known_ids(self) -> Iterable[str]:
        return NAMES


class _OGBench:
    form, is_path = "a single task of OGBench's (antmaze-medium-navigate-singletask-v0)", False
    key = staticmethod(names.dataset_id)

    def knows(self, text: str) -> bool:
        id = as_id(text)
        return id is not None and ogbench_names.is_name(id)

    def place(self, text: str) -> Path:
        return ogbench_names.file_of(self.key(text))

    def is_present(self, text: str) -> bool:
        return self.place(text).exists()

    def load(self, text: str, env_id: str | None, bounds: "Bounds | None", _: bool | None = None) -> "Dataset":
        from rlrat.datasets import ogbench

        return ogbench.load_name(self.key(text), bounds)

    def known_ids(self) -> list[str]:
        return [f"{name}-singletask-v0" for name in ogbench_names.SETS]


class _AtPath:
    """Files or folders of one form."""

    is_path = True
    key, place = staticmethod(names.dataset_id), staticmethod(dataset_path)

    def __init__(self, form: str, knows: Callable[[str], bool], load: Callable[..., "Dataset"]) -> None:
        self.form, self.knows, self._load = form, knows, load

    def is_present(self, text: str) -> bool:
        return True  # or it is nowhere

    def load(self, text: str, *arguments: Any) -> "Dataset":
        return self._load(dataset_path(text), self.key(text), *arguments)

    def known_ids(self) -> tuple[str, ...]:
        return ()


def _has_suffix(*suffixes: str) -> Callable[[str], bool]:
    return lambda text: dataset_path(text).suffix.lower() in suffixes


def _is_hdf5(text: str) -> bool:
    """Return whether a text is the path of an HDF5 file; downloads may have no suffix, or another one."""
    return _has_suffix(*HDF5_SUFFIXES)(text) or dataset_path(text).is_file()


def _is_minari_folder(text: str) -> bool:
    return _may_be_folder(text) and names.is_minari_folder(dataset_path(text))


def _is_npz_folder(text: str) -> bool:
    return _may_be_folder(text) and _has_npz(dataset_path(text))


def _has_npz(path: Path) -> bool:
    return any(path.glob("*.npz"))


def _may_be_folder(text: str) -> bool:
    """Return whether a text can be the path of a folder: what has the form of an id with a namespace is an id."""
    id = as_id(text)
    return bool(text) and (id is None or "/" not in id)


def _load_npz(path: Path, id: str, env_id: str | None, bounds: "Bounds | None", *_: Any) -> "Dataset":
    from rlrat.datasets import npz

    return npz.load_file(path, id, env_id, bounds)


def _load_npz_folder(path: Path, id: str, env_id: str | None, bounds: "Bounds | None", *_: Any) -> "Dataset":
    from rlrat.datasets import npz

    return npz.load_folder(path, id, env_id, bounds)


def _load_table(path: Path, id: str, env_id: str | None, bounds: "Bounds | None", *_: Any) -> "Dataset":
    from rlrat.datasets import tables

    return tables.load_file(path, id, env_id, bounds)


def _load_hdf5(path: Path, _id: str, env_id: str | None, bounds: "Bounds | None", *_: Any) -> "Dataset":
    from rlrat.datasets import d4rl

    return d4rl.load_file(path, env_id, bounds)


def _load_minari_folder(path: Path, id: str, *arguments: Any) -> "Dataset":
    from rlrat.datasets import minari

    return minari.load_folder(id, path, *arguments)


_GIVEN = _Given()
SOURCES: tuple[Source, ...] = (
    _GIVEN,
    _Packaged(),
    _AtPath("an .npz file", _has_suffix(".npz"), _load_npz),
    _AtPath("a .csv or .parquet file", _has_suffix(*TABLE_SUFFIXES), _load_table),
    _AtPath("an .hdf5 file of D4RL's layout", _is_hdf5, _load_hdf5),
    _D4RL(),
    _OGBench(),
    _Minari(),
    _AtPath("a folder of Minari's", _is_minari_folder, _load_minari_folder),
    _AtPath("a folder of .npz files", _is_npz_folder, _load_npz_folder),
)
"""The first that knows a text has its dataset."""


def find(text: str) -> Source | None:
    """Return the source of the dataset that a text means; None if no source knows it.

    Raises:
        OSError: a file or a folder that may not be read, or a name that is too long.
    """
    return next((source for source in SOURCES if source.knows(text)), None)


@contextmanager
def given(dataset: "Dataset") -> Iterator[str]:
    """Let `load_dataset` find a dataset in memory by its id, which is returned, before all other datasets of that id.

    What it holds is its identity, as it is of a file: by its fingerprint.
    """
    _GIVEN.datasets.append(dataset)
    try:
        yield dataset.id
    finally:
        _GIVEN.datasets.remove(dataset)


def dataset_id(text: str) -> str:
    """Return the id of the dataset that the user named: the same for every spelling."""
    try:
        source = find(text)
    except OSError:  # loading the dataset reports it in one line
        source = None
    return names.dataset_id(text) if source is None else source.key(text)


def folder_name(text: str) -> str:
    """Return the name of the folder of all runs on a dataset: one part, never empty, `.` or `..`."""
    return names.safe(dataset_id(text).replace("/", "-"))


def is_to_be_fetched(text: str) -> bool:
    """Return whether a dataset has to be downloaded before it can be loaded."""
    try:
        source = find(text)
        return source is not None and not source.is_present(text)
    except OSError:  # as in `dataset_id`
        return False


def is_known(text: str) -> bool:
    """Return whether some source knows the dataset that a text means, or may know it."""
    try:
        return find(text) is not None
    except OSError:  # as in `dataset_id`
        return True


def absolute(text: str) -> str:
    """Make the path of a dataset absolute, so that it means the same from any folder; keep what is no path."""
    try:
        source = find(text)
    except OSError:
        return text
    return os.path.abspath(dataset_path(text)) if source is not None and source.is_path else text


def unknown(text: str) -> InputError:
    """Return the error that says what datasets there are."""
    named = ", ".join(source.form for source in SOURCES if source.form and not source.is_path)
    paths = ", ".join(source.form for source in SOURCES if source.is_path)
    return InputError(f"unknown dataset {text!r}{hint(text)}; give {named} or a path to {paths}")


def hint(text: str) -> str:
    """Return what else an unknown text may mean, as a part of a message."""
    id = as_id(text)
    if text and (names.is_minari_folder(dataset_path(text)) or _has_npz(dataset_path(text))):
        return f"; there is such a folder here, which ./{id} means"
    known = {each for source in SOURCES for each in source.known_ids()}
    nearest = difflib.get_close_matches(id or text, sorted(known - {id or text}))
    return f"; the nearest known: {', '.join(nearest)}" if nearest else ""
