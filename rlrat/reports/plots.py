"""Draw a report's figures with matplotlib: lines differ without colour, too, and all is legible in print."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, MaxNLocator

from rlrat.reports.learned import as_drawn, file_name, grid_of, learned_figures
from rlrat.reports.read import is_of_success, normalized
from rlrat.reports.report import MEASURES, SUCCESS, VALUE, Curve, Report, Task

FORMATS = ("svg", "pdf", "png")
# Okabe & Ito 2008, without their yellow, which vanishes on white paper.
COLOURS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
_LINES = ("-", "--", "-.", (0, (5, 1, 1, 1, 1, 1)), ":")
_MARKERS = "osD^vP*X"
_STYLE = {
    "font.family": "DejaVu Sans",  # matplotlib's default, which it else looks for in a list for each text
    **{"font.size": 9, "axes.titlesize": 9, "axes.spines.top": False, "axes.spines.right": False},
    **{"axes.grid": True, "grid.alpha": 0.25, "grid.linewidth": 0.6, "legend.frameon": False},
    **{"svg.fonttype": "none", "pdf.fonttype": 42, "savefig.dpi": 200, "svg.hashsalt": "rlrat"},
}
_MOST_PAIRS = 30  # nobody reads more lines of a forest plot
_MOST_BANDS = 8
_AXES = {
    **MEASURES,
    "score": "normalised score",
    **{"updates": "updates", "seconds": "training seconds"},
}


def make_figures(report: Report) -> dict[str, Figure]:
    """Draw all figures of a report, by the name of their files; leave out those that would be empty."""
    with rc_context(_STYLE):
        figures = {}
        if drawn_tasks(report):
            figures["curves_updates"] = learning_curves(report, "updates")
        if any(timed(task) for task in report.tasks):
            figures["curves_seconds"] = learning_curves(report, "seconds")
        if any(task.measure != SUCCESS for task in drawn_tasks(report, SUCCESS)):
            figures["curves_success"] = learning_curves(report, "updates", SUCCESS)
        if report.aggregate_curves:
            figures["aggregate_curve"] = aggregate_curve(report)
        if report.profiles:
            figures["profiles"] = profiles(report)
        if report.improvements:
            figures["improvement"] = improvement(report)
        for name in report.metrics:
            figures[file_name(f"metric_{name}", figures)] = metric_curves(report, name)
        return figures | learned_figures(report)


def write_figures(report: Report, folder: Path) -> list[Path]:
    """Write every figure as SVG, PDF and PNG in `folder`; return the paths."""
    paths = []
    for name, figure in make_figures(report).items():
        with rc_context(_STYLE):
            figure.get_layout_engine().execute(figure)
            figure.set_layout_engine(None)  # or each format would lay it out anew: a third of the time
        for suffix in FORMATS:
            paths.append(folder / f"{name}.{suffix}")
            metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(suffix)  # the same file every time
            with rc_context(_STYLE):
                figure.savefig(paths[-1], metadata=metadata)
    return paths


def drawn_tasks(report: Report, measure: str | None = None) -> list[Task]:
    """Return the tasks that have a curve in a measure, by default their own (of estimated values some have none)."""
    return [task for task in report.tasks if any((measure or task.measure) in group.curves for group in task.groups)]


def timed(task: Task) -> bool:
    """Return whether a task's runs can be drawn against seconds."""
    return task.seconds_differ is None and any(
        np.isfinite(curve.seconds).all()
        for group in task.groups
        if (curve := group.curves.get(task.measure)) is not None
    )


def learning_curves(report: Report, clock: str, measure: str | None = None) -> Figure:
    """Draw a panel for each task: mean over seeds with band against `updates` or `seconds`; dotted, the data's mean.

    Args:
        measure: what is drawn; by default each task's own.
    """
    tasks = [task for task in drawn_tasks(report, measure) if clock == "updates" or timed(task)]
    levels = {task.name: data_level(task) if measure in (None, task.measure) else None for task in tasks}

    def draw(axes: Axes, task: Task) -> None:
        for group in task.groups:
            curve = group.curves.get(measure or task.measure)
            if curve is not None and np.isfinite(getattr(curve, clock)).all():
                _draw_curve(axes, curve, clock, line_style(report, group.label), banded(report))
        level = levels[task.name]
        if level is not None:
            axes.axhline(level, color="0.35", linewidth=1, linestyle=(0, (1, 2)))
        axes.set(xlabel=_AXES[clock], ylabel=_AXES[measure or task.measure])

    known = {task.measure == VALUE for task in tasks if levels[task.name] is not None}
    word = " or ".join(word for word, is_there in (("mean", False in known), ("value", True in known)) if is_there)
    extra = [Line2D([], [], color="0.35", linewidth=1, linestyle=(0, (1, 2)), label=f"{word} of the data")]
    return _panels(report, {task.name: task for task in tasks}, draw, extra if known else [])


def metric_curves(report: Report, name: str) -> Figure:
    """Draw a panel for each task that has the metric: mean over seeds with its band against updates."""

    def draw(axes: Axes, task: Task) -> None:
        for group in task.groups:
            if (curve := group.metrics.get(name)) is not None:
                _draw_curve(axes, curve, "updates", line_style(report, group.label), banded(report))
        axes.set(xlabel=_AXES["updates"], ylabel=as_drawn(name))

    tasks = [task for task in report.tasks if any(name in group.metrics for group in task.groups)]
    return _panels(report, {task.name: task for task in tasks}, draw)


def aggregate_curve(report: Report) -> Figure:
    """Draw the interquartile mean over all runs of the tasks that are aggregated."""

    def draw(axes: Axes, _: None) -> None:
        for label, curve in report.aggregate_curves.items():
            _draw_curve(axes, curve, "updates", line_style(report, label), banded(report))
        axes.set(xlabel="updates", ylabel=_AXES[report.aggregate_measure])

    return _panels(report, {f"IQM over {len(report.aggregate_tasks)} tasks": None}, draw)


def profiles(report: Report) -> Figure:
    """Draw the share of runs that end above each score."""

    def draw(axes: Axes, _: None) -> None:
        for label, profile in report.profiles.items():
            style = line_style(report, label)
            if banded(report):
                axes.fill_between(profile.thresholds, profile.low, profile.high, color=style["color"], alpha=0.15, lw=0)
            axes.plot(profile.thresholds, profile.share, markevery=max(1, len(profile.thresholds) // 8), **style)
        axes.set(
            xlabel=f"final {_AXES[report.aggregate_measure]}, x",
            ylabel="share of runs that end above x",
            ylim=(-0.02, 1.02),
        )

    return _panels(report, {"": None}, draw)


def improvement(report: Report) -> Figure:
    """Draw a line for each pair of labels: the probability that a run of the first ends above one of the second."""
    pairs = list(report.improvements)
    if len(pairs) > _MOST_PAIRS:
        pairs = [pair for pair in pairs if report.reference in (pair.first, pair.second)][:_MOST_PAIRS]
    ends = [(as_drawn(pair.first), as_drawn(pair.second)) for pair in reversed(pairs)]
    broken = max(len(first + second) for first, second in ends) > 34
    names = [f"{first}{chr(10) if broken else ' '}above {second}" for first, second in ends]
    longest = max(len(line) for name in names for line in name.split("\n"))
    size = (min(3.2 + 0.075 * longest, 7.0), 0.9 + (0.36 if broken else 0.27) * len(pairs))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    for place, pair in enumerate(reversed(pairs)):
        value, low, high = pair.probability.value, pair.probability.low, pair.probability.high
        axes.plot([low, high], [place, place], color=COLOURS[1], linewidth=4, alpha=0.35, solid_capstyle="butt")
        axes.plot(value, place, "D", color=COLOURS[1], markersize=5)
    axes.axvline(0.5, color="0.35", linewidth=1, linestyle="--")
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.6, len(pairs) - 0.4), yticks=range(len(pairs)), yticklabels=names)
    counts = {
        len(group.finals) for task in report.tasks if task.name in report.aggregate_tasks for group in task.groups
    }
    seeds = " to ".join(map(str, sorted({min(counts), max(counts)})))
    bar = f" (bar: 95% bootstrap\ninterval of {seeds} seeds, descriptive)" if max(counts) > 1 else ""
    axes.set_xlabel(f"probability{bar}")
    return figure


def data_level(task: Task) -> float | None:
    """Return the dataset's mean episode return, or its own value, in the task's measure; None where it is not known."""
    if task.measure == VALUE:
        return task.data_value
    if task.data_return is None or task.measure == "return":
        return task.data_return
    runs = [run for group in task.groups for run in group.runs if run.reference]
    if not runs or task.measure == SUCCESS or is_of_success(runs[0].reference):
        return None
    return normalized(task.data_return, runs[0].reference)


def line_style(report: Report, label: str) -> dict[str, Any]:
    """Return colour, dashes and marker of a label: the same in all figures, and no two labels share all three."""
    place = report.labels.index(label)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": _LINES[(place + place // len(COLOURS)) % len(_LINES)],
        "marker": _MARKERS[(place + 2 * (place // len(COLOURS))) % len(_MARKERS)],
        "markersize": 4,
        "linewidth": 1.6,
    }


def banded(report: Report) -> bool:
    """Return whether bands still show anything: those of many labels cover one another and every line."""
    return len(report.labels) <= _MOST_BANDS


def _draw_curve(axes: Axes, curve: Curve, clock: str, style: dict[str, Any], band: bool) -> None:
    """Draw a curve; where seeds have ended it goes on as a faint line, as it is the mean of fewer."""
    x = getattr(curve, clock)
    every = max(1, len(x) // 8)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    ticks = 4 if axes.get_gridspec().ncols > 2 else 5  # labels such as 200k and 400k need space
    axes.xaxis.set_major_locator(MaxNLocator(ticks, steps=[1, 2, 5, 10]))
    whole = curve.seeds == curve.seeds.max()
    if band:
        axes.fill_between(x, curve.low, curve.high, color=style["color"], alpha=0.15, linewidth=0)
    axes.plot(x, np.where(whole, curve.mean, np.nan), markevery=every, **style)
    if not whole.all():
        axes.plot(x, curve.mean, **{**style, "marker": "", "linewidth": 0.8, "alpha": 0.5})


def _panels(
    report: Report, items: dict[str, Any], draw: Callable[[Axes, Any], None], extra: list[Line2D] = ()
) -> Figure:
    """Draw a grid of axes, one for each item under its title, above one legend of all labels."""
    rows, columns, wide = grid_of(len(items))
    titles = [as_drawn(title, int((wide - 0.75) / 0.076)) for title in items]  # letters that fit above the axes
    handles = [Line2D([], [], label=as_drawn(label), **line_style(report, label)) for label in report.labels]
    handles += extra
    widest = max(len(handle.get_label()) for handle in handles)
    across = max(1, min(len(handles), int(wide * columns / (0.55 + 0.075 * widest))))
    high = 1.0 + 0.42 * wide + 0.16 * max(title.count("\n") + 1 for title in titles)
    height = high * rows + 0.22 * -(-len(handles) // across) + 0.1
    figure = Figure(figsize=(wide * columns, height), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, title, item in zip(grid, titles, items.values(), strict=False):
        draw(axes, item)
        axes.set_title(title, y=1.0)  # a place of its own would be looked for at each drawing
    for axes in grid[len(items) :]:
        axes.remove()
    figure.legend(handles=handles, loc="outside lower center", ncols=across)
    return figure
