"""The one dataset type: flat transitions, and where each episode starts in them."""

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlrat.datasets.bounds import Bounds
from rlrat.datasets.choices import ReferenceFamily
from rlrat.errors import InputError, warn

STEP_FIELDS = ("observations", "actions", "rewards", "terminations", "truncations")
_HASHED = ("observations", "actions", "rewards", "next_observations", "terminations", "truncations", "episode_starts")
_MUJOCO_V5 = re.compile(
    "(Ant|HalfCheetah|Hopper|Humanoid|HumanoidStandup|Inverted(Double)?Pendulum|Pusher|Reacher|Swimmer|Walker2d)-v5"
)
_ROUNDING = 1e-6  # of a sum of float32 numbers, over the sum of their absolute values: each is rounded by up to 6e-8
_CHUNK = 65536  # rows that are widened to float64 at a time

NO_EPISODES = "has no complete episodes, only transitions or what a file breaks off"


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
    """`[E]` bool: False where the source breaks off in mid-episode, as may a file's last one, or shuffled steps."""
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
    reference: ReferenceFamily | None
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

    @property
    def returns_differ(self) -> bool:
        """Whether there are complete episodes whose returns differ by more than sums of float32 rewards round."""
        whole = self.episode_complete
        if not whole.any():
            return False
        sums = np.append(0.0, np.cumsum(np.abs(self.rewards), dtype=np.float64))
        ends = np.append(self.episode_starts[1:], len(self))
        largest = np.maximum(sums[ends] - sums[self.episode_starts], np.abs(self.episode_returns))[whole].max()
        return bool(self.best_return - self.worst_return > _ROUNDING * largest)

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
        its return is not known. The result has a fingerprint of its own; a share that takes every candidate gives the
        dataset itself.

        Chen et al. 2021 count a share of the time steps, not of the episodes.

        Raises:
            InputError: another share, no complete episode, returns of all candidates that are equal or differ by
                rounding alone, or best episodes that have no transition.
        """
        if not 0.0 < share <= 1.0:
            raise InputError(f"--best-episodes is {share}, but must be above 0 and at most 1")
        candidates = np.flatnonzero(self.episode_complete)
        if not len(candidates) and share < 1.0:
            raise InputError(f"{self.id} {NO_EPISODES}, of which none is the best: give --best-episodes 1")
        count = math.ceil(Fraction(str(share)) * len(candidates))  # as written: in floats 0.07 * 100 is above 7
        if count == len(candidates):
            return self
        returns = self.episode_returns[candidates]
        if not self.returns_differ:
            raise InputError(
                f"{self.id}: all {len(candidates)} episodes have the return {returns[0]:g}, but for rounding, so that "
                "none is the best: give --best-episodes 1"
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
        from rlrat.datasets.episodes import join

        about = {"env_id": env_id, "env_kwargs": env_kwargs, "env_recorded": env_recorded}
        dataset = join(episodes, Bounds(action_low, action_high), id=id, **about)
        for note in dataset.notes:
            warn(note)
        return dataset

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


def reference_of(env_id: str | None) -> ReferenceFamily | None:
    """The family of reference scores of an environment's id."""
    return "v5" if _MUJOCO_V5.fullmatch(env_id or "") else None


def _fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in _HASHED:
        array = arrays[name]
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{name} {array.shape} {array.dtype.str}\n".encode())
        digest.update(array)
    return digest.hexdigest()
