"""Read and write the run folders of the members that a command trains side by side."""

import platform
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlrat.datasets import Dataset
from rlrat.environments.recorded import Environment
from rlrat.errors import InputError, reason, warn
from rlrat.evaluation.background import Snapshot
from rlrat.evaluation.evaluator import Evaluation
from rlrat.evaluation.scores import Reference
from rlrat.runs.arguments import Member, RunArguments, identity, run_folder, settings
from rlrat.runs.dashboards import finish_board
from rlrat.runs.environments import environment_identity
from rlrat.runs.evaluations import evaluation_rows, when
from rlrat.runs.folder import RunFolder, starts
from rlrat.runs.progress import TrainingProgress
from rlrat.runs.recovery import Recovered, recover
from rlrat.runs.rewards import reward_identity
from rlrat.runs.schema import (
    BEST_CHECKPOINT,
    CONFIG,
    EVALUATIONS,
    FAILED,
    METRICS,
    SUMMARY,
)
from rlrat.runs.summaries import final_values, summarize, summarize_offline
from rlrat.updates.learner import Learner


class Group:
    """The S members of one command, each with its run folder. Indices and axes S follow their order.

    Args:
        agent: the agent's name.
        arguments: the command's.
        members: the members that are trained.
        device: where they are trained.
        dataset: what they are trained on.
        environment: in which they are evaluated, None where there is none.
        reference: the returns that their scores are relative to, None where there are none.
        holdout: the share of the episodes that is held out, None where there is none.
    """

    members: list[Member]
    folders: list[RunFolder]

    def __init__(
        self,
        agent: str,
        arguments: RunArguments,
        members: Sequence[Member],
        device: torch.device,
        dataset: Dataset,
        environment: Environment | None,
        reference: Reference | None,
        holdout: float | None = None,
    ) -> None:
        self._holdout = holdout
        self._agent, self._arguments, self._dataset = agent, arguments, dataset
        self._environment, self._reference, self._device = environment, reference, device
        self.members = list(members)
        self.folders = [RunFolder(run_folder(member.arguments, agent, member.seed)) for member in members]
        self.left_out: set[int] = set()
        """Indices of members that another process finished after the learner was made: nothing is written for them."""

    def leave_out_finished(self) -> list[str]:
        """Compare each member with its folder, keep those that are to be trained, and return a line on each other one.

        Raises:
            InputError: where `RunFolder.check` does.
        """
        found = self._finished()
        kept = [index for index in range(len(self.members)) if index not in found]
        self.members, self.folders = [self.members[i] for i in kept], [self.folders[i] for i in kept]
        return list(found.values())

    def compare_again(self) -> list[str]:
        """Compare again once the folders are `locked`, as other processes may have trained there meanwhile.

        The learner is made by now: finished members stay in it, and their indices go into `left_out`.

        Raises:
            InputError: where `RunFolder.check` does.
        """
        found = self._finished()
        self.left_out = set(found)
        return list(found.values())

    def _finished(self) -> dict[int, str]:
        """Compare all members with their folders; return a line for each one whose run has ended, by its index."""
        defaults, found = identity(type(self._arguments)()), {}
        for index, (member, folder) in enumerate(zip(self.members, self.folders, strict=True)):
            folder.check(self._config(member), resume=self._arguments.resume, defaults=defaults)
            if folder.is_done():
                found[index] = f"{folder.path} is {folder.summary()['status']}: nothing to do"
        return found

    @property
    def trained(self) -> dict[int, RunFolder]:
        """The folders that are written to, by the indices of their members."""
        return {index: folder for index, folder in enumerate(self.folders) if index not in self.left_out}

    @property
    def kind(self) -> str:
        """The members as words of a sentence: `5 seeds`, or `15 members` where settings vary."""
        apart = len({member.seed for member in self.members}) == len(self.members)
        return f"{len(self.members)} {'seeds' if apart else 'members'}"

    @property
    def _labels(self) -> list[str]:
        return [member.label for member in self.members]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from the folders.

        Raises:
            InputError: one of them is being trained.
        """
        with ExitStack() as stack:
            for folder in self.folders:
                stack.enter_context(folder.locked())
            yield

    def _config(self, member: Member) -> dict[str, Any]:
        dataset, arguments = self._dataset, settings(member.arguments)
        shared = {
            **identity(member.arguments),
            "dataset": dataset.id,  # not the argument: a path can be spelled in many ways
            "agent": self._agent,
            **environment_identity(self._environment, member.arguments),
            **reward_identity(dataset, member.arguments),
            "holdout": self._holdout,
            "dataset_fingerprint": dataset.fingerprint,
        }
        arguments |= {"num_seeds": self._arguments.num_seeds, "num_threads": torch.get_num_threads()}
        return {
            "agent": self._agent,
            "seed": member.seed,
            "members": len(self.members),
            "group": self._labels,
            "identity": shared,
            "environment": None if self._environment is None else self._environment.settings(),
            "arguments": arguments,
            "dataset": {
                "id": dataset.id,
                "fingerprint": dataset.fingerprint,
                "transitions": len(dataset),
                "episodes": len(dataset.episode_returns),
                "return_mean": float(dataset.episode_returns.mean()),
                "return_worst": dataset.worst_return,
                "return_best": dataset.best_return,
            },
            "observation_parts": [list(part) for part in dataset.observation_parts],
            "reference": None if self._reference is None else asdict(self._reference),
            "versions": _versions(),
            "device": str(self._device),
        }

    def restore(self, learner: Learner, targets: int) -> tuple[TrainingProgress, list[set[int]]]:
        """Load the newest update that all members have saved, cut off what lies after it, and make the folders.

        Args:
            targets: the number of target returns, which is how many lines an evaluation has.

        Returns:
            The progress at that update, and for each member the updates whose evaluation is made, pending or lost.

        Raises:
            InputError: checkpoints that cannot be used, or that going on would only throw away.
        """
        self._policy_settings = learner.policy.settings
        for folder in self.trained.values():
            folder.remove_temporaries()
        if self._arguments.overwrite:
            for folder in self.folders:  # all first, so that after a kill no member goes on from what is left
                folder.forget()
            for folder in self.folders:
                folder.delete()
        found = {index: folder.checkpoints() for index, folder in self.trained.items()}
        for index, checkpoints in found.items():
            if checkpoints and self.folders[index].config() is None:
                raise InputError(
                    f"{self.folders[index].path} has a checkpoint and no {CONFIG}, so that nobody knows of which "
                    "settings: put the file back, give another --run-name or --run-dir, or --overwrite to start anew"
                )
        start = max(set.intersection(*map(set, found.values())), default=0)
        if not start and any(found.values()):
            self._check_trained_together(found)
        if start > self._arguments.total_updates:
            raise InputError(
                f"the checkpoint in {self.folders[min(found)].path} is at update {start:,}, beyond the "
                f"{self._arguments.total_updates:,} of --total-updates: give another --run-name or --run-dir, or "
                "--overwrite to start anew"
            )
        for index, checkpoints in found.items():
            if start < max(checkpoints, default=0):
                warn(
                    f"{self.members[index].label} goes back from update {max(checkpoints):,} to {start:,}, "
                    "the newest that all its neighbours have"
                )
        members = range(len(self.members))
        progress, recovered = TrainingProgress(start), [Recovered() for _ in members]
        if start:
            self._check_agent([checkpoints[start] for checkpoints in found.values()])
            initial = {name: tensor.cpu() for name, tensor in learner.policy.state_dict().items()}
            with self._fitting():
                for index, checkpoints in found.items():
                    own = (self.folders[index], self.members[index].label, checkpoints)
                    about = (self._arguments, targets, _member(initial, index), self._environment is None)
                    recovered[index] = recover(*own, start, *about)
                progress = self._load(learner, {i: checkpoints[start] for i, checkpoints in found.items()}, recovered)
        progress.failed, progress.missing = [one.failed for one in recovered], [one.missing for one in recovered]
        evaluated = [set() for _ in members]
        for index, folder in self.trained.items():
            one = recovered[index]
            pending = one.pending.keys() | one.failed
            folder.go_back(start, one.whole, pending, one.missing)
            evaluated[index] = one.whole | pending | one.missing
        if self.left_out:
            learner.guard.alive[list(self.left_out)] = False
        # Last: a kill before this leaves no record of a start from which nothing was trained.
        if start < self._arguments.total_updates:  # otherwise nothing is trained any more
            self.record_way(start)
        return progress, evaluated

    def record_way(self, update: int) -> None:
        """Write into `config.json` how the members are trained from `update` on, where that is another way."""
        for index, folder in self.trained.items():
            folder.create(self._config(self.members[index]), update)

    def _check_trained_together(self, found: dict[int, dict[int, Any]]) -> None:
        """Refuse members without a common update, unless a kill in the group's first save left them so."""
        last = [starts(config)[-1] for folder in self.trained.values() if (config := folder.config())]
        together = [start.get("group") for start in last] == [self._labels] * len(found)
        if together and max(map(len, found.values())) == 1:
            return
        at = {index: max(checkpoints, default=0) for index, checkpoints in found.items()}
        most, least = max(at, key=at.get), min(at, key=at.get)
        raise InputError(
            f"{self.members[most].label} is at update {at[most]:,} and {self.members[least].label} at {at[least]:,}: "
            "side by side both would begin at 0; train them in commands of their own, or give --overwrite to begin anew"
        )

    def _check_agent(self, checkpoints: list[dict[str, Any]]) -> None:
        for folder, checkpoint in zip(self.trained.values(), checkpoints, strict=True):
            if checkpoint.get("agent") != self._agent:
                raise InputError(
                    f"the checkpoint in {folder.path} is of the agent {checkpoint.get('agent')}, not {self._agent}: "
                    "give another --run-name, or --overwrite to start anew"
                )

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """Raise an `InputError` for whatever goes wrong with the checkpoints inside the block."""
        try:
            yield
        except InputError:
            raise
        except (LookupError, RuntimeError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise InputError(
                f"the checkpoints in {next(iter(self.trained.values())).path} do not fit this version of {self._agent} "
                f"({reason(error)}): give another --run-name, or --overwrite to start anew"
            ) from None

    def _load(
        self, learner: Learner, checkpoints: dict[int, dict[str, Any]], recovered: list[Recovered]
    ) -> TrainingProgress:
        """Load `checkpoints`, by member index, into the learner; a member without one keeps what it has."""
        now = {name: tensor.cpu() for name, tensor in learner.state_dict().items()}
        states = []
        for index in range(len(self.members)):
            if index not in checkpoints:
                states.append(_member(now, index))
                continue
            state = dict(checkpoints[index]["state"])
            first, names = state["guard.first_tensor"], checkpoints[index]["guard_names"]
            if first >= 0:  # its number may be that of another name in this version
                state["guard.first_tensor"] = first.new_tensor(learner.guard.names.index(names[first]))
            for name, tensor in state.items():
                if name in now and tensor.dtype != now[name].dtype:
                    raise TypeError(f"{name} is of {tensor.dtype} there and of {now[name].dtype} here")
            states.append(state)
        learner.load_state_dict(_stack(states))
        pending = [one.pending for one in recovered]
        return TrainingProgress(
            next(iter(checkpoints.values()))["update"],
            max(checkpoint["train_seconds"] for checkpoint in checkpoints.values()),
            max(checkpoint["wall_seconds"] for checkpoint in checkpoints.values()),
            tuple(self._pending(learner, at, pending) for at in sorted(set().union(*pending))),
            sums=self._load_sums(checkpoints),
        )

    def _load_sums(self, checkpoints: dict[int, dict[str, Any]]) -> dict[tuple[str, ...], tuple[Tensor, int]]:
        """Load `TrainingProgress.sums`; nothing where the members' differ, as those of several commands may."""
        found = {
            index: {tuple(one["names"]): (one["sums"], one["count"]) for one in checkpoint.get("sums", ())}
            for index, checkpoint in checkpoints.items()
        }
        first, *others = ({names: count for names, (_, count) in own.items()} for own in found.values())
        if any(list(other.items()) != list(first.items()) for other in others):
            return {}
        sums = {}
        for names, count in first.items():
            rows = next(iter(found.values()))[names][0].new_zeros(len(names), len(self.members))
            for index, own in found.items():
                rows[:, index] = own[names][0]
            sums[names] = (rows.to(self._device), count)
        return sums

    @staticmethod
    def _pending(learner: Learner, update: int, pending: list[dict[int, dict[str, Any]]]) -> Snapshot:
        """Make the snapshot of `update` again; a member that has none takes part as it is now, and is not recorded."""
        now = {name: tensor.cpu() for name, tensor in learner.policy.state_dict().items()}
        there = [one.get(update) for one in pending]
        states = [_member(now, index) if one is None else one["state"] for index, one in enumerate(there)]
        wanted = np.array([one is not None for one in there])
        seconds = [max(one[name] for one in there if one) for name in ("train_seconds", "wall_seconds")]
        return Snapshot(update, wanted, *seconds, _stack(states))

    def save(self, learner: Learner, progress: TrainingProgress) -> None:
        """Write a checkpoint for each member, and all scalars that its folder was given."""
        state = {name: value.cpu() for name, value in learner.state_dict().items()}
        sums = [(names, values.cpu(), count) for names, (values, count) in progress.sums.items()]
        for index, folder in self.trained.items():
            lines = {name: dict(own.expected) for name, own in folder.lines.items()}
            failed = progress.failed[index]
            open_ = {snapshot.update for snapshot in progress.pending if snapshot.wanted[index]}
            folder.save_checkpoint(
                {
                    "agent": self._agent,
                    "update": progress.update,
                    "train_seconds": progress.train_seconds,
                    "wall_seconds": progress.wall_seconds,
                    "state": _member(state, index),
                    "guard_names": list(learner.guard.names),
                    "policy": learner.policy.settings,
                    **self._parts,
                    "pending": [
                        {
                            "update": snapshot.update,
                            "wanted": bool(snapshot.wanted[index]),
                            "train_seconds": snapshot.train_seconds,
                            "wall_seconds": snapshot.wall_seconds,
                            "state": _member(snapshot.state, index),
                        }
                        for snapshot in progress.pending
                    ],
                    "failed": sorted(failed),
                    "evaluated": sorted(lines[EVALUATIONS].keys() - open_ - failed - progress.missing[index]),
                    "lines": lines,
                    "sums": [
                        {"names": list(names), "count": count, "sums": values[:, index].clone()}
                        for names, values, count in sums
                    ],
                }
            )
            folder.flush_scalars()

    @property
    def _parts(self) -> dict[str, Any]:
        """What a checkpoint has of dictionary observations, nothing where there are none."""
        parts = self._dataset.observation_parts
        return {"observation_parts": [list(part) for part in parts]} if parts else {}

    def record(self, index: int, snapshot: Snapshot, results: dict[float | None, Evaluation]) -> None:
        """Write one member's lines of an evaluation; `results` has one for each target return, or one under None."""
        lines, episodes, first = [], [], next(iter(results))
        for target, result in results.items():
            line, its_episodes = evaluation_rows(index, snapshot, target, result, self._reference)
            lines.append(line)
            episodes += its_episodes
            prefix = "eval" if target == first else f"eval/target_{target}".removesuffix(".0")
            names = ("return_mean", "length_mean", "normalized_score", "success_rate")
            scalars = {f"{prefix}/{name}": line[name] for name in names if line[name] is not None}
            self.folders[index].add_scalars(scalars, snapshot.update)
        self.folders[index].append_evaluation(lines, episodes)

    def record_offline(self, index: int, snapshot: Snapshot, values: dict[str, np.ndarray]) -> None:
        """Write what was found without rollouts of one member, and the line of its evaluation where it has no other."""
        self.folders[index].append_offline(snapshot.update, {name: float(of[index]) for name, of in values.items()})
        if self._environment is None:
            line = {**when(snapshot), "episodes": 0}
            self.folders[index].append_evaluation([line], [])

    def keep_best(self, index: int, snapshot: Snapshot, value: float, larger_is_better: bool) -> None:
        """Keep one member's policy in `checkpoint.best.pt`, where its `value` by `--keep-best` is the best so far."""
        if snapshot.update == 0 or not np.isfinite(value):
            return
        folder, by = self.folders[index], self._arguments.keep_best
        best = (folder.best() or {}).get("chosen", {})
        known = best.get("by") == by and best["update"] != snapshot.update
        if known and not (value > best["value"] if larger_is_better else value < best["value"]):
            return
        folder.save_best(
            {
                "agent": self._agent,
                "update": snapshot.update,
                "train_seconds": snapshot.train_seconds,
                "wall_seconds": snapshot.wall_seconds,
                "policy": self._policy_settings,
                **self._parts,
                "state": {f"policy.{name}": value for name, value in _member(snapshot.state, index).items()},
                "chosen": {"by": by, "value": float(value), "update": snapshot.update},
            }
        )

    def finish(self, learner: Learner, progress: TrainingProgress) -> tuple[list[str], str | None]:
        """Write each member's `summary.json` and its last values for TensorBoard.

        Returns:
            A line on each member, and an error if some have no evaluation of a trained policy: which ones, and why.
        """
        said, failed, reports = [], [], learner.guard.report()
        for index, folder in self.trained.items():
            rows = folder.curve()
            never = {name: set() if name == METRICS else progress.failed[index] for name in folder.lines}
            lost = {name: folder.lost(name) - updates for name, updates in never.items()}
            summary = summarize(rows, progress, reports[index], self._reference)
            summary |= summarize_offline(folder, summary["status"], self._environment is None)
            if self._arguments.keep_best is not None and (best := folder.best()) is not None:
                summary["best"] = {**best["chosen"], "file": BEST_CHECKPOINT}
            summary["failed_evaluations"] = sorted(progress.failed[index])
            summary |= {f"missing_{name.removesuffix('.csv')}": sorted(updates) for name, updates in lost.items()}
            if unsaid := lost[EVALUATIONS] - progress.missing[index]:
                warn(f"{folder.path / EVALUATIONS} has lost lines: {len(unsaid)} evaluations are missing")
            with folder.board() as board:
                finish_board(board, folder.path, self._config(self.members[index]), rows, summary)
            folder.flush_scalars()
            folder.write_json(SUMMARY, summary)
            said.append(f"{folder.path} is {summary['status']}{final_values(summary)}")
            if summary["status"] == FAILED:
                failed.append(self.members[index].label)
        if not failed:
            return said, None
        why = f" ({reason(progress.failure)})" if progress.failure else ""
        names = f"{failed[0]} and {len(failed) - 1} more have" if len(failed) > 1 else f"{failed[0]} has"
        return said, f"{names} no evaluation of a trained policy{why}: the same command tries to evaluate it again"


def _stack(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Put the members' tensors side by side."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def _member(state: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """Take one member's tensors; as clones, because saving a view saves the tensors of all."""
    return {name: value[index].clone() for name, value in state.items()}


@cache  # reading package metadata takes time, and each member asks
def _versions() -> dict[str, str | None]:
    found = {"python": platform.python_version()}
    for package in ("rlrat", "torch", "numpy", "gymnasium", "mujoco", "minari"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
