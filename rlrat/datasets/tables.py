"""Read a CSV or a Parquet file with a row for each step.

Its columns are found by their names, `observation_0`, `observation_1`, ..., `action_0`, ..., `reward`, and perhaps
`terminal`, `timeout`, `episode`, `log_prob` and `next_observation_0`, ... A file beside it says it of other names:
`log.columns.toml` for `log.csv`, with lines such as `observations = ["x", "speed"]` and `rewards = "score"`.
"""

import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from rlrat.datasets.arrow import check_pyarrow
from rlrat.datasets.bounds import Bounds
from rlrat.datasets.dataset import Dataset
from rlrat.datasets.flat import NEEDED, check_steps, of_steps
from rlrat.datasets.own import Words, load, note_unused
from rlrat.errors import InputError, reason

_VECTORS = {"observations": "observation", "actions": "action", "next_observations": "next_observation"}
_COLUMNS = {
    "rewards": ("reward", "rewards"),
    "terminals": ("terminal", "terminals", "termination", "terminations", "terminated"),
    "timeouts": ("timeout", "timeouts", "truncation", "truncations", "truncated"),
    "episode": ("episode", "episode_id", "episode_index"),
    "log_probs": ("log_prob", "log_probs"),
}
_NUMBER = (int, float, np.number, np.bool_, type(None))
_MOST_NAMES = 12  # of the columns that a message names


def load_file(path: Path, id: str, env_id: str | None, bounds: Bounds | None) -> Dataset:
    """Load the dataset of a table; arguments and errors are those of `rlrat.datasets.npz.load_file`."""
    if not path.is_file():
        raise InputError(f"no file {path}")
    map_file = column_map(path)
    files = [path, *([map_file] if map_file.is_file() else [])]
    return load(id, files, env_id, bounds, lambda words: _convert(path, id, words))


def column_map(path: Path) -> Path:
    """Return the file that names the columns of a table, which may not exist."""
    return path.with_name(f"{path.stem}.columns.toml")


def _convert(path: Path, id: str, words: Words) -> Dataset:
    table = _read(path)
    columns = _columns(path, list(table.columns))
    unused = set()
    if not column_map(path).is_file():  # else who wrote it chose
        unused = set(table.columns) - {name for chosen in columns.values() for name in chosen}
    (episode,) = columns.pop("episode", [None])
    arrays = {name: _array(path, table, chosen, name in _VECTORS) for name, chosen in columns.items()}
    arrays = check_steps(str(path), arrays)
    if episode is not None:
        episode = table[episode].to_numpy()
        last = np.append(episode[1:] != episode[:-1], True)
        _check_episodes(path, episode, last, arrays["terminals"], arrays["timeouts"])
        ends = arrays["terminals"] if arrays["terminals"] is not None else np.zeros(len(last), bool)
        arrays["timeouts"] = last & ~ends
    unused = {name for name in unused if not name.startswith("Unnamed: ")}  # an index that pandas wrote
    advice = f"{column_map(path).name} says which columns count"
    return note_unused(of_steps(id, str(path), arrays, words.bounds, words.limit), str(path), unused, advice)


def _check_episodes(path: Path, episode: np.ndarray, last: np.ndarray, *flags: np.ndarray | None) -> None:
    if (empty := episode != episode).any():
        raise InputError(f"{path}: row {int(empty.argmax())} (from 0) has no episode, which other rows have")
    counts = Counter(episode[last].tolist())
    name, count = counts.most_common(1)[0]
    if count > 1:
        raise InputError(f"{path}: episode {name} is in several pieces: sort the rows by episode and step")
    for flag in flags:
        if flag is not None and (inner := flag & ~last).any():
            row = int(inner.argmax())
            raise InputError(
                f"{path}: row {row} (from 0) ends its episode, and the next row is of the same one, {episode[row]}"
            )


def _read(path: Path) -> Any:
    try:
        import pandas
    except ImportError:
        raise InputError(f"{path} is a table, for which pandas is needed: pip install pandas") from None
    try:
        if path.suffix.lower() == ".parquet":
            check_pyarrow(f"{path} is a Parquet file", "pip install pyarrow")
            table = pandas.read_parquet(path, engine="pyarrow")
        else:
            table = pandas.read_csv(path, float_precision="round_trip", index_col=False)
            if len(table):  # pandas gives a second column of a name another one
                first = pandas.read_csv(path, header=None, nrows=1, dtype=str, keep_default_na=False)
                table.columns = [str(given) or name for given, name in zip(first.iloc[0], table.columns, strict=True)]
    except (InputError, FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # pandas and pyarrow have error types of their own
        raise InputError(f"{path} cannot be read as a table: {reason(error)}") from None
    table.columns = [str(name).strip() for name in table.columns]
    twice = table.columns[table.columns.duplicated()]
    if len(twice):
        raise InputError(f"{path} has two columns {twice[0]}: names must differ")
    if not len(table):
        raise InputError(f"{path} is empty: it has no rows")
    return table


def _columns(path: Path, there: list[str]) -> dict[str, list[str]]:
    """Return the columns of each array, as the map says or as their names do."""
    found = {}
    map_file = column_map(path)
    if map_file.is_file():
        found = _read_map(map_file, there, path)
    for name, one in _VECTORS.items():
        if name not in found and (named := _numbered(path, one, there)):
            found[name] = named
    for name, spellings in _COLUMNS.items():
        named = [spelling for spelling in spellings if spelling in there]
        if name not in found and named:
            if len(named) > 1:
                raise InputError(f"{path} has columns {' and '.join(named)}: name the one that counts in {map_file}")
            found[name] = named
    missing = [name for name in NEEDED if name not in found]
    if missing:
        wanted = {"observations": "observation_0, ...", "actions": "action_0, ...", "rewards": "reward"}
        used = {column for columns in found.values() for column in columns}
        left = [column for column in there if column not in used]
        names = ", ".join(left[:_MOST_NAMES]) + (", ..." if len(left) > _MOST_NAMES else "")
        raise InputError(
            f"{path} has no columns {' and '.join(map(wanted.get, missing))}: say in {map_file} which they are, "
            f'in lines such as observations = ["x", "y"] and rewards = "score"; its other columns are {names or "none"}'
        )
    return found


def _numbered(path: Path, one: str, there: list[str]) -> list[str]:
    """Return the columns `observation_0`, `observation_1`, ... in the order of their numbers, or `observations`."""
    numbers = {int(match[1]): name for name in there if (match := re.fullmatch(rf"{one}s?[_.]?(\d{{1,6}})", name))}
    if not numbers:
        return [name for name in (f"{one}s", one) if name in there][:1]
    if gap := next((number for number in range(len(numbers)) if number not in numbers), None):
        raise InputError(f"{path} has {len(numbers)} columns {one}_..., but no {one}_{gap}: number them from 0 on")
    return [numbers[number] for number in sorted(numbers)]


def _read_map(map_file: Path, there: list[str], path: Path) -> dict[str, list[str]]:
    known = (*_VECTORS, *_COLUMNS)
    try:
        content = tomllib.loads(map_file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{map_file} is no TOML: {reason(error)}") from None
    found = {}
    for name, value in content.items():
        names = [value] if isinstance(value, str) else value
        if name not in known:
            raise InputError(f"{map_file} names {name}, which is none of {', '.join(known)}")
        if not (isinstance(names, list) and names and all(isinstance(each, str) for each in names)):
            raise InputError(f'{map_file}: {name} must be the name of a column, or several: ["x", "y"]')
        if len(names) > 1 and name not in _VECTORS:
            raise InputError(f"{map_file}: {name} must be one column, not {len(names)}")
        if absent := [each for each in names if each not in there]:
            raise InputError(f"{map_file}: {name} names the column {absent[0]}, which {path.name} has not")
        found[name] = names
    return found


def _array(path: Path, table: Any, chosen: list[str], is_vector: bool) -> np.ndarray:
    """Return `[N, columns]`, or `[N]`; a single column may hold a vector in each row."""
    arrays = []
    for name in chosen:
        column = table[name].to_numpy()
        if column.dtype == object and is_vector and len(chosen) == 1 and np.ndim(column[0]) == 1:
            if len({np.shape(row) for row in column}) > 1:
                raise InputError(f"{path}: column {name} is ragged: vectors of one length are needed")
            column = np.stack(column)
            if column.dtype == object:
                raise InputError(f"{path}: column {name} holds vectors of vectors: flat ones of numbers are needed")
        elif column.dtype == object:
            column = _numbers(path, name, column)
        if column.dtype.kind not in "biuf":
            raise InputError(f"{path}: column {name} holds {column.dtype}: numbers are needed")
        arrays.append(column)
    if not is_vector:
        return arrays[0]
    return arrays[0] if arrays[0].ndim == 2 else np.column_stack(arrays)


def _numbers(path: Path, name: str, column: np.ndarray) -> np.ndarray:
    """Return a column of mixed types as numbers."""
    others = [row for row, value in enumerate(column) if not isinstance(value, _NUMBER)]
    if others:
        # pandas reads a whole column as texts where one of them is no number
        row = next((row for row in others if not _is_number(column[row])), others[0])
        kind = "text" if isinstance(column[row], str) else type(column[row]).__name__
        where = f"{path}: column {name} holds {kind} ({reason(column[row])}) in row {row} (from 0)"
        raise InputError(f"{where}: numbers are needed")
    return column.astype(np.float64)


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
