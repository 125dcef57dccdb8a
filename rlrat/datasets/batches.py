"""Draw batches of transitions for each seed separately, and gather them on the device."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from rlrat.datasets.columns import Batch, make_columns
from rlrat.datasets.dataset import Dataset
from rlrat.datasets.rows import Rows
from rlrat.datasets.units import Units
from rlrat.updates.random import Stream, UpdateBlocks


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
    """Uniform batches with replacement: the batches of a seed do not depend on the other seeds of the run.

    Args:
        columns: a NamedTuple whose fields are columns of `rlrat.datasets.columns`: what a batch holds.
        settings: of those columns that need some: `discount`, `steps` (of an n-step return), `horizon` (of a chunk).

    Raises:
        InputError: the dataset lacks what a column is made of, or columns and settings do not fit.
    """

    def __init__(
        self,
        dataset: Dataset,
        seeds: Sequence[int],
        batch_size: int,
        device: torch.device | str,
        units: Units,
        columns: type[NamedTuple] = Batch,
        **settings: float,
    ) -> None:
        made = make_columns(columns._fields, dataset, units, settings)

        def read(index: slice | np.ndarray) -> np.ndarray:  # one row per transition: a batch is one gather
            parts = [part.reshape(len(part), -1) for part in (column.read(index) for column in made)]
            return np.concatenate(parts, axis=1, dtype=np.float32, casting="same_kind")

        stream = Stream(seeds, "batch", device)

        def draw(updates: int | range, device: torch.device) -> Tensor:
            own = stream if device == stream.device else Stream(seeds, "batch", device)
            return own.integers(updates, (batch_size,), high=len(dataset))

        self._columns, self._shapes = columns, [column.shape for column in made]
        widths = [math.prod(shape) for shape in self._shapes]
        self._rows = Rows(read, len(dataset), widths, draw, device)

    def at(self, update: int) -> Any:
        """Return the batch of `update`, a function of (seed, update): a `columns`, each `[S, B, *shape]` float32."""
        rows = zip(self._rows.at(update), self._shapes, strict=True)
        return self._columns._make(
            part if len(shape) == 1 else part.view(*part.shape[:-1], *shape) for part, shape in rows
        )


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
        returns_to_go = dataset.returns_to_go()

        def read(index: slice | np.ndarray) -> np.ndarray:
            columns = (
                units.observations(dataset.observations[index]),
                units.actions(dataset.actions[index]),
                returns_to_go[index, None] / return_scale,
            )
            return np.concatenate(columns, axis=1, dtype=np.float32, casting="same_kind")

        left = torch.from_numpy(dataset.steps_left()).to(device)
        timesteps = torch.from_numpy(dataset.timesteps()).to(device)
        whole = np.flatnonzero(np.repeat(dataset.episode_complete, dataset.episode_sizes))
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
            return (steps[stream.device] <= left[first(updates, stream.device)]).to(torch.float32)

        self._timesteps, self._mask = UpdateBlocks(draw_timesteps), UpdateBlocks(draw_mask)
        widths = (dataset.observations.shape[1], units.action_size, 1)
        self._rows = Rows(read, len(dataset), widths, draw, device)

    def at(self, update: int) -> WindowBatch:
        """Return the batch of `update`, a function of (seed, update)."""
        observations, actions, returns_to_go = self._rows.at(update)
        timesteps, mask = self._timesteps.at(update), self._mask.at(update)
        return WindowBatch(observations, actions, returns_to_go.squeeze(-1), timesteps, mask)
