"""Say on stderr what goes on, once it has taken some time."""

import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from rlrat.errors import printable

AFTER_SECONDS = 2.0


class _Work:
    """Something that may take long, and how far it is."""

    def __init__(self, what: str) -> None:
        self._what, self._done, self._total = what, 0, None
        self._lock, self._is_over = threading.Lock(), False
        self._bar: Any = None  # of rich, once there is one
        self._task: Any = None

    def begin(self) -> None:
        """Show it: a line that changes in a terminal, one line elsewhere."""
        with self._lock:
            if self._is_over:
                return
            if not sys.stderr.isatty():
                print(f"{printable(self._what)}: this takes a while", file=sys.stderr)
                return
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            from rlrat.console import Console

            text = TextColumn("{task.description}", markup=False)
            columns = (text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task(self._what, total=self._total, completed=self._done)
            self._bar.start()

    def update(self, done: int, total: int) -> None:
        self._done, self._total = done, total
        if self._bar is not None:
            self._bar.update(self._task, completed=done, total=total)

    def end(self) -> None:
        with self._lock:
            self._is_over = True
            if self._bar is not None:
                self._bar.stop()


_works: list[_Work] = []


@contextmanager
def told_if_slow(what: str) -> Iterator[None]:
    """Show what goes on in the block once it has taken `AFTER_SECONDS`."""
    work = _Work(what)
    timer = threading.Timer(AFTER_SECONDS, work.begin)
    timer.daemon = True
    _works.append(work)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        work.end()
        _works.remove(work)


def counted(items: Iterable[Any], total: int) -> Iterator[Any]:
    """Yield items, and show how many of `total` are done if they are a part of what `told_if_slow` shows."""
    work = _works[-1] if _works else None
    for done, item in enumerate(items):
        if work is not None:
            work.update(done, total)
        yield item
