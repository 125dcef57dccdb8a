"""Run workers as jobs of a Slurm cluster, in arrays that submitit submits, on a file system that all nodes share.

A job that Slurm warns (SIGUSR1, before its limit) or preempts (SIGTERM) saves a checkpoint and is queued again.
Jobs do not end with the sweep that submitted them: the same command finds the jobs that are still in the queue.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlrat.errors import InputError, reason
from rlrat.json_files import load_json
from rlrat.sweeps.folder import SweepFolder
from rlrat.sweeps.grid import Job
from rlrat.sweeps.launcher import Outcome, Refused, WorkerTask, read_outcome
from rlrat.sweeps.records import make
from rlrat.sweeps.worker import FULL, Work, start

_MOST = 1000  # jobs in the queue; the default limit of Slurm's arrays
_LOOK_SECONDS = 5.0  # between two requests to Slurm
# A worker's exit codes if Slurm stopped it, or if it could not keep its locks alive.
_STOPPED = (128 + signal.SIGTERM, 128 + signal.SIGUSR1, -signal.SIGTERM, -signal.SIGUSR1, -signal.SIGALRM)
_ASKS = 5  # times that Slurm is asked for its queue, if the answer is needed
_WARNING = "USR1"
_NAME = "rlrat"
_RECORD = "slurm.json"


@dataclass(frozen=True)
class _Queued:
    """A process that was handed to Slurm, recorded for the next sweep on the folder."""

    job: str
    outcome: str
    """The name of the file that its worker leaves beside this record."""


class SlurmLauncher:
    """Submit one job, or one element of an array, for each worker."""

    many_hosts = True

    def __init__(
        self,
        folder: SweepFolder,
        *,
        threads: int,
        minutes: int,
        memory_gb: float,
        gpus: int,
        at_once: int,
        warning: int,
        **where: str | None,
    ) -> None:
        """Prepare jobs. `where` has partition, account, qos and constraint, as sbatch takes them; see `SlurmOptions`.

        Raises:
            InputError: submitit or Slurm is not installed.
        """
        os.environ["SUBMITIT_PREEMPT_SIGNAL"] = _WARNING  # submitit reads it when it is imported, here and in the jobs
        try:
            import submitit
        except ImportError:
            raise InputError('--launcher slurm needs submitit: pip install "rlrat[slurm]"') from None
        if missing := [name for name in ("sbatch", "squeue", "scontrol", "scancel") if shutil.which(name) is None]:
            raise InputError(f"--launcher slurm needs Slurm, but there is no {missing[0]}: start it on a login node")
        for name, value in where.items():
            if value is not None and not re.fullmatch(r"[^\s'\"`$\\]+", value):  # it goes into a shell script
                raise InputError(f"--slurm.{name} is {value!r}, but must be one word as sbatch takes it")
        self._submitit, self._sweep, self._folder = submitit, folder, _own_folder(folder.path / "slurm")
        self._parameters: dict[str, Any] = {
            "job_name": _NAME,
            "cpus_per_task": threads,
            "time": minutes,
            "mem": f"{int(memory_gb * 1024)}MB",
            "array_parallelism": at_once,
            "signal_delay_s": warning,
            "setup": [f"export SUBMITIT_PREEMPT_SIGNAL={_WARNING}"],
            "additional_parameters": {"requeue": True},  # also if a node fails
            **({"gpus_per_node": gpus} if gpus else {}),
            **{name: value for name, value in where.items() if value is not None},
        }
        self._running: dict[str, WorkerTask] = {}
        self._looked = 0.0

    def describe(self) -> str:
        return f"jobs of {self._parameters['cpus_per_task']} CPUs on the Slurm cluster of {socket.gethostname()}"

    def room(self) -> int:
        return max(0, _MOST - len(self._running))

    def submit(self, tasks: list[WorkerTask]) -> None:
        left = list(tasks)
        by_avoid: dict[frozenset[str], list[WorkerTask]] = defaultdict(list)
        for task in tasks:
            by_avoid[task.avoid].append(task)
        for avoid, group in by_avoid.items():
            exclude = {"exclude": ",".join(sorted(avoid))} if avoid else {}
            try:
                # -P, as in `rlrat.sweeps.worker.start`.
                python = f"{shlex.quote(sys.executable)} -P"
                executor = self._submitit.SlurmExecutor(self._folder, max_num_timeout=10**6, python=python)
                executor.update_parameters(**self._parameters, **exclude)
                with executor.batch():
                    jobs = [executor.submit(Element(), task.work) for task in group]
            except self._submitit.core.utils.FailedJobError as error:
                what = reason(error, end=True)
                raise Refused(f"Slurm takes no jobs like these ({what}): see --slurm.* in --help", left) from None
            except OSError as error:
                raise Refused(f"cannot write below {self._folder}: {error.strerror}", left) from error
            for job, task in zip(jobs, group, strict=True):
                left.remove(task)
                self._running[job.job_id] = task
                # Without this record another sweep submits the process again, and the lock keeps the two apart.
                with suppress(InputError):
                    record = _Queued(job.job_id, task.outcome.name)
                    self._sweep.write(task.outcome.with_name(_RECORD), asdict(record))

    def poll(self) -> list[Outcome]:
        if not self._running or time.monotonic() - self._looked < _LOOK_SECONDS:
            return []
        self._looked = time.monotonic()
        queued = _queued()
        if queued is None:
            return []
        return [self._end(id, self._running.pop(id)) for id in list(self._running) if id not in queued]

    def adopt(self, jobs: list[Job]) -> dict[str, WorkerTask]:
        queued, found = _queued_for_sure(), {}
        for job in jobs:
            record = _record(self._sweep.job_file(job, _RECORD))
            if record is not None and record.job in queued:
                task = WorkerTask(job, self._sweep.job_file(job, record.outcome), None)
                self._running[record.job] = found[job.id] = task
        return found

    def drop_waiting(self) -> None:
        self._cancel("--state=PENDING")

    def kill(self) -> None:
        self._cancel()

    def close(self) -> None:
        pass

    def _cancel(self, *how: str) -> None:
        if self._running:
            subprocess.run(["scancel", *how, *self._running], capture_output=True)
            self._looked = 0.0

    def _end(self, id: str, task: WorkerTask) -> Outcome:
        with suppress(OSError):
            task.outcome.with_name(_RECORD).unlink()
        code, host = read_outcome(task)
        if code is None and not self._sweep.has_room(task.job):
            code = FULL  # a full disk kept the worker from writing its outcome
        why = f"job {id} ended without a word: see {self._folder}/{id}_0_log.err" if code is None else ""
        return Outcome(task, 1 if code is None else code, host or "a node of the cluster", why)


def cancel_waiting(folder: SweepFolder) -> None:
    """Cancel the waiting jobs of every sweep on a folder, also of a sweep that was left and has jobs in the queue.

    Raises:
        InputError: Slurm does not answer, or is not on this machine.
    """
    records = map(_record, folder.path.glob(f"jobs/*/{_RECORD}"))
    ids = [record.job for record in records if record is not None]
    if not ids:
        return
    if shutil.which("scancel") is None:
        raise InputError(
            "workers are asked to stop, but jobs that wait in a Slurm queue cannot be cancelled from here, where there "
            "is no scancel: give this command on a login node"
        )
    if waiting := sorted(_queued_for_sure().intersection(ids)):
        subprocess.run(["scancel", "--state=PENDING", *waiting], capture_output=True)


def _record(file: Path) -> _Queued | None:
    try:
        found = make(_Queued, load_json(file))
    except (OSError, ValueError):
        return None
    return found if re.fullmatch(r"outcome-\w+\.json", found.outcome) else None


def _own_folder(path: Path) -> Path:
    """Make the folder of submitit's scripts and pickles, which jobs run as code; only its owner can access it.

    Raises:
        InputError: the folder is somebody else's, or cannot be made.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = path.stat()
        if found.st_uid != os.geteuid():
            raise InputError(f"{path}, from which jobs of Slurm run, is somebody else's: give another --run-dir")
        if found.st_mode & 0o077:  # a group may be able to write the files in it
            path.chmod(0o700)
    except OSError as error:
        raise InputError(f"cannot make {path}, from which jobs of Slurm run: {error.strerror}") from None
    return path


class Element:
    """Run a worker in its own process: the content of a job. submitit pickles it, and calls it on the node."""

    def __call__(self, work: Work) -> int:
        self._process = start(work)
        self._wait()
        code = self._process.wait()
        # A sweep that stops its workers has removed its permit. If it is there, something else stopped the worker.
        if code in _STOPPED and Path(work.permit).exists():
            self._requeue()
        return code

    def checkpoint(self, work: Work) -> Any:
        """Have the worker save a checkpoint, and submit the job again; submitit calls this when Slurm warns."""
        import submitit

        # Slurm warns all processes of a step, but not on every cluster. A run may get SIGUSR1 any number of times. A
        # second SIGTERM would end it at once, and a preemption may send one meanwhile.
        self._process.send_signal(signal.SIGUSR1)
        self._wait()
        return submitit.helpers.DelayedSubmission(Element(), work)

    def _wait(self) -> None:
        """Wait until the worker has ended; a signal handler that interrupts this may call it, too."""
        with suppress(ChildProcessError):  # `send_signal` has already found that the worker ended
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)

    def _requeue(self) -> None:
        array = os.environ.get("SLURM_ARRAY_JOB_ID")
        id = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}" if array else os.environ["SLURM_JOB_ID"]
        if subprocess.run(["scontrol", "requeue", id]).returncode == 0:
            sys.exit(-1)  # end without a result, as submitit itself does


def _queued() -> set[str] | None:
    """Return the ids of this user's sweep jobs in the queue, one per array element; None if Slurm does not answer."""
    command = ["squeue", f"--name={_NAME}", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return None
    return None if answer.returncode else set(answer.stdout.split())


def _queued_for_sure() -> set[str]:
    """Return the same as `_queued`; ask several times until Slurm answers.

    Raises:
        InputError: Slurm does not answer.
    """
    for ask in range(_ASKS):
        time.sleep(_LOOK_SECONDS if ask else 0)
        if (queued := _queued()) is not None:
            return queued
    raise InputError("Slurm does not say what is in its queue: see squeue, and give the same command again")
