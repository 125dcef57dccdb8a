"""Compare learning curves of run folders: a table of the last evaluations and a plot, one panel for each dataset."""

import json
import sys
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from rlrat.errors import InputError, one_line_errors
from rlrat.runs import RunFolder


@dataclass
class Arguments:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders, or folders that hold some at any depth."""
    output: Path | None = None
    """Where to write the plot, .png, .pdf or .svg."""
    last: int = 2
    """Evaluations at the end of a curve that the table averages."""


def read_curves(folders: tuple[Path, ...]) -> dict[tuple[str, str, str], dict[int, tuple[np.ndarray, np.ndarray]]]:
    """Updates and mean returns of every seed, by (dataset, agent, run) and seed.

    Raises:
        InputError: no run folder with an evaluation below `folders`.
    """
    curves: dict[tuple[str, str, str], dict[int, tuple[np.ndarray, np.ndarray]]] = {}
    for config in sorted(path for folder in folders for path in folder.rglob("config.json")):
        rows = RunFolder(config.parent).curve()
        if not rows:
            print(f"warning: {config.parent} has no evaluation yet", file=sys.stderr)
            continue
        seed = json.loads(config.read_text())["seed"]
        *_, dataset, agent, run, _ = config.parent.resolve().parts
        table = np.array([(int(row["update"]), float(row["return_mean"])) for row in rows])
        curves.setdefault((dataset, agent, run), {})[seed] = (table[:, 0], table[:, 1])
    if not curves:
        places = ", ".join(map(str, folders))
        raise InputError(f"no evaluated run below {places}: give folders that hold config.json and evaluations.csv")
    return curves


def markdown(curves: dict, data_returns: dict[str, float], last: int) -> str:
    """A line for each run: the mean of its last evaluations, over seeds, and the best evaluation of any trained seed.

    Beside them the mean episode return of the data, and the first as a ratio to it.
    """
    columns = ["dataset", "agent", "run", "seeds", f"return, last {last}", "sd over seeds", "best", "data", "ratio"]
    lines = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for (dataset, agent, run), seeds in curves.items():
        finals = np.array([returns[-last:].mean() for _, returns in seeds.values()])
        best = max(returns[updates > 0].max(initial=-np.inf) for updates, returns in seeds.values())
        figures = f"{len(seeds)} | {finals.mean():.1f} | {finals.std():.1f} | {best:.1f}"
        figures += f" | {data_returns[dataset]:.1f} | {finals.mean() / data_returns[dataset]:.2f}"
        lines.append(f"| {dataset} | {agent} | {run} | {figures} |")
    return "\n".join(lines)


def plot(curves: dict, data_returns: dict[str, float], output: Path) -> None:
    """Thin lines are seeds, thick ones their mean at the updates that all of them have."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    datasets = sorted({key[0] for key in curves})
    runs = sorted({key[1:] for key in curves})
    colours = dict(zip(runs, cycle(pyplot.colormaps["tab10"].colors), strict=False))
    styles = {run: ("-", "--", ":", "-.")[index // 10 % 4] for index, run in enumerate(runs)}
    figure, axes = pyplot.subplots(1, len(datasets), figsize=(5.5 * len(datasets), 4), squeeze=False)
    for axis, dataset in zip(axes[0], datasets, strict=True):
        for (_, agent, run), seeds in ((key, value) for key, value in curves.items() if key[0] == dataset):
            colour, style = colours[agent, run], styles[agent, run]
            common = sorted(set.intersection(*(set(updates) for updates, _ in seeds.values())))
            mean = np.mean([returns[np.isin(updates, common)] for updates, returns in seeds.values()], axis=0)
            if len(seeds) > 1:
                for updates, returns in seeds.values():
                    axis.plot(updates, returns, color=colour, linewidth=0.8, alpha=0.45)
            axis.plot(
                common, mean, style, color=colour, linewidth=2.2, marker="o", markersize=3.5, label=f"{agent} {run}"
            )
        axis.axhline(data_returns[dataset], color="0.4", linestyle="--", linewidth=1, label="mean episode of the data")
        axis.set(title=dataset, xlabel="updates", ylabel="return", ylim=(0, None))
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=9)
    figure.tight_layout()
    figure.savefig(output, dpi=150)


def main(arguments: Arguments) -> None:
    if not arguments.runs:
        raise InputError("no run is given: give run folders, or folders that hold some")
    if arguments.last < 1:
        raise InputError(f"--last is {arguments.last}, but must be at least 1")
    if arguments.output is not None and arguments.output.suffix not in (".png", ".pdf", ".svg"):
        raise InputError(f"--output is {arguments.output}: give a file that ends in .png, .pdf or .svg")
    curves = read_curves(arguments.runs)
    configs = [path for folder in arguments.runs for path in folder.rglob("config.json")]
    returns = {
        path.parent.resolve().parts[-4]: json.loads(path.read_text())["dataset"]["return_mean"] for path in configs
    }
    print(markdown(curves, returns, arguments.last))
    if arguments.output is not None:
        plot(curves, returns, arguments.output)


if __name__ == "__main__":
    with one_line_errors():
        main(tyro.cli(Arguments, description=__doc__))
