"""Judge trained runs from their folders without rollouts: by fitted Q evaluation and importance sampling on data."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlrat.datasets import Dataset, Units, load_dataset
from rlrat.environments.registry import import_modules
from rlrat.environments.settings import bare
from rlrat.errors import InputError, reason, warn
from rlrat.evaluation import importance
from rlrat.evaluation.fqe import FittedQ, FQESettings, cut_share, data_value, fit_q, initial_rows, policy_actions
from rlrat.networks.activations import name_modules
from rlrat.runs.folder import RunFolder
from rlrat.runs.loading import Which, build_policy, read_checkpoint
from rlrat.runs.schema import CONFIG, DIVERGED, JUDGEMENT, recalled
from rlrat.updates.machine import find_device

if TYPE_CHECKING:
    from rlrat.networks.policies import Policy

LEAST_EPISODES = 20
MOST_OUTSIDE = 0.5
"""Share of states at which a policy may act unlike the data."""
MOST_CUT = 0.05
"""`cut_share` of the data up to which its own value is compared with a policy's."""
MOST_DRIFT = 0.25
"""By which a value may still move in the last fifth of a fit, in standard deviations of the data's returns."""
_LEVEL = 0.95  # of intervals
_NEIGHBOURS, _STATES, _DATA_SHARE = 10, 4000, 0.05
_MOST_TREE = 50_000  # transitions among which neighbours are looked for
_MOST_ACTIONS = 2**28  # numbers that the policies' actions may be, side by side
_SAMPLES = 16  # actions of a stochastic policy whose Q are averaged


@dataclass(frozen=True)
class Judgement:
    """What is known of a run's policy without rollouts. Values are in the environment's rewards."""

    run: str
    update: int
    """Of the checkpoint."""
    which: str
    discount: float
    value: float
    """Discounted value at the data's initial states, by fitted Q evaluation on all episodes."""
    interval: tuple[float, float] | None
    """A 95% t-interval around `value`, by the spread of the refits; None with fewer than two."""
    refits: tuple[float, ...]
    """Values of fits on resampled episodes, at initial states that are resampled, too."""
    data_value: float
    """Mean discounted return of the data's complete episodes."""
    cut_share: float
    """Mean of discount^length over these, 0 for terminated ones: what `data_value` leaves out and `value` counts."""
    outside: float
    """Share of states at which the policy acts unlike the data; the data itself has 0.05."""
    problems: tuple[str, ...] = ()
    """Why the value cannot be trusted; empty if nothing speaks against it."""
    importance: dict[str, Any] = field(default_factory=dict)
    """Of a stochastic policy on data with log_probs: `effective_sample_size`, and estimates or why they are refused."""


@dataclass
class _Judged:
    """A run that is to be judged."""

    path: Path
    folder: RunFolder
    config: dict[str, Any]
    update: int
    policy: "Policy"
    discount: float
    problems: list[str]


def judge(
    runs: Sequence[str | os.PathLike[str]],
    settings: FQESettings | None = None,
    *,
    which: Which = "last",
    dataset: str | os.PathLike[str] | Dataset | None = None,
    discount: float | None = None,
    refits: int = 5,
    seed: int = 0,
    device: str = "cpu",
    env_modules: Sequence[str] = (),
    activation_modules: Sequence[str] = (),
    said: Callable[[str], None] = lambda line: None,
) -> list[Judgement]:
    """Judge the policies of run folders, those with one dataset and discount side by side; write `judgement.json`s.

    All runs are judged with the same random numbers, on the same resamples of the episodes.

    Args:
        runs: run folders, or checkpoint files in them.
        settings: of the fits; its discount is not used.
        which: the newest policy, or the one that `--keep-best` kept.
        dataset: to judge on; by default what each run was trained on.
        discount: by default each run's own, or 0.99 where its agent has none.
        refits: fits on resampled episodes.
        seed: of the fits.
        device: where they are made: auto, cpu, cuda, ...
        env_modules: modules of yours that register environments.
        activation_modules: your modules with the activations that runs were trained with.
        said: is told in words what goes on.

    Raises:
        InputError: a run that cannot be loaded, has memory (a Decision Transformer), or does not fit the data.
    """
    import_modules(env_modules)
    name_modules(activation_modules)
    settings = settings or FQESettings()
    judged = [_read(Path(run), which, discount) for run in runs]
    loaded: dict[Any, Dataset] = {}
    groups: dict[tuple[int, float], list[int]] = {}
    for index, run in enumerate(judged):
        data = _find_data(run, dataset, loaded)
        _check(run, data)
        groups.setdefault((id(data), run.discount), []).append(index)
    found: dict[int, Judgement] = {}
    by_id = {id(data): data for data in loaded.values()}
    for (number, own_discount), indices in groups.items():
        data = by_id[number]
        own = FQESettings(**{**vars(settings), "discount": own_discount})
        at_once = max(1, _MOST_ACTIONS // max(1, max(1, refits) * data.actions.size))
        for start in range(0, len(indices), at_once):
            some = [judged[i] for i in indices[start : start + at_once]]
            said(f"fitting Q of {len(some)} policies to {len(data):,} transitions")
            results = _judge(some, data, own, which, refits, seed, find_device(device), said)
            for index, result in zip(indices[start : start + at_once], results, strict=True):
                _write(judged[index], result, own, data)
                found[index] = result
    return [found[index] for index in range(len(judged))]


def _read(path: Path, which: Which, discount: float | None) -> _Judged:
    checkpoint = read_checkpoint(path, which)
    policy = build_policy(checkpoint, path)
    if hasattr(policy, "observe"):
        raise InputError(
            f"the policy in {path} is a Decision Transformer, which acts on its history: fitted Q evaluation judges "
            "policies that act on the state alone, so play episodes with `rlrat evaluate`"
        )
    folder = RunFolder(path.parent if path.is_file() else path)
    config = folder.config()
    if config is None:
        raise InputError(f"{folder.path / CONFIG} is missing: give a whole run folder")
    if discount is None:
        discount = recalled(config["identity"]).get("discount", FQESettings.discount)
        if not isinstance(discount, int | float):
            raise InputError(f"{folder.path / CONFIG} is damaged: discount is {reason(repr(discount))}")
    problems, summary = [], folder.summary()
    if summary is not None and summary.get("status") == DIVERGED:
        problems.append(f"the run diverged at update {summary.get('diverged_at')}, its policy is the one frozen then")
    return _Judged(path, folder, config, checkpoint["update"], policy, float(discount), problems)


def _find_data(run: _Judged, given: Any, loaded: dict[Any, Dataset]) -> Dataset:
    """Load the data that a run is judged on, once for all runs that name it alike; compare its fingerprint."""
    if isinstance(given, Dataset):
        data = loaded.setdefault(given.fingerprint, given)
    else:
        arguments, identity = (_mapping(run.config.get(name)) for name in ("arguments", "identity"))
        name = given if given is not None else arguments.get("dataset", identity.get("dataset"))
        # As it was typed: that of the evaluations may be another than the data was collected in.
        env_id, bounds = arguments.get("env_id", identity.get("env_id")), arguments.get("action_bounds")
        drop = drop if isinstance(drop := arguments.get("drop_achieved_goal"), bool) else None
        if not isinstance(name, str | os.PathLike):
            raise InputError(f"{run.folder.path / CONFIG} names no dataset: give --dataset")
        key = (os.fspath(name), env_id, repr(bounds), drop)
        if key not in loaded:
            env_id = bare(env_id) if isinstance(env_id, str) else None
            try:
                loaded[key] = load_dataset(name, env_id=env_id, action_bounds=bounds, drop_achieved_goal=drop)
            except InputError as error:
                if given is not None:
                    raise
                raise InputError(
                    f"{error}; {run.folder.path} was trained on it: give --dataset with where it is now, or from "
                    "Python judge(..., dataset=...) if it was in memory"
                ) from None
        data = loaded[key]
    before = _mapping(run.config.get("dataset")).get("fingerprint")
    if before != data.fingerprint:
        warn(f"{run.path} was trained on other data than {data.id} is now (another fingerprint): it is judged on this")
    return data


def _check(run: _Judged, data: Dataset) -> None:
    for kind, width in (("observation", data.observations.shape[1]), ("action", data.actions.shape[1])):
        if (size := run.policy.settings[f"{kind}_size"]) != width:
            raise InputError(
                f"the policy in {run.path} has {kind}s of size {size}, {data.id} of {width}: give the data it is for"
            )


def _judge(
    runs: Sequence[_Judged],
    data: Dataset,
    settings: FQESettings,
    which: str,
    refits: int,
    seed: int,
    device: torch.device,
    said: Callable[[str], None],
) -> list[Judgement]:
    """Judge runs side by side: one fit on all episodes, then the refits of all of them."""

    def act(observations: np.ndarray, repeats: int = 1) -> np.ndarray:
        actions = [run.policy(observations[repeats * index]) for index, run in enumerate(runs)]
        return np.repeat(actions, repeats, axis=0)

    fitted = fit_q(data, act, [seed] * len(runs), settings, device)
    values, spread = fitted.values(), fitted.spread
    again = np.zeros((len(runs), 0))
    if refits:
        said(f"fitting Q of {len(runs)} policies to {refits} resamples of the episodes")
        seeds = [seed + 1 + refit for _ in runs for refit in range(refits)]
        resampled = fit_q(data, lambda states: act(states, refits), seeds, settings, device, resample=True)
        again = resampled.values().reshape(len(runs), refits)
    found, own_value, cut = [], data_value(data, settings.discount), cut_share(data, settings.discount)
    outside = outside_shares(data, [run.policy for run in runs], seed)
    for index, run in enumerate(runs):
        problems = [
            *run.problems,
            *_doubts(data, settings.discount, [(u, v[index]) for u, v in fitted.checks], spread, outside[index]),
        ]
        found.append(
            Judgement(
                run=str(run.path),
                update=run.update,
                which=which,
                discount=settings.discount,
                value=float(values[index]),
                interval=t_interval(values[index], again[index]),
                refits=tuple(map(float, again[index])),
                data_value=own_value,
                cut_share=cut,
                outside=float(outside[index]),
                problems=tuple(problems),
                importance=_importance(data, run.policy, fitted, index, settings.discount, seed),
            )
        )
    return found


def t_interval(value: float, refits: np.ndarray) -> tuple[float, float] | None:
    """Return the 95% t-interval around a value whose standard error is the refits' standard deviation."""
    from scipy.stats import t

    if len(refits) < 2:
        return None
    half = t.ppf(0.5 + _LEVEL / 2, len(refits) - 1) * np.std(refits, ddof=1)
    return float(value - half), float(value + half)


def _doubts(
    data: Dataset, discount: float, checks: Sequence[tuple[int, float]], spread: float, outside: float
) -> Iterator[str]:
    """Say why a value cannot be trusted."""
    update, value = checks[-1]
    if not np.isfinite(value):
        yield "the fit met numbers that are not finite"
        return
    low, high = min(0.0, float(data.rewards.min())), max(0.0, float(data.rewards.max()))
    low, high = low / (1.0 - discount), high / (1.0 - discount)
    if not low <= value <= high:
        yield f"the fit diverges: {value:.4g} is beyond what rewards allow, {low:.4g} to {high:.4g}"
    before = next(own for at, own in reversed(checks) if at <= 0.8 * update) if len(checks) > 2 else value
    if abs(value - before) > MOST_DRIFT * spread:
        yield f"the fit still moves, by {value - before:+.3g} in its last fifth: give more --fqe-updates"
    if (episodes := len(initial_rows(data))) < LEAST_EPISODES:
        yield f"{episodes} episodes are too few, at least {LEAST_EPISODES} should be there"
    if outside > MOST_OUTSIDE:
        yield f"the policy acts unlike the data at {outside:.0%} of the states"


def outside_shares(data: Dataset, policies: Sequence[Callable[[np.ndarray], np.ndarray]], seed: int) -> np.ndarray:
    """Compute the share of states, for each policy, at which it acts unlike the data near them.

    At up to 4,000 states, an action is compared with those of the 10 nearest states (among up to 50,000, observations
    normalised), which the state itself is one of: its distance to the nearest one of these actions is to be at most
    what 95% of the data's own actions have to the nearest of their neighbours'.
    """
    from scipy.spatial import cKDTree

    random = np.random.default_rng(seed)
    units = Units.of(data, True, 1e-6, reward_scaling="none")
    rows = np.sort(random.choice(len(data), min(len(data), _MOST_TREE), replace=False))
    states = (data.observations[rows] - units.observation_mean) / units.observation_std
    taken = units.actions(data.actions[rows])
    asked = random.choice(len(rows), min(len(rows), _STATES), replace=False)
    count = min(_NEIGHBOURS + 1, len(rows))
    if count < 2:
        return np.full(len(policies), np.nan)
    _, near = cKDTree(states).query(states[asked], k=count)
    near = np.where(near == asked[:, None], near[:, :1], near)  # equal states may come in any order
    near[:, 0] = asked
    around = taken[near]  # [states, neighbours, act], the state's own action first
    typical = np.linalg.norm(around[:, 1:] - around[:, :1], axis=-1).min(1)
    most = np.quantile(typical, 1.0 - _DATA_SHARE)
    shares = []
    for policy in policies:
        own = units.actions(np.asarray(policy(np.array(data.observations[rows[asked]]))))
        shares.append((np.linalg.norm(around - own[:, None], axis=-1).min(1) > most).mean())
    return np.array(shares)


def _importance(
    data: Dataset, policy: "Policy", fitted: FittedQ, index: int, discount: float, seed: int
) -> dict[str, Any]:
    """Estimate the value of a stochastic policy from the data's log_probs; {} where there is no density of both."""
    recorded = data.log_probs
    if recorded is None or policy.head == "deterministic":
        return {}
    random = torch.Generator().manual_seed(seed)
    log_probs, sampled = [], []
    scale, offset = policy.action_scale, policy.action_offset
    for start in range(0, len(data), 2**14):
        part = slice(start, start + 2**14)
        states = policy.read(np.array(data.observations[part])[None])
        actions = (torch.from_numpy(np.array(data.actions[part]))[None] - offset) / scale
        # In the environment's units, as the data's own.
        log_probs.append((policy.log_prob(states, actions) - scale.log().sum()).squeeze(0).numpy())
        mean, log_std = policy.gaussian(states)
        noise = torch.randn(_SAMPLES, *mean.shape[1:], generator=random)
        drawn = mean + log_std.exp() * noise
        drawn = drawn.clamp(-1.0, 1.0) if policy.head == "tanh_gaussian" else torch.tanh(drawn)
        sampled.append((drawn * scale + offset).numpy())
    ratios = np.concatenate(log_probs).astype(np.float64) - recorded
    starts = initial_rows(data)
    found: dict[str, Any] = {}
    try:
        found["effective_sample_size"] = importance.effective_sample_size(ratios, starts)
        columns = (data.rewards, ratios, starts, discount)
        for name, weighted in (("per_decision", False), ("weighted_per_decision", True)):
            found[name] = importance.estimate(*columns, weighted=weighted).value
        model = _model(data, fitted, index, np.concatenate(sampled, axis=1))
        for name, weighted in (("doubly_robust", False), ("weighted_doubly_robust", True)):
            found[name] = importance.estimate(*columns, weighted=weighted, **model).value
    except InputError as error:
        found["refused"] = str(error)
    return found


def _model(data: Dataset, fitted: FittedQ, index: int, sampled: np.ndarray) -> dict[str, np.ndarray]:
    """Compute what makes an estimate doubly robust: q, v as a mean over `sampled` `[K, N, act]`, and values of ends."""

    def q(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return fitted.q(observations, np.broadcast_to(actions, (fitted.num_entries, *actions.shape)))[index]

    last = np.append(initial_rows(data)[1:], len(data)) - 1
    states = np.array(data.next_observations[last])
    ends = q(states, policy_actions(fitted.policy, states, fitted.num_entries, data.actions.shape[1])[index])
    return {
        "q": q(data.observations, np.asarray(data.actions)),
        "v": np.mean([q(data.observations, actions) for actions in sampled], axis=0),
        "end_values": np.where(data.terminations[last], 0.0, ends),
    }


def _write(run: _Judged, result: Judgement, settings: FQESettings, data: Dataset) -> None:
    content = {
        **as_json(result),
        "fqe": {name: value for name, value in vars(settings).items() if name != "discount"},
        "dataset": {"id": data.id, "fingerprint": data.fingerprint},
    }
    run.folder.write_json(JUDGEMENT, content)


def as_json(result: Judgement) -> dict[str, Any]:
    """Return a judgement as plain values, null for what is not finite."""

    def plain(value: Any) -> Any:
        if isinstance(value, tuple | list):
            return [plain(one) for one in value]
        if isinstance(value, dict):
            return {name: plain(one) for name, one in value.items()}
        return None if isinstance(value, float) and not np.isfinite(value) else value

    return {**plain(vars(result)), "trusted": not result.problems}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
