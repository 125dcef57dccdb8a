"""What is left of a run's evaluations when it goes on: those that are whole, made again, or missing."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rlrat.errors import warn
from rlrat.runs.arguments import RunArguments
from rlrat.runs.folder import RunFolder
from rlrat.runs.schema import ACTIVATIONS, EPISODES, EVALUATIONS, METRICS

_LISTED = 5  # updates in a message


def is_due(arguments: RunArguments, update: int) -> bool:
    """Whether a run's policy is evaluated after `update`."""
    return update % arguments.eval_every == 0 or update in (*arguments.eval_at, arguments.total_updates)


@dataclass
class Recovered:
    """Of one run that goes on from a checkpoint, the updates of its evaluations."""

    whole: set[int] = field(default_factory=set)
    """With all their lines."""
    pending: dict[int, dict[str, Any]] = field(default_factory=dict)
    """Still to be made, or again, as a checkpoint holds what is pending: by update, with the policy's state."""
    failed: set[int] = field(default_factory=set)
    """Whose environment broke off, twice."""
    missing: set[int] = field(default_factory=set)
    """Whose lines were lost, with no state left from which to make them again."""


def recover(
    folder: RunFolder,
    label: str,
    checkpoints: dict[int, dict[str, Any]],
    start: int,
    arguments: RunArguments,
    targets: int,
    initial: dict[str, Tensor],
) -> Recovered:
    """Compare the lines in a run folder with what is due up to the checkpoint at `start`; say what is lost.

    What was lost is made again where its policy is known: the untrained one, those of the checkpoints, and those that
    wait in them. The evaluation at `start` itself is neither whole nor pending then: it is made when training begins.
    The same holds for failed ones as long as there is none of a trained policy. Nothing is written.

    Args:
        targets: lines that an evaluation has.
        initial: the untrained policy's state.
    """
    checkpoint = checkpoints[start]
    waiting = {one["update"]: one for one in checkpoint.get("pending", ()) if one["wanted"]}
    failed = set(checkpoint.get("failed", ()))
    frozen = int(checkpoint["state"]["guard.first_update"])
    due = {
        *range(0, start + 1, arguments.eval_every),
        *(at for at in (*arguments.eval_at, arguments.total_updates) if at <= start),
    }
    if frozen >= 0:
        due = {update for update in due if update < frozen}
    _expect(folder, checkpoint, due - waiting.keys() - failed)
    due |= folder.lines[EVALUATIONS].expected.keys()

    found = {name: lines.read() for name, lines in folder.lines.items()}
    rows = found[EVALUATIONS].rows
    there = {name: lines.whole(found[name]) for name, lines in folder.lines.items()}
    whole = {update for update in there[EVALUATIONS] & due if len(rows[update]) == targets}
    with_episodes = {
        update
        for update in whole & there[EPISODES]
        if len(found[EPISODES].rows[update]) == sum(int(float(row["episodes"])) for row in rows[update])
    }
    lost = folder.lines[EVALUATIONS].expected.keys() - whole
    unseen = folder.lines[ACTIVATIONS].expected.keys() - there[ACTIVATIONS]
    states = _states(checkpoints, start, initial)
    again = {update for update in lost | (whole - with_episodes) if update in states} | (unseen & whole & {start})
    retried = set()
    if frozen < 0 and not any((whole | waiting.keys()) - {0}):
        retried = {update for update in failed if update in states}
    recovered = Recovered(whole - again, failed=failed - retried, missing=lost - again)
    for update in (again | retried) - {start}:
        recovered.pending[update] = {**states[update], "update": update, "wanted": True}
    recovered.pending |= {update: one for update, one in waiting.items() if update not in whole}
    if retried:
        warn(f"{label}: the evaluations at {_listed(retried)} failed and are tried again")
    strange = sum(one.damaged for one in found.values())
    strange += sum(len(rows[update]) for update in rows if update <= start and update not in due)
    if points := folder.lines[METRICS].expected:  # those of before say nothing of them
        strange += sum(update <= start and update not in points for update in found[METRICS].rows)
    _say(
        label,
        {
            "the evaluations at {} are made again": again,
            "the evaluations at {} are missing, and its values are without them": recovered.missing,
            f"{EPISODES} is without those at {{}}": recovered.whole - with_episodes,
            f"{ACTIVATIONS} is without those at {{}}": unseen - again,
            f"{METRICS} is without its points at {{}}": points.keys() - there[METRICS],
        },
        strange,
    )
    return recovered


def _expect(folder: RunFolder, checkpoint: dict[str, Any], due: set[int]) -> None:
    """Have the folder know which lines were there at a checkpoint; those of before say nothing of them."""
    written = checkpoint.get("lines", {EVALUATIONS: {update: [] for update in due}})
    for name, lines in folder.lines.items():
        lines.expected = dict(written.get(name, {}))


def _states(
    checkpoints: dict[int, dict[str, Any]], start: int, initial: dict[str, Tensor]
) -> dict[int, dict[str, Any]]:
    """The policies that are known up to `start`, by update, as a checkpoint holds what is pending."""
    found: dict[int, dict[str, Any]] = {0: {"train_seconds": 0.0, "wall_seconds": 0.0, "state": initial}}
    for update, checkpoint in checkpoints.items():
        state = {
            name.removeprefix("policy."): tensor
            for name, tensor in checkpoint["state"].items()
            if name.startswith("policy.")
        }
        seconds = {name: checkpoint[name] for name in ("train_seconds", "wall_seconds")}
        found |= {one["update"]: one for one in checkpoint.get("pending", ()) if one["wanted"]}
        found[update] = {**seconds, "state": state}
    return {update: state for update, state in found.items() if update <= start}


def _say(label: str, updates: dict[str, set[int]], strange: int) -> None:
    parts = [text.format(_listed(at)) for text, at in updates.items() if at]
    if strange:
        parts.append(f"{strange} {'lines are' if strange > 1 else 'line is'} not as written and left out")
    if parts:
        warn(f"{label}: lines of its CSV files were lost or changed: {'; '.join(parts)}")


def _listed(updates: set[int]) -> str:
    """Updates as words: `updates 5 and 10`."""
    texts = [f"{update:,}" for update in sorted(updates)]
    if len(texts) > _LISTED:
        texts = [*texts[: _LISTED - 1], f"{len(texts) - _LISTED + 1} more"]
    return f"update {texts[0]}" if len(texts) == 1 else f"updates {', '.join(texts[:-1])} and {texts[-1]}"
