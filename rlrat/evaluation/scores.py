"""Find reference returns, compute normalised scores 100 (return - random) / (expert - random) and heights of curves.

The families are never mixed. D4RL's references belong to its datasets and their environments, the v5 ones to Minari's
MuJoCo datasets and Gymnasium's -v5 environments. Those of success are no returns: AntMaze and OGBench's single-task
environments are scored by 100 x the success rate, as in their papers.
"""

import difflib
import importlib.util
import json
import runpy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from rlrat.datasets.choices import ReferenceFamily
from rlrat.datasets.d4rl_names import DATE, NAMES
from rlrat.environments.success import scored_by_success
from rlrat.errors import InputError

FAMILIES = get_args(ReferenceFamily)
Measure = Literal["return", "success"]
"""What scores are of: an episode's return, or the success rate whatever the returns."""


@dataclass(frozen=True)
class Reference:
    """The mean returns, or success rates, that a score of 0 and of 100 stand for."""

    name: str
    """Family and version, such as v5-2026.11 or d4rl-v2; of success rates, success."""
    env_id: str
    """The environment, or dataset, that they belong to."""
    random: float
    """Mean return of a uniform-random policy; success rate 0."""
    expert: float
    """Mean return of the expert; success rate 1."""
    source: str
    date: str
    """ISO 8601: when they were measured or published."""
    measure: Measure = "return"
    measured_with: str = ""
    """Packages that made the environment where the returns were measured, if it is known."""

    def normalize(self, values: ArrayLike) -> np.ndarray:
        """Return the scores of returns, or success rates, 0 for random and 100 for expert; NaN stays NaN.

        Args:
            values: in the reference's `measure`, any shape, which is also the result's.
        """
        return normalize(values, self.random, self.expert)


def normalize(returns: ArrayLike, random: float, expert: float) -> np.ndarray:
    """Return the scores of `returns`, 0 for the return `random` and 100 for `expert`, in their shape; NaN stays NaN."""
    return 100 * (np.asarray(returns, np.float64) - random) / (expert - random)


def mean_height(updates: np.ndarray, values: np.ndarray, start: float, end: float) -> float:
    """Return the area under a run's curve between two updates / their distance: a mean in the unit of `values`.

    The area is a sum of trapezoids between evaluations. If no evaluation lies at `start` or `end`, the line through
    its neighbours gives the value there. If both are the same update, the result is the value there.

    Args:
        updates: updates of the evaluations, ascending, `[N]`.
        values: values of the curve, `[N]`.
    """
    inside = (updates > start) & (updates < end)
    x = np.concatenate(([start], updates[inside], [end]))
    y = np.interp(x, updates, values)
    return float(np.diff(x) @ (y[1:] + y[:-1]) / 2 / (end - start)) if end > start else float(y[0])


def normalized_score(env_id: str, returns: ArrayLike, reference: ReferenceFamily = "v5") -> np.ndarray:
    """Return the normalised scores of undiscounted returns: 100 (return - random) / (expert - random).

    Args:
        env_id: an environment (Hopper-v5; with "d4rl" also Hopper-v4) or, with "d4rl", a dataset (hopper-medium-v2).
            With "success" AntMaze (AntMaze_UMaze-v5, antmaze-umaze-v2) or a single-task environment of OGBench.
        returns: any shape; with "success" success rates in [0, 1], whose score is 100 x the rate.
        reference: "v5", "d4rl" or "success"; "recorded" scores belong to a dataset and are not known here.

    Raises:
        InputError: no such family, or no reference for `env_id` in it.
    """
    found = find_reference(env_id, reference)
    if found is None and reference == "success":
        raise InputError(
            f"{env_id!r} is not scored by success rates: AntMaze (AntMaze_UMaze-v5, antmaze-umaze-v2) is, and so are "
            "OGBench's single-task environments (cube-single-singletask-v0)"
        )
    if found is None and reference == "recorded":
        raise InputError(
            f"recorded references belong to a dataset, not to {env_id!r}: give recorded_reference(env_id, "
            "dataset.env_recorded).normalize(returns)"
        )
    if found is None:
        known = references(reference)
        nearest = difflib.get_close_matches(env_id, known, n=1, cutoff=0)
        raise InputError(
            f"no {reference} reference for {env_id!r}; the nearest is {nearest[0]}, known are {', '.join(known)}"
        )
    return found.normalize(returns)


def find_reference(
    env_id: str, reference: ReferenceFamily = "v5", env_kwargs: Mapping[str, Any] | None = None
) -> Reference | None:
    """Find the reference of an environment or D4RL dataset; return None if there is none.

    Every return was measured in the environment as it is registered. With other settings (`env_kwargs`, for example
    another `xml_file`) there is no reference, but for success rates, which need none.

    Raises:
        InputError: no such family.
    """
    if reference == "success" and (paper := scored_by_success(env_id)) is not None:
        return Reference("success", env_id, 0.0, 1.0, *paper, measure="success")
    return None if env_kwargs else references(reference).get(env_id)


def recorded_reference(env_id: str, env_recorded: Mapping[str, Any]) -> Reference | None:
    """Return the reference that the author of a dataset recorded with it; None if the numbers are none.

    Args:
        env_id: the environment that the dataset was recorded in.
        env_recorded: of the dataset; it may be any JSON.
    """
    try:
        random, expert = (float(env_recorded[name]) for name in ("ref_min_score", "ref_max_score"))
    except (KeyError, TypeError, ValueError):
        return None
    if not random < expert:  # nor for NaN
        return None
    return Reference("recorded", env_id, random, expert, "recorded with the dataset", "")


def references(reference: ReferenceFamily = "v5") -> dict[str, Reference]:
    """Return all references of a family by environment id or, for "d4rl", by dataset name.

    There is no table of "success": `find_reference` makes them for the ids that `scored_by_success` knows. Those of
    "recorded" are the datasets' own: `recorded_reference` has them.

    Raises:
        InputError: no such family.
    """
    if reference not in FAMILIES:
        raise InputError(f"unknown reference {reference!r}: choose one of {', '.join(FAMILIES)}")
    tables = {"v5": _v5_references, "d4rl": _d4rl_references, "success": dict, "recorded": dict}
    return tables[reference]().copy()


@cache
def _v5_references() -> dict[str, Reference]:
    """Read the references that scripts/benchmarks/reference_scores.py measured and wrote."""
    table = json.loads(Path(__file__).with_name("reference_scores.json").read_text(encoding="utf-8"))
    return {
        env_id: Reference(
            name=table["name"],
            env_id=env_id,
            random=entry["random"]["return_mean"],
            expert=entry["expert"]["return_mean"],
            source=f"random: {table['random_source']}; expert: {entry['expert']['source']}",
            date=table["date"],
            measured_with=", ".join(f"{name} {table['versions'][name]}" for name in ("gymnasium", "mujoco")),
        )
        for env_id, entry in table["environments"].items()
    }


@cache
def _d4rl_references() -> dict[str, Reference]:
    found = {}
    for name, entry in NAMES.items():
        values = (entry.random, entry.expert, entry.source, DATE)
        found[name] = Reference(f"d4rl-{name[-2:]}", name, *values, measured_with=entry.measured_with)
        if entry.family == "locomotion" and name.endswith("-v2"):
            # The data is from -v2 environments. The nearest that installs, -v4, takes their references.
            for key in (entry.env_id, entry.env_id.replace("-v4", "-v2")):
                found[key] = replace(found[name], env_id=key)
    return found


@dataclass(frozen=True)
class D4RLTables:
    """The tables of an installed `d4rl`, each by dataset name."""

    urls: dict[str, str]
    random: dict[str, float]
    expert: dict[str, float]


def d4rl_tables() -> D4RLTables | None:
    """Read the tables of the installed package `d4rl` (the extra `d4rl`); return None if it is not installed.

    `import d4rl` needs MuJoCo 2.1.0 in the home folder. For this reason only its infos.py is run: it holds just these
    tables and the loops that fill in their v1 and v2 entries.

    Raises:
        InputError: the installed d4rl lacks these tables.
    """
    spec = importlib.util.find_spec("d4rl")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(spec.submodule_search_locations[0]) / "infos.py"
    try:
        tables = runpy.run_path(str(path))
        return D4RLTables(tables["DATASET_URLS"], tables["REF_MIN_SCORE"], tables["REF_MAX_SCORE"])
    except (OSError, KeyError) as error:
        raise InputError(f"{path} has no tables of URLs and reference scores ({error}): install d4rl 1.1") from None
