"""Whole runs on the emulated GPU: captured and not, killed and resumed, compiled, beside those of the CPU.

Networks, batches and runs are as small as they may be: Triton's interpreter takes 10 to 100 ms for a program, and a
kernel has one program or more for each seed and critic.
"""

from collections import Counter

import pytest
import torch

from rlrat.runs.group import Group
from tests.agents.learners import AGENTS
from tests.emulator import Emulator
from tests.emulator.transfers import Transfers
from tests.short_runs import assert_equal_runs, read_run

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles where there is a GPU")

TINY = (
    *("--total-updates", "10", "--batch-size", "4", "--eval-every", "5", "--eval-episodes", "1"),
    *("--max-episode-steps", "5", "--log-every", "2", "--checkpoint-every", "5"),
)
NETWORKS = {
    "decision_transformer": ("--embedding-size", "8", "--num-layers", "1", "--context-length", "3"),
    "cql": ("--hidden-dims", "4", "--num-actions", "2", "--cloning-updates", "5"),
}
RECORDINGS = Counter({"cql": 2, "td3_bc": 2})  # for what is no tensor: cloning, the actor's step; else 1
# Adam divides by the gradient's size: rounding of gradients near zero shows in full, as a part of the learning rate.
# Ten updates of these agents were seen to differ by less than a tenth of this.
ROUNDING = {"rtol": 1e-3, "atol": 1e-5}


@pytest.fixture
def members(agent, run_agent, tmp_path, monkeypatch):
    """`members("name", "--seed", "3")`: what each member of a tiny run did, and what was said."""
    pytest.importorskip("triton")
    # Many members are not measured first, which takes several learners' updates.
    monkeypatch.setattr("rlrat.runs.run.LEAST_MEMBERS", 1000)

    def run(name: str, *extra: str) -> tuple[list[dict], str]:
        small = (*TINY, *NETWORKS.get(agent, ("--hidden-dims", "4")), "--run-dir", str(tmp_path / name))
        error = run_agent(*small, *extra).stderr
        folders = [path.parent for path in (tmp_path / name).rglob("checkpoint.pt")]
        return [read_run(folder) for folder in sorted(folders, key=lambda folder: int(folder.name[4:]))], error

    return run


def _on_gpu(members, name: str, *extra: str) -> tuple[list[dict], Emulator]:
    with Emulator() as emulator:
        found, error = members(name, *extra)
    assert emulator.refused == []
    assert "runs as it is" not in error  # neither captured nor compiled
    assert emulator.unordered == []
    return found, emulator


def _assert_close_runs(ours: dict, theirs: dict) -> None:
    """Equal but for rounding: their kernels add up in other orders."""
    for our_row, their_row in zip(ours["rows"], theirs["rows"], strict=True):
        assert float(our_row["return_mean"]) == pytest.approx(float(their_row["return_mean"]), rel=1e-3)
    assert ours["status"] == theirs["status"]
    assert ours["state"].keys() == theirs["state"].keys()
    for name, value in theirs["state"].items():
        said = {"msg": lambda text, name=name: f"{name}: {text}"}
        torch.testing.assert_close(ours["state"][name], value, **ROUNDING, **said)


def _assert_same_on_every_way(agent, members, *settings: str) -> Emulator:
    captured, emulator = _on_gpu(members, "captured", "--capture", *settings)
    assert emulator.captures == max(1, RECORDINGS[agent])
    assert emulator.replays > 2 * emulator.captures
    plain, other = _on_gpu(members, "plain", "--no-capture", *settings)
    assert (other.captures, other.replays) == (0, 0)
    cpu, _ = members("cpu", *settings)
    for ours, theirs, cpus in zip(captured, plain, cpu, strict=True):
        assert_equal_runs(ours, theirs)
        _assert_close_runs(ours, cpus)
    return emulator


def _slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("agent", "seeds"),
    [("iql", 2), *(_slow(agent, seeds) for agent in AGENTS for seeds in (1, 2, 5, 64) if (agent, seeds) != ("iql", 2))],
)
def test_runs_with_fixed_activations_are_the_same_on_every_way(agent, seeds, members):
    _assert_same_on_every_way(agent, members, "--num-seeds", str(seeds))


@pytest.mark.parametrize(
    ("agent", "seeds"),
    [
        ("bc", 1),
        *(_slow(agent, 1) for agent in AGENTS if agent != "bc"),
        *(_slow(agent, 2) for agent in ("cql", "iql", "td3_bc")),
        *(_slow(agent, 5) for agent in ("bc", "iql")),
        _slow("bc", 64),
    ],
)
def test_runs_with_rationals_are_the_same_on_every_way(agent, seeds, members):
    settings = ("--activation", "rational", "--num-seeds", str(seeds))
    if seeds > 2:
        settings += ("--total-updates", "6", "--eval-every", "3", "--checkpoint-every", "3")
    emulator = _assert_same_on_every_way(agent, members, *settings)
    assert emulator.launches.counts["forward_kernel"] > emulator.launches.counts["backward_kernel"] > 0


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("agent", ["bc", *(_slow(agent) for agent in AGENTS if agent != "bc")])
def test_a_captured_run_that_was_killed_and_resumed_is_the_undisturbed_one(agent, members, monkeypatch):
    settings = ("--num-seeds", "2")
    if agent == "td3_bc":  # two recordings, each after three updates
        settings += ("--total-updates", "20", "--checkpoint-every", "10")
    undisturbed, _ = _on_gpu(members, "undisturbed", *settings)
    save = Group.save

    def save_and_end(self, learner, progress):
        save(self, learner, progress)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Group, "save", save_and_end)
        with pytest.raises(Killed):
            _on_gpu(members, "killed", *settings)
    resumed, emulator = _on_gpu(members, "killed", *settings)
    assert emulator.captures > 0
    for ours, theirs in zip(resumed, undisturbed, strict=True):
        assert_equal_runs(ours, theirs)


def test_rows_that_do_not_fit_are_copied_from_pinned_memory_in_time(agent, members, monkeypatch):
    """The agent is IQL."""
    monkeypatch.setattr("rlrat.datasets.rows._SHARE", 0.0)
    monkeypatch.setattr("rlrat.updates.random._BLOCK_UPDATES", 3)  # rows are read in advance several times
    pinned, remember = [], Transfers.from_host

    def from_host(self, *copy):
        pinned.append(copy)
        remember(self, *copy)

    monkeypatch.setattr(Transfers, "from_host", from_host)
    _assert_same_on_every_way(agent, members)
    assert len(pinned) >= 2 * 3


@pytest.mark.slow
@pytest.mark.usefixtures("aot_eager")
@pytest.mark.parametrize("agent", ["iql", "td3_bc"])
def test_compiled_runs_are_the_same_captured_and_not(agent, members):
    settings = ("--compile", "--activation", "rational")
    captured, emulator = _on_gpu(members, "captured", *settings)
    assert emulator.captures == max(1, RECORDINGS[agent])
    plain, _ = _on_gpu(members, "plain", "--no-capture", *settings)
    eager, _ = _on_gpu(members, "eager", "--no-capture", "--no-compile", *settings[1:])
    assert_equal_runs(captured[0], plain[0])
    _assert_close_runs(captured[0], eager[0])
