"""Whole runs on the emulated GPU: captured and not, killed and resumed, compiled, beside those of the CPU.

A captured run and one that is not are the same in every bit here: their operations are. (A Decision Transformer of the
usual size is not, in the last bits: the inputs of a captured update lie otherwise in memory, for which the CPU's
matrix products take another way.)
"""

import pytest
import torch

from rlrat.runs.group import Group
from tests.agents.learners import AGENTS
from tests.agents.registered import REGISTERED
from tests.emulator.transfers import Transfers
from tests.emulator.whole_runs import (
    assert_close_runs,
    assert_same_on_every_way,
    on_gpu,
    slow,
)
from tests.short_runs import assert_equal_runs

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles where there is a GPU")


@pytest.mark.parametrize(
    ("agent", "seeds"),
    [("bc", 2), *(slow(agent, 1) for agent in AGENTS if agent != "bc"), slow("bc", 5)],
)
def test_runs_are_the_same_on_every_way(agent, seeds, members):
    assert_same_on_every_way(agent, members, "--num-seeds", str(seeds))


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("agent", ["bc", slow("decision_transformer"), slow("iql")])
def test_a_captured_run_that_was_killed_and_resumed_is_the_undisturbed_one(agent, members, monkeypatch):
    settings = ("--num-seeds", "2")
    undisturbed, _ = on_gpu(members, "undisturbed", *settings)
    save = Group.save

    def save_and_end(self, learner, progress):
        save(self, learner, progress)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Group, "save", save_and_end)
        with pytest.raises(Killed):
            on_gpu(members, "killed", *settings)
    resumed, emulator = on_gpu(members, "killed", *settings)
    assert emulator.captures > 0
    for ours, theirs in zip(resumed, undisturbed, strict=True):
        assert_equal_runs(ours, theirs)


@pytest.mark.parametrize("agent", ["bc"])
def test_rows_that_do_not_fit_are_copied_from_pinned_memory_in_time(agent, members, monkeypatch):
    monkeypatch.setattr("rlrat.datasets.rows._SHARE", 0.0)
    monkeypatch.setattr("rlrat.updates.random._BLOCK_UPDATES", 3)  # rows are read in advance several times
    pinned, remember = [], Transfers.from_host

    def from_host(self, *copy):
        pinned.append(copy)
        remember(self, *copy)

    monkeypatch.setattr(Transfers, "from_host", from_host)
    assert_same_on_every_way(agent, members)
    assert len(pinned) >= 2 * 3


@pytest.mark.slow
@pytest.mark.usefixtures("aot_eager")
@pytest.mark.parametrize("agent", ["iql", "td3_bc"])
def test_compiled_runs_are_the_same_captured_and_not(agent, members):
    settings = ("--compile", "--activation", "rational")
    captured, emulator = on_gpu(members, "captured", *settings)
    assert emulator.captures == REGISTERED[agent].variants[1]
    plain, _ = on_gpu(members, "plain", "--no-capture", *settings)
    eager, _ = on_gpu(members, "eager", "--no-capture", "--no-compile", *settings[1:])
    assert_equal_runs(captured[0], plain[0])
    assert_close_runs(captured[0], eager[0])
