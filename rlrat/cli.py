"""Run an agent or a tool by its name: `rlrat iql --activation rational`, `rlrat sweep`, `rlrat compare`.

Each is a file, the one that `python agents/iql.py` runs in a clone. Nothing here needs torch.
"""

import ast
import difflib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Annotated

from rlrat.errors import InputError, one_line_errors
from rlrat.runs.agents import agent_names, agents_folder, find_agent

_OWN = {"new-agent": "Copy an agent to a file of your own, to change it."}


def tools() -> dict[str, Path]:
    """Find rlrat's tools, `scripts/*.py` in a clone: a file by each name."""
    files = sorted((agents_folder().parent / "scripts").glob("*.py"))
    return {file.stem: file for file in files if not file.stem.startswith("_")}


def files() -> dict[str, Path]:
    """Find the file of every command, agents first."""
    return {**{name: find_agent(name) for name in agent_names()}, **tools()}


def main(argv: list[str] | None = None) -> int:
    """Run the command that `argv` names, by default this process's; return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    with one_line_errors():
        if not argv or argv[0] in ("-h", "--help"):
            print("\n".join(usage()))
            return 0
        if argv[0] in ("-V", "--version"):
            print(f"rlrat {version('rlrat')}")
            return 0
        if argv[0] == "new-agent":
            return new_agent(argv[1:])
        file = _find(argv[0])
    _run(file, [f"rlrat {argv[0]}", *argv[1:]])
    return 0


def _run(file: Path, argv: list[str]) -> None:
    """Run a file as Python does: its main block reads the command line before torch is imported.

    runpy.run_path would put the file's path in the place of the program's name.
    """
    sys.argv = argv
    module = sys.modules["__main__"] = ModuleType("__main__")
    module.__file__ = str(file)
    exec(compile(file.read_bytes(), str(file), "exec"), module.__dict__)


def usage() -> Iterator[str]:
    """Give the lines of `rlrat --help`: every command, and what it is for."""
    yield "usage: rlrat COMMAND [OPTIONS]    (rlrat COMMAND --help for the options of one)"
    groups = {
        "train an agent": dict.fromkeys(agent_names()),
        "look at what was trained, and more": dict.fromkeys(tools()),
    }
    found = files()
    for title, names in groups.items():
        yield f"\n{title}:"
        for name in names:
            yield f"  {name:<22}{_purpose(found[name])}"
    for name, purpose in _OWN.items():
        yield f"  {name:<22}{purpose}"
    yield "\n  --version"


def _purpose(file: Path) -> str:
    """The first line of a file's docstring."""
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]


def _find(name: str) -> Path:
    found = files()
    if name.replace("-", "_") in found:
        return found[name.replace("-", "_")]
    names = [*found, *_OWN]
    if name.endswith(".py"):
        raise InputError(f"no command {name}: run a file of your own by python {name}")
    nearest = difflib.get_close_matches(name.replace("-", "_"), names, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise InputError(f"no command {name}: {hint}give one of {', '.join(names)}")


def new_agent(argv: list[str]) -> int:
    """Copy the file of an agent: `new-agent my_agent.py --from iql`; return the exit code."""
    import tyro

    from rlrat.runs.arguments import read_command_line

    @dataclass
    class NewAgent:
        file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MY_AGENT.py")]
        """Where to write it."""
        source: Annotated[str, tyro.conf.arg(name="from")] = "iql"
        """The agent to begin with."""

    given = read_command_line(NewAgent, _OWN["new-agent"], argv, prog="rlrat new-agent")
    if given.file.suffix != ".py":
        raise InputError(f"{given.file} must end in .py")
    source = find_agent(given.source)
    try:
        with given.file.open("x", encoding="utf-8") as file:
            # Its runs have the file's name: a sweep looks for them there.
            old, new = (f"Run({json.dumps(path.stem)}," for path in (source, given.file))
            file.write(source.read_text(encoding="utf-8").replace(old, new))
    except FileExistsError:
        raise InputError(f"{given.file} exists already: name another file") from None
    except OSError as error:
        raise InputError(f"{given.file} cannot be written: {error.strerror}") from None
    print(f"{given.file} is a copy of {given.source}: python {given.file} --help; rlrat sweep --agents {given.file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
