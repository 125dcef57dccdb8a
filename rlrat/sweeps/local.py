"""Run workers on this machine: one thread each on its CPUs, or as many on each GPU as its memory holds."""

import os
import shutil
import socket
import subprocess
from dataclasses import dataclass

from rlrat.sweeps.grid import Job
from rlrat.sweeps.launcher import Outcome, WorkerTask
from rlrat.sweeps.worker import start
from rlrat.updates.machine import usable_cores

_CONTEXT_BYTES = 600 * 2**20  # of a GPU for a CUDA context and PyTorch's kernels, in addition to the tensors
_FREE_SHARE = 0.1  # share of a GPU's free memory that is left free


@dataclass(frozen=True)
class GPU:
    name: str
    """As CUDA_VISIBLE_DEVICES takes it."""
    free: int
    """Bytes."""


def find_gpus() -> list[GPU]:
    """Find the NVIDIA GPUs that this process may use, by nvidia-smi; none if there is no nvidia-smi."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    answer = subprocess.run(query, capture_output=True, text=True)
    if answer.returncode:
        return []
    rows = [[part.strip() for part in line.split(",")] for line in answer.stdout.splitlines() if line.count(",") == 2]
    # Use the uuids, as CUDA may count GPUs in another order; names that the user gave stay as they are.
    rows = [(index, uuid, int(free) * 2**20) for index, uuid, free in rows if free.isdecimal()]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [GPU(uuid, free) for _, uuid, free in rows]
    memory = {name: free for index, uuid, free in rows for name in (index, uuid)}
    names = [name.strip() for name in visible.split(",")]
    return [GPU(name, memory[name]) for name in names if name in memory]


def fitting(gpu: GPU, memory: int) -> int:
    """Return how many processes that each reserve `memory` bytes fit on a GPU, at least one."""
    return max(1, int(gpu.free * (1 - _FREE_SHARE)) // (memory + _CONTEXT_BYTES))


class LocalLauncher:
    """Run each worker as a child process; it ends with a checkpoint if this process ends."""

    many_hosts = False

    def __init__(self, workers: int | None, threads: int, gpus: list[GPU], per_gpu: int | None = None) -> None:
        """Run at most `workers` in all; by default `per_gpu` on each GPU, and no more than the CPUs allow."""
        cpus = max(1, usable_cores() // threads)
        slots = [gpu.name for _ in range(per_gpu or 1) for gpu in gpus][: max(cpus, len(gpus))] or [None] * cpus
        if workers is not None:
            slots = [slots[index % len(slots)] for index in range(workers)]
        self._free: list[str | None] = slots
        self._running: dict[subprocess.Popen, tuple[WorkerTask, str | None]] = {}
        on = f"{len(gpus)} GPUs" if gpus else f"{usable_cores()} CPUs"
        self._description = f"{len(slots)} processes at a time on {socket.gethostname()} ({on}), {threads} threads each"

    def describe(self) -> str:
        return self._description

    def room(self) -> int:
        return len(self._free)

    def submit(self, tasks: list[WorkerTask]) -> None:
        for task in tasks:
            gpu = self._free.pop(0)
            environment = None if gpu is None else {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
            process = start(task.work, environment)
            self._running[process] = task, gpu

    def poll(self) -> list[Outcome]:
        ended = []
        for process in [process for process in self._running if process.poll() is not None]:
            task, gpu = self._running.pop(process)
            self._free.append(gpu)
            ended.append(Outcome(task, process.returncode, socket.gethostname()))
        return ended

    def adopt(self, jobs: list[Job]) -> dict[str, WorkerTask]:
        return {}  # workers end with their sweep

    def drop_waiting(self) -> None:
        pass  # a worker that begins now sees that it must stop

    def kill(self) -> None:
        for process in self._running:
            process.kill()

    def close(self) -> None:
        pass
