"""Recorded updates beside plain ones: with a recorder that needs no GPU, and on one with CUDA graphs."""

import pytest
import torch
from torch import nn

from rlrat.updates.captured import CudaGraph, captured
from rlrat.updates.compiled import compiled
from tests.agents.learners import AGENTS, make_learner


class Recorder:
    """Does again what it was told once, as a CUDA graph does: with the tensors it was given, into those it gave."""

    made = 0

    def __init__(self):
        Recorder.made += 1

    def warm_up(self, function):
        return function()

    def record(self, function):
        learner = self.learner
        before = {name: value.clone() for name, value in learner.state_dict().items()}
        self._function, self._result = function, function()
        with torch.no_grad():
            for name, value in learner.state_dict().items():
                value.copy_(before[name])
        return self._result

    def replay(self):
        for name, value in self._function().items():
            self._result[name].copy_(value)


def _recorder(learner, kind=Recorder):
    kind.made = 0

    def make():
        recorder = kind()
        recorder.learner = learner
        return recorder

    return make


def _assert_equal_after(updates, plain, other, update):
    for number in range(updates):
        expected, got = plain.update(*plain.inputs(number)), update(*other.inputs(number))
        for name, value in expected.items():
            torch.testing.assert_close(got[name], value.detach(), rtol=2e-3, atol=2e-4, msg=f"{name} of {number}")
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("agent", AGENTS)
def test_every_agents_update_is_recorded_and_replayed(small_dataset, agent, capsys):
    settings = {"cloning_updates": 6} if agent == "cql" else {}
    plain, other = (make_learner(agent, small_dataset, [3, 4], **settings)[0] for _ in range(2))
    _assert_equal_after(12, plain, other, captured(other, _recorder(other)))
    assert capsys.readouterr().err == ""
    assert Recorder.made == (2 if agent in ("cql", "td3_bc") else 1)  # for what is no tensor: cloning, the actor's step


@pytest.mark.parametrize(("agent", "variants"), [("iql", 1), ("td3_bc", 2)])
def test_a_compiled_update_is_compiled_once_and_before_it_is_recorded(small_dataset, agent, variants, monkeypatch):
    """`variants` of what is no tensor among the inputs."""
    compiling, recording = [], []

    class Compiled(Recorder):
        def record(self, function):
            recording.append(len(compiling))
            result = super().record(function)
            recording.append(len(compiling))
            return result

    def backend(graph, _):
        compiling.append(graph)
        return graph

    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: whole(f, backend=backend, **options))
    torch._dynamo.reset()
    plain, other = (make_learner(agent, small_dataset, [3, 4])[0] for _ in range(2))
    other.update = compiled(other.update, torch.device("cpu"))
    update = captured(other, _recorder(other, Compiled))
    _assert_equal_after(12, plain, other, update)
    assert recording == [variants] * 2 * variants
    other.guard.freeze(torch.tensor([False, True]), 12)
    update(*other.inputs(12))
    assert len(compiling) == variants


class Adder(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.zeros(1))
        self.calls = 0

    def update(self, x):
        self.total += x
        return {"total": self.total.clone()}


def _totals(learner, update):
    return [update(torch.full((1,), float(number)))["total"].item() for number in range(8)]


def test_what_cannot_be_recorded_runs_as_it_is(capsys):
    class Refusing(Recorder):
        def record(self, function):
            raise RuntimeError("operation not permitted when stream is capturing")

    learner = Adder()
    assert _totals(learner, captured(learner, _recorder(learner, Refusing))) == [0, 1, 3, 6, 10, 15, 21, 28]
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "replayed as a CUDA graph (operation not permitted when stream is capturing): it runs as it is" in error


def test_a_recording_that_does_something_else_is_not_used(capsys):
    class Counting(Adder):
        def update(self, x):
            self.calls += 1  # a number of the host: a recording keeps the one that it saw
            self.total += x * self.calls
            return {"total": self.total.clone()}

    class Frozen(Recorder):
        def replay(self):
            calls = self.learner.calls
            super().replay()
            self.learner.calls = calls

    learner, plain = Counting(), Counting()
    update = captured(learner, _recorder(learner, Frozen))
    got = [update(torch.ones(1))["total"].item() for _ in range(4)]
    assert got == [plain.update(torch.ones(1))["total"].item() for _ in range(4)]
    assert "its total differs from the plain update's): it runs as it is" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("activation", ["relu", "rational"])
@pytest.mark.parametrize("agent", AGENTS)
def test_a_cuda_graph_is_the_plain_update(small_dataset, agent, activation, capsys):
    plain, other = (make_learner(agent, small_dataset, [3, 4], "cuda", activation=activation)[0] for _ in range(2))
    _assert_equal_after(100, plain, other, captured(other, CudaGraph))
    assert capsys.readouterr().err == ""
