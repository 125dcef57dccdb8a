"""The peers of `benchmark.py agents`: how each is started, which agents it has, and how all answer when they are asked.

Their processes import this, too: it needs nothing but Python.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rlrat.runs.agents import agent_names

WITHOUT_PEER = ("bc",)  # d3rlpy has no such algorithm
PEERED = tuple(name for name in agent_names() if name not in WITHOUT_PEER)
"""The agents that d3rlpy has, too: `make_algorithm` of peer_d3rlpy.py makes each."""


class Program(NamedTuple):
    """A file beside this one and its first words (DATA stands for a file of `agent_speed.write_data`), and its agents.

    Then follow the agent, --threads, --batch-size and, for one that `compiles`, --compile where that is asked for.
    """

    words: tuple[str, ...]
    agents: tuple[str, ...]
    compiles: bool = False


PEERS = {
    "d3rlpy": Program(("peer_d3rlpy.py", "speed"), PEERED),
    "jax": Program(("peer_jax.py", "DATA"), ("iql", "td3_bc")),
    "orlax": Program(("peer_orlax.py", "DATA"), ("iql", "td3_bc")),
    "torchrl": Program(("peer_torchrl.py", "DATA"), ("iql", "td3_bc"), compiles=True),
}


class Clocked(NamedTuple):
    """A figure by the clock on the wall, and by the processor's, which counts all threads of a process."""

    wall: float
    cpu: float


def clocks() -> Clocked:
    return Clocked(time.perf_counter(), time.process_time())


def since(started: Clocked) -> Clocked:
    """Return the seconds since `clocks` said this."""
    return Clocked(*(now - then for now, then in zip(clocks(), started, strict=True)))


@contextmanager
def on_cores(count: int | None) -> Iterator[None]:
    """Keep this thread, and all threads and processes that it starts, on so many of its cores; None leaves it all.

    What counts the cores, as XLA does for its threads, finds so many. Where a system cannot do it, nothing happens.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def command_line(description: str, agents: tuple[str, ...]) -> argparse.ArgumentParser:
    """Make what reads the words of a `Program` that takes DATA."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA")
    parser.add_argument("agent", choices=agents)
    parser.add_argument("--threads", type=int, help="and cores; all by default")
    parser.add_argument("--batch-size", type=int, default=256)
    return parser


def answer(name: str, work: Callable[..., int]) -> None:
    """Say that a peer is ready; answer each line of standard input with the wall's and the processor's seconds.

    Args:
        name: with the version.
        work: takes the words of a line, of which the last is a number of updates, and returns how many it made; the
            answer is for as many as were asked for.
    """
    print(f"ready {name}", flush=True)
    for line in sys.stdin:
        *words, asked = line.split()
        started = clocks()
        made = work(*words, int(asked))
        print(*(seconds * int(asked) / made for seconds in since(started)), flush=True)
