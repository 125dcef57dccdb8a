"""Converted datasets kept as flat .npy files, opened memory-mapped so that processes share their pages.

A cache root holds, for every source, a small stamp (sizes and modification times of the source's files, and the entry
they belong to) and entries, one folder per content. While the stamp holds, the source is not read at all; when it does
not, the source is hashed, and converted anew only if its content changed. Entries are written to a temporary folder and
renamed, so whoever is killed or comes second leaves nothing half done that another would read.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rlrat.datasets.dataset import Dataset

# NumPy reads a header by ast.literal_eval, in which two threads of CPython 3.11 at once may meet a SystemError.
_PARSING = threading.Lock()

FORMAT_VERSION = 3  # raise it when what is converted, or how it is laid out, changes
_TEMPORARY = ".tmp-"
_ABANDONED = 3600  # seconds after which a temporary folder belongs to no living process
_DAMAGED = (OSError, ValueError, TypeError, KeyError, EOFError)  # what a missing, short or garbled file raises
_ENTRY = re.compile("[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Source:
    """What a dataset is converted from."""

    id: str
    """The dataset's id: equal content under another id is another entry, since the id decides about the environment."""
    files: tuple[Path, ...]
    """Every file that the conversion reads."""
    beside: Path | None
    """The cache root beside the files, or None for the user's cache folder alone."""
    settings: str = ""
    """What else the conversion depends on, such as bounds of actions that the user gave."""


def load(source: Source, convert: Callable[[], Dataset]) -> Dataset:
    """The dataset of `source`: from a cache, or else from `convert` and kept in the first root that can be written."""
    stamp = _stamp(source)
    roots = list(_roots(source))
    for root, name in roots:
        found = _read_stamp(root / name)
        if found is not None and found["source"] == stamp:
            dataset = _open(root / found["entry"])
            if dataset is not None:
                return dataset
    key = _content_key(source)
    for root, name in roots:
        dataset = _open(root / key)
        if dataset is not None:
            _try_write_stamp(root, name, stamp, key)
            return dataset
    dataset = convert()
    if _stamp(source) != stamp:
        return dataset  # it changed meanwhile: the key may belong to other content
    for root, name in roots:
        try:
            _store(root, key, dataset)
        except OSError:
            continue  # read-only or full: the next root, in the end no cache at all
        _try_write_stamp(root, name, stamp, key)
        mapped = _open(root / key)
        return dataset if mapped is None else mapped
    return dataset


def user_root() -> Path | None:
    """`$XDG_CACHE_HOME/rlrat/datasets` or `~/.cache/rlrat/datasets`; None without a home folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # relative ones are to be ignored, says the XDG specification
        base = os.path.expanduser("~/.cache")
    return Path(base, "rlrat", "datasets") if os.path.isabs(base) else None


def _roots(source: Source) -> Iterator[tuple[Path, str]]:
    """Cache roots in order of preference, each with the name of the source's stamp in it."""
    if source.beside is not None and source.beside.parent.stat().st_mode & 0o222:  # a mode without w binds root too
        yield source.beside, f"source{_suffix(source)}.json"
    if (root := user_root()) is not None:
        path = hashlib.sha256(os.fsencode(source.files[0].resolve())).hexdigest()[:16]
        yield root, f"{source.id.replace('/', '-')}-{path}{_suffix(source)}.json"


def _suffix(source: Source) -> str:
    """What the stamps of one source with several settings differ in."""
    return f"-{hashlib.sha256(source.settings.encode()).hexdigest()[:16]}" if source.settings else ""


def _stamp(source: Source) -> list:
    stats = [path.stat() for path in source.files]
    files = [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in zip(source.files, stats, strict=True)]
    return [FORMAT_VERSION, source.id, files, *([source.settings] if source.settings else [])]


def _read_stamp(path: Path) -> dict | None:
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
        return stamp if _ENTRY.fullmatch(stamp["entry"]) and "source" in stamp else None
    except _DAMAGED:
        return None


def _try_write_stamp(root: Path, name: str, stamp: list, key: str) -> None:
    """Point the source at entry `key` and remove the entry that it pointed at before."""
    before = _read_stamp(root / name)
    temporary = _temporary(root)
    try:
        temporary.write_text(json.dumps({"source": stamp, "entry": key}), encoding="utf-8")
        os.replace(temporary, root / name)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        return
    if before is not None and before["entry"] != key:
        shutil.rmtree(root / before["entry"], ignore_errors=True)


def _content_key(source: Source) -> str:
    digest = hashlib.sha256(f"{FORMAT_VERSION} {source.id}{source.settings and chr(0)}{source.settings}".encode())
    for path in source.files:
        with open(path, "rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _open(entry: Path) -> Dataset | None:
    """The dataset of an entry, or None where there is none or a file is missing, short or garbled."""
    try:
        manifest = json.loads((entry / "manifest.json").read_text(encoding="utf-8"))
        arrays = {}
        for name, (shape, dtype) in manifest["arrays"].items():
            with _PARSING:
                array = np.load(entry / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            if list(array.shape) != shape or array.dtype.str != dtype:
                return None
            arrays[name] = array
        values = manifest["values"]
        return Dataset(**{**values, "notes": tuple(values["notes"])}, **arrays)
    except _DAMAGED:
        return None


def _store(root: Path, key: str, dataset: Dataset) -> None:
    """Write an entry in one step; one that is there and whole already is as good.

    Raises:
        OSError: the root cannot be written.
    """
    root.mkdir(parents=True, exist_ok=True)
    for path in root.glob(f"{_TEMPORARY}*"):
        _remove_abandoned(path)
    temporary = _temporary(root)
    try:
        temporary.mkdir()
        _write(temporary, dataset)
        if (root / key).exists() and _open(root / key) is None:
            damaged = _temporary(root)
            os.rename(root / key, damaged)
            shutil.rmtree(damaged, ignore_errors=True)
        os.rename(temporary, root / key)
    except OSError:
        if _open(root / key) is None:  # else another process was first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write(folder: Path, dataset: Dataset) -> None:
    values = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    arrays = {name: values.pop(name) for name in list(values) if isinstance(values[name], np.ndarray)}
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)
    manifest = {"values": values, "arrays": {name: [array.shape, array.dtype.str] for name, array in arrays.items()}}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def _temporary(root: Path) -> Path:
    # not tempfile's: its folders are private, and a cache beside a shared source is to be shared
    return root / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"


def _remove_abandoned(path: Path) -> None:
    with contextlib.suppress(OSError):  # another process was faster
        if time.time() - path.stat().st_mtime > _ABANDONED:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
