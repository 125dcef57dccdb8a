"""Judge policies from data alone by fitted Q evaluation, for S policies side by side.

Fitted Q evaluation (Le et al. 2019, arXiv 1903.08738; Paine et al. 2020, arXiv 2007.09055) learns the action values of
a fixed policy from logged transitions: it regresses Q(s, a) on r + discount (1 - termination) Q_target(s', pi(s')). The
value of the policy is then the mean of Q(s, pi(s)) over the initial states of the data.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlrat.datasets.dataset import Dataset
from rlrat.datasets.rows import Rows
from rlrat.datasets.units import Units
from rlrat.errors import InputError
from rlrat.networks.choices import Norm
from rlrat.networks.layers import MLP, initialize, joined
from rlrat.rational.launching import is_gpu
from rlrat.updates import losses
from rlrat.updates.captured import captured
from rlrat.updates.compiled import compiled, pays
from rlrat.updates.flat import flatten
from rlrat.updates.optim import Adam, SeedGuard
from rlrat.updates.random import Stream

_CHECKS = 10  # of the values while a fit goes on
_CHUNK = 2**15  # states that policies or networks meet at a time, those of all entries together
_COMPILED_ENTRIES = 5  # side by side, from which on a fit of some 20,000 updates is worth compiling
_BETWEEN_QUESTIONS = 20  # updates after which `stopped` is asked

PolicyActions = Callable[[np.ndarray], Any]
"""observations [S, E, obs] in the environment's units -> actions [S, E, act], a NumPy array or a tensor."""


class Stopped(Exception):
    """A fit was ended early because its caller asked for it."""


@dataclass(frozen=True)
class FQESettings:
    """How Q is fitted; the defaults are those of docs/judging.md."""

    updates: int = 20_000
    batch_size: int = 256
    discount: float = 0.99
    learning_rate: float = 5e-4
    """Adam's at the first update; it falls to 0 along a cosine."""
    polyak: float = 0.05
    """Rate at which the target network follows."""
    hidden_dims: tuple[int, ...] = (128, 128)
    activation: str = "relu"
    norm: Norm = "layer"


class FittedQ:
    """The action values of S policies, fitted to data. Arrays are NumPy's, values are in the environment's rewards."""

    def __init__(self, fit: "_Fit", dataset: Dataset, policy: PolicyActions, weights: np.ndarray) -> None:
        self._fit = fit
        self.policy: PolicyActions = policy
        self.num_entries: int = fit.num_entries
        self.spread: float = fit.spread
        self.initial_observations: np.ndarray = dataset.observations[initial_rows(dataset)]
        """`[E, obs]`: the first state of each episode that has a transition."""
        self.initial_actions: np.ndarray = policy_actions(
            policy, self.initial_observations, fit.num_entries, dataset.actions.shape[1]
        )
        """`[S, E, act]`: what the policies do there."""
        self.initial_weights: np.ndarray = weights
        """`[S, E]`: how often each entry of the seed axis drew the episode, or 1 without `resample`.

        It is 0 for an episode that is not complete, where others are: it may begin in the middle of a trajectory.
        """
        self.checks: list[tuple[int, np.ndarray]] = []
        """The values `[S]` while the fit went on: after how many updates, and what they were."""

    def q(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Compute Q `[S, N]` at `observations` `[N, obs]` and `actions` `[S, N, act]`, in the environment's units.

        NaN for entries whose fit met a number that is not finite.
        """
        return self._fit.q_values(observations, actions)

    def values(self) -> np.ndarray:
        """Compute the discounted value `[S]` float64 of each policy at the initial states of the data."""
        q = self.q(self.initial_observations, self.initial_actions)
        return (q * self.initial_weights).sum(1) / self.initial_weights.sum(1)


def fit_q(
    dataset: Dataset,
    policy: PolicyActions,
    seeds: Sequence[int],
    settings: FQESettings,
    device: torch.device | str = "cpu",
    *,
    resample: bool = False,
    stopped: Callable[[], bool] | None = None,
) -> FittedQ:
    """Fit the action values of S deterministic policies to a dataset.

    Args:
        policy: called with NumPy observations `[S, E, obs]` in the environment's units, S = len(seeds); returns
            actions `[S, E, act]` in these units. It is asked once for each state of the data.
        seeds: of the initial weights, the batches and the resampling of each entry of the seed axis. Entry s is a
            function of seeds[s] and its policy alone, but for rounding.
        device: where Q is fitted.
        resample: each entry draws its own bootstrap resample of the episodes, for transitions and initial states.
        stopped: asked now and then; true ends the fit.

    The end of a truncated episode bootstraps as any other step does.

    Raises:
        InputError: a policy that does not fit the data, or a discount outside [0, 1).
        Stopped: `stopped()` was true.
    """
    if not 0.0 <= settings.discount < 1.0:
        raise InputError(f"the discount is {settings.discount}, but must be at least 0 and below 1")
    draws = episode_draws(dataset, seeds) if resample else None
    fit = _Fit(dataset, seeds, settings, torch.device(device))
    weights = np.ones((len(seeds), len(initial_rows(dataset)))) if draws is None else draws
    whole = weights * dataset.episode_complete[_with_transitions(dataset)]
    fitted = FittedQ(fit, dataset, policy, np.where(whole.any(1, keepdims=True), whole, weights))
    next_actions = policy_actions(policy, dataset.next_observations, len(seeds), dataset.actions.shape[1])
    for update in fit.train(dataset, next_actions, draws):
        if stopped is not None and update % _BETWEEN_QUESTIONS == 0 and stopped():
            raise Stopped
        if (update * _CHECKS) // settings.updates != ((update - 1) * _CHECKS) // settings.updates:
            fitted.checks.append((update, fitted.values()))
    return fitted


def data_value(dataset: Dataset, discount: float) -> float:
    """Return the mean discounted return of the data's complete episodes, NaN where none is complete."""
    whole = dataset.episode_complete[_with_transitions(dataset)]
    return float(discounted_returns(dataset, discount)[initial_rows(dataset)][whole].mean()) if whole.any() else np.nan


def cut_share(dataset: Dataset, discount: float) -> float:
    """Return how much of a constant reward's value `data_value` leaves out because episodes are truncated.

    It is the mean over complete episodes of discount^length, 0 for those that end in a terminal state: a policy's value
    counts what follows a truncation, the data's own does not. 0 where no episode is complete.
    """
    there = _with_transitions(dataset)
    starts = initial_rows(dataset)
    lengths = np.diff(np.append(starts, len(dataset)))
    ends = dataset.terminations[starts + lengths - 1]
    shares = np.where(ends, 0.0, discount**lengths)[dataset.episode_complete[there]]
    return float(shares.mean()) if len(shares) else 0.0


def discounted_returns(dataset: Dataset, discount: float) -> np.ndarray:
    """Return the discounted sum of rewards from each transition to its episode's end, `[N]` float64."""
    returns = dataset.rewards.astype(np.float64)
    left = _steps_left(dataset)
    # All episodes at once, from the last step to the first: those with so many steps left.
    order = np.argsort(left, kind="stable")
    bounds = np.searchsorted(left[order], np.arange(1, left.max() + 1))
    for rows in np.split(order, bounds)[1:]:
        returns[rows] += discount * returns[rows + 1]
    return returns


def episode_draws(dataset: Dataset, seeds: Sequence[int]) -> np.ndarray:
    """Return how often each seed's bootstrap resample has each episode that has transitions, `[S, E]` int64."""
    count = len(initial_rows(dataset))
    drawn = Stream(seeds, "fqe resample").integers(0, (count,), high=count).numpy()
    return np.stack([np.bincount(row, minlength=count) for row in drawn])


def initial_rows(dataset: Dataset) -> np.ndarray:
    """Return the index of the first transition of each episode that has one."""
    return dataset.episode_starts[_with_transitions(dataset)]


def policy_actions(policy: PolicyActions, observations: np.ndarray, num_entries: int, size: int) -> np.ndarray:
    """Ask S policies for their actions of `size` at the same observations `[N, obs]`, in chunks: `[S, N, act]` float32.

    Raises:
        InputError: actions of another shape.
    """
    chunks, size_of_chunk = [], max(1, _CHUNK // num_entries)
    for start in range(0, len(observations), size_of_chunk):
        rows = np.asarray(observations[start : start + size_of_chunk])
        actions = policy(np.repeat(rows[None], num_entries, axis=0))  # its own: a view would not be writable
        actions = actions.detach().cpu().numpy() if isinstance(actions, Tensor) else np.asarray(actions)
        if actions.shape != (num_entries, len(rows), size):
            expected = f"{num_entries} x {len(rows):,} actions of size {size}, as the data's are"
            raise InputError(f"the policy gives actions of shape {actions.shape}, but must give {expected}")
        chunks.append(actions.astype(np.float32, copy=False))
    return np.concatenate(chunks, axis=1)


def _with_transitions(dataset: Dataset) -> np.ndarray:
    return np.diff(np.append(dataset.episode_starts, len(dataset))) > 0


def _steps_left(dataset: Dataset) -> np.ndarray:
    """Count the transitions that follow each one in its episode."""
    sizes = np.diff(np.append(dataset.episode_starts, len(dataset)))
    return np.repeat(sizes, sizes) - 1 - dataset.timesteps()


class _Fit(nn.Module):
    """Networks, optimizer and the update; every tensor has the leading axis S.

    The network predicts (Q - mean) / spread, mean and spread those of the data's discounted returns from all states: it
    begins at about the data's mean.
    """

    settings: FQESettings
    seeds: list[int]
    device: torch.device
    num_entries: int
    mean: float
    q: MLP
    q_target: MLP
    guard: SeedGuard
    optimizer: Adam

    def __init__(self, dataset: Dataset, seeds: Sequence[int], settings: FQESettings, device: torch.device) -> None:
        super().__init__()
        self.settings, self.seeds, self.device, self.num_entries = settings, list(seeds), device, len(seeds)
        self.units: Units = Units.of(dataset, True, 1e-6, reward_scaling="none")
        returns = discounted_returns(dataset, settings.discount)
        self.mean, spread = float(returns.mean()), float(returns.std())
        self.spread: float = spread if spread > 1e-6 * abs(self.mean) else max(abs(self.mean), 1.0)
        width = dataset.observations.shape[1] + self.units.action_size
        network = {"hidden_dims": settings.hidden_dims, "activation": settings.activation, "norm": settings.norm}
        self.q = MLP(width, out_features=1, batch_shape=(len(seeds),), **network)
        initialize(self.q, seeds, "fqe", "orthogonal")
        with torch.no_grad():
            self.q.output.weight.mul_(0.1)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.guard = SeedGuard(len(seeds))
        self.to(device)
        adam = {"guard": self.guard, "name": "q", "cosine_updates": settings.updates}
        self.optimizer = Adam(self.q, settings.learning_rate, **adam)
        flatten(self.q_target)

    def train(self, dataset: Dataset, next_actions: np.ndarray, draws: np.ndarray | None) -> Iterator[int]:
        """Make all updates, and yield after each one how many are made."""
        rows, actions = self._rows(dataset, next_actions, draws)
        update = captured(self) if is_gpu(self.device) else self.update
        if pays(self.settings.updates * self.num_entries // _COMPILED_ENTRIES, self.device):
            update = compiled(self.update, self.device)
        for number in range(self.settings.updates):
            update(*rows.at(number), *actions.at(number))
            yield number + 1

    def _rows(self, dataset: Dataset, next_actions: np.ndarray, draws: np.ndarray | None) -> tuple[Rows, Rows]:
        """Make what gathers batches of transitions, and of what the policies do at their next states."""
        units, settings, count = self.units, self.settings, len(dataset)
        step = self.spread

        def read(index: slice | np.ndarray) -> np.ndarray:
            # In units of the network: y = (r + g Q' - mean) / spread = r' + g' q', q' = (Q' - mean) / spread.
            left = settings.discount * ~dataset.terminations[index, None]
            columns = (
                (dataset.observations[index] - units.observation_mean) / units.observation_std,
                units.actions(dataset.actions[index]),
                (dataset.rewards[index, None] + (left - 1.0) * self.mean) / step,
                left,
                (dataset.next_observations[index] - units.observation_mean) / units.observation_std,
            )
            return np.concatenate(columns, axis=1, dtype=np.float32, casting="same_kind")

        tables = None
        if draws is not None:
            sizes = np.diff(np.append(initial_rows(dataset), count))
            drawn = [np.repeat(np.arange(count), np.repeat(row, sizes)) for row in draws]
            lengths = torch.tensor([[len(row)] for row in drawn])
            padded = np.zeros((len(drawn), int(lengths.max())), np.int64)
            for row, indices in zip(padded, drawn, strict=True):
                row[: len(indices)] = indices
            tables = {place: (torch.from_numpy(padded).to(place), lengths.to(place)) for place in self._places()}

        def draw(updates: int | range, device: torch.device) -> Tensor:
            stream, shape = Stream(self.seeds, "fqe batch", device), (settings.batch_size,)
            if tables is None:
                return stream.integers(updates, shape, high=count)
            table, lengths = tables[device]
            places = stream.integers(updates, shape, high=2**31) * lengths >> 31
            offset = torch.arange(len(table), device=device)[:, None] * table.shape[1]
            return table.flatten()[places + offset]

        def draw_own(updates: int | range, device: torch.device) -> Tensor:
            return draw(updates, device) + torch.arange(self.num_entries, device=device)[:, None] * count

        observations, actions = dataset.observations.shape[1], units.action_size
        own = units.actions(next_actions).reshape(-1, actions)
        widths = (observations, actions, 1, 1, observations)
        return (
            Rows(read, count, widths, draw, self.device),
            Rows(lambda index: own[index], len(own), (actions,), draw_own, self.device),
        )

    def _places(self) -> set[torch.device]:
        return {torch.device("cpu"), self.device}

    def update(
        self,
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        discounts: Tensor,
        next_observations: Tensor,
        next_actions: Tensor,
    ) -> dict[str, Tensor]:
        """Make one gradient step; a pure function of tensors that stay on the device."""
        self.guard.update += 1
        with torch.no_grad():
            next_q = self.q_target(joined(next_observations, next_actions))
            target = (rewards + discounts * next_q).squeeze(-1)
        q = self.q(joined(observations, actions)).squeeze(-1)
        loss, mean = losses.squared_error(q.unsqueeze(1), target)
        self.optimizer.step(loss, target=self.q_target, polyak=self.settings.polyak)
        return {"losses/q": loss, "charts/q_mean": mean}

    @torch.no_grad()
    def q_values(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Compute what `FittedQ.q` returns."""
        units, chunks, size = self.units, [], max(1, _CHUNK // self.num_entries)
        for start in range(0, len(observations), size):
            rows = observations[start : start + size]
            states = ((rows - units.observation_mean) / units.observation_std).astype(np.float32)
            inputs = torch.from_numpy(states).to(self.device).expand(self.num_entries, -1, -1)
            own = torch.from_numpy(units.actions(actions[:, start : start + size])).to(self.device)
            chunks.append(self.q(torch.cat([inputs, own], dim=-1)).squeeze(-1).cpu().numpy())
        values = np.concatenate(chunks, axis=1).astype(np.float64) * self.spread + self.mean
        values[~self.guard.alive.cpu().numpy()] = np.nan
        return values
