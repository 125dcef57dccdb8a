"""Make tables of a report's numbers, and Markdown, CSV and LaTeX (booktabs) of tables."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rlrat.reports.best import BY_RETURNS
from rlrat.reports.cells import guarded
from rlrat.reports.convergence import SHARES, paper_statistic
from rlrat.reports.pairs import Matrix
from rlrat.reports.read import as_text
from rlrat.reports.report import MEASURES, SUCCESS, VALUE, Comparison, Reach, Report, RunGroup, Task
from rlrat.reports.statistics import Estimate
from rlrat.reports.verdicts import best_and_tied
from rlrat.runs.schema import DATA_VALUE, FQE_VALUE, NO_FINAL

_QUANTITIES = {"final": "mean of the last five evaluations", "area": "mean height of the curve"}
_FEWER = "mean of the last five evaluations, or of all that a trained policy has where they are fewer"
_LATEX = str.maketrans(
    {
        **{character: f"\\{character}" for character in "&%$#_{}"},
        **{"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"},
        **{"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "†": r"\dag{}"},
        **{
            character: f"{{{character}}}" for character in "[]*"
        },  # at the start of a line LaTeX may take these for options
        "\N{REPLACEMENT CHARACTER}": "?",  # which LaTeX has no letter for
    }
)


@dataclass(frozen=True)
class TableCell:
    text: str
    value: float | int | None = None
    """What a number's cell is sorted by and exported as, unrounded; NaN where it is unknown."""
    mark: str = ""
    """best, tied (not told apart from the best), or nothing."""
    details: dict[str, float | int] = field(default_factory=dict)
    """The other numbers in `text`, by the name that their columns in CSV end in."""


@dataclass(frozen=True)
class Table:
    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]

    def markdown(self) -> str:
        """Return Markdown with padded columns, so that it reads well as text, too."""
        lines = [[as_markdown(column) for column in self.columns]]
        for row in self.rows:
            lines.append([_mark(cell, as_markdown(cell.text), "**{}**", "{} †") for cell in row])
        widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(self.columns))]
        lines.insert(1, ["-" * width for width in widths])
        padded = ([text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines)
        return "\n".join(f"| {' | '.join(line)} |" for line in padded) + "\n"

    def csv(self) -> str:
        """Return CSV: numbers with all digits, without marks; a cell's other numbers are in columns of their own."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = [list({name: None for row in self.rows for name in row[i].details}) for i in range(len(self.columns))]
        writer.writerow(
            guarded(name)
            for column, details in zip(self.columns, names, strict=True)
            for name in (column, *(f"{column} {detail}" for detail in details))
        )
        for row in self.rows:
            writer.writerow(
                guarded(value)
                for cell, details in zip(row, names, strict=True)
                for value in (
                    cell.text if cell.value is None else cell.value,
                    *(cell.details.get(detail, "") for detail in details),
                )
            )
        return text.getvalue()

    def latex(self) -> str:
        r"""Return a `tabular` for the package booktabs: best in bold, those not told apart from it with a dagger."""
        alignment = "".join(
            "r" if all(row[i].value is not None for row in self.rows) else "l" for i in range(len(self.columns))
        )
        lines = [rf"\begin{{tabular}}{{{alignment}}}", r"\toprule", _latex_line(map(_latex, self.columns)), r"\midrule"]
        for row in self.rows:
            cells = (_mark(cell, _latex(cell.text), r"\textbf{{{}}}", r"{}$^\dagger$") for cell in row)
            lines.append(_latex_line(cells))
        return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def make_tables(report: Report) -> dict[str, Table]:
    """Make all tables of a report, by the name of their files."""
    is_estimated = any(task.measure == VALUE for task in report.tasks)
    return {
        "results": results(report),
        **({"without_environment": without_environment(report)} if is_estimated else {}),
        **({"best": best(report)} if any(group.best for task in report.tasks for group in task.groups) else {}),
        **({"reach": reach(report)} if any(group.reach for task in report.tasks for group in task.groups) else {}),
        **{quantity: overview(report, quantity) for quantity in _QUANTITIES},
        **({"aggregates": aggregates(report)} if report.aggregates else {}),
        **({"metrics": metrics(report)} if report.metrics else {}),
        "comparisons": comparisons(report),
        "differences": differences(report),
        "runs": runs(report),
    }


def results(report: Report) -> Table:
    """Make a line for each label of each task: final value with its bootstrap interval, and area."""
    columns = ("task", "label", "seeds", "measure", "final", "sd", "low", "high", "area", "area sd", "evaluations")
    groups = [(task, group) for task in report.tasks for group in task.groups]
    marks = {quantity: _marks(report, quantity) for quantity in _QUANTITIES}
    rows = tuple(_result(marks, *pair) for pair in groups)
    if not all(np.isnan(group.final_success) for _, group in groups):
        columns = (*columns[:-1], MEASURES[SUCCESS], columns[-1])
        rates = (number(group.final_success, 3) for _, group in groups)
        rows = tuple((*row[:-1], rate, row[-1]) for row, rate in zip(rows, rates, strict=True))
    return Table("Results", columns, rows)


def without_environment(report: Report) -> Table:
    """Make a line for each label of each task without an environment: what its last evaluations found, and the data's.

    The estimates are of the judged runs, all else of every run that has it and neither diverged nor failed.
    """
    tasks = [task for task in report.tasks if task.measure == VALUE]
    runs = [run for task in tasks for group in task.groups for run in group.runs]
    own = (FQE_VALUE, DATA_VALUE)
    names = list(dict.fromkeys(name for run in runs for name in run.offline if name not in own))
    names.sort(key=lambda name: name.startswith("losses/"))  # behind what is no loss
    rows = []
    for task in tasks:
        for group in task.groups:
            found = [run.offline for run in group.runs if run.offline and run.status not in NO_FINAL]
            cells = [TableCell(task.name), TableCell(group.label), TableCell(f"{len(found)}", len(found))]
            cells += [number(_mean_and_spread(group.finals)[0], task.digits), _figure([task.data_value])]
            cells += [_figure([numbers[name] for numbers in found if name in numbers]) for name in names]
            rows.append(tuple(cells))
    columns = ("task", "label", "seeds", "estimated value (final)", "the data's own value", *names)
    return Table("Without an environment: estimates and held-out episodes at the last evaluation", columns, tuple(rows))


def _figure(values: Sequence[float | None]) -> TableCell:
    """Make the cell of a mean of numbers of any size: four digits."""
    known = [value for value in values if value is not None]
    if not known:
        return number(np.nan)
    mean = float(np.mean(known))
    return TableCell(f"{mean:.4g}", mean)


def best(report: Report) -> Table:
    """Make a line for what runs of each label kept as their best, by each choice (`--keep-best`)."""
    rows = []
    for task in report.tasks:
        for group in task.groups:
            for kept in group.best:
                rows.append(
                    (
                        *(TableCell(text) for text in (task.name, group.label, kept.by, MEASURES[task.measure])),
                        TableCell(f"{kept.runs}", kept.runs),
                        *(number(value, task.digits) for value in (kept.value, kept.final, kept.optimism)),
                        TableCell(f"{kept.valued}", kept.valued) if kept.by in BY_RETURNS else number(np.nan),
                    )
                )
    columns = ("task", "label", "chosen by", "measure", "runs", "best", "final", "best is too high by", "of runs")
    return Table("Checkpoints kept as the best", columns, tuple(rows))


def reach(report: Report) -> Table:
    """Make a line for each label of each task: when shares of the reference's final value were reached."""
    shares = [f"{100 * share:.0f}% of {report.reference}" for share in SHARES]
    columns = ("task", "label", *shares, *(f"{share}, seconds" for share in shares))
    rows = []
    for task in report.tasks:
        for group in task.groups:
            found = {reached.share: reached for reached in group.reach}
            times = [
                _time(found.get(share), clock, task.horizon) for clock in ("updates", "seconds") for share in SHARES
            ]
            rows.append((TableCell(task.name), TableCell(group.label), *times))
    return Table(f"Updates and training seconds to stay above a share of {report.reference}'s", columns, tuple(rows))


def _result(marks: dict[str, dict[str, dict[str, str]]], task: Task, group: RunGroup) -> tuple[TableCell, ...]:
    band = group.final_band
    numbers = []
    for quantity in _QUANTITIES:
        values = group.values(quantity)
        mean, deviation = _mean_and_spread(values)
        mark = marks[quantity][task.name].get(group.label, "")
        numbers.append([number(mean, task.digits, mark), number(deviation, task.digits)])
    seeds = f"{len(group.judged)}" + (f" of {len(group.runs)}" if len(group.judged) < len(group.runs) else "")
    return (
        *(
            TableCell(task.name),
            TableCell(group.label),
            TableCell(seeds, len(group.judged), details={"of": len(group.runs)}),
        ),
        TableCell(MEASURES[task.measure]),
        *(*numbers[0], number(band.low, task.digits), number(band.high, task.digits)),
        *(*numbers[1], _evaluations(group.final_counts)),
    )


def _mean_and_spread(values: np.ndarray) -> tuple[float, float]:
    """Return the paper's statistic; the spread of a single seed is NaN, as it cannot be known."""
    mean, deviation = paper_statistic(values) if len(values) else (np.nan, np.nan)
    return mean, deviation if len(values) > 1 else np.nan


def _evaluations(counts: np.ndarray) -> TableCell:
    """Say of how many evaluations final values are: `5`, or `2 to 5` where some runs have fewer than others."""
    if not len(counts):
        return TableCell("-", np.nan)
    least, most = int(counts.min()), int(counts.max())
    return TableCell(f"{least}" if least == most else f"{least} to {most}", least, details={"at most": most})


def _time(reach: Reach | None, clock: str, horizon: int | None) -> TableCell:
    estimate = getattr(reach, clock, None)
    if estimate is None:
        return number(np.nan)
    details = {"low": estimate.low, "high": estimate.high, "reached": reach.reached, "seeds": reach.seeds}
    if not np.isfinite(estimate.value):
        return TableCell(f"not by {horizon:,} ({reach.reached} of {reach.seeds})", np.inf, details=details)
    ends = "" if np.isnan(estimate.low) else f" ({_end(estimate.low)} to {_end(estimate.high)})"
    return TableCell(f"{estimate.value:,.0f}{ends}", estimate.value, details=details)


def _end(value: float) -> str:
    return f"{value:,.0f}" if np.isfinite(value) else "never"


def overview(report: Report, quantity: str) -> Table:
    """Make a line for each task, a column for each label: mean and population standard deviation over seeds.

    Where they are not of all seeds, a cell says of how many.
    """
    rows, marks = [], _marks(report, quantity)
    for task in report.tasks:
        row = [TableCell(task.name)]
        for label in report.labels:
            group = task.group(label)
            values, seeds = ((), 0) if group is None else (group.values(quantity), len(group.runs))
            mean, deviation = _mean_and_spread(values)
            text = number(mean, task.digits).text + (f" ± {deviation:.{task.digits}f}" if len(values) > 1 else "")
            text += f" ({len(values)} of {seeds})" if len(values) < seeds else ""
            details = {"sd": deviation, "judged": len(values), "seeds": seeds}
            row.append(TableCell(text, mean, marks[task.name].get(label, ""), details))
        rows.append(tuple(row))
    few = quantity == "final" and any(group.few_finals for task in report.tasks for group in task.groups)
    title = _FEWER if few else _QUANTITIES[quantity]
    return Table(title[0].upper() + title[1:], ("task", *report.labels), tuple(rows))


def aggregates(report: Report) -> Table:
    """Make a line for each label: aggregates over tasks, without marks, since no test stands behind them."""
    names = list(next(iter(report.aggregates.values())))
    digits = next(task.digits for task in report.tasks if task.name in report.aggregate_tasks)
    rows = [
        (TableCell(label), *(_estimate(values[name], digits) for name in names))
        for label, values in report.aggregates.items()
    ]
    title = f"Aggregates over {len(report.aggregate_tasks)} task{'s' * (len(report.aggregate_tasks) > 1)}"
    return Table(title, ("label", *(name.replace("_", " ").replace("iqm", "IQM") for name in names)), tuple(rows))


def metrics(report: Report) -> Table:
    """Make a line for each metric of each label of each task: its mean at the last point that all seeds have."""
    rows = []
    for task in report.tasks:
        for group in task.groups:
            for name, curve in group.metrics.items():
                last = np.flatnonzero(curve.seeds == curve.seeds.max())[-1]
                ends = (curve.mean[last], curve.low[last], curve.high[last])
                rows.append(
                    (
                        *map(TableCell, (task.name, group.label, name)),
                        *(TableCell(f"{n:,}", int(n)) for n in (curve.seeds[last], curve.updates[last])),
                        *(TableCell("-" if np.isnan(value) else f"{value:.4g}", float(value)) for value in ends),
                    )
                )
    columns = ("task", "label", "metric", "seeds", "update", "mean", "low", "high")
    return Table("Metrics at the last point that all seeds have", columns, tuple(rows))


def comparisons(report: Report) -> Table:
    """Make a line for each comparison that was made or would have been, with its verdict."""
    columns = (
        "task",
        "quantity",
        "first",
        "second",
        "difference",
        "low",
        "high",
        "p",
        "p, corrected",
        "winner",
        "verdict",
    )
    digits = {task.name: task.digits for task in report.tasks}
    rows = [
        (
            *(TableCell(text) for text in (c.task, c.quantity, c.first, c.second)),
            *(number(value, digits[c.task]) for value in (c.difference, c.low, c.high)),
            *(TableCell("-" if np.isnan(p) else f"{p:.2g}", p) for p in (c.p, c.p_corrected)),
            *(TableCell(c.winner or "-"), TableCell(c.verdict)),
        )
        for c in report.comparisons
    ]
    return Table("Comparisons", columns, tuple(rows))


def pairs_table(matrix: Matrix, labels: Sequence[str]) -> Table:
    """Make a line for each of `labels` of a task: its pairs with the others, and how many it wins, loses, or neither.

    Columns are numbered as the lines are, since names need not fit.
    """
    rows = tuple(
        (
            *(TableCell(f"{place} {row}"), *(TableCell(matrix.cells.get((row, column), "")) for column in labels)),
            *(TableCell(f"{count}", count) for count in matrix.counts(row)),
        )
        for place, row in enumerate(labels, start=1)
    )
    numbers = (str(place) for place in range(1, len(labels) + 1))
    return Table(matrix.task, (matrix.task, *numbers, "wins", "losses", "not told apart"), rows)


def differences(report: Report) -> Table:
    """Make a line for each value of each setting that differs within a task."""
    rows = [
        (*map(TableCell, (task.name, found.setting, value, ", ".join(labels), "yes" if found.protocol else "no")),)
        for task in report.tasks
        for found in task.differences
        for value, labels in found.values.items()
    ]
    return Table("Differences", ("task", "setting", "value", "labels", "protocol"), tuple(rows))


def runs(report: Report) -> Table:
    """Make a line for each run."""
    columns = ("task", "label", "seed", "status", "judged", "last update", "final", "evaluations", "area", "path")
    rows = []
    for task in report.tasks:
        for group in task.groups:
            numbers = zip(group.judged, group.finals, group.final_counts, group.areas, strict=True)
            judged = {id(run): found for run, *found in numbers}
            for run in group.runs:
                final, count, area = judged.get(id(run), (np.nan, None, np.nan))
                rows.append(
                    (
                        *(
                            TableCell(task.name),
                            TableCell(group.label),
                            TableCell(str(run.seed), run.seed),
                            TableCell(run.status),
                        ),
                        *(
                            TableCell("yes" if id(run) in judged else "no"),
                            TableCell(f"{run.last:,}", run.last) if len(run.updates) else TableCell("-", np.nan),
                        ),
                        *(
                            number(final, task.digits),
                            TableCell("-", np.nan) if count is None else TableCell(f"{count}", int(count)),
                        ),
                        *(number(area, task.digits), TableCell(as_text(run.path))),
                    )
                )
    return Table("Runs", columns, tuple(rows))


def number(value: float, digits: int = 1, mark: str = "") -> TableCell:
    """Make a number's cell; NaN is a dash."""
    return TableCell("-" if np.isnan(value) else f"{value:,.{digits}f}", float(value), mark)


def _estimate(estimate: Estimate, digits: int) -> TableCell:
    ends = "" if np.isnan(estimate.low) else f" ({estimate.low:.{digits}f} to {estimate.high:.{digits}f})"
    details = {"low": estimate.low, "high": estimate.high}
    return TableCell(f"{estimate.value:.{digits}f}{ends}", estimate.value, details=details)


def _marks(report: Report, quantity: str) -> dict[str, dict[str, str]]:
    """Return the mark of each label of each task that has one."""
    there: dict[str, list[Comparison]] = {task.name: [] for task in report.tasks}
    for one in report.comparisons:
        there[one.task].append(one)
    found = {}
    for task in report.tasks:
        best, tied = best_and_tied(task, quantity, there[task.name])
        found[task.name] = {**dict.fromkeys(tied, "tied"), **({best: "best"} if best is not None else {})}
    return found


def _mark(cell: TableCell, text: str, best: str, tied: str) -> str:
    return best.format(text) if cell.mark == "best" else tied.format(text) if cell.mark == "tied" else text


def as_markdown(text: str, cell: bool = True) -> str:
    """Escape text with names of any kind in it: no cell ends early, and nothing in it becomes HTML or markup.

    An underscore inside a word is no markup. Outside a `cell`, what begins a line might make it a heading or a list.
    """
    text = re.sub(r"([\\|*`~\[\]]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", " ".join(text.split()))
    if not cell:
        text = re.sub(r"^(\d*)([#=+.)-])", r"\1\\\2", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _latex(text: str) -> str:
    return " ".join(text.split()).translate(_LATEX)


def _latex_line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
