"""The compiled update beside the plain one."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._inductor import config as inductor
from torch.utils._pytree import tree_map

from rlrat.updates.compiled import compiled, pays
from tests.agents.learners import AGENTS, make_learner

CPU = torch.device("cpu")
VARIANTS = [
    *[(agent, {}) for agent in AGENTS],
    ("iql", {"actor_dropout": 0.1, "activation": "rational"}),
    ("td3_bc", {"activation": "rational", "gated": True}),
    ("cql", {"lagrange": True, "max_target_backup": True, "norm": "layer"}),
    ("decision_transformer", {"activation": "rational", "norm": "none"}),
]


@pytest.fixture
def float64():
    """Learners made and run under it are float64; what is drawn for them is not: `assert_equal_after` converts it."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def assert_equal_after(updates: int, dataset, agent: str, settings: dict, **tolerance: float) -> None:
    """The same learner plain and compiled, on the same batches and noise."""
    plain, _ = make_learner(agent, dataset, [3, 4], **settings)
    other, _ = make_learner(agent, dataset, [3, 4], **settings)
    dtype = torch.get_default_dtype()
    assert {v.dtype for v in plain.state_dict().values() if v.is_floating_point()} == {dtype}

    def inputs(learner, number):
        def convert(x):
            return x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x

        return tree_map(convert, learner.inputs(number))

    update = compiled(other.update, CPU)
    for number in range(updates):
        expected, got = plain.update(*inputs(plain, number)), update(*inputs(other, number))
        assert not any(value.requires_grad for value in got.values())
        torch.testing.assert_close(got, {name: v.detach() for name, v in expected.items()}, **tolerance)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, msg=name, **tolerance)


FLOAT64 = {"rtol": 1e-9, "atol": 1e-11}


@pytest.mark.parametrize("agent", AGENTS)
def test_every_update_can_be_traced_whole(small_dataset, agent, float64, monkeypatch, capsys):
    """Traced, and then run without inductor, which would take its time, as each further layer would."""
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: whole(f, backend="eager", **options))
    torch._dynamo.reset()
    assert_equal_after(4, small_dataset, agent, {"hidden_dims": (8,), "batch_size": 8}, **FLOAT64)
    assert "cannot be compiled" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "settings"), VARIANTS)
def test_a_compiled_update_is_the_plain_one(small_dataset, agent, settings, float64, capsys):
    torch._dynamo.reset()
    assert_equal_after(100, small_dataset, agent, settings, **FLOAT64)
    assert "cannot be compiled" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "settings"), VARIANTS[len(AGENTS) :])
def test_a_compiled_update_is_near_the_plain_one_in_float32(small_dataset, agent, settings, capsys):
    """The code that a run has: inductor's for float32 is another."""
    torch._dynamo.reset()
    assert_equal_after(100, small_dataset, agent, settings, rtol=2e-3, atol=2e-4)
    assert "cannot be compiled" not in capsys.readouterr().err


@pytest.fixture
def graphs(monkeypatch):
    """What is compiled, once each time."""
    whole, found = torch.compile, []

    def backend(graph, _):
        found.append(graph)
        return graph

    monkeypatch.setattr(torch, "compile", lambda f, **options: whole(f, backend=backend, **options))
    torch._dynamo.reset()
    return found


def test_other_inputs_are_compiled_anew(graphs):
    call = compiled(lambda x, sign: {"y": x * 2.0 if sign else -x}, CPU)
    cases = [(torch.ones(3), True), (torch.ones(4), True), (torch.ones(3).double(), True), (torch.ones(3), False)]
    for _ in range(2):
        for x, sign in cases:
            torch.testing.assert_close(call(x, sign)["y"], x * 2.0 if sign else -x)
    assert len(graphs) == len(cases)


@pytest.fixture
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
def test_another_number_of_threads_is_not_compiled_anew(graphs):
    call = compiled(lambda x: {"y": 2 * x}, CPU, 3)
    for count in (3, 1, 2):
        torch.set_num_threads(count)
        call(torch.ones(3))
    assert len(graphs) == 1
    assert (inductor.cpp.threads, inductor.cpp.dynamic_threads) == (3, True)
    compiled(lambda x: {"y": 2 * x}, CPU)
    assert (inductor.cpp.threads, inductor.cpp.dynamic_threads) == (-1, False)


@pytest.mark.slow
@pytest.mark.usefixtures("_threads")
def test_compiled_code_takes_the_threads_that_there_are_at_each_call():
    torch._dynamo.reset()
    call, x = compiled(lambda x: {"sum": (x * x).sum(), "rows": x.exp().sum(1)}, CPU, 2), torch.randn(64, 4096).double()
    for count in (2, 1, 3, 2):
        torch.set_num_threads(count)
        torch.testing.assert_close(call(x), {"sum": (x * x).sum(), "rows": x.exp().sum(1)}, rtol=1e-12, atol=0.0)


def test_what_cannot_be_compiled_runs_as_it_is(capsys):
    def update(x):
        print("seen")  # with fullgraph, a break
        return {"loss": x.sum() * float(x.sum().item())}

    torch._dynamo.reset()
    call = compiled(update, CPU)
    for _ in range(2):
        assert call(torch.ones(3))["loss"] == 9.0
    output = capsys.readouterr()
    assert output.err.count("the update cannot be compiled (") == 1
    assert output.err.count("\n") == 1


def test_a_long_run_on_a_cpu_with_a_compiler_pays(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}" if name == "my-c++" else None)
    monkeypatch.delenv("CXX", raising=False)
    assert not pays(300_000, CPU)
    monkeypatch.setenv("CXX", "my-c++")
    assert pays(20_000, CPU)
    assert not pays(19_999, CPU)
    assert not pays(300_000, torch.device("cuda"))


@pytest.mark.parametrize("agent", ["bc"])
def test_a_run_compiles_by_itself_where_that_pays(run_agent, monkeypatch):
    whole, calls = torch.compile, []
    monkeypatch.setattr(torch, "compile", lambda f, **options: calls.append(f) or whole(f, backend="eager", **options))
    monkeypatch.setattr("rlrat.runs.run.pays", lambda updates, device: updates == 4)
    torch._dynamo.reset()
    run_agent("--total-updates", 3)
    run_agent("--total-updates", 4, "--no-compile", "--seed", 7)
    assert not calls
    result = run_agent("--total-updates", 4, "--seed", 8)
    assert len(calls) == 1
    assert "the first update is compiled" in result.stdout


@pytest.mark.parametrize("agent", ["bc"])
def test_a_command_compiles_and_an_uncompiled_one_takes_its_run_for_finished(run_agent, monkeypatch):
    whole, calls = torch.compile, []

    def trace(f, **options):
        calls.append(f)
        return whole(f, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", trace)
    torch._dynamo.reset()
    result = run_agent("--compile")
    assert len(calls) == 1
    assert "cannot be compiled" not in result.stderr
    assert "nothing to do" in run_agent().stdout


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_compiling_outlives_a_ctrl_c_of_the_terminals_whole_group():
    """PyTorch would wait forever for workers that it ends."""
    script = """if True:
        import os, signal
        import torch
        from rlrat.updates.compiled import compiled
        os.setpgrp()
        signal.signal(signal.SIGINT, lambda *_: None)  # as a run's, which stops after the update
        update = compiled(lambda x: {"y": torch.tanh(x * 3.0) + x}, torch.device("cpu"))
        os.killpg(0, signal.SIGINT)
        print(update(torch.ones(8))["y"].sum().item())
    """
    command = [sys.executable, "-c", script]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert float(result.stdout) == pytest.approx(8 * (1 + math.tanh(3.0))), result.stderr
    assert "cannot be compiled" not in result.stderr
