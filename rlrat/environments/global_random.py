"""Make a reset a function of its seed where an environment draws from generators that `reset(seed=...)` does not seed.

Some draw from `np.random`: OGBench's mazes draw where an episode starts, and in a maze with teleports also where one
leads to. Others sample from spaces that nobody seeded: in a reset OGBench's robot arms make a few steps, with actions
from a space that is made for the purpose, and these leave a trace of about 1e-17 in the simulator.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

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


@contextmanager
def _spaces_seeded_with(seed: int) -> Iterator[None]:
    """Seed the spaces that are first drawn from in the block, which else ask the operating system for a seed."""
    from gymnasium.utils import seeding

    unseeded, sequence = seeding.np_random, np.random.SeedSequence(seed)

    def seeded(given: int | None = None) -> tuple[np.random.Generator, int]:
        return unseeded(int(sequence.spawn(1)[0].generate_state(1)[0]) if given is None else given)

    seeding.np_random = seeded
    try:
        yield
    finally:
        seeding.np_random = unseeded


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
                seed = self._seeds[row]
                np.random.set_bit_generator(self._generators[row])
                if anew:
                    np.random.seed(seed)
                before = None if self.are_used else _state()
                with _spaces_seeded_with(seed) if anew else nullcontext():
                    function(row)
                self.are_used = self.are_used or _state() != before


def _state() -> tuple[bytes, ...]:
    _, key, *others = np.random.get_state()
    return (key.tobytes(), *others)
