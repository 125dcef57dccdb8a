"""Find what is left of a run's evaluations when it goes on: which are whole, to be made again, or missing."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from rlrat.errors import warn
from rlrat.runs.arguments import RunArguments
from rlrat.runs.folder import RunFolder
from rlrat.runs.schema import ACTIVATIONS, EPISODES, EVALUATIONS, METRICS, OFFLINE

_LISTED_UPDATES = 5  # in a message


def is_due(arguments: RunArguments, update: int) -> bool:
    """Tell whether a run's policy is evaluated after `update`."""
    return update % arguments.eval_every == 0 or update in (*arguments.eval_at, arguments.total_updates)


@dataclass
class Recovered:
    """The updates of the evaluations of one run that goes on from a checkpoint."""

    whole: set[int] = field(default_factory=set)
    """With all their lines."""
    pending: dict[int, dict[str, Any]] = field(default_factory=dict)
    """To be made, or made again: by update, in the form in which a checkpoint holds what is pending."""
    failed: set[int] = field(default_factory=set)
    """Broken off twice by the environment."""
    missing: set[int] = field(default_factory=set)
    """With lines that are lost, and no policy left to make them again."""


def recover(
    folder: RunFolder,
    label: str,
    checkpoints: dict[int, dict[str, Any]],
    start: int,
    arguments: RunArguments,
    targets: int,
    initial: dict[str, Tensor],
    offline: bool = False,
) -> Recovered:
    """Compare the lines in a run folder with what is due up to the checkpoint at `start`; warn of what is lost.

    A lost evaluation is made again if its policy is known: the untrained policy, that of a checkpoint, or one that
    waits in a checkpoint. So is a failed evaluation, as long as none of a trained policy is there. The one at `start`
    itself is then neither whole nor pending: it is made when training begins. Nothing is written.

    Args:
        targets: the number of lines that an evaluation has.
        initial: the untrained policy's state.
        offline: whether evaluations are of data alone: a policy by itself is then not enough to make them again.
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
    if offline:
        whole &= there[OFFLINE]
    played = {update: len(found[EPISODES].rows[update]) for update in there[EPISODES]}
    with_episodes = {
        update for update in whole if played.get(update, 0) == sum(int(float(row["episodes"])) for row in rows[update])
    }
    lost = folder.lines[EVALUATIONS].expected.keys() - whole
    unseen = folder.lines[ACTIVATIONS].expected.keys() - there[ACTIVATIONS]
    states = _states(checkpoints, start, initial)
    known = {start} if offline else states.keys()
    again = {update for update in lost | (whole - with_episodes) if update in known} | (unseen & whole & {start})
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
    """Tell the folder which lines a checkpoint knows of; older checkpoints know none, and all that is due counts."""
    written = checkpoint.get("lines", {EVALUATIONS: {update: [] for update in due}})
    for name, lines in folder.lines.items():
        lines.expected = dict(written.get(name, {}))


def _states(
    checkpoints: dict[int, dict[str, Any]], start: int, initial: dict[str, Tensor]
) -> dict[int, dict[str, Any]]:
    """Collect the known policies up to `start` by update, in the form in which a checkpoint holds what is pending."""
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
    """Write updates as words: `updates 5 and 10`."""
    texts = [f"{update:,}" for update in sorted(updates)]
    if len(texts) > _LISTED_UPDATES:
        texts = [*texts[: _LISTED_UPDATES - 1], f"{len(texts) - _LISTED_UPDATES + 1} more"]
    return f"update {texts[0]}" if len(texts) == 1 else f"updates {', '.join(texts[:-1])} and {texts[-1]}"
