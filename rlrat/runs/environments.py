"""Find where a run is evaluated, what of it is part of the run's identity, and the scores that belong to it."""

from collections.abc import Sequence
from typing import Any

from rlrat.datasets import Dataset
from rlrat.environments.making import NotMadeError, RefusedError
from rlrat.environments.observations import Parts
from rlrat.environments.recorded import Environment, of_data
from rlrat.environments.settings import bare, parse_env_kwargs, same_settings
from rlrat.errors import InputError
from rlrat.evaluation.evaluator import Evaluator
from rlrat.evaluation.scores import Reference, find_reference, recorded_reference
from rlrat.runs.arguments import RunArguments


def find_environment(dataset: Dataset, arguments: RunArguments) -> Environment | None:
    """Find the environment of a run on `dataset`; return None where there is none.

    Raises:
        InputError: what `of_data` refuses.
    """
    return of_data(
        dataset,
        arguments.env_id,
        parse_env_kwargs(arguments.env_kwargs),
        arguments.max_episode_steps,
        ignore_wrappers=arguments.ignore_wrappers,
    )


def environment_identity(environment: Environment | None, arguments: RunArguments) -> dict[str, Any]:
    """Return the part of a run's identity that says where it is evaluated.

    A time limit that was typed is kept as it was typed, else it is there where it is not the registered one. Wrappers
    are there only where there are any, as older runs have none.
    """
    if environment is None:
        return {"env_id": None, "env_kwargs": {}}
    typed = arguments.max_episode_steps
    found = {**environment.settings(), "max_episode_steps": environment.limit if typed is None else typed}
    return {name: value for name, value in found.items() if name != "wrappers" or value}


def applicable_reference(dataset: Dataset, environment: Environment, typed_limit: int | None) -> Reference | None:
    """Find what scores are relative to; return None where the evaluation differs from its measurement.

    Returns are those of the registered environment. A success rate is one under any settings that the data records, and
    under those that the user gave, but for a time limit.
    """
    family, kwargs = dataset.reference, environment.other_kwargs
    if family is None or environment.unlike:
        return None
    if family == "recorded":
        as_recorded = environment.env_id == bare(dataset.env_id) and same_settings(
            environment.env_kwargs, dataset.env_kwargs
        )
        return recorded_reference(environment.env_id, dataset.env_recorded) if as_recorded else None
    if environment.limit is not None and not (family == "success" and typed_limit is None):
        return None
    if environment.wrappers and family != "success":
        return None
    if family == "d4rl" and same_settings(environment.env_kwargs, dataset.env_kwargs):
        kwargs = {}  # D4RL's references are for its data's own settings, such as Ant's contact forces
    return find_reference(environment.env_id, family, kwargs)


def make_evaluator(
    environment: Environment,
    parts: Parts,
    seeds: Sequence[int],
    episodes: int,
    num_threads: int | None,
    repeats: int = 1,
) -> Evaluator:
    """Make the environments of an evaluation that shows the `parts` of observations; the rest is as for `Evaluator`.

    Where something is not installed or settings are refused, the error says that training needs no environment.
    """
    settings = (environment.env_kwargs, num_threads, repeats)
    around = {"max_episode_steps": environment.limit, "wrappers": environment.wrappers}
    names = [name for name, _ in parts] or None
    try:
        return Evaluator(environment.env_id, seeds, episodes, *settings, **around, observation_parts=names)
    except (NotMadeError, RefusedError) as error:
        raise InputError(f"{error}; --env-id none trains without evaluating in it") from None
