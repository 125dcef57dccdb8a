"""The `agents` subcommand of `benchmark.py`: updates per second, beside other libraries'."""

import os
import statistics
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.table import Table
from torch import nn

from benchmark_settings import Agents
from peers import PEERS, Clocked, clocks, on_cores, since
from rlrat import Dataset, load_dataset
from rlrat.console import Console
from rlrat.datasets import Units
from rlrat.errors import InputError, reason, warn
from rlrat.rational.launching import is_gpu
from rlrat.runs.agents import learner_class, load_agent
from rlrat.updates.captured import captured
from rlrat.updates.compiled import compiled
from rlrat.updates.machine import keep_freed_memory, synchronize

_HERE = Path(__file__).parent
_ROOT = _HERE.parents[1]
# Where our defaults differ from what d3rlpy is given: CQL's three hidden layers.
_SETTINGS = {"cql": {"hidden_dims": (256, 256)}}


class Peer:
    """A library in a process of its own, that works only while it is asked to."""

    _MOST_LINES = 1000  # that libraries may say before it is ready

    def __init__(self, *command: object) -> None:
        """Start it, and wait until it says that it is ready.

        Raises:
            RuntimeError: it did not start, or ended, in one line.
        """
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # rlrat is not installed where the peer is
        self._complaints = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # as long as the process
        try:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._complaints,
                text=True,
                errors="replace",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )
        except OSError as error:
            raise RuntimeError(f"the peer process cannot be started: {reason(error)}") from None
        for _ in range(self._MOST_LINES):
            if (line := self._read()).startswith("ready "):
                break
        else:
            self._process.kill()
            raise RuntimeError("the peer process says much, but not that it is ready")
        self.name = line.removeprefix("ready ")

    def __call__(self, *words: object) -> Clocked:
        """Ask for a number of updates, or for what else the process reads; return the seconds."""
        self._process.stdin.write(" ".join(map(str, words)) + "\n")
        self._process.stdin.flush()
        wall, cpu = map(float, self._read().split())
        return Clocked(wall, cpu)

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

    def __call__(self, updates: int) -> Clocked:
        started = clocks()
        for number in range(self._done, self._done + updates):
            self._update(*self._learner.inputs(number))
        self._done += updates
        synchronize(self._device)
        return since(started)


def updates_in(turn: Callable[[int], Clocked], seconds: float) -> int:
    """Return how many updates last about so many seconds: first twice as many again, until they last half of it."""
    turn(2)  # what is slow only once
    updates = 1
    while (measured := turn(updates).wall) < 0.5 * seconds:
        updates *= 2
    return max(1, round(updates * seconds / measured))


def take_turns(
    contenders: dict[str, tuple[int, Callable[[int], Clocked]]], seconds: float, rounds: int
) -> dict[str, list[Clocked]]:
    """Measure seed-updates per second by both clocks, once a round; `contenders` are numbers of seeds and turns."""
    # A turn of each lasts about as long, so that all meet the same machine.
    updates = {name: updates_in(turn, seconds) for name, (_, turn) in contenders.items()}
    speeds: dict[str, list[Clocked]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, (count, turn) in contenders.items():
            taken = turn(updates[name])
            if number > 0:  # the first round warms up
                speeds[name].append(Clocked(*(count * updates[name] / time for time in taken)))
    return speeds


def own_activations(agent: str) -> tuple[str, str]:
    """Return an agent's default activation, and the rational that starts as it."""
    fixed = load_agent(agent).Arguments().activation
    return fixed, "rational" if fixed == "relu" else f"rational:{fixed}"


def write_data(file: Path, dataset: Dataset, learners: dict[str, nn.Module]) -> None:
    """Write what peers read: the dataset in the agent's units, and each learner's parameters by activation."""
    args = next(iter(learners.values())).args
    rewards = args.reward_scaling, args.reward_shift
    units = Units.of(dataset, args.normalize_observations, args.observation_floor, *rewards)

    def normalized(observations: np.ndarray) -> np.ndarray:
        return ((observations - units.observation_mean) / units.observation_std).astype(np.float32)

    np.savez(
        file,
        observations=normalized(dataset.observations),
        actions=units.actions(dataset.actions),
        rewards=units.rewards(dataset.rewards).astype(np.float32),
        next_observations=normalized(dataset.next_observations),
        terminations=dataset.terminations.astype(np.float32),
        **{
            f"{activation}/{name}": parameter.detach().cpu().numpy()
            for activation, learner in learners.items()
            for name, parameter in learner.named_parameters()
        },
    )


class Contender(NamedTuple):
    """A peer's NAME, its PYTHON, and words for its command line."""

    name: str
    python: str
    words: tuple[str, ...] = ()


def read_peers(given: tuple[str, ...], compile: bool) -> list[Contender]:
    """Read `--peer`; what compiles is two contenders with `compile`.

    Raises:
        InputError: no NAME=PYTHON, a NAME that is unknown or given twice.
    """
    found: dict[str, list[Contender]] = {}
    for word in given:
        name, sign, python = word.partition("=")
        if not (sign and python) or name not in PEERS:
            raise InputError(f"--peer {word}: give NAME=PYTHON, with a NAME among {', '.join(PEERS)}")
        if name in found:
            raise InputError(f"--peer {name} is given twice: give each peer once")
        twice = compile and PEERS[name].compiles
        found[name] = [Contender(name, python), *([Contender(name, python, ("--compile",))] if twice else [])]
    return [contender for contenders in found.values() for contender in contenders]


def _start(contenders: list[Contender], agent: str, dataset: Dataset, stack: ExitStack, *words: object) -> list[Peer]:
    """Start those that have the agent; one that cannot be started is left out, here and of `contenders`."""
    started, data = [], None
    for contender in list(contenders):
        program = PEERS[contender.name]
        if agent not in program.agents:
            continue
        if data is None and "DATA" in program.words:
            data = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "data.npz"
            write_data(data, dataset, {"relu": make_learner(agent, dataset, 1, "cpu", activation="relu")})
        file, *first = (str(data) if word == "DATA" else word for word in program.words)
        try:
            peer = Peer(contender.python, _HERE / file, *first, agent, *words, *contender.words)
        except RuntimeError as error:
            flag = f"--peer {' '.join((f'{contender.name}={contender.python}', *contender.words))}"
            warn(f"{flag} is left out: {error}")
            contenders.remove(contender)
            continue
        stack.callback(peer.close)
        started.append(peer)
    return started


def _measure(
    agent: str, threads: int, settings: Agents, dataset: Dataset, peers: list[Contender]
) -> dict[str, dict[str, float]]:
    activations = settings.activations or own_activations(agent)
    contenders, own = {}, _SETTINGS.get(agent, {})
    torch.set_num_threads(threads)
    torch._dynamo.reset()  # which counts the compilations of a process
    with ExitStack() as stack:
        stack.enter_context(on_cores(threads if settings.device == "cpu" else None))
        for count in settings.num_seeds:
            for activation in activations:
                for compile in (False, True) if settings.compile else (False,):
                    learner = make_learner(agent, dataset, count, settings.device, activation=activation, **own)
                    turn, batch_size = Turn(learner, settings.device, compile), learner.args.batch_size
                    contenders[f"{activation}, S = {count}" + (", compiled" if compile else "")] = (count, turn)
        numbers = ("--threads", threads, "--batch-size", batch_size)
        beside = {peer.name: (1, peer) for peer in _start(peers, agent, dataset, stack, *numbers)}
        speeds = take_turns(contenders | beside, settings.seconds, settings.rounds)
    first, rows = next(iter(speeds)), {}
    for name, found in speeds.items():
        rows[name] = row = {}
        for clock, values in zip(Clocked._fields, zip(*found, strict=True), strict=True):
            row |= {clock: statistics.median(values), f"{clock}, lowest": min(values), f"{clock}, highest": max(values)}
        # Ratios of neighbouring turns: what slows the machine for a while slows both.
        row["time, of the first"] = _ratio(speeds[first], found)
        row |= {f"speed, of {other}": _ratio(found, speeds[other]) for other in beside}
    return rows


def _ratio(above: list[Clocked], below: list[Clocked]) -> float:
    return statistics.median(a.wall / b.wall for a, b in zip(above, below, strict=True))


def _show(title: str, rows: dict[str, dict[str, float]]) -> None:
    ratios = [key for key in next(iter(rows.values())) if "of " in key]
    speeds = [column for unit in ("s", "CPU second") for column in (f"seed-updates/{unit} (median)", "range")]
    table = Table("", *speeds, *ratios, title=title)
    for name, row in rows.items():
        figures = []
        for clock in Clocked._fields:
            figures += [f"{row[clock]:.1f}", f"{row[f'{clock}, lowest']:.1f} to {row[f'{clock}, highest']:.1f}"]
        table.add_row(name, *figures, *(f"{row[key]:.2f}" for key in ratios))
    Console().print(table)


def run_agents(settings: Agents) -> dict:
    peers = read_peers(settings.peer, settings.compile)
    keep_freed_memory()  # as a run does
    dataset = load_dataset("rlrat/hopper/mixed-v0")
    rotations = {}
    for threads in settings.threads:
        for agent in settings.agents:
            title = f"{agent}, {threads} thread{'s' if threads > 1 else ''}"
            rotations[title] = _measure(agent, threads, settings, dataset, peers)
            _show(title, rotations[title])
    return rotations
