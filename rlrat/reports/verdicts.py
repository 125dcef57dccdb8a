"""Say who ends higher and who learns faster, as far as tests allow a claim."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from rlrat.reports.report import SUCCESS, VALUE, Comparison, RunGroup, Task
from rlrat.reports.significance import FEWEST_SEEDS, compare_means, corrected
from rlrat.reports.statistics import LEVEL

_FEW_SEEDS = 5
_WORDS = {
    "final": ("ends higher{} than", "{} at the end"),
    "area": ("is higher{} on average over training than", "{} over training"),
}


def compare_all(tasks: Sequence[Task]) -> tuple[Comparison, ...]:
    """Compare every pair of labels on every task, by final value and by area under the curve; correct for all together.

    On labels that do not differ, at most one report in twenty names any winner, whatever their numbers and spreads, as
    far as runs scatter normally.
    """
    # What is on trial stands first.
    pairs = [[(first, second) for second, first in combinations(task.groups, 2)] for task in tasks]
    sides = [[{id(group): _Side.of(group, quantity) for group in task.groups} for task in tasks] for quantity in _WORDS]
    tried = [
        [(of[id(first)], of[id(second)]) for own, of in zip(pairs, there, strict=True) for first, second in own]
        for there in sides
    ]
    p = np.array([_tests(both, LEVEL)[:, 3] for both in tried])
    made = int(np.isfinite(p).sum())
    p_corrected = corrected(p)
    tests = [_tests(both, 1 - (1 - LEVEL) / max(made, 1)) for both in tried]
    found, start = [], 0
    for task, own in zip(tasks, pairs, strict=True):
        digits = task.digits
        for place, quantity in enumerate(_WORDS):
            for at in range(start, start + len(own)):
                first, second = tried[place][at]
                difference, low, high, raw = tests[place][at].tolist()
                corrected_p = float(p_corrected[place, at])
                winner = None
                if corrected_p < 1 - LEVEL:
                    winner = first.label if difference > 0 else second.label
                numbers = (low, high, raw, corrected_p)
                verdict = _verdict(task.measure, digits, quantity, first, second, numbers, made, winner)
                names = (task.name, quantity, first.label, second.label)
                found.append(Comparison(*names, difference, low, high, raw, corrected_p, winner, verdict))
        start += len(own)
    return tuple(found)


def best_and_tied(task: Task, quantity: str, comparisons: Sequence[Comparison]) -> tuple[str | None, set[str]]:
    """Return the label with the highest mean, None without a test of it, and those that tests do not tell from it."""
    judged = [group for group in task.groups if len(group.values(quantity))]
    if len(judged) < 2:
        return None, set()
    best = max(judged, key=lambda group: group.values(quantity).mean()).label
    tests = [
        comparison
        for comparison in comparisons
        if (comparison.task, comparison.quantity) == (task.name, quantity) and np.isfinite(comparison.p)
    ]
    of_best = [comparison for comparison in tests if best in (comparison.first, comparison.second)]
    tied = {label for c in of_best if c.winner is None for label in (c.first, c.second)} - {best}
    return (best, tied) if of_best else (None, set())


@dataclass(frozen=True)
class _Side:
    """What a comparison needs of a label on a task, in one quantity."""

    label: str
    values: np.ndarray
    mean: float
    """NaN without values."""
    obstacle: str | None
    few_finals: str | None

    @classmethod
    def of(cls, group: RunGroup, quantity: str) -> "_Side":
        values = group.values(quantity)
        mean = float(values.mean()) if len(values) else np.nan
        few = group.few_finals if quantity == "final" else None
        return cls(group.label, values, mean, group.obstacle(quantity), few)


def _tests(pairs: Sequence[tuple[_Side, _Side]], level: float) -> np.ndarray:
    """Compare pairs: difference, its interval and p, `[pairs, 4]`.

    NaN where seeds that are left out, or that are not independent, would make the claim.
    """
    found = np.full((len(pairs), 4), np.nan)
    alike: dict[tuple[int, int], list[int]] = {}
    for place, (first, second) in enumerate(pairs):
        if first.obstacle is None and second.obstacle is None:
            alike.setdefault((len(first.values), len(second.values)), []).append(place)
    for places in alike.values():
        first, second = (np.stack([pairs[place][side].values for place in places]) for side in (0, 1))
        found[places] = np.stack(compare_means(first, second, level, _squared), axis=-1)
    return found


def _squared(x: np.ndarray) -> np.ndarray:
    """Return squares as the C library's pow rounds them, one by one: reports keep their numbers to the last digit."""
    return np.array([value**2 for value in x.tolist()])


def _verdict(
    measure: str,
    digits: int,
    quantity: str,
    first: _Side,
    second: _Side,
    numbers: tuple[float, float, float, float],
    made: int,
    winner: str | None,
) -> str:
    """Say what a test tells; `numbers` are the ends of its interval, p and the corrected p."""
    of_what = {VALUE: " in estimated value", SUCCESS: " in success rate"}.get(measure, "")
    higher, where = (words.format(of_what) for words in _WORDS[quantity])
    low, high, p, p_corrected = numbers
    pair = f"{first.label} against {second.label}{where}"
    if obstacles := dict.fromkeys(side.obstacle for side in (first, second) if side.obstacle):
        return f"{pair}: {' and '.join(obstacles)}, so nothing can be concluded"
    sizes = len(first.values), len(second.values)
    if min(sizes) < FEWEST_SEEDS:
        return (
            f"{pair}: nothing can be concluded from {sizes[0]} and {sizes[1]} seeds; it takes {FEWEST_SEEDS} of each "
            "to know a spread at all"
        )
    if not np.isfinite(p):
        return f"{pair}: nothing can be concluded, for the seeds of each are all the same and so no independent runs"
    few = [f"{side.few_finals} of {side.label}" for side in (first, second) if side.few_finals]
    after = f"fewer than five evaluations: {' and '.join(few)}; " if few else ""
    after += f"p = {p_corrected:.2g} corrected for {made} comparison{'s' * (made > 1)}"
    if winner is None:
        return (
            f"{first.label} and {second.label} are not told apart{where}: {first.mean:.{digits}f} and "
            f"{second.mean:.{digits}f}; the difference may be anything from {low:.{digits}f} to "
            f"{high:.{digits}f} ({after})"
        )
    if winner == first.label:
        best, other, least, most = first, second, low, high
    else:
        best, other, least, most = second, first, -high, -low
    by = f"by {least:z.{digits}f} to {most:.{digits}f}" if least >= 0 else f"by at most {most:.{digits}f}"
    text = f"{winner} {higher} {other.label}: {best.mean:.{digits}f} against {other.mean:.{digits}f}, {by} ({after})"
    if min(sizes) < _FEW_SEEDS:
        text += f". With {min(sizes)} seeds this rests on runs that scatter normally; runs that collapse do not"
    return text
