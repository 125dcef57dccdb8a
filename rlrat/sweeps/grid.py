"""Turn a grid of runs (agents, datasets, activations, seeds, any settings of the agents) into cells and processes."""

import hashlib
import itertools
import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args

from rlrat.datasets.sources import absolute
from rlrat.errors import InputError, printable, reason
from rlrat.runs.arguments import RunArguments, run_folder
from rlrat.sweeps.agents import Agent, check_axis, command_line, read_agent

Preset = Literal["paper", "d4rl-gym", "smoke"]
PRESETS = get_args(Preset)
_MOST_SEEDS, _MOST_CELLS = 100_000, 1_000_000
_KEYS = ("agents", "datasets", "activations", "seeds", "grid")


def axis_name(text: str) -> str:
    """Return the one name of an axis: `total_updates` also for its spelling `total-updates`."""
    return text.replace("-", "_")


@dataclass(frozen=True)
class Block:
    """A cross product of agents, datasets, activations and the values of further settings."""

    agents: tuple[str, ...] = ()
    datasets: tuple[str, ...] = (RunArguments.dataset,)
    activations: tuple[str, ...] = ()
    """None: each agent's own default."""
    axes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Values by setting, as a command line has them; `iql.expectile` is for IQL alone."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "axes", {axis_name(axis): texts for axis, texts in self.axes.items()})


@dataclass(frozen=True)
class Grid:
    """The grid that a sweep is asked for; it can be written as JSON."""

    blocks: tuple[Block, ...]
    seeds: int = 1
    first_seed: int = 0

    def changed(
        self,
        agents: Sequence[str] = (),
        datasets: Sequence[str] = (),
        activations: Sequence[str] = (),
        axes: dict[str, tuple[str, ...]] | None = None,
    ) -> "Grid":
        """Return the grid as flags change it: agents and datasets choose from it, the others replace.

        Raises:
            InputError: no block has a chosen agent or dataset, or no cell is left.
        """
        for kind, chosen in (("agents", agents), ("datasets", datasets)):
            known = {name for block in self.blocks for name in getattr(block, kind)}
            if unknown := [name for name in chosen if name not in known]:
                there = ", ".join(sorted(known)) or f"no {kind}"
                raise InputError(f"--{kind} {unknown[0]} is not in this grid, which has {there}")
        dropped = {axis_name(name) for block in self.blocks for name in block.agents if agents and name not in agents}
        blocks = []
        for block in self.blocks:
            kept = {axis: texts for axis, texts in block.axes.items() if axis.partition(".")[0] not in dropped}
            block = replace(
                block,
                agents=tuple(name for name in block.agents if not agents or name in agents),
                datasets=tuple(name for name in block.datasets if not datasets or name in datasets),
                activations=tuple(activations) or block.activations,
                axes={**kept, **(axes or {})},
            )
            if block.agents and block.datasets:
                blocks.append(block)
        if not blocks:
            raise InputError("no cell is left: no block of this grid has these agents with these datasets")
        return replace(self, blocks=tuple(blocks))

    def absolute(self) -> "Grid":
        """Return the same grid with absolute paths, for use in any working directory."""
        blocks = tuple(
            replace(
                block,
                agents=tuple(str(Path(name).resolve()) if name.endswith(".py") else name for name in block.agents),
                datasets=tuple(map(absolute, block.datasets)),
            )
            for block in self.blocks
        )
        return replace(self, blocks=blocks)


@dataclass(frozen=True, eq=False)
class Cell:
    """One agent on one dataset with one activation and one choice of settings; each seed is a run."""

    agent: Agent
    values: dict[str, Any]
    """Every setting that the sweep gives, by name; dataset and activation are among them."""
    seeds: range
    run_dir: Path

    @cached_property
    def arguments(self) -> RunArguments:
        return self.agent.build({**self.values, "run_dir": self.run_dir})

    @cached_property
    def folder(self) -> Path:
        """Return the folder that holds the seeds' run folders."""
        named = replace(self.arguments, run_name=self.agent.run_name(self.values))
        return run_folder(named, self.agent.name, 0).parent

    def run_folder(self, seed: int) -> Path:
        return self.folder / f"seed{seed}"

    @property
    def label(self) -> str:
        """Return the folders' names: dataset, agent, and activation with every setting that is not the default."""
        return printable(" ".join(self.folder.parts[-3:]))


class Process:
    """Seeds of a cell that are trained side by side, with the fields that are needed to look at them."""

    run_dir: Path
    folder: Path
    """`<run-dir>/<dataset>/<agent>/<run>`, that the seeds' run folders are in."""
    seeds: range
    total_updates: int

    @cached_property
    def id(self) -> str:
        text = f"{self.folder.relative_to(self.run_dir)} {self.seeds}"
        return f"{self.folder.parent.name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def label(self) -> str:
        """Return the folders' names (dataset, agent, activation with settings other than the default) and the seeds."""
        first, last = self.seeds[0], self.seeds[-1]
        return printable(" ".join(self.folder.parts[-3:])) + f" seed{first}" + (f"-{last}" if last > first else "")

    @property
    def folders(self) -> list[Path]:
        return [self.folder / f"seed{seed}" for seed in self.seeds]


@dataclass(frozen=True, eq=False)
class Job(Process):
    """A process of a plan, with its cell."""

    cell: Cell
    seeds: range

    @property
    def run_dir(self) -> Path:
        return self.cell.run_dir

    @property
    def folder(self) -> Path:
        return self.cell.folder

    @property
    def total_updates(self) -> int:
        return self.cell.arguments.total_updates

    def argv(self, extra: dict[str, Any]) -> list[str]:
        """Return the arguments after the agent's file on its command line; `extra` has further settings by name."""
        own = {"run_dir": self.cell.run_dir, "seed": self.seeds[0], "num_seeds": len(self.seeds)}
        return command_line({**self.cell.values, **extra, **own})


def make_jobs(cells: Iterable[Cell], seeds_per_process: int | None) -> list[Job]:
    """Split each cell's seeds into processes of `seeds_per_process` seeds; None makes one process for all."""
    return [Job(cell, seeds) for cell in cells for seeds in in_processes(cell.seeds, seeds_per_process)]


def in_processes(seeds: range, seeds_per_process: int | None) -> Iterable[range]:
    """Return the seeds of each process of a cell."""
    size = seeds_per_process or len(seeds)
    return (seeds[start : start + size] for start in range(0, len(seeds), size))


def expand(grid: Grid, run_dir: Path) -> list[Cell]:
    """Return every cell of a grid, in the order of its blocks; check names, types and folders.

    An axis that an agent lacks makes no further cells of this agent; another agent must have the axis.

    Raises:
        InputError: an unknown agent or setting, an invalid value, or two cells with one folder.
    """
    texts = {text for block in grid.blocks for text in _texts_of(block)}
    if odd := sorted(text for text in texts if text != printable(text)):
        raise InputError(f"the grid has {odd[0]!r}, with characters that no name or value has")
    agents: dict[str, Agent] = {}
    for name in dict.fromkeys(name for block in grid.blocks for name in block.agents):
        agents[name] = read_agent(name)
    if not agents:
        raise InputError("no agent is given: --agents iql td3_bc, --preset smoke, or --file grid.toml")
    if grid.seeds > _MOST_SEEDS:
        raise InputError(f"--seeds is {grid.seeds:,}, but must be at most {_MOST_SEEDS:,}")
    if (most := sum(map(_size, grid.blocks))) > _MOST_CELLS:
        raise InputError(f"the grid has up to {most:,} cells, but a sweep may have {_MOST_CELLS:,}: divide it")
    cells = [cell for block in grid.blocks for cell in _expand_block(block, grid, agents, run_dir.resolve())]
    folders: dict[Path, Cell] = {}
    for cell in cells:
        if (other := folders.setdefault(cell.folder, cell)) is not cell:
            different = {
                name: (other.values.get(name), cell.values.get(name))
                for name in {**other.values, **cell.values}
                if other.values.get(name) != cell.values.get(name)
            }
            what = ", ".join(f"{name} {a} and {b}" for name, (a, b) in different.items())
            why = f"only {what} tell them apart, which is not in its name: give each a --run-dir" if what else (
                "they are the same: give each name and value once"
            )  # fmt: skip
            raise InputError(f"two cells have one folder, {cell.folder}; {why}")
    return cells


def _texts_of(block: Block) -> Iterable[str]:
    return itertools.chain(block.agents, block.datasets, block.activations, block.axes, *block.axes.values())


def _size(block: Block) -> int:
    """Return an upper bound of the number of cells in a block: an agent may lack some of the axes."""
    axes = math.prod(map(len, block.axes.values()))
    return len(block.agents) * len(block.datasets) * max(len(block.activations), 1) * axes


def _expand_block(block: Block, grid: Grid, agents: dict[str, Agent], run_dir: Path) -> Iterable[Cell]:
    chosen = [agents[name] for name in block.agents]
    by_agent: dict[str, dict[str, tuple[str, ...]]] = {agent.name: {} for agent in chosen}
    for axis, texts in block.axes.items():
        first, dot, rest = axis.partition(".")
        own = [agent for agent in chosen if dot and axis_name(agent.name) == first]
        if not own and any(axis_name(agent.name) == first for agent in agents.values()):
            continue  # it is for an agent of other blocks
        name = rest if own else axis
        check_axis(name, own or (chosen if len(grid.blocks) == 1 else agents.values()))
        for agent in own or chosen:
            if agent.has(name) and (own or name not in by_agent[agent.name]):
                by_agent[agent.name][name] = texts
    seeds = range(grid.first_seed, grid.first_seed + grid.seeds)
    datasets = [absolute(dataset) for dataset in block.datasets]
    for agent in chosen:
        activations = block.activations or (agent.defaults.activation,)
        axes = {name: [agent.read(name, text) for text in texts] for name, texts in by_agent[agent.name].items()}
        for dataset, activation, *values in itertools.product(datasets, activations, *axes.values()):
            settings = dict(zip(axes, values, strict=True))
            yield Cell(agent, {"dataset": dataset, "activation": activation, **settings}, seeds, run_dir)


def read_grid(name: str) -> Grid:
    """Read the grid of a preset, or of a TOML or YAML file.

    A file's `agents`, `datasets`, `activations`, `seeds` and `grid` (a table of values by setting) are one cross
    product. If the file has `[[grids]]`, each of these is one, and takes from the file what it does not say itself.

    Raises:
        InputError: the file does not exist, or is no valid grid.
    """
    if name in PRESETS:
        text, suffix = resources.files("rlrat.sweeps").joinpath("presets", f"{name}.toml").read_text(), ".toml"
    else:
        try:
            text, suffix = Path(name).read_text(encoding="utf-8"), Path(name).suffix
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the grid {name}: {getattr(error, 'strerror', error)}") from None
    content = _parse(text, suffix, name)
    parts = content.pop("grids", None)
    if parts is not None and not (isinstance(parts, list) and all(isinstance(part, dict) for part in parts)):
        raise InputError(f"{name}: grids must be tables, [[grids]]")
    outer = _check_keys(content, name)
    seeds = outer.pop("seeds", 1)
    if isinstance(seeds, bool) or not isinstance(seeds, int) or seeds < 1:
        raise InputError(f"{name}: seeds is {seeds!r}, but must be a number of seeds, at least 1")
    blocks = []
    for part in [{}] if parts is None else parts:
        inner = _check_keys(part, name)
        if "seeds" in inner:
            raise InputError(f"{name}: seeds stand before [[grids]], and are the same for all")
        axes = {**outer.get("axes", {}), **inner.get("axes", {})}
        blocks.append(Block(**{**outer, **inner, "axes": axes}))
    return Grid(tuple(blocks), seeds)


def _parse(text: str, suffix: str, name: str) -> dict[str, Any]:
    try:
        if suffix in (".yaml", ".yml"):
            import yaml  # Minari's download of datasets needs it, too

            try:
                content = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ValueError(reason(error)) from None
        else:
            content = tomllib.loads(text)
        if not isinstance(content, dict):
            raise ValueError("it has no keys")
        return content
    except ValueError as error:
        raise InputError(f"{name} is no grid: {error}") from None


def _check_keys(content: dict[str, Any], name: str) -> dict[str, Any]:
    """Turn a part of a file into fields of `Block`, and `seeds`; check its keys."""
    if unknown := [key for key in content if key not in _KEYS]:
        raise InputError(f"{name}: unknown key {unknown[0]!r}; there are {', '.join(_KEYS)} and grids")
    found: dict[str, Any] = {}
    for key, value in content.items():
        if key == "grid":
            if not isinstance(value, dict):
                raise InputError(f"{name}: grid must be a table of values by setting")
            found["axes"] = axes = {}
            for axis, values in _flat(value):
                if axis_name(axis) in axes:
                    raise InputError(f"{name}: grid.{axis} is there twice: give all its values at once")
                axes[axis_name(axis)] = _texts(values, name, f"grid.{axis}")
        else:
            found[key] = value if key == "seeds" else _texts(value, name, key)
    return found


def _flat(table: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + str(key), value


def _texts(values: Any, name: str, key: str) -> tuple[str, ...]:
    """Return one value or several as on a command line; a list inside the list is one value of a list setting."""
    values = values if isinstance(values, list) else [values]
    if not values or any(isinstance(value, dict) or value is None for value in values):
        raise InputError(f"{name}: {key} must be a value or a list of values")
    return tuple(" ".join(_words(value)) for value in values)


def _words(value: Any) -> list[str]:
    return [word for one in value for word in _words(one)] if isinstance(value, list) else [str(value)]
