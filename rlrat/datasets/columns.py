"""Define what a batch may hold: each column, by its name, is made here from a dataset, in the units of an agent.

A column has one value for each transition. One that looks ahead, such as `next_actions`, stays in the episode.
"""

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from rlrat.datasets.dataset import NO_EPISODES, Dataset
from rlrat.datasets.units import Units
from rlrat.errors import InputError


class Batch(NamedTuple):
    """Transitions with leading axes `[S, B]`; `terminations` is 1.0 where the next state is terminal."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminations: Tensor


@dataclass(frozen=True)
class Column:
    """The values of a column: `read(rows)` returns those of some transitions, `[n, *shape]`.

    The rows are a slice or an array of indices.
    """

    shape: tuple[int, ...]
    read: Callable[[Any], np.ndarray]


def _observations(dataset: Dataset, units: Units) -> Column:
    """The state, `[obs]`."""
    return Column(dataset.observations.shape[1:], lambda rows: units.observations(dataset.observations[rows]))


def _actions(dataset: Dataset, units: Units) -> Column:
    """The action, `[act]`."""
    return Column((units.action_size,), lambda rows: units.actions(dataset.actions[rows]))


def _rewards(dataset: Dataset, units: Units) -> Column:
    return Column((), lambda rows: units.rewards(dataset.rewards[rows]))


def _next_observations(dataset: Dataset, units: Units) -> Column:
    """The state after it, also where the episode ends there: `[obs]`."""
    return Column(dataset.observations.shape[1:], lambda rows: units.observations(dataset.next_observations[rows]))


def _terminations(dataset: Dataset, units: Units) -> Column:
    """1.0 where the next state is terminal, else 0.0."""
    return Column((), lambda rows: dataset.terminations[rows])


def _next_actions(dataset: Dataset, units: Units) -> Column:
    """The action of the next transition, `[act]`; at the last transition of its episode the action itself.

    No action follows there: `next_action_mask` is 0.0.
    """
    later = _later(dataset, "next_actions")
    return Column((units.action_size,), lambda rows: units.actions(dataset.actions[later(rows, 1)[0]]))


def _next_action_mask(dataset: Dataset, units: Units) -> Column:
    """1.0 where `next_actions` is an action of the data, 0.0 at the last transition of an episode."""
    later = _later(dataset, "next_action_mask")
    return Column((), lambda rows: later(rows, 1)[1])


def _action_chunks(dataset: Dataset, units: Units, horizon: int) -> Column:
    """The action and those that follow it, `[horizon, act]`; beyond its episode's end the last one again."""
    later, steps = _later(dataset, "action_chunks"), np.arange(horizon)
    return Column(
        (horizon, units.action_size),
        lambda rows: units.actions(dataset.actions[later(rows, steps)[0]]),
    )


def _action_chunk_mask(dataset: Dataset, units: Units, horizon: int) -> Column:
    """1.0 where an action of the chunk is within the episode, else 0.0: `[horizon]`, the first 1.0."""
    later, steps = _later(dataset, "action_chunk_mask"), np.arange(horizon)
    return Column((horizon,), lambda rows: later(rows, steps)[1])


def _n_step_returns(dataset: Dataset, units: Units, discount: float, steps: int) -> Column:
    """The sum of the next `steps` rewards, of fewer at the end of an episode, each times discount^k."""
    later, ahead, weights = _later(dataset), np.arange(steps), _powers(discount, steps)

    def read(rows: Any) -> np.ndarray:
        indices, within = later(rows, ahead)
        return (units.rewards(dataset.rewards[indices]) * within) @ weights

    return Column((), read)


def _n_step_observations(dataset: Dataset, units: Units, steps: int) -> Column:
    """The state after the last of the rewards that `n_step_returns` sums up, `[obs]`."""
    later = _later(dataset)
    return Column(
        dataset.observations.shape[1:],
        lambda rows: units.observations(dataset.next_observations[later(rows, steps - 1)[0]]),
    )


def _n_step_discounts(dataset: Dataset, units: Units, discount: float, steps: int) -> Column:
    """What the value of `n_step_observations` counts in a target: discount^(number of rewards), 0.0 if it is terminal.

    The target is `n_step_returns + n_step_discounts * V(n_step_observations)`.
    """
    later, ahead, powers = _later(dataset), np.arange(steps), _powers(discount, steps + 1)

    def read(rows: Any) -> np.ndarray:
        indices, within = later(rows, ahead)
        return powers[np.count_nonzero(within, axis=-1)] * ~dataset.terminations[indices[..., -1]]

    return Column((), read)


def _monte_carlo_returns(dataset: Dataset, units: Units, discount: float) -> Column:
    """The sum of all rewards up to the episode's end, each times discount^k; beyond a truncation nothing is counted.

    The reward of a step that the dataset lost at the end of an episode counts, as in `Dataset.returns_to_go`. Of an
    episode that the source breaks off, the sum goes as far as the data does.
    """
    if not dataset.episode_complete.any():
        raise InputError(f"{dataset.id} {NO_EPISODES}: the agent's column monte_carlo_returns needs data of whole ones")
    discount, rewards = _one_number(discount), units.rewards(dataset.rewards).astype(np.float64)
    starts, sizes, returns = dataset.episode_starts, dataset.episode_sizes, np.empty(len(dataset))
    lost_steps = dataset.episode_lengths - sizes
    sums = np.append(0.0, np.cumsum(dataset.rewards, dtype=np.float64))
    lost = dataset.episode_returns - (sums[starts + sizes] - sums[starts])
    later = np.where(lost_steps > 0, (lost + lost_steps * units.reward_shift) * units.reward_scale, 0.0)
    for back in range(1, sizes.max() + 1):  # the last transitions of all episodes, those before them, ...
        episodes = sizes >= back
        rows = (starts + sizes)[episodes] - back
        returns[rows] = later[episodes] = rewards[rows] + discount * later[episodes]
    return Column((), lambda rows: returns[rows])


def _log_probs(dataset: Dataset, units: Units) -> Column:
    """The logarithm of the density, in the agent's units, with which the policy behind the data chose the action."""
    if (values := dataset.log_probs) is None:
        raise InputError(
            f"{dataset.id} has no log_probs, which the agent's column log_probs needs: give data that has them"
        )
    volume = np.log(units.action_scale.astype(np.float64)).sum()
    return Column((), lambda rows: values[rows] + volume)


COLUMNS: Mapping[str, Callable[..., Column]] = {
    "observations": _observations,
    "actions": _actions,
    "rewards": _rewards,
    "next_observations": _next_observations,
    "terminations": _terminations,
    "next_actions": _next_actions,
    "next_action_mask": _next_action_mask,
    "action_chunks": _action_chunks,
    "action_chunk_mask": _action_chunk_mask,
    "n_step_returns": _n_step_returns,
    "n_step_observations": _n_step_observations,
    "n_step_discounts": _n_step_discounts,
    "monte_carlo_returns": _monte_carlo_returns,
    "log_probs": _log_probs,
}
"""What makes each column: a function of a dataset, units, and the settings that it names as further arguments."""


def make_columns(
    names: Sequence[str], dataset: Dataset, units: Units, settings: Mapping[str, float]
) -> tuple[Column, ...]:
    """Make columns by name.

    Args:
        names: keys of `COLUMNS`.
        settings: what some of them need, by name: `discount`, `steps`, `horizon`.

    Raises:
        InputError: there is no such column, a setting is missing, or no column takes it, or the dataset lacks what a
            column is made of.
    """
    columns, used = [], set()
    for name in names:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COLUMNS)}"
            raise InputError(f"the agent's batch asks for the column {name}, which does not exist: {hint}")
        needed = list(inspect.signature(COLUMNS[name]).parameters)[2:]
        if missing := [setting for setting in needed if setting not in settings]:
            raise InputError(f"the agent's column {name} needs {missing[0]}: give Batches(..., {missing[0]}=...)")
        used |= set(needed)
        columns.append(COLUMNS[name](dataset, units, **{setting: settings[setting] for setting in needed}))
    if unused := settings.keys() - used:
        raise InputError(f"Batches is given {min(unused)}, which no column of the agent's batch takes: leave it out")
    return tuple(columns)


def _later(dataset: Dataset, needed_by: str | None = None) -> Callable[[Any, Any], tuple[np.ndarray, np.ndarray]]:
    """Make a function that finds transitions some steps after others, one number of steps or an array `[n]` of them.

    It returns their rows, the episode's last where it ends before, and whether it does not: `[rows]` or `[rows, n]`.
    """
    left = dataset.steps_left()
    if needed_by is not None and not left.any():
        raise InputError(
            f"{dataset.id} holds single transitions, but the agent's column {needed_by} needs an action that follows "
            "another: give data of whole episodes"
        )

    def later(rows: Any, steps: Any) -> tuple[np.ndarray, np.ndarray]:
        first = np.arange(len(left))[rows] if isinstance(rows, slice) else rows
        shape = (len(first), *(1 for _ in np.shape(steps)))
        remaining = left[first].reshape(shape)
        return first.reshape(shape) + np.minimum(steps, remaining), steps <= remaining

    return later


def _powers(discount: float, count: int) -> np.ndarray:
    return _one_number(discount) ** np.arange(count)


def _one_number(discount: Any) -> float:
    if isinstance(discount, Tensor):
        raise InputError("the setting discount has several values, but all members share a column: give one value")
    return float(discount)
