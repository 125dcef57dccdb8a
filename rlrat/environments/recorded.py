"""Find the environment that a policy is evaluated in: as the data records it, but for what the user chose.

It is what Minari's `recover_environment(eval_env=True)` makes, without its trust. Data may name a registered id,
settings that name no file and no module, a time limit, and wrappers of `gymnasium.wrappers`. The recorded ways to make
them (`entry_point`) are never used.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlrat.environments.making import NO_LIMIT, Wrapper, make, wrapper_class
from rlrat.environments.registry import NO_ENVIRONMENT, UnknownEnvironmentError, find_spec, how_to_install, typed
from rlrat.environments.settings import TAKEN, bare, same_settings
from rlrat.errors import InputError, reason
from rlrat.json_files import is_deep

_FILE_KEY = re.compile(r".*(file|path|xml|mjcf|urdf|folder|asset|module)|(.*_)?(dir(ectory|s)?|root|ur[li]|model)$")
_FILE_VALUE = re.compile(r"[~.]|.*[/\\]|.*\.[A-Za-z]\w*$|[\w.]+:", re.DOTALL)  # or a module's, or a drive's
# Within an episode they change neither observations nor rewards.
_WATCHING_WRAPPERS = {
    *("PassiveEnvChecker", "OrderEnforcing", "RecordEpisodeStatistics", "RecordVideo", "HumanRendering"),
    *("RenderCollection", "DataCollector", "Monitor", "Autoreset"),
}
_STATEFUL_WRAPPERS = {"NormalizeObservation", "NormalizeReward"}
"""What they have seen is a part of them, and of no record."""


class Recorded(Protocol):
    """The fields of a `Dataset` about the environment that it was collected in."""

    id: str
    env_id: str | None
    env_kwargs: Mapping[str, Any]
    env_recorded: Mapping[str, Any]
    """As the source has it: it may be any JSON."""


@dataclass(frozen=True)
class Environment:
    """The environment that a policy is evaluated in."""

    env_id: str
    """Its registered id."""
    env_kwargs: dict[str, Any]
    """Its settings."""
    max_episode_steps: int | None
    """Steps after which an episode is cut, None for never."""
    wrappers: tuple[Wrapper, ...] = ()
    """Around it, the innermost first, in addition to those that it is registered with."""
    unlike: tuple[str, ...] = ()
    """What the data records and this does otherwise, as clauses "records ..."."""
    notes: tuple[str, ...] = ()
    """What else is to be said, likewise."""

    def __str__(self) -> str:
        """Return its id, and in brackets the settings, time limit and wrappers that it is not registered with."""
        limit = {None: [], NO_LIMIT: ["no time limit"]}.get(self.limit, [f"at most {self.limit} steps"])
        about = [*(f"{name}={value!r}" for name, value in self.other_kwargs.items()), *limit, *map(str, self.wrappers)]
        return self.env_id + (f" ({reason(', '.join(about))})" if about else "")

    @property
    def limit(self) -> int | None:
        """Return the time limit as `gymnasium.make` takes it: None as it is registered, `NO_LIMIT` for never."""
        if self.max_episode_steps == find_spec(self.env_id).max_episode_steps:
            return None
        return NO_LIMIT if self.max_episode_steps is None else self.max_episode_steps

    @property
    def other_kwargs(self) -> dict[str, Any]:
        """Return the settings that it is not registered with."""
        registered = find_spec(self.env_id).kwargs
        return {
            name: value
            for name, value in self.env_kwargs.items()
            if name not in registered or not same_settings(value, registered[name])
        }

    def settings(self) -> dict[str, Any]:
        """Return what `config.json` has of it, as values that JSON can express."""
        return {
            "env_id": self.env_id,
            "env_kwargs": self.env_kwargs,
            "max_episode_steps": self.max_episode_steps,
            "wrappers": [{"name": wrapper.name, "kwargs": dict(wrapper.kwargs)} for wrapper in self.wrappers],
        }


def of_data(
    dataset: Recorded,
    env_id: str | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    max_episode_steps: int | None = None,
    *,
    ignore_wrappers: bool = False,
) -> Environment | None:
    """Return the environment to evaluate a policy trained on `dataset` in; None if there is none, or `none` is wanted.

    If the dataset says in which environment to evaluate (`eval_env_spec`), that one counts, else the one in which it
    was collected. What is recorded of an environment applies if it is the one that the user named, or nobody named one.

    Args:
        env_id: the environment that the user named, if any: its module is imported.
        env_kwargs: the settings that the user gave; they go over recorded ones.
        max_episode_steps: the time limit that the user gave.
        ignore_wrappers: leave out recorded wrappers that cannot be made again, instead of refusing them.

    Raises:
        InputError: the environment does not exist, recorded settings name files, a recorded wrapper cannot be made
            again, or there are settings of no environment.
    """
    given, where = dict(env_kwargs or {}), f"dataset {dataset.id}"
    specs, unlike = _specs(dataset)
    if env_id == NO_ENVIRONMENT or (env_id is None and not specs):
        if given:
            raise InputError(f"--env-kwargs sets {', '.join(given)}, but there is no environment: give its --env-id")
        return None
    if env_id is None:
        spec = specs[0]
        env_id = recorded_id(spec["id"], where, code_of(spec))
    else:
        env_id = typed(env_id)
        spec = next((spec for spec in specs if _id(spec) == env_id), None)
    registered = find_spec(env_id).max_episode_steps
    if spec is None:
        return Environment(env_id, given, registered if max_episode_steps is None else max_episode_steps)
    if spec is not specs[0]:
        unlike.append(f"records the environment {reason(repr(specs[0]['id']))} to evaluate in, not {env_id}")
    kwargs = recorded_kwargs(env_id, spec.get("kwargs", {}), given, where)
    limit, other, notes = _time_limit(spec, registered, max_episode_steps, f"{where} records")
    unlike += other
    wrappers, left_out = recorded_wrappers(env_id, spec.get("additional_wrappers"), where, kwargs)
    if left_out:
        if not ignore_wrappers:
            raise InputError(
                f"{where} records wrappers of {env_id} that cannot be made again: {left_out}; give --ignore-wrappers "
                "to evaluate without them, or --env-id none"
            )
        unlike.append(f"records wrappers that are left out (--ignore-wrappers): {left_out}")
    return Environment(env_id, kwargs, limit, wrappers, tuple(unlike), tuple(notes))


def _time_limit(
    spec: Mapping[str, Any], registered: int | None, given: int | None, begin: str
) -> tuple[int | None, list[str], list[str]]:
    """Return the steps after which an episode is cut, and what is to be said of it, as `Environment` has them."""
    limit = spec.get("max_episode_steps", registered)
    if given is not None:
        its = "no time limit" if limit is None else f"a time limit of {reason(limit)} steps"
        differs = "max_episode_steps" in spec and limit != given
        return given, [f"records {its}, not {given} steps (--max-episode-steps)"] if differs else [], []
    if limit is not None and (type(limit) is not int or limit < 1):
        wrong = f"{begin} max_episode_steps={reason(repr(limit))} of {_id(spec)}, which is no number of steps"
        raise InputError(f"{wrong}: give --max-episode-steps")
    if limit is not None or registered is None:
        return limit, [], []
    note = f"records no time limit of {_id(spec)}, which is registered with {registered} steps"
    return None, [], [f"{note}: an episode may never end (--max-episode-steps)"]


def _specs(dataset: Recorded) -> tuple[list[Mapping[str, Any]], list[str]]:
    """List the specs that a dataset records, that for evaluation first, each with an id; and what is not read of it."""
    env_recorded, unread = dataset.env_recorded, []
    if is_deep(env_recorded):
        env_recorded, unread = {}, ["records an environment in so many brackets that it is not read"]
    collected, judged = (_mapping(_mapping(env_recorded).get(name)) for name in ("env_spec", "eval_env_spec"))
    specs = [judged] if "id" in judged else []
    if dataset.env_id is not None:
        own = {"id": dataset.env_id, "kwargs": dataset.env_kwargs}
        specs.append({**collected, **own} if _id(collected) == _id(own) else own)
    return specs, unread


def recorded_id(env_id: Any, where: str, modules: Any = ()) -> str:
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
    except UnknownEnvironmentError as error:
        found = [module, *(modules if isinstance(modules, list | tuple) else [])]
        # As the user would have to type it: an import path, without characters special to a shell or terminal.
        found = [one for one in found if isinstance(one, str) and re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", one, re.ASCII)]
        told = f"{where} names the environment {reason(repr(env_id))}, which is not registered here"
        install = error.install or next(filter(None, (how_to_install(name, one) for one in found)), None)
        alone = "--env-id none, to train without evaluating in it"
        if install is not None:
            raise InputError(f"{told}: {install}, or give {alone}") from None
        if error.versions:
            newest = error.versions[0]
            raise InputError(
                f"{told}, but {newest} is: give --env-id {newest} if you want to evaluate there, which may be another "
                f"task, or {alone}"
            ) from None
        option = f"--env-modules {found[0]}" if found else "--env-modules with the module that registers it"
        raise InputError(
            f"{told}: give {option} if you trust that code, or another --env-id, or {alone}"
            + (f" ({error.hint})" if error.hint else "")
        ) from None
    return name


def code_of(spec: Any) -> list[str]:
    """Return the module that makes the environment according to a recorded spec, for a message; it is not imported."""
    entry_point = _mapping(spec).get("entry_point")
    return [str(entry_point).partition(":")[0]] if entry_point else []


def recorded_kwargs(env_id: str, kwargs: Any, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the settings that data records of a registered environment, overridden by those `given` by the user.

    The way it was drawn (`render_mode`) does not belong to the task. The name of a file or a module is accepted only
    from the user, or from the registration of the environment.

    Args:
        kwargs: as recorded: it may be any JSON.
        where: what records them, for the message.

    Raises:
        InputError: they are no settings, or name a file that the user has not named.
    """
    if not _are_settings(kwargs):
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


def recorded_wrappers(
    env_id: str, wrappers: Any, where: str, env_kwargs: Mapping[str, Any] | None = None
) -> tuple[tuple[Wrapper, ...], str]:
    """Return the wrappers that data records around an environment, and in words those that cannot be made again.

    Wrappers that only watch, and those that the environment comes with, are neither.

    Args:
        wrappers: as recorded, the innermost first: it may be any JSON.
        where: what records them, for the message.
        env_kwargs: settings with which the environment is made to see what it comes with, if some wrapper is unknown.

    Raises:
        InputError: they are no list of wrappers, or their settings are none or name files.
    """
    wrappers = [] if wrappers is None else wrappers
    if is_deep(wrappers) or not isinstance(wrappers, list) or not all(_is_wrapper(one) for one in wrappers):
        raise InputError(f"{where} records wrappers of {env_id} that are no list of names: give another --env-id")
    there = _added(wrappers, find_spec(env_id).additional_wrappers)
    if env_kwargs is not None and any(map(_problem, there)):
        env = make(env_id, env_kwargs)  # what registers it may put it into wrappers
        there = _added(wrappers, env.spec.additional_wrappers)
        env.close()
    problems = [_problem(one) for one in there]
    left_out = [f"{one['name']} ({problem})" for one, problem in zip(there, problems, strict=True) if problem]
    made = [one for one, problem in zip(there, problems, strict=True) if not problem]
    found = tuple(_wrapper(one["name"], one["kwargs"], where) for one in made)
    return found, reason(", ".join(left_out)) if left_out else ""


def _added(wrappers: list[Any], own: Sequence[Any]) -> list[Any]:
    """Return recorded wrappers that do not only watch, without those of `own` `WrapperSpec`s that they begin with."""
    ours = [{"name": one.name, "kwargs": one.kwargs} for one in own]
    begin = [{"name": one["name"], "kwargs": one.get("kwargs")} for one in wrappers[: len(ours)]]
    rest = wrappers[len(ours) :] if same_settings(begin, ours) else wrappers
    return [one for one in rest if one["name"] not in _WATCHING_WRAPPERS]


def saved_wrappers(wrappers: Any, where: str) -> tuple[Wrapper, ...]:
    """Return the wrappers that a `config.json` has, each with its `name` and `kwargs`.

    Args:
        wrappers: it may be any JSON.
        where: the file, for the message.

    Raises:
        InputError: one is none of Gymnasium's, or has no settings or settings that name files.
    """
    if is_deep(wrappers) or not isinstance(wrappers, list) or not all(_is_wrapper(one) for one in wrappers):
        raise InputError(f"{where} is damaged: wrappers are {reason(repr(wrappers))}")
    return tuple(_wrapper(one["name"], one.get("kwargs"), where) for one in wrappers)


def _wrapper(name: str, kwargs: Any, where: str) -> Wrapper:
    if wrapper_class(name) is None or not _are_settings(kwargs):
        raise InputError(f"{where} has the wrapper {reason(repr(name))}, which is not one of this Gymnasium's")
    for key, value in kwargs.items():
        if _names_file(key, value):
            raise InputError(
                f"{where} records {key}={reason(repr(value))} of the wrapper {name}, and data may name no files: give "
                "another --env-id"
            )
    return Wrapper(name, dict(kwargs))


def _is_wrapper(value: Any) -> bool:
    return isinstance(_mapping(value).get("name"), str)


def _problem(wrapper: Mapping[str, Any]) -> str | None:
    """Say why a recorded wrapper cannot be made again; return None if it can."""
    name, kwargs, entry_point = wrapper["name"], wrapper.get("kwargs"), wrapper.get("entry_point")
    if wrapper_class(name) is None or not re.fullmatch(rf"gymnasium\.wrappers[.\w]*:{name}", str(entry_point)):
        return "not one of Gymnasium's here"
    if name in _STATEFUL_WRAPPERS:
        return "what it had seen is not recorded"
    return None if _are_settings(kwargs) else "its settings are not recorded"


def _are_settings(kwargs: Any) -> bool:
    return not is_deep(kwargs) and isinstance(kwargs, Mapping) and all(isinstance(name, str) for name in kwargs)


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _id(spec: Mapping[str, Any]) -> str | None:
    return bare(spec["id"]) if isinstance(spec.get("id"), str) else None


def _names_file(name: str, value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_names_file(str(key), one) for key, one in value.items())
    if isinstance(value, list | tuple):
        return any(_names_file(name, one) for one in value)
    return isinstance(value, str) and bool(_FILE_KEY.match(name.lower()) or _FILE_VALUE.match(value))
