"""One process of a sweep: its locks, its stops, and what it leaves."""

import json
import os
import signal
import subprocess
import sys

import pytest

from rlrat.errors import InputError
from rlrat.runs.locks import Owner, Watch
from rlrat.sweeps import worker
from tests.sweeps.whole_sweeps import TOY_FILE, hold_back, wait_until


@pytest.fixture
def work(tmp_path):
    """`work(argv)`: what a worker of the toy agent does."""
    permit = tmp_path / "permit"
    permit.touch()

    def build(*argv: str) -> worker.Work:
        run_dir = tmp_path / "runs"
        return worker.Work(
            agent=str(TOY_FILE),
            argv=["--run-dir", str(run_dir), *map(str, argv)],
            locks=[str(tmp_path / "locks" / "seed0")],
            log=str(tmp_path / "log.txt"),
            outcome=str(tmp_path / "outcome.json"),
            permit=str(permit),
        )

    return build


def test_a_worker_leaves_an_outcome_and_no_lock(work, tmp_path):
    assert worker.start(work()).wait() == 0
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["code"] == 0
    assert 2**20 < outcome["memory"] < 2**32
    assert os.listdir(tmp_path / "locks") == []
    assert (tmp_path / "log.txt").read_text().splitlines()[1:] == ["update 1", "update 2", "update 3"]


def test_a_worker_leaves_what_another_has(work, tmp_path):
    held = Watch().acquire(tmp_path / "locks" / "seed0", Owner())
    process = worker.start(work())
    assert process.wait() == worker.LOCKED
    assert "seed0 is in the hands of process" in (tmp_path / "log.txt").read_text()
    assert held.touch()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_a_worker_unwinds_at_what_slurm_sends(work, tmp_path, number):
    hold_back(tmp_path / "runs")
    process = worker.start(work("--hold", 3))
    wait_until(lambda: "update 2" in (tmp_path / "log.txt").read_text() if (tmp_path / "log.txt").exists() else False)
    process.send_signal(number)
    assert process.wait() == 128 + signal.SIGTERM
    assert os.listdir(tmp_path / "locks") == []


@pytest.mark.parametrize("how", ["permit", "parent"])
def test_a_worker_stops_when_its_sweep_is_gone(work, tmp_path, monkeypatch, how):
    hold_back(tmp_path / "runs")
    if how == "parent":
        monkeypatch.setattr(os, "getpid", lambda: 1)
    process = worker.start(work("--hold", 3))
    if how == "permit":
        wait_until((tmp_path / "outcome.json").parent.joinpath("locks").exists)
        (tmp_path / "permit").unlink()
    assert process.wait(20) == 128 + signal.SIGTERM


def test_a_worker_that_lost_its_lock_ends_at_once(work, tmp_path, monkeypatch):
    hold_back(tmp_path / "runs")
    script = f"""
import sys
from rlrat.sweeps import worker
worker.HEARTBEAT_SECONDS = 0.1
sys.exit(worker.main(worker.{work("--hold", 3)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    wait_until(lambda: (tmp_path / "locks").exists() and os.listdir(tmp_path / "locks") == ["seed0.1"])
    (tmp_path / "locks" / "seed0.2").write_text("taken over")
    assert process.wait(20) == worker.LOST
    assert "was taken over: ended without a checkpoint" in (tmp_path / "log.txt").read_text()


def test_a_worker_whose_file_system_hangs_ends_with_its_lease(work, tmp_path):
    hold_back(tmp_path / "runs")
    script = f"""
import threading
from rlrat.sweeps import worker
worker.HEARTBEAT_SECONDS, worker.LEASE_SECONDS = 0.1, 1.0
worker.Lock.touch = lambda self: threading.Event().wait()
worker.main(worker.{work("--hold", 3)!r})
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=30).returncode == -signal.SIGALRM


def test_the_lease_is_prolonged_at_each_touch_and_ends_with_the_run(tmp_path, monkeypatch):
    armed = []
    monkeypatch.setattr(signal, "setitimer", lambda which, seconds: armed.append((which, seconds)))
    monkeypatch.setattr(worker, "HEARTBEAT_SECONDS", 0.0)
    monkeypatch.setattr(worker, "_TICK_SECONDS", 0.001)
    (tmp_path / "permit").touch()
    heartbeat = worker.Heartbeat([], str(tmp_path / "permit"), None)
    heartbeat.start()
    wait_until(lambda: len(armed) > 3)
    heartbeat.end()
    assert {which for which, _ in armed} == {signal.ITIMER_REAL}
    *leases, last = (seconds for _, seconds in armed)
    assert all(0 < seconds <= worker.LEASE_SECONDS for seconds in leases)
    assert last == 0


def test_locks_are_released_where_a_later_one_cannot_be_had(tmp_path):
    (tmp_path / "b").touch()
    with pytest.raises(InputError, match="cannot write the lock"):
        worker.acquire([tmp_path / "a" / "seed0", tmp_path / "b" / "seed0"], Owner(), Watch())
    assert os.listdir(tmp_path / "a") == []


def test_a_worker_says_that_the_disk_is_full(work, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "full").touch()
    assert worker.start(work("--trouble", "full")).wait() == worker.FULL


def test_a_log_that_is_a_link_is_not_followed(work, tmp_path, capfd):
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "log.txt").symlink_to(tmp_path / "precious")
    assert worker.start(work()).wait() == 2
    assert (tmp_path / "precious").read_text() == "mine"
    assert f"error: cannot write the log {tmp_path / 'log.txt'}" in capfd.readouterr().err
