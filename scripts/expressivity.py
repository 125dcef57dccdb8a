"""Measure error against parameters: rationals that imitate activations, and what imitates a rational; and draw it.

The constructions of the paper's proofs (arXiv 2602.12390) beside the best polynomials, splines and ReLU networks, and a
pole near the axis imitated by ReLU and smooth networks, built and trained. It takes some minutes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from rlrat.runs.arguments import Range, check_ranges, read_command_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass
class Arguments:
    targets: tuple[str, ...] = ("relu", "tanh", "gelu", "softplus")
    """Activations that rationals imitate: relu abs tanh gelu silu softplus mish."""
    distance: Annotated[float, Range(0.001, 1.0)] = 0.1
    """How far the poles are from the axis that the others imitate."""
    seeds: Annotated[int, Range(0, 20)] = 3
    """Trained networks of each size; 0 trains none, which saves most of the time."""
    digits: Annotated[int, Range(1, 250)] = 128
    """Constructions grow until their error is below 10^-digits."""
    output: Path | None = None
    """Folder for expressivity.md, .csv, .png and .svg."""


if __name__ == "__main__":  # before torch is imported: --help and mistakes are answered at once
    ARGUMENTS = read_command_line(Arguments, __doc__)

import csv
import math
from importlib.util import find_spec

import numpy as np

from rlrat.approximation import comparison as of
from rlrat.approximation.comparison import Measured
from rlrat.approximation.converse import pole_pair, relu_barrier
from rlrat.approximation.polynomials import bernstein_rho
from rlrat.errors import InputError, one_line_errors
from rlrat.runs.files import make_output

ERRORS = (1e-2, 1e-4, 1e-8, 1e-16, 1e-32, 1e-64, 1e-128)  # twice the digits, again and again
DISTANCES = (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
APPROACH = 1e-3  # the error while a pole moves to the axis
_LOWEST = 1e-32  # of the picture
_PRECISION = {"float32": 2.0**-23, "float64": 2.0**-52}
# Okabe & Ito 2008; rationals black, polynomials and splines warm, ReLU blue, smooth ones green.
_STYLES: dict[str, dict[str, Any]] = {
    of.RATIONAL: {"color": "#000000", "marker": "o", "linewidth": 2.2, "zorder": 4},
    of.FIT: {"color": "#000000", "marker": "o", "markerfacecolor": "white", "linestyle": "-", "zorder": 4},
    of.POLYNOMIAL: {"color": "#D55E00", "marker": "s"},
    of.SPLINE: {"color": "#CC79A7", "marker": "^"},
    of.SHALLOW: {"color": "#56B4E9", "marker": "v"},
    of.DEEP: {"color": "#0072B2", "marker": ""},
    of.EXACT: {"color": "#009E73", "marker": "P"},
    of.ROUNDED: {"color": "#009E73", "marker": "", "linestyle": ":"},
    of.TRAINED["relu"]: {"color": "#0072B2", "marker": "x", "linestyle": ""},
    of.TRAINED["tanh"]: {"color": "#009E73", "marker": "d", "linestyle": ""},
    of.TRAINED["softplus"]: {"color": "#009E73", "marker": "1", "linestyle": ""},
    of.TRAINED["gelu"]: {"color": "#009E73", "marker": "+", "linestyle": ""},
}
_BARRIER = "the pace that the nearest pole sets polynomials"
_PIECES = "proved: no ReLU network is below"


@dataclass(frozen=True)
class Panel:
    """Hold what was measured of one target, and the barriers: `rho` of polynomials, `pieces` of ReLU networks."""

    title: str
    found: list[Measured]
    rho: float | None = None
    pieces: float | None = None

    def barrier(self, error: float) -> float | None:
        """Return how many parameters polynomials need at least, as rho^-n goes through the last that was measured."""
        last = [one for one in self.found if one.method == of.POLYNOMIAL and one.error > 1e-12]
        if self.rho is None or not last:
            return None
        return last[-1].parameters + math.log(last[-1].error / error) / math.log(self.rho)


def measure(arguments: Arguments) -> Iterator[Panel]:
    for target in arguments.targets:
        low, high = of.construction(target, 1).domain
        found = of.measure_activation(target, arguments.digits)
        yield Panel(f"rationals imitate {target} on ({low:g}, {high:g})", found, of.rho(target, (low, high)))
    function, _, rho, (low, high) = of.rational_activation()
    title = f"fixed activations imitate a rational (5, 4) on ({low:g}, {high:g})"
    yield Panel(title, of.measure_rational(arguments.seeds), rho, relu_barrier(function))
    found = of.measure_pole(arguments.distance, arguments.seeds, arguments.digits)
    rho, pieces = bernstein_rho(1j * arguments.distance), relu_barrier(pole_pair(arguments.distance))
    yield Panel(f"fixed activations imitate poles at ±{arguments.distance:g}i on (-1, 1)", found, rho, pieces)


def needed(found: list[Measured], method: str, error: float) -> int | None:
    """Return the fewest parameters with which a method came within an error."""
    return min((one.parameters for one in found if one.method == method and one.error <= error), default=None)


def table(panel: Panel) -> str:
    """Write Markdown: the parameters that errors take, by method."""
    lines = [f"## {panel.title}\n", *_head("parameters for an error of", [f"{error:.0e}" for error in ERRORS])]
    for method in _methods(panel.found):
        lines.append(_row(method, [needed(panel.found, method, error) for error in ERRORS]))
    if panel.rho is not None:
        counts = [math.ceil(panel.barrier(error) - 1e-9) for error in ERRORS]
        lines.append(_row(f"polynomials by rho = {panel.rho:.4g}", counts))
    return "\n".join(lines) + "\n"


def approach_table(found: list[Measured]) -> str:
    """Write Markdown: the parameters that one error takes as a pole pair moves to the axis."""
    targets = list(dict.fromkeys(one.target for one in found))
    lines = [f"## Parameters for an error of {APPROACH:g} as poles move to the axis\n", *_head("method", targets)]
    for method in _methods(found):
        counts = [needed([one for one in found if one.target == target], method, APPROACH) for target in targets]
        lines.append(_row(method, counts))
    return "\n".join(lines) + "\n"


def _methods(found: list[Measured]) -> list[str]:
    """Return the methods of what was measured, in the order of the legend."""
    there = {one.method for one in found}
    return [method for method in _STYLES if method in there]


def _head(first: str, columns: list[str]) -> list[str]:
    return [_row(first, columns), _row("---", ["---"] * len(columns))]


def _row(first: str, cells: Sequence[str | int | None]) -> str:
    return f"| {first} | {' | '.join(str(cell or '-') for cell in cells)} |"


def draw(panels: list[Panel]) -> "Figure":
    """Draw error against parameters, a panel for each target, with the barriers."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    rows = -(-len(panels) // 2)
    figure = Figure(figsize=(7, 2.8 * rows + 1.7), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False, sharex=True, sharey=True).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _draw_panel(axes, panel)
    for axes in grid[len(panels) :]:
        axes.remove()
    methods = _methods([one for panel in panels for one in panel.found])
    handles = [Line2D([], [], label=method, markersize=5, **_STYLES[method]) for method in methods]
    handles.append(Line2D([], [], label=_BARRIER, color="#D55E00", linestyle="--", linewidth=1))
    handles.append(Line2D([], [], label=_PIECES, color="#0072B2", linestyle="--", linewidth=1))
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw_panel(axes: "Axes", panel: Panel) -> None:
    for method, style in _STYLES.items():
        best: dict[int, float] = {}  # of the seeds
        for one in panel.found:
            if one.method == method and one.error > 0:
                best[one.parameters] = min(one.error, best.get(one.parameters, math.inf))
        x, y = list(best), list(best.values())
        axes.plot(x, y, **{"markersize": 4, "linewidth": 1.4, **style})
    exact = [one for one in panel.found if one.error == 0]
    for one in exact:
        axes.axvline(one.parameters, color=_STYLES[one.method]["color"], linewidth=1.4, linestyle=(0, (4, 2)))
        word = one.method.partition(",")[0]
        box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1}
        axes.text(one.parameters * 1.15, 3e-31, f"{word}: exact with {one.parameters}", fontsize=8, bbox=box, zorder=5)
    if (last := panel.barrier(_LOWEST)) is not None:
        first = panel.barrier(1.0)
        x = np.geomspace(max(first, 1.5), last, 60)
        axes.plot(x, panel.rho ** -(x - first), color="#D55E00", linestyle="--", linewidth=1)
    if panel.pieces is not None:
        x = np.linspace(2, 60, 30)
        axes.plot(x, panel.pieces * 4.0 ** (1 - x), color="#0072B2", linestyle="--", linewidth=1)
    for name, size in _PRECISION.items():
        axes.axhline(size, color="0.6", linewidth=0.7, zorder=0)
        axes.text(2900, size, name, fontsize=7, color="0.4", ha="right", va="bottom")
    axes.set(xscale="log", yscale="log", xlim=(1.5, 3000), ylim=(_LOWEST, 5), yticks=10.0 ** np.arange(-32, 1, 8))
    axes.set_title(panel.title.replace(" imitate ", " imitate\n"), fontsize=10)
    axes.set(xlabel="parameters", ylabel="largest error")
    axes.grid(alpha=0.25)
    axes.label_outer()


def main(arguments: Arguments) -> None:
    check_ranges(arguments)
    for target in arguments.targets:
        if target not in of.TARGETS:
            raise InputError(f"--targets has {target}, but must be among {', '.join(of.TARGETS)}")
    if arguments.output is not None:
        if find_spec("matplotlib") is None:
            raise InputError("matplotlib is not installed, which --output needs: pip install 'rlrat[report]'")
        make_output(arguments.output, "tables and pictures")
    panels = []
    for panel in measure(arguments):
        panels.append(panel)
        print(table(panel), flush=True)
    approach = of.measure_approach(DISTANCES, APPROACH)
    print(approach_table(approach))
    if arguments.output is not None:
        write(panels, approach, arguments.output)


def write(panels: list[Panel], approach: list[Measured], folder: Path) -> None:
    """Write expressivity.md, .csv, .png and .svg."""
    figure = draw(panels)
    try:
        tables = [*map(table, panels), approach_table(approach)]
        (folder / "expressivity.md").write_text("\n".join(tables), encoding="utf-8")
        with (folder / "expressivity.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("target", "method", "parameters", "error", "detail"))
            for one in [one for panel in panels for one in panel.found] + approach:
                writer.writerow((one.target, one.method, one.parameters, f"{one.error:.6e}", one.detail))
        for suffix in ("png", "svg"):
            metadata = {"svg": {"Date": None}}.get(suffix)
            figure.savefig(folder / f"expressivity.{suffix}", dpi=150, metadata=metadata)
    except OSError as error:
        raise InputError(f"cannot write {error.filename}: {error.strerror}") from None


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
