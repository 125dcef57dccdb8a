"""Ray and Slurm: what can be told without a cluster, and a real Slurm of one node on this machine."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from short_runs import ROOT
from whole_sweeps import CELLS, begin, check

from rlrat.errors import InputError
from rlrat.sweeps import conductor, slurm
from rlrat.sweeps.folder import SweepFolder
from rlrat.sweeps.grid import Block, Grid, expand, make_jobs
from rlrat.sweeps.launcher import Outcome, Task
from rlrat.sweeps.locks import Watch

TOY_FILE = ROOT / "tests" / "sweeps" / "toy.py"
OPTIONS = {"threads": 1, "minutes": 10, "memory_gb": 0.5, "gpus": 0, "at_once": 2, "warning": 60}


def wait_until(true, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize("launcher", ["ray", "slurm"])
def test_a_launcher_whose_package_is_missing_is_one_line(sweeper, monkeypatch, launcher):
    monkeypatch.setitem(sys.modules, {"ray": "ray", "slurm": "submitit"}[launcher], None)
    with pytest.raises(InputError, match=rf'pip install "rlrat\[{launcher}\]"'):
        sweeper("--launcher", launcher)


def test_nothing_but_the_launchers_imports_ray_or_submitit():
    script = """
import sys
from rlrat.sweeps import commands
assert not {"ray", "submitit"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_machine_without_slurm_is_one_line(sweeper, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="there is no sbatch: start it on a login node"):
        sweeper("--launcher", "slurm")


def test_a_cluster_of_ray_that_is_not_there_is_one_line(sweeper):
    pytest.importorskip("ray", reason='needs Ray: pip install "rlrat[ray]"')
    with pytest.raises(InputError, match="no Ray cluster at auto"):
        sweeper("--launcher", "ray", "--ray.address", "auto")


class Cluster:
    """A launcher of two hosts, the first of which lacks what every process needs."""

    many_hosts = True

    def __init__(self, code: int | None) -> None:
        self.code, self.hosts, self.ended = code, [], []

    def describe(self) -> str:
        return "a cluster"

    def room(self) -> int:
        return 1

    def submit(self, tasks: list[Task]) -> None:
        for task in tasks:
            host = "second" if "first" in task.avoid else "first"
            self.hosts.append(host)
            code = self.code if host == "first" else 0
            if code == 0:
                for folder in task.job.folders:
                    folder.mkdir(parents=True)
                    (folder / "summary.json").write_text("{}")
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
    monkeypatch.setattr(conductor, "_DELAY", 0.0)
    monkeypatch.setattr(conductor, "_POLL", 0.0)

    def run(launcher) -> list[str]:
        jobs = make_jobs(expand(Grid((Block((str(TOY_FILE),)),)), TOY_FILE.parent, tmp_path), None)
        said: list[str] = []
        conducted = conductor.Conductor(
            jobs, launcher, SweepFolder(tmp_path), extra={}, retries=2, say=said.append, show=lambda _: None
        )
        conducted.run()
        return said

    return run


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


def test_an_element_of_an_array_that_is_warned_saves_a_checkpoint_and_goes_on(tmp_path):
    """Without Slurm, submitit's own executor starts again what asks for it."""
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
    submitit = pytest.importorskip("submitit", reason='needs submitit: pip install "rlrat[slurm]"')
    (tmp_path / "permit").touch()
    run_dir = tmp_path / "runs"
    work = {
        "agent": str(TOY_FILE), "argv": ["--run-dir", str(run_dir), "--total-updates", "8", "--pause", "0.25"],
        "locks": [str(tmp_path / "locks" / "seed0")], "attempt": "", "permit": str(tmp_path / "permit"),
        **{name: str(tmp_path / name) for name in ("log", "outcome")},
    }  # fmt: skip
    (tmp_path / "job.json").write_text(json.dumps(work))
    executor = submitit.LocalExecutor(tmp_path / "jobs")
    executor.update_parameters(timeout_min=10)
    job = executor.submit(slurm.Element(), str(tmp_path / "job.json"))
    wait_until(lambda: "update 3" in (tmp_path / "log").read_text() if (tmp_path / "log").exists() else False)
    worker = Watch().holder(tmp_path / "locks" / "seed0").pid
    element = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(element, signal.SIGUSR1)
    assert job.result() == 0
    log = (tmp_path / "log").read_text()
    assert log.count("-- ") == 2
    assert [log.count(f"update {n}\n") for n in range(1, 9)] == [1] * 8
    assert os.listdir(tmp_path / "locks") == []


# A real Slurm.


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
KillWait=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""


@pytest.fixture
def real_slurm(tmp_path, monkeypatch):
    """A Slurm of one node with two CPUs, whose partition `high` preempts the jobs of `low`."""
    pytest.importorskip("submitit", reason='needs submitit: pip install "rlrat[slurm]"')
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and Debian's slurmctld, slurmd, slurm-client and munge; missing: {missing or 'root'}")
    folder = tmp_path / "slurm"
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    munge = folder / "munge"
    (munge / "key").write_bytes(os.urandom(1024))
    (munge / "key").chmod(0o400)
    munge.chmod(0o700)
    ports = {"controller": free_port(), "daemon": free_port()}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=socket.gethostname(), folder=folder, **ports))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    files = {"key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{name}={munge / file}" for name, file in files.items()]
    pid_files = [munge / "pid", folder / "slurmctld.pid", folder / "slurmd.pid"]
    try:
        for command in (
            ["munged", "--force", f"--socket={folder}/munge.socket", *options],
            ["slurmctld", "-c"],
            ["slurmd"],
        ):
            subprocess.run(command, check=True, capture_output=True)
        wait_until(lambda: "idle" in subprocess.run(["sinfo", "-h"], capture_output=True, text=True).stdout)
        yield folder
    finally:
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        time.sleep(1)
        for file in reversed(pid_files):
            if file.exists():
                os.kill(int(file.read_text()), signal.SIGTERM)


def squeue(*options: str) -> list[str]:
    command = ["squeue", "--noheader", "--array", "--format=%i", "--partition=low", *options]
    return subprocess.run(command, capture_output=True, text=True).stdout.split()


@pytest.mark.slow
def test_jobs_of_a_real_slurm_survive_warning_preemption_and_the_loss_of_their_sweep(tmp_path, real_slurm, undisturbed):
    extra = ("--launcher", "slurm", "--slurm.partition", "low", "--slurm.memory-gb", "1", "--slurm.minutes", "30")
    run_dir, over = tmp_path / "runs", threading.Event()

    def hurry() -> None:
        """Slurm lets what it requeued wait for two minutes."""
        while not over.wait(1.0):
            for id in squeue("--states=PENDING"):
                subprocess.run(["scontrol", "update", f"jobid={id}", "StartTime=now"], capture_output=True)

    def running_training() -> bool:
        return len(squeue("--states=RUNNING")) == 2 and len(list(run_dir.glob("*/*/*/seed*/checkpoint.pt"))) > 4

    thread = threading.Thread(target=hurry)
    thread.start()
    try:
        process = begin(run_dir, *extra)
        wait_until(running_training, 120)
        subprocess.run(["scancel", "--signal=USR1", squeue("--states=RUNNING")[0]], check=True)
        wait_until(lambda: "Caught signal SIGUSR1" in "".join(f.read_text() for f in logs(run_dir)))
        wait_until(running_training, 120)
        subprocess.run(
            ["sbatch", "--partition=high", "--cpus-per-task=2", "--output=/dev/null", "--wrap=true"], check=True
        )
        wait_until(lambda: "DUE TO JOB REQUEUE" in "".join(f.read_text() for f in logs(run_dir)))
        process.kill()
        process.wait()
        wait_until(running_training, 120)
        process = begin(run_dir, *extra)
        assert process.wait(600) == 0
    finally:
        over.set()
        thread.join()
    check(run_dir, undisturbed)
    submitted = list((run_dir / ".sweep" / "slurm").glob("*_submitted.pkl"))
    assert len(submitted) == CELLS  # the second sweep found the jobs of the first in the queue


def logs(run_dir: Path) -> list[Path]:
    return list((run_dir / ".sweep" / "slurm").glob("*.err"))
