"""The run folders of those that are trained side by side: what is read from them and written to them."""

import platform
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlrat.arguments import Member, RunArguments, identity, run_folder, settings
from rlrat.background import Snapshot
from rlrat.dashboards import finish_board
from rlrat.datasets import Dataset
from rlrat.errors import InputError, reason, warn
from rlrat.evaluation import Evaluation
from rlrat.runs import RunFolder, starts
from rlrat.scores import FINAL_EVALUATIONS, Reference


@dataclass
class Progress:
    """How far a group has come, and what a checkpoint has beside the learner's tensors."""

    update: int = 0
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    pending: tuple[Snapshot, ...] = ()
    """Evaluations that have no line yet."""
    failed: list[set[int]] = field(default_factory=list)
    """Of each member, the updates whose evaluation an environment broke off, twice."""


class Group:
    """S members of one command, each with its run folder; indices and axes S are in their order.

    Args:
        agent: its name.
        arguments: the command's.
        members: those that are trained.
        device, dataset, env_id, env_kwargs, reference: where, and what they are trained and judged on.
    """

    def __init__(
        self,
        agent: str,
        arguments: RunArguments,
        members: Sequence[Member],
        device: torch.device,
        dataset: Dataset,
        env_id: str,
        env_kwargs: dict[str, Any],
        reference: Reference | None,
    ) -> None:
        self._agent, self._arguments, self._dataset = agent, arguments, dataset
        self._env_id, self._env_kwargs, self._reference, self._device = env_id, env_kwargs, reference, device
        self.members = list(members)
        self.folders = [RunFolder(run_folder(member.arguments, agent, member.seed)) for member in members]

    def leave_out_finished(self) -> list[str]:
        """Compare each member with its folder, keep those that are to be trained; say of the others what they are.

        Raises:
            InputError: where `RunFolder.check` does.
        """
        defaults, found, kept = identity(type(self._arguments)()), [], []
        for member, folder in zip(self.members, self.folders, strict=True):
            folder.check(self._config(member), resume=self._arguments.resume, defaults=defaults)
            if (summary := folder.summary()) is None:
                kept.append((member, folder))
            else:
                found.append(f"{folder.path} is {summary['status']}: nothing to do")
        self.members, self.folders = [member for member, _ in kept], [folder for _, folder in kept]
        return found

    @property
    def kind(self) -> str:
        """What they are, for a sentence: `5 seeds`, or `15 members` where settings vary."""
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
            "dataset": dataset.id,  # one file has many spellings of its path
            "agent": self._agent,
            "env_id": self._env_id,
            "env_kwargs": self._env_kwargs,
            "dataset_fingerprint": dataset.fingerprint,
        }
        arguments |= {"num_seeds": self._arguments.num_seeds, "num_threads": torch.get_num_threads()}
        return {
            "agent": self._agent,
            "seed": member.seed,
            "members": len(self.members),
            "group": self._labels,
            "identity": shared,
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
            "reference": None if self._reference is None else asdict(self._reference),
            "versions": _versions(),
            "device": str(self._device),
        }

    def restore(self, learner: nn.Module, targets: int) -> tuple[Progress, list[set[int]]]:
        """Load the newest update that all members have, cut off what lies after it, and make the folders.

        `targets` is how many lines an evaluation has. Also the evaluations that each member has.

        Raises:
            InputError: checkpoints that cannot be used, or that the members could only lose.
        """
        if self._arguments.overwrite:
            for folder in self.folders:  # all first, so that a kill leaves nothing that some go on from
                folder.forget()
            for folder in self.folders:
                folder.delete()
        found = [folder.checkpoints() for folder in self.folders]
        start = max(set.intersection(*map(set, found)), default=0)
        if not start and any(found):
            self._check_trained_together(found)
        for member, checkpoints in zip(self.members, found, strict=True):
            if start < max(checkpoints, default=0):
                warn(
                    f"{member.label} goes back from update {max(checkpoints):,} to {start:,}, "
                    "the newest that all its neighbours have"
                )
        progress, evaluated = Progress(start, failed=[set() for _ in self.folders]), [set() for _ in self.folders]
        if start:
            lines = [Counter(int(row["update"]) for row in folder.evaluations()) for folder in self.folders]
            # A kill can have left fewer lines of an evaluation.
            evaluated = [{u for u, count in counts.items() if count == targets and u <= start} for counts in lines]
            progress = self._load(learner, [checkpoints[start] for checkpoints in found], evaluated)
        for index, (folder, updates) in enumerate(zip(self.folders, evaluated, strict=True)):
            pending = {snapshot.update for snapshot in progress.pending if snapshot.wanted[index]}
            pending |= progress.failed[index]
            folder.go_back(start, updates, pending)
            updates |= pending
        # Last, so that a kill before leaves no word of a way in which nothing was trained.
        if start < self._arguments.total_updates:  # else nothing is trained any more
            for member, folder in zip(self.members, self.folders, strict=True):
                folder.create(self._config(member), start)
        return progress, evaluated

    def _check_trained_together(self, found: list[dict[int, Any]]) -> None:
        """Only a kill in its first save leaves a group without an update that all have."""
        last = [starts(config)[-1] for folder in self.folders if (config := folder.config())]
        if [start.get("group") for start in last] == [self._labels] * len(self.members) and max(map(len, found)) == 1:
            return
        at = [max(checkpoints, default=0) for checkpoints in found]
        most, least = int(np.argmax(at)), int(np.argmin(at))
        raise InputError(
            f"{self.members[most].label} is at update {at[most]:,} and {self.members[least].label} at {at[least]:,}: "
            "side by side both would begin at 0; train them in commands of their own, or give --overwrite to begin anew"
        )

    def _load(self, learner: nn.Module, checkpoints: list[dict[str, Any]], evaluated: list[set[int]]) -> Progress:
        for folder, checkpoint in zip(self.folders, checkpoints, strict=True):
            if checkpoint.get("agent") != self._agent:
                raise InputError(
                    f"the checkpoint in {folder.path} is of the agent {checkpoint.get('agent')}, not {self._agent}: "
                    "give another --run-name, or --overwrite to start anew"
                )
        try:
            for checkpoint in checkpoints:  # that one may come from a version with other names
                first, names = checkpoint["state"]["guard.first_tensor"], checkpoint["guard_names"]
                if first >= 0:
                    first.fill_(learner.guard.names.index(names[first]))
            learner.load_state_dict(_stack([checkpoint["state"] for checkpoint in checkpoints]))
            progress = Progress(
                checkpoints[0]["update"],
                max(checkpoint["train_seconds"] for checkpoint in checkpoints),
                max(checkpoint["wall_seconds"] for checkpoint in checkpoints),
                failed=[set(checkpoint.get("failed", ())) for checkpoint in checkpoints],
            )
            pending = [{one["update"]: one for one in checkpoint.get("pending", ())} for checkpoint in checkpoints]
            snapshots = [self._pending(learner, at, pending, evaluated) for at in sorted(set().union(*pending))]
            progress.pending = tuple(snapshot for snapshot in snapshots if snapshot.wanted.any())
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"the checkpoints in {self.folders[0].path} do not fit this version of {self._agent} "
                f"({reason(error)}): give another --run-name, or --overwrite to start anew"
            ) from None
        return progress

    @staticmethod
    def _pending(
        learner: nn.Module, update: int, pending: list[dict[int, dict[str, Any]]], evaluated: list[set[int]]
    ) -> Snapshot:
        """The snapshot of `update`; a member that was in no such group plays as it is, and nobody asks how."""
        now = learner.policy.state_dict()
        there = [one.get(update) for one in pending]
        states = [
            {name: tensor[index].cpu() for name, tensor in now.items()} if one is None else one["state"]
            for index, one in enumerate(there)
        ]
        wanted = np.array([
            one is not None and one["wanted"] and update not in updates
            for one, updates in zip(there, evaluated, strict=True)
        ])  # fmt: skip
        seconds = [max(one[name] for one in there if one) for name in ("train_seconds", "wall_seconds")]
        return Snapshot(update, wanted, *seconds, _stack(states))

    def save(self, learner: nn.Module, progress: Progress) -> None:
        """A checkpoint for each member, and all that TensorBoard has been given."""
        state = {name: value.cpu() for name, value in learner.state_dict().items()}
        for index, folder in enumerate(self.folders):
            folder.save_checkpoint(
                {
                    "agent": self._agent,
                    "update": progress.update,
                    "train_seconds": progress.train_seconds,
                    "wall_seconds": progress.wall_seconds,
                    "state": _member(state, index),
                    "guard_names": list(learner.guard.names),
                    "policy": learner.policy.settings,
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
                    "failed": sorted(progress.failed[index]),
                }
            )
            folder.flush_scalars()

    def record(self, index: int, snapshot: Snapshot, results: dict[float | None, Evaluation]) -> None:
        """Write one member's lines of an evaluation: one for each target return (None where there is none)."""
        lines, episodes, first = [], [], next(iter(results))
        for target, result in results.items():
            line, its_episodes = self._rows(index, snapshot, target, result)
            lines.append(line)
            episodes += its_episodes
            prefix = "eval" if target == first else f"eval/target_{target}".removesuffix(".0")
            names = ("return_mean", "length_mean", "normalized_score")
            scalars = {f"{prefix}/{name}": line[name] for name in names if line[name] is not None}
            self.folders[index].add_scalars(scalars, snapshot.update)
        self.folders[index].append_evaluation(lines, episodes)

    def _rows(
        self, index: int, snapshot: Snapshot, target: float | None, result: Evaluation
    ) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """One line of evaluations.csv and those of episodes.csv behind it."""
        # All digits: a run's score is found by its target.
        text = None if target is None else repr(target).removesuffix(".0")
        at = {"update": snapshot.update, "target_return": text}
        mean = result.return_mean[index]
        evaluation = {
            **at,
            "train_seconds": f"{snapshot.train_seconds:.3f}",
            "wall_seconds": f"{snapshot.wall_seconds:.3f}",
            "episodes": result.returns.shape[1],
            "return_mean": float(mean),
            "return_std": float(result.return_std[index]),
            "length_mean": float(result.length_mean[index]),
            "normalized_score": None if self._reference is None else float(self._reference.normalize(mean)),
        }
        episodes = [
            {**at, "episode": e, "reset_seed": int(seed), "return": float(r), "length": int(length)}
            for e, (seed, r, length) in enumerate(
                zip(result.reset_seeds[index], result.returns[index], result.lengths[index], strict=True)
            )
        ]
        return evaluation, episodes

    def finish(self, learner: nn.Module, progress: Progress) -> list[str]:
        """Hand TensorBoard its last and write each `summary.json`; say what each member is."""
        found = []
        each = zip(self.members, self.folders, learner.guard.report(), progress.failed, strict=True)
        for member, folder, report, failed in each:
            rows = folder.curve()
            last = [float(row["return_mean"]) for row in rows[-FINAL_EVALUATIONS:]]
            scores = [float(row["normalized_score"]) for row in rows if row["normalized_score"]]
            seconds = progress.train_seconds
            summary = {
                "status": "finished",
                "final_return": float(np.mean(last)) if last else None,
                "final_score": float(np.mean(scores[-FINAL_EVALUATIONS:])) if scores else None,
                "best_score": max(scores, default=None),
                "updates_per_second": progress.update / seconds if seconds else None,
                "failed_evaluations": sorted(failed),
                "reference": None if self._reference is None else asdict(self._reference),
            }
            if report is not None:
                tensor, update = report
                summary |= {"status": "diverged", "final_return": None, "final_score": None}
                summary |= {"diverged_at": update, "diverged_tensor": tensor}
            finish_board(folder, self._config(member), rows, summary)
            folder.write_json("summary.json", summary)
            found.append(f"{folder.path} is {summary['status']}")
        return found


def _stack(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The members' tensors side by side."""
    return {name: torch.stack([state[name] for state in states]) for name in states[0]}


def _member(state: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """One member's tensors; clones, as a view would save those of all."""
    return {name: value[index].clone() for name, value in state.items()}


def _versions() -> dict[str, str | None]:
    found = {"python": platform.python_version()}
    for package in ("rlrat", "torch", "numpy", "gymnasium", "mujoco", "minari"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found
