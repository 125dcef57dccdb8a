"""Define the units that an agent learns in: how observations, actions and rewards are shifted and scaled."""

from dataclasses import dataclass, replace

import numpy as np

from rlrat.datasets.choices import RewardScaling
from rlrat.datasets.d4rl_names import family_of
from rlrat.datasets.dataset import NO_EPISODES, Dataset
from rlrat.errors import InputError


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

    def observations(self, observations: np.ndarray) -> np.ndarray:
        """Convert the environment's observations `[..., obs]` to these units."""
        return (observations - self.observation_mean) / self.observation_std

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
