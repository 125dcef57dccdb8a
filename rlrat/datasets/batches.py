"""Batches of transitions, each seed's own, gathered on the device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlrat.datasets.dataset import Dataset
from rlrat.errors import InputError
from rlrat.random import Stream

_BLOCK = 64  # updates whose indices are drawn at once: the generator costs some 150 small operations a call


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
        self._stream = Stream(seeds, "batch", device)
        self._shape = (len(seeds), batch_size)
        self._block = -1

    def at(self, update: int) -> Batch:
        """The batch of `update`: a function of (seed, update)."""
        block, position = divmod(update, _BLOCK)
        if block != self._block:
            updates = torch.arange(block * _BLOCK, (block + 1) * _BLOCK, device=self._rows.device)
            self._indices = self._stream.integers(updates, self._shape[1:], high=len(self._rows))
            self._block = block
        rows = self._rows.index_select(0, self._indices[position].flatten()).unflatten(0, self._shape)
        observations, actions, rewards, next_observations, terminations = rows.split(self._widths, dim=-1)
        return Batch(observations, actions, rewards.squeeze(-1), next_observations, terminations.squeeze(-1))
