"""Build a `Report` from run records: which labels are compared, at which update, in which measure, and every number."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from rlrat.errors import InputError
from rlrat.evaluation.scores import mean_height
from rlrat.reports.convergence import SHARES, final_value, median_time, time_to_stay
from rlrat.reports.curves import common_updates, interquartile_curve, mean_curve
from rlrat.reports.differences import find_differences, reference_key, seconds_differ
from rlrat.reports.explanations import explanations
from rlrat.reports.notes import find_notes
from rlrat.reports.read import RunRecord, as_text, is_of_success, setting_texts
from rlrat.reports.report import (
    MEASURES,
    SUCCESS,
    VALUE,
    BestEvaluations,
    Curve,
    Improvement,
    PerformanceProfile,
    Reach,
    Report,
    RunGroup,
    Task,
)
from rlrat.reports.statistics import (
    AGGREGATES,
    SAMPLES,
    Estimate,
    bootstrap_coverage,
    draws,
    estimate,
    estimate_improvement,
    mean,
    performance_profile,
)
from rlrat.reports.verdicts import compare_all
from rlrat.runs.schema import DATA_VALUE, DIVERGED, FINAL_EVALUATIONS, FINISHED, IMPORTED, NO_FINAL, final_evaluations

_FIELDS = {"score": "scores", "return": "returns", SUCCESS: "successes", VALUE: "values"}
_THRESHOLDS = 101
_ENDED = (FINISHED, IMPORTED)
_LATE_SHARE = 0.1  # of the horizon: a run may begin this late and move the start of all areas, or end this long before


def build_report(
    records: Sequence[RunRecord],
    by: Sequence[str] = (),
    reference: str | None = None,
    until: int | None = None,
    measure: str | None = None,
) -> Report:
    """Compare runs by label.

    Args:
        records: from `read_runs` and the importers.
        by: settings whose values make a run's label; by default `activation`, or `variant` (activation and run name, as
            in run folders) where the runs of an agent on a dataset have more than one name.
        reference: the label that the speed of the others is measured against; by default relu, or else the first.
        until: judge every run as if it had ended at this update.
        measure: what runs with an environment are compared by: "score", "return" or "success"; by default scores where
            all runs of a task have them against the same reference, else returns.

    Raises:
        InputError: no run has one of these settings, no run has this label, some runs of a task have only scores and
            others only returns, or not all have the `measure`.
    """
    by = tuple(by) or _default_by(records)
    texts = [setting_texts(records, name) for name in by]
    labelled = [
        (" ".join(part or "-" for part in parts), record) for *parts, record in zip(*texts, records, strict=True)
    ]
    labels, reference = _order({label for label, _ in labelled}, reference)
    by_task: dict[str, dict[str, list[RunRecord]]] = {}
    for label, record in sorted(labelled, key=lambda pair: labels.index(pair[0])):
        parts = [getattr(record, name) for name in ("agent", "dataset") if name not in by]
        name = " on ".join(parts) or "all runs"
        if record.values is not None:  # never beside returns
            name += " (FQE)"
        by_task.setdefault(name, {}).setdefault(label, []).append(record)
    about = (by, reference, until, measure)
    tasks = tuple(_task(name, groups, *about) for name, groups in sorted(by_task.items()))
    aggregate_tasks, together = _aggregated(tasks, labels)
    scores = {label: [task.group(label).finals for task in aggregate_tasks] for label in together}
    sizes = {len(group.finals) for task in tasks for group in task.groups} - {0, 1}
    report = Report(
        by=by,
        labels=labels,
        reference=reference,
        tasks=tasks,
        comparisons=compare_all(tasks),
        aggregates={label: _aggregates(groups, aggregate_tasks[0].measure) for label, groups in scores.items()},
        aggregate_tasks=tuple(task.name for task in aggregate_tasks),
        aggregate_curves=_aggregate_curves(aggregate_tasks, together),
        profiles=_profiles(scores),
        improvements=tuple(
            Improvement(first, second, estimate_improvement(scores[first], scores[second]))
            for second, first in combinations(scores, 2)  # so that what is on trial stands first
        ),
        coverage={size: bootstrap_coverage(size) for size in sorted(sizes)},
        notes=(),
        explanations={},
    )
    return replace(report, notes=find_notes(report, until), explanations=explanations(report))


def _default_by(records: Sequence[RunRecord]) -> tuple[str, ...]:
    names: dict[tuple[str, str], set[str]] = {}
    for record in records:
        names.setdefault((record.agent, record.dataset), set()).add(record.name)
    return ("activation",) if all(len(there) == 1 for there in names.values()) else ("variant",)


def _order(labels: set[str], reference: str | None) -> tuple[tuple[str, ...], str]:
    """Sort the labels: the reference, then the usual ones, then those on trial; return them and the reference."""
    if reference is None:
        reference = min(labels, key=lambda label: (label != "relu", not label.startswith("relu+"), label))
    if reference not in labels:
        raise InputError(f"--reference is {reference!r}, but the labels are {', '.join(sorted(labels))}")
    order = sorted(labels, key=lambda label: (label != reference, label.startswith("rational"), label))
    return tuple(order), reference


def _task(
    name: str,
    runs: dict[str, list[RunRecord]],
    by: Sequence[str],
    reference: str,
    until: int | None,
    measure: str | None,
) -> Task:
    every = [run for group in runs.values() for run in group]
    measure = _measure(name, every, measure)
    field = _FIELDS[measure]
    horizon = _horizon(runs) if until is None else until
    judged = {
        label: tuple(run for run in group if horizon is not None and _came_to(run, horizon))
        for label, group in runs.items()
    }
    data_values = _alike([run.offline[DATA_VALUE] for run in every if DATA_VALUE in run.offline])
    shared, spacing = _shared([run for group in judged.values() for run in group], horizon)
    compared = {label: tuple(_at(run, shared) for run in group) for label, group in judged.items()}
    start = _start([int(run.updates[0]) for group in compared.values() for run in group], horizon)
    incomparable = None
    if len(data_values) > 1:
        incomparable = "the data's own value is not the same for all runs, so their discounts or their data differ"
    elif spacing is not None and shared is None:
        incomparable = "runs were evaluated at other updates than others"
    groups = [
        replace(
            _group(label, group, judged[label], compared[label], measure, start, horizon), incomparable=incomparable
        )
        for label, group in runs.items()
    ]
    differ = seconds_differ([run for group in groups if group.timed for run in group.runs])
    base = next((group for group in groups if group.label == reference and len(group.finals)), None)
    if base is not None and measure != VALUE:  # an estimate begins near the data's own value, not near 0
        groups = [
            replace(
                group, reach=_reach(group, compared[group.label], base, horizon, field, differ is None and group.timed)
            )
            for group in groups
        ]
    data_returns = {run.config.get("dataset", {}).get("return_mean") for run in every} - {None}
    return Task(
        name=name,
        measure=measure,
        groups=tuple(groups),
        horizon=horizon,
        start=start,
        data_return=data_returns.pop() if len(data_returns) == 1 else None,
        data_value=data_values[0] if len(data_values) == 1 else None,
        differences=find_differences(runs, by),
        spacing=spacing,
        seconds_differ=differ,
    )


def _horizon(runs: dict[str, list[RunRecord]]) -> int | None:
    """Return the earliest of all labels' ends; a label's end is where most finished runs end, at a tie the earliest."""
    counts = [
        Counter(run.last for run in group if run.status in _ENDED and run.measured and run.last > 0)
        for group in runs.values()
    ]
    return min((min(ends, key=lambda end: (-ends[end], end)) for ends in counts if ends), default=None)


def _alike(numbers: Sequence[float]) -> list[float]:
    """Return numbers, ascending, each once: of several that differ by rounding alone, one."""
    found: list[float] = []
    for number in sorted(numbers):
        if not found or not np.isclose(number, found[-1], rtol=1e-4):
            found.append(number)
    return found


def _shared(runs: Sequence[RunRecord], horizon: int | None) -> tuple[np.ndarray | None, str | None]:
    """Return the updates that all judged runs have, and a note; both None where all runs were evaluated at the same.

    The updates alone are None where too few are shared. Without this, the last five evaluations of one run might span a
    tenth of training and those of another all of it.
    """
    if horizon is None or not runs:
        return None, None
    shared, own = common_updates(runs), [_until(run, horizon, "updates") for run in runs]
    before = shared[(shared >= max(updates[0] for updates in own)) & (shared <= horizon)]  # the last run has begun
    if all(np.isin(updates, shared).all() for updates in own):
        return None, None
    if final_evaluations(before) == FINAL_EVALUATIONS and before[-1] >= (1.0 - _LATE_SHARE) * horizon:
        return shared, (
            "not all runs were evaluated at the same updates: final values, areas and times are of the "
            f"{len(before):,} evaluations that all have"
        )
    return None, (
        "too few evaluations, or none near the end, are at updates that all runs have, so no test is made: final "
        "values, areas and times are of each run's own evaluations; --filter leaves out a label that stands apart"
    )


def _at(run: RunRecord, updates: np.ndarray | None) -> RunRecord:
    """Return the run as if it had been evaluated at these updates only; None stands for all of its own."""
    if updates is None:
        return run
    there = np.isin(run.updates, updates)
    arrays = ("updates", "train_seconds", "wall_seconds", *_FIELDS.values())
    known = {name: array for name in arrays if (array := getattr(run, name)) is not None}
    return replace(run, **{name: array[there] for name, array in known.items()})


def _has(run: RunRecord, measure: str) -> bool:
    """Return whether a run's whole curve is known in a measure."""
    values = getattr(run, _FIELDS[measure])
    return values is not None and bool(np.isfinite(values).all())


def _start(firsts: Sequence[int], horizon: int | None) -> int | None:
    """Return the latest first update in the first tenth, or else the earliest; None where no run has a curve."""
    if horizon is None or not firsts:
        return None
    start = max((first for first in firsts if first <= _LATE_SHARE * horizon), default=min(firsts))
    return start if start < horizon else None


def _group(
    label: str,
    runs: Sequence[RunRecord],
    judged: tuple[RunRecord, ...],
    compared: tuple[RunRecord, ...],
    measure: str,
    start: int | None,
    horizon: int | None,
) -> RunGroup:
    """Build the group of a label; `compared` are the judged runs at the evaluations that count."""
    field = _FIELDS[measure]
    kinds = [kind for kind in _FIELDS if (kind == VALUE) == (measure == VALUE)]
    ends = [(_until(run, horizon, "updates"), _until(run, horizon, field)) for run in compared]
    finals = np.array([final_value(*end) for end in ends])
    final_of = {id(run): final for run, final in zip(judged, finals, strict=True)}
    drawn = [run for run in runs if len(run.updates) and run.measured]
    return RunGroup(
        label=label,
        runs=tuple(runs),
        judged=judged,
        finals=finals,
        final_counts=np.array([final_evaluations(updates) for updates, _ in ends], dtype=int),
        final_band=estimate(mean, [finals]) if len(finals) else Estimate(*(np.nan,) * 3),
        areas=np.array(
            [
                np.nan
                if start is None or run.updates[0] > start
                else mean_height(run.updates, getattr(run, field), start, horizon)
                for run in compared
            ]
        ),
        curves={
            kind: mean_curve(drawn, _FIELDS[kind]) for kind in kinds if drawn and all(_has(run, kind) for run in drawn)
        },
        final_success=_final_success(compared, horizon),
        best=tuple(_best(runs, measure, final_of)),
        metrics={
            name: mean_curve([run.metrics[name] for run in runs if name in run.metrics], "values")
            for name in dict.fromkeys(name for run in runs for name in run.metrics)
        },
    )


def _final_success(runs: Sequence[RunRecord], horizon: int | None) -> float:
    if not runs or not all(_has(run, SUCCESS) for run in runs):
        return np.nan
    ends = [(_until(run, horizon, "updates"), _until(run, horizon, _FIELDS[SUCCESS])) for run in runs]
    return float(np.mean([final_value(*end) for end in ends]))


def _best(runs: Sequence[RunRecord], measure: str, finals: dict[int, float]) -> Iterator[BestEvaluations]:
    """Yield what runs kept as their best, by each choice; leave out values that were chosen by themselves."""
    kept: dict[str, list[tuple[RunRecord, float]]] = {}
    for run in runs:
        if run.best is not None and (measure, run.best.by) != (VALUE, "fqe") and run.best.update in run.updates:
            at = np.searchsorted(run.updates, run.best.update)
            kept.setdefault(run.best.by, []).append((run, float(getattr(run, _FIELDS[measure])[at])))
    for by, found in sorted(kept.items()):
        optimism = [_optimism(run, measure) for run, _ in found]
        known = [value for value in optimism if np.isfinite(value)]
        judged = [finals[id(run)] for run, _ in found if id(run) in finals]
        yield BestEvaluations(
            by=by,
            runs=len(found),
            value=float(np.mean([value for _, value in found])),
            final=float(np.mean(judged)) if judged else np.nan,
            optimism=float(np.mean(known)) if known else np.nan,
            valued=len(known),
        )


def _optimism(run: RunRecord, measure: str) -> float:
    """Return how much too high a run's best evaluation is, in the measure of a task; NaN where this was no choice."""
    by_success = is_of_success(run.reference)
    chosen = SUCCESS if by_success and run.best.by == "score" else "return"
    if measure != "score" or run.reference is None:
        return run.best.optimism if measure in (chosen, "score") else np.nan
    if by_success != (chosen == SUCCESS):
        return np.nan
    return 100.0 * run.best.optimism / (run.reference["expert"] - run.reference["random"])


def _measure(name: str, runs: Sequence[RunRecord], chosen: str | None) -> str:
    """Return "score" where every run has scores against the same references, else "return" for raw returns.

    Of runs without an environment, which are a task of their own, it is "value". Of others it is what is `chosen`.
    """
    if runs[0].values is not None:
        return VALUE
    references = {reference_key(run) for run in runs if not run.imported}
    known = [measure for measure in ("score", "return", SUCCESS) if all(_has(run, measure) for run in runs)]
    if len(references) > 1 and "score" in known:
        known.remove("score")
    if chosen is None and known and known[0] != SUCCESS:
        return known[0]
    if chosen in known:
        return chosen
    if chosen is not None:
        raise InputError(
            f"not all runs of {name} have a {MEASURES[chosen]} at every evaluation"
            + (" against one reference" if chosen == "score" else "")
            + ": give another --measure, or --filter to leave some out"
        )
    raise InputError(
        f"some runs of {name} have only scores and others none to compare them with: give --filter to leave some out"
    )


def _came_to(run: RunRecord, horizon: int) -> bool:
    """Return whether the run came to the horizon and has an evaluation shortly before it: an older one is not final.

    The evaluation of the untrained policy does not count.
    """
    if run.status in NO_FINAL or not run.measured or not len(run.updates) or not run.updates[0] <= horizon <= run.last:
        return False
    return _until(run, horizon, "updates")[-1] >= max(1, (1.0 - _LATE_SHARE) * horizon)


def _until(run: RunRecord, horizon: int, field: str) -> np.ndarray:
    return getattr(run, field)[: np.searchsorted(run.updates, horizon, side="right")]


def _reach(
    group: RunGroup, compared: Sequence[RunRecord], base: RunGroup, horizon: int, field: str, seconds: bool
) -> tuple[Reach, ...]:
    """Compute when the judged and the diverged runs reach each share; diverged runs count as never reaching it."""
    runs = [*compared, *(run for run in group.runs if run.status == DIVERGED)]
    target = float(base.finals.mean())
    if not runs or target <= 0:
        return ()
    same = group is base and len(runs) == len(base.finals)
    base_draws, own_draws = draws((len(base.finals), len(runs)), SAMPLES)
    drawn = base_draws if same else own_draws
    if min(len(base.finals), len(runs)) < 2:
        drawn = None  # a single seed says nothing of its spread
    # Few seeds have few means: times are looked for once for each of these.
    targets, at = np.unique(np.append(base.finals[base_draws].mean(-1), target), return_inverse=True)
    thresholds = np.multiply.outer(SHARES, targets)
    clocks = ("updates", "train_seconds") if seconds else ("updates",)
    times = np.full((len(runs), len(clocks), *thresholds.shape), np.inf)
    for own, run in zip(times, runs, strict=True):
        if run.status != DIVERGED:
            until = np.stack([_until(run, horizon, clock) for clock in clocks])
            own[:] = time_to_stay(until, _until(run, horizon, field), thresholds)
    return tuple(
        Reach(
            share=share,
            threshold=share * target,
            updates=median_time(times[:, 0, place], at, drawn),
            seconds=median_time(times[:, 1, place], at, drawn) if seconds else None,
            reached=int(np.isfinite(times[:, 0, place, at[-1]]).sum()),
            seeds=len(runs),
        )
        for place, share in enumerate(SHARES)
    )


def _aggregated(tasks: Sequence[Task], labels: Sequence[str]) -> tuple[tuple[Task, ...], tuple[str, ...]]:
    """Return the tasks, and the labels that are judged on all of them; none where their measures do not mean the same.

    Estimated values are on no common scale, and are left out, as are labels that have nothing else.
    These are the tasks that all labels have, or the labels that all tasks have, whichever is more. A label on few tasks
    then does not take tasks from the others.
    """

    tasks = [task for task in tasks if task.measure != VALUE]
    labels = [label for label in labels if any(task.group(label) is not None for task in tasks)]

    def judged(task: Task, label: str) -> bool:
        return (group := task.group(label)) is not None and len(group.finals) > 0

    def comparable(some: Sequence[Task]) -> bool:
        runs = [run for task in some for group in task.groups for run in group.judged if run.reference]
        families = {as_text(run.reference.get("name")) for run in runs}
        measures = {task.measure for task in some}
        return len(some) == 1 or measures == {SUCCESS} or (len(families) <= 1 and measures == {"score"})

    whole = tuple(task for task in tasks if all(judged(task, label) for label in labels))
    everywhere = tuple(label for label in labels if all(judged(task, label) for task in tasks))
    choices = [(whole, tuple(labels)), *([(tuple(tasks), everywhere)] if len(everywhere) > 1 else [])]
    choices = [(some, names) for some, names in choices if some and comparable(some)]
    return max(choices, key=lambda choice: len(choice[0]) * len(choice[1]), default=((), ()))


def _aggregates(scores: list[np.ndarray], measure: str) -> dict[str, Estimate]:
    return {
        name: estimate(statistic, scores)
        for name, statistic in AGGREGATES.items()
        if measure == "score" or name != "optimality_gap"
    }


def _aggregate_curves(tasks: Sequence[Task], labels: Sequence[str]) -> dict[str, Curve]:
    """Compute the curves over several tasks; none for a single task, whose own curves show more."""
    if len(tasks) < 2:
        return {}
    horizon = min(task.horizon for task in tasks)
    field = _FIELDS[tasks[0].measure]
    curves = {
        label: interquartile_curve([task.group(label).judged for task in tasks], field, horizon) for label in labels
    }
    return {label: curve for label, curve in curves.items() if curve is not None}


def _profiles(scores: dict[str, list[np.ndarray]]) -> dict[str, PerformanceProfile]:
    if not scores:
        return {}
    every = np.concatenate([task for tasks in scores.values() for task in tasks])
    thresholds = np.linspace(every.min(), every.max(), _THRESHOLDS)
    return {
        label: PerformanceProfile(thresholds, *performance_profile(groups, thresholds))
        for label, groups in scores.items()
    }
