"""Write `report.html`: a comparison as one page that opens anywhere, without a network."""

import base64
import hashlib
import importlib.resources
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import date
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rlrat.errors import InputError
from rlrat.reports.notes import folded
from rlrat.reports.page_data import page_data
from rlrat.reports.pairs import LOST, MEANING, WON, Matrix, count_of_winners, matrices
from rlrat.reports.report import MEASURES, SUCCESS, VALUE, Report
from rlrat.reports.tables import Table, TableCell, make_tables

_SVG_DASHES = {"solid": "", "dash": "9 5", "dashdot": "9 4 2 4", "longdashdot": "12 3 2 3 2 3", "dot": "2 3"}
_VERDICTS = 10  # shown at once, as:
_LINES = 20  # of matrices
_NOTES = 100  # of one kind
_UNSCROLLED = 12  # choices in a fieldset without a scroll bar
_ROWS = 30  # a longer table is folded
_PARTS = ("charts.js", "curves.js", "learned.js", "tables.js")


def write_report(report: Report, path: Path) -> None:
    """Write the page of a comparison; replace one that is there.

    Raises:
        InputError: plotly, whose JavaScript is part of the page, is not installed, or the file cannot be written.
    """
    text = render(report)
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None


def render(report: Report) -> str:
    """Return the page's HTML. Whatever a user named is escaped, and a policy in it forbids every script but its own."""
    data = page_data(report)
    kinds = {task.measure == VALUE for task in report.tasks}
    script = "".join(_part(name) for name in _PARTS)
    plotly = _plotly()
    tables = make_tables(report)
    runs = [run for task in report.tasks for group in task.groups for run in group.runs]
    parts = {
        "policy": _policy(script, plotly),
        "title": escape(" · ".join(report.labels) if len(report.labels) <= 6 else f"{len(report.labels)} labels"),
        "style": _part("style.css"),
        "lead": f"Learning curves of {_count(len(runs), 'run')} on {_count(len(report.tasks), 'task')}",
        "navigation": _navigation(bool(data["learned"])),
        "notes": _notes(report),
        "verdicts": _verdicts(report),
        "toggles": _toggles(report, data["labels"]),
        "many": ' class="many"' if len(report.metrics) > _UNSCROLLED - 2 else "",
        "heights": _heights(report),
        "kinds": " Estimated values and returns are never in one panel: choose above." * (len(kinds) > 1),
        "band": escape(report.explanations.get("band", "an interval of it").split(".")[0]),
        "tables": _tables(tables),
        "learned": _learned_section(data["learned"]),
        "differences": _differences(tables["differences"]),
        "methods": "\n".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in report.explanations.items()),
        "footer": f"Written on {date.today().isoformat()} by rlrat {version('rlrat')}. "
        "The charts are drawn by plotly.js (MIT license), which is part of this file.",
        "data": _json(data),
        "plotly": plotly,
        "script": script,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda name: parts[name[1]], _part("template.html"))


def _toggles(report: Report, labels: Sequence[dict[str, str]]) -> str:
    """Return fieldsets of tick boxes for labels, agents and datasets; hide the last two where there is no choice."""
    runs = [run for task in report.tasks for group in task.groups for run in group.runs]
    title = "Activation" if report.by == ("variant",) else ", ".join(report.by).capitalize()
    sets = [_fieldset(title, "label", [(look["name"], _swatch(look)) for look in labels])]
    for name in ("agent", "dataset"):
        values = sorted({getattr(run, name) for run in runs})
        hidden = " hidden" if len(values) < 2 or name in report.by else ""
        sets.append(_fieldset(name.capitalize(), name, [(value, "") for value in values], hidden))
    return "\n".join(sets)


def _heights(report: Report) -> str:
    """Return a choice for each measure that tasks can have, and each metric; the first is chosen."""
    measures = {task.measure for task in report.tasks}
    names = {"score": "normalised score", "return": "raw return"} if measures != {VALUE} else {}
    if any(SUCCESS in group.curves for task in report.tasks for group in task.groups):
        said = {SUCCESS: MEASURES[SUCCESS]}
        names = said | names if SUCCESS in measures else names | said  # first what was asked for
    names |= {VALUE: MEASURES[VALUE]} if VALUE in measures else {}
    names |= {f"metric:{name}": name for name in report.metrics}
    boxes = [
        f'<label><input type="radio" name="y" value="{escape(name)}"{" checked" * (place == 0)}> '
        f"<span>{escape(text)}</span></label>"
        for place, (name, text) in enumerate(names.items())
    ]
    return "\n".join(boxes)


def _fieldset(title: str, name: str, values: Iterable[tuple[str, str]], hidden: str = "") -> str:
    boxes = [
        f'<label><input type="checkbox" name="{name}" value="{escape(value)}" checked> {mark}'
        f"<span>{escape(value)}</span></label>"
        for value, mark in values
    ]
    many = ' class="many"' if len(boxes) > _UNSCROLLED else ""
    start = f'<fieldset id="{name}s"{many}{hidden}><legend>{escape(title)}</legend>'
    return "\n".join([start, *boxes, "</fieldset>"])


def _swatch(look: dict[str, str]) -> str:
    stroke = f'stroke="{look["colour"] or "currentColor"}" stroke-dasharray="{_SVG_DASHES[look["dash"]]}"'
    line = f'<line x2="32" y1="6" y2="6" stroke-width="3" {stroke}/>'
    return f'<svg class="swatch" viewBox="0 0 32 12" aria-hidden="true">{line}</svg>'


def _navigation(learned: bool) -> str:
    sections = {"verdicts": "Conclusions", "curves": "Curves", "tables": "Tables"}
    sections |= {"learned": "Learned activations"} if learned else {}
    sections |= {"differences": "Differences", "methods": "Methods"}
    return "\n".join(f'<a href="#{name}">{title}</a>' for name, title in sections.items())


def _notes(report: Report) -> str:
    """List the notes; fold away those that say the same of other runs, tasks or labels."""
    if not report.notes:
        return ""
    items = "\n".join(f"<li>{_note(*group)}</li>" for group in folded(report.notes, report))
    return f'<aside class="notes"><h2>Before any number</h2><ul>\n{items}\n</ul></aside>'


def _note(first: str, *rest: str) -> str:
    if not rest:
        return escape(first)
    more = "".join(f"<li>{escape(note)}</li>" for note in rest[:_NOTES])
    left = f"<li>and {len(rest) - _NOTES:,} more</li>" if len(rest) > _NOTES else ""
    return (
        f"<details><summary>{escape(first)} (and {len(rest):,} more like it)</summary><ul>{more}{left}</ul></details>"
    )


def _verdicts(report: Report) -> str:
    """Say how many winners there are, and show who wins in a matrix; list winners first, then by rising p.

    What is more than a reader takes in at once is folded away.
    """
    comparisons = report.comparisons
    if not comparisons:
        return "<p>There is nothing to compare: these runs have one label.</p>"
    tasks = {comparison.task for comparison in comparisons}
    ordered = sorted(comparisons, key=lambda c: (c.winner is None, np.isnan(c.p), np.nan_to_num(c.p)))
    items = [
        ('<li class="won">' if c.winner else "<li>")
        + (f"<b>{escape(c.task)}:</b> " if len(tasks) > 1 else "")
        + f"{escape(c.verdict)}.</li>"
        for c in ordered
    ]
    tables = [_pairs(matrix) for matrix in matrices(report)]
    most = max(1, _LINES // len(report.labels))
    text = f'<p>{count_of_winners(report)}.</p>\n<p class="hint">{escape(MEANING)}</p>\n'
    text += _folded("\n".join(tables[:most]), "\n".join(tables[most:]), len(tables) - most, "more task")
    lists = ['<ul class="verdicts">\n' + "\n".join(part) + "\n</ul>" for part in (items[:_VERDICTS], items[_VERDICTS:])]
    return text + "\n" + _folded(*lists, len(items) - _VERDICTS, "more comparison")


def _folded(first: str, rest: str, count: int, noun: str) -> str:
    return f"{first}\n<details><summary>{_count(count, noun)}</summary>\n{rest}</details>" if count > 0 else first


def _pairs(matrix: Matrix) -> str:
    """Return the matrix of a task: a line and a numbered column for each label."""
    places = range(1, len(matrix.labels) + 1)
    heads = [matrix.task, *map(str, places), "wins", "losses", "not told apart"]
    rows = []
    for place, row in enumerate(matrix.labels, start=1):
        cells = [matrix.cells.get((row, column), "") for column in matrix.labels]
        marks = ["won" if WON in cell else "lost" if LOST in cell else "" for cell in cells]
        shown = "".join(f'<td class="{mark}">{cell}</td>' for mark, cell in zip(marks, cells, strict=True))
        counts = "".join(f"<td>{count}</td>" for count in matrix.counts(row))
        rows.append(f"<tr><th scope='row'>{place} {escape(row)}</th>{shown}{counts}</tr>")
    head = "".join(f"<th scope='col'>{escape(text)}</th>" for text in heads)
    name = f"Pairs of labels, {escape(matrix.task)}"
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table class="pairs">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody></table></div>"
    )


def _tables(tables: dict[str, Table]) -> str:
    """Return all tables but the differences, which have their own section; the verdicts stand above, in full width."""
    shown = {name: table for name, table in tables.items() if name != "differences"}
    shown["comparisons"] = _without(tables["comparisons"], "verdict")
    return "\n".join(_table(table, folded=name == "runs") for name, table in shown.items())


def _without(table: Table, column: str) -> Table:
    place = table.columns.index(column)
    columns, *rows = (row[:place] + row[place + 1 :] for row in (table.columns, *table.rows))
    return replace(table, columns=columns, rows=tuple(rows))


def _differences(table: Table) -> str:
    if not table.rows:
        return "<p>None: within each task all runs have the same settings and versions, but for what is compared.</p>"
    return _table(table)


def _table(table: Table, folded: bool = False) -> str:
    numeric = [any(row[place].value is not None for row in table.rows) for place in range(len(table.columns))]
    heads = [
        f"<th scope='col'{' class=number' if number else ''}>{escape(column)}</th>"
        for column, number in zip(table.columns, numeric, strict=True)
    ]
    rows = ["<tr>" + "".join(map(_cell, row, numeric)) + "</tr>" for row in table.rows]
    text = (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}"><table class="sortable">'
        f"<caption>{escape(table.title)}</caption>\n<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n"
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )
    if folded or len(rows) > _ROWS:
        summary = f"{escape(table.title)} ({_count(len(rows), 'line')})"
        text = f"<details><summary>{summary}</summary>\n{text}</details>"
    return text


def _cell(cell: TableCell, numeric: bool) -> str:
    value = ""
    if cell.value is not None:
        # An empty value is sorted to the end; JavaScript reads "Infinity", not "inf".
        sorted_by = "" if np.isnan(cell.value) else "Infinity" if np.isinf(cell.value) else repr(float(cell.value))
        value = f' data-value="{sorted_by}"'
    classes = " ".join(name for name in ("number" if numeric else "", cell.mark) if name)
    dagger = ' <abbr title="not told apart from the best">†</abbr>' if cell.mark == "tied" else ""
    return f'<td class="{classes}"{value}>{escape(cell.text)}{dagger}</td>'


def _learned_section(learned: Sequence[dict[str, Any]]) -> str:
    if not learned:
        return ""
    options = "".join(f'<option value="{i}">{escape(entry["title"])}</option>' for i, entry in enumerate(learned))
    return f"""<section id="learned">
<h2>Learned activations</h2>
<div class="slider">
<label>Runs <select id="learned-run">{options}</select></label>
<label>Training <input type="range" id="learned-update" min="0" max="0" step="1" value="0"></label>
<output id="learned-output" for="learned-update"></output>
</div>
<p class="hint">A line is the function of one seed (and critic) at that update, dashed is the first; behind them the
inputs that the layer met then, 99.8% of them.</p>
<div class="panels small" id="learned-panels"></div>
</section>
"""


def _policy(*scripts: str) -> str:
    """Return a policy that lets nothing be loaded from anywhere, and no script run but these."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in hashes)
    rules = {"default-src": "'none'", "script-src": allowed, "style-src": "'unsafe-inline'", "img-src": "data: blob:"}
    rules |= {"form-action": "'none'", "base-uri": "'none'"}
    return "; ".join(f"{name} {value}" for name, value in rules.items())


def _plotly() -> str:
    try:
        code = importlib.resources.files("plotly").joinpath("package_data", "plotly.min.js").read_text(encoding="utf-8")
    except (ImportError, OSError):
        raise InputError('report.html needs plotly: pip install "rlrat[report]"') from None
    return _inline(code)


def _part(name: str) -> str:
    return importlib.resources.files("rlrat.reports").joinpath("page", name).read_text(encoding="utf-8")


def _inline(code: str) -> str:
    """Return JavaScript that cannot end its element early."""
    return code.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _json(value: Any) -> str:
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", r"\u003c")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
