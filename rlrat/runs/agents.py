"""Find the file of an agent, and load it. Only loading imports torch."""

import difflib
import importlib.util
import os
import sys
import zlib
from pathlib import Path
from types import ModuleType

import rlrat
from rlrat.errors import InputError


def agents_folder() -> Path:
    """The folder of rlrat's own agents: `agents` beside `rlrat` in a clone, else `rlrat/agents`.

    What an installed rlrat has beside it are other projects, one of which may be called `agents`.
    """
    package = Path(rlrat.__file__).resolve().parent
    clone = (package.parent / "pyproject.toml").is_file() and not (package / "agents").is_dir()
    return (package.parent if clone else package) / "agents"


def agent_names() -> tuple[str, ...]:
    """List the names of rlrat's own agents, sorted."""
    return tuple(sorted(file.stem for file in agents_folder().glob("*.py") if not file.stem.startswith("_")))


def find_agent(name: str) -> Path:
    """Find the file of the agent called `name`; a `name` that ends in .py is the path of a file of one's own.

    Raises:
        InputError: no such agent.
    """
    if name.endswith(".py"):
        if os.path.isfile(name):
            return Path(name).resolve()
    elif name in agent_names():
        return agents_folder() / f"{name}.py"
    known = agent_names()
    if not known:
        raise InputError(f"no agent {name}: rlrat is installed without any, so give a file of your own")
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {nearest[0]}? " if nearest else ""
    raise InputError(f"no agent {name}: {hint}give one of {', '.join(known)}, or a file of your own")


def load_agent(name: str) -> ModuleType:
    """Load the agent that `find_agent` finds: rlrat's own are the modules that `import agents.<name>` gives.

    A file of one's own is loaded by itself: the modules beside it are not on the path, as they are where it is run.

    Raises:
        InputError: no such agent.
    """
    path = find_agent(name)
    name = f"agents.{path.stem}"
    if path.parent != agents_folder():  # of one's own: never in the place of rlrat's agent of the same name
        name = f"rlrat_agent_{zlib.crc32(os.fsencode(path)):08x}_{path.stem}"
    elif path.parent.parent == Path(rlrat.__file__).resolve().parent:  # of a wheel, so that what it pickles is found
        return importlib.import_module(f"rlrat.agents.{path.stem}")
    elif _imports_find(path.parent):
        return importlib.import_module(name)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)  # where dataclasses look their types up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _imports_find(folder: Path) -> bool:
    """Tell whether `import agents` finds this folder: where rlrat is installed, it may find another project's."""
    spec = importlib.util.find_spec("agents")
    places = spec and spec.submodule_search_locations
    return bool(places) and os.path.realpath(next(iter(places))) == str(folder)


def learner_class(module: ModuleType) -> type:
    """Find the class of the learner in an agent's module: the one defined there that has `inputs` and `update`.

    Raises:
        InputError: there is none, or several.
    """
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and value.__module__ == module.__name__
        if hasattr(value, "inputs") and hasattr(value, "update")
    ]
    if len(found) != 1:
        names = ", ".join(kind.__name__ for kind in found) or "none"
        raise InputError(f"{module.__file__} must have one class with inputs and update, but has {names}")
    return found[0]
