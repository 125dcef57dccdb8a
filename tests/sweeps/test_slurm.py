"""What can be told of Slurm without a cluster, and a real one of one node on this machine."""

import json
import os
import pickle
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from rlrat.errors import InputError
from rlrat.runs.locks import Watch
from rlrat.sweeps import slurm
from rlrat.sweeps.folder import SweepFolder
from rlrat.sweeps.grid import Block, Grid, expand, make_jobs
from rlrat.sweeps.launcher import WorkerTask, read_outcome
from rlrat.sweeps.worker import Work
from tests.short_runs import ROOT
from tests.sweeps.whole_sweeps import CELLS, TOY_FILE, begin, check, hold_back, wait_until

OPTIONS = {"threads": 1, "minutes": 10, "memory_gb": 0.5, "gpus": 0, "at_once": 2, "warning": 60}


def test_a_machine_without_slurm_is_one_line(sweeper, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="there is no sbatch: start it on a login node"):
        sweeper("--launcher", "slurm")


@pytest.fixture
def element(tmp_path):
    """`element(agent, *argv)` is a job of submitit's own executor, which, without Slurm, restarts what asks for it."""
    os.environ["SUBMITIT_PREEMPT_SIGNAL"] = "USR1"
    submitit = pytest.importorskip("submitit", reason='needs submitit: pip install "rlrat[slurm]"')
    (tmp_path / "permit").touch()
    (tmp_path / "log").touch()

    def submit(agent: Path, *argv: str):
        work = Work(
            str(agent),
            ["--run-dir", str(tmp_path / "runs"), *argv],
            [str(tmp_path / "locks" / "seed0")],
            **{name: str(tmp_path / name) for name in ("log", "outcome", "permit")},
        )
        executor = submitit.LocalExecutor(tmp_path / "jobs")
        executor.update_parameters(timeout_min=10)
        return executor.submit(slurm.Element(), work)

    return submit


def test_an_element_whose_worker_has_ended_is_submitted_again():
    submitit = pytest.importorskip("submitit", reason='needs submitit: pip install "rlrat[slurm]"')
    element = slurm.Element()
    element._process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, element._process.pid, os.WEXITED | os.WNOWAIT)
    assert isinstance(element.checkpoint(None), submitit.helpers.DelayedSubmission)


def processes(folder: Path) -> tuple[int, int]:
    """The worker and its element, both of which Slurm warns."""
    worker = Watch().holder(folder / "locks" / "seed0").pid
    return worker, int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])


def catches(process: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    (mask,) = re.findall(r"^SigCgt:\s*(\w+)", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    return bool(int(mask, 16) >> (number - 1) & 1)


def test_an_element_of_an_array_that_is_warned_saves_a_checkpoint_and_goes_on(tmp_path, element):
    hold, log = hold_back(tmp_path / "runs"), tmp_path / "log"
    job = element(TOY_FILE, "--total-updates", "8", "--hold", "4")
    wait_until(lambda: "update 3" in log.read_text())
    for process in processes(tmp_path):
        os.kill(process, signal.SIGUSR1)
    wait_until(lambda: log.read_text().count("-- ") == 2)
    hold.unlink()
    assert job.result() == 0
    assert [log.read_text().count(f"update {n}\n") for n in range(1, 9)] == [1] * 8
    assert os.listdir(tmp_path / "locks") == []


@pytest.mark.slow
def test_a_training_that_is_warned_twice_saves_its_checkpoint(tmp_path, element):
    slow = ("--hidden-dims", "2048", "2048", "--batch-size", "256")  # so that the second one finds it still stopping
    often = ("--eval-every", "10", "--eval-episodes", "1", "--checkpoint-every", "1000000", "--num-threads", "1")
    job = element(ROOT / "agents" / "bc.py", *slow, *often)
    log = tmp_path / "log"
    wait_until(lambda: "update 10:" in log.read_text())
    worker, whole = processes(tmp_path)
    os.kill(worker, signal.SIGUSR1)
    wait_until(lambda: not catches(worker, signal.SIGUSR1))
    os.kill(whole, signal.SIGUSR1)
    wait_until(lambda: "going on from update" in log.read_text())
    (tmp_path / "permit").unlink()
    assert job.result() == 128 + signal.SIGTERM
    assert log.read_text().count("stopped at update") == 2


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """`programs(squeue="echo 7")` puts shell scripts before all else on the path; what they append to `$SAID`."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    monkeypatch.setenv("SAID", str(tmp_path / "said"))
    monkeypatch.setattr(slurm, "_LOOK_SECONDS", 0.0)
    (tmp_path / "bin").mkdir()
    (tmp_path / "said").touch()

    def write(**scripts: str) -> Path:
        for name, script in scripts.items():
            (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "bin" / name).chmod(0o755)
        return tmp_path / "said"

    return write


@pytest.fixture
def launcher(tmp_path, programs):
    """`launcher(partition="gpu")` is one of a Slurm that says yes to everything."""
    pytest.importorskip("submitit", reason='needs submitit: pip install "rlrat[slurm]"')
    programs(**dict.fromkeys(("sbatch", "squeue", "scontrol", "scancel", "srun"), "echo Submitted batch job 7"))

    def build(**where) -> slurm.SlurmLauncher:
        return slurm.SlurmLauncher(SweepFolder(tmp_path / "runs"), **OPTIONS, **where)

    return build


def test_no_words_of_a_folder_get_into_a_script_of_slurm(launcher, tmp_path):
    for value in ("gpu\ntouch it", "gpu --wrap=true", "$(touch it)", ""):
        with pytest.raises(InputError, match=r"--slurm.partition is .*, but must be one word"):
            launcher(partition=value)
    assert "1 CPUs" in launcher(partition="gpu", constraint="[a100*2&b]").describe()
    outcome = tmp_path / "outcome.json"
    for host in ("node7.cluster", "a\ntouch it", "a b", "--wrap"):
        outcome.write_text(json.dumps({"code": 1, "host": host, "memory": 1}))
        assert read_outcome(WorkerTask(None, outcome, None)) == (1, host if host.startswith("node7") else "")


def test_what_jobs_of_slurm_run_lies_where_only_its_owner_writes(launcher, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / ".sweep" / "slurm"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    found = launcher()
    assert folder.stat().st_mode & 0o777 == 0o700
    (job,) = make_jobs(expand(Grid((Block((str(TOY_FILE),)),)), tmp_path / "runs"), None)
    work = Work(str(TOY_FILE), ["--seed", "0"], [], "log", str(tmp_path / "outcome-a.json"), "permit")
    found.submit([WorkerTask(job, tmp_path / "outcome-a.json", work)])
    script = next(folder.glob("*submission*.sh"))
    assert f"{sys.executable} -P -u -m submitit.core._submit" in script.read_text()
    (pickled,) = folder.glob("*_submitted.pkl")
    assert pickle.loads(pickled.read_bytes()).args == (work,)  # our own, from a moment ago
    assert json.loads((tmp_path / "slurm.json").read_text()) == {"job": "7", "outcome": "outcome-a.json"}
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(InputError, match="slurm, from which jobs of Slurm run, is somebody else's"):
        launcher()


def test_a_slurm_that_does_not_answer_has_no_empty_queue(programs):
    said = programs(squeue='echo asked >> "$SAID"; test "$(wc -l < "$SAID")" -gt 2 && echo 7_0')
    assert slurm._queued_for_sure() == {"7_0"}
    assert said.read_text().count("asked") == 3
    programs(squeue="exit 1")
    with pytest.raises(InputError, match="Slurm does not say what is in its queue"):
        slurm._queued_for_sure()


def test_stop_cancels_the_jobs_that_a_sweep_left_in_the_queue(sweeper, programs, monkeypatch):
    assert sweeper() == 0
    jobs = SweepFolder(sweeper.run_dir).path / "jobs"
    for id in ("7_0", "8_0"):
        (jobs / id).mkdir()
        (jobs / id / "slurm.json").write_text(json.dumps({"job": id, "outcome": "outcome-a.json"}))
    said = programs(squeue="echo 7_0; echo 9_0", scancel='echo "$@" >> "$SAID"')
    assert sweeper.command("stop") == 0
    assert said.read_text() == "--state=PENDING 7_0\n"
    programs(squeue="exit 1")
    assert sweeper.command("stop") == 2
    assert "error: Slurm does not say what is in its queue" in sweeper.said
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert sweeper.command("stop") == 2
    assert "there is no scancel" in " ".join(sweeper.said.split())


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


TRAINING = re.compile(r"^update \d", re.MULTILINE)


@pytest.mark.slow
def test_jobs_of_a_real_slurm_survive_warning_preemption_and_the_loss_of_their_sweep(tmp_path, real_slurm, undisturbed):
    extra = ("--launcher", "slurm", "--slurm.partition", "low", "--slurm.memory-gb", "1", "--slurm.minutes", "30")
    run_dir, over, warnings = tmp_path / "runs", threading.Event(), set()

    def hurry() -> None:
        """Slurm lets what it requeued wait for two minutes."""
        while not over.wait(1.0):
            for id in squeue("--states=PENDING"):
                subprocess.run(["scontrol", "update", f"jobid={id}", "StartTime=now"], capture_output=True)

    def training() -> list[str]:
        """The running jobs whose workers are between the first evaluation and the last."""
        running, found = squeue("--states=RUNNING"), []
        for file in (run_dir / ".sweep" / "jobs").glob("*/slurm.json"):
            with suppress(OSError, ValueError):
                job, log = json.loads(file.read_text())["job"], file.with_name("log.txt").read_text()
                if job in running and TRAINING.search(log.rpartition("-- ")[2]) and "update 1,200:" not in log:
                    found.append(job)
        return found

    def warned() -> bool:
        """Have Slurm warn those that train, each once, until one has saved a checkpoint."""
        for job in set(training()) - warnings:
            warnings.add(job)
            subprocess.run(["scancel", "--signal=USR1", job], check=True)
        return "stopped at update" in said(run_dir, "jobs/*/log.txt")

    thread = threading.Thread(target=hurry)
    thread.start()
    try:
        process = begin(run_dir, *extra, checkpoint_every=10_000)  # none but at a stop, and at the end
        wait_until(warned, 120)
        wait_until(lambda: "Caught signal SIGUSR1" in said(run_dir, "slurm/*.err"))
        wait_until(training, 120)
        subprocess.run(
            ["sbatch", "--partition=high", "--cpus-per-task=2", "--output=/dev/null", "--wrap=true"], check=True
        )
        wait_until(lambda: "DUE TO JOB REQUEUE" in said(run_dir, "slurm/*.err"))
        process.kill()
        process.wait()
        wait_until(training, 120)
        process = begin(run_dir, *extra, checkpoint_every=10_000)
        assert process.wait(600) == 0
    finally:
        over.set()
        thread.join()
    check(run_dir, undisturbed)
    for log in (run_dir / ".sweep" / "jobs").glob("*/log.txt"):
        for attempt in log.read_text().split("-- ")[1:-1]:  # those that Slurm ended
            assert "stopped at update" in attempt or "update 1,200:" in attempt or not TRAINING.search(attempt), attempt
    submitted = list((run_dir / ".sweep" / "slurm").glob("*_submitted.pkl"))
    assert len(submitted) == CELLS  # the second sweep found the jobs of the first in the queue


def said(run_dir: Path, pattern: str) -> str:
    return "".join(file.read_text() for file in (run_dir / ".sweep").glob(pattern))
