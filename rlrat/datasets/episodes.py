"""Join whole episodes in Minari's layout (one more observation than steps) to the arrays of a dataset."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rlrat.datasets.bounds import Bounds, bounds_or_datas
from rlrat.datasets.steps import STEP_FIELDS, check_finite, step_array, step_flags, to_float32
from rlrat.environments.observations import (
    ACHIEVED,
    Parts,
    columns_of,
    constant,
    described,
    joined,
    leaves,
    places,
    unlike,
    without,
)
from rlrat.errors import InputError


def join(
    episodes: Iterable[Any], bounds: Bounds | None, id: str, drop_achieved_goal: bool | None = None
) -> dict[str, Any]:
    """Check some episodes and join their arrays; return fields of a `Dataset` by name.

    Arguments and errors are those of `Dataset.from_episodes`.
    """
    checked = [_check_episode(id, index, episode) for index, episode in enumerate(episodes)]
    if not checked:
        raise InputError(f"{id} has no episodes: at least one is needed")
    parts = checked[0]["parts"]
    if other := next((i for i, each in enumerate(checked) if each["parts"] != parts), None):
        found, first = (
            described(each["parts"], each["observations"].shape[1]) for each in (checked[other], checked[0])
        )
        raise InputError(f"{id}: episode {other} has as observations {found}, episode 0 {first}: one kind is needed")
    for name in ("observations", "actions"):
        widths = [each[name].shape[1] for each in checked]
        if other := next((i for i, width in enumerate(widths) if width != widths[0]), None):
            raise InputError(
                f"{id}: episode {other} has {name} of {widths[other]} components, episode 0 of {widths[0]}"
            )
    lengths = np.array([len(each["rewards"]) for each in checked])
    starts = np.cumsum(lengths) - lengths
    returns = np.array([each["return"] for each in checked])
    # `pop`: a field is in memory twice only while it is joined
    flat = {name: np.concatenate([each.pop(name) for each in checked]) for name in STEP_FIELDS}
    log_probs = _join_log_probs(id, checked, starts)
    first = starts + np.arange(len(starts))  # an episode has one observation more than it has steps
    for name, place in places(parts) if parts else [("", slice(None))]:
        check_finite(id, f"observations{name and '/'}{name}", flat["observations"][:, place], first)
    for name in ("actions", "rewards"):
        check_finite(id, name, flat[name], starts)
    bounds, said = bounds_or_datas(id, bounds, flat["actions"])
    low, high = bounds.of(id, flat["actions"].shape[1])
    actions, clipped = bounds.clip(id, flat["actions"], starts, low, high)
    observations = flat.pop("observations")
    if drop_achieved_goal is not False and (columns := kept_columns(id, observations, parts, drop_achieved_goal)):
        observations, parts = observations[:, columns], without(parts, ACHIEVED)
    if never := constant(observations, parts):
        said += (
            f"{id}: {', '.join(never)} {'is' if len(never) == 1 else 'are'} the same in every step: policies "
            "learn for this alone, and normalised observations have 0 there, whatever an evaluation shows",
        )
    return {
        "observations": np.delete(observations, first + lengths, axis=0),
        "actions": actions,
        "rewards": flat["rewards"],
        "next_observations": np.delete(observations, first, axis=0),
        "terminations": flat["terminations"],
        "episode_starts": starts,
        "episode_returns": returns,
        "episode_lengths": lengths,
        "episode_complete": np.ones(len(starts), bool),
        "action_low": low,
        "action_high": high,
        "notes": (*said, *clipped),
        "log_probs": log_probs,
        "observation_parts": parts,
    }


def kept_columns(id: str, observations: np.ndarray, parts: Parts, drop: bool | None) -> list[int]:
    """Return the columns without `achieved_goal` if all of it stands in `observation` in every row; else none.

    Args:
        observations: `[N, obs]`.
        drop: whether the user asked for it.

    Raises:
        InputError: the user asked for it, and there is none or it does not stand there.
    """
    goal = columns_of(parts, ACHIEVED)
    if not len(goal):
        if drop:
            raise InputError(f"{id} has no achieved_goal in its observations: leave out --drop-achieved-goal")
        return []
    if (alone := unlike(observations, parts)) is None:
        return sorted({*range(observations.shape[1])} - {*goal.tolist()})
    if drop:
        raise InputError(
            f"{id}: component {alone} of achieved_goal does not stand in observation, so that it would be lost: "
            "leave out --drop-achieved-goal"
        )
    return []


def _join_log_probs(id: str, checked: list[dict[str, Any]], starts: np.ndarray) -> np.ndarray | None:
    has = ["log_probs" in each for each in checked]
    if not any(has):
        return None
    if not all(has):
        raise InputError(f"{id}: episode {has.index(False)} lacks log_probs, which episode {has.index(True)} has")
    joined = np.concatenate([each.pop("log_probs") for each in checked])
    check_finite(id, "log_probs", joined, starts)
    return joined


def _check_episode(id: str, index: int, episode: Any) -> dict[str, Any]:
    label = f"{id}: episode {index}"
    values = {
        name: episode.get(name) if isinstance(episode, Mapping) else getattr(episode, name, None)
        for name in (*STEP_FIELDS, "log_probs")
    }
    log_probs = values.pop("log_probs")
    if missing := [name for name, value in values.items() if value is None]:
        raise InputError(f"{label} lacks {', '.join(missing)}: an episode has {', '.join(STEP_FIELDS)}")
    observations, parts = _observations(label, values["observations"])
    arrays = {
        "observations": observations,
        "actions": step_array(label, "actions", values["actions"], "f", ndim=2),
        "rewards": step_array(label, "rewards", values["rewards"], "fiu", ndim=1),
        "terminations": step_flags(label, "terminations", values["terminations"]),
        "truncations": step_flags(label, "truncations", values["truncations"]),
    }
    if log_probs is not None:
        arrays["log_probs"] = step_array(label, "log_probs", log_probs, "fiu", ndim=1)
    steps = len(arrays["actions"])
    lengths = {name: len(array) for name, array in arrays.items()}
    if lengths != {name: steps + (name == "observations") for name in arrays}:
        found = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise InputError(f"{label} has {found}: T + 1 observations and T of everything else are needed")
    if steps == 0:
        raise InputError(f"{label} is empty: at least one step is needed")
    for name in ("terminations", "truncations"):
        if arrays[name][:-1].any():
            step = arrays[name].argmax()
            raise InputError(f"{label}: {name} set at step {step} of {steps}: only an episode's last step can end it")
    checked = {name: array if array.dtype == bool else to_float32(array) for name, array in arrays.items()}
    with np.errstate(invalid="ignore"):  # numbers that are not finite are refused
        return {"return": arrays["rewards"].sum(dtype=np.float64), "parts": parts, **checked}


def _observations(label: str, value: Any) -> tuple[np.ndarray, Parts]:
    """Return an episode's observations `[T + 1, obs]` and what they are made of, if they are dictionaries."""
    if not isinstance(value, Mapping):
        return step_array(label, "observations", value, "fiu", ndim=2), ()
    what = f"{label}: observations"
    arrays = {
        name: step_array(label, f"observations/{name}", part, "fiu", ndim=1 if getattr(part, "ndim", 2) == 1 else 2)
        for name, (_, part) in leaves(value, what).items()
    }
    return joined(arrays, what)
