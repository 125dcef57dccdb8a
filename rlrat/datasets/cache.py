"""Keep converted datasets as flat .npy files, opened memory-mapped so that processes share their pages.

A cache root holds a small stamp for every source, and entries, one folder per content. A stamp has the sizes and
modification times of the source's files, how each machine saw them, and the entry they belong to. While the stamp
holds, the source is not read at all. Otherwise it is hashed, and converted again only if its content changed. An entry
is written to a temporary folder and then renamed: a process that is killed or comes second leaves nothing incomplete
that another would read. Files that others than the source's owners could have written are not used.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rlrat.datasets import entries
from rlrat.datasets.dataset import Dataset
from rlrat.datasets.progress import told_if_slow
from rlrat.datasets.sharing import close_file, is_trusted, make_like, make_private
from rlrat.errors import InputError, reason
from rlrat.json_files import load_json

FORMAT_VERSION = 4  # raise it when the converted content or its layout changes
_TEMPORARY = ".tmp-"
_ABANDONED_SECONDS = 3600  # a temporary folder older than this belongs to no living process
_MOST_SIGHTS = 16  # machines and mounts from which a stamp has seen its source
_ENTRY = re.compile("[0-9a-f]{64}")


@dataclasses.dataclass(frozen=True)
class Source:
    """The source that a dataset is converted from."""

    id: str
    """The dataset's id: equal content under another id is another entry, since the id decides about the environment."""
    files: tuple[Path, ...]
    """Every file that the conversion reads."""
    beside: Path | None
    """The cache root beside the files, or None for the user's cache folder alone."""
    settings: str = ""
    """What the conversion depends on beside the files: other settings are another entry."""


@dataclasses.dataclass(frozen=True)
class Root:
    """A folder that a source's entries may be kept in."""

    path: Path
    stamp: Path
    """The source's stamp in it."""
    around: Path | None
    """The folder it lies in beside the source, as which it is open; None for the user's own."""

    @property
    def is_usable(self) -> bool:
        """Return whether only those who may write the folder can have written it; make the user's own private."""
        try:
            if self.around is None:
                return not self.path.exists() or _make_private(self.path)
            return is_trusted(self.path, self.around)
        except FileNotFoundError:
            return True
        except OSError:
            return False

    def make(self) -> None:
        """Make the folder if it does not exist.

        Raises:
            OSError: it cannot be made.
        """
        if self.around is None:
            self.path.parent.parent.mkdir(0o700, parents=True, exist_ok=True)
            if not _make_private(self.path):
                raise PermissionError(f"{self.path} is not this user's alone")
        else:
            with contextlib.suppress(FileExistsError):
                make_like(self.path, self.around)


def beside_file(path: Path) -> Path:
    """Return the cache root beside a dataset that is one file."""
    return path.with_name(path.name + ".rlrat-cache")


def beside_folder(folder: Path) -> Path:
    """Return the cache root in a dataset's folder."""
    return folder / ".rlrat-cache"


def load(source: Source, convert: Callable[[], Dataset]) -> Dataset:
    """Load the dataset of `source` from a cache, or else call `convert` and keep it in the first writable root.

    Raises:
        InputError: the source's files cannot be read.
    """
    try:
        return _load(source, convert)
    except FileNotFoundError as error:
        raise InputError(f"{source.id}: {error.filename} is not there any more") from None
    except OSError as error:
        where = error.filename or source.files[0].parent
        raise InputError(f"{source.id}: cannot read {where}: {reason(error.strerror or error)}") from None


def _load(source: Source, convert: Callable[[], Dataset]) -> Dataset:
    seen = look(source)
    roots = [root for root in _roots(source) if root.is_usable]
    for root in roots:
        found = read_stamp(root.stamp)
        if found is not None and is_known(seen, found):
            dataset = _open(root.path / found["entry"], source.id)
            if dataset is not None:
                return dataset
    with told_if_slow(f"reading {source.id}, only the first time"):
        return _convert(source, convert, roots, seen)


def _convert(source: Source, convert: Callable[[], Dataset], roots: list[Root], seen: tuple[list[Any], str]) -> Dataset:
    stamp, sight = seen
    key = content_key(source)
    for root in roots:
        dataset = _open(root.path / key, source.id)
        if dataset is not None:
            _try_write_stamp(root, source, stamp, sight, key)
            return dataset
    dataset = convert()
    if look(source) != seen:
        return dataset  # the source changed meanwhile: the key may belong to other content
    for root in roots:
        try:
            _store(root, key, dataset, source.files)
        except OSError:
            continue  # read-only or full: try the next root; without any, keep no cache
        _try_write_stamp(root, source, stamp, sight, key)
        mapped = _open(root.path / key, source.id)
        return dataset if mapped is None else mapped
    return dataset


def user_root() -> Path | None:
    """Return `$XDG_CACHE_HOME/rlrat/datasets` or `~/.cache/rlrat/datasets`; None without a home folder."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification says to ignore relative ones
        base = os.path.expanduser("~/.cache")
    return Path(base, "rlrat", "datasets") if os.path.isabs(base) else None


def _make_private(root: Path) -> bool:
    return make_private(root.parent) and make_private(root)


def _roots(source: Source) -> Iterator[Root]:
    """Yield cache roots in order of preference."""
    settings = f"-{_short_hash(source.settings.encode())}" if source.settings else ""
    if source.beside is not None:
        around = source.beside.parent
        if around.stat().st_mode & 0o222:  # respect a mode without w even as root
            yield Root(source.beside, source.beside / f"source{settings}.json", around)
    if (path := user_root()) is not None:
        where = _short_hash(os.fsencode(source.files[0].resolve()))
        yield Root(path, path / f"{source.id.replace('/', '-')[:100]}-{where}{settings}.json", None)


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def look(source: Source) -> tuple[list[Any], str]:
    """Return what the source has in common with its copies, and what nobody can restore after a change.

    For the same files, another machine may see other numbers in the second part.

    Raises:
        OSError: the source's files are not there.
    """
    stats = [path.stat() for path in source.files]
    files = [[path.name, stat.st_size, stat.st_mtime_ns] for path, stat in zip(source.files, stats, strict=True)]
    numbers = [(stat.st_dev, stat.st_ino, stat.st_ctime_ns) for stat in stats]
    sight = hashlib.sha256(json.dumps(numbers).encode()).hexdigest()[:32]
    return [FORMAT_VERSION, source.id, source.settings, files], sight


def is_known(seen: tuple[list[Any], str], stamp: dict[str, Any]) -> bool:
    """Return whether a source's files match its stamp, so that their content need not be read."""
    return stamp["source"] == seen[0] and seen[1] in stamp["sights"]


def read_stamp(path: Path) -> dict[str, Any] | None:
    """Read a source's stamp; return None if there is none that can be used."""
    try:
        if not is_trusted(path, path.parent):
            return None
        stamp = load_json(path)
        version, id, settings, files = stamp["source"]
        whole = _ENTRY.fullmatch(stamp["entry"]) and version == FORMAT_VERSION and stamp["sights"][-1]
        names = [name for name, _size, _time in files]
        texts = [id, settings, *stamp["sights"], *stamp["files"], *names]
        return stamp if whole and len(stamp["files"]) == len(files) and all(map(_is_text, texts)) else None
    except Exception:  # a garbled file may raise anything
        return None


def _entry_of(path: Path) -> str | None:
    """Read the entry of a stamp of any format version."""
    try:
        entry = load_json(path)["entry"]
        return entry if _ENTRY.fullmatch(entry) else None
    except Exception:  # as in `read_stamp`
        return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _try_write_stamp(root: Root, source: Source, stamp: list, sight: str, key: str) -> None:
    """Point the source at entry `key`, and remove the entry that it pointed at before."""
    before, entry_before = read_stamp(root.stamp), _entry_of(root.stamp)
    same = before is not None and before["source"] == stamp and before["entry"] == key
    sights = [*(before["sights"] if same else ()), sight][-_MOST_SIGHTS:]
    places = [os.path.relpath(path, root.around) if root.around else str(path.resolve()) for path in source.files]
    temporary = _temporary(root.path)
    try:
        content = {"source": stamp, "sights": sights, "entry": key, "files": places}
        temporary.write_text(json.dumps(content), encoding="utf-8")
        close_file(temporary, source.files)
        os.replace(temporary, root.stamp)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
        return
    if entry_before not in (None, key):
        shutil.rmtree(root.path / entry_before, ignore_errors=True)


def content_key(source: Source) -> str:
    """Return the SHA-256 of all that the conversion depends on, which is the name of its entry."""
    digest = hashlib.sha256(f"{FORMAT_VERSION} {source.id}".encode())
    if source.settings:
        digest.update(f"\n{source.settings}\n".encode())
    for path in source.files:
        with open(path, "rb") as file:
            digest.update(os.fsencode(path.name) + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _open(entry: Path, id: str) -> Dataset | None:
    """Open the dataset of an entry; return None if it is missing or damaged, or if others can have written it."""
    with contextlib.suppress(OSError):
        if is_trusted(entry, entry.parent):
            return entries.read(entry, id)
    return None


def _store(root: Root, key: str, dataset: Dataset, sources: tuple[Path, ...]) -> None:
    """Write an entry in one step; keep one that is already there and whole.

    Raises:
        OSError: the root cannot be written.
    """
    root.make()
    for path in root.path.glob(f"{_TEMPORARY}*"):
        _remove_abandoned(path)
    temporary, entry = _temporary(root.path), root.path / key
    try:
        make_like(temporary, root.path)
        entries.write(temporary, dataset, sources)
        if entry.exists() and _open(entry, dataset.id) is None:
            remove_entry(entry)
        os.rename(temporary, entry)
    except OSError:
        if _open(entry, dataset.id) is None:  # else another process was first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_entry(entry: Path) -> None:
    """Remove an entry in one step; processes that have it mapped can still read it.

    Raises:
        OSError: this user may not remove it.
    """
    damaged = _temporary(entry.parent)
    os.rename(entry, damaged)
    shutil.rmtree(damaged, ignore_errors=True)


def _temporary(root: Path) -> Path:
    return root / f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"


def _remove_abandoned(path: Path) -> None:
    with contextlib.suppress(OSError):  # another process was faster
        if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
