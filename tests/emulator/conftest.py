"""What the tests of the emulator, and on it, need before it begins."""

import pytest
import torch

from tests.agents.registered import REGISTERED, command_line
from tests.emulator.whole_runs import TINY
from tests.rational.conftest import _quick_interpreter  # noqa: F401  # Triton's interpreter, made quicker
from tests.short_runs import read_run


@pytest.fixture
def aot_eager(monkeypatch) -> None:
    """torch.compile makes graphs of PyTorch's operations and does not compile these, so that a capture sees them."""
    whole = torch.compile
    torch._dynamo.reset()
    # Now, because it makes tables of PyTorch's functions, and an emulator replaces some of them.
    whole(lambda x: x + 1.0, backend="eager")(torch.ones(1))
    monkeypatch.setattr(torch, "compile", lambda f, **options: whole(f, backend="aot_eager", **options))


@pytest.fixture
def members(agent, run_agent, tmp_path, monkeypatch):
    """`members("name", "--seed", "3")`: what each member of a tiny run did, and what was said."""
    pytest.importorskip("triton")
    # Many members are not measured first, which takes several learners' updates.
    monkeypatch.setattr("rlrat.runs.run.LEAST_MEMBERS", 1000)

    def run(name: str, *extra: str) -> tuple[list[dict], str]:
        own = command_line({**REGISTERED[agent].small, **REGISTERED[agent].variants[0]})
        small = (*TINY, "--hidden-dims", "4", *own, "--run-dir", str(tmp_path / name))
        error = run_agent(*small, *extra).stderr
        folders = [path.parent for path in (tmp_path / name).rglob("checkpoint.pt")]
        return [read_run(folder) for folder in sorted(folders, key=lambda folder: int(folder.name[4:]))], error

    return run
