"""A run: from a command line to finished run folders, through any number of kills."""

import platform
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from rlrat.activations import check_activation
from rlrat.arguments import RunArguments, identity, parse_env_kwargs, run_folder, settings
from rlrat.compiled import compiled
from rlrat.datasets import load_dataset
from rlrat.errors import InputError, warn
from rlrat.evaluation import Evaluation, Evaluator, check_spaces
from rlrat.machine import find_device, keep_freed_memory, set_precision
from rlrat.profiling import Profile
from rlrat.rational import Rational
from rlrat.runs import RunFolder
from rlrat.scores import Reference, find_reference

_FINAL_EVALUATIONS = 5  # a run's score is the mean of its last five


class _Stopped(Exception):
    """A signal asks the run to stop."""


class _Interruptible:
    """The policy of a run, which a signal stops between two steps: the evaluation is done again after the resume."""

    def __init__(self, run: "Run") -> None:
        self._run, self._policy = run, run._learner.policy
        for name in ("reset", "observe"):
            if hasattr(self._policy, name):
                setattr(self, name, getattr(self._policy, name))

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        if self._run._signal is not None:
            raise _Stopped
        return self._policy(observations)


class Run:
    """The seeds of one command, trained side by side, each with its own run folder.

    An agent builds its learner from `seeds`, `dataset` and `device`, then:

        for update in run.updates(learner):
            run.log(learner.update(*learner.inputs(update)))

    A learner is an `nn.Module` whose every parameter and buffer has the leading seed axis, with `policy` (a `Policy`,
    or a `SequencePolicy`, which is evaluated at each of its target returns), `guard` (a `SeedGuard`), `inputs(update)`,
    the first of which is the batch, and `inspect(batch)`, one pass of the networks whose rational layers are logged.
    """

    def __init__(self, agent: str, arguments: RunArguments) -> None:
        """Load the dataset, compare it with the environment and the folders; `seeds` are those not finished yet.

        Nothing is written yet: the agent may still find its settings impossible.

        Raises:
            InputError: for whatever in the arguments, the dataset or the folders the user can mend.
            SystemExit: with code 0, where every seed is finished.
        """
        self.arguments = arguments
        self.agent = agent
        self.console = Console(highlight=False)
        for name in (arguments.activation, arguments.actor_activation, arguments.critic_activation):
            if name is not None:
                check_activation(name)
        self.device = find_device(arguments.device)
        keep_freed_memory()
        set_precision(arguments.precision)
        if arguments.num_threads is not None:
            torch.set_num_threads(arguments.num_threads)
        self.dataset = load_dataset(arguments.dataset)
        self.env_id = arguments.env_id or self.dataset.env_id
        if self.env_id is None:
            raise InputError(f"dataset {self.dataset.id} names no environment: give --env-id")
        kwargs = self.dataset.env_kwargs if self.env_id == self.dataset.env_id else {}
        self.env_kwargs = {**kwargs, **parse_env_kwargs(arguments.env_kwargs)}
        self.reference = self._find_reference()

        every_seed = range(arguments.seed, arguments.seed + arguments.num_seeds)
        folders = {seed: RunFolder(run_folder(arguments, agent, seed)) for seed in every_seed}
        with self._evaluator(every_seed[:1], 1) as probe:
            width = self.dataset.observations.shape[1]
            check_spaces(probe, width, self.dataset.action_low, self.dataset.action_high)
        self._folders = folders
        if not arguments.overwrite:
            for seed, folder in folders.items():
                defaults = identity(type(arguments)())
                folder.check(self._config(seed), resume=arguments.resume, defaults=defaults)
            self._folders = {seed: folder for seed, folder in folders.items() if folder.summary() is None}
        self.seeds = list(self._folders)
        for seed in every_seed:
            if seed not in self._folders:
                status = folders[seed].summary()["status"]
                self.console.print(f"{folders[seed].path} is {status}: nothing to do", soft_wrap=True)
        if not self.seeds:
            raise SystemExit(0)

        self.update = 0
        self._start = 0
        self._train_seconds = 0.0
        self._wall_seconds = 0.0
        self._evaluated: set[int] = set()
        self._sums: dict[tuple[str, ...], tuple[Tensor, int]] = {}  # by the metrics that an update had
        self._signal: int | None = None
        self._warned: set[int] = set()

    def log(self, metrics: dict[str, Tensor]) -> None:
        """Take one update's metrics, `[S]` each; their means go to TensorBoard every `--log-every` updates.

        Not every update need have every metric: a mean is over those that had it.
        """
        names = tuple(metrics)
        values = torch.stack([value.detach() for value in metrics.values()])
        sums, count = self._sums.get(names, (0.0, 0))
        self._sums[names] = (values.add_(sums), count + 1)

    def updates(self, learner: nn.Module) -> Iterator[int]:
        """The updates that are still to do; around them everything is evaluated, logged and saved when it is due.

        A first Ctrl-C or SIGTERM saves a checkpoint and exits.
        """
        self._learner, self._batch = learner, learner.inputs(0)[0]
        if self.arguments.compile:
            learner.update = compiled(learner.update)
        self._targets = getattr(learner.policy, "target_returns", (None,))
        gated: dict[str, list[str]] = {}  # names of the networks by what became of them
        for name, network in learner.named_modules():
            if getattr(network, "gating", None) is not None and "_target" not in name:
                gated.setdefault(network.gating, []).append(name)
        for text, names in gated.items():
            self.console.print(f"gated: {', '.join(names)}: {text}", soft_wrap=True)
        if self.reference is None:
            self.console.print(f"no reference scores for {self.env_id} with this data: returns are raw", soft_wrap=True)
        for seed, folder in self._folders.items():
            folder.create(self._config(seed), overwrite=self.arguments.overwrite)
        self._resume()
        self._profile = None
        if self.arguments.profile:
            first = next(iter(self._folders.values()))
            self._profile = Profile(learner, self.device, first.path / "trace.json")
        self._progress = Progress(
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
            *(TextColumn("{task.fields[speed]}"), TimeRemainingColumn(), TextColumn("{task.fields[score]}")),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        thread_hook, threading.excepthook = threading.excepthook, _quiet_about_disks
        self._began = time.perf_counter()
        try:
            for folder in self._folders.values():
                folder.open_scalars(purge_step=self._start + 1 if self._start else None)
            with (
                self._evaluator(
                    self.seeds, self.arguments.eval_episodes, repeats=len(self._targets)
                ) as self._environments,
                self._progress,
            ):
                self._bar = self._progress.add_task(
                    f"{self.agent} {self.arguments.activation}",
                    total=self.arguments.total_updates, completed=self.update, speed="", score="",
                )  # fmt: skip
                yield from self._loop()
        except _Stopped:
            self._save()
            without = "overwrite" if self.arguments.overwrite else None if self.arguments.resume else "no-resume"
            command = "the same command" + (f" without --{without}" if without else "")
            self.console.print(f"stopped at update {self.update:,}; {command} goes on from there", soft_wrap=True)
            raise SystemExit(128 + self._signal) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for folder in self._folders.values():
                folder.close_scalars()
            threading.excepthook = thread_hook
        if self._profile is not None:
            self._profile.report(self.console)
        self._finish()

    def _loop(self) -> Iterator[int]:
        arguments = self.arguments
        while True:
            with self._part("evaluation"):
                self._evaluate_if_due()
            done = self.update == arguments.total_updates or not self._alive().any()
            if (done or self.update % arguments.checkpoint_every == 0) and self.update > self._start:
                with self._part("checkpoints"):
                    self._save()
            if done:
                return
            # Up to the next point at which anything but training happens.
            intervals = (arguments.eval_every, arguments.checkpoint_every, arguments.log_every)
            until = min(
                arguments.total_updates,
                *((self.update // interval + 1) * interval for interval in intervals),
                *(at for at in arguments.eval_at if at > self.update),
            )
            first, started = self.update, time.perf_counter()
            while self.update < until:
                yield self.update
                self.update += 1
                if self.update % 10 == 0:
                    self._progress.update(self._bar, completed=self.update)
                if self._signal is not None:
                    break
            self._synchronize()
            seconds = time.perf_counter() - started
            self._train_seconds += seconds
            self._speed = (self.update - first) / seconds
            self._progress.update(self._bar, completed=self.update, speed=f"{self._speed:.0f} updates/s")
            if self._signal is not None:
                raise _Stopped
            self._report_diverged()
            if self.update % arguments.log_every == 0:
                with self._part("logging"):
                    self._write_metrics()

    def _part(self, name: str) -> AbstractContextManager:
        return nullcontext() if self._profile is None else self._profile.part(name)

    def _evaluate_if_due(self) -> None:
        arguments = self.arguments
        due = self.update % arguments.eval_every == 0 or self.update in (*arguments.eval_at, arguments.total_updates)
        alive = self._alive()
        if not due or self.update in self._evaluated or not alive.any():
            return
        whole = self._environments.run(_Interruptible(self))
        if not np.isfinite(whole.return_mean[alive]).all():  # the last step spoilt what no loss has seen yet
            self._learner.guard.check("return of an evaluation", torch.from_numpy(whole.return_mean).to(self.device))
            self._report_diverged()
            alive = self._alive()
            if not alive.any():
                return
        wall = self._wall_seconds + time.perf_counter() - self._began
        results = dict(zip(self._targets, whole.split(len(self._targets)), strict=True))
        for index, folder in enumerate(self._folders.values()):
            if not alive[index]:
                continue
            lines, episodes = [], []
            for target, result in results.items():
                line, its_episodes = self._rows(result, index, target, wall)
                lines.append(line)
                episodes += its_episodes
                prefix = "eval" if target == self._targets[0] else f"eval/target_{target}".removesuffix(".0")
                names = ("return_mean", "length_mean", "normalized_score")
                scalars = {f"{prefix}/{name}": line[name] for name in names if line[name] is not None}
                folder.add_scalars(scalars, self.update)
            folder.append_evaluation(lines, episodes)
        self._evaluated.add(self.update)
        text = "; ".join(self._describe(result.return_mean[alive], target) for target, result in results.items())
        self._progress.update(self._bar, score=text)
        self.console.print(f"update {self.update:,}: {text}", soft_wrap=True)

    def _describe(self, returns: np.ndarray, target: float | None) -> str:
        text = f"return {returns.mean():.1f}"
        if len(returns) > 1:
            text += f" +- {returns.std():.1f} over {len(returns)} seeds"
        if self.reference is not None:
            text += f", score {self.reference.normalize(returns).mean():.1f}"
        return text if target is None else f"{text} at target {target:g}"

    def _rows(
        self, result: Evaluation, index: int, target: float | None, wall: float
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """One line of evaluations.csv and those of episodes.csv behind it, for the seed at `index`."""
        # All digits: a run's score is found by its target.
        at = {"update": self.update, "target_return": None if target is None else repr(target).removesuffix(".0")}
        mean = result.return_mean[index]
        evaluation = {
            **at,
            "train_seconds": f"{self._train_seconds:.3f}",
            "wall_seconds": f"{wall:.3f}",
            "episodes": result.returns.shape[1],
            "return_mean": float(mean),
            "return_std": float(result.return_std[index]),
            "length_mean": float(result.length_mean[index]),
            "normalized_score": None if self.reference is None else float(self.reference.normalize(mean)),
        }
        episodes = [
            {**at, "episode": e, "reset_seed": int(seed), "return": float(r), "length": int(length)}
            for e, (seed, r, length) in enumerate(
                zip(result.reset_seeds[index], result.returns[index], result.lengths[index], strict=True)
            )
        ]
        return evaluation, episodes

    def _write_metrics(self) -> None:
        if not self._sums:
            return
        totals: dict[str, tuple[Tensor, int]] = {}
        for names, (sums, count) in self._sums.items():
            for name, row in zip(names, sums.cpu(), strict=True):
                total, updates = totals.get(name, (0.0, 0))
                totals[name] = (total + row, updates + count)
        means = {name: total / updates for name, (total, updates) in totals.items()}
        self._sums.clear()
        alive = self._alive()
        scalars = {**means, **rational_scalars(self._learner, self._batch)}
        for index, folder in enumerate(self._folders.values()):
            if alive[index]:
                point = {name: values[index] for name, values in scalars.items()}
                folder.add_scalars({**point, "charts/updates_per_second": self._speed}, self.update)

    def _alive(self) -> np.ndarray:
        return self._learner.guard.alive.cpu().numpy()

    def _report_diverged(self) -> None:
        for seed, report in zip(self.seeds, self._learner.guard.report(), strict=True):
            if report is not None and seed not in self._warned:
                self._warned.add(seed)
                tensor, update = report
                warn(f"seed {seed} diverged: {tensor} is not finite at update {update:,}; it is frozen")

    def _resume(self) -> None:
        """Go to the newest update that all seeds have, and cut off what lies after it."""
        found = [folder.checkpoints() for folder in self._folders.values()]
        self.update = self._start = max(set.intersection(*map(set, found)), default=0)
        lines = [Counter(int(row["update"]) for row in folder.evaluations()) for folder in self._folders.values()]
        whole = len(self._targets)  # a kill can have left fewer lines of an evaluation
        evaluated = [{update for update, count in counts.items() if count == whole} for counts in lines]
        self._evaluated = {update for update in set.union(*evaluated) if update <= self.update}
        if self._start:
            checkpoints = [checkpoints[self._start] for checkpoints in found]
            for folder, checkpoint in zip(self._folders.values(), checkpoints, strict=True):
                if checkpoint.get("agent") != self.agent:
                    raise InputError(
                        f"the checkpoint in {folder.path} is of the agent {checkpoint.get('agent')}, not {self.agent}: "
                        "give another --run-name, or --overwrite to start anew"
                    )
            try:
                states = [checkpoint["state"] for checkpoint in checkpoints]
                self._learner.load_state_dict({name: torch.stack([s[name] for s in states]) for name in states[0]})
                self._learner.guard.names[:] = checkpoints[0]["guard_names"]
                self._train_seconds = max(checkpoint["train_seconds"] for checkpoint in checkpoints)
                self._wall_seconds = max(checkpoint["wall_seconds"] for checkpoint in checkpoints)
            except (LookupError, RuntimeError, TypeError) as error:
                reason = " ".join(str(error).split())[:200]
                raise InputError(
                    f"the checkpoints in {next(iter(self._folders.values())).path} do not fit this version of "
                    f"{self.agent} ({reason}): give another --run-name, or --overwrite to start anew"
                ) from None
            # An evaluation that a kill left to only some of the living seeds is done again.
            alive = [rows for rows, lives in zip(evaluated, self._alive(), strict=True) if lives]
            self._evaluated &= set.intersection(*alive) if alive else self._evaluated
            self.console.print(f"going on from update {self._start:,}", soft_wrap=True)
        else:
            self._evaluated = set()
        for seed, folder, checkpoints in zip(self.seeds, self._folders.values(), found, strict=True):
            if self._start < max(checkpoints, default=0):
                warn(
                    f"seed {seed} goes back from update {max(checkpoints):,} to {self._start:,}, "
                    "the newest that all its neighbours have"
                )
            folder.go_back(self._start, self._evaluated)

    def _save(self) -> None:
        state = {name: value.cpu() for name, value in self._learner.state_dict().items()}
        wall = self._wall_seconds + time.perf_counter() - self._began
        for index, folder in enumerate(self._folders.values()):
            folder.save_checkpoint(
                {
                    "agent": self.agent,
                    "update": self.update,
                    "train_seconds": self._train_seconds,
                    "wall_seconds": wall,
                    # Clones: a view would save the rows of all seeds.
                    "state": {name: value[index].clone() for name, value in state.items()},
                    "guard_names": list(self._learner.guard.names),
                    "policy": self._learner.policy.settings,
                }
            )
            folder.flush_scalars()

    def _finish(self) -> None:
        for folder, report in zip(self._folders.values(), self._learner.guard.report(), strict=True):
            rows = folder.curve()
            last = rows[-_FINAL_EVALUATIONS:]
            scores = [float(row["normalized_score"]) for row in rows if row["normalized_score"]]
            summary = {
                "status": "finished",
                "final_return": float(np.mean([float(row["return_mean"]) for row in last])),
                "final_score": float(np.mean(scores[-_FINAL_EVALUATIONS:])) if scores else None,
                "best_score": max(scores, default=None),
                "updates_per_second": self.update / self._train_seconds if self._train_seconds else None,
                "reference": None if self.reference is None else asdict(self.reference),
            }
            if report is not None:
                tensor, update = report
                summary |= {"status": "diverged", "final_return": None, "final_score": None}
                summary |= {"diverged_at": update, "diverged_tensor": tensor}
            folder.write_json("summary.json", summary)
            self.console.print(f"{folder.path} is {summary['status']}", soft_wrap=True)

    def _find_reference(self) -> Reference | None:
        family, kwargs = self.dataset.reference, self.env_kwargs
        if family == "d4rl" and kwargs == self.dataset.env_kwargs:
            kwargs = {}  # D4RL's references are for its data's own settings, such as Ant's contact forces
        return None if family is None else find_reference(self.env_id, family, kwargs)

    def _evaluator(self, seeds: Sequence[int], episodes: int, repeats: int = 1) -> Evaluator:
        return Evaluator(self.env_id, seeds, episodes, self.env_kwargs, self.arguments.num_threads, repeats)

    def _config(self, seed: int) -> dict[str, Any]:
        dataset = self.dataset
        shared = {
            **identity(self.arguments),
            "dataset": dataset.id,  # one file has many spellings of its path
            "agent": self.agent,
            "env_id": self.env_id,
            "env_kwargs": self.env_kwargs,
            "dataset_fingerprint": dataset.fingerprint,
        }
        return {
            "agent": self.agent,
            "seed": seed,
            "identity": shared,
            "arguments": {**settings(self.arguments), "num_threads": torch.get_num_threads()},
            "dataset": {
                "id": dataset.id,
                "fingerprint": dataset.fingerprint,
                "transitions": len(dataset),
                "episodes": len(dataset.episode_returns),
                "return_mean": float(dataset.episode_returns.mean()),
                "return_worst": dataset.worst_return,
                "return_best": dataset.best_return,
            },
            "reference": None if self.reference is None else asdict(self.reference),
            "versions": _versions(),
            "device": str(self.device),
        }

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _on_signal(self, number: int, _frame) -> None:
        self._signal = number
        signal.signal(number, signal.SIG_DFL)  # a second one ends the process at once


@torch.no_grad()
def rational_scalars(learner: nn.Module, batch: tuple) -> dict[str, Tensor]:
    """What each rational layer does on `batch`, `[S]` each, a mean over its critics and groups.

    The slope that it tends to at large |x|, its largest slope on the inputs seen, and the share of inputs outside the
    interval that its initial coefficients were fitted on.
    """
    scalars: dict[str, Tensor] = {}

    def look(layer: Rational, args: tuple, kwargs: dict) -> None:
        x, name = layer.argument(*args, **kwargs), names[layer]
        seeds = x.shape[0]
        low, high = layer.interval
        scalars[f"rational/{name}/asymptotic_slope"] = layer.asymptotic_slope().reshape(seeds, -1).mean(1).cpu()
        scalars[f"rational/{name}/largest_slope"] = layer.derivative(x).abs().reshape(seeds, -1).amax(1).cpu()
        scalars[f"rational/{name}/outside"] = ((x < low) | (x > high)).float().reshape(seeds, -1).mean(1).cpu()

    names = {layer: name for name, layer in learner.named_modules() if isinstance(layer, Rational)}
    handles = [layer.register_forward_pre_hook(look, with_kwargs=True) for layer in names]
    if handles:
        learner.inspect(batch)
    for handle in handles:
        handle.remove()
    return scalars


def _quiet_about_disks(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread says what a disk refused, and the next write raises it again, which is then one line."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _versions() -> dict[str, str | None]:
    found = {"python": platform.python_version()}
    for package in ("rlrat", "torch", "numpy", "gymnasium", "mujoco", "minari"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
