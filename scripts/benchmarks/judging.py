"""Judge trained policies with the environment hidden, and compare with what they earn in it; time a judgement.

`validate` trains policies on the packaged data, several agents and activations at several updates, judges them by
fitted Q evaluation as `rlrat judge` does, and plays episodes for the truth. What is found is kept in --folder, so that
the same command goes on where it was stopped. `speed` times one fit, and a judgement with its refits.
"""

import dataclasses
import itertools
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.table import Table
from scipy.stats import spearmanr

from agent_speed import make_learner
from rlrat import Dataset, load_dataset
from rlrat.console import Console
from rlrat.errors import one_line_errors
from rlrat.evaluation.evaluator import Evaluator
from rlrat.evaluation.fqe import FQESettings, data_value, fit_q
from rlrat.networks.policies import Policy
from rlrat.runs.arguments import read_command_line
from rlrat.runs.checkpoints import checkpoint_bytes
from rlrat.runs.files import replace
from rlrat.runs.judging import _doubts as doubts
from rlrat.runs.judging import outside_shares, t_interval
from rlrat.runs.loading import build_policy
from rlrat.updates.compiled import compiled, pays

_ROOT = Path(__file__).parents[2]
_DEVICE = torch.device("cpu")


@dataclass(frozen=True)
class Validate:
    """Rank and value policies without their environment, and compare with the truth."""

    folder: Path
    """Where policies, returns and values are kept while it goes on."""
    output: Path = _ROOT / "docs" / "benchmarks" / "judging.json"
    """Where the result is written."""
    datasets: tuple[str, ...] = ("rlrat/hopper/mixed-v0", "rlrat/hopper/medium-v0")
    """The first one is that on which the defaults were chosen."""
    agents: tuple[str, ...] = ("bc", "iql", "td3_bc", "cql")
    """Agents that are trained, with hidden layers of 256 and 256."""
    activations: tuple[str, ...] = ("relu", "rational")
    """Of all networks of the agents."""
    updates: tuple[int, ...] = (1000, 2500, 5000)
    """At which a policy is taken."""
    seeds: int = 2
    """Trained side by side."""
    policies: int = 40
    """Policies that are judged, spread evenly over those that there are."""
    episodes: int = 50
    """Played by each policy for the truth."""
    refits: int = 5
    """Fits on resampled episodes, for the interval."""
    at_once: int = 8
    """Policies that are judged side by side."""
    fqe_updates: int | None = None
    """Of each fit; by default those of a judgement."""
    threads: int = 2


@dataclass(frozen=True)
class Speed:
    """Time one fit, and a judgement with its refits, on the packaged data."""

    dataset: str = "rlrat/hopper/medium-v0"
    refits: int = 5
    fqe_updates: int | None = None
    """Of each fit; by default those of a judgement."""
    threads: int = 2


@dataclass(frozen=True)
class _Trained:
    """A policy, and where it comes from."""

    name: str
    policy: Policy


class _Returns:
    """Policies that act side by side and add up their discounted rewards, `[S, E]`."""

    def __init__(self, policies: Sequence[Policy], discount: float) -> None:
        self._policies, self._discount = policies, discount

    def reset(self) -> None:
        self.totals, self._factor = 0.0, 1.0

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        return side_by_side(self._policies, observations)

    def observe(self, rewards: np.ndarray, dones: np.ndarray) -> None:
        self.totals = self.totals + self._factor * rewards
        self._factor *= self._discount


def side_by_side(policies: Sequence[Policy], observations: np.ndarray, repeats: int = 1) -> np.ndarray:
    """Act by each policy in `repeats` neighbouring rows of `observations` `[S, E, obs]`, which are equal."""
    return np.repeat([policy(observations[repeats * i]) for i, policy in enumerate(policies)], repeats, axis=0)


def train(dataset: Dataset, agent: str, activation: str, settings: Validate, file: Path) -> list[dict[str, Any]]:
    """Train an agent and take its policies at some updates; each is what `build_policy` builds it from."""
    if file.exists():
        return torch.load(file, weights_only=True)
    total = max(settings.updates)
    chosen = {"hidden_dims": (256, 256), "activation": activation, "total_updates": total}
    learner = make_learner(agent, dataset, settings.seeds, _DEVICE, **chosen)
    if pays(4 * total, _DEVICE):  # short trainings, but of several seeds
        learner.update = compiled(learner.update, _DEVICE)
    found = []
    for update in range(1, total + 1):
        learner.update(*learner.inputs(update - 1))
        if update in settings.updates:
            state = learner.policy.state_dict()
            for seed in range(settings.seeds):
                own = {f"policy.{name}": tensor[seed].clone() for name, tensor in state.items()}
                name = f"{agent}, {activation}, seed {seed}, update {update}"
                found.append({"name": name, "policy": learner.policy.settings, "state": own})
    replace(file, checkpoint_bytes(found))
    return found


def policies_of(dataset: Dataset, settings: Validate) -> list[_Trained]:
    found = []
    for agent, activation in itertools.product(settings.agents, settings.activations):
        file = settings.folder / f"{dataset.id.replace('/', '-')}, {agent}, {activation}.pt"
        found += train(dataset, agent, activation, settings, file)
        print(f"{dataset.id}: {agent}, {activation}: trained", flush=True)
    count = min(settings.policies, len(found))
    chosen = [found[i * len(found) // count] for i in range(count)]
    return [_Trained(one["name"], build_policy(one, one["name"])) for one in chosen]


def play(dataset: Dataset, policies: Sequence[Policy], settings: Validate, discount: float) -> dict[str, np.ndarray]:
    """Play the same initial states with every policy: discounted and undiscounted returns `[S, E]`."""
    acting = _Returns(policies, discount)
    with Evaluator(dataset.env_id, [0] * len(policies), settings.episodes, dataset.env_kwargs) as evaluator:
        evaluation = evaluator.run(acting)
    return {"discounted": acting.totals, "undiscounted": evaluation.returns}


def judged(dataset: Dataset, trained: Sequence[_Trained], fqe: FQESettings, refits: int) -> list[dict[str, Any]]:
    """Judge policies side by side, as `rlrat judge` does."""
    policies = [one.policy for one in trained]
    fitted = fit_q(dataset, lambda states: side_by_side(policies, states), [0] * len(policies), fqe)
    values, again = fitted.values(), np.zeros((len(policies), 0))
    if refits:
        seeds = [1 + refit for _ in policies for refit in range(refits)]
        act = lambda states: side_by_side(policies, states, refits)  # noqa: E731
        again = fit_q(dataset, act, seeds, fqe, resample=True).values().reshape(len(policies), refits)
    outside, found = outside_shares(dataset, policies, 0), []
    for i, one in enumerate(trained):
        checks = [(update, float(value[i])) for update, value in fitted.checks]
        problems = list(doubts(dataset, fqe.discount, checks, fitted.spread, outside[i]))
        row = {"policy": one.name, "value": float(values[i]), "refits": again[i].tolist()}
        found.append(row | {"outside": float(outside[i]), "problems": problems, "checks": checks})
    return found


def statistics(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Compare values with the truth: rank correlations, regret of taking the best one, errors, cover of intervals."""
    value, truth, returns = (np.array([row[name] for row in rows]) for name in ("value", "truth", "return"))
    found: dict[str, Any] = {"policies": len(rows)}
    for name, right in (("discounted", truth), ("undiscounted", returns)):
        span = right.max() - right.min()
        found[f"spearman_{name}"] = float(spearmanr(value, right)[0])
        found[f"regret_at_1_{name}"] = float((right.max() - right[value.argmax()]) / span)
    found["truth"] = {"least": truth.min(), "median": float(np.median(truth)), "most": truth.max()}
    found["mean_error"], found["mean_absolute_error"] = (value - truth).mean(), np.abs(value - truth).mean()
    if all(len(row["refits"]) > 1 for row in rows):
        inside = [
            low <= right <= high for (low, high), right in zip((interval(row) for row in rows), truth, strict=True)
        ]
        found["intervals_that_cover"] = float(np.mean(inside))
        # A simpler estimate: the mean of all fits.
        means = np.array([np.mean([row["value"], *row["refits"]]) for row in rows])
        found["spearman_discounted_of_mean_of_fits"] = float(spearmanr(means, truth)[0])
    found["not_trusted"] = sum(bool(row["problems"]) for row in rows)
    return json.loads(json.dumps(found, default=float))


def interval(row: dict[str, Any]) -> tuple[float, float]:
    return t_interval(row["value"], np.array(row["refits"]))


def validate(settings: Validate) -> None:
    torch.set_num_threads(settings.threads)
    settings.folder.mkdir(parents=True, exist_ok=True)
    fqe = _fqe(settings.fqe_updates)
    report: dict[str, Any] = {"torch": torch.__version__, "fqe": dataclasses.asdict(fqe), "datasets": {}}
    report["settings"] = {k: v for k, v in vars(settings).items() if k not in ("folder", "output")}
    for id in settings.datasets:
        dataset, name = load_dataset(id), id.replace("/", "-")
        trained = policies_of(dataset, settings)
        truth = _kept(settings.folder / f"{name}, truth.json", lambda d=dataset, t=trained: _truth(d, t, settings, fqe))
        rows = []
        for start in range(0, len(trained), settings.at_once):
            some = trained[start : start + settings.at_once]
            file = settings.folder / f"{name}, judged {start}.json"
            rows += _kept(file, lambda d=dataset, s=some: judged(d, s, fqe, settings.refits))
            print(f"{id}: {len(rows)} of {len(trained)} policies judged", flush=True)
        rows = [row | truth[row["policy"]] for row in rows]
        found = {"data_value": data_value(dataset, fqe.discount), **statistics(rows), "rows": rows}
        report["datasets"][id] = found
        settings.output.parent.mkdir(parents=True, exist_ok=True)
        settings.output.write_text(json.dumps(report, indent=1) + "\n")
    Console().print(table(report))


def _truth(dataset: Dataset, trained: Sequence[_Trained], settings: Validate, fqe: FQESettings) -> dict[str, Any]:
    played = play(dataset, [one.policy for one in trained], settings, fqe.discount)
    return {
        one.name: {
            "truth": float(played["discounted"][i].mean()),
            "truth_error": float(played["discounted"][i].std() / np.sqrt(settings.episodes)),
            "return": float(played["undiscounted"][i].mean()),
        }
        for i, one in enumerate(trained)
    }


def table(report: dict[str, Any]) -> Table:
    shown = Table("dataset", "policies", "Spearman", "undiscounted", "regret@1", "undiscounted", "error", "cover")
    for id, found in report["datasets"].items():
        numbers = [f"{found[f'{kind}_{of}']:.2f}" for kind in ("spearman", "regret_at_1") for of in _KINDS]
        cover = f"{found['intervals_that_cover']:.0%}" if "intervals_that_cover" in found else "-"
        shown.add_row(id, str(found["policies"]), *numbers, f"{found['mean_absolute_error']:.1f}", cover)
    return shown


_KINDS = ("discounted", "undiscounted")


def speed(settings: Speed) -> dict[str, float]:
    """Time the parts of a judgement of one policy, the mean action of the data in every state's place."""
    torch.set_num_threads(settings.threads)
    dataset, fqe, found = load_dataset(settings.dataset), _fqe(settings.fqe_updates), {}
    mean = dataset.actions.mean(0)
    parts = {"one fit": 1} | ({f"{settings.refits} refits": settings.refits} if settings.refits else {})
    for name, count in parts.items():
        wall, cpu = time.perf_counter(), time.process_time()
        act = lambda states: np.broadcast_to(mean, (*states.shape[:-1], len(mean)))  # noqa: E731
        fit_q(dataset, act, list(range(count)), fqe, resample=count > 1)
        found[name], seconds = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{name} on {len(dataset):,} transitions: {found[name]:.1f} s, {seconds:.1f} s of CPU time", flush=True)
    return found


def _fqe(updates: int | None) -> FQESettings:
    return FQESettings() if updates is None else FQESettings(updates=updates)


def _kept(file: Path, find: Any) -> Any:
    if not file.exists():
        replace(file, json.dumps(find(), default=float).encode())
    return json.loads(file.read_text())


def main(argv: list[str] | None = None) -> None:
    commands = Annotated[Validate, tyro.conf.subcommand("validate")] | Annotated[Speed, tyro.conf.subcommand("speed")]
    given = read_command_line(commands, __doc__, argv)
    with one_line_errors():
        validate(given) if isinstance(given, Validate) else speed(given)


if __name__ == "__main__":
    sys.exit(main())
