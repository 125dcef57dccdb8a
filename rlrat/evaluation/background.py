"""Evaluate during training: copies of the policies play in their own thread."""

import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlrat.environments.global_random import take_back
from rlrat.errors import InputError, reason, warn
from rlrat.evaluation.evaluator import Evaluation, Evaluator
from rlrat.rational.launching import is_gpu

MOST_PENDING_SNAPSHOTS = 3  # one plays and two wait


class Snapshot:
    """The policies of S seeds as they were after `update`.

    Args:
        wanted: bool [S], the seeds whose results are recorded.
        train_seconds, wall_seconds: times of the run up to that update.
        state: the policies' `state_dict`. Tensors of a GPU are copied in the order of its stream, without a wait.
    """

    update: int
    wanted: np.ndarray
    train_seconds: float
    wall_seconds: float

    def __init__(
        self, update: int, wanted: np.ndarray, train_seconds: float, wall_seconds: float, state: dict[str, Tensor]
    ) -> None:
        self.update, self.wanted = update, wanted
        self.train_seconds, self.wall_seconds = train_seconds, wall_seconds
        self._copied = None
        on_gpu = any(is_gpu(tensor.device) for tensor in state.values())
        with torch.no_grad():
            self._state = {
                name: torch.empty_like(tensor, device="cpu", pin_memory=on_gpu).copy_(tensor, non_blocking=True)
                for name, tensor in state.items()
            }
        if on_gpu:
            self._copied = torch.cuda.Event()
            self._copied.record()

    @property
    def state(self) -> dict[str, Tensor]:
        """Return the policies' tensors on the CPU."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._state


class _Cancelled(Exception):
    """The evaluation is cancelled: nobody waits for it any more."""


class _EvaluationThread(threading.Thread):
    """A daemon thread that evaluates one snapshot: a step that never returns does not keep the process alive."""

    def __init__(
        self,
        policy: nn.Module,
        snapshot: Snapshot,
        evaluator: Evaluator | None,
        make: Callable[[], Evaluator],
        stream: "torch.cuda.Stream | None",
    ) -> None:
        super().__init__(name="evaluation", daemon=True)
        self._policy, self._snapshot, self._make, self._stream = policy, snapshot, make, stream
        self.evaluator = evaluator
        self.result: Evaluation | None = None
        self.error: BaseException | None = None
        self.by_policy = False
        self.cancelled = False
        self.began = self.last_step = self.last_end = time.monotonic()
        self._going_on: int | None = None
        for name in ("reset", "observe"):  # policies with memory have these
            if hasattr(policy, name):
                setattr(self, name, self._watched(getattr(policy, name)))
        self.start()

    def run(self) -> None:
        try:
            if self._stream is not None:
                torch.cuda.set_stream(self._stream)  # and its device: a thread begins on the first GPU
            self._policy.load_state_dict(self._snapshot.state)
            if self.evaluator is None:
                self.evaluator = self._make()
            self.result = self.evaluator.run(self)
        except BaseException as error:  # handled by the thread that trains
            self.error = error

    @property
    def playing(self) -> bool:
        """Return whether the policy has been called; before that, environments are made."""
        return self._going_on is not None

    def _watched(self, function: Callable) -> Callable:
        """Wrap a function of the policy: its errors are the policy's, not the environment's."""

        def call(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except Exception:
                self.by_policy = True
                raise

        return call

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        if self.cancelled:
            raise _Cancelled
        self.last_step = time.monotonic()
        if self._going_on != self.evaluator.going_on:
            self._going_on, self.last_end = self.evaluator.going_on, self.last_step
        return self._watched(self._policy)(observations)


class BackgroundEvaluator:
    """Evaluator of snapshots in their order, one at a time.

    An environment that raises an error or makes no step for `timeout` seconds is given up, and the evaluation starts
    again with a new one. If that fails too, the evaluation has failed, and training continues. An evaluation fails at
    once if a second try would be like the first: the environment breaks Gymnasium's API, or it has no time limit and
    none of its episodes has ended for `timeout` seconds.

    Args:
        policy: is copied; the copy is loaded with each snapshot. It acts on the CPU, where environments are. A policy
            with memory, such as a sequence model, acts on its own device.
        make: makes an `Evaluator`; called now, and after each failure.
        timeout: in seconds.
    """

    def __init__(self, policy: nn.Module, make: Callable[[], Evaluator], timeout: float) -> None:
        self._original, self._make, self._timeout = policy, make, timeout
        self._pending: deque[Snapshot] = deque()
        self._thread: _EvaluationThread | None = None
        self._tried = 0
        self._said_to_be_slow = False
        self.failure: str | None = None
        """Why the last evaluation failed that did."""
        self._policy, self._evaluator = self._copy(), make()
        gpu = next((p.device for p in policy.parameters() if is_gpu(p.device)), None)
        # In the default stream it would wait for all work of the training.
        self._stream = None if gpu is None else torch.cuda.Stream(gpu)

    def _copy(self) -> nn.Module:
        policy = copy.deepcopy(self._original).requires_grad_(False)
        if hasattr(policy, "flat"):  # of an optimizer: the copy's parameters are no part of it
            del policy.flat
        return policy if hasattr(policy, "observe") else policy.cpu()

    @property
    def pending(self) -> tuple[Snapshot, ...]:
        """Return the snapshots that `collect` has not yielded yet, oldest first."""
        return tuple(self._pending)

    def submit(self, snapshot: Snapshot) -> None:
        """Evaluate `snapshot` after all snapshots that were submitted before it."""
        self._pending.append(snapshot)
        self._next()

    def _next(self) -> None:
        if self._thread is None and self._pending:
            if self._stream is not None:
                self._stream.wait_stream(torch.cuda.current_stream())  # for the policy's copy
            self._thread = _EvaluationThread(self._policy, self._pending[0], self._evaluator, self._make, self._stream)

    def collect(self, wait: float = 0.0) -> Iterator[tuple[Snapshot, Evaluation | None]]:
        """Yield finished evaluations, oldest first, after at most `wait` seconds; None for an evaluation that failed.

        Raises:
            Exception: the policy raised it.
        """
        while (thread := self._thread) is not None:
            thread.join(wait)
            alive = thread.is_alive()
            failure, again = self._stuck(thread) if alive else self._raised(thread)
            if failure is None and alive:
                if wait:
                    self._say_if_slow(thread)
                return
            self._thread, self._evaluator = None, thread.evaluator
            if failure is not None:
                if thread.by_policy:
                    raise thread.error
                thread.cancelled = True  # in case it ever moves again
                take_back(thread.ident)
                self._evaluator, self._policy = None, self._copy()
                self._tried, self.failure = self._tried + 1, failure
                where = f"the evaluation at update {self._pending[0].update:,} failed ({failure})"
                if again and self._tried < 2:
                    warn(f"{where}: it is tried once more")
                    self._next()
                    continue
                warn(f"{where}{' again' if self._tried > 1 else ''}: it is left out")
            self._tried = 0
            snapshot = self._pending.popleft()
            self._next()
            yield snapshot, thread.result
            wait = 0.0

    def _raised(self, thread: _EvaluationThread) -> tuple[str | None, bool]:
        """Say why a finished evaluation failed (None: it did not), and whether a second try may succeed."""
        if thread.error is None:
            return None, False
        if isinstance(thread.error, InputError):
            return reason(thread.error), False
        return f"{type(thread.error).__name__}: {reason(thread.error)}", True

    def _stuck(self, thread: _EvaluationThread) -> tuple[str | None, bool]:
        """Say why to stop the wait for an evaluation (None: go on waiting), and whether a second try may succeed."""
        now, timeout = time.monotonic(), self._timeout
        if now - thread.last_step >= timeout:
            return f"no step in {timeout:g} s", True
        if thread.playing and thread.evaluator.time_limit is None and now - thread.last_end >= timeout:
            found = f"{thread.evaluator.env_id} has no time limit, and no episode has ended for {timeout:g} s"
            return f"{found}: give --max-episode-steps, or a longer --eval-timeout", False
        return None, False

    def _say_if_slow(self, thread: _EvaluationThread) -> None:
        now = time.monotonic()
        seconds, still = now - thread.began, now - thread.last_step
        # An evaluation without progress is given up soon, and a message says it then.
        if thread.playing and seconds >= self._timeout > 2 * still and not self._said_to_be_slow:
            self._said_to_be_slow = True
            rows = thread.evaluator.reset_seeds.size
            warn(
                f"the evaluation at update {self._pending[0].update:,} has taken {seconds:.0f} s, and training waits: "
                f"{thread.evaluator.going_on:,} of {rows:,} episodes go on (fewer --eval-episodes or "
                "--max-episode-steps, or a larger --eval-every, would make it shorter)"
            )

    def close(self) -> None:
        """Close the environments; pending snapshots stay pending."""
        if self._thread is not None:
            self._thread.cancelled = True
            self._thread.join(min(self._timeout, 10.0))  # a step of a usual environment takes milliseconds
            self._evaluator = self._thread.evaluator
            if self._thread.is_alive():
                self._evaluator = None
                take_back(self._thread.ident)
            self._thread = None
        if self._evaluator is not None:
            self._evaluator.close()

    def __enter__(self) -> "BackgroundEvaluator":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
