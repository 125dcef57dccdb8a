import os
import re
import sys
import time
from contextlib import ExitStack

import pytest
import torch

import agent_speed
from agent_speed import Agents, run_agents
from peers import Clocked, Program
from rlrat import load_dataset
from rlrat.errors import InputError
from rlrat.updates.captured import captured
from tests.updates.test_captured import Recorder

PEER = """
import argparse, os, sys
parser = argparse.ArgumentParser()
parser.add_argument("words", nargs="+")
parser.add_argument("--threads")
parser.add_argument("--batch-size")
parser.add_argument("--compile", action="store_true")
arguments = parser.parse_args()
import rlrat  # is found
*_, first, agent = arguments.words
if first == "needy":
    import no_such_package
if first == "endless":
    while True:
        print("y")
print("said by a library")
cores = f"{len(os.sched_getaffinity(0))} cores" if hasattr(os, "sched_getaffinity") else "its cores"
found = first if first == "speed" else os.path.getsize(first) > 1e6
print("ready peer", found, agent, arguments.threads, arguments.batch_size, cores, arguments.compile, flush=True)
for line in sys.stdin:
    if line == "13\\n":
        print("out of what it needs", file=sys.stderr)
        sys.exit(3)
    print(0.001 * int(line), 0.002 * int(line), flush=True)
"""


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """A process that stands for each peer's; `jax` reads the data, `orlax` lacks its package."""
    (tmp_path / "peer.py").write_text(PEER)
    monkeypatch.setattr(agent_speed, "_HERE", tmp_path)
    programs = {
        **{
            "d3rlpy": Program(("peer.py", "speed"), ("td3_bc", "cql")),
            "orlax": Program(("peer.py", "needy"), ("td3_bc",)),
        },
        "jax": Program(("peer.py", "DATA"), ("td3_bc",), compiles=True),
    }
    monkeypatch.setattr(agent_speed, "PEERS", programs)
    threads = torch.get_num_threads()
    yield tmp_path / "peer.py"
    torch.set_num_threads(threads)


def small(**changes) -> Agents:
    choice = {"agents": ("td3_bc",), "activations": ("relu",), "rounds": 2, "seconds": 0.01, "threads": (1,)}
    return Agents(**{**choice, **changes})


def test_contenders_take_turns_beside_the_peers(peer, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "300")
    given = tuple(f"{name}={sys.executable}" for name in ("d3rlpy", "orlax", "jax"))
    found = run_agents(small(num_seeds=(1, 2), threads=(1, 2), peer=given))
    assert list(found) == ["td3_bc, 1 thread", "td3_bc, 2 threads"]
    shown = capsys.readouterr()
    for (title, rows), threads in zip(found.items(), (1, 2), strict=True):
        cores = min(threads, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else "its"
        end = f"td3_bc {threads} 256 {cores} cores False"
        assert list(rows) == ["relu, S = 1", "relu, S = 2", f"peer speed {end}", f"peer True {end}"]
        for row in rows.values():
            for clock in ("wall", "cpu"):
                assert 0 < row[f"{clock}, lowest"] <= row[clock] <= row[f"{clock}, highest"]
        assert rows["relu, S = 1"]["time, of the first"] == 1
        for theirs in (f"peer speed {end}", f"peer True {end}"):
            assert (rows[theirs]["wall"], rows[theirs]["cpu"]) == pytest.approx((1000, 500))
            assert rows[theirs][f"speed, of {theirs}"] == 1
            ours = rows["relu, S = 1"]
            assert ours["wall, lowest"] <= 1000 * ours[f"speed, of {theirs}"] * 1.001
        assert title in shown.out
        assert set(rows) <= {line.split("│")[1].strip() for line in shown.out.splitlines() if "│" in line}
    reason = "the peer process ended with exit code 1: ModuleNotFoundError: No module named 'no_such_package'"
    assert shown.err == f"warning: --peer orlax={sys.executable} is left out: {reason}\n"  # once


@pytest.mark.parametrize(
    ("python", "line"),
    [
        ("/no/such/python", "cannot be started: .*No such file or directory: '/no/such/python'"),
        ("/", "cannot be started: .*Permission denied: '/'"),
        ("false", "ended with exit code 1: it said nothing"),
        ("true", "ended with exit code 0: it said nothing"),
    ],
)
def test_a_peer_without_a_python_is_left_out(peer, python, line, capsys):
    peers = agent_speed.read_peers((f"d3rlpy={python}", f"jax={sys.executable}"), compile=True)
    with ExitStack() as stack:
        dataset = load_dataset("rlrat/hopper/mixed-v0")
        started = agent_speed._start(peers, "td3_bc", dataset, stack, "--threads", 1, "--batch-size", 8)
        assert [one.name.rpartition(" ")[2] for one in started] == ["False", "True"]  # --compile
        assert [one.name for one in peers] == ["jax", "jax"]
        assert agent_speed._start(peers, "cql", dataset, stack) == []  # which only d3rlpy has
    assert re.fullmatch(
        f"warning: --peer d3rlpy={python} is left out: the peer process {line}\n", capsys.readouterr().err
    )


def test_a_peer_that_never_stops_talking_is_no_figure(peer):
    with pytest.raises(RuntimeError, match="says much, but not that it is ready"):
        agent_speed.Peer(sys.executable, peer, "endless", "iql")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("jxa=python",), "--peer jxa=python: give NAME=PYTHON, with a NAME among d3rlpy, jax, orlax, torchrl"),
        (("python",), "--peer python: give NAME=PYTHON, with a NAME among d3rlpy, jax, orlax, torchrl"),
        (("jax=",), "--peer jax=: give NAME=PYTHON, with a NAME among d3rlpy, jax, orlax, torchrl"),
        (("jax=python", "jax=python3"), "--peer jax is given twice: give each peer once"),
    ],
)
def test_a_mistake_in_the_peers_is_one_line(run_script, words, line, capsys):
    assert run_script("benchmarks/benchmark.py", "agents", "--peer", *words) == 2
    assert capsys.readouterr().err == f"error: {line}\n"


def test_a_peer_that_breaks_is_no_figure(peer):
    process = agent_speed.Peer(sys.executable, peer, "speed", "iql", "--threads", 1, "--batch-size", 8)
    assert process.name.startswith("peer speed iql 1 8")
    assert process(2) == (0.002, 0.004)
    with pytest.raises(RuntimeError, match="the peer process ended with exit code 3: out of what it needs"):
        process(13)
    process.close()


def test_a_turn_goes_on_where_the_one_before_ended():
    learner = agent_speed.make_learner("bc", load_dataset("rlrat/hopper/mixed-v0"), 2, "cpu", batch_size=4)
    numbers, inputs = [], learner.inputs
    learner.inputs = lambda number: numbers.append(number) or inputs(number)
    turn = agent_speed.Turn(learner, "cpu")
    assert not turn.replayed
    assert all(seconds > 0 for seconds in (*turn(2), *turn(1)))
    assert numbers == [0, 1, 2]


def recorded_by(kind):
    """Stands for `captured`."""

    def make(learner):
        def make_graph():
            graph = kind()
            graph.learner = learner
            return graph

        return captured(learner, make_graph)

    return make


class SlowRecorder(Recorder):
    """Takes its time until a recording is there."""

    def warm_up(self, function):
        time.sleep(0.05)
        return super().warm_up(function)

    def record(self, function):
        time.sleep(0.05)
        return super().record(function)


@pytest.mark.parametrize(("agent", "kinds"), [("bc", 1), ("td3_bc", 2)])
def test_a_turn_is_as_long_as_asked_for_although_recording_takes_long(agent, kinds, monkeypatch):
    dataset = load_dataset("rlrat/hopper/mixed-v0")
    learner = agent_speed.make_learner(agent, dataset, 1, "cpu", batch_size=4, hidden_dims=(4, 4))
    monkeypatch.setattr(agent_speed, "is_gpu", lambda device: True)
    monkeypatch.setattr(agent_speed, "captured", recorded_by(SlowRecorder))
    turn = agent_speed.Turn(learner, "cpu")
    assert turn.replayed
    assert len(turn._recordings) == kinds
    updates = agent_speed.updates_in(turn, 0.2)
    assert 0.05 < turn(updates).wall < 0.8  # 0.2, on a machine that does something else, too


def test_what_cannot_be_recorded_is_no_endless_warm_up(monkeypatch, capsys):
    class Refusing(Recorder):
        def record(self, function):
            raise RuntimeError("no")

    learner = agent_speed.make_learner("bc", load_dataset("rlrat/hopper/mixed-v0"), 1, "cpu", batch_size=4)
    monkeypatch.setattr(agent_speed, "is_gpu", lambda device: True)
    monkeypatch.setattr(agent_speed, "captured", recorded_by(Refusing))
    assert not agent_speed.Turn(learner, "cpu").replayed
    assert "cannot be replayed as a CUDA graph (no)" in capsys.readouterr().err


@pytest.mark.parametrize("cost", [1e-5, 0.003, 2.0])
def test_the_updates_of_a_turn_are_found_by_doubling(cost):
    turns = []

    def turn(updates):
        turns.append(updates)
        return Clocked(cost * updates + (9.0 if len(turns) == 1 else 0.0), 0.0)  # the first one has all to load

    updates = agent_speed.updates_in(turn, 0.5)
    assert cost * updates == pytest.approx(0.5, rel=0.01) or updates == 1
    assert turns == [2, *(2**power for power in range(len(turns) - 1))]


def test_an_unknown_agent_is_one_line():
    with pytest.raises(InputError, match="no agent iqll: did you mean iql"):
        agent_speed.make_learner("iqll", None, 1, "cpu")
