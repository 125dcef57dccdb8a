"""Define the one dataset type: flat transitions, and the index at which each episode starts."""

import hashlib
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlrat.datasets.bounds import Bounds, some
from rlrat.datasets.choices import ReferenceFamily
from rlrat.datasets.episodes import join, kept_columns
from rlrat.datasets.saving import write
from rlrat.environments.observations import ACHIEVED, Parts, columns_of, listed, without
from rlrat.environments.success import scored_by_success
from rlrat.errors import InputError, warn

_HASHED = (
    "observations",
    "actions",
    "rewards",
    "next_observations",
    "terminations",
    "truncations",
    "episode_starts",
    "log_probs",
)
_MUJOCO_V5 = re.compile(
    "(Ant|HalfCheetah|Hopper|Humanoid|HumanoidStandup|Inverted(Double)?Pendulum|Pusher|Reacher|Swimmer|Walker2d)-v5"
)
_ROUNDING = 1e-6  # error of a sum of float32 numbers / sum of their absolute values: each is rounded by up to 6e-8
_CHUNK = 65536  # rows that are widened to float64 at a time

NEVER = 1e30
"""Standard deviation of what never changes: large enough that float32 numbers divided by it are 0, and finite."""
NO_EPISODES = "has no complete episodes, only transitions or what a file breaks off"


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """N transitions of E whole episodes, read-only and possibly memory-mapped.

    Only `terminations` makes a state terminal. If the last transition of an episode is not terminal, `truncations` is
    set there. Each episode's transitions are contiguous. A D4RL episode that was cut by its time limit has lost its
    last step, as it has no next observation: `episode_lengths` can exceed the number of kept transitions by one.
    """

    id: str
    observations: np.ndarray
    """`[N, obs]` float32."""
    actions: np.ndarray
    """`[N, act]` float32, within `action_low` and `action_high`."""
    rewards: np.ndarray
    """`[N]` float32."""
    next_observations: np.ndarray
    """`[N, obs]` float32."""
    terminations: np.ndarray
    """`[N]` bool."""
    truncations: np.ndarray
    """`[N]` bool."""
    episode_starts: np.ndarray
    """`[E]` int64: index of each episode's first transition."""
    episode_returns: np.ndarray
    """`[E]` float64: sum of the source's rewards, all steps counted."""
    episode_lengths: np.ndarray
    """`[E]` int64: steps in the source."""
    episode_complete: np.ndarray
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
    """What else was recorded of it, as JSON: `env_spec` (all of it), `eval_env_spec`, and the mean returns of a random
    policy and an expert, `ref_min_score` and `ref_max_score`, where there are any."""
    notes: tuple[str, ...]
    """What was changed or assumed when the data was read, a line each: warned of at every load."""
    reference: ReferenceFamily | None
    """The family of reference scores that belongs to the data."""
    fingerprint: str
    """SHA-256 of the transitions' names, shapes, types and bytes: equal for equal content on any machine."""
    log_probs: np.ndarray | None = None
    """`[N]` float32: the logarithm of the density with which the policy behind the data chose each action, if known."""
    observation_parts: Parts = ()
    """Names and widths of what `observations` are made of, in their order; () if the source has no dictionaries."""
    training: "Dataset | None" = None
    """The training set that this one was held out from: it has its units, see `split`."""

    def __len__(self) -> int:
        """Return the number of transitions."""
        return len(self.rewards)

    def __repr__(self) -> str:
        """Describe shapes, episodes, returns, lengths, bounds and environment, a line each."""
        shapes = f"{self.observations.shape[1]} observations, {self.actions.shape[1]} actions"
        whole = np.count_nonzero(self.episode_complete)
        broken = "" if whole == len(self.episode_starts) else f", {whole} of them complete"
        terminal = np.count_nonzero(self.terminations)
        lines = [
            f"Dataset {self.id}: {len(self):,} transitions ({shapes}{', log_probs' * (self.log_probs is not None)})",
            f"episodes  {len(self.episode_starts):,}{broken}; {terminal:,} end in a terminal state",
            f"returns   {_spread(self._complete_returns())}",
            f"lengths   {_spread(self.episode_lengths)} steps",
            f"actions   from {some(self.action_low)} to {some(self.action_high)}",
            f"env_id    {self.env_id}",
        ]
        if self.observation_parts:
            lines.insert(1, f"parts     {listed(self.observation_parts)}")
        held = [] if self.training is None else [f"held out  from {len(self.training):,} transitions to train on"]
        return "\n  ".join([*lines, *held])

    @property
    def best_return(self) -> float:
        """Return the largest return of a complete episode."""
        if self.training is not None:
            return self.training.best_return
        return float(self._complete_returns().max())

    @property
    def worst_return(self) -> float:
        """Return the smallest return of a complete episode."""
        if self.training is not None:
            return self.training.worst_return
        return float(self._complete_returns().min())

    @property
    def longest_episode(self) -> int:
        """Return the steps of the longest complete episode, 0 where none is complete."""
        if self.training is not None:
            return self.training.longest_episode
        return int(self.episode_lengths[self.episode_complete].max(initial=0))

    @property
    def returns_differ(self) -> bool:
        """Return whether returns of complete episodes differ by more than the rounding of sums of float32 rewards."""
        if self.training is not None:
            return self.training.returns_differ
        whole = self.episode_complete
        if not whole.any():
            return False
        sums = np.append(0.0, np.cumsum(np.abs(self.rewards), dtype=np.float64))
        ends = np.append(self.episode_starts[1:], len(self))
        largest = np.maximum(sums[ends] - sums[self.episode_starts], np.abs(self.episode_returns))[whole].max()
        return bool(self.best_return - self.worst_return > _ROUNDING * largest)

    def observation_statistics(self, floor: float = 1e-6) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and population standard deviation (at least `floor`) of `observations`, each `[obs]` float64.

        Sums are taken in float64: in float32, sums of a million rows lose digits. A component of dictionaries that
        never changes, such as the goal of data with one goal, has the deviation `NEVER`: divided by it, whatever an
        evaluation shows there is 0, as it was in training. Divided by `floor`, another goal would be some hundred
        thousand, and nothing else would count.
        """
        if self.training is not None:
            return self.training.observation_statistics(floor)
        chunks = [self.observations[start : start + _CHUNK] for start in range(0, len(self), _CHUNK)]
        mean = sum(chunk.sum(axis=0, dtype=np.float64) for chunk in chunks) / len(self)
        variance = sum(np.square(chunk - mean).sum(axis=0) for chunk in chunks) / len(self)
        std = np.maximum(np.sqrt(variance), floor)
        if self.observation_parts:
            std[np.all([(chunk == chunks[0][0]).all(axis=0) for chunk in chunks], axis=0)] = NEVER
        return mean, std

    @property
    def episode_sizes(self) -> np.ndarray:
        """Return the number of transitions of each episode, `[E]` int64."""
        return np.diff(np.append(self.episode_starts, len(self)))

    def timesteps(self) -> np.ndarray:
        """Return the number of steps from the episode's start to each transition, `[N]` int64."""
        return np.arange(len(self)) - np.repeat(self.episode_starts, self.episode_sizes)

    def steps_left(self) -> np.ndarray:
        """Return the number of transitions that follow each one in its episode, `[N]` int64."""
        ends = self.episode_starts + self.episode_sizes
        return np.repeat(ends, self.episode_sizes) - 1 - np.arange(len(self))

    def returns_to_go(self) -> np.ndarray:
        """Return the undiscounted sum of rewards from each transition to its episode's end, `[N]` float64.

        The reward of a step that the dataset lost at the end of an episode counts. Sums are taken in float64.
        """
        sizes = self.episode_sizes
        before = np.cumsum(self.rewards, dtype=np.float64) - self.rewards
        starts = np.repeat(self.episode_starts, sizes)
        return np.repeat(self.episode_returns, sizes) - (before - before[starts])

    def best_episodes(self, share: float) -> "Dataset":
        """Keep the `share` of the episodes, in (0, 1] and rounded up, with the highest returns, in their order.

        If returns are equal, the earlier episode is kept first. An episode that the source breaks off is no candidate:
        its return is unknown. The result has its own fingerprint; a share that takes every candidate returns the
        dataset itself.

        Chen et al. 2021 count a share of the time steps, not of the episodes.

        Raises:
            InputError: the share is not in (0, 1], no episode is complete, the returns of all candidates are equal up
                to rounding, or the best episodes have no transition.
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
        steps = self.episode_sizes
        rows = np.repeat(np.isin(np.arange(len(steps)), best), steps)
        if not rows.any():
            raise InputError(
                f"{self.id}: the best {count} of {len(candidates)} episodes have no transition: "
                "give a larger --best-episodes"
            )
        return self._episodes(best)

    def with_bounds(self, bounds: Bounds) -> "Dataset":
        """Return the same data with other bounds of its actions.

        Raises:
            InputError: the bounds do not fit the actions.
        """
        low, high = bounds.of(self.id, self.actions.shape[1])
        if np.array_equal(low, self.action_low) and np.array_equal(high, self.action_high):
            return self
        actions, notes = bounds.clip(self.id, self.actions, self.episode_starts, low, high)
        return self._changed(action_low=low, action_high=high, actions=actions, notes=(*self.notes, *notes))

    def without_achieved_goal(self) -> "Dataset":
        """Leave `achieved_goal` out of the observations, unless that is done already.

        Raises:
            InputError: it does not stand in `observation`, or observations are no dictionaries.
        """
        if self.observation_parts and not len(columns_of(self.observation_parts, ACHIEVED)):
            return self
        arrays, parts = {}, self.observation_parts
        for name in ("observations", "next_observations"):
            array = getattr(self, name)
            arrays[name] = array[:, kept_columns(self.id, array, parts, drop=True)]
        return self._changed(**arrays, observation_parts=without(parts, ACHIEVED))

    def _episodes(self, chosen: np.ndarray) -> "Dataset":
        """Return the dataset of the episodes with the numbers `chosen`, in that order."""
        steps = self.episode_sizes[chosen]
        starts = np.cumsum(steps) - steps
        rows = np.arange(steps.sum()) + np.repeat(self.episode_starts[chosen] - starts, steps)
        columns = ("observations", "actions", "rewards", "next_observations", "terminations", "log_probs")
        episodes = ("episode_returns", "episode_lengths", "episode_complete")
        return self._changed(
            episode_starts=starts,
            **{name: array[rows] for name in columns if (array := getattr(self, name)) is not None},
            **{name: getattr(self, name)[chosen] for name in episodes},
        )

    def _changed(self, **changes: Any) -> "Dataset":
        """Return the dataset with other arrays or other about it, and the fingerprint and truncations of those."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for derived in ("truncations", "fingerprint"):
            del values[derived]
        return assemble(**values | changes)

    def split(self, share: float, seed: int) -> tuple["Dataset", "Dataset"]:
        """Split off a `share` of the episodes, drawn by `seed`; return those to train on, and the held-out ones.

        The share, in (0, 1), is rounded to episodes, at least one on each side; each side keeps them in their order.
        Both sides have the id, the bounds and fingerprints of their own. What is held out is in the units of the rest:
        its `observation_statistics`, `best_return`, `worst_return`, `longest_episode` and `returns_differ` are those of
        the training set, so that a learner that is made of it has the units of one that is made of that.

        Raises:
            InputError: the share is not in (0, 1), there is a single episode, or one side has no transition.
        """
        if not 0.0 < share < 1.0:
            raise InputError(f"the share of held-out episodes is {share}, but must be above 0 and below 1")
        count = len(self.episode_starts)
        if count < 2:
            raise InputError(f"{self.id} has one episode: holding some out needs at least two")
        held = min(max(round(share * count), 1), count - 1)
        order = np.random.default_rng(seed).permutation(count)
        rest, chosen = (self._episodes(np.sort(part)) for part in (order[held:], order[:held]))
        if not len(rest) or not len(chosen):
            raise InputError(
                f"{self.id}: a side of the split has no transition: hold out another share of the episodes"
            )
        return rest, replace(chosen, training=rest)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the dataset to a path that does not exist; `load_dataset` reads it with the same fingerprint.

        Args:
            path: ends in `.npz`, in `.hdf5` or `.h5` (D4RL's layout), or names a new folder (Minari's layout). Names
                and shapes of what is in them are in the guide to data.

        Raises:
            InputError: it exists already or cannot be written, or Minari's layout cannot hold the dataset: it has whole
                episodes alone.
        """
        write(Path(path), {field.name: getattr(self, field.name) for field in fields(self)})

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
        drop_achieved_goal: bool | None = None,
    ) -> "Dataset":
        """Make a dataset from your own arrays, in Minari's episode layout.

        Args:
            episodes: each a mapping, or an object such as `minari.EpisodeData`, with `observations` `[T + 1, obs]`,
                `actions` `[T, act]`, `rewards` `[T]`, `terminations` `[T]` and `truncations` `[T]`, T >= 1. An episode
                that stops without either flag counts as truncated. `log_probs` `[T]` may be there, too. Observations
                may be dictionaries of arrays `[T + 1]` or `[T + 1, features]`, also in each other; the guide to data
                has their order.
            id: a name for the data.
            env_id: the Gymnasium environment to evaluate in.
            env_kwargs: its settings.
            env_recorded: what else was recorded of the environment, see the field.
            action_low: least action, one number or `[act]`.
            action_high: greatest action, one number or `[act]`.
            drop_achieved_goal: of dictionaries, whether to leave `achieved_goal` out, which must stand in `observation`
                then; by default it is left out where it stands there.

        Raises:
            InputError: no agent could learn from the data; the message names the array, episode and step.
        """
        bounds = Bounds(action_low, action_high)
        about = {"env_id": env_id, "env_kwargs": env_kwargs, "env_recorded": env_recorded}
        dataset = of_episodes(episodes, bounds, id, **about, drop_achieved_goal=drop_achieved_goal)
        for note in dataset.notes:
            warn(note)
        return dataset

    def _complete_returns(self) -> np.ndarray:
        return self.episode_returns[self.episode_complete] if self.episode_complete.any() else self.episode_returns


def of_episodes(
    episodes: Iterable[Any],
    bounds: Bounds | None,
    id: str,
    *,
    label: str = "",
    env_id: str | None,
    env_kwargs: Mapping[str, Any] | None = None,
    env_recorded: Mapping[str, Any] | None = None,
    drop_achieved_goal: bool | None = None,
) -> Dataset:
    """Make the dataset of some episodes; arguments and errors are those of `Dataset.from_episodes`.

    Without bounds they are the least and greatest action. The label names the source in messages, by default the id.
    """
    about = {"env_id": env_id, "env_kwargs": dict(env_kwargs or {}), "env_recorded": env_recorded}
    fields = join(episodes, bounds, label or id, drop_achieved_goal)
    reference = reference_of(env_id) or ("recorded" if "ref_max_score" in (env_recorded or {}) else None)
    return assemble(id, **fields, **about, reference=reference)


def assemble(
    id: str,
    *,
    terminations: np.ndarray,
    episode_starts: np.ndarray,
    env_recorded: Mapping[str, Any] | None = None,
    notes: Iterable[str] = (),
    **fields: Any,
) -> Dataset:
    """Make a `Dataset` of checked arrays: set the truncations, freeze the arrays, compute the fingerprint."""
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
    """Return the family of reference scores of an environment's id."""
    if scored_by_success(env_id) is not None:
        return "success"
    return "v5" if _MUJOCO_V5.fullmatch(env_id or "") else None


def _fingerprint(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in _HASHED:
        if (array := arrays.get(name)) is None:
            continue
        array = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        digest.update(f"{name} {array.shape} {array.dtype.str}\n".encode())
        digest.update(array)
    return digest.hexdigest()


def _spread(numbers: np.ndarray) -> str:
    return f"{numbers.min():g} to {numbers.max():g}, mean {numbers.mean():.4g}, std {numbers.std():.3g}"
