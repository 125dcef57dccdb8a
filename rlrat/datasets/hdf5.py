"""HDF5 files, with mistakes told in one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from rlrat.errors import InputError, reason


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading.

    Raises:
        InputError: it is not there, not HDF5, or truncated.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except FileNotFoundError:
        raise InputError(f"no file {path}") from None
    except OSError as error:
        raise InputError(
            f"{path} is truncated or not an HDF5 file ({reason(error)}): delete it and get it again"
        ) from None


def read(group: h5py.h5g.GroupID, name: str) -> np.ndarray | None:
    """A whole array, or None where there is none of that name.

    h5py's `group[name][()]` takes twice the time, which is what loading many short episodes consists of.
    """
    try:
        dataset = h5py.h5d.open(group, name.encode())
    except (KeyError, ValueError):
        return None
    array = np.empty(dataset.shape, dataset.dtype)
    dataset.read(h5py.h5s.ALL, h5py.h5s.ALL, array)
    return array
