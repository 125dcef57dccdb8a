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
    output: Path | None = None
    """Folder for report.html, tables (Markdown, CSV, LaTeX), figures (SVG, PDF, PNG), and curves.csv for --import; with
    --metric also metric_curves.csv."""


if __name__ == "__main__":  # before SciPy is imported: --help and mistakes are answered at once
    ARGUMENTS = read_command_line(Arguments, __doc__)

from rlrat.errors import InputError, heard_warnings, one_line_errors
from rlrat.reports.build import build_report
from rlrat.reports.importing import import_runs, with_scores, write_table
from rlrat.reports.metrics import with_metrics, write_metrics
from rlrat.reports.read import as_text, filter_runs, read_runs
from rlrat.reports.report import Comparison, Report
from rlrat.reports.tables import as_markdown, make_tables
from rlrat.runs.files import make_output

_MOST_VERDICTS = 24  # more are not read in a terminal
_MOST_WARNINGS = 20
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
    report = replace(report, notes=(*report.notes, *shortened(said)))
    print(summary(report))
    if arguments.output is not None:
        write(report, arguments.output)


def shortened(said: list[str]) -> list[str]:
    """Return the first of the warnings about what was read, as notes."""
    more = [f"{len(said) - _MOST_WARNINGS} more warnings of this kind"] if len(said) > _MOST_WARNINGS else []
    return [as_text(text) for text in said[:_MOST_WARNINGS]] + more


def summary(report: Report) -> str:
    """Return what a terminal shows: tables of final values and speed, what may be concluded, and what to mind."""
    tables = make_tables(report)
    names = [name for name in _SHOWN if name in tables]
    parts = [f"## {as_markdown(tables[name].title)}\n\n{tables[name].markdown()}" for name in names]
    parts += [f"## {title}\n\n{_bullets(lines)}" for title, lines in _conclusions(report).items() if lines]
    return "\n".join(parts).rstrip()


def _conclusions(report: Report) -> dict[str, list[str]]:
    verdicts = list(report.comparisons)
    if len(verdicts) > _MOST_VERDICTS:  # comparisons with a winner come first
        verdicts.sort(key=lambda comparison: comparison.winner is None)
    shown = [f"{comparison.task}: {comparison.verdict}" for comparison in verdicts[:_MOST_VERDICTS]]
    if len(verdicts) > len(shown):
        rest = verdicts[len(shown) :]
        shown.append(f"{len(rest)} more comparisons, {_winners(rest)} of them with a winner: --output has all")
    return {"What may be concluded": shown, "What to mind": list(report.notes)}


def _winners(comparisons: list[Comparison]) -> int:
    return sum(comparison.winner is not None for comparison in comparisons)


def _bullets(lines: list[str]) -> str:
    return "".join(f"- {as_markdown(line, cell=False)}\n" for line in lines)


def write(report: Report, folder: Path) -> None:
    """Write tables, figures and the page in `folder`.

    Raises:
        InputError: a file cannot be written, or packages of the extra `report` are missing.
    """
    try:
        from rlrat.reports.html import write_report
        from rlrat.reports.plots import write_figures
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is not installed, which figures need: pip install -e '.[report]'") from None
    try:
        for name, table in make_tables(report).items():
            for suffix, text in (("md", table.markdown()), ("csv", table.csv()), ("tex", table.latex())):
                (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8")
        (folder / "summary.md").write_text(summary(report) + "\n", encoding="utf-8")
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
