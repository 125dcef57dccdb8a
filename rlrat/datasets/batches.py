"""Draw batches of transitions for each seed separately, and gather them on the device."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlrat.datasets.choices import RewardScaling
from rlrat.datasets.d4rl_names import family_of
from rlrat.datasets.dataset import NO_EPISODES, Dataset
from rlrat.datasets.rows import Rows
from rlrat.errors import InputError
from rlrat.updates.random import Stream, UpdateBlocks


class Batch(NamedTuple):
    """Transitions with leading axes `[S, B]`; `terminations` is 1.0 where the next state is terminal."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminations: Tensor


@dataclass(frozen=True)
class Units:
    """The units that an agent learns in.

    They are (o - mean) / std, actions (a - offset) / scale in [-1, 1], and rewards (r + shift) * scale. Each component
    of the actions has a scale, half of its range, and an offset, the middle: `[act]` float32.
    """

    observation_mean: np.ndarray
    observation_std: np.ndarray
    action_size: int
    action_scale: np.ndarray
    action_offset: np.ndarray
    reward_scale: float
    reward_shift: float = 0.0

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        normalize_observations: bool,
        observation_floor: float,
        reward_scaling: RewardScaling,
        reward_shift: float | None = 0.0,
    ) -> "Units":
        """Return the paper's units of a dataset: actions by their bounds, rewards by `reward_rule`.

        `none` keeps rewards, `paper` divides them by best - worst episode return, `iql` multiplies that by 1000.

        Raises:
            InputError: there is nothing to divide rewards by: no episode is complete, or all episodes have the same
                return up to rounding.
        """
        mean, std = dataset.observation_statistics(observation_floor)
        if not normalize_observations:
            mean, std = np.zeros_like(mean), np.ones_like(std)
        scaling, shift = reward_rule(dataset, reward_scaling, reward_shift)
        reward_scale = _reward_scale(dataset, scaling, shift)
        scale, offset = _action_units(dataset.action_low, dataset.action_high)
        return cls(mean, std, len(scale), scale, offset, reward_scale, shift)

    def rewards(self, rewards: np.ndarray) -> np.ndarray:
        """Convert the environment's rewards, of any shape, to these units."""
        return (rewards + self.reward_shift if self.reward_shift else rewards) * self.reward_scale

    def actions(self, actions: np.ndarray) -> np.ndarray:
        """Convert the environment's actions `[..., act]` float32 to these units, all within [-1, 1]."""
        if not self.action_offset.any():  # with bounds such as -1 and 1 nothing is rounded
            return actions / self.action_scale
        return ((actions - self.action_offset) / self.action_scale).clip(-1.0, 1.0)


def reward_rule(
    dataset: Dataset, reward_scaling: RewardScaling, reward_shift: float | None
) -> tuple[RewardScaling, float]:
    """Return how rewards are scaled and what is added to them before, as the data decides it where it may.

    `iql` scales as IQL's authors do: they leave the rewards of D4RL's families other than locomotion as they are
    (`none`). So are those of OGBench's tasks, where all returns may be equal. Without a shift AntMaze's rewards of 0
    and 1 become -1 and 0, which is theirs, too (train_offline.py of ikostrikov/implicit_q_learning).
    """
    whole = dataset.training or dataset
    family = family_of(dataset.id, dataset.env_id)
    if reward_shift is None:
        reward_shift = -1.0 if family == "antmaze" and np.isin(whole.rewards, (0.0, 1.0)).all() else 0.0
    as_they_are = family not in (None, "locomotion") or dataset.reference == "success"
    return ("none" if reward_scaling == "iql" and as_they_are else reward_scaling), reward_shift


def _reward_scale(dataset: Dataset, reward_scaling: RewardScaling, reward_shift: float) -> float:
    if reward_scaling == "none":
        return 1.0
    whole = dataset.training or dataset
    if reward_shift:
        returns = whole.episode_returns + reward_shift * whole.episode_lengths
        size = np.abs(whole.rewards) + abs(reward_shift)  # of what is summed up, and rounded
        whole = replace(whole, rewards=size, episode_returns=returns)
    if not whole.returns_differ:
        equal = "where all are equal, but for rounding"
        raise InputError(
            f"--reward-scaling {reward_scaling} divides by best - worst episode return of {dataset.id}, "
            f"{equal if dataset.episode_complete.any() else f'which {NO_EPISODES}'}: give --reward-scaling none"
        )
    return {"paper": 1.0, "iql": 1000.0}[reward_scaling] / (whole.best_return - whole.worst_return)


def _action_units(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return scale and offset `[act]` float32; for a in [-1, 1], rounded offset + scale * a is in the bounds."""
    low, high = low.astype(np.float64), high.astype(np.float64)
    offset = ((low + high) / 2).astype(np.float32)
    exact = np.minimum(high - offset, offset - low)
    scale = exact.astype(np.float32)
    return np.where(scale > exact, np.nextafter(scale, np.float32(0)), scale), offset


class WindowBatch(NamedTuple):
    """K steps of one episode each, with leading axes `[S, B, K]`."""

    observations: Tensor
    actions: Tensor
    returns_to_go: Tensor
    """From this step's reward to the episode's end, in the units that `Windows` was given."""
    timesteps: Tensor
    """int64, 0 at the episode's first step."""
    mask: Tensor
    """float32, 0.0 where the episode is over: what stands there is the next episode's and has no meaning."""


class Batches:
    """Uniform batches with replacement: the batches of a seed do not depend on the other seeds of the run."""

    def __init__(
        self, dataset: Dataset, seeds: Sequence[int], batch_size: int, device: torch.device | str, units: Units
    ) -> None:
        mean, std = units.observation_mean, units.observation_std

        def read(index: slice | np.ndarray) -> np.ndarray:  # one row per transition: a batch is one gather
            columns = (
                (dataset.observations[index] - mean) / std,
                units.actions(dataset.actions[index]),
                units.rewards(dataset.rewards[index, None]),
                (dataset.next_observations[index] - mean) / std,
                dataset.terminations[index, None],
            )
            return np.concatenate(columns, axis=1, dtype=np.float32, casting="same_kind")

        stream = Stream(seeds, "batch", device)

        def draw(updates: int | range, device: torch.device) -> Tensor:
            own = stream if device == stream.device else Stream(seeds, "batch", device)
            return own.integers(updates, (batch_size,), high=len(dataset))

        observation_size = dataset.observations.shape[1]
        widths = (observation_size, units.action_size, 1, observation_size, 1)
        self._rows = Rows(read, len(dataset), widths, draw, device)

    def at(self, update: int) -> Batch:
        """Return the batch of `update`, a function of (seed, update)."""
        observations, actions, rewards, next_observations, terminations = self._rows.at(update)
        return Batch(observations, actions, rewards.squeeze(-1), next_observations, terminations.squeeze(-1))


class Windows:
    """Batches of windows of `length` steps, gathered on the device from the flat dataset.

    The probability of an episode is proportional to its number of transitions, and the window's first step is uniform
    among them (Chen et al. 2021). Together this is a uniform draw among all transitions. A window that reaches beyond
    its episode's end is padded. An episode that the source breaks off is left out: its returns-to-go are unknown.
    """

    def __init__(
        self,
        dataset: Dataset,
        seeds: Sequence[int],
        batch_size: int,
        length: int,
        device: torch.device | str,
        units: Units,
        return_scale: float,
    ) -> None:
        mean, std, returns_to_go = units.observation_mean, units.observation_std, dataset.returns_to_go()

        def read(index: slice | np.ndarray) -> np.ndarray:
            columns = (
                (dataset.observations[index] - mean) / std,
                units.actions(dataset.actions[index]),
                returns_to_go[index, None] / return_scale,
            )
            return np.concatenate(columns, axis=1, dtype=np.float32, casting="same_kind")

        timesteps = dataset.timesteps()
        sizes = np.diff(np.append(dataset.episode_starts, len(dataset)))
        left = torch.from_numpy(np.repeat(sizes, sizes) - timesteps).to(device)
        timesteps = torch.from_numpy(timesteps).to(device)
        whole = np.flatnonzero(np.repeat(dataset.episode_complete, sizes))
        stream = Stream(seeds, "batch", device)
        places = {torch.device(place) for place in ("cpu", device)}
        starts = {place: torch.from_numpy(whole).to(place) for place in places}
        steps = {place: torch.arange(length, device=place) for place in places}

        def first(updates: int | range, device: torch.device) -> Tensor:
            own = stream if device == stream.device else Stream(seeds, "batch", device)
            return starts[device][own.integers(updates, (batch_size,), high=len(whole))].unsqueeze(-1)

        def draw(updates: int | range, device: torch.device) -> Tensor:
            # A window may reach beyond the data's end; the mask is 0 there.
            return (first(updates, device) + steps[device]).clamp_(max=len(dataset) - 1)

        def draw_timesteps(updates: int | range) -> Tensor:
            return timesteps[first(updates, stream.device)] + steps[stream.device]

        def draw_mask(updates: int | range) -> Tensor:
            return (steps[stream.device] < left[first(updates, stream.device)]).to(torch.float32)

        self._timesteps, self._mask = UpdateBlocks(draw_timesteps), UpdateBlocks(draw_mask)
        widths = (dataset.observations.shape[1], units.action_size, 1)
        self._rows = Rows(read, len(dataset), widths, draw, device)

    def at(self, update: int) -> WindowBatch:
        """Return the batch of `update`, a function of (seed, update)."""
        observations, actions, returns_to_go = self._rows.at(update)
        timesteps, mask = self._timesteps.at(update), self._mask.at(update)
        return WindowBatch(observations, actions, returns_to_go.squeeze(-1), timesteps, mask)
