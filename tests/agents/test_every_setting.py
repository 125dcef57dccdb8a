"""Every setting of every agent changes what is learned; a new one is covered by itself."""

import dataclasses
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from rlrat.runs.agents import load_agent
from rlrat.runs.arguments import Range, RunArguments, identity
from rlrat.runs.schema import ROLE_SETTINGS
from rlrat.updates.learner import check_learner
from tests.agents.learners import AGENTS, make_learner
from tests.agents.registered import REGISTERED

# Settings that are part of a run's identity, but not of what is learned.
ELSEWHERE = {
    "dataset": "the learner is given one",
    "env_id": "where policies are evaluated",
    "env_kwargs": "where policies are evaluated",
    "max_episode_steps": "where policies are evaluated",
    "ignore_wrappers": "where policies are evaluated",
    "action_bounds": "the learner is given a dataset that has them",
    "drop_achieved_goal": "the learner is given a dataset with or without it",
    "total_updates": "how long; what schedules make of it is tested in test_every_agent.py",
    "eval_every": "when policies are evaluated",
    "eval_at": "when policies are evaluated",
    "eval_episodes": "how policies are evaluated",
    "holdout": "which episodes the run gives to the learner (tests/runs/test_offline.py)",
    "fqe_updates": "how policies are judged without rollouts",
    "precision": "of the whole process, which the run sets (tests/updates/test_machine.py)",
    **dict.fromkeys(
        ("warmup_updates", "weight_decay", "max_norm", "schedule", "actor_schedule", "critic_schedule"),
        "of each optimizer: test_every_agent.py, where none escapes what is said of all",
    ),
    "target_returns": "what a Decision Transformer is asked for when it is evaluated",
}
NAMES = ("tanh", "gelu")  # for settings that are names


def alternatives(kind: Any, value: Any, bounds: Range | None = None) -> list[list[Any]]:
    """Other values of a type. Of each list at least one must change something: for a number they go far."""
    if get_origin(kind) is Literal:
        return [[choice] for choice in get_args(kind) if choice != value]
    parts = get_args(kind)
    if hasattr(kind, "__metadata__"):
        ranges = [bound for bound in kind.__metadata__ if isinstance(bound, Range)]
        return alternatives(parts[0], value, ranges[0] if ranges else None)
    if get_origin(kind) is tuple:
        value = value or (1,)
        kinds = [parts[0]] * len(value) if parts[-1] is ... else parts
        found = []
        for index, part in enumerate(kinds):
            for choices in alternatives(part, value[index]):
                found.append([(*value[:index], choice, *value[index + 1 :]) for choice in choices])
        return found
    if parts:  # a union: a setting that may have several values, or None
        return alternatives(next(part for part in parts if part is not NoneType), value, bounds)
    if kind is bool:
        return [[not value]]
    if kind is str:
        return [[name] for name in NAMES if name != value]
    assert kind in (int, float), f"tell this test how another {kind} is made"
    number = 0 if value is None else value
    if kind is int:
        choices = [number + 1, number - 1]
    else:
        choices = [number / 2, number * 2, number / 100, 0.5, 100.0, -1e3, 1e3]
    return [[choice for choice in choices if choice != value and (bounds is None or choice in bounds)]]


def settings(agent: str) -> dict[str, list[list[dict[str, Any]]]]:
    """For each setting of the identity, what `make_learner` takes to have others."""
    kind = load_agent(agent).Arguments
    base, judged = kind(**make_learner_settings(agent)), identity(kind())
    of_roles = {f"{role}_{name}": (role, name) for role in kind.roles for name in ROLE_SETTINGS}
    absent = tuple(f"{role}_{name}" for role in kind.absent_roles for name in ROLE_SETTINGS)
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        if name in ELSEWHERE or name in absent:
            continue
        value = base.of_role(*of_roles[name]) if name in of_roles else getattr(base, name)
        enough = 1 if name in of_roles else None  # what other values do is seen where all roles have them
        if dataclasses.is_dataclass(hint):
            for inner, inner_hint in get_type_hints(hint, include_extras=True).items():
                choices = alternatives(inner_hint, getattr(value, inner))[:enough]
                found[f"{name}.{inner}"] = [
                    [{name: dataclasses.replace(getattr(base, name), **{inner: choice})} for choice in some]
                    for some in choices
                ]
        elif name in judged:
            found[name] = [[{name: choice} for choice in some] for some in alternatives(hint, value)[:enough]]
    assert found.keys() == {name for name in judged if name not in ELSEWHERE and not name.startswith(absent)}
    return found


def make_learner_settings(agent: str) -> dict[str, Any]:
    return {
        "activation": "rational",
        "norm": "layer",  # of which --norm-epsilon is
        "hidden_dims": (8, 8),
        "batch_size": 8,
        "total_updates": 4,
        **REGISTERED[agent].small,
        **REGISTERED[agent].counting,
    }


def learned(agent: str, dataset, **changed) -> dict[str, torch.Tensor]:
    learner, _ = make_learner(agent, dataset, [3], **{**make_learner_settings(agent), **changed})
    check_learner(learner, 1)
    for update in range(2):
        learner.update(*learner.inputs(update))
    return learner.state_dict()


def equal(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def assert_every_setting_counts(dataset, agent: str, only: str | None = None) -> None:
    """Train with other values of each setting, or of one alone: all parameters and buffers are not as before."""
    plain, unused = learned(agent, dataset), []
    for name, groups in settings(agent).items():
        if only not in (None, name):
            continue
        assert groups, f"tell this test how another {name} is made"
        for choices in groups:
            if all(equal(plain, learned(agent, dataset, **choice)) for choice in choices):
                unused.append(choices)
    assert not unused, f"{agent} learns the same; `counting` in tests/agents/registered.py may let these count"


@pytest.mark.parametrize("agent", AGENTS)
def test_every_setting_changes_what_is_learned(small_dataset, agent):
    assert equal(learned(agent, small_dataset), learned(agent, small_dataset))
    assert_every_setting_counts(small_dataset, agent)
    assert ("critic" in load_agent(agent).Arguments.roles) == bool(REGISTERED[agent].critics)


class HostTensors(TorchDispatchMode):
    """Lists the operations on tensors that are not on `meta`, which plays the GPU: on one, each would wait for it."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not _all_meta((args, kwargs or {}, result)):
            self.found.append(str(func))
        return result


def _all_meta(values) -> bool:
    """Say whether all tensors are on `meta`."""
    if isinstance(values, torch.Tensor):
        return values.is_meta
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (list, tuple)):
        return True
    return all(map(_all_meta, values))


def on_the_host(agent: str, dataset, **changed) -> list[str]:
    """What the first updates do on the host with these settings."""
    settings = {**make_learner_settings(agent), **changed}
    learner, _ = make_learner(agent, dataset, [3, 4], "meta", **settings)
    seen = HostTensors()
    for update in range(2):  # TD3+BC's policy learns in the second
        inputs = learner.inputs(update)
        with seen:
            learner.update(*inputs)
    return seen.found


@pytest.mark.parametrize("agent", AGENTS)
def test_an_update_stays_on_the_device(small_dataset, agent):
    """Also where each member has its own value of every setting that may have several."""
    assert on_the_host(agent, small_dataset) == []
    kind = load_agent(agent).Arguments
    values = {**dataclasses.asdict(kind()), "max_norm": 0.5, **make_learner_settings(agent)}
    several = [name for name, hint in get_type_hints(kind).items() if {float, tuple[float, ...]} <= set(get_args(hint))]
    assert several
    own = {name: torch.full((2, 1), values[name], device="meta") for name in several if name != "weight_decay"}
    assert on_the_host(agent, small_dataset, **own) == []


@pytest.mark.slow
@pytest.mark.parametrize("agent", AGENTS)
def test_an_update_stays_on_the_device_with_every_setting(small_dataset, agent):
    for groups in settings(agent).values():
        for choices in groups:
            assert on_the_host(agent, small_dataset, **choices[0]) == [], choices[0]


def test_what_is_not_on_the_device_is_found():
    with HostTensors() as seen:
        torch.ones(2, device="meta") + torch.tensor([1.0, 2.0], device="cpu").to("meta")
    assert "aten._to_copy.default" in seen.found
    assert "aten.add.Tensor" not in seen.found


@pytest.mark.parametrize("agent", AGENTS)
def test_what_is_not_learned_from_is_a_setting(agent):
    """The table names nothing that is not there, so that a setting of a new meaning is not left out by its name."""
    kind = load_agent(agent).Arguments
    own = set(identity(kind())) - set(identity(RunArguments()))
    assert own & set(ELSEWHERE) <= {"target_returns"}


def test_other_values_of_every_type():
    assert alternatives(Literal["a", "b", "c"], "b") == [["a"], ["c"]]
    assert alternatives(bool, True) == [[False]]
    assert alternatives(tuple[int, int], (5, 4)) == [[(6, 4), (4, 4)], [(5, 5), (5, 3)]]
    assert alternatives(tuple[int, ...], (8, 8)) == [[(9, 8), (7, 8)], [(8, 9), (8, 7)]]
    assert alternatives(get_type_hints(RunArguments, include_extras=True)["batch_size"], 1) == [[2]]
    assert alternatives(str | None, None) == [["tanh"], ["gelu"]]
