"""Time one action of a run's policy: ours, and what it is exported to.

    python scripts/benchmarks/export_speed.py runs/rlrat-hopper-mixed-v0/iql/rational/seed0

Each is called with one observation at a time, as a control loop does, on one thread, in turns; the median of the turns
counts. A Decision Transformer has a window and not one observation: it is not timed here.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from rich.table import Table

import rlrat
from rlrat.console import Console
from rlrat.errors import InputError, one_line_errors
from rlrat.runs import export
from rlrat.runs.arguments import read_command_line
from rlrat.runs.exporting.exported import FORMATS


@dataclass
class Settings:
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """A run folder, of an MLP."""
    formats: tuple[str, ...] = ("onnx", "torchscript", "numpy", "c")
    """What to export to."""
    seconds: float = 0.2
    """Time of a turn."""
    turns: int = 15
    """Of each."""


def measure(settings: Settings) -> dict[str, float]:
    """Return the seconds of a call, by format; `rlrat` is `load_policy(run)(observation)`."""
    torch.set_num_threads(1)
    policy = rlrat.load_policy(settings.run)
    if policy.settings["kind"] != "mlp":
        raise InputError(f"{settings.run} holds a Decision Transformer: give the run of an MLP")
    observation = np.zeros(policy.settings["observation_size"], np.float32)
    calls: dict[str, Callable[[], object]] = {"rlrat": lambda: policy(observation)}
    with tempfile.TemporaryDirectory() as folder:
        for format in settings.formats:
            (file, *_) = export(settings.run, format, Path(folder) / FORMATS[format].file).files
            run, row = _open(format, file), [observation[None]]
            calls[format] = lambda run=run, row=row: run(row)
        times: dict[str, list[float]] = {name: [] for name in calls}
        counts = {name: max(1, int(settings.seconds / _seconds(call, 20))) for name, call in calls.items()}
        for _ in range(settings.turns):
            for name, call in calls.items():
                times[name].append(_seconds(call, counts[name]))
    return {name: statistics.median(found) for name, found in times.items()}


def _open(format: str, file: Path) -> Callable:
    if format != "onnx":
        return FORMATS[format].open(file)
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    return lambda arrays: session.run(None, {"observation": arrays[0]})


def _seconds(call: Callable[[], object], count: int) -> float:
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begin) / count


def main(settings: Settings) -> None:
    times = measure(settings)
    table = Table("one action by", "microseconds", "times as fast as rlrat")
    for name, seconds in times.items():
        table.add_row(name, f"{1e6 * seconds:.1f}", f"{times['rlrat'] / seconds:.2f}")
    Console().print(table)


if __name__ == "__main__":
    with one_line_errors():
        main(read_command_line(Settings, __doc__))
