"""Say what a run learns from of its data's rewards, where the data decides it."""

from typing import Any

from rlrat.datasets import Dataset
from rlrat.datasets.d4rl_names import family_of
from rlrat.datasets.units import reward_rule
from rlrat.runs.arguments import RunArguments


def reward_identity(dataset: Dataset, arguments: RunArguments) -> dict[str, Any]:
    """Return the part of a run's identity that says how rewards are scaled and shifted; nothing of agents that do not.

    A shift is there as it was typed, or where the data decides one: older runs have none.
    """
    given = _given(arguments)
    if given is None:
        return {}
    scaling, shift = reward_rule(dataset, *given)
    return {"reward_scaling": scaling, **({"reward_shift": shift} if shift != (given[1] or 0.0) else {})}


def describe_rewards(dataset: Dataset, arguments: RunArguments) -> str | None:
    """Say in words what the data decides of the rewards; return None where it decides nothing."""
    found = reward_identity(dataset, arguments)
    said = []
    if "reward_shift" in found:
        said.append(f"{-found['reward_shift']:g} is subtracted (--reward-shift)")
    if found and found["reward_scaling"] != arguments.reward_scaling:
        said.append("they are not scaled (--reward-scaling)")
    if not said:
        return None
    family = family_of(dataset.id, dataset.env_id)
    whose = "OGBench" if family is None else f"{family}, as IQL's authors have them"
    return f"rewards of {whose}: {', and '.join(said)}"


def _given(arguments: RunArguments) -> tuple[Any, float | None] | None:
    """Return what was typed, `reward_scaling` and `reward_shift`; an agent of one's own may have the first alone."""
    scaling = getattr(arguments, "reward_scaling", None)
    return None if scaling is None else (scaling, getattr(arguments, "reward_shift", 0.0))
