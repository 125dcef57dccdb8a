"""Run an agent: from a command line to finished run folders, through any number of kills."""

import dataclasses
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from contextvars import ContextVar
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as ProgressBar
from torch import Tensor

from rlrat.console import Console
from rlrat.datasets import Dataset, load_dataset
from rlrat.environments.recorded import Environment
from rlrat.environments.registry import import_modules
from rlrat.errors import printable, warn
from rlrat.evaluation.background import MOST_PENDING_SNAPSHOTS, BackgroundEvaluator, Snapshot
from rlrat.evaluation.evaluator import Evaluation, Evaluator, check_spaces
from rlrat.evaluation.fqe import Stopped
from rlrat.evaluation.scores import Reference
from rlrat.networks.activations import name_activation
from rlrat.rational.launching import is_gpu
from rlrat.runs.arguments import RunArguments, held_out_share, identity, members, side_by_side
from rlrat.runs.dashboards import LAYOUT, check_tracking, tracked
from rlrat.runs.environments import applicable_reference, find_environment, make_evaluator
from rlrat.runs.estimates import LEAST_MEMBERS, estimate_resources
from rlrat.runs.evaluations import describe_evaluation
from rlrat.runs.footprint import check_memory, may_be_large
from rlrat.runs.group import Group
from rlrat.runs.inspection import activation_rows, activation_scalars
from rlrat.runs.metrics import MetricSums, add_metrics, mean_metrics
from rlrat.runs.offline import KEPT, OfflineEvaluator, check_kept, describe, how_judged
from rlrat.runs.profiling import Profile
from rlrat.runs.recovery import is_due
from rlrat.runs.rewards import describe_rewards
from rlrat.runs.schema import TRACE
from rlrat.runs.trial import try_learner
from rlrat.updates.captured import captured
from rlrat.updates.compiled import compiled, pays
from rlrat.updates.learner import Learner, check_learner, first_batch
from rlrat.updates.machine import find_device, keep_freed_memory, set_precision, synchronize, useful_threads
from rlrat.updates.threads import ThreadCount

# Slurm can send SIGUSR1 before it takes a machine away; Windows has none.
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


_SPLIT_SEED = 0  # one split for all seeds: their held-out losses are of the same episodes, and so are their units


made: ContextVar[list[Path] | None] = ContextVar("made", default=None)
"""Collects the run folders of every run that is begun, for who has set it."""


class _Stopped(Exception):
    """A signal has asked the run to stop."""


class Run:
    """Trains the members of one command side by side, each in its own run folder.

    An agent's file has the class of its learner, made as `MyLearner(arguments, dataset, seeds, device)`, and this:

        run = Run("agent", arguments)
        learner = run.build(MyLearner)
        for update in run.updates(learner):
            run.log(learner.update(*learner.inputs(update)))

    `rlrat.updates.Learner` is the protocol of a learner; `build` says what one lacks of it.
    """

    dataset: Dataset
    """What is trained on: without the episodes that are held out."""
    environment: Environment | None
    """In which policies are evaluated, None where there is none."""
    env_id: str | None
    reference: Reference | None

    def __init__(self, agent: str, arguments: RunArguments) -> None:
        """Load the dataset, and compare it with the environment and the run folders.

        Nothing is written yet: the agent may still refuse its settings.

        Raises:
            InputError: something in the arguments, the dataset or the folders that the user can mend.
            SystemExit: with code 0, where every member is finished.
        """
        self.agent = agent
        self.console: Console = Console()
        for name in arguments.activations():
            name_activation(name)
        if arguments.track:
            check_tracking()
        self.device: torch.device = find_device(arguments.device)
        if arguments.compile is None:
            arguments = dataclasses.replace(arguments, compile=pays(arguments.total_updates, self.device))
        self.arguments = arguments
        keep_freed_memory()
        set_precision(arguments.precision, self.device)
        self._threads = ThreadCount(arguments.num_threads, self.device)
        import_modules(arguments.env_modules)
        choices = {name: getattr(arguments, name) for name in ("env_id", "action_bounds", "drop_achieved_goal")}
        self.dataset = load_dataset(arguments.dataset, **choices)
        self.environment, self.env_id, self.reference = find_environment(self.dataset, arguments), None, None
        if self.environment is not None:
            for line in (*self.environment.unlike, *self.environment.notes):
                warn(f"dataset {self.dataset.id} {line}")
            self.env_id = self.environment.env_id
            self.reference = applicable_reference(self.dataset, self.environment, arguments.max_episode_steps)
        check_kept(arguments, self.env_id, self.reference)
        self._whole, self._held_out = self.dataset, None
        holdout = held_out_share(arguments, self.env_id, len(self._whole.episode_starts))
        if holdout is not None:
            self.dataset, self._held_out = self._whole.split(holdout, _SPLIT_SEED)

        judged = (self._whole, self.environment, self.reference, holdout)
        self._group = Group(agent, arguments, members(arguments), self.device, *judged)
        if (folders := made.get()) is not None:
            folders += [folder.path for folder in self._group.folders]
        if self.environment is not None:
            with self._evaluator([arguments.seed], 1) as probe:
                width = self.dataset.observations.shape[1]
                bounds = (self.dataset.action_low, self.dataset.action_high)
                typed, parts = arguments.action_bounds is not None, self.dataset.observation_parts
                check_spaces(probe, width, *bounds, typed=typed, observation_parts=parts)
                probe.probe()
        if not arguments.overwrite:
            for line in self._group.leave_out_finished():
                self.console.print(line, soft_wrap=True)
        if not self._group.members:
            raise SystemExit(0)

        self._offline: OfflineEvaluator | None = None
        self._sums: MetricSums = {}
        self._signal: int | None = None
        self._warned: set[int] = set()

    def build(self, learner: Callable[..., Learner]) -> Learner:
        """Make the learner of all members: each seed with each combination of the settings that have several values.

        For sixteen members or more, the memory and time that they will take are measured and said first.

        Args:
            learner: makes it, as `learner(arguments, dataset, seeds, device)`.

        Raises:
            InputError: it needs more memory than there is, or a trial of it, undone, finds what it lacks: a line each.
        """
        group = self._group.members

        def make(count: int, dataset: Dataset) -> Learner:
            some = group[:count]
            arguments = side_by_side(self.arguments, some, self.device)
            return learner(arguments, dataset, [member.seed for member in some], self.device)

        def first(count: int) -> Learner:
            made = make(count, self.dataset)
            check_learner(made, count)
            return made

        def shapes(device: torch.device) -> Learner:
            return learner(group[0].arguments, self.dataset, [member.seed for member in group], device)

        if may_be_large(group[0].arguments, len(group)):
            check_memory(shapes, len(group), self.device)
        if len(group) >= LEAST_MEMBERS:
            found = estimate_resources(first, len(group), self.device, self.arguments.capture)
            found.check()
            seconds = timedelta(seconds=round(found.seconds_per_update * self.arguments.total_updates))
            text = f"{found}; {self.arguments.total_updates:,} updates: about {seconds}"
            self.console.print(text, soft_wrap=True)
        made = first(len(group))
        try_learner(made, len(group))
        if (said := describe_rewards(self._whole, self.arguments)) is not None:
            self.console.print(said, soft_wrap=True)
        if self.env_id is None:
            remembers = hasattr(made.policy, "observe")
            said = how_judged(self.arguments, self._whole, self._held_out, remembers)
            self.console.print(said, soft_wrap=True)
        if self.env_id is None or self._held_out is not None or self.arguments.keep_best in KEPT:
            about = (self.arguments, [member.seed for member in group], self._whole, self._held_out)
            with_values = self.env_id is None or self.arguments.keep_best == "fqe"
            self._offline = OfflineEvaluator(*about, lambda dataset: make(len(group), dataset), made, with_values)
        return made

    def log(self, metrics: dict[str, Tensor]) -> None:
        """Take one update's metrics, `[S]` each; their means go to `metrics.csv` and TensorBoard each `--log-every`.

        Not every update need have every metric: a mean is over those that had it. What has been summed up since the
        last point is part of a checkpoint.

        Raises:
            InputError: metrics of another form.
        """
        add_metrics(self._sums, metrics, len(self._group.members))

    def updates(self, learner: Learner) -> Iterator[int]:
        """Give the numbers of the updates that are still to do; evaluate, log and save between them when it is due.

        The first Ctrl-C, SIGTERM or SIGUSR1 saves a checkpoint and exits.

        Raises:
            InputError: another process trains in one of the folders.
            SystemExit: with code 1, where a member has no evaluation of a trained policy at its end.
        """
        with closing(self._threads), self._group.locked():
            if not self.arguments.overwrite:
                for line in self._group.compare_again():
                    self.console.print(line, soft_wrap=True)
            if not self._group.trained:
                return
            self._warned |= self._group.left_out
            yield from self._updates(learner)

    def _updates(self, learner: Learner) -> Iterator[int]:
        self._learner, self._batch = learner, first_batch(learner)
        if (said := self._threads.choose(useful_threads(learner, self._batch[0]))) is not None:
            self.console.print(said, soft_wrap=True)
        if self.arguments.compile:
            self.console.print("the first update is compiled, for up to a minute (--no-compile)", soft_wrap=True)
            learner.update = compiled(learner.update, self.device, self._threads.most)
        if self.arguments.capture and is_gpu(self.device):
            learner.update = captured(learner)
        self._targets = getattr(learner.policy, "target_returns", (None,))
        gated: dict[str, list[str]] = {}  # what gating made of networks -> their names
        for name, network in learner.named_modules():
            if getattr(network, "gating", None) is not None and "_target" not in name:
                gated.setdefault(network.gating, []).append(name)
        for text, names in gated.items():
            self.console.print(f"gated: {', '.join(names)}: {text}", soft_wrap=True)
        if self.reference is None and self.env_id is not None:
            self.console.print(
                f"no reference scores for {self.environment} with this data: returns are raw", soft_wrap=True
            )
        self._progress, self._evaluated = self._group.restore(learner, len(self._targets))
        self._start, self._sums = self._progress.update, self._progress.sums
        if self._start:
            self.console.print(f"going on from update {self._start:,}", soft_wrap=True)
        self._profile, folders = None, list(self._group.trained.values())
        if self.arguments.profile:
            self._profile = Profile(learner, self.device, folders[0].path / TRACE)
        self._bar = ProgressBar(
            *(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()),
            *(TextColumn("{task.fields[speed]}"), TimeRemainingColumn(), TextColumn("{task.fields[score]}")),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        signals = _SIGNALS if threading.current_thread() is threading.main_thread() else ()
        before = {number: signal.signal(number, self._on_signal) for number in signals}
        thread_hook, threading.excepthook = threading.excepthook, _quiet_about_disks
        tracking = ExitStack()
        self._began = time.perf_counter() - self._progress.wall_seconds
        try:
            if self.arguments.track:
                settings = {"agent": self.agent, **identity(self.arguments)}
                tracking.enter_context(tracked([folder.path for folder in folders], settings))
            for folder in folders:
                folder.open_scalars(LAYOUT, purge_step=self._start + 1 if self._start else 0)
            with ExitStack() as playing:
                self._evaluations = None
                if self.env_id is not None:
                    evaluator = BackgroundEvaluator(learner.policy, self._environments, self.arguments.eval_timeout)
                    self._evaluations = playing.enter_context(evaluator)
                playing.enter_context(self._bar)
                self._task = self._bar.add_task(
                    f"{self.agent} {self.arguments.activation}",
                    total=self.arguments.total_updates, completed=self._start, speed="", score="",
                )  # fmt: skip
                try:
                    yield from self._loop()
                except _Stopped:
                    self._save()  # now, as an environment that hangs is waited for next
                    raise
            finished, failed = self._group.finish(learner, self._progress)
        except _Stopped:
            without = "overwrite" if self.arguments.overwrite else None if self.arguments.resume else "no-resume"
            command = "the same command" + (f" without --{without}" if without else "")
            done = f"stopped at update {self._progress.update:,}"
            self.console.print(f"{done}; {command} goes on from there", soft_wrap=True)
            raise SystemExit(128 + self._signal) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for folder in folders:
                folder.close_scalars()
            tracking.close()
            threading.excepthook = thread_hook
        if self._profile is not None:
            self._profile.report(self.console)
        for line in finished:
            self.console.print(line, soft_wrap=True)
        if failed is not None:
            print(f"error: {printable(failed)}", file=sys.stderr)
            raise SystemExit(1)

    def _loop(self) -> Iterator[int]:
        arguments, progress = self.arguments, self._progress
        for snapshot in progress.pending:
            self._evaluations.submit(snapshot)
        while True:
            self._evaluate_if_due()
            done = progress.update == arguments.total_updates or not self._alive().any()
            if done:
                if self._pending():
                    self._save()  # a kill while the last ones play goes back to here
                self._collect(until=0)
            if (done or progress.update % arguments.checkpoint_every == 0) and progress.update > self._start:
                with self._part("checkpoints"):
                    self._save()
            if done:
                return
            # Train up to the next update at which anything else is due.
            intervals = (arguments.eval_every, arguments.checkpoint_every, arguments.log_every)
            until = min(
                arguments.total_updates,
                *((progress.update // interval + 1) * interval for interval in intervals),
                *(at for at in arguments.eval_at if at > progress.update),
            )
            first, started = progress.update, time.perf_counter()
            while progress.update < until:
                yield progress.update
                progress.update += 1
                if (said := self._threads.follow()) is not None:
                    self._group.record_way(progress.update)
                    self.console.print(f"update {progress.update:,}: {said}", soft_wrap=True)
                if progress.update % 10 == 0:
                    self._bar.update(self._task, completed=progress.update)
                    self._collect()
                if self._signal is not None:
                    break
            synchronize(self.device)
            seconds = time.perf_counter() - started
            progress.train_seconds += seconds
            self._speed = (progress.update - first) / seconds
            self._bar.update(self._task, completed=progress.update, speed=f"{self._speed:.0f} updates/s")
            self._report_diverged()
            if progress.update % arguments.log_every == 0:
                with self._part("logging"):
                    self._write_metrics()
            if self._signal is not None:
                raise _Stopped

    def _part(self, name: str) -> AbstractContextManager:
        return nullcontext() if self._profile is None else self._profile.part(name)

    def _evaluate_if_due(self) -> None:
        """Hand the policies over as they are now; wait only where too many snapshots are pending."""
        progress = self._progress
        if not is_due(self.arguments, progress.update):
            return
        wanted = self._alive() & [progress.update not in updates for updates in self._evaluated]
        if not wanted.any():
            return
        offline = None
        if self._offline is not None:
            with self._part("offline evaluation"):
                try:
                    offline = self._offline.evaluate(self._learner, lambda: self._signal is not None)
                except Stopped:
                    raise _Stopped from None
            wanted = self._freeze_spoilt(wanted, self._offline.finite(), progress.update)
        with self._part("snapshots"):
            rows = activation_rows(self._learner, self._batch)
            for index in np.flatnonzero(wanted):
                self._group.folders[index].append_activations(progress.update, rows[index])
                self._evaluated[index].add(progress.update)
            seconds = (progress.train_seconds, time.perf_counter() - self._began)
            state = self._learner.policy.state_dict()
            snapshot = Snapshot(progress.update, wanted, *seconds, state)
        if offline is not None:
            self._record_offline(snapshot, offline)
        if self._evaluations is not None:
            self._evaluations.submit(snapshot)
            self._collect(until=MOST_PENDING_SNAPSHOTS)

    def _record_offline(self, snapshot: Snapshot, values: dict[str, np.ndarray]) -> None:
        members = np.flatnonzero(snapshot.wanted)
        for index in members:
            self._group.record_offline(index, snapshot, values)
        self._keep_best(snapshot, members, values.get(KEPT.get(self.arguments.keep_best)))
        if len(members) and self.env_id is None:
            text = describe({name: of[members].mean() for name, of in values.items()})
            self._bar.update(self._task, score=text)
            self.console.print(f"update {snapshot.update:,}: {text}", soft_wrap=True)

    def _keep_best(self, snapshot: Snapshot, members: np.ndarray, values: np.ndarray | None) -> None:
        if values is not None:
            for index in members:
                self._group.keep_best(index, snapshot, values[index], self.arguments.keep_best != "heldout")

    def _pending(self) -> tuple[Snapshot, ...]:
        return () if self._evaluations is None else self._evaluations.pending

    def _collect(self, until: int | None = None) -> None:
        """Write the evaluations that have come in; with `until`, wait until at most so many are pending."""
        while self._evaluations is not None:
            with self._part("waiting for evaluations") if until is not None else nullcontext():
                found = list(self._evaluations.collect(0.0 if until is None else 0.05))
            for snapshot, result in found:
                self._record(snapshot, result)
            if self._signal is not None and until is not None:
                raise _Stopped
            if until is None or len(self._evaluations.pending) <= until:
                return

    def _record(self, snapshot: Snapshot, whole: Evaluation | None) -> None:
        if whole is None:
            self._progress.failure = self._evaluations.failure
            for index in np.flatnonzero(snapshot.wanted):
                self._progress.failed[index].add(snapshot.update)
            return
        wanted = self._freeze_spoilt(snapshot.wanted, np.isfinite(whole.return_mean), snapshot.update)
        wanted = wanted & ~self._frozen_before(snapshot.update)
        if not wanted.any():
            return
        results = dict(zip(self._targets, whole.split(len(self._targets)), strict=True))
        for index in np.flatnonzero(wanted):
            self._group.record(index, snapshot, results)
        first = next(iter(results.values()))  # at the first target return, as scores are
        if self.arguments.keep_best in ("return", "score"):
            best = first.return_mean if self.arguments.keep_best == "return" else first.scores(self.reference)
            self._keep_best(snapshot, np.flatnonzero(wanted), best)
        about = (wanted, self.reference, self._group.kind)
        text = "; ".join(describe_evaluation(result, target, *about) for target, result in results.items())
        self._bar.update(self._task, score=text)
        self.console.print(f"update {snapshot.update:,}: {text}", soft_wrap=True)

    def _freeze_spoilt(self, wanted: np.ndarray, finite: np.ndarray, update: int) -> np.ndarray:
        """Freeze the members whose policies are not `finite`, bool `[S]`; return who is left of those `wanted`.

        The last step may have made parameters that no loss has met yet.
        """
        if (spoilt := wanted & ~finite).any():
            self._learner.guard.freeze(torch.from_numpy(spoilt), update)
            self._report_diverged()
        return wanted & ~spoilt

    def _frozen_before(self, update: int) -> np.ndarray:
        first = self._learner.guard.first_update.cpu().numpy()
        return (first >= 0) & (first <= update)

    def _write_metrics(self) -> None:
        if not self._sums:
            return
        means = mean_metrics(self._sums)
        self._sums.clear()
        alive = self._alive()
        scalars = {**means, **activation_scalars(self._learner, self._batch)}
        scalars = {name: values.tolist() for name, values in scalars.items()}
        for index, folder in enumerate(self._group.folders):
            if alive[index]:
                point = {name: values[index] for name, values in scalars.items()}
                folder.add_metrics({**point, "charts/updates_per_second": self._speed}, self._progress.update)

    def _alive(self) -> np.ndarray:
        return self._learner.guard.alive.cpu().numpy()

    def _report_diverged(self) -> None:
        for index, report in enumerate(self._learner.guard.report()):
            if report is not None and index not in self._warned:
                self._warned.add(index)
                tensor, update = report
                label = self._group.members[index].label
                warn(f"{label} diverged: {tensor} is not finite at update {update:,}; it is frozen")

    def _save(self) -> None:
        self._progress.wall_seconds = time.perf_counter() - self._began
        self._progress.pending = self._pending()
        self._group.save(self._learner, self._progress)

    def _evaluator(self, seeds: Sequence[int], episodes: int, repeats: int = 1) -> Evaluator:
        parts, threads = self.dataset.observation_parts, self.arguments.num_threads
        return make_evaluator(self.environment, parts, seeds, episodes, threads, repeats)

    def _environments(self) -> Evaluator:
        seeds, episodes = [member.seed for member in self._group.members], self.arguments.eval_episodes
        return self._evaluator(seeds, episodes, len(self._targets))

    def _on_signal(self, number: int, _frame) -> None:
        self._signal = number
        # A second Ctrl-C or SIGTERM ends the process at once. SIGUSR1 does not: it may be sent twice.
        signal.signal(number, signal.SIG_DFL if number in (signal.SIGINT, signal.SIGTERM) else signal.SIG_IGN)


def _quiet_about_disks(failure: threading.ExceptHookArgs) -> None:
    """Say nothing of what a disk refuses TensorBoard's thread: the next write raises it again, and that is one line."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)
