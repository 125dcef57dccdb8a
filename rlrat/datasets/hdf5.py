"""Read HDF5 files as data: follow no link out of a file, refuse impossible array sizes, report errors in one line."""

import errno
import math
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5f, h5g, h5i, h5l, h5o, h5s, h5t, h5z

from rlrat.errors import InputError, reason
from rlrat.updates.machine import available_memory

_GroupID = Any  # h5g.GroupID: h5py has no types of what it compiles
_MOST_PER_BYTE = 2000  # gzip, HDF5's own compression, packs at most 1032 bytes into one
ANY_FILE = 2**22  # bytes that an array may have in any file: an array that was never written takes no room there
_MOST_IN_A_TREE = 500  # groups and arrays
_DEEPEST = 8  # groups in each other
_MOST_LINKS = 16  # soft links on the way to one array
_MOST_TYPES = 8  # that are remembered
_NUMBERS = (h5t.INTEGER, h5t.FLOAT, h5t.ENUM)  # h5py's bools are an enumeration
_OTHERS = {
    h5t.STRING: "texts",
    h5t.COMPOUND: "records of several fields",
    h5t.VLEN: "rows of unequal lengths",
    h5t.REFERENCE: "references",
}
_PACKING = {h5z.FILTER_DEFLATE, h5z.FILTER_SZIP, h5z.FILTER_LZF}


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading.

    Raises:
        InputError: it is not there, may not be read, is in use, not HDF5, or truncated.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would block
            raise InputError(f"{path} is no file: give an HDF5 file")
        file = h5py.File(path, "r")
    except InputError:
        raise
    except Exception as error:  # the error types of h5py change with its version and HDF5's
        raise InputError(_why_closed(path, error)) from None
    with file:
        yield file


def _why_closed(path: Path, error: Exception) -> str:
    code, text = getattr(error, "errno", None), str(error)
    if isinstance(error, FileNotFoundError):
        return f"no file {path}"
    if "unable to lock file" in text:
        if code in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            return (
                f"{path} lies on a file system without locks: set HDF5_USE_FILE_LOCKING=FALSE if nothing writes to it"
            )
        return (
            f"{path} is in use by another process: close it there, or set HDF5_USE_FILE_LOCKING=FALSE "
            "if nothing writes to it"
        )
    if "already open for" in text:  # flags in the file itself
        return f"{path} is in use by another process, or its writer was killed: close it there, or run h5clear -s on it"
    if isinstance(error, PermissionError):
        return f"cannot read {path}: {os.strerror(code or errno.EACCES)}"
    return f"{path} is truncated or not an HDF5 file ({reason(error)}): get it again from its source"


def open_group(parent: _GroupID, name: str) -> _GroupID | None:
    """Open a group inside another; return None if there is none of that name.

    Raises:
        InputError: it lies in another file, or is damaged.
    """
    try:
        found = _find(parent, name, h5g.open)
        return found if isinstance(found, h5g.GroupID) else None
    except Exception as error:
        raise _one_line(parent, name, error) from None


def read(group: _GroupID, name: str) -> np.ndarray | None:
    """Read a whole array of numbers; return None if there is none of that name.

    h5py's `group[name][()]` takes several times as long, and loading many short episodes takes most of its time here.

    Raises:
        InputError: it lies in another file, holds no numbers, needs more memory than there is, or is damaged.
    """
    try:
        dataset = _find(group, name, h5d.open)
        if dataset is None:
            return None
        if not isinstance(dataset, h5d.DatasetID):
            raise InputError(f"{_where(group, name)} is no array")
        dtype, memory_type, shape = *_numbers(dataset, group, name), dataset.shape
        _check(dataset, dtype, shape, group, name)
        array = np.empty(shape, dtype)
        dataset.read(h5s.ALL, h5s.ALL, array, memory_type)
        return array
    except Exception as error:
        raise _one_line(group, name, error) from None


def read_tree(group: _GroupID, name: str, reader: Callable[[_GroupID, str], np.ndarray | None] = read) -> Any:
    """Read a whole array, or a group of arrays as a dictionary of them, also in each other; None if there is neither.

    Args:
        reader: reads an array, as `read` does.

    Raises:
        InputError: where `read` does, or for too many groups and arrays.
    """
    left = [_MOST_IN_A_TREE]

    def walk(parent: _GroupID, child: str, depth: int) -> Any:
        left[0] -= 1
        if not left[0] or depth > _DEEPEST:  # groups may hold each other
            most = f"{_MOST_IN_A_TREE} groups and arrays, or groups more than {_DEEPEST} deep"
            raise InputError(f"{_where(group, name)} has more than {most}, in it: it is damaged")
        inner = open_group(parent, child)
        if inner is None:
            return reader(parent, child)
        return {name: walk(inner, name, depth + 1) for name in _names(inner, child)}

    return walk(group, name, 0)


def _names(group: _GroupID, name: str) -> list[str]:
    try:
        return [child.decode(errors="replace") for child in group]
    except Exception as error:
        raise _one_line(group, name, error) from None


def read_text(file: h5py.File, name: str) -> str | None:
    """Read a text that the whole file has as an attribute; return None if there is none of that name.

    Raises:
        InputError: it is no text, or it is damaged.
    """
    text = read_attribute(file, name)
    if not isinstance(text, str | None):
        raise InputError(f"{_where(file.id, name)} is no text")
    return text


def read_attribute(file: h5py.File, name: str) -> str | float | None:
    """Read a text or a number that the whole file has as an attribute; return None if there is none of that name.

    Raises:
        InputError: it is neither, or it is damaged.
    """
    try:
        value = file.attrs.get(name)
        value = value.item() if isinstance(value, np.number | np.bool_) else value
        if not isinstance(value, str | int | float | None):
            raise InputError(f"{_where(file.id, name)} is neither a text nor a number")
        return value
    except Exception as error:
        raise _one_line(file.id, name, error) from None


def _one_line(group: _GroupID, name: str, error: Exception) -> InputError:
    """Say in one line what went wrong: damage appears only during a read, as any error type of h5py."""
    if isinstance(error, InputError):
        return error
    if isinstance(error, MemoryError):
        return InputError(f"{_where(group, name)} needs more memory than there is")
    return InputError(
        f"{_where(group, name)} cannot be read, the file is damaged ({reason(error)}): get it again from its source"
    )


def _where(group: _GroupID, name: str) -> str:
    folder = (h5i.get_name(group) or b"").decode(errors="replace").strip("/")
    return f"{os.fsdecode(h5f.get_name(group))}: {f'{folder}/{name}' if folder else name}"


def _find(parent: _GroupID, name: str, opener: Callable[[_GroupID, bytes], Any]) -> Any:
    """Find the object at a path, link by link: HDF5 itself would follow a link into any file of the machine.

    Args:
        opener: opens what is expected there, faster than `h5o.open`, which opens anything.
    """
    found, links = parent, 0
    ahead = name.encode().split(b"/")[::-1]
    while ahead:
        part = ahead.pop()
        if part in (b"", b"."):
            continue
        if not isinstance(found, h5g.GroupID):
            return None
        around = found.links
        if not around.exists(part):
            return None
        kind = around.get_info(part).type
        if kind == h5l.TYPE_HARD:
            found = _open(found, part, h5o.open if ahead else opener)
            continue
        links += 1
        if kind != h5l.TYPE_SOFT:
            raise InputError(f"{_where(parent, name)} is a link to another file: copy the data into this one")
        if links > _MOST_LINKS:
            raise InputError(f"{_where(parent, name)} is a link that leads to no end")
        target = around.get_val(part)
        if target.startswith(b"/"):
            found = h5g.open(found, b"/")
        ahead += target.split(b"/")[::-1]
    return found


def _open(group: _GroupID, part: bytes, opener: Callable[[_GroupID, bytes], Any]) -> Any:
    try:
        return opener(group, part)
    except Exception:  # it is something else, or damaged
        return h5o.open(group, part)


_seen: list[tuple[h5t.TypeID, np.dtype, h5t.TypeID]] = []  # types of numbers, as they are in files, NumPy and memory


def _numbers(dataset: h5d.DatasetID, group: _GroupID, name: str) -> tuple[np.dtype, h5t.TypeID]:
    """Return the type of an array of numbers, for NumPy and for HDF5's memory; h5py takes long to make both."""
    found = dataset.get_type()
    for known, dtype, memory_type in _seen:
        if found.equal(known):
            return dtype, memory_type
    kind = found.get_class()
    if kind not in _NUMBERS:
        raise InputError(f"{_where(group, name)} holds {_OTHERS.get(kind, 'something else')}: numbers are needed")
    made = found.copy(), found.dtype, h5t.py_create(found.dtype)  # a copy keeps no file open
    if len(_seen) < _MOST_TYPES:
        _seen.append(made)
    return made[1:]


def _check(dataset: h5d.DatasetID, dtype: np.dtype, shape: tuple[int, ...], group: _GroupID, name: str) -> None:
    """Refuse what is not an array in this file, before any of it is read."""
    if dataset.get_offset() is not None:  # one block of this file
        _check_size(dataset, dtype, shape, group, name)
        return
    layout = dataset.get_create_plist()
    kind = layout.get_layout()
    if kind == h5d.VIRTUAL or layout.get_external_count():
        raise InputError(f"{_where(group, name)} has its data in another file: copy the data into this one")
    if shape is None:
        raise InputError(f"{_where(group, name)} is empty: an array of numbers is needed")
    filters = [layout.get_filter(place) for place in range(layout.get_nfilters())]
    if filters:
        if sum(code in _PACKING for code, *_ in filters) > 1:
            raise InputError(f"{_where(group, name)} is compressed more than once: once is what can be read")
        _check_filters({code: label for code, *_, label in filters}, _where(group, name))
    chunk = layout.get_chunk() if kind == h5d.CHUNKED else ()
    _check_size(dataset, dtype, max(shape, chunk, key=math.prod), group, name)


def _check_filters(filters: dict[int, bytes], where: str) -> None:
    if all(map(h5z.filter_avail, filters)):
        return
    with suppress(ImportError):
        import hdf5plugin  # noqa: F401  brings filters to h5py
    missing = [
        f"{code} ({label.decode(errors='replace')})" if label else str(code)
        for code, label in filters.items()
        if not h5z.filter_avail(code)
    ]
    if missing:
        raise InputError(f"{where} needs the HDF5 filter {', '.join(missing)}: pip install hdf5plugin")


def _check_size(dataset: h5d.DatasetID, dtype: np.dtype, shape: tuple[int, ...], group: _GroupID, name: str) -> None:
    needed = math.prod(shape) * dtype.itemsize
    if needed <= ANY_FILE:
        return
    file = os.stat(h5f.get_name(dataset)).st_size
    needs = f"{_where(group, name)} has the shape {list(shape)}, which needs {needed / 1e9:,.1f} GB of memory"
    if needed > file * _MOST_PER_BYTE:
        raise InputError(f"{needs}, but the whole file has {file:,} bytes: it is damaged")
    there = available_memory()
    if there is not None and needed > there:
        raise InputError(f"{needs}, and {there / 1e9:,.1f} GB are free")
