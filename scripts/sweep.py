"""Train a grid of agents, datasets, activations, seeds and settings, here, on Ray or on Slurm.

Any setting of the agents can be an axis: `--grid.expectile 0.7 0.9`, for one agent alone `--grid.cql.alpha 5 10`, with
one value for all cells `--grid.total-updates 20000`, and for what is a list `--grid.hidden-dims "64 64" "256 256"`.
Give the same command again at any time: it does what is missing. Beside it:

    python scripts/sweep.py status <run-dir>    how far every run is
    python scripts/sweep.py stop <run-dir>      save checkpoints and end, wherever the sweep runs
    python scripts/sweep.py retry <run-dir>     the failed processes once more
"""

import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rlrat.arguments import read_command_line
from rlrat.console import Console
from rlrat.errors import one_line_errors
from rlrat.sweeps import commands
from rlrat.sweeps.options import Options, find_grid, split_axes

AGENTS = Path(__file__).resolve().parents[1] / "agents"
COMMANDS = {
    "status": (commands.status, "How far every run is."),
    "stop": (commands.stop, "Have every sweep on a folder save checkpoints and end."),
    "retry": (commands.retry, "Try the failed processes again."),
}


@dataclass(frozen=True)
class Folder:
    run_dir: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN_DIR")]
    """The --run-dir of a sweep."""


def main(argv: list[str]) -> int:
    """Returns the exit code: 0, 1 where a process failed, 130 where the sweep was stopped or left."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    if argv and argv[0] in COMMANDS:
        command, description = COMMANDS[argv[0]]
        folder = read_command_line(Folder, description, argv[1:], prog=f"sweep.py {argv[0]}")
        return command(folder.run_dir, AGENTS, console)
    argv, axes = split_axes(argv)
    options = read_command_line(Options, __doc__, argv)
    return commands.sweep(options, find_grid(options, axes), AGENTS, console)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # until there is something to stop, no traceback
    with one_line_errors():
        raise SystemExit(main(sys.argv[1:]))
