"""Judge trained policies from data alone, with no simulator: by fitted Q evaluation, with an interval and doubts.

The value is the discounted sum of rewards that a policy is expected to earn from the data's initial states on; it is no
return. Its interval comes from fits on resampled episodes. A value that cannot be trusted says so, and why.
"""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from rlrat.runs.arguments import Positive, Range, check_ranges, read_command_line


@dataclass
class Arguments:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, <run-dir>/<dataset>/<agent>/<activation>/seed<k>, or checkpoint files in them."""
    which: Literal["last", "best"] = "last"
    """The newest policy of each run, or the one that --keep-best kept."""
    dataset: str | None = None
    """Data to judge on, where it has moved; by default what each run was trained on."""
    discount: Annotated[float, Range(0.0, 1.0, open_high=True)] | None = None
    """Of rewards; by default each run's own, 0.99 for agents that have none."""
    fqe_updates: Annotated[int, Range(1)] | None = None
    """Updates of each fit of Q."""
    fqe_batch_size: Annotated[int, Range(1)] | None = None
    """Batch size of the fits."""
    fqe_learning_rate: Positive | None = None
    """Adam's at a fit's first update."""
    fqe_hidden_dims: tuple[int, ...] | None = None
    """Hidden widths of Q."""
    fqe_activation: str | None = None
    """Q's, a name of the registry."""
    refits: Annotated[int, Range(0)] = 5
    """Fits on resampled episodes, from which the interval comes."""
    seed: Annotated[int, Range(0)] = 0
    """Of the fits."""
    json: Path | None = None
    """Where to write all judgements."""
    env_modules: tuple[str, ...] = ()
    """Modules of yours that register environments."""
    activation_modules: tuple[str, ...] = ()
    """Modules of yours with the activations that runs were trained with; nothing that a run names is imported."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    num_threads: Annotated[int, Range(1, 4096)] | None = None
    """CPU threads; by default one for each core."""


if __name__ == "__main__":  # before torch is imported: --help and mistakes are answered at once
    ARGUMENTS = read_command_line(Arguments, __doc__)

import torch
from rich.table import Table
from rich.text import Text

from rlrat.console import Console
from rlrat.errors import InputError, one_line_errors
from rlrat.evaluation.fqe import FQESettings
from rlrat.networks.activations import name_activation
from rlrat.runs.files import replace
from rlrat.runs.judging import MOST_CUT, Judgement, as_json, judge
from rlrat.runs.summaries import four_digits

_OPTIONS = ("updates", "batch_size", "learning_rate", "hidden_dims", "activation")


def _table(results: list[Judgement]) -> Table:
    table = Table()
    table.add_column("run", overflow="fold")
    for name in ("update", "value", "95% interval", "data's value", "unlike data"):
        table.add_column(name, justify="right", no_wrap=True)
    sampled = any(result.importance for result in results)
    if sampled:
        table.add_column("importance sampling", overflow="fold")
    table.add_column("diagnosis", overflow="fold")
    for result in results:
        interval = "-" if result.interval is None else " to ".join(map(four_digits, result.interval))
        doubts = f"not to be trusted: {'; '.join(result.problems)}" if result.problems else "no doubts found"
        table.add_row(
            *(result.run, f"{result.update:,}", four_digits(result.value), interval, four_digits(result.data_value)),
            f"{result.outside:.0%}",
            *([_importance(result)] if sampled else []),
            doubts,
        )
    return table


def _importance(result: Judgement) -> str:
    """Say what importance sampling found: the weighted doubly robust value is the one of the least variance."""
    found = result.importance
    if not found:
        return "-"
    if "refused" in found:
        return found["refused"]
    size = f"effective sample size {found['effective_sample_size']:.1f}"
    robust, alone = (four_digits(found[f"weighted_{name}"]) for name in ("doubly_robust", "per_decision"))
    return f"{robust} doubly robust, {alone} alone; {size}"


def main(arguments: Arguments) -> None:
    check_ranges(arguments)
    if not arguments.runs:
        raise InputError(
            "no run is given: give one or more run folders, <run-dir>/<dataset>/<agent>/<activation>/seed<k>"
        )
    if arguments.fqe_activation is not None:
        name_activation(arguments.fqe_activation)
    if arguments.fqe_hidden_dims is not None and (not arguments.fqe_hidden_dims or min(arguments.fqe_hidden_dims) < 1):
        raise InputError(f"--fqe-hidden-dims is {arguments.fqe_hidden_dims}, but must be one or more positive widths")
    if arguments.num_threads is not None:
        torch.set_num_threads(arguments.num_threads)
    given = {name: getattr(arguments, f"fqe_{name}") for name in _OPTIONS}
    settings = FQESettings(**{name: value for name, value in given.items() if value is not None})
    passed = ("which", "dataset", "discount", "refits", "seed", "device", "env_modules", "activation_modules")
    # Do not wrap lines in a pipe.
    console = Console(width=None if sys.stdout.isatty() else 1000)
    with console.status("reading the runs") as status:
        options = {name: getattr(arguments, name) for name in passed}
        results = judge(arguments.runs, settings, **options, said=lambda line: status.update(Text(line)))
    console.print(_table(results))
    discounts = " or ".join(sorted({f"{result.discount:g}" for result in results}))
    console.print(
        "value: expected sum of rewards from the data's initial states on, discounted by "
        f"{discounts}, by fitted Q evaluation; it is no return. Interval: t, from {arguments.refits} refits on "
        "resampled episodes. Data's value: mean discounted return of its complete episodes.",
        soft_wrap=True,
    )
    if (cut := max(result.cut_share for result in results)) > MOST_CUT:
        console.print(
            "Value and data's value cannot be compared: episodes are truncated while up to "
            f"{cut:.0%} of a steady reward's value is still to come, which the policy's value counts and the data's "
            "does not.",
            soft_wrap=True,
        )
    if arguments.json is not None:
        replace(arguments.json, (json.dumps([as_json(result) for result in results], indent=2) + "\n").encode())


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
