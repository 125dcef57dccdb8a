"""Lend NumPy's global generator to environments, each of which then has one of its own.

Some environments draw from `np.random`, whatever seed they are reset with: OGBench's mazes draw where an episode
starts, and in a maze with teleports also where one leads to.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

_LOCK = threading.RLock()


@contextmanager
def lent() -> Iterator[None]:
    """Lend the global generator to the block, and then give it back as it was; other threads that lend it wait.

    A thread that draws from it without lending it draws what the block left.
    """
    with _LOCK:
        lender, state = np.random.get_bit_generator(), np.random.get_state(legacy=False)
        try:
            yield
        finally:
            np.random.set_bit_generator(lender)
            np.random.set_state(state)


class Generators:
    """A global generator for each of some rows, which a reset begins anew with the row's seed.

    `are_used` says whether a row has drawn from its generator.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._seeds = seeds
        self._generators = [np.random.MT19937() for _ in seeds]
        self.are_used = False

    def each(self, function: Callable[[int], None], rows: np.ndarray, *, anew: bool = False) -> None:
        """Call `function(row)` for one row after the other, its generator being the global one."""
        with lent():
            for row in rows.tolist():
                np.random.set_bit_generator(self._generators[row])
                if anew:
                    np.random.seed(self._seeds[row])
                before = None if self.are_used else _state()
                function(row)
                self.are_used = self.are_used or _state() != before


def _state() -> tuple[bytes, ...]:
    _, key, *others = np.random.get_state()
    return (key.tobytes(), *others)
