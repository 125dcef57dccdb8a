"""Say who ends higher and who learns faster, as far as tests allow a claim."""

from collections.abc import Sequence
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
    pairs = [
        (task, first, second)
        for task in tasks
        for second, first in combinations(task.groups, 2)  # so that what is on trial stands first
    ]
    p = np.array([[float(_test(quantity, *pair, LEVEL)[3]) for _, *pair in pairs] for quantity in _WORDS])
    made = int(np.isfinite(p).sum())
    numbers = {
        (task.name, quantity, first.label, second.label): (float(p_corrected), made)
        for quantity, row in zip(_WORDS, corrected(p), strict=True)
        for (task, first, second), p_corrected in zip(pairs, row, strict=True)
    }
    return tuple(
        _comparison(task, quantity, first, second, *numbers[task.name, quantity, first.label, second.label])
        for task in tasks
        for quantity in _WORDS
        for second, first in combinations(task.groups, 2)
    )


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


def _test(quantity: str, first: RunGroup, second: RunGroup, level: float) -> tuple[np.ndarray, ...]:
    """Compare two groups; NaN where seeds that are left out, or that are not independent, would make the claim."""
    if first.obstacle(quantity) or second.obstacle(quantity):
        return (np.array(np.nan),) * 4
    return compare_means(first.values(quantity), second.values(quantity), level)


def _comparison(
    task: Task, quantity: str, first: RunGroup, second: RunGroup, p_corrected: float, made: int
) -> Comparison:
    test = [float(number) for number in _test(quantity, first, second, 1 - (1 - LEVEL) / max(made, 1))]
    difference, low, high, p = test
    winner = None
    if p_corrected < 1 - LEVEL:
        winner = first.label if difference > 0 else second.label
    verdict = _verdict(task, quantity, first, second, test, p_corrected, made, winner)
    return Comparison(
        *(task.name, quantity, first.label, second.label, difference, low, high, p, p_corrected, winner, verdict)
    )


def _verdict(
    task: Task,
    quantity: str,
    first: RunGroup,
    second: RunGroup,
    test: list[float],
    p_corrected: float,
    made: int,
    winner: str | None,
) -> str:
    of_what = {VALUE: " in estimated value", SUCCESS: " in success rate"}.get(task.measure, "")
    higher, where = (words.format(of_what) for words in _WORDS[quantity])
    digits = task.digits
    _, low, high, p = test
    means = {group.label: group.values(quantity) for group in (first, second)}
    sizes = [len(values) for values in means.values()]
    pair = f"{first.label} against {second.label}{where}"
    obstacles = {obstacle: None for group in (first, second) if (obstacle := group.obstacle(quantity))}
    if obstacles:
        return f"{pair}: {' and '.join(obstacles)}, so nothing can be concluded"
    if min(sizes) < FEWEST_SEEDS:
        return (
            f"{pair}: nothing can be concluded from {sizes[0]} and {sizes[1]} seeds; it takes {FEWEST_SEEDS} of each "
            "to know a spread at all"
        )
    if not np.isfinite(p):
        return f"{pair}: nothing can be concluded, for the seeds of each are all the same and so no independent runs"
    means = {label: values.mean() for label, values in means.items()}
    after = f"p = {p_corrected:.2g} corrected for {made} comparison{'s' * (made > 1)}"
    after = _few_finals(first, second, quantity) + after
    if winner is None:
        text = (
            f"{first.label} and {second.label} are not told apart{where}: {means[first.label]:.{digits}f} and "
            f"{means[second.label]:.{digits}f}; the difference may be anything from {low:.{digits}f} to "
            f"{high:.{digits}f} ({after})"
        )
    else:
        other = second.label if winner == first.label else first.label
        least, most = (low, high) if winner == first.label else (-high, -low)
        by = f"by {least:z.{digits}f} to {most:.{digits}f}" if least >= 0 else f"by at most {most:.{digits}f}"
        text = (
            f"{winner} {higher} {other}: {means[winner]:.{digits}f} against {means[other]:.{digits}f}, {by} ({after})"
        )
        if min(sizes) < _FEW_SEEDS:
            text += f". With {min(sizes)} seeds this rests on runs that scatter normally; runs that collapse do not"
    return text


def _few_finals(first: RunGroup, second: RunGroup, quantity: str) -> str:
    few = [f"{group.few_finals} of {group.label}" for group in (first, second) if group.few_finals]
    return f"fewer than five evaluations: {' and '.join(few)}; " if few and quantity == "final" else ""
