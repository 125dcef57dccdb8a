"""Recorded updates beside plain ones: with a recorder that needs no GPU, and on one with CUDA graphs."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rlrat.updates import captured as module
from rlrat.updates.captured import CudaGraph, _memory, captured
from rlrat.updates.compiled import compiled
from tests.agents.learners import AGENTS, make_learner
from tests.agents.registered import REGISTERED


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
    settings, variants = REGISTERED[agent].variants
    plain, other = (make_learner(agent, small_dataset, [3, 4], **settings)[0] for _ in range(2))
    _assert_equal_after(12, plain, other, captured(other, _recorder(other)))
    assert capsys.readouterr().err == ""
    assert Recorder.made == variants


@pytest.mark.parametrize(("agent", "variants"), [("bc", 1), ("td3_bc", 2)])
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


def test_a_number_that_is_new_in_every_update_makes_no_recording_in_each(capsys):
    class Counted(Adder):
        def update(self, x, number):
            return super().update(x)

    learner = Counted()
    update = captured(learner, _recorder(learner))
    assert [update(torch.ones(1), number)["total"].item() for number in range(100)] == list(range(1, 101))
    assert Recorder.made == 16
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "what is no tensor among its inputs has more than 16 values (give the update a number" in error


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


def test_a_metric_that_a_replay_does_not_compute_is_found(capsys):
    class Counting(Adder):
        def update(self, x):
            self.calls += 1
            self.total += x
            return {"calls": torch.full((1,), float(self.calls)), "total": self.total.clone()}

    class Frozen(Recorder):
        def replay(self):
            calls = self.learner.calls
            super().replay()
            self.learner.calls = calls

    learner = Counting()
    update = captured(learner, _recorder(learner, Frozen))
    assert [update(torch.ones(1))["total"].item() for _ in range(6)] == [1, 2, 3, 4, 5, 6]
    assert "its metric calls differs from the plain update's): it runs as it is" in capsys.readouterr().err


def test_a_state_dict_of_copies_is_not_taken_for_the_memory(capsys):
    class Copying(Adder):
        def state_dict(self, *args, **kwargs):
            return {name: value.clone() for name, value in super().state_dict(*args, **kwargs).items()}

    class Direct(Recorder):
        def record(self, function):
            before = self.learner.total.clone()
            self._function, self._result = function, function()
            self.learner.total.copy_(before)
            return self._result

    learner = Copying()
    assert _totals(learner, captured(learner, _recorder(learner, Direct))) == [0, 1, 3, 6, 10, 15, 21, 28]
    assert capsys.readouterr().err == ""


def _columns(seeds=2, rows=5, widths=(3, 2, 1, 3), start=0.0):
    whole = torch.arange(start, start + 7 * seeds * rows * sum(widths)).view(7, seeds, rows, -1)
    return [column[4] for column in whole.split(widths, dim=-1)]


def _filled(monkeypatch, first, then):
    """How many tensors are copied where `then` follows `first`; what a recording reads is equal to it."""
    inputs, copied = module._Inputs(first), []
    foreach_copy = torch._foreach_copy_
    monkeypatch.setattr(
        torch, "_foreach_copy_", lambda own, others: copied.append(len(own)) or foreach_copy(own, others)
    )
    inputs.fill(then)
    monkeypatch.undo()
    for found, wanted in zip(inputs.tensors, then, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0.0, atol=0.0)
    return copied


def test_what_lies_together_is_copied_as_one(monkeypatch):
    batch, noise = (lambda start: _columns(start=start)), (lambda: torch.randn(2, 5, 2))
    assert _filled(monkeypatch, batch(0.0), batch(9.0)) == [1]
    assert _filled(monkeypatch, [*batch(0.0), noise()], [*batch(9.0), noise()]) == [2]  # of one type: one launch
    squeezed = [*batch(0.0)[:2], batch(0.0)[2].squeeze(-1)]
    assert _filled(monkeypatch, squeezed, squeezed) == [3]  # not all of three have one memory
    inputs = module._Inputs(batch(0.0))
    assert [t.stride() for t in inputs.tensors] == [t.stride() for t in batch(0.0)]
    assert len({t.untyped_storage().data_ptr() for t in inputs.tensors}) == 1


def test_what_lies_otherwise_than_at_first_is_copied_one_by_one(monkeypatch):
    apart = [column.contiguous() for column in _columns(start=5.0)]
    assert _filled(monkeypatch, _columns(), apart) == [4]
    wider = [column[..., :width] for column, width in zip(_columns(widths=(4, 4, 4, 4)), (3, 2, 1, 3), strict=True)]
    assert _filled(monkeypatch, _columns(), wider) == [4]
    assert _filled(monkeypatch, _columns(), _columns()[::-1][:1] + _columns()[1:]) == [4]  # two memories now


def test_what_shares_elements_or_lies_far_apart_has_memory_of_its_own(monkeypatch):
    x, y = torch.randn(2, 6), torch.randn(2, 6)
    assert _filled(monkeypatch, [x, x], [x, y]) == [2]
    assert _filled(monkeypatch, [x[:, :4], x[:, 2:]], [y[:, :4], x[:, 2:]]) == [2]
    assert _filled(monkeypatch, [x[:, :1].expand(2, 6)], [y]) == [1]
    long = torch.arange(2000.0)
    assert _filled(monkeypatch, [long[:9], long[-9:]], [long[:9], long[-9:]]) == [2]
    assert _filled(monkeypatch, [x, long[:0], long.view(torch.int32)], [y, long[:0], long.view(torch.int32)])


def test_metrics_are_rows_of_one_tensor_unless_their_shapes_differ():
    learner = Adder()
    learner.update = lambda x: {"a": x + 1.0, "b": x * 2.0}
    found = captured(learner, _recorder(learner))(torch.ones(3))
    assert found["a"]._base is found["b"]._base
    assert found["a"]._base.tolist() == [[2.0] * 3] * 2
    learner.update = lambda x: {"a": x + 1.0, "b": x.sum()}
    found = captured(learner, _recorder(learner))(torch.ones(3))
    assert (found["a"].tolist(), found["b"].item()) == ([2.0] * 3, 3.0)
    learner.update = lambda x: {}
    assert captured(learner, _recorder(learner))(torch.ones(3)) == {}


def test_the_graphs_of_a_learner_share_stream_and_memory(monkeypatch):
    class Given(Recorder):
        def __init__(self, *given):
            super().__init__()
            self.learner = learner
            made.append(given)

    learner, made = Adder(), []
    learner.update = lambda x, twice: {"x": x * (2.0 if twice else 1.0)}
    fake = SimpleNamespace(Stream=lambda: object(), graph_pool_handle=lambda: (0, 7))
    monkeypatch.setattr(torch, "cuda", fake)
    monkeypatch.setattr(module, "CudaGraph", Given)
    update = captured(learner)
    assert [update(torch.ones(1), bool(number % 2))["x"].item() for number in range(12)] == [1.0, 2.0] * 6
    assert len(made) == 2
    assert made[0] == made[1]
    assert made[0][1] == (0, 7)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("activation", ["relu", "rational"])
@pytest.mark.parametrize("agent", AGENTS)
def test_a_cuda_graph_is_the_plain_update(small_dataset, agent, activation, capsys):
    plain, other = (make_learner(agent, small_dataset, [3, 4], "cuda", activation=activation)[0] for _ in range(2))
    _assert_equal_after(100, plain, other, captured(other, CudaGraph))
    assert capsys.readouterr().err == ""


def test_memory_is_copied_once_though_parameters_lie_in_flat_buffers(small_dataset):
    learner, _ = make_learner("iql", small_dataset, [3, 4])
    found = _memory(learner)
    assert {*dict(learner.named_parameters())} <= {*found}
    assert {name for name, _ in learner.named_buffers()} - {*found} == {
        "q.flat",
        "v.flat",
        "policy.flat",
        "q_target.flat",
    }
    assert {"q_optimizer.first_moment", "guard.alive"} <= {*found}
