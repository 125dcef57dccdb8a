"""Check that the caches hold what was written there: read every byte of them."""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rlrat.datasets import cache, entries, sources
from rlrat.datasets.names import dataset_path
from rlrat.datasets.sharing import is_trusted
from rlrat.errors import InputError, reason

_ANEW = "it is made anew when it is loaded next"


@dataclass(frozen=True)
class Finding:
    """The result of the check of one dataset's entry in a cache."""

    id: str
    root: Path
    said: str
    is_damaged: bool = False

    def __str__(self) -> str:
        return f"{self.id} in {self.root}: {self.said}"


def check_caches(datasets: Sequence[str] = ()) -> Iterator[Finding]:
    """Check the entries of some datasets, or all in the user's cache; remove damaged ones.

    Args:
        datasets: as `load_dataset` takes them.

    Raises:
        InputError: one of the datasets has no cache, or may not be read.
    """
    try:
        yield from _check_caches(datasets)
    except OSError as error:
        raise InputError(f"cannot read {error.filename or 'a cache'}: {reason(error.strerror or error)}") from None


def _check_caches(datasets: Sequence[str]) -> Iterator[Finding]:
    user = cache.user_root()
    if not datasets:
        yield from _check_root(user, None, None) if user is not None and user.is_dir() else ()
    for id in datasets:
        found = [finding for root in _beside(id) for finding in _check_root(root, root.parent, None)]
        if user is not None and user.is_dir():
            found += _check_root(user, None, id)
        if not found:
            raise InputError(f"{id} is in no cache: it comes there when it is loaded")
        yield from found


def _beside(id: str) -> list[Path]:
    """Return the cache roots beside the files or folders that `id` may mean."""
    source = sources.find(id)
    places = {dataset_path(id), *filter(None, [source and source.place(id)])}
    roots = [root for place in places if place.name for root in (cache.beside_file(place), cache.beside_folder(place))]
    return list({root.resolve(): root for root in roots if root.is_dir()}.values())


def _check_root(root: Path, around: Path | None, wanted: str | None) -> Iterator[Finding]:
    if not cache.Root(root, root, around).is_usable:
        yield Finding(wanted or root.name, root, "it is not used, since others can write there")
        return
    for path in sorted(root.glob("*.json")):
        stamp = cache.read_stamp(path)
        if stamp is None:
            continue  # of an older format, or damaged: the next load rewrites it
        files = tuple(Path(around or root, file) for file in stamp["files"])
        _, id, settings, _ = stamp["source"]
        if wanted is None or wanted == id or _is_file(wanted, files[0]):
            yield _check_entry(cache.Source(id, files, None, settings), root, stamp)


def _is_file(wanted: str, file: Path) -> bool:
    return os.path.realpath(dataset_path(wanted)) == os.path.realpath(file)


def _check_entry(source: cache.Source, root: Path, stamp: dict) -> Finding:
    entry = root / stamp["entry"]
    finding = Finding(source.id, root, "ok")
    if not entry.exists():
        return dataclasses.replace(finding, said=f"there is none; {_ANEW}")
    wrong = entries.damage(entry) if is_trusted(entry, root) else "it is a link, or others can write it"
    if wrong is not None:
        try:
            cache.remove_entry(entry)
        except OSError as error:
            said = f"damaged ({wrong}), and it cannot be taken away ({reason(error.strerror)}): its owner can"
            return dataclasses.replace(finding, said=said, is_damaged=True)
        return dataclasses.replace(finding, said=f"damaged ({wrong}): {_ANEW}", is_damaged=True)
    try:
        same = cache.is_known(cache.look(source), stamp) or cache.content_key(source) == stamp["entry"]
    except OSError:
        return dataclasses.replace(finding, said="ok, but its source is gone or cannot be read")
    return finding if same else dataclasses.replace(finding, said=f"the source has changed: {_ANEW}")
