"""Hold what a comparison shows in one object: tables, plots and the page only render it."""

import math
from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from rlrat.reports.differences import Difference
from rlrat.reports.read import RunRecord
from rlrat.reports.statistics import Estimate
from rlrat.runs.schema import DIVERGED, FAILED, FINAL_EVALUATIONS, NO_FINAL

VALUE = "value"
"""The measure of runs without an environment."""
SUCCESS = "success"
"""The measure of how often a task was done, in [0, 1]."""
MEASURES = {"score": "score", "return": "return", SUCCESS: "success rate", VALUE: "estimated value (FQE)"}
"""What tables call each measure."""


@dataclass(frozen=True, eq=False)
class Curve:
    """A mean over seeds along training, thinned to what can be drawn; all arrays `[N]`.

    Its updates are those that all seeds have that came so far; after the end of a seed the mean is over the others.
    """

    updates: np.ndarray
    seconds: np.ndarray
    """Mean training seconds of these seeds; NaN where one's are unknown."""
    mean: np.ndarray
    low: np.ndarray
    """With `high`, a bootstrap interval of the mean; NaN where it is of one seed."""
    high: np.ndarray
    seeds: np.ndarray
    """How many seeds the mean is of."""


@dataclass(frozen=True)
class Reach:
    """The time when half of a group's seeds had come to stay above a share of the reference's final value."""

    share: float
    """Of the reference's final value, in (0, 1]."""
    threshold: float
    updates: Estimate
    """Median over seeds; infinite where half of them or more never did."""
    seconds: Estimate | None
    """The same in training seconds; None where they cannot be compared."""
    reached: int
    seeds: int


@dataclass(frozen=True)
class BestEvaluations:
    """The checkpoints that runs of one label kept as their best (`--keep-best`), by one choice."""

    by: str
    """return, score, fqe or heldout."""
    runs: int
    value: float
    """Mean over runs of the evaluation that was kept, in the task's measure."""
    final: float
    """Mean over those of them that are judged; NaN without any."""
    optimism: float
    """How much too high `value` is for having been chosen by the same episodes, mean over `valued` runs: an estimate;
    NaN where it was not, or none says."""
    valued: int


@dataclass(frozen=True, eq=False)
class RunGroup:
    """The runs of one label in one task."""

    label: str
    runs: tuple[RunRecord, ...]
    """All of them, whatever became of them."""
    judged: tuple[RunRecord, ...]
    """Those that came to the task's horizon and neither diverged nor failed: `finals`, `final_counts` and `areas` are
    theirs, in this order."""
    finals: np.ndarray
    """Mean of a run's last five evaluations without that of the untrained policy, in the task's measure, `[S]`."""
    final_counts: np.ndarray
    """How many evaluations each of `finals` is of: five, or as many as there are, `[S]`."""
    final_band: Estimate
    """Mean of `finals` with its bootstrap interval; NaN where there are none, or too few."""
    areas: np.ndarray
    """Mean height of a run's curve between the task's start and horizon, NaN for one that begins later, `[S]`."""
    curves: dict[str, Curve]
    """By "score", "return" and "success", as far as every run has them; without an environment by "value", of the runs
    that have estimates."""
    metrics: dict[str, Curve] = field(default_factory=dict)
    """By name, of the runs that have them."""
    final_success: float = np.nan
    """Success rate as `finals` are, mean over the judged runs; NaN where one does not know it."""
    reach: tuple[Reach, ...] = ()
    best: tuple[BestEvaluations, ...] = ()
    """What its runs kept as their best, unless this was chosen by the very estimates that they are judged by."""
    incomparable: str | None = None
    """Why the task's judged runs cannot be compared with one another, whatever their numbers; None where they can."""

    @property
    def diverged(self) -> int:
        return sum(run.status == DIVERGED for run in self.runs)

    @property
    def unfinished(self) -> int:
        """Count the runs that have a curve, but have not come to the horizon."""
        return len(self.runs) - len(self.judged) - self.diverged - self.failed - self.unmeasured

    @property
    def failed(self) -> int:
        """Count the runs without any evaluation of a trained policy: they say nothing of the label."""
        return sum(run.status == FAILED for run in self.runs)

    @property
    def unmeasured(self) -> int:
        """Count the runs without an environment that have no estimated value: there is nothing to judge them by."""
        return sum(not run.measured and run.status not in NO_FINAL for run in self.runs)

    @property
    def few_finals(self) -> str | None:
        """Say of how many evaluations final values are, `3` or `2 to 4`; None where every run has five."""
        if not len(self.final_counts) or (least := self.final_counts.min()) >= FINAL_EVALUATIONS:
            return None
        most = self.final_counts.max()
        return f"{least}" if least == most else f"{least} to {most}"

    @property
    def timed(self) -> bool:
        """Return whether every run's training seconds are known."""
        return all(np.isfinite(run.train_seconds).all() for run in self.runs)

    @property
    def repeated(self) -> tuple[int, ...]:
        """Return the seeds that several judged runs have; these runs need not be independent."""
        counts = Counter(run.seed for run in self.judged)
        return tuple(sorted(seed for seed, count in counts.items() if count > 1))

    def values(self, quantity: str) -> np.ndarray:
        """Return `finals`, or those of `areas` that are known."""
        return self.finals if quantity == "final" else self.areas[~np.isnan(self.areas)]

    def obstacle(self, quantity: str) -> str | None:
        """Say why this label cannot be tested, however many seeds it has; None where it may be."""
        if self.diverged:
            return f"{self.diverged} of {len(self.runs)} of {self.label} diverged"
        if self.repeated:
            return f"{self.label} has {named_seeds(self.repeated)} more than once"
        if self.incomparable is not None:
            return self.incomparable
        if self.unmeasured and not self.judged:
            return f"{self.label} has no estimated value"
        if (known := len(self.values(quantity))) < len(self.judged):
            return f"{len(self.judged) - known} of {len(self.judged)} of {self.label} begin too late for an area"
        return None


def named_seeds(seeds: tuple[int, ...]) -> str:
    """Name seeds: `seed 3`, `seeds 0, 1`; only the first five of many."""
    more = f" and {len(seeds) - 5} more" if len(seeds) > 5 else ""
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds[:5]))}{more}"


@dataclass(frozen=True, eq=False)
class Task:
    """An agent on a dataset, on which labels are compared; without what the labels tell apart themselves.

    Runs without an environment are a task of their own.
    """

    name: str
    measure: str
    """What its statistics are of: "score" (normalised), "return" where scores cannot be compared, "success" where that
    is asked for, or without an environment "value": discounted, estimated by fitted Q evaluation."""
    groups: tuple[RunGroup, ...]
    horizon: int | None
    """The update at which its runs are judged: where most finished runs of every label have come; None without any."""
    start: int | None
    """Where areas begin: the first update that all judged runs have which do not begin late; None without any."""
    data_return: float | None
    """Mean episode return of the dataset."""
    differences: tuple[Difference, ...]
    """What differs between its runs beside the labels."""
    seconds_differ: str | None
    """Why training seconds cannot be compared; None where they can."""
    spacing: str | None = None
    """What it means for its numbers that its runs were not all evaluated at the same updates; None where they were."""
    data_value: float | None = None
    """The data's own discounted value, beside estimated ones; None where runs have none, or not the same."""

    @property
    def digits(self) -> int:
        """Return how many digits after the point its numbers have: estimates may be of rewards of 0 and 1."""
        if self.measure == SUCCESS:
            return 3
        finals = np.concatenate([group.finals for group in self.groups])
        size = float(np.abs(finals).max(initial=0.0))
        if self.measure != VALUE or not 0 < size < 100:
            return 1
        return min(2 - math.floor(math.log10(size)), 6)

    def group(self, label: str) -> RunGroup | None:
        return next((group for group in self.groups if group.label == label), None)


@dataclass(frozen=True)
class Comparison:
    """Two labels on one task: `significance.compare_means`, corrected for all comparisons of the report."""

    task: str
    quantity: str
    """ "final" or "area"."""
    first: str
    second: str
    difference: float
    """Of the means, first - second; NaN, as all that follows, where there are too few seeds."""
    low: float
    """With `high`, the interval of the difference, so wide that 95% hold for all of the report's (Bonferroni)."""
    high: float
    p: float
    p_corrected: float
    winner: str | None
    verdict: str
    """A sentence: what may be concluded, and what not."""


@dataclass(frozen=True, eq=False)
class PerformanceProfile:
    """Share of runs above each threshold, `[K]`, with its bootstrap interval, NaN where a task has a single seed."""

    thresholds: np.ndarray
    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Improvement:
    """Probability that a run of `first` ends above one of `second`, mean over tasks."""

    first: str
    second: str
    probability: Estimate


@dataclass(frozen=True, eq=False)
class Report:
    by: tuple[str, ...]
    """The settings that make the labels."""
    labels: tuple[str, ...]
    reference: str
    """The label whose final value the others' speed is measured against."""
    tasks: tuple[Task, ...]
    comparisons: tuple[Comparison, ...]
    aggregates: dict[str, dict[str, Estimate]]
    """By label and "iqm", "median", "mean", "optimality_gap", of labels that are judged on all `aggregate_tasks`; empty
    where tasks cannot be aggregated."""
    aggregate_tasks: tuple[str, ...]
    """The tasks that `aggregates`, `profiles`, `improvements` and `aggregate_curves` are over."""
    aggregate_curves: dict[str, Curve]
    profiles: dict[str, PerformanceProfile]
    improvements: tuple[Improvement, ...]
    coverage: dict[int, float]
    """True coverage of a bootstrap interval of the mean that says 95%, by number of seeds."""
    notes: tuple[str, ...]
    """What a reader must know before any number: what is left out, mixed or missing."""
    explanations: dict[str, str]
    """How each number was computed, by the name that tables and axes give it."""

    @property
    def aggregate_measure(self) -> str:
        """Return the measure of the tasks that are aggregated."""
        return next(task.measure for task in self.tasks if task.name in self.aggregate_tasks)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the metrics that are drawn, in the order in which they were asked for."""
        groups = [group for task in self.tasks for group in task.groups]
        return tuple(dict.fromkeys(name for run in groups for name in run.metrics))
