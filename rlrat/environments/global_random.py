"""Make a reset a function of its seed where an environment draws from generators that `reset(seed=...)` does not seed.

Some draw from `np.random`: OGBench's mazes draw where an episode starts, and in a maze with teleports also where one
leads to. Others sample from spaces that nobody seeded: in a reset OGBench's robot arms make a few steps, with actions
from a space that is made for the purpose, and these leave a trace of about 1e-17 in the simulator.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

_RETRY_SECONDS = 0.5  # a lock that was taken from its holder is another one by then


class _Loan:
    """NumPy's global generator and the seeding of Gymnasium's spaces, as they were when a thread borrowed them."""

    def __init__(self) -> None:
        from gymnasium.utils import seeding

        self.thread, self.is_over = threading.get_ident(), False
        self._generator, self._state = np.random.get_bit_generator(), np.random.get_state(legacy=False)
        self._seeding, self._unseeded = seeding, seeding.np_random

    def begin(self, generator: np.random.BitGenerator) -> None:
        if self.is_over:
            raise RuntimeError("NumPy's global generator was taken back: this evaluation was given up")
        np.random.set_bit_generator(generator)

    def seed_spaces(self, seed: int) -> None:
        """Seed the spaces that are drawn from for the first time; else they ask the operating system for a seed."""
        unseeded, sequence = self._unseeded, np.random.SeedSequence(seed)

        def seeded(given: int | None = None) -> tuple[np.random.Generator, int]:
            return unseeded(int(sequence.spawn(1)[0].generate_state(1)[0]) if given is None else given)

        self._seeding.np_random = seeded

    def end(self) -> None:
        self.is_over = True
        np.random.set_bit_generator(self._generator)
        np.random.set_state(self._state)
        self._seeding.np_random = self._unseeded


_lock = threading.Lock()
_loan: _Loan | None = None


@contextmanager
def lent() -> Iterator[_Loan]:
    """Lend the global generator to the block, and then give it back as it was; other threads that borrow it wait.

    A thread that draws from it without borrowing it draws what the block left. The block borrows nothing more.
    """
    global _loan
    while not (lock := _lock).acquire(timeout=_RETRY_SECONDS):
        pass
    try:
        _loan = loan = _Loan()
        try:
            yield loan
        finally:
            if not loan.is_over:
                loan.end()
                _loan = None
    finally:
        lock.release()


def take_back(thread: int | None) -> None:
    """Take the global generator back from a thread, by its `ident`, that may never return it."""
    global _lock, _loan
    if (loan := _loan) is not None and loan.thread == thread:
        loan.end()
        _lock, _loan = threading.Lock(), None


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
                loan.begin(self._generators[row])
                if anew:
                    np.random.seed(self._seeds[row])
                    loan.seed_spaces(self._seeds[row])
                before = None if self.are_used else _state()
                function(row)
                self.are_used = self.are_used or _state() != before


def _state() -> tuple[bytes, ...]:
    _, key, *others = np.random.get_state()
    return (key.tobytes(), *others)
