"""Write what a reader must know before any number: what is left out, mixed or missing, a sentence each."""

import re
from collections.abc import Iterator, Sequence

import numpy as np

from rlrat.reports.best import BY_RETURNS
from rlrat.reports.differences import reference_key
from rlrat.reports.read import RunRecord, as_text
from rlrat.reports.report import MEASURES, VALUE, BestEvaluations, Report, RunGroup, Task, named_seeds
from rlrat.reports.significance import FEWEST_SEEDS
from rlrat.runs.schema import FQE_VALUE, NO_FINAL, OFFLINE


def find_notes(report: Report, until: int | None) -> tuple[str, ...]:
    """Return the notes of a report that has everything else; `until` is that of `build_report`."""
    notes = [note for task in report.tasks for note in _task_notes(task, report, until)]
    return (*_value_notes(report), *notes, *_aggregate_notes(report), *_coverage_notes(report))


def folded(notes: Sequence[str], report: Report) -> list[list[str]]:
    """Group notes that say the same of several folders, tasks or labels, in the order of the first of each group."""
    names = sorted({*report.labels, *(task.name for task in report.tasks)}, key=len, reverse=True)
    known = "|".join(map(re.escape, names))
    # What a note is about: names of the report, a path at its beginning, and numbers.
    varying = re.compile(rf"(?<![\w/])(?:{known})(?![\w/])|^.*?(?=(?:: left out| has | lacks | cannot | says of ))|\d+")
    groups: dict[str, list[str]] = {}
    for note in notes:
        groups.setdefault(varying.sub("", note), []).append(note)
    return list(groups.values())


def _value_notes(report: Report) -> Iterator[str]:
    if any(task.measure == VALUE for task in report.tasks):
        yield (
            "Runs without an environment are judged by estimated values: what fitted Q evaluation on the data gives, "
            "discounted. These are estimates and no returns: they are compared among themselves alone, are in no "
            "aggregate, and may be wrong where a policy leaves the data. The spread over seeds does not have the error "
            "that all estimates from the same data share"
        )


def _task_notes(task: Task, report: Report, until: int | None) -> Iterator[str]:
    runs = [run for group in task.groups for run in group.runs]
    judged = [run for group in task.groups for run in group.judged]
    if not any(run.measured for run in runs):
        yield from _run_notes(task)
        return
    if task.horizon is None:
        yield from _run_notes(task)
        last = min(
            (run.last for run in runs if run.measured and run.last > 0 and run.status not in NO_FINAL), default=0
        )
        until = f"; --until {last} judges all as if they ended there" if last else ""
        yield f"{task.name}: no run is finished, so none is judged{until}"
        return
    yield from _run_notes(task)
    for group in task.groups:
        if group.unfinished:
            yield (
                f"{task.name}: {group.unfinished} of {len(group.runs)} runs of {group.label} have not come to update "
                f"{task.horizon:,}, or have no evaluation shortly before it; they are drawn, but not judged"
            )
        if (few := group.few_finals) is not None:
            yield (
                f"{task.name}: final values of {group.label} are of {few} evaluations, not of five: there are no more "
                "of a trained policy"
            )
        if group.repeated:
            yield (
                f"{task.name}: {group.label} has {named_seeds(group.repeated)} more than once (imported twice, or with "
                "other settings): these need not be independent runs, so no test is of it"
            )
    few = [f"{group.label} ({len(group.judged)})" for group in task.groups if len(group.judged) < FEWEST_SEEDS]
    if few:
        yield (
            f"{task.name}: fewer than {FEWEST_SEEDS} seeds of {', '.join(few)} are judged: which label is better "
            "cannot be concluded of these, whatever the curves look like"
        )
    ends = sorted({run.last for run in judged})
    if ends and ends[-1] > task.horizon:
        why = "which --until says" if until is not None else "where most finished runs of every label have come"
        yield (
            f"{task.name}: judged at update {task.horizon:,}, {why}; others go on to {ends[-1]:,}. Where a schedule is "
            "laid out over the whole run, a run cut short is no short run"
        )
    if (spacing := task.spacing) is not None:
        yield f"{task.name}: {spacing}"
    if (values := {group.incomparable for group in task.groups} - {None}) and task.spacing is None:
        yield f"{task.name}: {values.pop()}, and no test is made"
    yield from _area_notes(task)
    yield from _speed_notes(task, report)
    if task.measure == "return" and any(run.reference for run in runs) and _are_mixed(runs):
        yield (
            f"{task.name}: compared by raw returns, since normalised scores would mix references: some runs have "
            "others, or none"
        )
    yield from _difference_notes(task)
    for group in task.groups:
        if len({run.imported for run in group.runs}) == 2:
            yield f"{task.name}: {group.label} has imported runs among others, as if they were of one kind"
    if any(run.imported for run in runs):
        yield f"{task.name}: some runs are imported: how they were evaluated, and against what reference, is not known"


def _are_mixed(runs: Sequence[RunRecord]) -> bool:
    """Return whether scores of these runs are against several references, or not all known."""
    references = {reference_key(run) for run in runs if not run.imported}
    return len(references) > 1 or not all(np.isfinite(run.scores).all() for run in runs)


def _run_notes(task: Task) -> Iterator[str]:
    """Yield what became of runs, whether others are judged or not."""
    for group in task.groups:
        if group.diverged:
            yield (
                f"{task.name}: {group.diverged} of {len(group.runs)} runs of {group.label} diverged; final values, "
                "areas and aggregates are of the others, so no test is of it, and in times to reach a share they "
                "count as never reaching it"
            )
        if group.failed:
            yield (
                f"{task.name}: {group.failed} of {len(group.runs)} runs of {group.label} failed: no evaluation of a "
                "trained policy exists, so they are in no number and no test"
            )
        if group.unmeasured:
            yield (
                f"{task.name}: {group.unmeasured} of {len(group.runs)} runs of {group.label} have no estimated value "
                f"(no {FQE_VALUE} in {OFFLINE}, such as with a policy that acts on its history): they are listed with "
                "their held-out losses, and are in no other number and no test"
            )
        for best in group.best:
            if best.by in BY_RETURNS:
                yield f"{task.name}: {_optimism_note(group, best, task)}"
        for run in group.runs:
            if run.missing:
                count = len(run.missing)
                yield (
                    f"{task.name}: {as_text(run.path)} lacks {count} evaluation{'s' * (count > 1)}, lost or failed, "
                    f"at update {', '.join(f'{update:,}' for update in run.missing[:5])}"
                    f"{f' and {count - 5} more' if count > 5 else ''}: its numbers are of the others"
                )


def _optimism_note(group: RunGroup, best: BestEvaluations, task: Task) -> str:
    of = f"{best.runs} run{'s' * (best.runs > 1)} of {group.label} kept the checkpoint with the best {best.by}"
    high = "choosing by the evaluated returns makes what was chosen look too good"
    by = "by how much is not known, as no evaluation has several episodes"
    if best.valued:
        runs = f"{best.valued} run{'s' * (best.valued > 1)}"
        by = f"here by about {best.optimism:z.{task.digits}f} ({MEASURES[task.measure]}, mean over {runs})"
    return f"{of}: {high}, {by}; what is judged is the final value"


def _area_notes(task: Task) -> Iterator[str]:
    late = [f"{n} of {group.label}" for group in task.groups if (n := int(np.isnan(group.areas).sum()))]
    if task.start is None:
        if late:
            yield f"{task.name}: no run has an evaluation before the update at which it is judged, so none has an area"
        return
    if task.start > 0:
        yield f"{task.name}: areas begin at update {task.start:,}, not at 0: before it some runs have no evaluation"
    if late:
        yield (
            f"{task.name}: {', '.join(late)} have no evaluation by update {task.start:,} and so no area; areas of "
            "these labels are not tested"
        )


def _speed_notes(task: Task, report: Report) -> Iterator[str]:
    """Yield why times to reach a share of the reference are missing."""
    if task.measure != VALUE:
        base = task.group(report.reference)
        if base is None or not len(base.finals):
            yield f"{task.name}: no run of {report.reference} is judged, so no speed is measured against it"
            return
        if (target := base.finals.mean()) <= 0:
            yield (
                f"{task.name}: {report.reference} ends at {target:.1f}, and a share of what is not above 0 means "
                "nothing, so no speed is measured against it"
            )
            return
    if task.seconds_differ is not None:
        yield f"{task.name}: training seconds cannot be compared: {task.seconds_differ}"
    if unknown := [group.label for group in task.groups if not group.timed]:
        yield f"{task.name}: training seconds of {', '.join(unknown)} are not known"


def _difference_notes(task: Task) -> Iterator[str]:
    for difference in task.differences:
        if difference.protocol:
            yield f"{task.name}: not all runs were judged alike: {difference}"
        elif difference.within:
            have = "has" if len(difference.within) == 1 else "have"
            yield f"{task.name}: {', '.join(difference.within)} {have} runs of different settings: {difference}"


def _aggregate_notes(report: Report) -> Iterator[str]:
    if len(report.labels) < 2:
        yield "There is one label, so there is nothing to compare it with"
    tasks = [task for task in report.tasks if task.measure != VALUE]
    if not report.aggregate_tasks:
        if len(tasks) > 1:
            yield (
                "Nothing is aggregated over tasks: that takes tasks on which every label is judged, or labels that are "
                "judged on every task, all in scores against references of one family"
            )
        return
    if len(report.aggregate_tasks) < len(tasks):
        names = ", ".join(report.aggregate_tasks)
        yield f"Aggregates are over {names} alone: on the other tasks not every label is judged"
    labels = [label for label in report.labels if any(task.group(label) is not None for task in tasks)]
    if left := [label for label in labels if label not in report.aggregates]:
        yield f"Aggregates are without {', '.join(left)}, not judged on every task; --filter chooses other labels"


def _coverage_notes(report: Report) -> Iterator[str]:
    if report.coverage:
        told = ", ".join(f"{100 * share:.0f}% with {seeds} seeds" for seeds, share in report.coverage.items())
        yield (
            "Bootstrap bands and intervals describe the seeds at hand and decide nothing: one that says 95% holds the "
            f"true mean in {told} (simulated with normal runs)"
        )
