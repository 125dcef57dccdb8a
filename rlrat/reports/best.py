"""Say how much too high a best evaluation is for having been chosen by its own episodes."""

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlrat.errors import printable, reason, warn
from rlrat.json_files import EXACT_INTEGERS
from rlrat.reports.files import listed, open_text, plain
from rlrat.runs.schema import EPISODES, is_update

BY_RETURNS = ("return", "score")
"""What `--keep-best` chooses by where it chooses by episodes."""
_PARTS = 5
_SHUFFLES = 20


@dataclass(frozen=True)
class Best:
    """The checkpoint that a run kept as its best, as `summary.json` has it."""

    by: str
    """return, score, fqe or heldout."""
    update: int
    optimism: float
    """How much higher its mean return, or its success rate where scores are of these, is for having been chosen by it,
    than that of new episodes: an estimate; NaN where its episodes do not say, or it was not chosen by them."""


def read_best(folder: Path, said: Any, scored_by_success: bool = False) -> Best | None:
    """Read what `summary.json` says of the best checkpoint; None where it says nothing that can be read.

    Args:
        scored_by_success: whether the run's scores are of success rates.
    """
    if said is None:
        return None
    by, update = (said.get("by"), said.get("update")) if isinstance(said, dict) else (None, None)
    if not isinstance(by, str) or not is_update(update):
        warn(f"{folder} has a summary whose best names no choice and no update: it is left out")
        return None
    optimism = np.nan
    column = "success" if by == "score" and scored_by_success else "return"
    if by in BY_RETURNS and (found := _read_episodes(folder / EPISODES, column)) is not None:
        optimism = selection_optimism(found)
    return Best(printable(by), update, optimism)


def selection_optimism(returns: np.ndarray, seed: int = 0) -> float:
    """Estimate how much too high the highest mean of T evaluations of E episodes each is, `returns` `[T, E]`.

    Four fifths of every evaluation's episodes choose one; the fifth that is left values it, as new episodes would. The
    difference of the two means is averaged over the fifths and over ways to divide. It is that of evaluations with a
    fifth fewer episodes, and so rather more than less. With fewer than five episodes, one is left each time.

    Returns:
        The mean difference, in the unit of `returns`; NaN with a single episode.
    """
    evaluations, episodes = returns.shape
    if episodes < 2 or not evaluations:
        return np.nan
    generator = np.random.default_rng(seed)
    differences = []
    for _ in range(_SHUFFLES):
        # Each evaluation's episodes on their own: those of one number need not begin alike.
        drawn = generator.permuted(returns, axis=1)
        for part in np.array_split(np.arange(episodes), min(_PARTS, episodes)):
            rest = np.delete(drawn, part, axis=1).mean(1)
            chosen = rest.argmax()
            differences.append(rest[chosen] - drawn[chosen, part].mean())
    return float(np.mean(differences))


def _read_episodes(path: Path, column: str) -> np.ndarray | None:
    """Read the returns or successes of a run's evaluations of trained policies, at the first target return, `[T, E]`.

    Evaluations with another number of episodes than most are left out. None without any.
    """
    found: dict[int, dict[str, float]] = {}
    damaged, target = [], None
    try:
        with open_text(path) as file:
            header = file.readline().rstrip("\r\n").split(",")
            if not {"update", "episode", column} <= set(header):
                return None
            places = [header.index(name) for name in ("update", "episode", column)]
            wanted = header.index("target_return") if "target_return" in header else None
            for number, line in enumerate(file, start=2):
                try:
                    row = plain(line.removesuffix("\n").removesuffix("\r")).split(",")
                    if len(row) != len(header) or not line.endswith("\n"):
                        raise ValueError
                    update, value = int(row[places[0]]), float(row[places[2]])
                    if not 0 <= update < EXACT_INTEGERS or not np.isfinite(value):
                        raise ValueError
                except ValueError:
                    damaged.append(number)
                    continue
                aim = "" if wanted is None else row[wanted]
                target = aim if target is None else target
                if update and aim == target:
                    found.setdefault(update, {})[row[places[1]]] = value
    except OSError as error:
        if os.path.lexists(path):
            warn(f"{path} cannot be read ({reason(error)}): its episodes are left out")
        return None
    if damaged:
        warn(f"{path}: left out as damaged: line {listed(damaged)}")
    if not found:
        return None
    usual = Counter(map(len, found.values())).most_common(1)[0][0]
    return np.array([list(episodes.values()) for episodes in found.values() if len(episodes) == usual])
