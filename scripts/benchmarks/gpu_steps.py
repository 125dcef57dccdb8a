"""The steps of `gpu_check.sh` that rational_speed.py does not have, each a process of its own that prints figures."""

import argparse
import gc
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from agent_speed import Peer, Turn, make_learner, own_activations, take_turns, write_data
from benchmark_settings import Table
from gpu_check import AIMS
from parts import figure
from peers import Clocked
from rlrat import Dataset, Rational, load_dataset
from rlrat.errors import one_line_errors
from rlrat.rational import backend
from rlrat.runs.agents import agent_names, find_agent
from rlrat.runs.folder import RunFolder
from rlrat.runs.schema import METRICS
from rlrat.updates.captured import captured
from rlrat.updates.machine import find_device, set_precision

DATASET = "rlrat/hopper/mixed-v0"
PEER_JAX = Path(__file__).with_name("peer_jax.py")
SEEDS, PRECISIONS = (1, 64, 5), ("fp32", "tf32")  # the first matter most, if time runs out
_TURN_SECONDS, _ROUNDS = 0.25, 2


def aimed(name: str, value: float, unit: str = "") -> dict:
    return figure(name, value, unit, **AIMS.get(name, {}))


def difference(ours: Tensor, theirs: Tensor) -> float:
    """The largest distance, relative to the largest of `theirs`; infinite where either is not finite."""
    ours, theirs = (t.detach().double().cpu() for t in (ours, theirs))
    found = ((ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-12)).item()
    return found if np.isfinite(found) else float("inf")


def rational_error(shape: tuple[int, ...], device: str) -> float:
    """Of a rational's output and all its gradients, beside the reference in float64."""
    ours, x, grad = Rational(batch_shape=shape[:1]).to(device), *(torch.randn(shape, device=device) for _ in range(2))
    wide = Rational(batch_shape=shape[:1]).to(device).double()

    def all_of(module: Rational, x: Tensor, grad: Tensor) -> list[Tensor]:
        y = module(x.requires_grad_())
        return [y, *torch.autograd.grad(y, [x, *module.parameters()], grad)]

    with backend("reference"):
        expected = all_of(wide, x.double(), grad.double())
    return max(map(difference, all_of(ours, x, grad), expected))


def right(device: str) -> Iterator[dict]:
    """A rational beside the float64 reference, ten captured updates of IQL beside plain ones, and no warning."""
    warnings.simplefilter("error")
    find_device(device)
    for shape in ((1, 64, 64), (5, 256, 256)):
        error = rational_error(shape, device)
        yield figure(f"rational, {list(shape)}: largest error beside float64", error, at_most=1e-4)
    dataset = load_dataset(DATASET)
    settings = {"activation": "rational", "hidden_dims": (64, 64), "batch_size": 64}
    plain, other = (make_learner("iql", dataset, 2, device, **settings) for _ in range(2))
    update, metrics = captured(other), 0.0
    for number in range(10):
        expected, got = plain.update(*plain.inputs(number)), update(*other.inputs(number))
        metrics = max(metrics, *(difference(got[name], value) for name, value in expected.items()))
    yield figure("ten captured updates of IQL: largest difference of a metric", metrics, at_most=1e-3)
    found = other.state_dict()
    state = max(difference(found[name], v) for name, v in plain.state_dict().items() if v.is_floating_point())
    yield figure("ten captured updates of IQL: largest difference of its state", state, at_most=1e-3)


def make_contender(
    agent: str, activation: str, seeds: int, precision: str, dataset: Dataset, device: str, compile: bool = False
) -> Turn:
    """The agent with its default settings, its update recorded in this precision.

    Raises:
        RuntimeError: it cannot be recorded.
    """
    set_precision(precision, torch.device(device))
    turn = Turn(make_learner(agent, dataset, seeds, device, activation=activation), device, compile)
    if not turn.replayed:
        raise RuntimeError("its update is not replayed as a CUDA graph")
    return turn


def label(agent: str, activation: str, seeds: int, precision: str) -> str:
    return f"{agent} {activation}, S = {seeds}, {precision}"


def choices(agents: Iterable[str]) -> Iterator[tuple[str, str, int, str]]:
    """What `label` takes, in the order in which it is measured: the paper's activation and a rational like it."""
    agents = list(agents)
    for seeds in SEEDS:
        for precision in PRECISIONS:
            for agent in agents:
                for activation in reversed(own_activations(agent)):
                    yield agent, activation, seeds, precision


def measure(contenders: dict[str, tuple[int, Callable[[int], Clocked]]]) -> dict[str, list[float]]:
    speeds = take_turns(contenders, _TURN_SECONDS, _ROUNDS)
    return {name: [speed.wall for speed in found] for name, found in speeds.items()}


def agents(device: str) -> Iterator[dict]:
    """Seed-updates per second of captured updates, sampling included, default settings: all agents but IQL."""
    find_device(device)
    dataset, broken = load_dataset(DATASET), []
    for choice in choices(name for name in agent_names() if name != "iql"):
        name = label(*choice)
        try:
            turn = make_contender(*choice, dataset, device)
            yield aimed(name, statistics.median(measure({name: (choice[2], turn)})[name]), "/s")
        except RuntimeError as error:
            broken.append(f"{name}: {str(error).splitlines()[0]}")
        turn = None
        gc.collect()  # its graphs hold memory
    if broken:
        raise SystemExit("\n".join(broken))


def iql(device: str) -> Iterator[dict]:
    """Seed-updates per second of captured updates of IQL, sampling included; then in turns with the same in JAX."""
    find_device(device)
    dataset, ours = load_dataset(DATASET), {}
    for choice in choices(["iql"]):
        name = label(*choice)
        ours[name] = (choice[2], make_contender(*choice, dataset, device))
        yield aimed(name, statistics.median(measure({name: ours[name]})[name]), "/s")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "iql.npz"
        both = {name: make_learner("iql", dataset, 1, "cpu", activation=name) for name in ("relu", "rational")}
        write_data(file, dataset, both)
        try:
            sizes = ("--num-seeds", *SEEDS, "--precisions", *PRECISIONS)
            peer = Peer(sys.executable, PEER_JAX, file, "iql", "--activations", *both, *sizes)
        except RuntimeError as error:  # not installed, say
            yield figure("JAX", f"left out: {error}")
            return
        pairs = {}
        for _, activation, seeds, precision in choices(["iql"]):
            name = label("iql", activation, seeds, precision)
            pairs[name] = ours[name]
            pairs[f"{name}, {peer.name}"] = (seeds, _asked(peer, activation, seeds, precision))
        speeds = measure(pairs)
        peer.close()
    for name in ours:
        theirs = speeds[f"{name}, {peer.name}"]
        yield figure(f"{name}, {peer.name}", statistics.median(theirs), "/s")
        # Ratios of neighbouring turns: what slows the machine for a while slows both.
        yield aimed(f"{name} / JAX", statistics.median(a / b for a, b in zip(speeds[name], theirs, strict=True)))


def _asked(peer: Peer, *words: object) -> Callable[[int], Clocked]:
    return lambda updates: peer(*words, updates)


def compile(device: str) -> Iterator[dict]:
    """Updates of IQL that are compiled and then captured, beside captured ones."""
    find_device(device)
    dataset, choice = load_dataset(DATASET), ("iql", "rational", 5, "fp32")
    pairs = {
        name: (5, make_contender(*choice, dataset, device, compile))
        for name, compile in ((label(*choice), False), (f"{label(*choice)}, compiled", True))
    }
    for name, speeds in measure(pairs).items():
        yield figure(name, statistics.median(speeds), "/s")


def profile(device: str) -> Iterator[dict]:
    """Of five replays of IQL with rationals: microseconds an update by kernel, sampling included."""
    from torch.profiler import ProfilerActivity

    find_device(device)
    dataset, updates = load_dataset(DATASET), 5
    for seeds in (1, 64):
        turn = make_contender("iql", "rational", seeds, "fp32", dataset, device)
        seconds = turn(updates).wall / updates
        with torch.profiler.profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as found:
            turn(updates)
        yield figure(f"S = {seeds}: an update, on the clock, without the profiler", 1e6 * seconds, "us")
        yield from by_kernel(found.events(), f"S = {seeds}", updates)


def by_kernel(events: Iterable, start: str, updates: int, most: int = 40) -> Iterator[dict]:
    """Time and launches an update of what ran on the device, by name, the longest first."""
    micros, launches = Counter(), Counter()
    for event in events:
        if event.device_type != torch.autograd.DeviceType.CPU:
            micros[event.name] += event.self_device_time_total / updates
            launches[event.name] += 1 / updates
    yield figure(f"{start}: all kernels, {launches.total():.1f} launches", micros.total(), "us")
    for name, value in micros.most_common(most):
        yield figure(f"{start}: {launches[name]:.1f} x {re.sub(r'<.*|[(].*', '', name)[:80]}", value, "us")


_COMMAND = ("--activation", "rational", "--num-seeds", "5", "--total-updates", "10000", "--eval-every", "2500")


def run(device: str) -> Iterator[dict]:
    """The README's command for five seeds, and again with a stop in between."""
    with tempfile.TemporaryDirectory() as folder:
        whole, parted = Path(folder) / "whole", Path(folder) / "parted"

        def start(place: Path) -> subprocess.Popen:
            command = [sys.executable, str(find_agent("iql")), *_COMMAND, "--eval-episodes", "4", "--device", device]
            return subprocess.Popen([*command, "--run-dir", str(place)], stdout=subprocess.PIPE, text=True)

        def finish(process: subprocess.Popen, expected: int = 0) -> str:
            output = process.communicate()[0]
            if process.returncode != expected:
                raise SystemExit(f"the run ended with exit code {process.returncode}, not {expected}: {output}")
            return output

        def of_seeds(place: Path) -> list[RunFolder]:
            return [RunFolder(path.parent) for path in sorted(place.rglob("summary.json"))]

        started = time.perf_counter()
        finish(start(whole))
        yield figure("the command, from its start to its end", time.perf_counter() - started, "s")
        summaries = [folder.summary() for folder in of_seeds(whole)]
        yield figure("seeds finished", sum(summary["status"] == "finished" for summary in summaries), at_least=5)
        yield figure("seed-updates, without evaluation", 5 * summaries[0]["updates_per_second"], "/s")
        yield figure("final return, mean", statistics.mean(summary["final_return"] for summary in summaries))

        process = start(parted)
        # Its first metrics say that it trains; the evaluation of update 0 can be over before the first update.
        while process.poll() is None and not any(parted.rglob(METRICS)):
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        finish(process, 128 + signal.SIGTERM)
        output = finish(start(parted))
        found = re.search(r"going on from update ([\d,]+)", output)
        yield figure("it went on from update", int(found[1].replace(",", "")), at_least=1)
        pairs = zip(of_seeds(whole), of_seeds(parted), strict=True)
        rows = [[row["return_mean"] for row in one.evaluations()] for pair in pairs for one in pair]
        same = sum(a == b for a, b in zip(rows[::2], rows[1::2], strict=True))
        yield figure("seeds of which every evaluation is then the same", same, at_least=5)


def table(device: str) -> Iterator[dict]:
    """A share of four of the paper's 24 cells, as many at once; from it the hours of the whole."""
    from table import run_table

    cells = Table(share=0.1, env_ids=("HalfCheetah-v5",), activations=("relu", "rational"), device=device, processes=4)
    found = run_table(cells)
    for cell in found["cells"]:
        name = f"{cell['agent']} {cell['env_id']} {cell['activation']}"
        yield figure(f"{name}, S = 5, four at once", cell["seed_updates_per_second"], "/s")
    yield aimed("the paper's table", found["projected_hours"] * 24 / len(found["cells"]), "h")


def kernels(device: str) -> Iterator[dict]:
    """Every kernel of ours once, on little, for what looks for races."""
    for dtype in (torch.float32, torch.bfloat16):
        for shape in ((5000,), (2, 33, 40)):
            module = Rational(batch_shape=shape[:-2]).to(device)
            x = torch.randn(shape, device=device, dtype=dtype, requires_grad=True)
            module(x).sum().backward()
    dataset, small = load_dataset(DATASET), {"hidden_dims": (24, 24), "batch_size": 16, "activation": "rational"}
    for agent, more in (("iql", {"actor_dropout": 0.1}), ("td3_bc", {})):
        learner = make_learner(agent, dataset, 2, device, **small, **more)
        for number in range(2):
            learner.update(*learner.inputs(number))
    yield figure("kernels launched", True)


def races(device: str) -> Iterator[dict]:
    """What compute-sanitizer finds in a launch of every kernel."""
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}  # so that each tensor has bounds
    for tool in ("memcheck", "racecheck"):
        command = [sanitizer, "--tool", tool, "--print-limit", "5", sys.executable, __file__, "kernels"]
        try:
            done = subprocess.run([*command, "--device", device], capture_output=True, text=True, env=environment)
        except FileNotFoundError:
            yield figure(tool, "left out: compute-sanitizer is not installed")
            continue
        found = re.search(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", done.stdout)
        if found is None or "kernels launched" not in done.stdout:
            (last, *_) = [*reversed((done.stdout + done.stderr).splitlines()), "it said nothing"]
            yield figure(tool, f"left out: {last}")
            continue
        if int(found[1]):
            print(done.stdout)
        yield figure(f"{tool}: errors", int(found[1]), at_most=0)


class _Outcomes:
    """A plugin of pytest: a figure for each test that fails, and the numbers of all."""

    def __init__(self) -> None:
        self.counts = Counter()

    def pytest_runtest_logreport(self, report) -> None:
        if report.when == "call" or report.outcome != "passed":
            self.counts[report.outcome] += 1
        if report.failed:
            message = getattr(report.longrepr, "reprcrash", None)
            self._print(figure(report.nodeid, str(getattr(message, "message", "failed"))[:300]))

    def pytest_sessionfinish(self) -> None:
        for outcome in ("passed", "failed", "skipped"):
            limits = {"passed": {"at_least": 1}, "failed": {"at_most": 0}, "skipped": {}}[outcome]
            self._print(figure(f"tests {outcome}", self.counts[outcome], **limits))

    def _print(self, found: dict) -> None:
        print(f"\n{json.dumps(found)}", flush=True)  # on a line of its own, after pytest's dots


def run_tests(arguments: list[str]) -> int:
    """Run pytest with these arguments, in as many processes as there are cores where pytest-xdist is installed."""
    import importlib.util

    import pytest

    options = ["-q", "--tb=short", "--maxfail=20", "-o", "addopts=", "--strict-markers", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist"):  # most of the time goes into compiling hundreds of kernels
        options += ["-n", str(os.cpu_count()), "--dist", "worksteal"]
    return pytest.main([*options, *arguments], plugins=[_Outcomes()])


STEPS: dict[str, Callable[[str], Iterator[dict]]] = {
    step.__name__: step for step in (right, agents, iql, compile, profile, run, table, kernels, races)
}


def main(argv: list[str]) -> int:
    if argv[:1] == ["tests"]:
        return run_tests(argv[1:])
    parser = argparse.ArgumentParser(description=__doc__, epilog="`tests ...` runs pytest with what follows.")
    parser.add_argument("step", choices=STEPS)
    parser.add_argument("--device", default="cuda")
    arguments = parser.parse_args(argv)
    torch.manual_seed(0)
    missed = False
    with one_line_errors():
        for found in STEPS[arguments.step](arguments.device):
            print(json.dumps(found), flush=True)
            missed |= found.get("reached") is False
    return int(missed and arguments.step in ("right", "run", "races"))  # others measure


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
