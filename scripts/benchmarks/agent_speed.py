"""The `agents` subcommand of `benchmark.py`: updates per second, beside d3rlpy's."""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import torch
from rich.table import Table
from torch import nn

from benchmark_settings import PEERED, Agents
from rlrat import Dataset, load_dataset
from rlrat.console import Console
from rlrat.rational.launching import is_gpu
from rlrat.runs.agents import learner_class, load_agent
from rlrat.updates.captured import captured
from rlrat.updates.compiled import compiled
from rlrat.updates.machine import keep_freed_memory, synchronize

PEER = Path(__file__).with_name("peer_d3rlpy.py")
_ROOT = Path(__file__).parents[2]
# Where our defaults differ from what d3rlpy is given: CQL's three hidden layers.
_SETTINGS = {"cql": {"hidden_dims": (256, 256)}}


class Peer:
    """A library in a process of its own, that works only while it is asked to."""

    def __init__(self, *command: str | Path) -> None:
        """Start it, and wait until it says that it is ready."""
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # rlrat is not installed where the peer is
        self._complaints = tempfile.TemporaryFile("w+")  # noqa: SIM115  # as long as the process
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )
        while not (line := self._read()).startswith("ready "):
            pass
        self.name = line.removeprefix("ready ")

    def __call__(self, *words: object) -> float:
        """Ask for a number of updates, or for what else the process reads; return the seconds."""
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        return float(self._read())

    def _read(self) -> str:
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._complaints.seek(0)
            (last, *_) = [*reversed(self._complaints.read().splitlines()), "it said nothing"]
            raise RuntimeError(f"the peer process ended with exit code {code}: {last}")
        return line.strip()

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()


def make_learner(agent: str, dataset: Dataset, num_seeds: int, device: torch.device | str, **settings) -> nn.Module:
    module = load_agent(agent)
    return learner_class(module)(module.Arguments(**settings), dataset, list(range(num_seeds)), device)


class Turn:
    """Performs a number of updates, as a run does, and returns the seconds.

    On a GPU every kind of update is recorded when it is made, and where it is compiled it has been.
    """

    _PERIOD = 8  # updates that have every kind of inputs among them; TD3+BC's actor learns in every second

    def __init__(self, learner: nn.Module, device: str, compile: bool = False) -> None:
        self._learner, self._device, self._done = learner, torch.device(device), 0
        if compile:
            learner.update = compiled(learner.update, self._device)
        self._update = captured(learner) if is_gpu(self._device) else learner.update
        self._recordings = getattr(self._update, "recordings", {})
        known = -1 if compile or is_gpu(self._device) else 0
        while len(self._recordings) != known or any(found.metrics is None for found in self._recordings.values()):
            known = len(self._recordings)
            self(self._PERIOD)

    @property
    def replayed(self) -> bool:
        """Whether the updates are replays of recordings."""
        return bool(self._recordings)

    def __call__(self, updates: int) -> float:
        started = time.perf_counter()
        for number in range(self._done, self._done + updates):
            self._update(*self._learner.inputs(number))
        self._done += updates
        synchronize(self._device)
        return time.perf_counter() - started


def updates_in(turn: Callable[[int], float], seconds: float) -> int:
    """Return how many updates last about so many seconds: first twice as many again, until they last half of it."""
    turn(2)  # what is slow only once
    updates = 1
    while (measured := turn(updates)) < 0.5 * seconds:
        updates *= 2
    return max(1, round(updates * seconds / measured))


def take_turns(
    contenders: dict[str, tuple[int, Callable[[int], float]]], seconds: float, rounds: int
) -> dict[str, list[float]]:
    """Measure seed-updates per second, one number a round; `contenders` are numbers of seeds and turns, by name."""
    # A turn of each lasts about as long, so that all meet the same machine.
    updates = {name: updates_in(turn, seconds) for name, (_, turn) in contenders.items()}
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, (count, turn) in contenders.items():
            taken = turn(updates[name])
            if number > 0:  # the first round warms up
                speeds[name].append(count * updates[name] / taken)
    return speeds


def own_activations(agent: str) -> tuple[str, str]:
    """Return an agent's default activation, and the rational that starts as it."""
    fixed = load_agent(agent).Arguments().activation
    return fixed, "rational" if fixed == "relu" else f"rational:{fixed}"


def _measure(agent: str, settings: Agents, dataset) -> dict[str, dict[str, float]]:
    activations = settings.activations or own_activations(agent)
    contenders = {}
    torch._dynamo.reset()  # which counts the compilations of a process
    with ExitStack() as stack:
        for count in settings.num_seeds:
            for activation in activations:
                for compile in (False, True) if settings.compile else (False,):
                    own = {"activation": activation, **_SETTINGS.get(agent, {})}
                    learner = make_learner(agent, dataset, count, settings.device, **own)
                    turn, batch_size = Turn(learner, settings.device, compile), learner.args.batch_size
                    name = f"{agent} {activation}, S = {count}" + (", compiled" if compile else "")
                    contenders[name] = (count, turn)
        if settings.peer_python is not None and agent in PEERED:
            numbers = ("--threads", settings.threads, "--batch-size", batch_size)
            peer = Peer(settings.peer_python, PEER, "speed", agent, *numbers)
            stack.callback(peer.close)
            contenders[f"{agent} {peer.name}"] = (1, peer)
        speeds = take_turns(contenders, settings.seconds, settings.rounds)
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
