"""Make a reset a function of its seed where an environment draws from generators that `reset(seed=...)` does not seed.

Some draw from `np.random`: OGBench's mazes draw where an episode starts, and in a maze with teleports also where one
leads to. Others sample from spaces that nobody seeded: in a reset OGBench's robot arms make a few steps, with actions
from a space that is made for the purpose, and these leave a trace of about 1e-17 in the simulator.
"""

import ctypes
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

_RETRY_SECONDS = 0.5  # a lock that was taken from its holder is another one by then
_MT19937_BYTES = 4 * 625  # of NumPy's struct: 624 numbers of 32 bits, and the place among them


class _Loan:
    """NumPy's global generator and the seeding of Gymnasium's spaces, as they were when a thread borrowed them."""

    def __init__(self, around: "_Loan | None") -> None:
        """Borrow them, perhaps from another loan of this thread."""
        from gymnasium.utils import seeding

        self.thread, self._around, self._has_ended = threading.get_ident(), around, False
        self._generator, self._state = np.random.get_bit_generator(), np.random.get_state(legacy=False)
        self._seeding, self._unseeded = seeding, seeding.np_random

    @property
    def is_over(self) -> bool:
        return self._has_ended or (self._around is not None and self._around.is_over)

    def begin(self, generator: np.random.BitGenerator, seed: int | None = None) -> None:
        """Let `generator` be the global one.

        Args:
            seed: begin it anew, and seed the spaces that are drawn from for the first time; else these ask the
                operating system for a seed.
        """
        if self.is_over:
            raise RuntimeError("NumPy's global generator was taken back: this evaluation was given up")
        np.random.set_bit_generator(generator)
        if seed is None:
            return
        np.random.seed(seed)
        unseeded, sequence = self._unseeded, np.random.SeedSequence(seed)

        def seeded(given: int | None = None) -> tuple[np.random.Generator, int]:
            return unseeded(int(sequence.spawn(1)[0].generate_state(1)[0]) if given is None else given)

        self._seeding.np_random = seeded

    def end(self) -> None:
        self._has_ended = True
        np.random.set_bit_generator(self._generator)
        np.random.set_state(self._state)
        self._seeding.np_random = self._unseeded


_lock = threading.RLock()
_loan: _Loan | None = None
"""The outermost one of the thread that has the lock."""


@contextmanager
def lent() -> Iterator[_Loan]:
    """Lend the global generator to the block, and then give it back as it was; other threads that borrow it wait.

    A thread that draws from it without borrowing it draws what the block left.
    """
    global _loan
    while not (lock := _lock).acquire(timeout=_RETRY_SECONDS):
        pass
    try:
        around, loan = _loan, _Loan(_loan)
        _loan = around or loan
        try:
            yield loan
        finally:
            if not loan.is_over:
                loan.end()
                _loan = around
    finally:
        lock.release()


def take_back(thread: int | None) -> None:
    """Take the global generator back from a thread that is alive, by its `ident`, and may never return it."""
    global _lock, _loan
    if (loan := _loan) is not None and loan.thread == thread:
        loan.end()
        _lock, _loan = threading.RLock(), None


def settled_state() -> bytes | None:
    """Return where the global generator stands, to be compared; None while it is lent to a thread."""
    found = None if _loan is not None else _state()
    return found if _loan is None else None  # it was lent meanwhile


def _state() -> bytes:
    generator = np.random.get_bit_generator()
    if type(generator) is np.random.MT19937:  # its `state` takes 100 us, as it is copied number by number
        return ctypes.string_at(generator.ctypes.state_address, _MT19937_BYTES)
    return repr(generator.state).encode()


class Generators:
    """A global generator for each of some rows, which a reset begins anew with the row's seed.

    `are_used` says whether a row has drawn from its generator.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds
        self._generators = [np.random.MT19937() for _ in seeds]
        self.are_used: bool = False

    def each(self, function: Callable[[int], None], rows: np.ndarray, *, anew: bool = False) -> None:
        """Call `function(row)` for one row after the other, its generator being the global one.

        Args:
            anew: whether these are resets.
        """
        with lent() as loan:
            for row in rows.tolist():
                loan.begin(self._generators[row], self._seeds[row] if anew else None)
                before = None if self.are_used else _state()
                function(row)
                self.are_used = self.are_used or _state() != before
