"""What is forgotten in an agent is said before its first update, a line each."""

import copy
import re

import pytest
import torch

from rlrat.errors import InputError
from rlrat.updates.learner import check_learner
from rlrat.updates.optim import SeedGuard
from tests.agents.learners import AGENTS, make_learner


def _add(name, value):
    return lambda learner: setattr(learner, name, value)


def _replace_target(learner):
    learner.q_target = learner.q


def _untrained(learner):
    learner.extra = copy.deepcopy(learner.v)


def _in_a_list(learner):
    learner.optimizers = [learner.v_optimizer]
    del learner.v_optimizer


def _moved(learner):
    for parameter in learner.q_target.parameters():
        parameter.data = parameter.data.clone()


def _raw(learner):
    learner.policy.has_units = False


FORGOTTEN = {
    "policy": (lambda learner: delattr(learner, "policy"), "has no `policy`: it needs the `Policy`"),
    "no policy": (
        _add("policy", torch.nn.Identity()),
        "has a policy without `settings`, from which checkpoints build it again",
    ),
    "no method": (_add("inspect", None), "has `inspect` of type NoneType: it needs inspect"),
    "guard": (lambda learner: delattr(learner, "guard"), r"has no `guard`: it needs a `rlrat.updates.SeedGuard"),
    "no guard": (
        _add("guard", torch.nn.Identity()),
        "has `guard` of type Identity: it needs a `rlrat.updates.SeedGuard",
    ),
    "axis": (
        _add("gain", torch.nn.Parameter(torch.ones(3), requires_grad=False)),
        r"has gain of shape \[3\]: .* for each member, here 2",
    ),
    "no axis": (
        _add("gain", torch.nn.Parameter(torch.tensor(1.0), requires_grad=False)),
        r"has gain of shape \[\]: ",
    ),
    "units": (_raw, r"has a policy without units: call policy.set_units\(units\)"),
    "guard of an optimizer": (
        _add("guard", SeedGuard(2)),
        "has the optimizer q with another guard: give it guard=self.guard",
    ),
    "deepcopy": (_replace_target, "has an optimizer that moves q_target: make it with copy.deepcopy"),
    "requires_grad_": (lambda learner: learner.q_target.requires_grad_(True), r"call q_target.requires_grad_\(False\)"),
    "flatten": (_moved, "moved q_target after `flatten`"),
    "optimizer": (
        _untrained,
        r"has extra.hidden.0.linear.weight \(and 5 more in extra\), which no optimizer moves: give its network to",
    ),
    "module": (_in_a_list, r"has v.hidden.0.linear.weight \(and 5 more in v\), which no optimizer moves"),
}


@pytest.mark.parametrize("forgotten", FORGOTTEN)
def test_what_is_forgotten_is_said_in_one_line(small_dataset, forgotten):
    learner, _ = make_learner("iql", small_dataset, [0, 1])
    forget, message = FORGOTTEN[forgotten]
    forget(learner)
    with pytest.raises(
        InputError, match=f"^the learner IQL {message}" if message.startswith("h") else message
    ) as error:
        check_learner(learner, 2)
    assert not any("\n" in line for line in error.value.args)


class Forgetful(torch.nn.Module):
    """As a first attempt at an agent may look: PyTorch's layers and optimizer, and a target that is the network."""

    def __init__(self):
        super().__init__()
        self.q = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        self.q_target = copy.deepcopy(self.q)
        self.register_buffer("noise", torch.ones(2, 3))
        self.optimizer = torch.optim.Adam(self.q.parameters())
        self.guard = None

    def update(self, batch):
        return {}


def test_all_that_is_forgotten_is_said_at_once():
    with pytest.raises(InputError) as error:
        check_learner(Forgetful(), 2)
    said = [
        "has no `policy`: it needs the `Policy` or `SequencePolicy` that is evaluated",
        "has `guard` of type NoneType: it needs a `rlrat.updates.SeedGuard(num_seeds)`",
        "has no `inputs`: it needs inputs(update), what an update takes, the batch first",
        "has no `inspect`: it needs inspect(batch), a pass through the networks",
        "has q.0.weight of shape [8, 3] (and 3 more in q): its first axis must have an entry for each member, here 2",
        "has q_target.0.weight of shape [8, 3] (and 3 more in q_target): its first axis must have an entry for each "
        "member, here 2",
        "would take gradients of q_target: call q_target.requires_grad_(False)",
        "has q.0.weight (and 3 more in q), which no optimizer moves: give its network to a `rlrat.updates.Adam` that "
        "is an attribute of the learner (after learner.to(device)), or call requires_grad_(False)",
    ]
    assert error.value.args == tuple(f"the learner Forgetful {line}" for line in said)


def test_a_learner_that_is_no_module():
    with pytest.raises(InputError, match=r"^the learner dict is no torch.nn.Module, by which its tensors are found"):
        check_learner({}, 2)


@pytest.mark.parametrize("method", ["inputs", "update", "inspect"])
def test_a_method_that_is_forgotten(small_dataset, method, monkeypatch):
    learner, _ = make_learner("bc", small_dataset, [0])
    monkeypatch.delattr(type(learner), method)
    with pytest.raises(InputError, match=rf"^the learner BC has no `{method}`: it needs {method}\("):
        check_learner(learner, 1)


@pytest.mark.parametrize("agent", AGENTS)
@pytest.mark.parametrize("activation", ["relu", "rational"])
def test_every_agent_forgets_nothing(small_dataset, agent, activation):
    for seeds in ([3], [3, 4]):
        learner, _ = make_learner(agent, small_dataset, seeds, activation=activation)
        check_learner(learner, len(seeds))
        with pytest.raises(InputError, match="first axis"):
            check_learner(learner, len(seeds) + 1)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda metrics: None, r"update returned a NoneType: metrics by name are needed, \[1\] each"),
        (
            lambda metrics: {name: value.mean() for name, value in metrics.items()},
            r"update returned \w+/\w+ of shape \[\]: a number for each seed is needed, \[1\]",
        ),
    ],
)
def test_metrics_of_another_form_are_one_line(run_agent, monkeypatch, returned, message):
    from rlrat.runs.run import Run

    log = Run.log
    monkeypatch.setattr(Run, "log", lambda self, metrics: log(self, returned(metrics)))
    result = run_agent(check=False)
    assert result.returncode == 2
    assert re.fullmatch(f"error: {message}", result.stderr.splitlines()[-1])


def test_a_run_says_all_before_the_first_update(run_agent, tmp_path, monkeypatch):
    monkeypatch.setattr("rlrat.networks.policies.ActingPolicy.set_units", lambda self, units: None)
    monkeypatch.delattr("agents.iql.IQL.inspect")
    result = run_agent(check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 2)
    lines = result.stderr.splitlines()
    assert lines[0].startswith("error: the learner IQL has no `inspect`: it needs inspect(batch)")
    assert lines[1].startswith("error: the learner IQL has a policy without units")
    assert not (tmp_path / "runs").exists()


def test_a_run_asks_before_the_first_update(run_agent, tmp_path, monkeypatch):
    monkeypatch.setattr("rlrat.networks.policies.ActingPolicy.set_units", lambda self, units: None)
    result = run_agent(check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("error: the learner IQL has a policy without units")
    assert not (tmp_path / "runs").exists()


def test_inputs_that_are_the_batch_alone_are_one_line(run_agent, monkeypatch):
    monkeypatch.setattr("agents.iql.IQL.inputs", lambda self, update: self.batches.at(update))
    result = run_agent(check=False)
    assert result.returncode == 2
    assert result.stderr.startswith(
        "error: the learner IQL returns a Batch from `inputs`: a tuple of what update takes"
    )
    assert result.stderr.count("\n") == 1


def test_an_update_without_metrics_is_none_the_less_one(run_agent, tmp_path, monkeypatch):
    from rlrat.runs.run import Run

    log = Run.log
    monkeypatch.setattr(Run, "log", lambda self, metrics: log(self, {}))
    run_agent()
    (folder,) = tmp_path.glob("runs/*/*/*/seed0")
    assert (folder / "summary.json").exists()
    assert not (folder / "metrics.csv").exists()
