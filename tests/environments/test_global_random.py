"""NumPy's global generator is lent, and comes back as it was, whatever its kind and whatever happens."""

import threading

import gymnasium
import numpy as np
import pytest

from rlrat.environments.global_random import Generators, lent


@pytest.fixture(params=["MT19937", "PCG64"])
def lender(request):
    """A generator that someone else draws from, amid a pair of normal numbers."""
    before = np.random.get_bit_generator()
    np.random.set_bit_generator(getattr(np.random, request.param)(5))
    np.random.normal()
    yield np.random.get_bit_generator()
    np.random.set_bit_generator(before)


def test_it_comes_back_as_it_was(lender):
    state = np.random.get_state(legacy=False)
    with lent():
        np.random.uniform(size=1000)
    generators = Generators([1, 2])
    generators.each(lambda _: np.random.normal(), np.arange(2), anew=True)
    with pytest.raises(KeyError):
        generators.each(lambda _: {}[np.random.normal()], np.arange(2))
    assert np.random.get_bit_generator() is lender
    np.testing.assert_equal(np.random.get_state(legacy=False), state)
    assert state["has_gauss"]


def test_each_row_draws_as_if_it_were_alone(lender):
    found = {}
    for seeds in ([3, 4, 5], [5, 3]):
        generators = Generators(seeds)
        rows = {row: [] for row in range(len(seeds))}

        def draw(row, rows=rows):
            rows[row].append((np.random.uniform(), np.random.randint(100)))

        for _ in range(2):
            generators.each(draw, np.arange(len(seeds)), anew=True)
            for chosen in ([0, 1], [1], [0]):
                generators.each(draw, np.array(chosen))
        for row, seed in enumerate(seeds):
            found.setdefault(seed, []).append(rows[row][:6])
    random = np.random.RandomState(3)
    alone = [(random.uniform(), random.randint(100)) for _ in range(3)]
    assert found[3] == [alone * 2] * 2
    assert found[5][0][:1] == found[5][1][:1]
    assert found[4] != found[3]


@pytest.mark.parametrize(
    ("draw", "used"),
    [
        (lambda row: None, False),
        (lambda row: np.random.default_rng(0).normal(), False),
        (lambda row: np.random.uniform() if row == 1 else None, True),
        (lambda row: np.random.randint(4), True),
        (lambda row: np.random.bytes(4 * 624), True),  # it stands at the same place again
    ],
)
def test_it_is_noticed_that_one_draws(draw, used):
    generators = Generators([0, 1])
    generators.each(draw, np.arange(2), anew=True)
    assert generators.are_used is used
    generators.each(lambda _: None, np.arange(2))
    assert generators.are_used is used


def test_a_space_that_nobody_seeded_is_seeded_at_a_reset():
    seen = [[], []]

    def sample(row):
        spaces = [gymnasium.spaces.Box(-1.0, 1.0, (3,)) for _ in range(2)]
        given = gymnasium.spaces.Box(-1.0, 1.0, (3,), seed=4)
        seen[row].append([space.sample().tolist() for space in (*spaces, given)])

    generators = Generators([3, 4])
    for _ in range(2):
        generators.each(sample, np.arange(2), anew=True)
    assert not generators.are_used
    assert seen[0][0] == seen[0][1] != seen[1][0] == seen[1][1]
    first, second, given = seen[0][0]
    assert first != second
    assert given == seen[1][0][2] == gymnasium.spaces.Box(-1.0, 1.0, (3,), seed=4).sample().tolist()
    generators.each(sample, np.arange(2))  # not between resets
    assert seen[0][2] != seen[0][1]


def test_threads_that_lend_it_do_not_meet():
    found = []

    def play(seed):
        generators = Generators([seed] * 3)
        rows = [[] for _ in range(3)]
        for step in range(20):
            generators.each(lambda row: rows[row].append(np.random.uniform()), np.arange(3), anew=step == 0)
        found.append((seed, rows))

    np.random.seed(8)
    before = np.random.get_state()
    threads = [threading.Thread(target=play, args=(seed,)) for seed in (1, 2, 1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_equal(np.random.get_state(), before)
    assert len(found) == 4
    for seed, rows in found:
        assert rows == [np.random.RandomState(seed).uniform(size=20).tolist()] * 3
