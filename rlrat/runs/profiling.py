"""Measure where the time of a run goes (`--profile`): a table, and a trace of some updates by torch's profiler."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import profile

from rlrat.updates.learner import Learner
from rlrat.updates.machine import synchronize

_SKIPPED_UPDATES = 20  # before the trace: they meet cold caches, or are compiled
_TRACED_UPDATES = 20


class Profile:
    """Times the parts of a run. On a GPU each part waits until its work is done, which a plain run does not.

    Args:
        learner: its `inputs` and `update` are timed from now on.
        trace: where the trace goes, in Chrome's format (chrome://tracing, https://ui.perfetto.dev).
    """

    def __init__(self, learner: Learner, device: torch.device, trace: Path) -> None:
        self._device, self._trace = device, trace
        self._seconds: Counter[str] = Counter()
        self._updates, self._profiler = 0, None
        self._began = time.perf_counter()
        learner.inputs = self._timed("sampling", learner.inputs)
        learner.update = self._traced(self._timed("update", learner.update))

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to those of `name`."""
        started = time.perf_counter()
        yield
        synchronize(self._device)
        self._seconds[name] += time.perf_counter() - started

    def _timed(self, name: str, function: Callable) -> Callable:
        def call(*args):
            with self.part(name):
                return function(*args)

        return call

    def _traced(self, update: Callable) -> Callable:
        def call(*inputs):
            if self._updates == _SKIPPED_UPDATES:
                with self.part("the profiler"):
                    self._profiler = profile()
                    self._profiler.start()
            result = update(*inputs)
            self._updates += 1
            if self._updates == _SKIPPED_UPDATES + _TRACED_UPDATES:
                self._save()
            return result

        return call

    def _save(self) -> None:
        if self._profiler is not None:
            with self.part("the profiler"):
                self._profiler.stop()
                self._profiler.export_chrome_trace(str(self._trace))
            self._profiler = None

    def report(self, console: Console) -> None:
        """Print seconds and shares, and where the trace is."""
        self._save()
        total = time.perf_counter() - self._began
        table = Table("part", "seconds", "share")
        rest = total - sum(self._seconds.values())
        for name, seconds in [*self._seconds.most_common(), ("everything else", rest)]:
            table.add_row(name, f"{seconds:.2f}", f"{seconds / total:.1%}")
        console.print(table)
        if self._trace.exists():
            console.print(f"a trace of {_TRACED_UPDATES} updates: {self._trace}", soft_wrap=True)
