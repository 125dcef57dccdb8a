"""What an agent's methods do not do is said before the first update of a run, a line each, and nothing stays of it."""

import pytest
import torch

from agents.iql import IQL
from rlrat.errors import InputError
from rlrat.runs.trial import try_learner
from tests.agents.learners import AGENTS, make_learner


@pytest.mark.parametrize("agent", AGENTS)
def test_a_trial_leaves_every_agent_as_it_was(small_dataset, agent):
    learner, _ = make_learner(agent, small_dataset, [3, 4], activation="rational")
    before = {name: value.clone() for name, value in learner.state_dict().items()}
    try_learner(learner, 2)
    assert learner.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in learner.state_dict().items())


def _wrap(change):
    """Change what `update` returns, or do more in it."""

    def forget(learner, patch):
        plain = learner.update
        patch.setattr(learner, "update", lambda *inputs: change(learner, plain(*inputs)))

    return forget


def _count(learner, metrics):
    learner.calls = getattr(learner, "calls", 0) + 1
    return metrics


def _add_up(learner, metrics):
    learner.total = learner.total + 1.0
    return metrics


def _uncount(learner, metrics):
    learner.guard.update -= 1
    return metrics


def _with_a_total(learner, patch):
    learner.total = torch.zeros(2)
    _wrap(_add_up)(learner, patch)


FORGOTTEN = {
    "no metrics": (_wrap(lambda *_: None), ["update returned a NoneType: metrics by name are needed, [2] each"]),
    "the seed axis of metrics": (
        _wrap(lambda _, metrics: {**{name: value.mean() for name, value in metrics.items()}, "charts/n": 3.0}),
        [
            "update returned losses/actor of shape []: a number for each seed is needed, [2]",
            "update returned charts/n as a float: a tensor is needed, [2]",
        ],
    ),
    "a name": (
        _wrap(lambda _, metrics: {"a,b": metrics["losses/actor"]}),
        [
            "update returned a metric 'a,b': a name like `losses/q` is needed, without commas and quotes, and not "
            "`update`"
        ],
    ),
    "the guard": (
        _wrap(_uncount),
        ["the learner BC does not count its updates: `update` must first add 1 to guard.update"],
    ),
    "a buffer": (
        _with_a_total,
        [
            "the learner BC changes total in `update`, which no checkpoint holds: make it a buffer (register_buffer), "
            "or a function of the update's number in `inputs`"
        ],
    ),
    "a number": (
        _wrap(_count),
        [
            "the learner BC changes calls in `update`, which no checkpoint holds: make it a buffer (register_buffer), "
            "or a function of the update's number in `inputs`"
        ],
    ),
    "a network": (
        lambda learner, patch: patch.setattr(learner, "inspect", lambda batch: None),
        [
            f"the learner BC does not pass policy.mean.hidden.{layer}.activation through `inspect`: what it meets is "
            "not recorded"
            for layer in (0, 1)
        ],
    ),
}


@pytest.mark.parametrize("forgotten", FORGOTTEN)
def test_what_is_forgotten_is_said_in_one_line_each(small_dataset, forgotten, monkeypatch):
    learner, _ = make_learner("bc", small_dataset, [3, 4], activation="rational")
    forget, said = FORGOTTEN[forgotten]
    forget(learner, monkeypatch)
    with pytest.raises(InputError) as error:
        try_learner(learner, 2)
    assert error.value.args == tuple(said)


def test_a_run_says_it_before_anything_is_written(run_agent, tmp_path, monkeypatch):
    plain = IQL.update
    monkeypatch.setattr(IQL, "update", lambda self, *inputs: {k: v.mean() for k, v in plain(self, *inputs).items()})
    result = run_agent(check=False)
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert len(lines) > 1
    assert all(line.endswith("of shape []: a number for each seed is needed, [1]") for line in lines)
    assert not (tmp_path / "runs").exists()
