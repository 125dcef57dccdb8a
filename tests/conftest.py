"""A small dataset and short runs, shared by the tests."""

import atexit
import gc
import os
import signal
import subprocess
import sys

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background; tests send it
    signal.signal(signal.SIGINT, signal.default_int_handler)

if "PYTEST_XDIST_WORKER" in os.environ:  # one of as many processes as there are cores; read when torch is imported
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis  # noqa: F401  # pytest imports it at its end, and it looks for what refers to its generators
import numpy as np
import pytest
import torch

import rlrat
from rlrat.errors import one_line_errors
from rlrat.runs.agents import load_agent
from rlrat.runs.arguments import parse
from tests.forked import Forked
from tests.kitchen import needs_older_mujoco
from tests.short_runs import ROOT, SHORT

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # the GPU kernels, on the CPU


gc.disable()  # until all tests are imported: what they import stays


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of every collection of garbage, each of which would walk through it."""
    gc.freeze()
    gc.enable()
    atexit.register(gc.unfreeze)  # mujoco's bindings report what is left at the end


def pytest_runtest_setup(item) -> None:
    if item.get_closest_marker("kitchen") and needs_older_mujoco():
        pytest.skip("needs MuJoCo below 3.12")


@pytest.fixture
def small_dataset() -> rlrat.Dataset:
    """Five episodes with Hopper's shapes."""
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.normal(2.0, 3.0, (steps + 1, 11)),
            "actions": random.uniform(-1, 1, (steps, 3)),
            "rewards": random.normal(1.0, 1.0, steps),
            "terminations": np.arange(steps) == steps - 1,
            "truncations": np.zeros(steps, bool),
        }
        for steps in (20, 30, 40, 50, 60)
    ]
    return rlrat.Dataset.from_episodes(episodes, id="test/hopper", env_id="Hopper-v5")


@pytest.fixture
def agent() -> str:
    """Whose runs `command` and `run_agent` are; tests that parametrise `agent` choose another."""
    return "iql"


@pytest.fixture
def command(agent, tmp_path):
    """`command("--seed", "3")`: the command line of a short run below `tmp_path`."""

    def build(*extra: str) -> list[str]:
        file = str(ROOT / "agents" / f"{agent}.py")
        return [sys.executable, file, *SHORT, "--run-dir", str(tmp_path / "runs"), *map(str, extra)]

    return build


@pytest.fixture
def run_agent(agent, command, capfd):
    """Do what the command does in this process, which saves the imports: an object with returncode, stdout, stderr."""
    module = load_agent(agent)

    def run(*extra: str, check: bool = True) -> subprocess.CompletedProcess:
        argv = command(*extra)[2:]
        capfd.readouterr()
        code = 0
        try:
            with one_line_errors():
                module.main(parse(module.Arguments, agent, argv))
        except SystemExit as stop:
            code = stop.code or 0
        output = capfd.readouterr()
        assert not check or code == 0, output.err
        return subprocess.CompletedProcess(argv, code, output.out, output.err)

    threads = torch.get_num_threads()
    yield run
    torch.set_num_threads(threads)


@pytest.fixture
def start_agent(command, tmp_path):
    """Begin what the command does in a process of its own, for those who send it signals."""
    return lambda *extra: Forked(command(*extra), tmp_path)


@pytest.fixture
def scalars():
    """`scalars(folder)`: what TensorBoard shows of a run, its values by tag and update."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def read(folder) -> dict[str, dict[int, float]]:
        events = EventAccumulator(str(folder))
        events.Reload()
        found = {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}
        assert all(len(found[tag]) == len(events.Scalars(tag)) for tag in found), "an update is there twice"
        return found

    return read


@pytest.fixture
def emulator():
    """A GPU that the CPU plays, see tests/emulator; kernels run in Triton's interpreter."""
    pytest.importorskip("triton")
    if torch.cuda.is_available():
        pytest.skip("Triton compiles where there is a GPU")
    from tests.emulator import Emulator

    with Emulator() as emulator:
        yield emulator
