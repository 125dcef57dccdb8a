"""The compiled update beside the plain one."""

import sys
from pathlib import Path

import pytest
import torch

from rlrat.compiled import compiled

sys.path.insert(0, str(Path(__file__).parent / "agents"))
from learners import CLASSES, make_learner

VARIANTS = [
    *[(agent, {}) for agent in CLASSES],
    ("iql", {"actor_dropout": 0.1, "activation": "rational"}),
    ("td3_bc", {"activation": "rational", "gated": True}),
    ("cql", {"lagrange": True, "max_target_backup": True, "norm": "layer"}),
    ("decision_transformer", {"activation": "rational", "norm": "none"}),
]


def assert_equal_after(updates: int, dataset, agent: str, settings: dict) -> None:
    plain, _ = make_learner(agent, dataset, [3, 4], **settings)
    other, _ = make_learner(agent, dataset, [3, 4], **settings)
    update = compiled(other.update)
    for number in range(updates):
        expected, got = plain.update(*plain.inputs(number)), update(*other.inputs(number))
        assert not any(value.requires_grad for value in got.values())
        torch.testing.assert_close(got, {name: v.detach() for name, v in expected.items()}, rtol=2e-3, atol=2e-4)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize(("agent", "settings"), VARIANTS[: len(CLASSES)])
def test_every_update_can_be_traced_whole(small_dataset, agent, settings, monkeypatch, capsys):
    """Traced, and then run without inductor, which would take its time."""
    whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f, **options: whole(f, backend="eager", **options))
    torch._dynamo.reset()
    assert_equal_after(6, small_dataset, agent, settings)
    assert "cannot be compiled" not in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "settings"), VARIANTS)
def test_a_compiled_update_is_the_plain_one(small_dataset, agent, settings, capsys):
    torch._dynamo.reset()
    assert_equal_after(100, small_dataset, agent, settings)
    assert "cannot be compiled" not in capsys.readouterr().err


def test_what_cannot_be_compiled_runs_as_it_is(capsys):
    def update(x):
        print("seen")  # with fullgraph, a break
        return {"loss": x.sum() * float(x.sum().item())}

    torch._dynamo.reset()
    call = compiled(update)
    for _ in range(2):
        assert call(torch.ones(3))["loss"] == 9.0
    output = capsys.readouterr()
    assert output.err.count("the update cannot be compiled (") == 1
    assert output.err.count("\n") == 1


def test_an_older_torch_says_so(monkeypatch, capsys):
    import torch._dynamo

    monkeypatch.setattr(torch._dynamo, "config", object())
    update = lambda: {}  # noqa: E731
    assert compiled(update) is update
    assert "needs a newer torch" in capsys.readouterr().err


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
