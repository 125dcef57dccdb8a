import sys
import time

import pytest
import torch

import agent_speed
from agent_speed import Agents, run_agents
from rlrat import load_dataset
from rlrat.errors import InputError
from rlrat.updates.captured import captured
from tests.updates.test_captured import Recorder

PEER = """
import argparse, sys, time
parser = argparse.ArgumentParser()
parser.add_argument("what")
parser.add_argument("agent")
parser.add_argument("--threads")
parser.add_argument("--batch-size")
arguments = parser.parse_args()
import rlrat  # is found
print("said by a library")
print("ready peer", *vars(arguments).values(), flush=True)
for line in sys.stdin:
    if line == "13\\n":
        print("out of what it needs", file=sys.stderr)
        sys.exit(3)
    time.sleep(0.001)
    print(0.001 * int(line), flush=True)
"""


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """A process that stands for d3rlpy's."""
    file = tmp_path / "peer.py"
    file.write_text(PEER)
    monkeypatch.setattr(agent_speed, "PEER", file)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def small(**changes) -> Agents:
    choice = {"agents": ("td3_bc",), "activations": ("relu",), "rounds": 2, "seconds": 0.01, "threads": 1}
    return Agents(**{**choice, **changes})


def test_contenders_take_turns_beside_the_peer(peer, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")
    rows = run_agents(small(num_seeds=(1, 2), peer_python=sys.executable))
    assert list(rows) == ["td3_bc relu, S = 1", "td3_bc relu, S = 2", "td3_bc peer speed td3_bc 1 256"]
    for row in rows.values():
        assert 0 < row["lowest"] <= row["median"] <= row["highest"]
    assert rows["td3_bc relu, S = 1"]["time, of the first"] == 1
    theirs = rows["td3_bc peer speed td3_bc 1 256"]
    assert theirs["median"] == pytest.approx(1000)
    assert theirs["speed, of d3rlpy"] == 1
    assert set(rows) <= {line.split("│")[1].strip() for line in capsys.readouterr().out.splitlines() if "│" in line}


def test_a_peer_that_breaks_is_no_figure(peer):
    process = agent_speed.Peer(sys.executable, agent_speed.PEER, "speed", "iql", "--threads", 1, "--batch-size", 8)
    assert process.name == "peer speed iql 1 8"
    assert process(2) == 0.002
    with pytest.raises(RuntimeError, match="the peer process ended with exit code 3: out of what it needs"):
        process(13)
    process.close()


def test_a_turn_goes_on_where_the_one_before_ended():
    learner = agent_speed.make_learner("bc", load_dataset("rlrat/hopper/mixed-v0"), 2, "cpu", batch_size=4)
    numbers, inputs = [], learner.inputs
    learner.inputs = lambda number: numbers.append(number) or inputs(number)
    turn = agent_speed.Turn(learner, "cpu")
    assert not turn.replayed
    assert turn(2) > 0
    assert turn(1) > 0
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
    assert 0.05 < turn(updates) < 0.8  # 0.2, on a machine that does something else, too


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
        return cost * updates + (9.0 if len(turns) == 1 else 0.0)  # the first one has all to load

    updates = agent_speed.updates_in(turn, 0.5)
    assert cost * updates == pytest.approx(0.5, rel=0.01) or updates == 1
    assert turns == [2, *(2**power for power in range(len(turns) - 1))]


def test_an_unknown_agent_is_one_line():
    with pytest.raises(InputError, match="no agent iqll: did you mean iql"):
        agent_speed.make_learner("iqll", None, 1, "cpu")
