"""Batches of transitions, each seed's own, gathered on the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlrat.datasets.dataset import Dataset
from rlrat.errors import InputError
from rlrat.random import Blocks, Stream


class Batch(NamedTuple):
    """Transitions with leading axes `[S, B]`; `terminations` is 1.0 where the next state is terminal."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    terminations: Tensor


@dataclass(frozen=True)
class Units:
    """The units that an agent learns in: observations (o - mean) / std, actions a / scale, rewards r * scale."""

    observation_mean: np.ndarray
    observation_std: np.ndarray
    action_size: int
    action_scale: float
    reward_scale: float

    @classmethod
    def of(
        cls, dataset: Dataset, normalize_observations: bool, observation_floor: float, reward_scaling: str
    ) -> "Units":
        """The paper's units of a dataset: actions over their largest bound; rewards as `reward_scaling` says.

        `none` leaves rewards alone, `paper` divides them by best - worst episode return, `iql` multiplies that by 1000.

        Raises:
            InputError: where all episodes have the same return, so that there is nothing to divide by.
        """
        mean, std = dataset.observation_statistics(observation_floor)
        if not normalize_observations:
            mean, std = np.zeros_like(mean), np.ones_like(std)
        reward_scale = 1.0
        if reward_scaling != "none":
            spread = dataset.best_return - dataset.worst_return
            if spread == 0.0:
                raise InputError(
                    f"--reward-scaling {reward_scaling} divides by best - worst episode return, but in {dataset.id} "
                    "all are equal: give --reward-scaling none"
                )
            reward_scale = {"paper": 1.0, "iql": 1000.0}[reward_scaling] / spread
        bound = float(max(np.abs(dataset.action_low).max(), np.abs(dataset.action_high).max()))
        return cls(mean, std, dataset.actions.shape[1], bound, reward_scale)


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
    """Uniform batches with replacement: seed s draws the same ones whichever seeds run beside it."""

    def __init__(
        self, dataset: Dataset, seeds: Sequence[int], batch_size: int, device: torch.device | str, units: Units
    ) -> None:
        mean, std = units.observation_mean, units.observation_std
        columns = (
            (dataset.observations - mean) / std,
            dataset.actions / units.action_scale,
            dataset.rewards[:, None] * units.reward_scale,
            (dataset.next_observations - mean) / std,
            dataset.terminations[:, None],
        )
        self._widths = [column.shape[1] for column in columns]
        rows = np.concatenate([column.astype(np.float32) for column in columns], axis=1)
        self._rows = torch.from_numpy(rows).to(device)  # one row a transition, so that a batch is one gather
        self._indices = Blocks(Stream(seeds, "batch", device).integers, (batch_size,), high=len(rows))
        self._shape = (len(seeds), batch_size)

    def at(self, update: int) -> Batch:
        """The batch of `update`: a function of (seed, update)."""
        rows = self._rows.index_select(0, self._indices.at(update).flatten()).unflatten(0, self._shape)
        observations, actions, rewards, next_observations, terminations = rows.split(self._widths, dim=-1)
        return Batch(observations, actions, rewards.squeeze(-1), next_observations, terminations.squeeze(-1))


class Windows:
    """Batches of windows of `length` steps, gathered on the device from the flat dataset.

    An episode is drawn in proportion to its transitions and the window's first step uniformly among them (Chen et al.
    2021), which is a uniform draw among all transitions. A window that reaches beyond its episode's end is padded.
    An episode that the source breaks off is left out, as its returns-to-go are not known.
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
        observations = (dataset.observations - units.observation_mean) / units.observation_std
        columns = (observations, dataset.actions / units.action_scale, dataset.returns_to_go()[:, None] / return_scale)
        self._widths = [column.shape[1] for column in columns]
        # `length` rows more, so that a window at the end stays inside.
        rows = np.concatenate([column.astype(np.float32) for column in columns], axis=1)
        self._rows = torch.from_numpy(np.pad(rows, ((0, length), (0, 0)))).to(device)
        timesteps = dataset.timesteps()
        sizes = np.diff(np.append(dataset.episode_starts, len(dataset)))
        self._timesteps = torch.from_numpy(timesteps).to(device)
        self._left = torch.from_numpy(np.repeat(sizes, sizes) - timesteps).to(device)
        self._offsets = torch.arange(length, device=device)
        whole = np.flatnonzero(np.repeat(dataset.episode_complete, sizes))
        self._starts = torch.from_numpy(whole).to(device)
        self._drawn = Blocks(Stream(seeds, "batch", device).integers, (batch_size,), high=len(whole))

    def at(self, update: int) -> WindowBatch:
        """The batch of `update`: a function of (seed, update)."""
        first = self._starts[self._drawn.at(update)]
        indices = first.unsqueeze(-1) + self._offsets
        rows = self._rows.index_select(0, indices.flatten()).unflatten(0, indices.shape)
        observations, actions, returns_to_go = rows.split(self._widths, dim=-1)
        mask = (self._offsets < self._left[first].unsqueeze(-1)).to(torch.float32)
        timesteps = self._timesteps[first].unsqueeze(-1) + self._offsets
        return WindowBatch(observations, actions, returns_to_go.squeeze(-1), timesteps, mask)
