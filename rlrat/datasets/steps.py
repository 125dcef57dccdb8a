"""Check arrays of steps as a source has them; name the mistake, the episode and the step."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlrat.errors import InputError

STEP_FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")


def step_array(label: str, name: str, value: Any, kinds: str, ndim: int) -> np.ndarray:
    """Convert `value` to an array of `ndim` axes; its type must be of one of NumPy's `kinds`.

    Args:
        label: names the source in messages, such as "hopper.hdf5: episode 3".

    Raises:
        InputError: `value` has another shape or type.
    """
    if isinstance(value, Mapping):
        raise InputError(f"{label}: {name} are a dict: only flat vectors (Box spaces of one axis) can be read")
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{label}: {name} are ragged: one array of equally long rows is needed") from None
    if name == "actions" and array.dtype.kind in "biu":
        wanted = "continuous actions only (floating-point numbers); d3rlpy learns from discrete ones"
        raise InputError(f"{label}: actions are {array.dtype}: {wanted}")
    if array.dtype.kind not in kinds:
        raise InputError(f"{label}: {name} are {array.dtype}: numbers are needed")
    if array.ndim != ndim or 0 in array.shape[1:]:
        wanted = {1: "[steps]", 2: "[steps, features]"}[ndim]
        advice = ""
        if array.ndim == 1 and ndim == 2:
            advice = ": reshape(-1, 1) makes a single component of them"
        elif array.ndim > 2 and name.split("/")[0] in ("observations", "next_observations"):
            advice = ": flat vectors only; d3rlpy learns from images"
        raise InputError(f"{label}: {name} have shape {list(array.shape)}, not {wanted}{advice}")
    return array


def step_flags(label: str, name: str, value: Any) -> np.ndarray:
    """Convert `value` to a bool array `[steps]`; numbers are accepted if they are 0 and 1."""
    flags = step_array(label, name, value, "biuf", ndim=1)
    if flags.dtype.kind != "b" and not np.isin(flags, (0, 1)).all():
        raise InputError(f"{label}: {name} hold {flags[~np.isin(flags, (0, 1))][0]}: true and false (1 and 0) only")
    return flags.astype(bool)


def to_float32(array: np.ndarray) -> np.ndarray:
    """Convert an array to float32; a number that does not fit becomes infinite, and the next check reports it."""
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32, copy=False)


def check_finite(id: str, name: str, array: np.ndarray, starts: np.ndarray) -> None:
    """Refuse NaN and infinite values and name the first; `starts` are the episodes' first rows in `array`."""
    finite = np.isfinite(array)
    if finite.all():
        return
    row, *column = np.argwhere(~finite)[0]
    value = array[(row, *column)]
    at = f" (component {column[0]})" if column else ""
    raise InputError(f"{id}: {name} hold {value} at {where(row, starts)}{at}: finite float32 numbers are needed")


def where(row: int, starts: np.ndarray) -> str:
    """Name the episode and step of a row for a message; `starts` `[E]` are the episodes' first rows."""
    episode = np.searchsorted(starts, row, side="right") - 1
    return f"episode {episode}, step {row - starts[episode]}"
