"""Read the settings of each agent from its file, without importing torch."""

import ast
import contextlib
import dataclasses
import difflib
import io
import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, get_args, get_origin, get_type_hints

import tyro

from rlrat.errors import InputError, reason
from rlrat.runs.agents import find_agent
from rlrat.runs.arguments import RunArguments, identity, one_line, run_name
from rlrat.runs.presets import with_preset

# Settings that the sweep itself decides -> the option to use instead.
_OWN = {
    "dataset": "--datasets",
    "activation": "--activations",
    "seed": "--seeds and --first-seed",
    "num_seeds": "--seeds and --seeds-per-process",
    "num_threads": "--threads",
    "device": "--device",
    "env_modules": "--env-modules",
    "run_dir": "--run-dir",
    "run_name": "nothing: cells are told apart by their settings",
    "resume": "nothing: a sweep always goes on",
    "overwrite": "nothing: give another --run-dir",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Agent:
    """The file and the settings of one agent."""

    name: str
    path: Path
    arguments: type[RunArguments]
    _known: dict[tuple, tuple[str, dict[str, Any]]] = dataclasses.field(default_factory=dict)

    @cached_property
    def defaults(self) -> RunArguments:
        return self.arguments()

    @cached_property
    def kinds(self) -> dict[str, Any]:
        """Return the type of every setting by its name; a nested one is named like `rational.degrees`."""
        return dict(_kinds(self.arguments))

    def has(self, name: str) -> bool:
        return name in self.kinds

    def read(self, name: str, text: str) -> Any:
        """Read a setting's value from the text of a command line, such as "256 256" for a list.

        Raises:
            InputError: the text is no value of the setting.
        """
        kind, printed = self.kinds[name], io.StringIO()
        try:
            with contextlib.redirect_stderr(printed):
                value = tyro.cli(kind, args=text.split() if _may_be_list(kind) else [text], add_help=False)
        except SystemExit:
            raise InputError(
                f"--grid.{_dashes(name)} {text!r} of {self.name}: {one_line(printed.getvalue())}"
            ) from None
        one = get_origin(kind) is not tuple and any(_is_number(part) for part in get_args(kind))
        if one and isinstance(value, tuple):
            raise InputError(f"--grid.{_dashes(name)} {text!r}: give its values apart, each makes cells of its own")
        return value

    def run_name(self, values: dict[str, Any]) -> str:
        """Return the run name of some settings."""
        return self._name_and_identity(values)[0]

    def identity(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the identity of some settings, without their dataset."""
        return {**self._name_and_identity(values)[1], "activation": values["activation"]}

    def _name_and_identity(self, values: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return and cache both without dataset and activation, as a large grid has far fewer of these than cells.

        With a preset, a dataset has settings of its own.
        """
        left_out = ("activation",) if values.get("preset") else ("dataset", "activation")
        key = tuple(item for item in values.items() if item[0] not in left_out)
        if key not in self._known:
            arguments = self.build(dict(key))
            self._known[key] = run_name(arguments), identity(arguments)
        return self._known[key]

    def build(self, values: dict[str, Any]) -> RunArguments:
        """Build the agent's arguments with some settings changed, by name; check nothing."""
        changes = {name: value for name, value in values.items() if "." not in name}
        changes = with_preset(self.arguments, changes)
        for name, value in values.items():
            if "." in name:
                group, _, field = name.partition(".")
                before = changes.get(group, getattr(self.defaults, group))
                changes[group] = dataclasses.replace(before, **{field: value})
        return dataclasses.replace(self.defaults, **changes)


def read_agent(name: str) -> Agent:
    """Read the settings of an agent: the name of one of rlrat's, or a user's file, as `find_agent` takes them.

    Raises:
        InputError: the file does not exist, or holds no agent.
    """
    path = find_agent(name)
    module = ModuleType(f"rlrat_sweep_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # the dataclass looks up its types there
    try:
        exec(compile(_head(path), str(path), "exec"), module.__dict__)
        arguments = module.Arguments
        if not issubclass(arguments, RunArguments):
            raise TypeError("its Arguments are not RunArguments")
    except Exception as error:  # a user's file can raise anything
        what = f"{type(error).__name__}: {reason(error)}"
        raise InputError(f"{path} is no agent ({what}): it needs a dataclass Arguments(RunArguments)") from None
    return Agent(path.stem, path, arguments)


def check_axis(name: str, agents: Iterable[Agent]) -> None:
    """Raise `InputError` for a name of the grid that none of the agents can take."""
    if name in _OWN:
        raise InputError(f"--grid.{_dashes(name)} is a sweep's own: use {_OWN[name]}")
    agents = list(agents)
    if not any(agent.has(name) for agent in agents):
        known = sorted({kind for agent in agents for kind in agent.kinds} - set(_OWN))
        nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        hint = f"; did you mean {' or '.join(map(_dashes, nearest))}?" if nearest else ""
        raise InputError(f"--grid.{_dashes(name)}: no such setting of {', '.join(a.name for a in agents)}{hint}")


def command_line(values: dict[str, Any]) -> list[str]:
    """Turn settings by name into the words of an agent's command line."""
    words = []
    for name, value in values.items():
        if isinstance(value, bool):
            group, dot, field = _dashes(name).rpartition(".")
            words.append(f"--{group}{dot}{'' if value else 'no-'}{field}")
        else:
            words += [f"--{_dashes(name)}", *_words(value)]
    return words


def _words(value: Any) -> list[str]:
    return [word for one in value for word in _words(one)] if isinstance(value, tuple) else [str(value)]


def _head(path: Path) -> ast.Module:
    """Parse an agent's file up to its main block: its settings. All imports of torch come after."""
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    for index, statement in enumerate(tree.body):
        if isinstance(statement, ast.If) and "__main__" in ast.unparse(statement.test):
            del tree.body[index:]
            break
    return tree


def _kinds(arguments: type, prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, kind in get_type_hints(arguments, include_extras=True).items():
        if dataclasses.is_dataclass(kind):
            yield from _kinds(kind, f"{prefix}{name}.")
        else:
            yield prefix + name, kind


def _may_be_list(kind: Any) -> bool:
    return any(get_origin(part) is tuple for part in (kind, *get_args(kind)))


def _is_number(kind: Any) -> bool:
    return kind in (int, float) or (hasattr(kind, "__metadata__") and get_args(kind)[0] in (int, float))


def _dashes(name: str) -> str:
    return name.replace("_", "-")
