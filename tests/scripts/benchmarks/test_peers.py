import io
import os
import subprocess
import sys

import pytest

from peers import PEERED, PEERS, answer, command_line, on_cores
from rlrat.runs.agents import agent_names
from tests.short_runs import ROOT


def test_every_peer_is_there():
    for program in PEERS.values():
        assert (ROOT / "scripts" / "benchmarks" / program.words[0]).is_file()
        assert set(program.agents) <= set(PEERED) <= set(agent_names())


def test_an_answer_is_for_as_many_updates_as_were_asked_for(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("relu 3\n4\n"))
    times = iter([(10.0, 5.0), (14.0, 7.0), (20.0, 8.0), (21.0, 8.5)])
    monkeypatch.setattr("peers.clocks", lambda: next(times))
    asked = []

    def work(*words):
        asked.append(words)
        return 6 if len(words) > 1 else words[0]

    answer("it 1.0", work)
    assert capsys.readouterr().out == "ready it 1.0\n2.0 1.0\n1.0 0.5\n"
    assert asked == [("relu", 3), (4,)]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no thread can be kept on cores here")
def test_processes_stay_on_the_cores_of_the_thread_that_starts_them(monkeypatch):
    before = os.sched_getaffinity(0)
    with on_cores(1):
        counted = subprocess.check_output([sys.executable, "-c", "import os; print(len(os.sched_getaffinity(0)))"])
        assert counted.strip() == b"1"
    assert os.sched_getaffinity(0) == before
    with on_cores(None):
        assert os.sched_getaffinity(0) == before
    monkeypatch.delattr(os, "sched_setaffinity")
    with on_cores(1):
        assert os.sched_getaffinity(0) == before


def test_words_of_a_peer_are_read(capsys):
    parser = command_line("It.", ("iql",))
    found = parser.parse_args(["data.npz", "iql", "--threads", "2"])
    assert (found.data, found.agent, found.threads, found.batch_size) == ("data.npz", "iql", 2, 256)
    with pytest.raises(SystemExit):
        parser.parse_args(["data.npz", "cql"])
    assert "invalid choice: 'cql'" in capsys.readouterr().err
