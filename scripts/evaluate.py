"""Evaluate trained agents from their run folders, each in the environment it was trained for, and film an episode.

With the run's own seed, which is the default, an evaluation meets the initial states of the run's own evaluations; with
their number of episodes, on the kind of CPU and the device that trained a single seed, it repeats the last one exactly.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rlrat.runs.arguments import Range, check_ranges, read_command_line


@dataclass
class Arguments:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, <run-dir>/<dataset>/<agent>/<activation>/seed<k>, or checkpoint files in them."""
    episodes: int = 100
    """Episodes per run, and per target return."""
    seed: int | None = None
    """Of the environments' resets; a run's own seed by default, as in its own evaluations."""
    video: Path | None = None
    """Where to write the first episode of a single run, .mp4."""
    target_returns: tuple[float, ...] | None = None
    """Returns that a Decision Transformer is to reach, one line for each; by default those of its training."""
    env_id: str | None = None
    """Gymnasium environment; by default the run's. In another one there is no score."""
    env_kwargs: tuple[str, ...] = ()
    """Environment settings, name=value, over the run's; those that name files must be given again."""
    env_modules: tuple[str, ...] = ()
    """Modules of yours that register environments: what a run names is looked up among them, and never imported."""
    activation_modules: tuple[str, ...] = ()
    """Modules of yours with the activations that runs were trained with; nothing that a run names is imported."""
    max_episode_steps: Annotated[int, Range(1)] | None = None
    """Steps after which an episode is cut; by default the run's own limit."""
    which: Literal["last", "best"] = "last"
    """The newest policy, or the best one, which a run trained with --keep-best has."""
    device: str = "cpu"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    num_threads: int | None = None
    """CPU threads; by default as many as the run had, if this machine has them."""


if __name__ == "__main__":  # before torch is imported: --help and mistakes are answered at once
    ARGUMENTS = read_command_line(Arguments, __doc__)

from rich.table import Table
from rich.text import Text

from rlrat.console import Console
from rlrat.errors import InputError, one_line_errors
from rlrat.evaluation.evaluator import Evaluation
from rlrat.evaluation.rendering import find_encoder
from rlrat.runs.trained import TrainedRun, film


def _table(found: list[tuple[TrainedRun, float | None, Evaluation]]) -> Table:
    """Make a line for each evaluation; leave out the columns of targets and of success where none has any."""
    rows = [_row(*one) for one in found]
    empty = {name for name in ("target", "success") if all(row[name] == "-" for row in rows)}
    table = Table()
    for name in rows[0]:
        if name == "run":
            table.add_column(name, overflow="fold")
        elif name not in empty:
            table.add_column(name, justify="left" if name == "reference" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(text for name, text in row.items() if name not in empty))
    return table


def _row(run: TrainedRun, target: float | None, result: Evaluation) -> dict[str, str]:
    return {
        "run": str(run.path),
        "update": f"{run.update:,}",
        "target": "-" if target is None else f"{target:g}",
        "episodes": str(result.returns.shape[1]),
        "return": f"{result.return_mean[0]:.1f} +- {result.return_std[0]:.1f}",
        "length": f"{result.length_mean[0]:.1f}",
        "success": "-" if result.successes is None else f"{result.success_rate[0]:.2f}",
        "score": "-" if run.reference is None else f"{result.scores(run.reference)[0]:.1f}",
        "reference": "-" if run.reference is None else run.reference.name,
    }


def main(arguments: Arguments) -> None:
    check_ranges(arguments)
    if not arguments.runs:
        raise InputError(
            "no run is given: give one or more run folders, <run-dir>/<dataset>/<agent>/<activation>/seed<k>"
        )
    if arguments.video is not None:
        if arguments.video.suffix != ".mp4":
            raise InputError(f"--video is {arguments.video}: give a file that ends in .mp4")
        if len(arguments.runs) > 1:
            raise InputError(f"--video films one run, {len(arguments.runs)} are given: give one")
        find_encoder()  # fail now, not after the evaluation
    # Do not wrap lines in a pipe.
    console = Console(width=None if sys.stdout.isatty() else 1000)
    settings = {k: v for k, v in vars(arguments).items() if k not in ("runs", "episodes", "video")}
    runs = [TrainedRun(path, **settings) for path in arguments.runs]
    found: list[tuple[TrainedRun, float | None, Evaluation]] = []
    try:
        for run in runs:
            with console.status(Text(f"{run.path}: {arguments.episodes} episodes of {run.env_id}")):
                results, actions = run.evaluate(arguments.episodes)
            found += [(run, target, result) for target, result in results.items()]
    finally:  # show finished runs even if the next one fails
        if found:
            console.print(_table(found))
    if arguments.video is not None:
        with console.status(Text(f"filming {arguments.video}")):
            result = film(run, actions, arguments.video)
        length, reached = result.lengths[0, 0], result.returns[0, 0]
        console.print(f"{arguments.video}: the first episode, {length:,} steps, return {reached:.1f}")


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
