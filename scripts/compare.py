"""Compare runs: which activation ends higher or learns faster, and whether that may be believed."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rlrat.runs.arguments import read_command_line


@dataclass
class Arguments:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """Run folders, or folders that hold some at any depth."""
    imports: Annotated[tuple[str, ...], tyro.conf.arg(name="import")] = ()
    """Others' results: a .csv with columns agent, dataset, activation, seed, update, score, or d3rlpy's logs as
    DATASET=FOLDER."""
    by: tuple[str, ...] = ()
    """Settings that make the labels that are compared: agent, activation, norm, ...; by default activation, with the
    run name where runs have several (variant)."""
    filter: tuple[str, ...] = ()
    """name=value: only runs with this setting; several values of one name are alternatives."""
    reference: str | None = None
    """Label whose final value the others' speed is measured against; relu, or else the first."""
    until: int | None = None
    """Judge every run as if it had ended at this update; by default where most finished runs of every label have
    come."""
    measure: Literal["score", "return", "success"] | None = None
    """What runs are compared by; scores where all have them against one reference, else returns. success: how often
    the task was done, where environments say it."""
    metric: tuple[str, ...] = ()
    """Metrics of metrics.csv to draw beside scores: losses/q, or patterns such as 'losses/*'."""
    all: bool = False
    """Print every table whole, the sentence of every comparison and every note; else what fits a screen."""
    output: Path | None = None
    """Folder for report.html, tables (Markdown, CSV, LaTeX), figures (SVG, PDF, PNG), and curves.csv for --import; with
    --metric also metric_curves.csv."""


if __name__ == "__main__":  # before SciPy is imported: --help and mistakes are answered at once
    ARGUMENTS = read_command_line(Arguments, __doc__)

from rlrat.errors import InputError, heard_warnings, one_line_errors
from rlrat.reports.build import build_report
from rlrat.reports.importing import import_runs, with_scores, write_table
from rlrat.reports.metrics import with_metrics, write_metrics
from rlrat.reports.notes import folded
from rlrat.reports.pairs import MEANING, count_of_winners, matrices, winners
from rlrat.reports.read import as_text, filter_runs, read_runs
from rlrat.reports.report import Report
from rlrat.reports.tables import Table, as_markdown, make_tables, pairs_table
from rlrat.runs.files import make_output

_MOST_SENTENCES = 8  # more are not read in a terminal, likewise:
_MOST_ROWS = 12
_MOST_NOTES = 8
_MOST_LINES = 20  # of all matrices together
_MOST_LABELS = 16  # of a matrix
_SHOWN = ("results", "without_environment", "best", "reach", "aggregates", "metrics")  # of the tables, in a terminal


def main(arguments: Arguments) -> None:
    if not arguments.runs and not arguments.imports:
        raise InputError("no run is given: give run folders, folders that hold some, or --import")
    if arguments.until is not None and arguments.until < 1:
        raise InputError(f"--until is {arguments.until}, but must be at least 1")
    if arguments.output is not None:
        make_output(arguments.output, "report.html, tables and figures")
    with heard_warnings() as said:
        records = read_runs(arguments.runs) if arguments.runs else []
        records += with_scores(import_runs(arguments.imports), records)
        records = with_metrics(filter_runs(records, arguments.filter), arguments.metric)
    report = build_report(records, arguments.by, arguments.reference, arguments.until, arguments.measure)
    report = replace(report, notes=(*report.notes, *map(as_text, said)))
    tables = make_tables(report)
    text = summary(report, tables, arguments.all)
    print(text)
    if arguments.output is not None:
        write(report, tables, text, arguments.output)


def summary(report: Report, tables: dict[str, Table], whole: bool = False) -> str:
    """Return what a terminal shows: tables of final values and speed, what may be concluded, and what to mind.

    It fits a screen, however many labels there are; `whole` has everything.
    """
    there = [tables[name] for name in _SHOWN if name in tables]
    long = [] if whole else [table for table in there if len(table.rows) > _MOST_ROWS]
    parts = [f"## {as_markdown(table.title)}\n\n{table.markdown()}" for table in there if table not in long]
    if long:
        titles = ", ".join(f"{as_markdown(table.title)} ({len(table.rows):,} lines)" for table in long)
        parts.append(f"Not shown: {titles}; --all prints all, --output writes them.\n")
    if report.comparisons:
        parts.append(f"## What may be concluded\n\n{_conclusions(report, whole)}")
    if report.notes:
        parts.append(f"## What to mind\n\n{_bullets(_notes(report, whole))}")
    return "\n".join(parts).rstrip()


def _conclusions(report: Report, whole: bool) -> str:
    won = winners(report)
    shown = list(report.comparisons) if whole else won[:_MOST_SENTENCES]
    lines = [f"{one.task}: {one.verdict}" for one in shown]
    if len(won) > len(shown):
        lines.append(f"{len(won) - len(shown):,} more with a winner, of larger p: --all prints all")
    text = f"{count_of_winners(report)}{'' if whole else '; --all prints the sentence of each'}.\n"
    return "\n".join(filter(None, (text, _bullets(lines), *_matrices(report, whole))))


def _matrices(report: Report, whole: bool) -> list[str]:
    """Return a table of pairs for each task, those with most labels told apart first, as many as fit."""
    found, left_out, lines = [], [], 0
    for matrix in sorted(matrices(report), key=lambda matrix: -len(matrix.told_apart)):
        labels = matrix.labels if whole or len(matrix.labels) <= _MOST_LABELS else matrix.told_apart[:_MOST_LABELS]
        if not labels or (lines + len(labels) > _MOST_LINES and lines and not whole):
            left_out.append(matrix)
            continue
        lines += len(labels)
        found.append(pairs_table(matrix, labels).markdown())
        if rest := len(matrix.labels) - len(labels):
            found[-1] += f"\n{rest} more label{'s' * (rest > 1)} of {as_markdown(matrix.task)}: --all prints all\n"
    if left_out:
        apart = sum(bool(matrix.told_apart) for matrix in left_out)
        found.append(f"{len(left_out)} more task{'s' * (len(left_out) > 1)}, {apart} with a winner: --all prints all\n")
    return [MEANING + "\n", *found] if found else []


def _notes(report: Report, whole: bool) -> list[str]:
    """Return the notes; those that say the same of several runs, tasks or labels as one line."""
    if whole:
        return list(report.notes)
    groups = folded(report.notes, report)
    shown = [f"{first} ({len(rest)} more like it)" if rest else first for first, *rest in groups[:_MOST_NOTES]]
    more = len(groups) - len(shown)
    return [*shown, *([f"{more} more of other kinds: --all prints all"] if more else [])]


def _bullets(lines: list[str]) -> str:
    return "".join(f"- {as_markdown(line, cell=False)}\n" for line in lines)


def write(report: Report, tables: dict[str, Table], text: str, folder: Path) -> None:
    """Write tables, what was printed, figures and the page in `folder`.

    Raises:
        InputError: a file cannot be written, or packages of the extra `report` are missing.
    """
    try:
        from rlrat.reports.html import write_report
        from rlrat.reports.plots import write_figures
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed, which figures need: pip install -e '.[report]'") from None
    try:
        for name, table in tables.items():
            for suffix, whole in (("md", table.markdown()), ("csv", table.csv()), ("tex", table.latex())):
                (folder / f"{name}.{suffix}").write_text(whole, encoding="utf-8")
        (folder / "summary.md").write_text(text + "\n", encoding="utf-8")
        scored = [task for task in report.tasks if task.measure == "score"]  # against one reference each
        runs = [run for task in scored for group in task.groups for run in group.runs]
        write_table(runs, folder / "curves.csv")
        if report.metrics:
            runs = [run for task in report.tasks for group in task.groups for run in group.runs]
            write_metrics(runs, report.metrics, folder / "metric_curves.csv")
        write_figures(report, folder)
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}") from None
    write_report(report, folder / "report.html")
    print(f"\n{folder / 'report.html'} shows it in a browser; tables and figures are beside it", file=sys.stderr)


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
