"""Judge the policies of a run without rollouts: on episodes that are held out, and by fitted Q evaluation."""

import copy
from collections.abc import Callable

import numpy as np
import torch

from rlrat.datasets import Dataset, Units
from rlrat.errors import InputError
from rlrat.evaluation.fqe import FittedQ, FQESettings, data_value, fit_q, policy_actions
from rlrat.evaluation.scores import Reference
from rlrat.runs.arguments import RunArguments
from rlrat.runs.schema import ACTION_ERROR, AGREEMENT, DATA_VALUE, FQE_VALUE
from rlrat.runs.summaries import four_digits
from rlrat.updates.learner import Learner

KEPT = {"fqe": FQE_VALUE, "heldout": "losses/actor"}
"""What `--keep-best` compares, by its value; a loss is better where it is smaller."""
_MOST_BATCHES = 100  # of held-out losses
_MOST_ROWS = 20_000  # held-out transitions whose actions are compared
_MOST_ADVANTAGE = 3.0  # standard deviations of the advantage, so that no single transition has all the weight


def check_kept(arguments: RunArguments, env_id: str | None, reference: Reference | None) -> None:
    """Refuse a `--keep-best` of what is not found, and limits of rollouts that are not made.

    Raises:
        InputError: which of them, and what to give.
    """
    wanted = arguments.keep_best
    if wanted in ("return", "score") and env_id is None:
        raise InputError(f"--keep-best is {wanted}, but without an environment there is none: give fqe or heldout")
    if wanted == "score" and reference is None:
        raise InputError(f"--keep-best is score, but {env_id} has no reference scores with this data: give return")
    if env_id is None and arguments.max_episode_steps is not None:
        raise InputError("--max-episode-steps limits rollouts, but there is no environment: leave it out")


def how_judged(arguments: RunArguments, dataset: Dataset, held_out: Dataset | None, remembers: bool) -> str:
    """Say in a line how a run without an environment is judged; a policy that `remembers` has no action values."""
    parts = ["fitted Q evaluation"] * bool(arguments.fqe_updates and not remembers)
    if held_out is not None:
        parts.append(f"{len(held_out.episode_starts):,} of {len(dataset.episode_starts):,} episodes, held out")
    judged = f"policies are judged by {' and '.join(parts)}" if parts else "policies are not judged"
    named = arguments.env_id is not None
    return f"{'no environment' if named else f'dataset {dataset.id} names no environment (--env-id)'}: {judged}"


def describe(values: dict[str, float]) -> str:
    """Say an evaluation without rollouts in words: its value and agreement, or else the actor's held-out loss."""
    said = {"value": FQE_VALUE, "agreement": AGREEMENT}
    if not (found := {words: values[name] for words, name in said.items() if name in values}):
        found = {name: value for name, value in values.items() if name == KEPT["heldout"]}
    return ", ".join(f"{words} {four_digits(value)}" for words, value in found.items()) or "not judged"


class OfflineEvaluator:
    """Judges the S policies of a learner as they are, on data alone.

    Args:
        arguments: the run's.
        seeds: `[S]`.
        dataset: all of the run's data: fitted Q evaluation learns from it.
        held_out: its episodes that are not trained on, if any.
        build: makes the learner of a dataset, as the run's own was made.
        learner: the run's.
        with_values: whether Q is fitted, too.

    Raises:
        InputError: `--keep-best` wants what this run does not find.
    """

    def __init__(
        self,
        arguments: RunArguments,
        seeds: list[int],
        dataset: Dataset,
        held_out: Dataset | None,
        build: Callable[[Dataset], Learner],
        learner: Learner,
        with_values: bool = True,
    ) -> None:
        self._dataset, self._held_out, self._seeds = dataset, held_out, seeds
        self._policy = copy.deepcopy(learner.policy).requires_grad_(False).eval()
        if hasattr(self._policy, "flat"):  # of an optimizer: the copy's parameters are no part of it
            del self._policy.flat
        remembers = hasattr(self._policy, "observe")
        self._settings = None
        if with_values and arguments.fqe_updates and not remembers:
            discount = getattr(arguments, "discount", FQESettings.discount)
            if isinstance(discount, tuple) or hasattr(discount, "shape"):
                raise InputError("--discount has several values, fitted Q evaluation takes one: give --fqe-updates 0")
            if discount == 1.0:
                raise InputError("--discount is 1, fitted Q evaluation needs one below 1: give --fqe-updates 0")
            self._settings = FQESettings(updates=arguments.fqe_updates, discount=discount)
            self._data_value = data_value(dataset, discount)
        self._rows, self._losses = None, None
        if held_out is not None:
            self._losses = build(held_out)
            self._batches = min(_MOST_BATCHES, -(-len(held_out) // arguments.batch_size))
            if not remembers:
                self._rows = _some_rows(len(held_out))
        wanted = arguments.keep_best
        if wanted == "fqe" and self._settings is None:
            why = "a policy with memory has none" if remembers else "--fqe-updates is 0"
            raise InputError(f"--keep-best is fqe, but there is no fitted Q evaluation: {why}")
        if wanted == "heldout" and held_out is None:
            raise InputError("--keep-best is heldout, but no episodes are held out: give --holdout 0.1")

    def evaluate(self, learner: Learner, stopped: Callable[[], bool]) -> dict[str, np.ndarray]:
        """Judge the policies of `learner`; return each measure's name and its values `[S]`.

        Raises:
            rlrat.evaluation.fqe.Stopped: `stopped()` has become true.
        """
        self._policy.load_state_dict(learner.policy.state_dict())
        found, fitted = {}, None
        if self._settings is not None:
            device = next(learner.parameters()).device
            fitted = fit_q(self._dataset, self._policy, self._seeds, self._settings, device, stopped=stopped)
            found[FQE_VALUE] = fitted.values()
            found[DATA_VALUE] = np.full(len(self._seeds), self._data_value)
        if self._rows is not None:
            found |= self._compare_actions(fitted)
        if self._losses is not None:
            found |= self._held_out_losses(learner)
        return found

    def finite(self) -> np.ndarray:
        """Tell which of the policies that were judged last have finite parameters alone, bool `[S]`."""
        tensors = [value for value in self._policy.state_dict().values() if value.is_floating_point()]
        return torch.stack([value.isfinite().reshape(len(value), -1).all(1) for value in tensors]).all(0).cpu().numpy()

    def _compare_actions(self, fitted: FittedQ | None) -> dict[str, np.ndarray]:
        """Compare the policies' actions with those of held-out episodes, in units [-1, 1]."""
        held, rows = self._held_out, self._rows
        observations = np.asarray(held.observations[rows])
        raw = policy_actions(self._policy, observations, len(self._seeds), held.actions.shape[1])
        units = Units.of(held, False, 1e-6, "none")
        ours, theirs = units.actions(raw), units.actions(np.asarray(held.actions[rows]))
        squares = np.square(ours - theirs, dtype=np.float64).sum(-1)  # [S, N]
        found = {ACTION_ERROR: squares.mean(-1) / theirs.shape[-1]}
        if fitted is not None:
            taken = np.broadcast_to(held.actions[rows], raw.shape)
            advantage = fitted.q(observations, taken) - fitted.q(observations, raw)
            found[AGREEMENT] = _agreement(squares, theirs, advantage)
        return found

    def _held_out_losses(self, learner: Learner) -> dict[str, np.ndarray]:
        """Average the losses that updates on held-out batches begin from; nothing of these updates is kept."""
        state, sums = learner.state_dict(), {}
        for number in range(self._batches):
            self._losses.load_state_dict(state)
            metrics = self._losses.update(*self._losses.inputs(number))
            for name, value in metrics.items():
                if name.startswith("losses/"):
                    sums.setdefault(name, []).append(value.detach())
        return {name: torch.stack(values).mean(0).double().cpu().numpy() for name, values in sums.items()}


def _some_rows(count: int) -> np.ndarray:
    if count <= _MOST_ROWS:
        return np.arange(count)
    return np.sort(np.random.default_rng(0).choice(count, _MOST_ROWS, replace=False))


def _agreement(squares: np.ndarray, actions: np.ndarray, advantage: np.ndarray) -> np.ndarray:
    """1 - weighted squared error / weighted variance of the actions, weights exp(A / std(A)), clipped; `[S]`."""
    spread = advantage.std(-1, keepdims=True)
    scaled = np.divide(advantage, spread, out=np.zeros_like(advantage), where=spread > 0)
    weights = np.exp(np.minimum(scaled, _MOST_ADVANTAGE))
    weights /= weights.sum(-1, keepdims=True)
    mean = weights @ actions.astype(np.float64)  # [S, act]
    variance = weights @ np.square(actions, dtype=np.float64).sum(-1) - np.square(mean).sum(-1)
    return 1.0 - (weights * squares).sum(-1) / variance
