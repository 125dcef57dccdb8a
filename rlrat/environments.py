"""Which environment is meant: found by its registered id, and nothing that data names is ever imported for it.

An environment is code, so it is the user who says where that code comes from: with a typed `module:Name-v0`, with
`--env-modules`, by having registered it in this process, or by having installed Gymnasium or one of `KNOWN_PACKAGES`.
What a dataset, a run folder or a sweep folder records is looked up among these and may name no more.
"""

import difflib
import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rlrat.errors import InputError, reason

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

    from rlrat.datasets import Dataset

KNOWN_PACKAGES = {"gymnasium_robotics": "gymnasium-robotics", "ogbench": "ogbench"}
"""Packages that register environments when they are imported, and what they are installed as."""

_FILE_KEY = re.compile(r"(.*_)?(file|files|path|paths|dir|folder|xml|model)$")
_FILE_VALUE = re.compile(r"[~.]|.*[/\\]|.*\.[A-Za-z]\w{1,5}$", re.DOTALL)


def import_modules(names: Iterable[str]) -> None:
    """Import the modules that the user named, so that they register their environments.

    A module in the working directory is found, after all that is installed.

    Raises:
        InputError: no such module, or one that cannot be imported.
    """
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise InputError(f"--env-modules has {name!r}, but a module's name is needed, such as my_envs")
        _find_here(name)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise InputError(f"the module {name} needs {error.name}, which is not installed") from None
            raise InputError(
                f"there is no module {name}: it must be installed, or lie in the working directory or in PYTHONPATH"
            ) from None
        except Exception as error:  # whatever somebody's module does
            raise InputError(
                f"the module {name} cannot be imported: {type(error).__name__}: {reason(error)}"
            ) from error


def _find_here(name: str) -> None:
    """Let Python look for a module in the working directory where it is nowhere else, as it does for a script there."""
    top, here = name.partition(".")[0], os.getcwd()
    if top in sys.modules or here in sys.path or importlib.util.find_spec(top) is not None:
        return
    if importlib.machinery.PathFinder.find_spec(top, [here]) is not None:
        sys.path.append(here)


def bare(env_id: str) -> str:
    """An environment's registered id, without the module that it was named with."""
    return env_id.rpartition(":")[2]


def typed(env_id: str) -> str:
    """The registered id of an environment that the user named, `Hopper-v5` or `my_envs:Toy-v0`, once it is there.

    Raises:
        InputError: no such module or environment.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        import_modules([module])
    find_spec(name)
    return name


def recorded(env_id: str, where: str) -> str:
    """The registered id of an environment that data names; a module in it is not imported.

    Args:
        where: what names it, for the message.

    Raises:
        InputError: it is not registered here.
    """
    module, _, name = env_id.rpartition(":")
    try:
        find_spec(name)
    except InputError as error:
        option = f"--env-modules {module}" if module else "--env-modules with the module that registers it"
        raise InputError(
            f"{where} names the environment {env_id!r}, which is not registered here: give {option} "
            f"if you trust that code, or another --env-id ({error})"
        ) from None
    return name


def of_data(
    dataset: "Dataset", env_id: str | None = None, env_kwargs: Mapping[str, Any] | None = None
) -> tuple[str, dict[str, Any]]:
    """The registered id and the settings of the environment that a policy trained on `dataset` is evaluated in.

    Where it is the recorded one, its recorded settings apply.

    Args:
        env_id: what the user named, if anything: its module is imported.
        env_kwargs: the settings that the user gave.

    Raises:
        InputError: none is named, or it is not there; recorded settings that name files.
    """
    given = dict(env_kwargs or {})
    where = f"dataset {dataset.id}"
    if env_id is not None:
        env_id = typed(env_id)
    elif dataset.env_id is None:
        raise InputError(f"{where} names no environment: give --env-id")
    else:
        env_id = recorded(dataset.env_id, where)
    if dataset.env_id is None or bare(dataset.env_id) != env_id:
        return env_id, given
    return env_id, recorded_kwargs(env_id, dataset.env_kwargs, given, where)


def find_spec(name: str) -> "EnvSpec":
    """How a registered environment is made.

    Raises:
        InputError: there is none of that name, nor in `KNOWN_PACKAGES` where they are installed.
    """
    try:
        import gymnasium
    except ModuleNotFoundError:
        raise InputError("evaluation needs Gymnasium: pip install 'gymnasium[mujoco]'") from None
    from gymnasium.envs.registration import registry

    if name not in registry:
        for module, package in KNOWN_PACKAGES.items():
            if module not in sys.modules and _is_installed(package):
                import_modules([module])
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error:
        near = nearest(name, cutoff=0.6)
        known = ", ".join(sorted(_mujoco_ids().values()))
        raise InputError(
            f"unknown environment {name!r}: "
            + (f"did you mean {' or '.join(near)}?" if near else f"the MuJoCo environments are {known}")
        ) from None


def recorded_kwargs(env_id: str, kwargs: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The settings that data records of a registered environment, and over them those that the user has `given`.

    How it was drawn (`render_mode`) is none of the task. A file's name is taken from the user alone, or from how the
    environment is registered.

    Args:
        where: what records them, for the message.

    Raises:
        InputError: they name a file that the user has not.
    """
    registered = find_spec(env_id).kwargs
    kept = {name: value for name, value in kwargs.items() if name != "render_mode"}
    for name, value in kept.items():
        if name not in given and value != registered.get(name) and _names_file(name, value):
            raise InputError(
                f"{where} records {name}={value!r} of {env_id}, and data may name no files: give "
                f"--env-kwargs {name}=... yourself if you want it"
            )
    return {**kept, **given}


def _names_file(name: str, value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_names_file(str(key), one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return any(_names_file(name, one) for one in value)
    return isinstance(value, str) and bool(_FILE_KEY.match(name.lower()) or _FILE_VALUE.match(value))


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _mujoco_ids() -> dict[str, str]:
    """The ids of Gymnasium's own MuJoCo environments by their lower-case spelling."""
    from gymnasium.envs.registration import registry

    return {
        key.lower(): key
        for key, spec in registry.items()
        # Older versions need mujoco_py.
        if str(spec.entry_point).startswith("gymnasium.envs.mujoco") and spec.version >= 4
    }


def nearest(name: str, cutoff: float) -> list[str]:
    """Gymnasium's MuJoCo environments that are called nearly so."""
    known = _mujoco_ids()
    return [known[key] for key in difflib.get_close_matches(name.lower(), known, n=2, cutoff=cutoff)]
