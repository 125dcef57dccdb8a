"""Streams and events, and who has waited for whom."""

import itertools
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import ClassVar

import torch

Position = dict[int, int]
"""By stream, the time up to which its work is known to be done."""


class Timeline:
    """Counts what streams are given, as a clock, and knows the current stream of each thread.

    Args:
        refuse: raises if a graph is being captured.
        finish: finishes the copies up to a position.
    """

    def __init__(self, refuse: Callable[[str], None], finish: Callable[[Position], None]) -> None:
        self.refuse, self.finish = refuse, finish
        self.now = 0
        self.streams: list[Stream] = []
        self.unordered: list[tuple[Stream, Stream]] = []
        self._lock, self._thread = threading.Lock(), threading.local()
        self.Stream = type("Stream", (Stream,), {"_timeline": self})
        self.Event = type("Event", (Event,), {"_timeline": self})
        self.default = self.Stream()
        self._thread.since = self.tick()  # of this thread alone: the others have given the default stream nothing

    def tick(self) -> int:
        with self._lock:
            self.now += 1
            return self.now

    def current(self, device: torch.device | int | None = None) -> "Stream":
        return getattr(self._thread, "stream", self.default)

    def set_current(self, stream: "Stream") -> None:
        """Give work to `stream` from now on. It should have waited for the stream that had the work before."""
        before, since = self.current(), getattr(self._thread, "since", None)
        if stream is before:
            return
        self.check()
        self._thread.owed = None if since is None else (before, since)
        self._thread.stream, self._thread.since = stream, self.tick()

    @contextmanager
    def using(self, stream: "Stream | None"):
        before = self.current()
        if stream is not None:
            self.set_current(stream)
        yield  # as with CUDA, an error of what ends in here is not caught
        self.set_current(before)

    def nothing_done(self) -> None:
        """Forget that the current stream was given work: what is captured is not done."""
        self._thread.since = self._thread.owed = None

    def check(self) -> None:
        """Note if the current stream, which is given work now, has not waited for the one before it."""
        owed, stream = getattr(self._thread, "owed", None), self.current()
        if owed is not None and stream.done.get(owed[0].cuda_stream, 0) < owed[1]:
            self.unordered.append((owed[0], stream))
        self._thread.owed = None

    def synchronize(self, device: torch.device | int | None = None) -> None:
        self.refuse("cudaDeviceSynchronize")
        now = self.tick()
        position = {stream.cuda_stream: now for stream in self.streams}
        for stream in self.streams:
            stream.done.update(position)
        self.finish(position)


class Stream:
    """Stands in for torch.cuda.Stream."""

    _timeline: ClassVar[Timeline]
    _numbers = itertools.count()

    def __init__(self, device: torch.device | int | None = None, priority: int = 0, **_) -> None:
        self.device, self.cuda_stream = torch.device("cpu"), next(self._numbers)
        self.done: Position = {}
        self._timeline.streams.append(self)

    def position(self) -> Position:
        """What is done when all is that this stream was given until now."""
        return {**self.done, self.cuda_stream: self._timeline.tick()}

    def wait_stream(self, stream: "Stream") -> None:
        self._wait(stream.position())

    def wait_event(self, event: "Event") -> None:
        self._wait(event.position)

    def _wait(self, position: Position) -> None:
        for stream, time_ in position.items():
            self.done[stream] = max(self.done.get(stream, 0), time_)

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = event or self._timeline.Event()
        event.record(self)
        return event

    def synchronize(self) -> None:
        self._timeline.refuse("cudaStreamSynchronize")
        self._timeline.finish(self.position())

    def query(self) -> bool:
        self.synchronize()
        return True


class Event:
    """Stands in for torch.cuda.Event."""

    _timeline: ClassVar[Timeline]

    def __init__(self, *_, **__) -> None:
        self.position: Position = {}
        self._asked = False

    def record(self, stream: Stream | None = None) -> None:
        self.position = (stream or self._timeline.current()).position()
        self._time, self._asked = time.perf_counter(), False

    def wait(self, stream: Stream | None = None) -> None:
        (stream or self._timeline.current()).wait_event(self)

    def synchronize(self) -> None:
        self._timeline.refuse("cudaEventSynchronize")
        self._timeline.finish(self.position)

    def query(self) -> bool:
        """Say at the second question that all is done."""
        self._timeline.refuse("cudaEventQuery")
        asked, self._asked = self._asked or not self.position, True
        if asked:
            self._timeline.finish(self.position)
        return asked

    def elapsed_time(self, end: "Event") -> float:
        return 1000.0 * (end._time - self._time)
