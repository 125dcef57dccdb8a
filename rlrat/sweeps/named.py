"""Decide what code may run: only code that this command line names, never what a sweep folder or a grid file names."""

import dataclasses
import shlex
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from rlrat.environments.settings import bare, parse_env_kwargs
from rlrat.errors import InputError
from rlrat.networks.choices import own_module
from rlrat.sweeps.grid import Block, Grid


@dataclass(frozen=True)
class Named:
    """What the command line of `retry` names again; each must be what the sweep's own command had."""

    agents: tuple[str, ...] = ()
    """The files of your own agents that the sweep trains; nothing that a folder names is run by itself."""
    env_modules: tuple[str, ...] = ()
    """Your modules that register the sweep's environments."""
    activation_modules: tuple[str, ...] = ()
    """Your modules with the sweep's activations."""
    env_kwargs: tuple[str, ...] = ()
    """Settings of its environments whose values are text, such as xml_file=walker2d.xml."""
    ray_address: Annotated[str | None, tyro.conf.arg(name="ray.address")] = None
    """Of the Ray cluster that it ran on."""

    def admit(
        self,
        grid: Grid,
        where: str,
        *,
        typed: Container[str] = (),
        has_typed_kwargs: bool = False,
        env_modules: Sequence[str] = (),
        ray_address: str | None = None,
    ) -> Grid:
        """Check a grid that was read: return it with the agents' files named here and environments without module.

        Args:
            where: what it was read from, for the message.
            typed: axes of the grid that this command line replaces.
            has_typed_kwargs: whether the user gave the settings of the grid's environments.
            env_modules, ray_address: modules and a cluster that were read with the grid; they must be named here, too.

        Raises:
            InputError: the grid has code that is not named here; the message has the options to add.
        """
        options = ("--agents", "--env-modules", "--activation-modules", "--env-kwargs", "--ray.address")
        lacking: dict[str, list[str]] = {option: [] for option in options}
        blocks = [self._block(block, typed, has_typed_kwargs, lacking) for block in grid.blocks]
        lacking["--env-modules"] += [name for name in env_modules if name not in self.env_modules]
        if ray_address not in (None, "auto", self.ray_address):
            lacking["--ray.address"].append(ray_address)
        _refuse(lacking, where)
        return dataclasses.replace(grid, blocks=tuple(blocks))

    def admit_agents(self, grid: Grid, where: str) -> Grid:
        """Check only the agents of a grid, like `admit`; for a grid of which no environment is made."""
        return self.admit(grid, where, typed={"activation", *(axis for block in grid.blocks for axis in block.axes)})

    def _block(
        self, block: Block, typed: Container[str], has_typed_kwargs: bool, lacking: dict[str, list[str]]
    ) -> Block:
        files = {spelling: name for name in self.agents for spelling in (name, str(Path(name).resolve()))}
        lacking["--agents"] += [name for name in block.agents if is_file(name) and name not in files]
        for axis, texts in (("activation", block.activations), *block.axes.items()):
            if axis.endswith("activation") and axis not in typed:
                modules = [module for text in texts if (module := own_module(text)) is not None]
                lacking["--activation-modules"] += [name for name in modules if name not in self.activation_modules]
        axes = dict(block.axes)
        for axis, texts in axes.items():
            setting = axis.rpartition(".")[2]
            if axis in typed:
                continue
            if setting == "env_id":
                modules = [text.rpartition(":")[0] for text in texts]
                lacking["--env-modules"] += [name for name in modules if name and name not in self.env_modules]
                axes[axis] = tuple(map(bare, texts))
            elif setting == "env_kwargs" and not has_typed_kwargs:
                pairs = [pair for text in texts for pair in text.split() if pair not in self.env_kwargs]
                lacking["--env-kwargs"] += [pair for pair in pairs if _is_text(pair)]
        return dataclasses.replace(block, agents=tuple(files.get(name, name) for name in block.agents), axes=axes)


def _refuse(lacking: dict[str, list[str]], where: str) -> None:
    words = []
    for option, names in lacking.items():
        if names:
            words += [option, *(shlex.quote(name) for name in dict.fromkeys(names))]
    if words:
        raise InputError(
            f"{where} names code or files of yours, which only a command line may: add {' '.join(words)} "
            "if you trust them"
        )


def is_file(agent: str) -> bool:
    """Tell whether an agent is a user's file, and not the name of one that comes with rlrat."""
    return agent.endswith(".py")


def _is_text(pair: str) -> bool:
    """Tell whether a setting of an environment could name a file."""

    def has_text(value: Any) -> bool:
        if isinstance(value, dict):
            return any(map(has_text, [*value, *value.values()]))
        return any(map(has_text, value)) if isinstance(value, list | tuple | set) else isinstance(value, str)

    try:
        return any(map(has_text, parse_env_kwargs((pair,)).values()))
    except (InputError, RecursionError):  # the agent refuses it, too
        return True
