"""The `agents` subcommand of `benchmark.py`: updates per second, beside d3rlpy's."""

import os
import statistics
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.table import Table
from torch import nn

from benchmark_settings import Agents
from rlrat import Dataset, load_dataset
from rlrat.console import Console
from rlrat.runs.agents import learner_class, load_agent
from rlrat.updates.captured import captured
from rlrat.updates.compiled import compiled
from rlrat.updates.machine import keep_freed_memory

PEER = Path(__file__).with_name("peer_d3rlpy.py")
_ROOT = Path(__file__).parents[2]
# Where our defaults differ from what d3rlpy is given: CQL's three hidden layers.
_SETTINGS = {"cql": {"hidden_dims": (256, 256)}}


class _Peer:
    """d3rlpy in a process of its own, that works only while it is asked to."""

    def __init__(self, python: Path, agent: str, threads: int, batch_size: int) -> None:
        command = [str(python), str(PEER), "speed", agent, "--threads", str(threads), "--batch-size", str(batch_size)]
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # rlrat is not installed where the peer is
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        while not (line := self._read()).startswith("ready "):
            pass
        self.name = line.removeprefix("ready ")

    def __call__(self, updates: int) -> float:
        self._process.stdin.write(f"{updates}\n")
        self._process.stdin.flush()
        return float(self._read())

    def _read(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer process ended with exit code {self._process.wait()}")
        return line.strip()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def make_learner(agent: str, dataset: Dataset, num_seeds: int, device: torch.device | str, **settings) -> nn.Module:
    module = load_agent(agent)
    return learner_class(module)(module.Arguments(**settings), dataset, list(range(num_seeds)), device)


def make_turn(learner: nn.Module, device: str, compile: bool = False) -> Callable[[int], float]:
    """A function that performs a number of updates, as a run does, and returns the seconds."""
    if compile:
        learner.update = compiled(learner.update, torch.device(device))
    update, done = captured(learner) if device != "cpu" else learner.update, 0

    def turn(updates: int) -> float:
        nonlocal done
        started = time.perf_counter()
        for number in range(done, done + updates):
            update(*learner.inputs(number))
        done += updates
        if device != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - started

    return turn


def _measure(agent: str, settings: Agents, dataset) -> dict[str, dict[str, float]]:
    fixed = "gelu" if agent == "decision_transformer" else "relu"
    activations = settings.activations or (fixed, "rational:gelu" if fixed == "gelu" else "rational")
    contenders = {}
    torch._dynamo.reset()  # which counts the compilations of a process
    with ExitStack() as stack:
        for count in settings.num_seeds:
            for activation in activations:
                for compile in (False, True) if settings.compile else (False,):
                    own = {"activation": activation, **_SETTINGS.get(agent, {})}
                    learner = make_learner(agent, dataset, count, settings.device, **own)
                    turn, batch_size = make_turn(learner, settings.device, compile), learner.args.batch_size
                    name = f"{agent} {activation}, S = {count}" + (", compiled" if compile else "")
                    contenders[name] = (count, turn)
        if settings.peer_python is not None and agent != "bc":
            peer = _Peer(settings.peer_python, agent, settings.threads, batch_size)
            stack.callback(peer.close)
            contenders[f"{agent} {peer.name}"] = (1, peer)
        # A turn of each lasts about as long, so that all meet the same machine.
        updates = {}
        for name, (_, turn) in contenders.items():
            turn(3)
            updates[name] = max(1, round(5 * settings.seconds / turn(5)))
        speeds: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(settings.rounds + 1):
            for name, (count, turn) in contenders.items():
                seconds = turn(updates[name])
                if number > 0:  # the first round warms up
                    speeds[name].append(count * updates[name] / seconds)
    rows = {name: {"median": statistics.median(s), "lowest": min(s), "highest": max(s)} for name, s in speeds.items()}
    first, last = next(iter(speeds)), list(speeds)[-1]
    for name, row in rows.items():
        # Ratios of neighbouring turns: what slows the machine for a while slows both.
        row["time, of the first"] = statistics.median(a / b for a, b in zip(speeds[first], speeds[name], strict=True))
        if settings.peer_python is not None:
            row["speed, of d3rlpy"] = statistics.median(a / b for a, b in zip(speeds[name], speeds[last], strict=True))
    return rows


def run_agents(settings: Agents) -> dict:
    torch.set_num_threads(settings.threads)
    keep_freed_memory()  # as a run does
    dataset = load_dataset("rlrat/hopper/mixed-v0")
    rows = {}
    for agent in settings.agents:
        rows |= _measure(agent, settings, dataset)
    table = Table("", "seed-updates/s (median)", "lowest", "highest", "time, of the first", "speed, of d3rlpy")
    for name, row in rows.items():
        figures = [f"{row[key]:.1f}" for key in ("median", "lowest", "highest")]
        ratios = [f"{row[key]:.2f}" if key in row else "" for key in ("time, of the first", "speed, of d3rlpy")]
        table.add_row(name, *figures, *ratios)
    Console().print(table)
    return rows
