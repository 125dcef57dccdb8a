"""Read .npz files of one's own, and folders of them: whole episodes, or one flat sequence of steps.

Arrays of one episode have one more observation than there are actions; a file has them under their names, or many
episodes under `episode_0/observations`, `episode_1/observations`, ... Anything else is flat, see `rlrat.datasets.flat`.
"""

import io
import re
import zipfile
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np

from rlrat.datasets.bounds import Bounds
from rlrat.datasets.dataset import Dataset, of_episodes
from rlrat.datasets.flat import ABOUT_NAME, SAVED, STEPS, check_steps, of_saved, of_steps
from rlrat.datasets.ogbench_names import refuse_file
from rlrat.datasets.own import Words, load, note_unused
from rlrat.datasets.progress import counted
from rlrat.errors import InputError, reason
from rlrat.updates.machine import available_memory

_EPISODE = re.compile(r"episode_(\d{1,9})/(\w+)")
_NAMES = {"terminations": "terminals", "truncations": "timeouts"}  # Gymnasium's and D4RL's
_THEIRS = {d4rl: name for name, d4rl in _NAMES.items()}
EPISODES, FLAT = "whole episodes (one more observation than actions)", "a flat sequence of steps"
_SMALL = 2**22  # bytes for which memory is not counted: that takes longer than to read a small file
_LONGEST_HEADER = 10_000  # bytes, as NumPy allows


def load_file(path: Path, id: str, env_id: str | None, bounds: Bounds | None) -> Dataset:
    """Load the dataset of a file.

    Args:
        id: the dataset's id.
        env_id: the environment that the user named: its bounds and its time limit apply if none are recorded.
        bounds: the bounds that the user gave; they replace all others.

    Raises:
        InputError: there is no such file, or it is unusable.
    """
    if not path.is_file():
        raise InputError(f"no file {path}")
    return load(id, [path], env_id, bounds, lambda words: _convert(id, str(path), [path], words))


def load_folder(folder: Path, id: str, env_id: str | None, bounds: Bounds | None) -> Dataset:
    """Load the dataset of a folder's files in the order of their names; otherwise as `load_file`."""
    paths = sorted(folder.glob("*.npz"))
    return load(id, paths, env_id, bounds, lambda words: _convert(id, str(folder), paths, words), folder)


def _convert(id: str, label: str, paths: Sequence[Path], words: Words) -> Dataset:
    pieces = {path: read(path) for path in (counted(paths, len(paths)) if len(paths) > 1 else paths)}
    fields = {
        match[2] if (match := _EPISODE.fullmatch(name)) else name for arrays in pieces.values() for name in arrays
    }
    for path, arrays in pieces.items():
        refuse_file(path, arrays)
    unused = fields - {*STEPS, *SAVED, ABOUT_NAME, *_NAMES}
    return note_unused(_made(id, label, pieces, words), label, unused, f"a log has {', '.join(STEPS)}")


def _made(id: str, label: str, pieces: Mapping[Path, Mapping[str, np.ndarray]], words: Words) -> Dataset:
    paths = list(pieces)
    kinds = {path: _kind(arrays) for path, arrays in pieces.items()}
    first = paths[0]
    if other := next((path for path in paths if kinds[path] != kinds[first]), None):
        raise InputError(f"{other} has {kinds[other]}, and {first.name} {kinds[first]}: a folder has one kind alone")
    if kinds[first] == EPISODES:
        episodes = [episode for path, arrays in pieces.items() for episode in _episodes(path, arrays)]
        return of_episodes(episodes, words.bounds, id, env_id=None, label=label)
    flat = [_in_d4rls_names(path, arrays) for path, arrays in pieces.items()]
    checked = [check_steps(str(path), arrays) for path, arrays in zip(paths, flat, strict=True)]
    if "episode_starts" in flat[0] and len(paths) == 1:
        told = str(flat[0][ABOUT_NAME]) if ABOUT_NAME in flat[0] else None
        return of_saved(id, label, checked[0], flat[0], words.given, words.bounds, told)
    return of_steps(id, label, _joined(paths, checked), words.bounds, words.limit)


def _in_d4rls_names(path: Path, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    if both := next((name for name, d4rls in _NAMES.items() if name in arrays and d4rls in arrays), None):
        raise InputError(f"{path} has {both} and {_NAMES[both]}, which are the same: leave one of them out")
    return {_NAMES.get(name, name): array for name, array in arrays.items()}


def _joined(paths: Sequence[Path], pieces: Sequence[dict[str, np.ndarray | None]]) -> dict[str, np.ndarray | None]:
    """Join the steps of several files: the end of a file is the end of an episode."""
    if len(pieces) == 1:
        return pieces[0]
    for piece in pieces:
        count, terminals = len(piece["rewards"]), piece["terminals"]
        ends = np.arange(count) == count - 1
        if terminals is not None:
            ends &= ~terminals
        piece["timeouts"] = ends if piece["timeouts"] is None else piece["timeouts"] | ends
    first = pieces[0]
    for path, piece in zip(paths, pieces, strict=True):
        for name, array in piece.items():
            there = first[name]
            if (array is None) != (there is None):
                has, lacks = (path, paths[0]) if there is None else (paths[0], path)
                raise InputError(f"{lacks} lacks {name}, which {has.name} has: all files of a folder need the same")
            if array is not None and array.shape[1:] != there.shape[1:]:
                widths = f"{array.shape[1]} components, {paths[0].name} of {there.shape[1]}"
                raise InputError(f"{path} has {name} of {widths}: all files of a folder need the same")
    return {name: None if first[name] is None else np.concatenate([piece[name] for piece in pieces]) for name in first}


def read(path: Path, wanted: Container[str] | None = None, copies: float = 1) -> dict[str, np.ndarray]:
    """Read the arrays of a file; nothing is unpickled.

    `numpy.load` takes three times as long where there are many small arrays: it parses every header as Python.

    Args:
        wanted: their names; all by default.
        copies: how much memory the caller needs, in all, for each byte of them.

    Raises:
        InputError: it is no .npz, damaged, holds Python objects, or needs more memory than there is.
    """
    with _one_line(path), zipfile.ZipFile(path) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        members = {name: member for name, member in members.items() if wanted is None or name in wanted}
        needed = copies * sum(member.file_size for member in members.values())
        there = available_memory() if needed > _SMALL else None
        if there is not None and needed > there:
            raise InputError(f"{path} needs {needed / 1e9:,.1f} GB of memory, and {there / 1e9:,.1f} GB are free")
        return {
            name: _array(path, member.filename, archive.read(member))
            for name, member in counted(members.items(), len(members))
        }


@lru_cache(maxsize=1000)
def _parsed(header: bytes) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(io.BytesIO(header[:8]))
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return reader(io.BytesIO(header[8:]))


def _array(path: Path, name: str, content: bytes) -> np.ndarray:
    size = 10 if content[6:8] == b"\x01\x00" else 12  # of the version
    start = size + int.from_bytes(content[8:size], "little")
    if start > _LONGEST_HEADER:
        raise ValueError(f"the header of {name} is too long")
    shape, fortran, dtype = _parsed(content[:start])
    if dtype.hasobject:
        raise InputError(
            f"{path}: {name.removesuffix('.npy')} holds Python objects, which are never unpickled: save numbers; "
            "of episodes of several lengths each array under a name such as episode_0/observations"
        )
    return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if fortran else "C")


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except (InputError, FileNotFoundError, PermissionError):
        raise
    except MemoryError:
        raise InputError(f"{path} needs more memory than there is") from None
    except Exception as error:  # of a damaged file zipfile, zlib and NumPy may raise anything
        raise InputError(f"{path} is damaged or no .npz file ({reason(error)}): numpy.savez writes them") from None


def _kind(arrays: Mapping[str, np.ndarray]) -> str:
    if any(map(_EPISODE.fullmatch, arrays)):
        return EPISODES
    lengths = [
        len(arrays[name]) if name in arrays and arrays[name].ndim else -1 for name in ("observations", "actions")
    ]
    return EPISODES if lengths[1] >= 0 and lengths[0] == lengths[1] + 1 else FLAT


def _episodes(path: Path, arrays: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the episodes of a file, in Minari's names; an episode without `truncations` is not truncated."""
    found: dict[int, dict[str, np.ndarray]] = {}
    numbered = next(filter(_EPISODE.fullmatch, arrays), None)
    for name, array in arrays.items():
        match = _EPISODE.fullmatch(name)
        if numbered and not match:
            if name in STEPS or name in _NAMES:
                raise InputError(f"{path} has {numbered} and {name}: {name} of which episode? Leave one of them out")
            continue
        number, field = (int(match[1]), match[2]) if match else (0, name)
        found.setdefault(number, {})[_THEIRS.get(field, field)] = array
    for episode in found.values():
        if "truncations" not in episode:
            episode["truncations"] = np.zeros(np.shape(episode.get("terminations", episode.get("rewards", ()))), bool)
    return [found[number] for number in sorted(found)]
