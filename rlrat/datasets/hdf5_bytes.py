"""Read small arrays of an HDF5 file from its bytes.

The HDF5 library takes about 80 microseconds to open, read and close an array, however small; 20,000 episodes have
100,000 of them. What it wrote for a small array is simple: a header with the shape, the type and the place of the data.
Where the header says anything else than that, the library reads the array, with all that `rlrat.datasets.hdf5` checks;
the library also says, once for each, what a type's bytes mean.

The layout is that of the HDF5 File Format Specification 3.0: object header of version 1 (IV.A.1.a), its messages for
dataspace, datatype and layout (IV.A.2.b, d, i), and version 1 B-trees (III.A.1).
"""

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5l, h5t

from rlrat.datasets.hdf5 import ANY_FILE, open_hdf5, read

_SUPERBLOCK = b"\x89HDF\r\n\x1a\n" + bytes(5) + b"\x08\x08"  # version 0, with addresses and lengths of 8 bytes
_NIL, _DATASPACE, _DATATYPE, _FILL, _LAYOUT, _TIME, _ATTRIBUTE = 0x0, 0x1, 0x3, 0x5, 0x8, 0x12, 0xC
_CONTIGUOUS, _CHUNKED = 1, 2


class _Odd(Exception):
    """A header that says more than the shape, the type and the place of small data."""


class SmallArrays:
    """The arrays of a file that is open for reading."""

    def __init__(self, file: h5py.File, content: mmap.mmap) -> None:
        self.file = file
        self._content = content
        self._is_plain = content[:15] == _SUPERBLOCK and not file.userblock_size
        self._types: dict[bytes, np.dtype | None] = {}

    def read(self, group: Any, name: str) -> np.ndarray | None:
        """Read a whole array of numbers; arguments and errors are those of `rlrat.datasets.hdf5.read`."""
        try:
            found = self._place(group, name.encode()) if self._is_plain else None
        except (_Odd, struct.error, OverflowError, ValueError):  # an address beyond the file, a rank of 0
            found = None
        if found is None:
            return read(group, name)
        kind, shape, stored, start = found
        if kind not in self._types:
            array = read(group, name)
            self._types[kind] = _plain_type(group, name)
            return array
        dtype = self._types[kind]
        size = math.prod(stored)
        if dtype is None or size * dtype.itemsize > min(ANY_FILE, len(self._content) - start):
            return read(group, name)
        array = np.frombuffer(self._content, dtype, size, start).reshape(stored)
        return array[tuple(map(slice, shape))].copy()

    def _place(self, group: Any, name: bytes) -> tuple[bytes, tuple[int, ...], tuple[int, ...], int] | None:
        """Return the bytes of the type, the shape, the shape as it is stored, and where; None if there is no array."""
        if b"/" in name:
            return None
        try:
            link = group.links.get_info(name)
        except (KeyError, RuntimeError):  # there is none of that name
            return None
        if link.type != h5l.TYPE_HARD:
            return None
        shape, kind, layout = (), b"", None
        for message, start, end in self._messages(link.u):
            if message == _DATASPACE:
                shape = self._shape(start)
            elif message == _DATATYPE:
                kind = self._content[start:end]
            elif message == _LAYOUT:
                layout = start
        if not (shape and kind and layout) or 0 in shape:
            raise _Odd
        (item,) = struct.unpack_from("<I", kind, 4)
        return kind, shape, *self._stored(layout, shape, item)

    def _messages(self, address: int) -> Iterator[tuple[int, int, int]]:
        """Yield the type, the start and the end of each message of an object header."""
        version, _, count, _, size = struct.unpack_from("<BBHII", self._content, address)
        if version != 1:
            raise _Odd
        start = address + 16
        end = start + size
        for _ in range(count):
            if start + 8 > end:
                raise _Odd
            message, length, flags = struct.unpack_from("<HHB", self._content, start)
            start += 8
            if message in (_DATASPACE, _DATATYPE, _LAYOUT):
                if flags & 2 or start + length > end:  # it is shared, and elsewhere
                    raise _Odd
                yield message, start, start + length
            elif message not in (
                _NIL,
                _FILL,
                _TIME,
                _ATTRIBUTE,
            ):  # filters, other files, a header that goes on elsewhere
                raise _Odd
            start += length

    def _shape(self, start: int) -> tuple[int, ...]:
        version, rank = struct.unpack_from("<BB", self._content, start)
        if version != 1 or rank not in (1, 2):
            raise _Odd
        return struct.unpack_from(f"<{rank}Q", self._content, start + 8)

    def _stored(self, start: int, shape: tuple[int, ...], item: int) -> tuple[tuple[int, ...], int]:
        """Return the shape as it is stored, that of the one chunk if there are chunks, and where."""
        version, kind = struct.unpack_from("<BB", self._content, start)
        if version == 3 and kind == _CONTIGUOUS:
            place, size = struct.unpack_from("<QQ", self._content, start + 2)
            if size == math.prod(shape) * item:
                return shape, place
        if version == 3 and kind == _CHUNKED:
            rank, tree = struct.unpack_from("<BQ", self._content, start + 2)
            *chunk, width = struct.unpack_from(f"<{rank}I", self._content, start + 11)
            fits = len(chunk) == len(shape) and all(map(int.__ge__, chunk, shape)) and width == item
            if fits and self._content[tree : tree + 8] == b"TREE\x01\x00\x01\x00":  # of chunks, a leaf, with one entry
                size, mask, *offsets, place = struct.unpack_from(f"<II{rank}QQ", self._content, tree + 24)
                if size == math.prod(chunk) * item and not mask and not any(offsets):
                    return tuple(chunk), place
        raise _Odd


def _plain_type(group: Any, name: str) -> np.dtype | None:
    """Return the NumPy type whose bytes are those in the file; None if they have to be converted."""
    kind = h5d.open(group, name.encode()).get_type()
    return kind.dtype if kind.equal(h5t.py_create(kind.dtype)) else None


@contextmanager
def open_small_arrays(path: Path) -> Iterator[SmallArrays]:
    """Open a file for reading, as `rlrat.datasets.hdf5.open_hdf5` does."""
    with (
        open_hdf5(path) as file,
        path.open("rb") as again,
        mmap.mmap(again.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        yield SmallArrays(file, content)
