"""Write MODEL_CARD.md of a run: data, units, results with seeds, limits, use; as the Hugging Face hub shows it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rlrat.runs.arguments import read_command_line


@dataclass
class Arguments:
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, <run-dir>/<dataset>/<agent>/<activation>/seed<k>."""
    out: Path | None = None
    """Where to write; by default MODEL_CARD.md in the run folder. The hub shows a README.md."""
    activation_modules: tuple[str, ...] = ()
    """Modules of yours with the activations that it was trained with; nothing that a run names is imported."""


if __name__ == "__main__":  # before torch is imported: --help and mistakes are answered at once
    ARGUMENTS = read_command_line(Arguments, __doc__)

from rlrat.errors import one_line_errors
from rlrat.networks import name_modules
from rlrat.runs.card import write_card


def main(arguments: Arguments) -> None:
    name_modules(arguments.activation_modules)
    print(write_card(arguments.run, arguments.out))


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
