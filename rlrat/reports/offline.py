"""Read `offline.csv`: what a run without an environment is judged by, on its data alone."""

import os
from pathlib import Path

import numpy as np

from rlrat.errors import warn
from rlrat.reports.files import read_columns, read_names
from rlrat.runs.schema import FQE_VALUE, OFFLINE

_WHAT = "estimates and held-out losses"


def read_offline(folder: Path, updates: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Read the estimated values of a run's policies at `updates` `[N]`, and all that its last evaluation found.

    Returns:
        The values by fitted Q evaluation `[N]`, NaN where there is none or it is not finite; and the numbers of the
        last update, by column, without those that are not finite. A warning names damaged lines, which are left out.
    """
    values, path = np.full(len(updates), np.nan), folder / OFFLINE
    names = read_names(path, _WHAT)
    if not names and not os.path.lexists(path):
        warn(f"{path} does not exist: no estimates and held-out losses of this run are known")
    columns = read_columns(path, names, _WHAT) if names else {}
    if FQE_VALUE in columns:
        at, estimates = columns[FQE_VALUE]
        _, ours, theirs = np.intersect1d(updates, at, assume_unique=True, return_indices=True)
        values[ours] = estimates[theirs]
    last = updates[-1] if len(updates) else -1
    found = {name: float(numbers[at == last][0]) for name, (at, numbers) in columns.items() if (at == last).any()}
    return values, {name: number for name, number in found.items() if np.isfinite(number)}
