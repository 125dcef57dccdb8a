"""Train a grid of agents, datasets, activations, seeds and settings, here, on Ray or on Slurm.

Any setting of the agents can be an axis: `--grid.expectile 0.7 0.9`, for one agent alone `--grid.cql.alpha 5 10`, with
one value for all cells `--grid.total-updates 20000`, and for what is a list `--grid.hidden-dims "64 64" "256 256"`.
`--grid.env-id none` makes no rollouts: policies are judged on data alone, as with data that names no environment.
Give the same command again at any time: it does what is missing. Beside it:

    python scripts/sweep.py status <run-dir>    how far every run is
    python scripts/sweep.py stop <run-dir>      save checkpoints and end, wherever the sweep runs
    python scripts/sweep.py retry <run-dir>     the failed processes once more

A folder is data: code of your own is named to retry again, with --agents and --env-modules.
"""

import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from rlrat.console import Console
from rlrat.errors import one_line_errors
from rlrat.runs.arguments import program, read_command_line
from rlrat.sweeps import commands
from rlrat.sweeps.named import Named
from rlrat.sweeps.options import Options, find_grid, split_axes


@dataclass(frozen=True)
class Folder:
    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """The --run-dir of a sweep."""


@dataclass(frozen=True)
class Status(Folder):
    agents: tuple[str, ...] = ()
    """Files of your own agents; only a sweep that an older version of rlrat began needs them."""


@dataclass(frozen=True)
class Retry(Folder):
    named: Annotated[Named, tyro.conf.arg(name="")] = field(default_factory=Named)


COMMANDS: dict[str, tuple[type[Folder], str]] = {
    "status": (Status, "How far every run is. Nothing that the folder names is run."),
    "stop": (Folder, "Have every sweep on a folder save checkpoints and end."),
    "retry": (Retry, "Try the failed processes again. Code of your own that they need is named again."),
}


def main(argv: list[str]) -> int:
    """Run the command; return the exit code: 0, 1 where a process failed, 130 where the sweep was stopped or left."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    if argv and argv[0] in COMMANDS:
        return folder_command(argv, console)
    argv, axes = split_axes(argv)
    options = read_command_line(Options, __doc__, argv)
    return commands.sweep(options, find_grid(options, axes), console)


def folder_command(argv: list[str], console: Console) -> int:
    """Run `status`, `stop` or `retry` of a folder; return the exit code."""
    kind, description = COMMANDS[argv[0]]
    given = read_command_line(kind, description, argv[1:], prog=f"{program()} {argv[0]}")
    if isinstance(given, Status):
        return commands.status(given.run_dir, console, given.agents)
    if isinstance(given, Retry):
        return commands.retry(given.run_dir, console, given.named)
    return commands.stop(given.run_dir, console)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback as long as there is nothing to stop
    with one_line_errors():
        raise SystemExit(main(sys.argv[1:]))
