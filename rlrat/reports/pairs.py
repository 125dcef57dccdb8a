"""Sum up the comparisons of a report: how many have a winner, and a matrix of pairs for each task."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from rlrat.reports.report import Comparison, Report

WON, LOST, ALIKE, UNKNOWN = "+", "-", "=", "?"
"""What a matrix says of a row's label beside a column's: it is higher, lower, not told apart, or there is no test."""
MEANING = (
    f"Of each pair first at the end, then over training: {WON} the row's label is higher than the column's, {LOST} "
    f"lower, {ALIKE} not told apart, {UNKNOWN} not tested."
)


@dataclass(frozen=True)
class Matrix:
    """The comparisons on one task, label against label."""

    task: str
    labels: tuple[str, ...]
    cells: dict[tuple[str, str], str]
    """By the labels of row and column: a sign for the final value and one for the area; no label beside itself."""

    def counts(self, label: str) -> tuple[int, int, int]:
        """Return how many comparisons a label wins and loses, and in how many it is not told apart."""
        signs = Counter("".join(cell for (row, _), cell in self.cells.items() if row == label))
        return signs[WON], signs[LOST], signs[ALIKE]

    @property
    def told_apart(self) -> tuple[str, ...]:
        """Return the labels that win or lose any comparison, those with the most wins less losses first."""
        counts = {label: self.counts(label) for label in self.labels}
        found = [label for label, (won, lost, _) in counts.items() if won or lost]
        return tuple(sorted(found, key=lambda label: counts[label][1] - counts[label][0]))


def matrices(report: Report) -> list[Matrix]:
    """Return the matrix of every task on which there are two labels or more."""
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for one in report.comparisons:  # of a task first the final values, then the areas
        there = cells.setdefault(one.task, {})
        pair = one.first, one.second
        for row, column in (pair, pair[::-1]):
            there[row, column] = there.get((row, column), "") + _sign(one, row)
    labels = {task.name: tuple(group.label for group in task.groups) for task in report.tasks}
    return [Matrix(task, labels[task], found) for task, found in cells.items()]


def _sign(comparison: Comparison, label: str) -> str:
    if np.isnan(comparison.p):
        return UNKNOWN
    if comparison.winner is None:
        return ALIKE
    return WON if comparison.winner == label else LOST


def winners(report: Report) -> list[Comparison]:
    """Return the comparisons with a winner, those with the smallest p first."""
    return sorted((one for one in report.comparisons if one.winner is not None), key=lambda one: one.p)


def count_of_winners(report: Report) -> str:
    """Say how many comparisons have a winner, how many do not, and how many could not be made."""
    made = len(report.comparisons)
    won = len(winners(report))
    untested = sum(bool(np.isnan(one.p)) for one in report.comparisons)
    text = f"{won:,} of {made:,} comparison{'s' * (made != 1)} ha{'ve' if won != 1 else 's'} a winner"
    text += f"; {made - won - untested:,} {'are' if made - won - untested != 1 else 'is'} not told apart"
    return text + (f", {untested:,} not tested" if untested else "")
