"""Look after datasets.

python scripts/data.py check [DATASET ...]    whether what their caches hold is what was written there
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from rlrat.console import Console
from rlrat.datasets.checking import check_caches
from rlrat.errors import one_line_errors
from rlrat.runs.arguments import program, read_command_line


@dataclass(frozen=True)
class Check:
    datasets: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="[DATASET ...]")] = ()
    """Ids or files, as agents take them; by default all in the user's cache."""


@dataclass(frozen=True)
class Command:
    command: Annotated[Literal["check"], tyro.conf.Positional]
    """What to do; `data.py check --help` says more."""


def check(arguments: Check, console: Console) -> int:
    damaged = False
    for finding in check_caches(arguments.datasets):
        console.print(str(finding), soft_wrap=True)
        damaged |= finding.is_damaged
    return int(damaged)


COMMANDS: dict[str, tuple[type, Callable[[Any, Console], int], str]] = {
    "check": (
        *(Check, check),
        "Compare every byte of the caches with what was written. A damaged entry is taken away, so that it is made "
        "anew from its source, and the exit code is 1.",
    ),
}


def main(argv: list[str]) -> int:
    """Run a command; return the exit code."""
    if not argv or argv[0] not in COMMANDS:
        read_command_line(Command, __doc__, argv)  # answers --help, or says what is wrong
    kind, command, description = COMMANDS[argv[0]]
    return command(read_command_line(kind, description, argv[1:], prog=f"{program()} {argv[0]}"), Console())


if __name__ == "__main__":
    with one_line_errors():
        raise SystemExit(main(sys.argv[1:]))
