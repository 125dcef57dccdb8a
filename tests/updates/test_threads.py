"""How many CPU threads a run takes, from readings of a machine that is not there."""

import json
import os
import time

import pytest
import torch

from rlrat.updates import threads
from rlrat.updates.threads import Reading, ThreadCount, free_cores, read_machine, threads_for

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _machine(monkeypatch):
    """Four threads, which the user has not chosen; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


class Machine:
    """A machine on whose cores other work takes `others` of a core, for as long as `pass_time` says."""

    def __init__(self, monkeypatch, *cores: float) -> None:
        self.now, self.own, self.cores, self.busy = 100.0, 5.0, cores, 0.0
        monkeypatch.setattr(threads.time, "monotonic", lambda: self.now)

    def read(self) -> Reading:
        return Reading(self.now, self.own, tuple((cores, self.busy) for cores in self.cores))

    def pass_time(self, others: float, seconds: float = 3.0) -> None:
        own = seconds * min(torch.get_num_threads(), max(self.cores) - others)
        self.now, self.own, self.busy = self.now + seconds, self.own + own, self.busy + own + seconds * others


def follow(machine: Machine, *others: float) -> list[int]:
    """The number of threads from the first look on, with so much other work before each."""
    count = ThreadCount(None, CPU, machine.read)
    count.choose(4)
    assert count.follow() is None
    taken = []
    for work in others:
        machine.pass_time(work)
        count.follow()
        taken.append(torch.get_num_threads())
    return taken


@pytest.mark.parametrize(
    ("free", "most", "expected"),
    [(2.0, 2, 2), (1.75, 2, 2), (1.7, 2, 1), (1.0, 2, 1), (0.2, 2, 1), (-1.0, 2, 1), (64.0, 8, 8), (5.9, 8, 6)],
)
def test_threads_for_free_cores(free, most, expected):
    assert threads_for(free, most) == expected


def test_free_is_what_other_work_leaves_on_every_share():
    before = Reading(10.0, 1.0, ((4, 100.0), (1.5, 30.0)))
    assert free_cores(before, Reading(12.0, 4.0, ((4, 105.0), (1.5, 33.0)))) == 1.5  # 4 - (5 - 3) / 2 is more
    assert free_cores(before, Reading(12.0, 4.0, ((4, 105.0), (1.5, 35.0)))) == 0.5
    assert free_cores(before, Reading(12.0, 4.0, ((4, 102.9), (1.5, 30.0)))) == 1.5  # counted in ticks
    assert free_cores(before, Reading(10.4, 1.4, before.shared)) is None
    assert free_cores(before, Reading(12.0, 4.0, ((3, 105.0), (1.5, 33.0)))) is None  # the user took a core away


def test_fewer_at_once_and_more_after_quiet_that_grows(monkeypatch):
    machine = Machine(monkeypatch, 4)
    assert follow(machine, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0) == [4, 2, 2, 4, 4, 1, 1, 1, 1, 4, 4]


def test_a_little_other_work_changes_nothing(monkeypatch):
    assert follow(Machine(monkeypatch, 4), 0.2, 0.1, 0.2) == [4, 4, 4]


def test_two_runs_that_share_two_cores_take_one_each_and_keep_it():
    for own in (3.0, 2.0):  # in 3 s: half of what there is, or a third
        after = Reading(3.0, own, ((2, 6.0),))
        assert threads_for(free_cores(Reading(0.0, 0.0, ((2, 0.0),)), after), 2) == 1


def test_looks_are_seconds_apart(monkeypatch):
    machine, reads = Machine(monkeypatch, 4), []
    count = ThreadCount(None, CPU, lambda: reads.append(0) or machine.read())
    count.choose(4)
    for _ in range(50):
        machine.pass_time(0, 0.1)
        count.follow()
    assert len(reads) <= 5


def test_no_more_than_a_control_group_allows(monkeypatch):
    machine = Machine(monkeypatch, 4, 1.5)
    count = ThreadCount(None, CPU, machine.read)
    assert count.choose(4) == "1 of 4 CPU threads: this process may not use more (--num-threads)"
    assert (torch.get_num_threads(), count.most) == (1, 1)


@pytest.mark.parametrize(
    ("given", "device", "name", "expected"),
    [
        *[(3, "cpu", None, 3), (3, "cuda", None, 3), (None, "cuda", None, 4)],
        *[(None, "cpu", "OMP_NUM_THREADS", 4), (None, "cpu", "MKL_NUM_THREADS", 4)],
    ],
)
def test_what_the_user_has_set_stays(given, device, name, expected, monkeypatch):
    machine = Machine(monkeypatch, 4)
    if name is not None:
        monkeypatch.setenv(name, "4")
    count = ThreadCount(given, torch.device(device), machine.read)
    assert count.choose(8) is None
    for _ in range(3):
        machine.pass_time(4)
        assert count.follow() is None
    assert (torch.get_num_threads(), count.most) == (expected, None)
    count.close()
    assert torch.get_num_threads() == 4


def test_where_the_system_says_nothing_threads_are_all_that_are_useful():
    count = ThreadCount(None, CPU, lambda: None)
    assert count.choose(3) == "3 of 4 CPU threads: updates are small (--num-threads)"
    assert (count.follow(), torch.get_num_threads(), count.most) == (None, 3, None)


def stat(*rows: tuple[int, ...]) -> str:
    lines = [f"cpu{number} {' '.join(map(str, row))}" for number, row in enumerate(rows)]
    return "\n".join(["cpu  9 9 9 9 9 9 9 9 9 9", *lines, "intr 5", "ctxt 7", ""])


def write(root, **files: str) -> None:
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_reading_counts_what_is_worked_on_the_cores_of_this_process(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 2}, raising=False)
    monkeypatch.setattr(os, "sysconf", lambda _: 100)
    #       user nice system idle iowait irq softirq steal guest guest_nice
    busy = (1000, 200, 300, 50_000, 60_000, 10, 20, 70, 500, 100)
    write(tmp_path, proc__stat=stat(busy, (10**6,) * 10, (0,) * 10), proc__self__cgroup="0::/\n")
    reading = read_machine(tmp_path)
    assert reading.shared == ((2, 16.0),)
    assert reading.at == pytest.approx(time.monotonic(), abs=60)
    assert 0 < reading.own <= time.process_time()


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"proc__stat": stat((1,) * 10)},
        {"proc__stat": stat((1,) * 10), "proc__self__cgroup": "0::/\n"},  # the second core is missing
        {"proc__stat": "cpu0 a b\ncpu1 c d\n", "proc__self__cgroup": "0::/\n"},
        {"proc__stat": stat((1,) * 10, (1,) * 10), "proc__self__cgroup": "damaged\n"},
    ],
)
def test_a_system_that_does_not_say(files, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    write(tmp_path, **files)
    assert read_machine(tmp_path) is None
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    assert read_machine(tmp_path) is None


@pytest.mark.parametrize("agent", ["bc"])
def test_a_change_while_a_run_goes_on_is_in_its_folder(run_agent, tmp_path, monkeypatch):
    looks = iter([None, None, "1 of 2 CPU threads: 0.3 cores are free (--num-threads)", *[None] * 9])

    def follow(self):
        if (said := next(looks)) is not None:
            torch.set_num_threads(1)
        return said

    monkeypatch.setattr(ThreadCount, "follow", follow)
    monkeypatch.setattr("rlrat.runs.run.useful_threads", lambda *_: 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    result = run_agent("--num-threads", "None", "--total-updates", 6)
    assert "update 3: 1 of 2 CPU threads" in result.stdout
    for file in (tmp_path / "runs").rglob("config.json"):
        config = json.loads(file.read_text())
        assert config["arguments"]["num_threads"] == 2
        assert [(start["update"], start["arguments"]["num_threads"]) for start in config["resumed"]] == [(3, 1)]
    assert torch.get_num_threads() == 4
