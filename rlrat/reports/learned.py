"""Read and draw the activation functions that a run learned over training, and their inputs: `activations.csv`."""

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rlrat.errors import reason, warn
from rlrat.json_files import EXACT_INTEGERS
from rlrat.reports.files import open_text
from rlrat.reports.read import RunRecord
from rlrat.reports.report import Report, RunGroup, Task, named_seeds
from rlrat.runs.schema import ACTIVATIONS, COLUMNS, CUSTOM, PRELU, RATIONAL_VERSIONS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHOWN = 5  # functions of a picture, from the first evaluation to the last
_MOST_FIGURES = 8  # of one report: each takes a second or two in three formats
_LONGEST_NAME = 50
_LONGEST_FILE_NAME = 100


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer at T evaluations, for S seeds, P parts (two critics) and G groups of features."""

    name: str
    version: str
    """A rational's form of the denominator, as in `rlrat.rational.reference`, `prelu`, or `custom:<class>`."""
    updates: np.ndarray
    """`[T]`, ascending."""
    numerator: np.ndarray
    """`[T, S, P, G, m + 1]`, for prelu its slope alone, for a user's class its first parameters."""
    denominator: np.ndarray
    """`[T, S, P, G, n]`, for version C n + 1, for prelu none; a user's values at equal steps from `low` to `high`."""
    low: np.ndarray
    """`[T, S, P, G]`, where the histogram begins."""
    high: np.ndarray
    """`[T, S, P, G]`, where it ends."""
    counts: np.ndarray
    """`[T, S, P, G, bins]`: inputs in equal bins between `low` and `high`."""

    def at(self, times: np.ndarray | slice) -> "Layer":
        """Return the layer at some of its evaluations, given by their places in `updates`."""
        arrays = ("updates", "numerator", "denominator", "low", "high", "counts")
        return replace(self, **{name: getattr(self, name)[times] for name in arrays})

    def values(self, x: np.ndarray) -> np.ndarray:
        """Return the layer's outputs at the points x, `[T, S, P, G, len(x)]`, in float64.

        A user's are interpolated, and are NaN where it was not recorded.
        """
        if self.version == PRELU:
            return np.where(x > 0, x, self.numerator * x)
        if self.version.startswith(CUSTOM):
            found = np.empty((*self.low.shape, len(x)))
            for at in np.ndindex(self.low.shape):
                steps = np.linspace(self.low[at], self.high[at], self.denominator.shape[-1])
                found[at] = np.interp(x, steps, self.denominator[at], left=np.nan, right=np.nan)
            return found
        # As `rlrat.rational.reference` defines them; its operator would need torch, whose import takes two seconds.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if self.version == "A":
                return _polynomial(self.numerator, x) / (
                    1 + np.abs(x) * _polynomial(np.abs(self.denominator), np.abs(x))
                )
            inner = _polynomial(self.denominator, x) * (1 if self.version == "C" else x)
            below = 1 + inner if self.version == "N" else np.abs(inner) + (0.1 if self.version == "C" else 1)
            return _polynomial(self.numerator, x) / below

    def range(self) -> tuple[float, float]:
        """Return the lowest and the highest input of all its histograms; (-1, 1) where there is none."""
        seen = self.counts.any(axis=-1)
        return (float(self.low[seen].min()), float(self.high[seen].max())) if seen.any() else (-1.0, 1.0)

    def histogram(self, edges: np.ndarray) -> np.ndarray:
        """Return the share of all inputs between `edges`, `[T, len(edges) - 1]`; a bin that is cut counts in parts."""
        bins = self.counts.shape[-1]
        shares = np.zeros((len(self.updates), len(edges) - 1))
        for time, *rest in np.argwhere(self.counts.any(axis=-1)):
            at = (time, *rest)
            own = np.linspace(self.low[at], self.high[at], bins + 1)
            below = np.append(0.0, np.cumsum(self.counts[at])) / self.counts[at].sum()
            shares[time] += np.diff(np.interp(edges, own, below))
        seen = self.counts.any(axis=-1).reshape(len(self.updates), -1).sum(axis=1)
        return shares / np.maximum(seen, 1)[:, None]


def _polynomial(coefficients: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return sums of coefficients `[..., k]` times powers of x, from the zeroth, `[..., len(x)]`."""
    return np.polynomial.polynomial.polyval(x, np.moveaxis(coefficients, -1, 0))


def read_learned(folder: Path, updates: Collection[int] | None = None) -> dict[str, Layer]:
    """Read a run folder's trained activations by layer, at `updates` or all; none where it has no `activations.csv`.

    A warning names lines that are cut short or damaged; their evaluations are left out. A user's layers without values
    are left out, too, with one warning for a file.
    """
    path = folder / ACTIVATIONS
    if not os.path.lexists(path):
        return {}
    try:
        with open_text(path) as file:
            whole = file.read().rpartition("\n")[0].splitlines()
    except OSError as error:
        warn(f"{path} cannot be read ({reason(error.strerror)}): its learned activations are left out")
        return {}
    if not whole or whole[0].split(",") != [*COLUMNS[ACTIVATIONS]]:
        warn(f"{path} has no header that can be read: its learned activations are left out")
        return {}
    found: dict[str, dict[int, dict[tuple[int, int], tuple]]] = {}
    damaged, unknown = [], {}
    wanted = None if updates is None else {str(update) for update in updates}
    for number, line in enumerate(whole[1:], start=2):
        if wanted is not None and line.partition(",")[0] not in wanted:
            continue
        try:
            update, name, part, group, version, *numbers = line.split(",")
            numerator, denominator, low, high, counts = (np.array(text.split(), dtype=np.float64) for text in numbers)
            known = version in (*RATIONAL_VERSIONS, PRELU) or re.fullmatch(rf"{CUSTOM}\w+", version)
            if not known or not np.isfinite(np.concatenate([low, high, counts])).all():
                raise ValueError
            if not 0 <= int(update) < EXACT_INTEGERS:
                raise ValueError
            if version == PRELU and (len(numerator), len(denominator)) != (1, 0):
                raise ValueError
            if version.startswith(CUSTOM) and len(denominator) < 2:
                unknown[name] = version.removeprefix(CUSTOM)
                continue
            entry = (version, numerator, denominator, low[0], high[0], counts)
            found.setdefault(name, {}).setdefault(int(update), {})[int(part), int(group)] = entry
        except (ValueError, IndexError):
            damaged.append(number)
    if damaged:
        where = ", ".join(map(str, damaged[:5])) + (", ..." if len(damaged) > 5 else "")
        warn(f"{path} has {len(damaged)} damaged line{'s' * (len(damaged) > 1)} ({where}): their updates are left out")
    if unknown:
        kinds = ", ".join(dict.fromkeys(unknown.values()))
        warn(f"{path}: what {', '.join(list(unknown)[:5])} computes ({kinds}) was not recorded, and is not drawn")
    layers = (_layer(name, by_update) for name, by_update in found.items())
    return {layer.name: layer for layer in layers if layer is not None}


def _layer(name: str, found: dict[int, dict[tuple[int, int], tuple]]) -> Layer | None:
    """Build a layer from its evaluations with as many lines and numbers as most have, and with finite coefficients."""

    def shape(entries: dict[tuple[int, int], tuple]) -> tuple:
        return tuple((at, entry[0], *(len(entry[i]) for i in (1, 2, 5))) for at, entry in sorted(entries.items()))

    shapes = [shape(entries) for entries in found.values()]
    usual = max(shapes, key=shapes.count)
    parts, groups = (max(at[axis] for at, *_ in usual) + 1 for axis in (0, 1))
    times = {
        update: [entry for _, entry in sorted(entries.items())]
        for update, entries in sorted(found.items())
        if shape(entries) == usual and all(np.isfinite(c).all() for e in entries.values() for c in e[1:3])
    }
    if not times or len(usual) != parts * groups or len({version for _, version, *_ in usual}) > 1:
        return None
    arrays = [
        np.array([[entry[i] for entry in entries] for entries in times.values()]).reshape(
            len(times), 1, parts, groups, *((-1,) if i in (1, 2, 5) else ())
        )
        for i in range(1, 6)
    ]
    return Layer(name, usual[0][1], np.array(list(times)), *arrays)


def join_seeds(seeds: Sequence[dict[str, Layer]]) -> dict[str, Layer]:
    """Join the layers of several runs into one each with a seed axis, at the updates that all have.

    Runs whose layer has another form than the first run's are left out, as they do not fit beside it.
    """
    joined = {}
    for name in {name: None for layers in seeds for name in layers}:
        first, *others = (layers[name] for layers in seeds if name in layers)
        alike = [first, *(o for o in others if (o.version, _form(o)) == (first.version, _form(first)))]
        updates = [set(layer.updates.tolist()) for layer in alike]
        common = np.array(sorted(set.intersection(*updates)), dtype=np.int64)
        alike = [layer.at(np.isin(layer.updates, common)) for layer in alike]
        joined[name] = replace(
            alike[0],
            **{
                field: np.concatenate([getattr(layer, field) for layer in alike], axis=1)
                for field in ("numerator", "denominator", "low", "high", "counts")
            },
        )
    return {name: layer for name, layer in joined.items() if len(layer.updates)}


def _form(layer: Layer) -> tuple:
    return tuple(getattr(layer, name).shape[2:] for name in ("numerator", "denominator", "counts"))


def learned_groups(report: Report, seeds: int) -> Iterator[tuple[Task, RunGroup, list[RunRecord]]]:
    """Yield the groups that have learned activations, with at most `seeds` of their runs that have them.

    Judged runs are taken where any has them: a run that has barely begun would leave few updates in common.
    """
    for task in report.tasks:
        for group in task.groups:
            for candidates in (group.judged, group.runs):
                if runs := [run for run in candidates if (run.path / ACTIVATIONS).exists()]:
                    yield task, group, runs[:seeds]
                    break


def seeds_shown(group: RunGroup, seeds: Sequence[int]) -> str:
    """Say which of a group's runs a picture shows: `seeds 0, 2 of 3 runs`; nothing where it shows all."""
    return "" if len(seeds) == len(group.runs) else f"{named_seeds(tuple(seeds))} of {len(group.runs)} runs"


def learned_figures(report: Report) -> dict[str, "Figure"]:
    """Draw `plot_learned` for the first eight groups that have learned activations, by the name of their files."""
    figures = {}
    for task, group, runs in islice(learned_groups(report, seeds=5), _MOST_FIGURES):
        layers = join_seeds([read_learned(run.path) for run in runs])
        if layers:
            figure = plot_learned(layers)
            shown = seeds_shown(group, [run.seed for run in runs])
            title = [as_drawn(group.label), as_drawn(task.name), *([shown] if shown else [])]
            fits = len(", ".join(title)) < 11 * figure.get_figwidth()
            figure.suptitle((", " if fits else ",\n").join(title), fontsize=10)
            figures[file_name(f"learned_{group.label}_{task.name}", figures)] = figure
    return figures


def as_drawn(name: str, width: int = _LONGEST_NAME) -> str:
    """Return a name that matplotlib draws letter for letter, in lines of `width` letters.

    No part of it becomes mathematics, and no legend leaves it out. A name that is too long is cut in its middle.
    """
    name = " ".join(name.split())
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME - 20]}…{name[-19:]}"
    lines = [""]
    for piece in re.findall(rf"[^ /_+-]{{1,{width - 1}}}[ /_+-]?|[ /_+-]", name):  # a line may end after any of these
        if len(lines[-1] + piece.rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    name = "\n".join(line.strip() for line in lines).replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def grid_of(panels: int) -> tuple[int, int, float]:
    """Return rows, columns and the width of a panel in inches: all fit a page, so that print is legible."""
    columns = 2 if panels == 4 else min(panels, 3)
    return -(-panels // columns), columns, min(4.8, 7.0 / columns)


def file_name(name: str, taken: Collection[str]) -> str:
    """Return a figure's file name; a hash ends it if it was cut, or if the plain name is taken."""
    short = re.sub(r"[^\w.,=+-]+", "-", name, flags=re.ASCII)
    if len(short) > _LONGEST_FILE_NAME or short.lower() in map(str.lower, taken):
        short = f"{short[: _LONGEST_FILE_NAME - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return short


def plot_learned(layers: dict[str, Layer]) -> "Figure":
    """Draw a panel for each layer: its function at five evaluations, dark to light, over a histogram of its inputs.

    The functions are the medians over seeds, critics and groups; at the last evaluation a band holds all of them. The
    first evaluation is dashed. The histogram is of the last evaluation.

    Args:
        layers: at least one.

    Raises:
        RuntimeError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise RuntimeError("a plot needs matplotlib: pip install matplotlib") from None

    rows, columns, wide = grid_of(len(layers))
    titles = [as_drawn(name, int((wide - 0.75) / 0.076)) for name in layers]
    high = 0.8 + 0.42 * wide + 0.16 * max(title.count("\n") + 1 for title in titles)
    figure = Figure(figsize=(wide * columns, high * rows + 0.9), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for ax, title, layer in zip(axes, titles, layers.values(), strict=False):
        _plot_layer(ax, layer)
        ax.set_title(title, fontsize=9)
    for ax in list(axes)[len(layers) :]:
        ax.remove()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def _plot_layer(ax: "Axes", layer: Layer) -> None:
    from matplotlib import colormaps

    shown = layer.at(np.unique(np.linspace(0, len(layer.updates) - 1, _SHOWN).round().astype(int)))
    low, high = shown.range()
    x = np.linspace(low, high, 301)
    values = np.ma.masked_invalid(shown.values(x).reshape(len(shown.updates), -1, len(x)))
    colours = colormaps["viridis"](np.linspace(0.0, 0.85, len(values)))
    if values.shape[1] > 1:
        last = values[-1]
        ax.fill_between(x, last.min(0), last.max(0), color=colours[-1], alpha=0.25, linewidth=0)
    for index, (update, lines, colour) in enumerate(zip(shown.updates, values, colours, strict=True)):
        style = {"linestyle": "--", "color": "black"} if index == 0 else {"color": colour}
        width = 2.2 if index == len(values) - 1 else 1.2
        ax.plot(x, np.ma.median(lines, axis=0), linewidth=width, label=f"update {update:,}", **style)
    edges = np.linspace(low, high, 61)
    heights = shown.histogram(edges)[-1]
    heights = 0.25 * heights / max(heights.max(), 1e-12)
    ax.stairs(heights, edges, fill=True, color="0.85", transform=ax.get_xaxis_transform(), zorder=0, label="inputs")
    ax.set(xlabel="x", ylabel="f(x)", xlim=(low, high))
    ax.grid(alpha=0.25)
    ax.tick_params(labelsize=9)
