"""Find an environment by its registered id; never import what data names.

An environment is code, and only the user decides where that code comes from: from a typed `module:Name-v0`, from
`--env-modules`, from an environment registered in this process, or from an installed Gymnasium or one of
`KNOWN_PACKAGES`. What a dataset, a run folder or a sweep folder records is looked up among these. It may name only an
id, and settings that name no file and no module. The recorded way to make it (`entry_point`) is never used.
"""

import difflib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from rlrat.environments import d4rl
from rlrat.environments.settings import TAKEN, bare, same_settings
from rlrat.errors import InputError, reason
from rlrat.json_files import is_deep

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

KNOWN_PACKAGES = {"gymnasium_robotics": "gymnasium-robotics", "ogbench": "ogbench"}
"""Packages that register environments when they are imported, and what they are installed as."""

NO_ENVIRONMENT = "none"
"""What `--env-id` says where there is none, or none is wanted."""

MOST_EPISODES = 100_000
"""Episodes that can be played at once: each seed of each combination of settings has as many as it is judged by."""

_FILE_KEY = re.compile(r".*(file|path|xml|mjcf|urdf|folder|asset|module)|(.*_)?(dir(ectory|s)?|root|ur[li]|model)$")
_FILE_VALUE = re.compile(r"[~.]|.*[/\\]|.*\.[A-Za-z]\w*$|[\w.]+:", re.DOTALL)  # or a module's, or a drive's
# They change neither observations nor rewards.
_WATCHING_WRAPPERS = {
    *("PassiveEnvChecker", "OrderEnforcing", "RecordEpisodeStatistics", "RecordVideo", "HumanRendering"),
    *("RenderCollection", "DataCollector", "Monitor"),
}


class Recorded(Protocol):
    """The fields of a `Dataset` about the environment that it was collected in."""

    id: str
    env_id: str | None
    env_kwargs: Mapping[str, Any]
    env_recorded: Mapping[str, Any]
    """As the source has it: it may be any JSON."""


def import_modules(names: str | Iterable[str], option: str = "--env-modules") -> None:
    """Import the modules that the user named: they register their environments.

    A module in the working directory is found too; installed modules come first.

    Args:
        names: one module's name, or several.
        option: the option with which the user gave them, for the message.

    Raises:
        InputError: no such module, or one that cannot be imported.
    """
    for name in (names,) if isinstance(names, str) else names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise InputError(f"{option} has {name!r}, but a module's name is needed, such as my_envs")
        _find_here(name)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise InputError(f"the module {name} needs {error.name}, which is not installed") from None
            raise InputError(
                f"there is no module {name}: it must be installed, or lie in the working directory or in PYTHONPATH"
            ) from None
        except (Exception, SystemExit) as error:  # a user's module may raise anything
            raise InputError(
                f"the module {name} cannot be imported: {type(error).__name__}: {reason(error)}"
            ) from error


def _find_here(name: str) -> None:
    """Let Python look for a module in the working directory if it is nowhere else, as for a script there."""
    top, here = name.partition(".")[0], os.getcwd()
    if top in sys.modules or here in sys.path or importlib.util.find_spec(top) is not None:
        return
    if importlib.machinery.PathFinder.find_spec(top, [here]) is not None:
        sys.path.append(here)


def typed(env_id: str) -> str:
    """Return the registered id of an environment that the user named as `Hopper-v5` or `my_envs:Toy-v0`.

    Raises:
        InputError: no such module or environment.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        import_modules(module, "--env-id")
    find_spec(name)
    return name


def recorded(env_id: str, where: str, modules: Any = ()) -> str:
    """Return the registered id of an environment that data names; a module in the name is not imported.

    Args:
        where: what names it, for the message.
        modules: what else the data says about the place of its code, any JSON, for the message.

    Raises:
        InputError: it is not registered here.
    """
    if not isinstance(env_id, str):
        raise InputError(f"{where} names the environment {reason(repr(env_id))}, which is no text: give --env-id")
    module, _, name = env_id.rpartition(":")
    try:
        find_spec(name)
    except _UnknownError as error:
        found = [module, *(modules if isinstance(modules, list | tuple) else [])]
        # As the user would have to type it: an import path, without characters special to a shell or terminal.
        found = [one for one in found if isinstance(one, str) and re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", one, re.ASCII)]
        option = f"--env-modules {found[0]}" if found else "--env-modules with the module that registers it"
        raise InputError(
            f"{where} names the environment {reason(repr(env_id))}, which is not registered here: give {option} "
            "if you trust that code, or another --env-id" + (f" ({error.hint})" if error.hint else "")
        ) from None
    return name


def of_data(
    dataset: Recorded, env_id: str | None = None, env_kwargs: Mapping[str, Any] | None = None
) -> tuple[str | None, dict[str, Any]]:
    """Return the registered id and the settings of the environment to evaluate a policy trained on `dataset` in.

    If it is the recorded environment, its recorded settings apply. The id is None where no environment is named, or
    the user named `none`.

    Args:
        env_id: the environment that the user named, if any: its module is imported.
        env_kwargs: the settings that the user gave.

    Raises:
        InputError: the environment does not exist, recorded settings name files, or there are settings of none.
    """
    given = dict(env_kwargs or {})
    where = f"dataset {dataset.id}"
    if env_id == NO_ENVIRONMENT or (env_id is None and dataset.env_id is None):
        if given:
            raise InputError(f"--env-kwargs sets {', '.join(given)}, but there is no environment: give its --env-id")
        return None, {}
    env_id = recorded(dataset.env_id, where, code_of(dataset.env_recorded)) if env_id is None else typed(env_id)
    if dataset.env_id is None or bare(dataset.env_id) != env_id:
        return env_id, given
    return env_id, recorded_kwargs(env_id, dataset.env_kwargs, given, where)


def code_of(env_recorded: Mapping[str, Any]) -> list[str]:
    """Return the module that makes the environment according to the data, for a message; it is not imported."""
    entry_point = _mapping(env_recorded.get("env_spec")).get("entry_point")
    return [str(entry_point).partition(":")[0]] if entry_point else []


def find_spec(name: str) -> "EnvSpec":
    """Return the spec of a registered environment, which says how it is made.

    Raises:
        InputError: there is none of that name, also not in the installed ones of `KNOWN_PACKAGES`.
    """
    try:
        import gymnasium
    except ModuleNotFoundError:
        raise InputError("evaluation needs Gymnasium: pip install 'gymnasium[mujoco]'") from None
    from gymnasium.envs.registration import registry

    broken = ""
    d4rl.register(name)
    if name not in registry:
        for module, package in KNOWN_PACKAGES.items():
            if module not in sys.modules and _is_installed(package):
                try:
                    importlib.import_module(module)
                except Exception as error:  # its dependencies may raise anything
                    broken += f" {package} cannot be imported: {type(error).__name__}: {reason(error)}"
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error:
        raise _UnknownError(name, broken) from None


class _UnknownError(InputError):
    """No environment of that name is registered; `hint` says which name may be meant and which package is broken."""

    def __init__(self, name: str, broken: str) -> None:
        near = nearest(name, cutoff=0.6)
        self.hint = (f"did you mean {' or '.join(near)}?" if near else "") + broken
        known = f"the MuJoCo environments are {', '.join(sorted(_mujoco_ids().values()))}"
        super().__init__(f"unknown environment {reason(repr(name))}: {self.hint or known}")


def recorded_kwargs(env_id: str, kwargs: Mapping[str, Any], given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the settings that data records of a registered environment, overridden by those `given` by the user.

    The way it was drawn (`render_mode`) does not belong to the task. The name of a file or a module is accepted only
    from the user, or from the registration of the environment.

    Args:
        where: what records them, for the message.

    Raises:
        InputError: they are no settings, or name a file that the user has not named.
    """
    if is_deep(kwargs) or not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
        raise InputError(f"{where} records settings of {env_id} that are no names and values: give another --env-id")
    registered = find_spec(env_id).kwargs
    kept = {name: value for name, value in kwargs.items() if name not in TAKEN}
    for name, value in kept.items():
        if name not in given and not same_settings(value, registered.get(name)) and _names_file(name, value):
            raise InputError(
                f"{where} records {name}={reason(repr(value))} of {env_id}, and data may name no files: give "
                f"--env-kwargs {name}=... yourself if you want it"
            )
    return {**kept, **given}


def not_followed(
    dataset: Recorded, env_id: str, env_kwargs: Mapping[str, Any], max_episode_steps: int | None = None
) -> list[str]:
    """List what a dataset records of its environment and an evaluation does differently, as clauses "records ...".

    If a dataset says in which environment to evaluate (`eval_env_spec`), that one counts, else the one in which it was
    collected. If the user chose another environment, the list is empty.

    Args:
        dataset: its `env_recorded` may be any JSON.
        env_id: the registered id of the environment of the evaluation.
        env_kwargs: its settings.
        max_episode_steps: its time limit, if it is not the registered one.
    """
    if is_deep(dataset.env_recorded):
        return ["records an environment in so many brackets that it is not read"]
    collected, judged = (_mapping(dataset.env_recorded.get(name)) for name in ("env_spec", "eval_env_spec"))
    if not judged:
        return _differences(collected, env_id, max_episode_steps) if _id(collected) == env_id else []
    if _id(judged) != env_id:
        named = f"records the environment {reason(repr(judged.get('id')))} to evaluate in, not {env_id}"
        return [named] if _id(collected) == env_id else []
    registered, settings = find_spec(env_id).kwargs, _mapping(judged.get("kwargs"))
    settings = {name: value for name, value in settings.items() if name not in TAKEN}
    found = _differences(judged, env_id, max_episode_steps)
    if not same_settings({**registered, **settings}, {**registered, **env_kwargs}):
        found.append(
            f"records the settings {reason(repr(settings))} to evaluate with, not {reason(repr(dict(env_kwargs)))}"
        )
    return found


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _id(spec: Mapping[str, Any]) -> str | None:
    return bare(spec["id"]) if isinstance(spec.get("id"), str) else None


def _differences(spec: Mapping[str, Any], env_id: str, max_episode_steps: int | None) -> list[str]:
    """List how time limit and wrappers of a recorded `EnvSpec` differ from the registered ones with this time limit."""
    registered, found = find_spec(env_id), []
    limit = registered.max_episode_steps if max_episode_steps is None else max_episode_steps
    there = spec.get("max_episode_steps", limit)
    if there != limit:
        its = "no time limit" if there is None else f"a time limit of {reason(there)} steps"
        ours = "none" if limit is None else f"{limit} steps"
        found.append(f"records {its}, not {ours} (--max-episode-steps)")
    own = [(wrapper.name, wrapper.kwargs) for wrapper in registered.additional_wrappers]
    wrappers = spec.get("additional_wrappers") or []
    names = []
    for wrapper in wrappers if isinstance(wrappers, list) else [wrappers]:
        name, kwargs = _mapping(wrapper).get("name", wrapper), _mapping(wrapper).get("kwargs")
        if any(name == its and same_settings(kwargs, settings) for its, settings in own):
            continue
        if not (isinstance(name, str) and name in _WATCHING_WRAPPERS):
            names.append(str(name))
    if names:
        found.append(f"records wrappers that are not applied: {reason(', '.join(names))}")
    return found


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
    """Return the ids of Gymnasium's own MuJoCo environments by their lower-case spelling."""
    from gymnasium.envs.registration import registry

    return {
        key.lower(): key
        for key, spec in registry.items()
        # Older versions need mujoco_py.
        if str(spec.entry_point).startswith("gymnasium.envs.mujoco") and (spec.version or 0) >= 4
    }


def nearest(name: str, cutoff: float) -> list[str]:
    """Return the ids of Gymnasium's MuJoCo environments that are similar to `name`."""
    known = _mujoco_ids()
    return [known[key] for key in difflib.get_close_matches(name.lower(), known, n=2, cutoff=cutoff)]
