"""Define the command line of a sweep, and find the grid that it asks for; nothing here needs torch."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro import conf

from rlrat.errors import InputError
from rlrat.runs.agents import agent_names
from rlrat.runs.arguments import Count, NotNegative, Positive, Range, check_ranges
from rlrat.sweeps.grid import Block, Grid, Preset, axis_name, read_grid
from rlrat.sweeps.named import Named
from rlrat.sweeps.records import fits, make


@dataclass(frozen=True)
class RayOptions:
    address: str | None = None
    """Of a cluster, such as auto or ray://head:10001; by default one is started here."""
    memory_gb: Positive | None = None
    """Of each process."""
    gpus: NotNegative = 0.0
    """Of each process; a share such as 0.25 puts several on one."""


@dataclass(frozen=True)
class SlurmOptions:
    partition: str | None = None
    """Where jobs go."""
    account: str | None = None
    """Who pays."""
    qos: str | None = None
    """Quality of service."""
    constraint: str | None = None
    """Features of the nodes."""
    minutes: Count = 1440
    """Limit of a job; one that reaches it goes on in the next."""
    memory_gb: Positive = 4.0
    """Of each process."""
    gpus: Annotated[int, Range(0)] = 0
    """Of each process."""
    at_once: Count = 256
    """Most jobs of an array that run at a time."""
    warning: Count = 90
    """Seconds between Slurm's SIGUSR1 and the end of a job, in which it saves a checkpoint."""


@dataclass(frozen=True)
class Options:
    agents: Annotated[tuple[str, ...], conf.arg(help=f"{' '.join(agent_names())}, or files of your own.")] = ()
    datasets: tuple[str, ...] = ()
    """As --dataset of an agent; the packaged one by default."""
    activations: tuple[str, ...] = ()
    """As --activation of an agent; each agent's own by default."""
    env_modules: tuple[str, ...] = ()
    """Modules of yours that register environments, as --env-modules of an agent; for every cell."""
    activation_modules: tuple[str, ...] = ()
    """Modules of yours with the activations that --file names; those of --activations are named there."""
    seeds: Count | None = None
    """How many seeds of each cell; 1 by default."""
    first_seed: Annotated[int, Range(0)] = 0
    """The first of them."""
    preset: Preset | None = None
    """A grid that comes with rlrat; --agents and --datasets choose from it, the rest replaces."""
    file: Path | None = None
    """A grid in TOML or YAML, like rlrat/sweeps/presets/*.toml; files of agents in it are named in --agents, too."""
    run_dir: Path = Path("runs")
    """Where run folders go, and the sweep's own .sweep."""
    dry_run: bool = False
    """Print the plan with an estimate of time and memory, and train nothing."""
    seeds_per_process: Count | None = None
    """Seeds trained side by side; all of a cell by default."""
    threads: Count = 1
    """CPU threads of each process."""
    device: str = "auto"
    """auto (GPUs where there are some), cpu, cuda, ..."""
    launcher: Literal["local", "ray", "slurm"] = "local"
    """Where the processes run."""
    workers: Count | None = None
    """Processes at a time, with local: by default one for each CPU, or what GPUs have memory for."""
    retries: Annotated[int, Range(0)] = 2
    """Times that a failed process is tried again from its checkpoint."""
    ray: RayOptions = field(default_factory=RayOptions)
    slurm: SlurmOptions = field(default_factory=SlurmOptions)


def split_axes(argv: list[str]) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Split a command line into the rest and its `--grid.<setting> <value> ...`, the latter by `axis_name`."""
    rest: list[str] = []
    axes: dict[str, list[str]] = {}
    values = rest
    for word in argv:
        if word.startswith("--grid."):
            text, equals, value = word[len("--grid.") :].partition("=")
            if (name := axis_name(text)) in axes:
                raise InputError(f"--grid.{text} is given twice: give all its values at once")
            values = axes[name] = [value] if equals else []
        elif word.startswith("--"):
            values = rest
            rest.append(word)
        else:
            values.append(word)
    if empty := [name for name, found in axes.items() if not found]:
        raise InputError(f"--grid.{empty[0]} has no value")
    return rest, {name: tuple(found) for name, found in axes.items()}


def find_grid(options: Options, axes: dict[str, tuple[str, ...]]) -> Grid:
    """Return the grid that the flags ask for.

    Raises:
        InputError: a number out of its range, a preset together with a file, or a file that is no grid or names code
            that the flags do not name.
    """
    check_ranges(options)
    if options.preset is not None and options.file is not None:
        raise InputError("give --preset or --file, not both")
    source = options.preset or options.file
    if source is not None:
        grid = read_grid(str(source)).changed(options.agents, options.datasets, options.activations)
        if options.file is not None:
            named = Named(options.agents, options.env_modules, options.activation_modules)
            typed = {*axes, *(["activation"] if options.activations else [])}
            grid = named.admit(grid, f"the grid {source}", typed=typed, has_typed_kwargs=True)
        grid = grid.changed(axes=axes)
    else:
        block = Block(options.agents, options.datasets or Block().datasets, options.activations, axes)
        grid = Grid((block,))
    return Grid(grid.blocks, options.seeds or grid.seeds, options.first_seed)


def admit_sweep(named: Named, grid: Grid, options: Options, where: str) -> tuple[Grid, Options]:
    """Return the grid and the options of a sweep in a folder, with the code that `named` names.

    Raises:
        InputError: they have code that is not named; the message has the options to add.
    """
    address = options.ray.address if options.launcher == "ray" else None
    grid = named.admit(grid, where, env_modules=options.env_modules, ray_address=address)
    return grid, replace(options, env_modules=named.env_modules, activation_modules=named.activation_modules)


def kept_options(options: Options) -> dict[str, Any]:
    """Return the options that `retry` needs; the grid is kept separately."""
    kept = asdict(options)
    of_grid = ("agents", "datasets", "activations", "activation_modules", "seeds", "first_seed")
    for name in (*of_grid, "preset", "file", "run_dir", "dry_run"):
        del kept[name]
    return kept


def recall_options(kept: dict[str, Any], run_dir: Path) -> Options:
    """Turn the result of `kept_options` back into the options of a sweep in `run_dir`.

    Raises:
        InputError: `kept` is of another version of rlrat.
    """
    try:
        clusters = {"ray": make(RayOptions, kept.get("ray")), "slurm": make(SlurmOptions, kept.get("slurm"))}
        modules = kept.get("env_modules", [])
        if not fits(modules, list[str]):
            raise ValueError("env_modules is of another type")
        rest = {name: value for name, value in kept.items() if name not in (*clusters, "env_modules")}
        found = replace(make(Options, rest), **clusters, env_modules=tuple(modules), run_dir=run_dir)
        check_ranges(found)
        return found
    except ValueError as error:
        raise InputError(
            f"the sweep in {run_dir} is of another version of rlrat ({error}): give its command again"
        ) from None
