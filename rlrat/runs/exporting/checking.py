"""Compare what was exported with our policy, on observations of the run's dataset."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlrat.datasets import sources
from rlrat.datasets.load import load_dataset
from rlrat.errors import InputError, reason
from rlrat.networks.policies import Policy
from rlrat.networks.transformer import SequencePolicy
from rlrat.runs.exporting.modules import PlainSequencePolicy, plain_policy

LARGEST_DIFFERENCE = 1e-5
"""In an action, relative to the range of actions where that is larger than 1."""
_MOST_ROWS, _MOST_EPISODES = 10_000, 32
Exported = Callable[[list[np.ndarray]], list[np.ndarray]]


@dataclass(frozen=True)
class Trial:
    """Observations to compare on, `[N, obs]`; or windows `[E, T, obs]` with rewards `[E, T]` for who looks back."""

    observations: np.ndarray
    rewards: np.ndarray
    source: str
    """In words, where they come from."""


def make_trial(policy: Policy | SequencePolicy, config: Mapping[str, Any] | None, dataset: str | None) -> Trial:
    """Take observations from `dataset`, by default the run's if it is on this machine, else draw them.

    Drawn ones are normal, with the mean and the standard deviation that the policy divides by.

    Raises:
        InputError: `dataset` cannot be loaded, or its observations have another width than the policy's.
    """
    size = policy.settings["observation_size"]
    rows = np.arange(_MOST_ROWS)
    found, why = _load(config, dataset)
    if found is not None:
        width = found.observations.shape[1]
        if width != size:
            raise InputError(
                f"the policy takes observations of size {size}, those of dataset {found.id} have {width}: "
                "give the --dataset that it was trained on"
            )
        rows = np.linspace(0, len(found) - 1, min(len(found), _MOST_ROWS)).astype(np.int64)
    if isinstance(policy, SequencePolicy):
        starts = rows[:: max(1, len(rows) // _MOST_EPISODES)][:_MOST_EPISODES]
        if found is not None:  # windows that begin where episodes do
            starts = found.episode_starts[:: max(1, len(found.episode_starts) // _MOST_EPISODES)][:_MOST_EPISODES]
        rows = starts[:, None] + np.arange(2 * policy.context_length)
    if found is None:
        random, mean, std = np.random.default_rng(0), policy.observation_mean[0], policy.observation_std[0]
        drawn = random.normal(mean.cpu(), std.cpu(), (*rows.shape, size)).astype(np.float32)
        rewards = random.normal(size=rows.shape).astype(np.float32)
        return Trial(drawn, rewards, f"{rows.size:,} observations drawn by mean and standard deviation ({why})")
    rows = np.minimum(rows, len(found) - 1)
    source = f"{rows.size:,} observations of {found.id}"
    return Trial(np.array(found.observations[rows]), np.array(found.rewards[rows]), source)


def _load(config: Mapping[str, Any] | None, dataset: str | None) -> tuple[Any, str]:
    """Load a dataset that is here, or say in words why there is none."""
    given = (config or {}).get("arguments")
    given = given if isinstance(given, dict) else {}
    drop = drop if isinstance(drop := given.get("drop_achieved_goal"), bool) else None
    if dataset is not None:
        return load_dataset(dataset, drop_achieved_goal=drop), ""
    name = given.get("dataset")
    if not isinstance(name, str):
        return None, "the run names no dataset"
    if sources.is_to_be_fetched(name) or not sources.is_known(name):  # one that was in memory
        return None, f"dataset {name} is not on this machine"
    try:
        bounds = given.get("action_bounds")
        bounds = bounds and [tuple(pair) for pair in bounds]
        return load_dataset(name, action_bounds=bounds, drop_achieved_goal=drop), ""
    except (InputError, TypeError) as error:
        return None, reason(error)


def largest_difference(policy: Policy | SequencePolicy, exported: Exported, trial: Trial) -> float:
    """Return the largest difference between both policies' actions, as `LARGEST_DIFFERENCE` counts it.

    Raises:
        InputError: our policy gives actions that are not finite.
    """
    worst = 0.0
    with np.errstate(all="ignore"):  # what is not finite is refused
        for ours, theirs in _actions(policy, exported, trial):
            if not np.isfinite(ours).all():
                raise InputError("the policy gives actions that are not finite: there is nothing to export")
            difference = np.abs(ours - theirs) / np.maximum(1.0, 2.0 * policy.action_scale[0].cpu().numpy())
            worst = max(worst, float(np.where(np.isnan(difference), np.inf, difference).max()))
    return worst


def _actions(
    policy: Policy | SequencePolicy, exported: Exported, trial: Trial
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Give actions of both, `[N, act]`, step by step."""
    if not isinstance(policy, SequencePolicy):
        # One at a time, too: the way of a robot, for which a runtime may have other kernels.
        for rows in (trial.observations, trial.observations[:1]):
            (action,) = exported([rows])
            yield policy(rows), action
        return
    plain = plain_policy(policy)
    assert isinstance(plain, PlainSequencePolicy)
    policy.reset()
    context = [part.numpy().copy() for part in plain.start(len(trial.observations), policy.target_returns[0])]
    for step in range(trial.observations.shape[1]):
        context[0][:, -1] = trial.observations[:, step]
        ours = policy(trial.observations[:, step])
        theirs, *context = exported(context)
        yield ours, theirs
        context = [np.array(part) for part in context]
        context[2][:, -1] -= trial.rewards[:, step]
        policy.observe(trial.rewards[:, step], torch.zeros(len(ours), dtype=torch.bool))
    policy.reset()
