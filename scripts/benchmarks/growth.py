"""The `growth` subcommand of `benchmark.py`: how an update's cost grows, and what a run does beside."""

import argparse
import dataclasses
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

import parts
from agent_speed import Turn, make_learner, updates_in
from benchmark_settings import Growth
from parts import figure
from rlrat import InputError, load_dataset
from rlrat.datasets import Dataset
from rlrat.runs.agents import agent_names, find_agent
from rlrat.runs.estimates import estimate_resources, peak_memory, track_peak
from rlrat.updates.learner import Learner
from rlrat.updates.machine import keep_freed_memory

_ROOT = Path(__file__).parents[2]
_BLOCK, _EPISODE = 2**18, 1000  # transitions that a synthetic dataset repeats, and of each of its episodes
_AXES = {
    "num_seeds": "seeds side by side",
    "hidden_dims": "width of both hidden layers",
    "batch_size": "batch size",
    "transitions": "transitions of the dataset",
}
_CONTENDERS = ("relu", "rational", "relu compiled", "rational compiled")


def run_growth(settings: Growth) -> dict:
    file = settings.output / "growth.json"
    told = json.loads(json.dumps(dataclasses.asdict(settings), default=str))
    head = {"torch": torch.__version__, **{k: v for k, v in told.items() if k not in ("output", "folder", "compile")}}
    known = json.loads(file.read_text()) if file.exists() else {}
    for name, value in head.items():
        if known.get(name, value) != value:
            raise InputError(f"{file} has figures for {name} {known[name]}, not {value}: give another --output")
    settings.output.mkdir(parents=True, exist_ok=True)
    chosen = {}

    def add(name: str, limit: float, description: str) -> None:
        chosen[name] = parts.Part([sys.executable, __file__, json.dumps(told), name], limit, description)

    with tempfile.TemporaryDirectory(dir=settings.folder) as folder:
        told["folder"] = folder
        for contender in _CONTENDERS:
            if settings.compile or "compiled" not in contender:
                for axis in ("num_seeds", "hidden_dims", "batch_size"):
                    add(f"{axis}, {contender}", 400, f"updates of IQL per second, by {_AXES[axis]}")
        for count in settings.transitions:
            add(f"transitions, {count}", 400, f"IQL with ReLU on {count:,} transitions, memory-mapped")
        add("memory", 200, "of one more seed side by side, Hopper's shapes, default settings")
        add("run", 400, f"{settings.run_updates:,} updates of IQL with rational: seconds by part, and shares")
        report = parts.run(chosen, head, file, known=known)
    print(f"\n{tables(report)}")
    plot(report, settings.output / "growth.png")
    return report


# ---- parts, each in a process of its own


def _part(settings: Growth, name: str) -> Iterator[dict]:
    torch.set_num_threads(settings.threads)
    keep_freed_memory()  # as a run does
    kind, _, rest = name.partition(", ")
    if kind == "memory":
        return _memory(settings)
    if kind == "run":
        return _run(settings)
    return _transitions(settings, int(rest)) if kind == "transitions" else _axis(settings, kind, *rest.split())


def _axis(settings: Growth, axis: str, activation: str, compile: str = "") -> Iterator[dict]:
    dataset = load_dataset("rlrat/hopper/mixed-v0")
    values = getattr(settings, axis)
    if compile:
        values = sorted({values[0], values[-1]})
    for value in values:
        torch._dynamo.reset()  # which counts the compilations of a process
        choice = {} if axis == "num_seeds" else {axis: (value, value) if axis == "hidden_dims" else value}
        seeds = value if axis == "num_seeds" else 1
        learner = make_learner("iql", dataset, seeds, settings.device, activation=activation, **choice)
        yield figure(str(value), _speed(learner, settings, bool(compile)), "/s")
        del learner


def _transitions(settings: Growth, count: int) -> Iterator[dict]:
    folder, device = Path(settings.folder), torch.device(settings.device)
    needed, free = 106 * count, shutil.disk_usage(folder).free
    if needed > 0.9 * free:
        yield figure("left out", f"{needed / 1e9:.3g} GB of disk are needed, {free / 1e9:.3g} are free")
        return
    entry = folder / "entry"
    write_dataset(entry, count)
    yield figure("on the disk", sum(file.stat().st_size for file in entry.iterdir()) / 1e9, "GB")
    before, private = track_peak(torch.device("cpu")), _private_memory()
    started = time.perf_counter()
    learner = make_learner("iql", open_dataset(entry), 1, device)
    yield figure("until the learner is built", time.perf_counter() - started, "s")
    yield figure("updates", _speed(learner, settings), "/s")
    yield figure("peak memory, mapped files included", (peak_memory(torch.device("cpu")) - before) / 1e9, "GB")
    yield figure("of it the process's own", (_private_memory() - private) / 1e9, "GB")
    shutil.rmtree(entry)


def _private_memory() -> int:
    """Bytes that are no file's."""
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def _memory(settings: Growth) -> Iterator[dict]:
    dataset = load_dataset("rlrat/hopper/mixed-v0")
    for agent in agent_names():
        found = estimate_resources(
            lambda members, agent=agent: make_learner(agent, dataset, members, settings.device),
            64,
            torch.device(settings.device),
        )
        yield figure(agent, found.bytes_per_member / 1e6, "MB")


def _run(settings: Growth) -> Iterator[dict]:
    """By `--profile`'s table, whose own cost is left out; the evaluation counts, as in every run."""
    updates, file = str(settings.run_updates), str(find_agent("iql"))
    command = ["--activation", "rational", "--total-updates", updates, "--checkpoint-every", updates]
    command += ["--eval-every", updates, "--device", settings.device, "--num-threads", str(settings.threads)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, file, *command, "--profile", "--run-dir", folder]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    rows = re.findall(r"^\W+(\w[\w ]*\w)\W+([\d.]+)\W+[\d.]+%", output, re.MULTILINE)
    seconds = {name: float(value) for name, value in rows if name != "the profiler"}
    total = sum(seconds.values())
    for name, value in seconds.items():
        yield figure(name, value, "s")
    share = (seconds.get("logging", 0.0) + seconds.get("checkpoints", 0.0)) / total
    yield figure("logging and checkpoints", 100 * share, "%", at_most=2.0)


def _speed(learner: Learner, settings: Growth, compile: bool = False) -> float:
    """Updates per second, sampling included: the median of three turns, after one that is not counted."""
    turn = Turn(learner, settings.device, compile)
    updates = updates_in(turn, settings.seconds)
    return statistics.median(updates / turn(updates).wall for _ in range(3))


def write_dataset(entry: Path, transitions: int) -> None:
    """Write random transitions with Hopper's shapes into a folder, a file for each array, never all in memory."""
    entry.mkdir()
    random = np.random.default_rng(0)
    rows = min(transitions, _BLOCK)

    def normal(width: int) -> np.ndarray:
        return random.standard_normal((rows, width), np.float32)

    ends = np.zeros(rows, bool)
    starts = np.arange(0, transitions, _EPISODE)
    columns = {
        "observations": normal(11),
        "actions": np.tanh(normal(3)),
        "rewards": normal(1)[:, 0],
        "next_observations": normal(11),
        "terminations": ends,
        "truncations": ends,
    }
    for name, block in columns.items():
        with open(entry / f"{name}.npy", "wb") as file:
            shape = (transitions, *block.shape[1:])
            header = {"descr": block.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, transitions, rows):
                file.write(block[: transitions - start])
    episodes = {
        "episode_starts": starts,
        "episode_returns": random.standard_normal(len(starts)),
        "episode_lengths": np.diff(np.append(starts, transitions)),
        "episode_complete": np.ones(len(starts), bool),
        "action_low": -np.ones(3, np.float32),
        "action_high": np.ones(3, np.float32),
    }
    for name, array in episodes.items():
        np.save(entry / f"{name}.npy", array)


def open_dataset(entry: Path) -> Dataset:
    """What `write_dataset` wrote, memory-mapped as a dataset from the cache is."""
    arrays = {path.stem: np.load(path, mmap_mode="r") for path in entry.glob("*.npy")}
    about = {"env_kwargs": {}, "env_recorded": {}, "notes": (), "reference": None, "fingerprint": ""}
    return Dataset(id="synthetic", env_id="Hopper-v5", **about, **arrays)


# ---- what is shown


_PEAK = "peak memory in GB"


def _series(report: dict, axis: str) -> dict[str, dict[int, float]]:
    """Of each contender the updates per second by the axis' values; of datasets also the peak memory."""
    if axis == "transitions":
        found = {"relu": {}, _PEAK: {}}
        for name, figures in report["parts"].items():
            values = {figure["name"]: figure["value"] for figure in figures}
            if name.startswith(axis) and "updates" in values:
                count = int(name.split(", ")[1])
                found["relu"][count] = values["updates"]
                found[_PEAK][count] = values["peak memory, mapped files included"]
        return found
    names = {contender: f"{axis}, {contender}" for contender in _CONTENDERS}
    return {
        contender: {int(figure["name"]): figure["value"] for figure in report["parts"][name]}
        for contender, name in names.items()
        if report["parts"].get(name)
    }


def tables(report: dict) -> str:
    """Updates per second as Markdown, a table for each axis; those of seeds times the seeds."""
    blocks = []
    for axis, title in _AXES.items():
        series = _series(report, axis)
        lines = [f"| {title} | {' | '.join(series)} |", f"| --- |{' --- |' * len(series)}"]
        for value in sorted({value for speeds in series.values() for value in speeds}):
            times = value if axis == "num_seeds" else 1
            cells = [f"{times * speeds[value]:,.2f}" if value in speeds else "" for speeds in series.values()]
            lines.append(f"| {value:,} | {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def plot(report: dict, file: Path) -> None:
    """Four panels, one for each axis."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter, NullFormatter, StrMethodFormatter

    whole = Figure(figsize=(10, 7), layout="constrained")
    for panel, (axis, title) in zip(whole.subplots(2, 2).flat, _AXES.items(), strict=True):
        for contender, speeds in _series(report, axis).items():
            values = sorted(speeds)
            times = values if axis == "num_seeds" else [1] * len(values)
            heights = [factor * speeds[value] for factor, value in zip(times, values, strict=True)]
            style = "--" if "compiled" in contender else ":" if contender == _PEAK else "-"
            color = "C1" if "rational" in contender else "C2" if contender == _PEAK else "C0"
            panel.plot(values, heights, style, color=color, marker="o", markersize=4, label=contender)
        panel.set(xscale="log", yscale="log", xlabel=title)
        panel.set_ylabel("seed-updates per second" if axis == "num_seeds" else "updates per second")
        panel.set_xticks(report[axis], [f"{value:,}" for value in report[axis]], fontsize="small")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(1.5, 0.5)))  # few, where there are decades
        panel.tick_params(axis="y", which="both", labelsize="small")
        panel.grid(alpha=0.3)
        panel.legend()
    whole.savefig(file, dpi=120)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A part of `benchmark.py growth`, which starts this; a figure a line.")
    parser.add_argument("settings", type=json.loads, help="of Growth, as JSON")
    parser.add_argument("part", help="its name, such as memory")
    arguments = parser.parse_args()
    for found in _part(Growth(**arguments.settings), arguments.part):
        print(json.dumps(found), flush=True)
