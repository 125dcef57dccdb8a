"""Whole sweeps on this machine, of an agent that counts, and what a cluster may do to one."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace

import pytest

from rlrat.errors import InputError
from rlrat.runs.locks import Watch
from rlrat.sweeps import conductor
from rlrat.sweeps.folder import SweepFolder
from rlrat.sweeps.grid import Block, Grid, expand, make_jobs
from rlrat.sweeps.launcher import Outcome, Refused, WorkerTask
from tests.short_runs import ROOT
from tests.sweeps.whole_sweeps import TOY_FILE, hold_back, wait_until


def updates(folder) -> list[int]:
    return [int(line.partition(",")[0]) for line in (folder / "evaluations.csv").read_text().splitlines()[1:]]


def begin(sweeper, *argv) -> subprocess.Popen:
    """As `sweeper`, in a process of its own, without the names of activations, which importing torch would cost."""
    script = "; ".join(
        (
            "import sys; from scripts import sweep; sweep.commands.check_settings = lambda cells: None",
            "from rlrat.sweeps import conductor; conductor._POLL_SECONDS, conductor._LOOK_SECONDS = 0.02, 0.2",
            "sys.exit(sweep.main(sys.argv[1:]))",
        )
    )
    command = [sys.executable, "-c", script, "--agents", TOY_FILE, "--run-dir", sweeper.run_dir]
    return subprocess.Popen(
        [*map(str, command), *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_what_is_missing_is_done_once(sweeper):
    arguments = ("--activations", "relu", "tanh", "--seeds", 3, "--seeds-per-process", 2)
    assert sweeper(*arguments) == 0
    assert "2 cells in 4 processes" in sweeper.said
    assert sweeper.said.count(": finished") == 4
    for run in ("relu", "tanh"):
        for seed in range(3):
            assert updates(sweeper.folder(run, seed)) == [1, 2, 3]
    assert "rlrat-hopper-mixed-v0  toy    tanh  3/3    3.0 ± 0.0" in sweeper.said
    assert f"python scripts/compare.py {sweeper.run_dir}" in sweeper.said
    assert not any((sweeper.run_dir / ".sweep" / "permits").iterdir())
    assert not SweepFolder(sweeper.run_dir).locked()

    (sweeper.folder("tanh", 2) / "summary.json").unlink()
    assert sweeper(*arguments) == 0
    assert sweeper.said.count(": finished") == 1
    assert sweeper.command("status") == 0
    assert "2 cells, 6 runs: 6 finished" in sweeper.said


def test_a_crash_is_tried_again_from_its_checkpoint(sweeper):
    assert sweeper("--grid.trouble", "first") == 0
    assert "exit code 1; attempt 2 of 3 goes on from its checkpoint" in sweeper.said
    assert updates(sweeper.folder("relu+trouble=first")) == [1, 2, 3]


@pytest.mark.parametrize(
    ("trouble", "attempts", "reason", "line"),
    [
        ("crash", 2, "exit code 1", "RuntimeError: the last line of its log"),
        ("killed", 2, "killed by SIGKILL", "update 2"),
        ("mistake", 1, "exit code 2", "error: this cannot be: mend it"),
    ],
)
def test_a_process_that_fails_for_good_is_reported_and_the_others_go_on(sweeper, trouble, attempts, reason, line):
    assert sweeper("--grid.trouble", "none", trouble, "--retries", 1, "--workers", 1) == 1
    assert updates(sweeper.folder()) == [1, 2, 3]
    label = f"toy relu+trouble={trouble} seed0"
    assert f"{label}: FAILED: {reason}" in sweeper.said
    assert line in sweeper.said
    log = SweepFolder(sweeper.run_dir).path / "jobs"
    assert sum(file.read_text().count("-- ") for file in log.glob("*/log.txt")) == 1 + attempts
    assert sweeper.command("status") == 0
    assert "2 runs: 1 finished, 1 failed" in sweeper.said
    assert f"failed: rlrat-hopper-mixed-v0 {label}: {reason}" in sweeper.said


def test_what_a_file_system_says_in_passing_is_tried_again(sweeper):
    assert sweeper("--grid.trouble", "passing") == 0
    assert "exit code 1; attempt 2 of 3 goes on from its checkpoint" in sweeper.said


def test_progress_makes_a_failure_count_anew(sweeper, tmp_path):
    """A process that is killed at each update, and so fails more often than it may without having moved."""
    agent = tmp_path / "toy.py"
    agent.write_text(
        TOY_FILE.read_text().replace("        for folder in folders:\n            with", KILLS + "            with")
    )
    assert sweeper("--grid.total-updates", 4, "--retries", 1, agents=[agent]) == 0
    assert sweeper.said.count("killed by SIGKILL") == 3


KILLS = """        if update > min(states) + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        for folder in folders:
"""


def test_a_run_that_diverges_is_finished_and_counted(sweeper):
    assert sweeper("--grid.trouble", "diverge", "--seeds", 2) == 0
    assert "seed0-1: finished, seed0 diverged" in sweeper.said
    assert "1/2    3.0 ± 0.0  3.0 ± 0.0  1" in sweeper.said
    sweeper.command("status")
    assert "2 runs: 1 finished, 1 diverged" in sweeper.said
    assert "seed0 at update 2" in sweeper.said


def test_a_run_of_which_no_evaluation_worked_has_failed(sweeper):
    assert sweeper("--grid.trouble", "unscored", "--retries", 1) == 1
    label, folder = "rlrat-hopper-mixed-v0 toy relu+trouble=unscored seed0", sweeper.folder("relu+trouble=unscored")
    why = "exit code 1: no evaluation of what it trained worked"
    assert f"{label}: {why}; attempt 2 of 2 goes on" in sweeper.said
    assert f"{label}: FAILED: {why}" in sweeper.said
    assert "toy    relu+trouble=unscored  0/1" in sweeper.said
    assert sweeper.command("status") == 0
    assert "1 runs: 1 failed" in sweeper.said
    assert f"failed: {label}: {why}" in sweeper.said
    (record,) = (sweeper.run_dir / ".sweep" / "jobs").glob("*/failed.json")
    record.unlink()  # as of a run that was begun by hand
    sweeper.command("status")
    assert "1 runs: 1 failed" in sweeper.said
    assert f"failed: {folder}: no evaluation of what it trained worked" in sweeper.said
    (folder / "summary.json").write_text('["finished"]')
    sweeper.command("status")
    assert "1 runs: 1 unfinished" in sweeper.said
    assert sweeper("--grid.trouble", "unscored", "--retries", 0) == 1
    assert sweeper.command("retry", "--agents", TOY_FILE) == 1
    log = record.with_name("log.txt").read_text()
    assert log.count("-- ") == 2 + 1 + 1  # retry has the options of the newest sweep


def test_a_full_disk_pauses_the_sweep_until_there_is_room(sweeper, monkeypatch):
    sweeper.run_dir.mkdir()
    (sweeper.run_dir / "full").touch()

    def has_room(self, job) -> bool:
        looks.append(job)
        if len(looks) == 3:
            (sweeper.run_dir / "full").unlink()
        return len(looks) >= 3

    looks = []
    monkeypatch.setattr(SweepFolder, "has_room", has_room)
    assert sweeper("--grid.trouble", "full", "--retries", 0) == 0
    assert "is full: paused until there is room" in sweeper.said
    assert "there is room again" in sweeper.said
    assert len(looks) == 3
    assert updates(sweeper.folder("relu+trouble=full")) == [1, 2, 3]


def test_two_sweeps_on_one_folder_share_the_work(sweeper):
    arguments = ("--activations", "relu", "tanh", "gelu", "--grid.hold", 2, "--workers", 1)
    hold = hold_back(sweeper.run_dir)
    folder, sweeps = SweepFolder(sweeper.run_dir), []
    for number in (1, 2):
        sweeps.append(begin(sweeper, *arguments))
        wait_until(lambda number=number: len(folder.locked()) == number)
    hold.unlink()
    said = [process.communicate()[0] for process in sweeps]
    assert [process.returncode for process in sweeps] == [0, 0], said
    for run in ("relu", "tanh", "gelu"):
        assert updates(sweeper.folder(f"{run}+hold=2")) == [1, 2, 3]
    assert "is at it" in said[1]
    logs = [file.read_text() for file in (sweeper.run_dir / ".sweep" / "jobs").glob("*/log.txt")]
    assert sum("update 3" in log for log in logs) == sum(log.count("update 3") for log in logs) == 3


def test_a_killed_sweep_takes_its_workers_along_and_the_next_goes_on(sweeper):
    arguments = ("--grid.hold", 3, "--grid.total-updates", 4, "--seeds", 2, "--seeds-per-process", 1, "--workers", 2)
    hold = hold_back(sweeper.run_dir)
    first = begin(sweeper, *arguments)
    folders = [sweeper.folder("relu+hold=3", seed) for seed in range(2)]
    wait_until(lambda: all((folder / "checkpoint.pt").exists() for folder in folders))
    first.kill()
    first.communicate()
    folder, watch = SweepFolder(sweeper.run_dir), Watch()
    wait_until(lambda: not any(watch.holder(folder.lock(path)) for path in folders))
    assert not any((path / "summary.json").exists() for path in folders)
    sweeper.command("status")
    assert "2 runs: 2 unfinished" in sweeper.said
    assert "a sweep is under way" not in sweeper.said
    hold.unlink()
    assert sweeper(*arguments) == 0
    assert [updates(folder) for folder in folders] == [[1, 2, 3, 4]] * 2


@pytest.mark.parametrize("how", ["stop", "SIGINT"])
def test_a_sweep_is_stopped_with_its_checkpoints_kept(sweeper, how):
    hold_back(sweeper.run_dir)
    process = begin(sweeper, "--grid.hold", 3)
    folder = sweeper.folder("relu+hold=3")
    wait_until((folder / "checkpoint.pt").exists)
    sweeper.command("status")
    assert "1 runs: 1 running" in sweeper.said
    assert "a sweep is under way: process" in sweeper.said
    if how == "stop":
        assert sweeper.command("stop") == 0
        assert "stopped" in sweeper.said
    else:
        process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 130
    assert "stopping: each process saves a checkpoint first" in said
    assert "stopped; the same command goes on from here" in said
    assert not SweepFolder(sweeper.run_dir).locked()
    assert "FAILED" not in said


@pytest.mark.slow
def test_a_disk_that_is_really_full_pauses_the_sweep(sweeper, tmp_path):
    sweeper.run_dir = tmp_path / "disk" / "runs"
    sweeper.run_dir.parent.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", str(sweeper.run_dir.parent)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs of 4 MB")
    try:
        hold = hold_back(sweeper.run_dir)
        process = begin(sweeper, "--grid.hold", 3, "--grid.total-updates", 20, "--retries", 0)
        wait_until((sweeper.folder("relu+hold=3") / "checkpoint.pt").exists)
        filler = sweeper.run_dir.parent / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        hold.unlink()
        said = line = process.stdout.readline()
        while line and "is full: paused until there is room" not in line:
            line = process.stdout.readline()
            said += line
        filler.unlink()
        said += process.communicate()[0]
    finally:
        subprocess.run(["umount", "-l", str(sweeper.run_dir.parent)], check=True)
    assert process.returncode == 0
    assert "is full: paused until there is room" in said
    assert "there is room again: going on" in said
    assert "seed0: finished" in said


class Cluster:
    """A launcher of two hosts, on the first of which every process ends with `code`."""

    many_hosts = True

    def __init__(self, code: int | None) -> None:
        self.code, self.hosts, self.ended = code, [], []

    def describe(self) -> str:
        return "a cluster"

    def room(self) -> int:
        return 1

    def submit(self, tasks: list[WorkerTask]) -> None:
        for task in tasks:
            host = "second" if "first" in task.avoid else "first"
            self.hosts.append(host)
            code = self.code if host == "first" else 0
            if code == 0:
                for folder in task.job.folders:
                    folder.mkdir(parents=True)
                    (folder / "summary.json").write_text('{"status": "finished"}')
            self.ended.append(Outcome(task, code, host))

    def poll(self) -> list[Outcome]:
        ended, self.ended = self.ended, []
        return ended

    def adopt(self, jobs) -> dict:
        return {}

    def drop_waiting(self) -> None:
        pass

    kill = close = drop_waiting


@pytest.fixture
def conduct(tmp_path, monkeypatch):
    monkeypatch.setattr(conductor, "_DELAY_SECONDS", 0.0)
    monkeypatch.setattr(conductor, "_POLL_SECONDS", 0.0)

    def run(launcher, seed: int = 0, retries: int = 2) -> list[str]:
        grid = Grid((Block((str(TOY_FILE),)),), first_seed=seed)
        jobs = make_jobs(expand(grid, tmp_path), None)
        said: list[str] = []
        conducted = conductor.Conductor(
            jobs, launcher, SweepFolder(tmp_path), extra={}, retries=retries, say=said.append, show=lambda _: None
        )
        conducted.run()
        return said

    return run


class Hesitant(Cluster):
    """A cluster that refuses what it is handed at these times, once without room on its disk."""

    def __init__(self, refusals: dict[int, OSError | None]) -> None:
        super().__init__(code=1)
        self.refusals, self.asked = refusals, 0

    def submit(self, tasks: list[WorkerTask]) -> None:
        self.asked += 1
        if self.asked in self.refusals:
            raise Refused("it takes no more", tasks) from self.refusals[self.asked]
        super().submit([replace(task, avoid=frozenset(["first"] * (self.asked > 1))) for task in tasks])


def test_a_cluster_that_refuses_what_it_has_taken_before_is_asked_again(conduct, monkeypatch):
    monkeypatch.setattr(conductor, "_REFUSED_SECONDS", 0.0)
    cluster = Hesitant({2: None, 3: None})
    said = conduct(cluster)
    assert said[-1].endswith("seed0: finished")
    assert [line.startswith("it takes no more; 1 processes are handed over again") for line in said[1:]] == [
        *(True, True, False)
    ]
    with pytest.raises(InputError, match="it takes no more"):
        conduct(Hesitant({1: None}), seed=1)


def test_a_cluster_whose_disk_is_full_pauses_the_sweep(conduct, monkeypatch):
    monkeypatch.setattr(conductor, "_REFUSED_SECONDS", 0.0)
    monkeypatch.setattr(conductor, "_LOOK_SECONDS", 0.0)
    said = conduct(Hesitant({1: OSError(errno.ENOSPC, "No space left on device")}))
    assert "is full: paused until there is room" in said[0]
    assert "there is room again" in said[1]
    assert said[-1].endswith("seed0: finished")


class Stopped(Cluster):
    """A cluster whose worker sees that its permit is gone, and ends, before the sweep does."""

    def poll(self) -> list[Outcome]:
        if self.ended:
            for permit in self.permits.iterdir():
                permit.unlink()
        return super().poll()


def test_a_worker_that_was_asked_to_stop_has_not_failed(conduct, tmp_path):
    cluster = Stopped(code=128 + signal.SIGTERM)
    cluster.permits = tmp_path / ".sweep" / "permits"
    assert conduct(cluster, retries=0) == []


def test_a_dataset_that_one_node_lacks_is_found_on_another(conduct):
    cluster = Cluster(code=2)  # as agents end where they cannot have it
    assert conduct(cluster)[-1].endswith("seed0: finished")
    assert cluster.hosts == ["first", "second"]


def test_a_worker_that_keeps_vanishing_is_given_up(conduct):
    cluster = Cluster(code=None)
    said = conduct(cluster)
    assert len(cluster.hosts) == 21
    assert "it is started again" in said[0]
    assert "FAILED: its worker vanished" in said[-1]
