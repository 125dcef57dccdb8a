"""Run workers as tasks of a Ray cluster whose nodes share the file system of the run folders."""

import os
import time
from typing import Any

from rlrat.errors import InputError, reason
from rlrat.sweeps.grid import Job
from rlrat.sweeps.launcher import Outcome, WorkerTask
from rlrat.sweeps.worker import Work, start

_PATIENCE_SECONDS = 60.0  # of waiting for a file that another node wrote


class RayLauncher:
    """Run one Ray task for each worker; Ray chooses its node, but not what is tried again."""

    many_hosts = True

    def __init__(self, address: str | None, threads: int, gpus: float, memory_gb: float | None) -> None:
        """Join the cluster at `address`, or start one here.

        Raises:
            InputError: Ray is not installed, there is no such cluster, or none of its nodes is large enough.
        """
        try:
            import ray
        except ImportError:
            raise InputError('--launcher ray needs Ray: pip install "rlrat[ray]"') from None
        self._ray, self._ours = ray, not ray.is_initialized()
        if self._ours:
            # Workers find rlrat where it is installed; Ray need not copy the working directory.
            quiet = {"log_to_driver": False, "logging_level": "error", "configure_logging": True}
            os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
            try:
                ray.init(address=address, include_dashboard=False if address is None else None, **quiet)
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise InputError(
                    f"no Ray cluster at {address or 'this machine'} ({reason(error)}): see `ray status`"
                ) from None
        need = {"CPU": threads, "GPU": gpus, "memory": (memory_gb or 0) * 2**30}
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(node.get(name, 0) >= amount for name, amount in need.items()) for node in nodes):
            wanted = ", ".join(f"{amount:g} {name}" for name, amount in need.items() if amount)
            self.close()
            raise InputError(f"no node of the Ray cluster has {wanted}: ask for less, see `ray status`")
        options: dict[str, Any] = {"num_cpus": threads, "num_gpus": gpus, "max_retries": 0}
        if memory_gb is not None:
            options["memory"] = int(memory_gb * 2**30)
        self._work = ray.remote(_work).options(**options)
        self._running: dict[Any, WorkerTask] = {}
        self._threads, self._gpus = threads, gpus

    def describe(self) -> str:
        nodes = [node for node in self._ray.nodes() if node["Alive"]]
        return f"on a Ray cluster of {len(nodes)} nodes, {self._threads} CPUs each process"

    def room(self) -> int:
        """Return how many tasks Ray can place now, and a few more that wait, so that no resource is idle."""
        cpus = self._ray.cluster_resources().get("CPU", 0)
        return max(0, int(cpus / self._threads) + 2 - len(self._running))

    def submit(self, tasks: list[WorkerTask]) -> None:
        for task in tasks:
            work = self._work
            if task.avoid and (node := self._other_node(task.avoid)) is not None:
                from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

                work = work.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True))
            self._running[work.remote(task.work, hide_gpus=not self._gpus)] = task

    def poll(self) -> list[Outcome]:
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [self._end(reference, self._running.pop(reference)) for reference in ready]

    def adopt(self, jobs: list[Job]) -> dict[str, WorkerTask]:
        return {}  # a task ends with the driver that started it

    def drop_waiting(self) -> None:
        pass  # a worker that begins now sees that it must stop

    def kill(self) -> None:
        for reference in self._running:
            self._ray.cancel(reference, force=True)

    def close(self) -> None:
        if self._ours:
            self._ray.shutdown()

    def _end(self, reference: Any, task: WorkerTask) -> Outcome:
        errors = self._ray.exceptions
        try:
            code, host = self._ray.get(reference)
            return Outcome(task, code, host)
        except errors.OutOfMemoryError:
            return Outcome(task, -9, "a node of the cluster", "Ray ended it: its node was out of memory")
        except errors.RayTaskError as error:
            return Outcome(task, 1, "a node of the cluster", reason(error, end=True))
        except errors.RayError as error:  # the task's worker or node failed
            return Outcome(task, None, "", f"its worker vanished ({type(error).__name__})")

    def _other_node(self, avoid: frozenset[str]) -> str | None:
        for node in self._ray.nodes():
            if node["Alive"] and node["NodeManagerHostname"] not in avoid:
                return node["NodeID"]
        return None


def _work(work: Work, hide_gpus: bool) -> tuple[int, str]:
    """Run a worker in its own process, as a Ray task; it ends with this process. Return its exit code and its host."""
    import socket

    until, permits = time.monotonic() + _PATIENCE_SECONDS, os.path.dirname(work.permit)
    while not os.path.exists(permits):
        if time.monotonic() > until:
            raise FileNotFoundError(
                f"{permits} is not on {socket.gethostname()}: run folders need a shared file system"
            )
        time.sleep(0.5)
    return start(work, {**os.environ, "CUDA_VISIBLE_DEVICES": ""} if hide_gpus else None).wait(), socket.gethostname()
