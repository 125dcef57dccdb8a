import sys

import pytest
import torch

import agent_speed
from agent_speed import Agents, run_agents
from rlrat import load_dataset
from rlrat.errors import InputError

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
    process = agent_speed._Peer(sys.executable, "iql", threads=1, batch_size=8)
    assert process.name == "peer speed iql 1 8"
    assert process(2) == 0.002
    with pytest.raises(RuntimeError, match="the peer process ended with exit code 3"):
        process(13)
    process.close()


def test_a_turn_goes_on_where_the_one_before_ended():
    learner = agent_speed.make_learner("bc", load_dataset("rlrat/hopper/mixed-v0"), 2, "cpu", batch_size=4)
    numbers, inputs = [], learner.inputs
    learner.inputs = lambda number: numbers.append(number) or inputs(number)
    turn = agent_speed.make_turn(learner, "cpu")
    assert turn(2) > 0
    assert turn(1) > 0
    assert numbers == [0, 1, 2]


def test_an_unknown_agent_is_one_line():
    with pytest.raises(InputError, match="no agent iqll: did you mean iql"):
        agent_speed.make_learner("iqll", None, 1, "cpu")
