"""Bring dictionary observations into one order, the same in data and in evaluation.

The order is that of the keys, sorted by us, dictionary by dictionary: Gymnasium sorts some spaces and keeps others as
they were written, and an environment returns its keys in any order. A part is named by its keys, such as
`achieved_goal/kettle`; the parts stand side by side in one vector. The order depends on the names alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from rlrat.errors import InputError, printable, reason

Parts = tuple[tuple[str, int], ...]
"""Names and widths of what a vector is made of, in its order; () for observations that were no dictionaries."""

ACHIEVED, OBSERVATION = "achieved_goal", "observation"
"""Keys of Gymnasium-Robotics' goal environments."""
NUMERIC_KINDS = "fiub"
"""Of NumPy's dtypes, those of numbers and flags."""
_DEEPEST = 8  # dictionaries inside each other
_MOST_PARTS = 1000
_MOST_NAMED = 12  # parts in a message


def leaves(tree: Mapping[str, Any], what: str) -> dict[str, tuple[tuple[str, ...], Any]]:
    """List the keys and the values of what nested dictionaries hold, by its name, in the documented order.

    Args:
        tree: a dictionary observation, an episode's arrays, or a space of Gymnasium's, which is a mapping, too.
        what: what it is, for messages: "hopper: episode 3: observations".

    Raises:
        InputError: a key that cannot be a name, two parts of one name, none, too many, or a nesting too deep.
    """
    found = [("/".join(keys), (keys, value)) for keys, value in _walk(tree, (), what)]
    found.sort(key=lambda item: item[0].split("/"))  # a key with a slash reads as two, as HDF5 has it
    if not found:
        raise InputError(f"{what} are an empty dictionary: there is nothing to learn from")
    if len(found) > _MOST_PARTS:
        raise InputError(f"{what} have more than {_MOST_PARTS:,} parts")
    if twice := next((one[0] for one, other in pairwise(found) if one[0] == other[0]), None):
        raise InputError(f"{what} have two parts of the name {reason(twice)}: rename one of them")
    return dict(found)


def _walk(node: Mapping[str, Any], above: tuple[str, ...], what: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if len(above) >= _DEEPEST:
        raise InputError(f"{what} are dictionaries more than {_DEEPEST} deep in each other")
    for key, value in node.items():
        if not _is_name(key):
            raise InputError(f"{what} have the key {reason(repr(key))}, which is no name: give texts as keys")
        if isinstance(value, Mapping):
            yield from _walk(value, (*above, key), what)
        else:
            yield (*above, key), value


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and printable(key) == key and not {"", ".", ".."} & set(key.split("/"))


def joined(arrays: Mapping[str, np.ndarray], what: str) -> tuple[np.ndarray, Parts]:
    """Join arrays `[steps]` or `[steps, features]` in their order to `[steps, obs]`; return their parts, too.

    Args:
        arrays: by name, in the order of `leaves`.
        what: as for `leaves`.

    Raises:
        InputError: arrays of several lengths.
    """
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        raise InputError(f"{what} have {reason(counts)}: all must be equally many")
    columns = {name: array[:, None] if array.ndim == 1 else array for name, array in arrays.items()}
    parts = tuple((name, array.shape[1]) for name, array in columns.items())
    return np.concatenate(list(columns.values()), axis=1), parts


def listed(parts: Parts) -> str:
    """Name all parts with their widths."""
    return ", ".join(f"{name} {width}" for name, width in parts)


def described(parts: Parts, width: int) -> str:
    """Say in a few words what observations of `width` numbers are made of."""
    if not parts:
        return f"vectors of {width}"
    more = ", ..." * (len(parts) > _MOST_NAMED)
    return f"dictionaries ({reason(listed(parts[:_MOST_NAMED]))}{more})"


def are_parts(value: Any) -> bool:
    """Tell whether a value, as JSON or a checkpoint has it, is names and widths."""
    pairs = isinstance(value, list) and all(isinstance(pair, list) and len(pair) == 2 for pair in value)
    return pairs and all(_is_name(name) and type(width) is int and width > 0 for name, width in value)


def as_parts(value: Any) -> Parts:
    """Return the names and widths that `are_parts`."""
    return tuple((name, width) for name, width in value)


def flattened(observation: Mapping[str, Any], parts: Parts, what: str) -> np.ndarray:
    """Return one dictionary observation as the vector `[obs]` of its `parts`.

    Raises:
        InputError: a part is missing or of another width, or there are none to look for.
    """
    found = leaves(observation, what)
    vectors = []
    for name, width in parts:
        if name not in found:
            raise InputError(f"{what} lack {name}: they have {reason(', '.join(found))}")
        vectors.append(np.ravel(found[name][1]))
        if vectors[-1].size != width:
            raise InputError(f"{what} have {vectors[-1].size} numbers in {name}: {width} are needed")
    if not vectors:
        raise InputError(f"{what} are a dictionary: vectors are needed")
    return np.concatenate(vectors)


def places(parts: Parts) -> Iterator[tuple[str, slice]]:
    """Yield the name and the columns of each part."""
    start = 0
    for name, width in parts:
        yield name, slice(start, start + width)
        start += width


def columns_of(parts: Parts, key: str) -> np.ndarray:
    """Return the columns, `[n]` int64, of what lies under a key of the outermost dictionary."""
    inner = [np.arange(place.start, place.stop) for name, place in places(parts) if name.split("/")[0] == key]
    return np.concatenate([np.empty(0, np.int64), *inner])


def unlike(observations: np.ndarray, parts: Parts) -> int | None:
    """Find the first column of `achieved_goal` that no column of `observation` equals in all rows, `[N, obs]`.

    Returns:
        The number within `achieved_goal`; None where all of them stand in `observation`.
    """
    candidates = columns_of(parts, OBSERVATION)
    for place, goal in enumerate(columns_of(parts, ACHIEVED)):
        column = observations[:, goal]
        alike = candidates[observations[0, candidates] == column[0]]
        if not any(np.array_equal(observations[:, other], column) for other in alike):
            return place
    return None


def without(parts: Parts, key: str) -> Parts:
    """Return the parts that do not lie under a key of the outermost dictionary."""
    return tuple(part for part in parts if part[0].split("/")[0] != key)


def constant(observations: np.ndarray, parts: Parts) -> list[str]:
    """Name the parts that are the same in all rows `[N, obs]`; a dictionary all of whose parts are, by its key."""
    found = [name for name, place in places(parts) if (observations[:, place] == observations[:1, place]).all()]
    for key in dict.fromkeys(name.split("/")[0] for name, _ in parts):
        inner = [name for name, _ in parts if name.startswith(f"{key}/")]
        if inner and set(inner) <= set(found):
            place = found.index(inner[0])
            found = [name for name in found if name not in inner]
            found.insert(place, key)
    return found


class Flattener:
    """Writes an environment's dictionary observations into vectors, in the documented order.

    Args:
        space: its observation space, a `gymnasium.spaces.Dict` of Boxes of at most one axis, also nested.
        env_id: its id, for messages.
        names: the parts to keep, in that order; all of them by default.

    `parts` are the names and widths that are kept, `size` is the sum of these widths.

    Raises:
        InputError: a part that is no such Box, or a name that the space lacks.
    """

    def __init__(self, space: Mapping[str, Any], env_id: str, names: Sequence[str] | None = None) -> None:
        found = leaves(space, f"{env_id}: observations")
        if lacking := [name for name in names or () if name not in found]:
            raise InputError(
                f"{env_id} has no {reason(', '.join(lacking))} in its observations, which are "
                f"{reason(', '.join(found))}: choose the environment that the data was collected in"
            )
        self.parts: Parts = ()
        self.size: int = 0
        self._places: list[tuple[str, tuple[str, ...], tuple[int, ...], slice]] = []
        for name in names or found:
            keys, box = found[name]
            _check_box(box, f"{env_id} has in its observations, as {reason(name)}, {reason(repr(box))}")
            width = int(np.prod(box.shape))
            self.parts += ((name, width),)
            self._places.append((name, keys, box.shape, slice(self.size, self.size + width)))
            self.size += width

    def box(self) -> Any:
        """Return the `gymnasium.spaces.Box` of the vectors."""
        from gymnasium.spaces import Box

        return Box(-np.inf, np.inf, (self.size,), np.float64)

    def __call__(self, observation: Any, row: np.ndarray) -> str | None:
        """Write one observation into `row` `[size]`; return what is wrong with it, or None."""
        for name, keys, shape, place in self._places:
            value = observation
            try:
                for key in keys:
                    value = value[key]
                if type(value) is not np.ndarray:
                    value = np.asarray(value)
            except Exception:  # a key that is missing, something else than a dictionary, ragged lists
                return f"without {name}, which its observation space has,"
            if value.shape != shape or value.dtype.kind not in NUMERIC_KINDS:
                return f"whose {name} is {value.dtype} of shape {value.shape}, not numbers of shape {shape},"
            row[place] = value
        return None


def _check_box(box: Any, what: str) -> None:
    from gymnasium.spaces import Box

    if not isinstance(box, Box) or len(box.shape) > 1 or 0 in box.shape:
        raise InputError(f"{what}: only vectors and numbers work (Boxes of at most one axis)")
