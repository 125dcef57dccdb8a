"""The one dataset type: flat transitions, and where each episode starts in them."""

import hashlib
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from rlrat.errors import InputError

STEP_FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")
_HASHED = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations", "episode_starts")
_MUJOCO_V5 = re.compile(
    "(Ant|HalfCheetah|Hopper|Humanoid|HumanoidStandup|Inverted(Double)?Pendulum|Pusher|Reacher|Swimmer|Walker2d)-v5"
)
_CLIP = 1e-3  # actions this far outside their bounds are rounding, further out a mistake
_CHUNK = 65536  # rows that are widened to float64 at a time


@dataclass(frozen=True, eq=False)
class Dataset:
    """N transitions of E whole episodes, read-only and possibly memory-mapped.

    `terminations` alone makes a state terminal; an episode whose last transition is not terminal has `truncations` set
    there. Each episode's transitions are contiguous. A D4RL episode that was cut by its time limit has lost its last
    step (there is no next observation for it), so `episode_lengths` can exceed the transitions kept, by one.
    """

    id: str
    observations: np.ndarray = field(repr=False)
    """`[N, obs]` float32."""
    actions: np.ndarray = field(repr=False)
    """`[N, act]` float32, within `action_low` and `action_high`."""
    rewards: np.ndarray = field(repr=False)
    """`[N]` float32."""
    next_observations: np.ndarray = field(repr=False)
    """`[N, obs]` float32."""
    terminations: np.ndarray = field(repr=False)
    """`[N]` bool."""
    truncations: np.ndarray = field(repr=False)
    """`[N]` bool."""
    episode_starts: np.ndarray = field(repr=False)
    """`[E]` int64: index of each episode's first transition."""
    episode_returns: np.ndarray = field(repr=False)
    """`[E]` float64: sum of the source's rewards, all steps counted."""
    episode_lengths: np.ndarray = field(repr=False)
    """`[E]` int64: steps in the source."""
    episode_complete: np.ndarray = field(repr=False)
    """`[E]` bool: False where the source breaks off in mid-episode, which only a D4RL file's last episode can."""
    action_low: np.ndarray
    """`[act]` float32."""
    action_high: np.ndarray
    """`[act]` float32."""
    env_id: str | None
    """Gymnasium environment that the data belongs to, as the data names it: text, of which nothing is imported."""
    env_kwargs: dict[str, Any]
    """Its settings, as recorded."""
    env_recorded: dict[str, Any]
    """What else was recorded of it, as JSON: `env_spec` (all of it) and `eval_env_spec`, where there are any."""
    notes: tuple[str, ...]
    """What was changed or assumed when the data was read, a line each: warned of at every load."""
    reference: Literal["v5", "d4rl"] | None
    """The family of reference scores that belongs to the data."""
    fingerprint: str
    """SHA-256 of the transitions' names, shapes, types and bytes: equal for equal content on any machine."""

    def __len__(self) -> int:
        """Transitions."""
        return len(self.rewards)

    @property
    def best_return(self) -> float:
        """The largest return of a complete episode."""
        return float(self._complete_returns().max())

    @property
    def worst_return(self) -> float:
        """The smallest return of a complete episode."""
        return float(self._complete_returns().min())

    def observation_statistics(self, floor: float = 1e-6) -> tuple[np.ndarray, np.ndarray]:
        """Mean and population standard deviation of `observations`, each `[obs]` float64, the latter at least `floor`.

        Sums are taken in float64: in float32 a million rows lose digits.
        """
        chunks = [self.observations[start : start + _CHUNK] for start in range(0, len(self), _CHUNK)]
        mean = sum(chunk.sum(axis=0, dtype=np.float64) for chunk in chunks) / len(self)
        variance = sum(np.square(chunk - mean).sum(axis=0) for chunk in chunks) / len(self)
        return mean, np.maximum(np.sqrt(variance), floor)

    def timesteps(self) -> np.ndarray:
        """Steps from its episode's start of each transition: `[N]` int64."""
        sizes = np.diff(np.append(self.episode_starts, len(self)))
        return np.arange(len(self)) - np.repeat(self.episode_starts, sizes)

    def returns_to_go(self) -> np.ndarray:
        """Undiscounted sum of rewards from each transition to its episode's end, `[N]` float64.

        A step that the dataset has lost at the end of an episode counts; the sums are taken in float64.
        """
        sizes = np.diff(np.append(self.episode_starts, len(self)))
        before = np.cumsum(self.rewards, dtype=np.float64) - self.rewards
        starts = np.repeat(self.episode_starts, sizes)
        return np.repeat(self.episode_returns, sizes) - (before - before[starts])

    def best_episodes(self, share: float) -> "Dataset":
        """The `share` of the episodes, in (0, 1] and rounded up, with the highest returns, in the order they have here.

        Of equal returns the earlier episode is the better. An episode that the source breaks off is no candidate, as
        its return is not known, unless none is complete. The result has a fingerprint of its own; a share that takes
        every candidate gives the dataset itself.

        Chen et al. 2021 count a share of the time steps, not of the episodes.

        Raises:
            InputError: another share, equal returns of all candidates, or best episodes that have no transition.
        """
        if not 0.0 < share <= 1.0:
            raise InputError(f"--best-episodes is {share}, but must be above 0 and at most 1")
        candidates = np.flatnonzero(self.episode_complete | ~self.episode_complete.any())
        count = math.ceil(Fraction(str(share)) * len(candidates))  # as written: in floats 0.07 * 100 is above 7
        if count == len(candidates):
            return self
        returns = self.episode_returns[candidates]
        if returns.min() == returns.max():
            raise InputError(
                f"{self.id}: all {len(candidates)} episodes have the return {returns[0]:g}, so that none is the best: "
                "give --best-episodes 1"
            )
        best = np.sort(candidates[np.argsort(-returns, kind="stable")[:count]])
        steps = np.diff(np.append(self.episode_starts, len(self)))
        rows = np.repeat(np.isin(np.arange(len(steps)), best), steps)
        if not rows.any():
            raise InputError(
                f"{self.id}: the best {count} of {len(candidates)} episodes have no transition: "
                "give a larger --best-episodes"
            )
        columns = ("observations", "actions", "rewards", "next_observations", "terminations")
        episodes = ("episode_returns", "episode_lengths", "episode_complete")
        about = ("action_low", "action_high", "env_id", "env_kwargs", "env_recorded", "reference", "notes")
        return assemble(
            self.id,
            episode_starts=np.cumsum(steps[best]) - steps[best],
            **{name: getattr(self, name)[rows] for name in columns},
            **{name: getattr(self, name)[best] for name in episodes},
            **{name: getattr(self, name) for name in about},
        )

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[Any],
        *,
        id: str = "episodes",
        env_id: str | None = None,
        env_kwargs: Mapping[str, Any] | None = None,
        env_recorded: Mapping[str, Any] | None = None,
        action_low: ArrayLike = -1.0,
        action_high: ArrayLike = 1.0,
    ) -> "Dataset":
        """A dataset from one's own arrays, in Minari's episode layout.

        Args:
            episodes: each a mapping, or an object such as `minari.EpisodeData`, with `observations` `[T + 1, obs]`,
                `actions` `[T, act]`, `rewards` `[T]`, `terminations` `[T]` and `truncations` `[T]`, T >= 1. An episode
                that stops without either flag counts as truncated.
            id: a name for the data.
            env_id: the Gymnasium environment to evaluate in.
            env_kwargs: its settings.
            env_recorded: what else was recorded of it, see the field.
            action_low: least action, one number or `[act]`.
            action_high: greatest action, one number or `[act]`.

        Raises:
            InputError: for data that no agent could learn from, saying which array, episode and step.
        """
        checked = [_check_episode(id, index, episode) for index, episode in enumerate(episodes)]
        if not checked:
            raise InputError(f"{id} has no episodes: at least one is needed")
        for name in ("observations", "actions"):
            widths = [each[name].shape[1] for each in checked]
            if other := next((i for i, width in enumerate(widths) if width != widths[0]), None):
                raise InputError(
                    f"{id}: episode {other} has {name} of {widths[other]} components, episode 0 of {widths[0]}"
                )
        lengths = np.array([len(each["rewards"]) for each in checked])
        starts = np.cumsum(lengths) - lengths
        returns = np.array([each["return"] for each in checked])
        # popped, so that a field is held twice only while it is joined
        flat = {name: np.concatenate([each.pop(name) for each in checked]) for name in STEP_FIELDS}
        first = starts + np.arange(len(starts))  # an episode has one observation more than it has steps
        for name in ("observations", "actions", "rewards"):
            check_finite(id, name, flat[name], first if name == "observations" else starts)
        low, high = _bounds(id, action_low, action_high, flat["actions"].shape[1])
        observations = flat.pop("observations")
        return assemble(
            id,
            observations=np.delete(observations, first + lengths, axis=0),
            actions=clip_actions(id, flat["actions"], starts, low, high),
            rewards=flat["rewards"],
            next_observations=np.delete(observations, first, axis=0),
            terminations=flat["terminations"],
            episode_starts=starts,
            episode_returns=returns,
            episode_lengths=lengths,
            episode_complete=np.ones(len(starts), bool),
            action_low=low,
            action_high=high,
            env_id=env_id,
            env_kwargs=dict(env_kwargs or {}),
            env_recorded=env_recorded,
            reference="v5" if _MUJOCO_V5.fullmatch(env_id or "") else None,
        )

    def _complete_returns(self) -> np.ndarray:
        return self.episode_returns[self.episode_complete] if self.episode_complete.any() else self.episode_returns


def assemble(
    id: str,
    *,
    terminations: np.ndarray,
    episode_starts: np.ndarray,
    env_recorded: Mapping[str, Any] | None = None,
    notes: Iterable[str] = (),
    **fields: Any,
) -> Dataset:
    """A `Dataset` of checked arrays: sets the truncations, freezes the arrays, takes the fingerprint."""
    ends = np.append(episode_starts[1:], len(terminations))
    last = ends[ends > episode_starts] - 1  # a D4RL episode of one step, cut by the time limit, has no transition left
    truncations = np.zeros(len(terminations), bool)
    truncations[last] = ~terminations[last]
    fields |= {"terminations": terminations, "truncations": truncations, "episode_starts": episode_starts}
    for name in ("episode_starts", "episode_lengths"):
        fields[name] = fields[name].astype(np.int64, copy=False)
    for value in fields.values():
        if isinstance(value, np.ndarray):
            value.setflags(write=False)
    about = {"env_recorded": dict(env_recorded or {}), "notes": tuple(notes)}
    return Dataset(id=id, fingerprint=_fingerprint(fields), **about, **fields)


def step_array(label: str, name: str, value: Any, kinds: str, ndim: int) -> np.ndarray:
    """`value` as an array of `ndim` axes whose type is of one of NumPy's `kinds`.

    Args:
        label: names the source in messages, such as "hopper.hdf5: episode 3".

    Raises:
        InputError: another shape or type.
    """
    if isinstance(value, Mapping):
        raise InputError(f"{label}: {name} are a dict: only flat vectors (Box spaces of one axis) can be read")
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"{label}: {name} are ragged: one array of equally long rows is needed") from None
    if name == "actions" and array.dtype.kind in "biu":
        raise InputError(f"{label}: actions are {array.dtype}: continuous actions only (floating-point numbers)")
    if array.dtype.kind not in kinds:
        raise InputError(f"{label}: {name} are {array.dtype}: numbers are needed")
    if array.ndim != ndim or 0 in array.shape[1:]:
        wanted = {1: "[steps]", 2: "[steps, features]"}[ndim]
        raise InputError(f"{label}: {name} have shape {list(array.shape)}, not {wanted}")
    return array


def step_flags(label: str, name: str, value: Any) -> np.ndarray:
    """`value` as a bool array `[steps]`; numbers are taken if they are 0 and 1."""
    flags = step_array(label, name, value, "biuf", ndim=1)
    if flags.dtype.kind != "b" and not np.isin(flags, (0, 1)).all():
        raise InputError(f"{label}: {name} hold {flags[~np.isin(flags, (0, 1))][0]}: true and false (1 and 0) only")
    return flags.astype(bool)


def to_float32(array: np.ndarray) -> np.ndarray:
    """Float32; what does not fit becomes infinite, and is reported as such by the check that follows."""
    with np.errstate(over="ignore"):
        return array.astype(np.float32, copy=False)


def _check_episode(id: str, index: int, episode: Any) -> dict[str, Any]:
    label = f"{id}: episode {index}"
    values = {
        name: episode.get(name) if isinstance(episode, Mapping) else getattr(episode, name, None)
        for name in STEP_FIELDS
    }
    if missing := [name for name, value in values.items() if value is None]:
        raise InputError(f"{label} lacks {', '.join(missing)}: an episode has {', '.join(STEP_FIELDS)}")
    arrays = {
        "observations": step_array(label, "observations", values["observations"], "fiu", ndim=2),
        "actions": step_array(label, "actions", values["actions"], "f", ndim=2),
        "rewards": step_array(label, "rewards", values["rewards"], "fiu", ndim=1),
        "terminations": step_flags(label, "terminations", values["terminations"]),
        "truncations": step_flags(label, "truncations", values["truncations"]),
    }
    steps = len(arrays["actions"])
    lengths = {name: len(array) for name, array in arrays.items()}
    if lengths != {name: steps + (name == "observations") for name in STEP_FIELDS}:
        found = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise InputError(f"{label} has {found}: T + 1 observations and T of everything else are needed")
    if steps == 0:
        raise InputError(f"{label} is empty: at least one step is needed")
    for name in ("terminations", "truncations"):
        if arrays[name][:-1].any():
            step = arrays[name].argmax()
            raise InputError(f"{label}: {name} set at step {step} of {steps}: only an episode's last step can end it")
    checked = {name: array if array.dtype == bool else to_float32(array) for name, array in arrays.items()}
    return {"return": arrays["rewards"].sum(dtype=np.float64), **checked}


def check_finite(id: str, name: str, array: np.ndarray, starts: np.ndarray) -> None:
    """Refuse NaN and infinite values, naming the first; `starts` are the episodes' first rows in `array`."""
    finite = np.isfinite(array)
    if finite.all():
        return
    row, *column = np.argwhere(~finite)[0]
    value = array[(row, *column)]
    at = f" (component {column[0]})" if column else ""
    raise InputError(f"{id}: {name} hold {value} at {_where(row, starts)}{at}: finite float32 numbers are needed")


def _where(row: int, starts: np.ndarray) -> str:
    episode = np.searchsorted(starts, row, side="right") - 1
    return f"episode {episode}, step {row - starts[episode]}"


def _bounds(id: str, low: ArrayLike, high: ArrayLike, actions: int) -> tuple[np.ndarray, np.ndarray]:
    try:
        low, high = (np.broadcast_to(np.asarray(each, np.float32), actions).copy() for each in (low, high))
    except ValueError:
        shapes = f"{list(np.shape(low))} and {list(np.shape(high))}"
        raise InputError(f"{id}: action bounds have shapes {shapes}, the actions {actions} components") from None
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise InputError(f"{id}: action bounds are {low.tolist()} to {high.tolist()}: finite low < high are needed")
    return low, high


def clip_actions(id: str, actions: np.ndarray, starts: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Actions within their bounds: rounding is clipped with one warning, anything more refused."""
    excess = np.maximum(low - actions, actions - high)
    worst = excess.max()
    if worst <= 0:
        return actions
    row, column = np.unravel_index(excess.argmax(), excess.shape)
    bounds = f"[{low[column]:g}, {high[column]:g}]"
    if worst >= _CLIP:
        at = f"{_where(row, starts)} (component {column})"
        raise InputError(f"{id}: actions hold {actions[row, column]:g} at {at}: outside their bounds {bounds}")
    count = np.count_nonzero(excess > 0)
    warnings.warn(f"{id}: clipped {count} actions that lay outside their bounds by up to {worst:.1g}", stacklevel=3)
    return np.clip(actions, low, high)


def _fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in _HASHED:
        array = arrays[name]
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{name} {array.shape} {array.dtype.str}\n".encode())
        digest.update(array)
    return digest.hexdigest()
