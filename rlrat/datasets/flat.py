"""Make a dataset of one flat sequence of steps, whichever file it comes from.

A terminal step is kept, even if its `timeouts` flag is set or it is the last step: no code may use its next
observation. Without `next_observations` the next observation of a step is the observation of the following one, and a
step with the `timeouts` flag is left out, as is an open last one: what follows it is of another episode.

If there are `next_observations`, they are used, and steps may have any order. Then a step is left out only if its
`timeouts` flag is set and its next observation is the following step's observation: the array was made by a shift, and
that observation is the next episode's first one. A step whose next observation is not the following step's observation
ends its piece. If neither flag is set there, the piece is no complete episode. If most steps end their piece, these are
single transitions, and no episode is complete.

`episode_starts`, as `Dataset.save` writes it, says where each episode starts; then every step is kept as it is.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlrat.datasets.bounds import Bounds, bounds_or_datas
from rlrat.datasets.dataset import Dataset, assemble
from rlrat.datasets.entries import OPTIONAL_VALUES, VALUES
from rlrat.datasets.steps import check_finite, step_array, step_flags, to_float32
from rlrat.environments.observations import as_parts
from rlrat.errors import InputError, reason
from rlrat.json_files import parse_json

NEEDED = ("observations", "actions", "rewards")
STEPS = (*NEEDED, "terminals", "timeouts", "next_observations", "log_probs")
EPISODES = ("episode_starts", "episode_lengths", "episode_returns", "episode_complete")
RECORDED_BOUNDS = ("action_low", "action_high")
SAVED = (*EPISODES, *RECORDED_BOUNDS)
"""What `Dataset.save` writes beside the steps."""
ABOUT = ("env_id", "env_kwargs", "env_recorded", "notes", "reference", "observation_parts")
"""What it writes as one text, JSON, by the name `ABOUT_NAME`."""
ABOUT_NAME = "about"
_VALUES = ("observations", "actions", "rewards", "next_observations", "log_probs")
_MOST_NAMES = 12  # of other arrays that a message names
_ROUNDING = 1e-5  # relative difference between two records of the same observation


@dataclass(frozen=True)
class Limit:
    """The number of steps after which an episode ends if there are no `timeouts`, and whose time limit it is."""

    steps: int | None
    """None for never."""
    env_id: str | None

    def __str__(self) -> str:
        if self.steps is None:
            why = f", as {self.env_id} has no time limit" if self.env_id else ""
            return f"only terminal states end its episodes{why}"
        why = f"the time limit of {self.env_id}" if self.env_id else "a guess (give --env-id for the right limit)"
        return f"its episodes are split after {self.steps} steps, {why}"


def check_steps(
    label: str, arrays: Mapping[str, Any], needed: Iterable[str] = NEEDED, kind: str = "a log"
) -> dict[str, Any]:
    """Check arrays of equally many steps, by the names of `STEPS`; None for an optional one that is missing.

    Args:
        label: names the source in messages.
        needed: the names that may not be missing.
        kind: what has all these, for the message.

    Raises:
        InputError: one is missing, of another shape or type, or of another number of steps.
    """
    found = {name: arrays[name] for name in STEPS if arrays.get(name) is not None}
    if missing := [name for name in needed if name not in found]:
        others = [name for name in arrays if name not in (*STEPS, *SAVED, ABOUT_NAME)][:_MOST_NAMES]
        there = f"; it has {', '.join(others)}" if others else ""
        raise InputError(f"{label} lacks {', '.join(missing)}: {kind} has {', '.join(needed)}{there}")
    for name, array in found.items():
        is_column = name in ("rewards", "terminals", "timeouts", "log_probs")
        if is_column and np.shape(array)[1:] == (1,):
            array = np.asarray(array)[:, 0]  # older files have an axis of length 1
        if name in ("terminals", "timeouts"):
            found[name] = step_flags(label, name, array)
        else:
            found[name] = step_array(label, name, array, "f" if name == "actions" else "fiu", 1 if is_column else 2)
    lengths = {name: len(array) for name, array in found.items()}
    if len(set(lengths.values())) > 1:
        counts = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise InputError(f"{label} has {counts}: all must be equally many")
    if lengths["rewards"] == 0:
        raise InputError(f"{label} is empty: it has no steps")
    shapes = [found[name].shape for name in ("observations", "next_observations") if name in found]
    if shapes[0] != shapes[-1]:
        raise InputError(f"{label} has observations {list(shapes[0])} and next_observations {list(shapes[1])}")
    return {**dict.fromkeys(STEPS), **found}


def of_steps(
    id: str,
    label: str,
    arrays: Mapping[str, Any],
    bounds: Bounds | None,
    limit: Limit,
    *,
    published: bool = False,
    **about: Any,
) -> Dataset:
    """Make the dataset of checked steps.

    Args:
        label: names the source in messages.
        arrays: as `check_steps` returns them.
        bounds: of the actions; None for the least and greatest action of the data.
        limit: the time limit that ends episodes where there are no `timeouts`.
        published: whether this is one of D4RL's own sets, which leave more steps out, see `rlrat.datasets.d4rl`.
        about: further fields of the dataset.

    Raises:
        InputError: a number is not finite, an action is outside its bounds, or no step is left.
    """
    about = {"env_id": None, "env_kwargs": {}, "reference": None, **about}
    arrays, notes = dict(arrays), []
    rewards, terminals, timeouts = arrays["rewards"], arrays["terminals"], arrays["timeouts"]
    steps = len(rewards)
    if terminals is None:
        terminals = np.zeros(steps, bool)
    with np.errstate(invalid="ignore"):  # numbers that are not finite are refused
        exact_rewards = rewards.astype(np.float64)
    for name in _VALUES:
        if arrays[name] is not None:
            arrays[name] = to_float32(arrays[name])
    observations, following = arrays["observations"], arrays["next_observations"]

    breaks = np.zeros(steps, bool) if following is None else _breaks(observations, following)
    if timeouts is None:
        timeouts = np.zeros(steps, bool)
        if following is not None and limit.steps is not None:  # the observations show where an episode continues
            timeouts = breaks & (_ages(terminals | breaks) == limit.steps - 1)
        elif limit.steps is not None:
            timeouts = _ages(terminals) % limit.steps == limit.steps - 1
        if following is None and (terminals.any() or limit != Limit(None, None)):
            notes.append(f"{label} has no timeouts: {limit}")
    flagged = terminals | timeouts
    if limit == Limit(None, None) and not (flagged | breaks)[:-1].any():
        notes.append(f"{label}: no step before the last one ends an episode: all {steps} steps are one")
    ends = np.flatnonzero(flagged | breaks)
    starts = np.append(0, ends + 1)
    starts = starts[starts < steps]
    last = np.append(starts[1:], steps) - 1
    complete = flagged[last] & np.append(True, flagged[last[:-1]])
    if odd := np.count_nonzero((breaks & ~flagged)[:-1]):
        single = odd > np.count_nonzero(~breaks & ~flagged)
        complete &= not single
        what = "it holds single transitions, no episodes" if single else "the pieces count as no complete episodes"
        if not single and arrays["timeouts"] is None and limit.env_id is None and limit.steps is not None:
            what += f" (without --env-id, their time limit is taken to be {limit.steps} steps)"
        notes.append(f"{label}: the next observation of {odd} of {steps} steps is not the following step's: {what}")
    actions, about["action_low"], about["action_high"] = _check_values(label, arrays, starts, bounds, notes)
    kept = ~timeouts if published else ~timeouts | terminals
    kept[-1] = terminals[-1] and not published
    if following is not None:
        kept = breaks | terminals | ~timeouts
    rows = np.flatnonzero(kept)
    following = observations[np.minimum(rows + 1, steps - 1)] if following is None else following[rows]
    if len(rows) == 0:
        raise InputError(f"{label} has no transition: each needs the step that follows it in its episode")
    return assemble(
        id,
        observations=observations[rows],
        actions=actions[rows],
        rewards=arrays["rewards"][rows],
        next_observations=following,
        terminations=terminals[rows],
        log_probs=None if arrays["log_probs"] is None else arrays["log_probs"][rows],
        episode_starts=np.append(0, np.cumsum(kept))[starts],
        episode_returns=np.add.reduceat(exact_rewards, starts),
        episode_lengths=np.diff(np.append(starts, steps)),
        episode_complete=complete,
        notes=notes,
        **about,
    )


def of_saved(
    id: str,
    label: str,
    arrays: Mapping[str, Any],
    episodes: Mapping[str, Any],
    bounds: Bounds | None,
    otherwise: Bounds | None,
    about: str | None,
) -> Dataset:
    """Make the dataset of what `Dataset.save` wrote: steps with `next_observations`, and where each episode starts.

    Args:
        label: names the source in messages.
        arrays: as `check_steps` returns them.
        episodes: `SAVED` by name; all but `episode_starts` may be missing.
        bounds: the bounds that the user gave; they replace the recorded ones.
        otherwise: the bounds where none are recorded.
        about: `ABOUT` as JSON, if it was recorded.

    Raises:
        InputError: the arrays do not fit together, or a number is not finite.
    """
    steps, found = len(arrays["rewards"]), {name: episodes.get(name) for name in SAVED}
    if arrays["next_observations"] is None:
        raise InputError(f"{label} has episode_starts, but no next_observations, which is needed beside it")
    starts = np.asarray(found["episode_starts"])
    fits = starts.ndim == 1 and starts.dtype.kind in "iu" and len(starts) and starts[0] == 0
    if not (fits and (np.diff(starts) >= 0).all() and starts[-1] <= steps):
        raise InputError(
            f"{label}: episode_starts must be integers that start with 0 and grow up to {steps}, the steps"
        )
    arrays = {
        name: to_float32(array) if name in _VALUES else array for name, array in arrays.items() if array is not None
    }
    sums = np.append(0.0, np.cumsum(arrays["rewards"], dtype=np.float64))
    ends = np.append(starts[1:], steps)
    defaults = {"lengths": ends - starts, "returns": sums[ends] - sums[starts], "complete": np.ones(len(starts), bool)}
    for name, default in defaults.items():
        value = np.asarray(default if found[f"episode_{name}"] is None else found[f"episode_{name}"])
        if value.shape != starts.shape or value.dtype.kind not in "biuf" or not np.isfinite(value).all():
            raise InputError(f"{label}: episode_{name} must be a finite number for each of {len(starts)} episodes")
        found[f"episode_{name}"] = value.astype(default.dtype)
    if (found["episode_lengths"] < np.maximum(ends - starts, 1)).any():
        raise InputError(f"{label}: episode_lengths has fewer steps than the episode that starts there")
    if bounds is None and all(found[name] is not None for name in RECORDED_BOUNDS):
        bounds = Bounds(*(found[name] for name in RECORDED_BOUNDS), "that it records", "give --action-bounds LOW HIGH")
    bounds = bounds or otherwise
    told = _read_about(label, about)
    notes, parts = list(told.pop("notes")), as_parts(told.pop("observation_parts"))
    if parts and sum(width for _, width in parts) != (width := arrays["observations"].shape[1]):
        raise InputError(f"{label}: {ABOUT_NAME} has other observation_parts than the {width} components there are")
    actions, low, high = _check_values(label, arrays, starts, bounds, notes)
    return assemble(
        id,
        **{name: arrays[name] for name in ("observations", "rewards", "next_observations")},
        actions=actions,
        log_probs=arrays.get("log_probs"),
        terminations=arrays["terminals"] if "terminals" in arrays else np.zeros(steps, bool),
        **{name: found[name] for name in EPISODES if name != "episode_starts"},
        episode_starts=starts.astype(np.int64),
        action_low=low,
        action_high=high,
        notes=notes,
        observation_parts=parts,
        **told,
    )


def _read_about(label: str, text: str | None) -> dict[str, Any]:
    told = {"env_id": None, "env_kwargs": {}, "env_recorded": {}, "notes": [], "reference": None}
    told |= {"observation_parts": []}
    if text is None:
        return told
    try:
        content = parse_json(text)
        told |= {name: content[name] for name in ABOUT if name in content}
        wrong = next((name for name in ABOUT if not {**VALUES, **OPTIONAL_VALUES}[name](told[name])), None)
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(
            f"{label}: {ABOUT_NAME} cannot be read ({reason(error)}): JSON as Dataset.save writes it is needed"
        ) from None
    if wrong is not None:
        raise InputError(f"{label}: {ABOUT_NAME} has a wrong {wrong}: JSON as Dataset.save writes it is needed")
    return told


def _check_values(
    label: str, arrays: Mapping[str, Any], starts: np.ndarray, bounds: Bounds | None, notes: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check every number; return actions `[N, act]` within their bounds, and the bounds `[act]`."""
    for name in _VALUES:
        if arrays.get(name) is not None:
            check_finite(label, name, arrays[name], starts)
    bounds, said = bounds_or_datas(label, bounds, arrays["actions"])
    low, high = bounds.of(label, arrays["actions"].shape[1])
    actions, clipped = bounds.clip(label, arrays["actions"], starts, low, high)
    notes += [*said, *clipped]
    return actions, low, high


def _breaks(observations: np.ndarray, following: np.ndarray) -> np.ndarray:
    """Return flags `[N]` of the steps whose next observation is not the following step's, and of the last step."""
    with np.errstate(invalid="ignore"):  # numbers that are not finite are refused
        differ = np.abs(following[:-1] - observations[1:]) > _ROUNDING * (1.0 + np.abs(observations[1:]))
    return np.append(differ.any(axis=1), True)


def _ages(ends: np.ndarray) -> np.ndarray:
    """Count for each step `[N]` the steps since the last one that `ends` an episode."""
    steps = np.arange(len(ends))
    first = np.zeros(len(ends), np.int64)
    first[1:] = np.maximum.accumulate(np.where(ends, steps + 1, 0))[:-1]
    return steps - first
