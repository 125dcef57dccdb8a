"""NumPy's global generator comes back as it was, and episodes are those of their seeds, whatever they draw from."""

import functools
import threading

import gymnasium
import numpy as np
import pytest

from rlrat.environments.global_random import Generators, lent, settled_state, take_back
from rlrat.evaluation.evaluator import Evaluator


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


def test_it_stands_elsewhere_once_one_has_drawn_and_nowhere_while_it_is_lent(lender):
    before = settled_state()
    with lent():
        assert settled_state() is None
    assert settled_state() == before is not None
    np.random.uniform()
    assert settled_state() != before


def test_a_block_that_borrowed_it_borrows_it_again(lender):
    state, found = np.random.get_state(legacy=False), []
    generators = Generators([1, 2])

    def draw(row):
        found.append(np.random.uniform())
        Generators([7]).each(lambda _: np.random.uniform(), np.arange(1), anew=True)
        found.append(np.random.uniform())

    generators.each(draw, np.arange(2), anew=True)
    assert found == [*np.random.RandomState(1).uniform(size=2), *np.random.RandomState(2).uniform(size=2)]
    np.testing.assert_equal(np.random.get_state(legacy=False), state)
    with pytest.raises(KeyError), lent(), lent():
        {}[np.random.normal()]
    np.testing.assert_equal(np.random.get_state(legacy=False), state)


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


def test_it_is_taken_back_from_a_thread_that_does_not_return(lender):
    state = np.random.get_state(legacy=False)
    arrived, free, found = threading.Event(), threading.Event(), []

    def hang(row):
        found.append(np.random.uniform())
        arrived.set()
        assert free.wait(10)

    def play():
        try:
            with lent():
                Generators([1, 2]).each(hang, np.arange(2), anew=True)
        except RuntimeError as error:  # an assertion in a thread fails no test
            found.append(str(error))

    stuck = threading.Thread(target=play)
    stuck.start()
    assert arrived.wait(10)
    waiting = threading.Thread(target=lambda: Generators([3]).each(lambda _: found.append("went on"), np.arange(1)))
    waiting.start()
    take_back(threading.get_ident())  # another one's
    assert np.random.get_bit_generator() is not lender
    take_back(stuck.ident)
    waiting.join(10)
    np.testing.assert_equal(np.random.get_state(legacy=False), state)
    free.set()
    stuck.join(10)
    assert np.random.get_bit_generator() is lender
    np.testing.assert_equal(np.random.get_state(legacy=False), state)
    given_up = "NumPy's global generator was taken back: this evaluation was given up"
    assert found == [np.random.RandomState(1).uniform(), "went on", given_up]
    assert (
        gymnasium.spaces.Box(-1.0, 1.0, (9,)).sample().tolist()
        != gymnasium.spaces.Box(-1.0, 1.0, (9,)).sample().tolist()
    )


class Dice(gymnasium.Env):
    """An environment that draws from NumPy's global generator: at a reset and at even steps, or at these alone."""

    def __init__(self, at_reset=True):
        self.at_reset, self.action_space = at_reset, gymnasium.spaces.Box(-1.0, 1.0, (2,))
        np.random.uniform()

    @functools.cached_property
    def observation_space(self):
        np.random.uniform()  # OGBench's are reset, and draw a task, when they are asked for it
        return gymnasium.spaces.Box(-np.inf, np.inf, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.array([np.random.uniform() if self.at_reset else 0.0, self.np_random.uniform()]), {}

    def step(self, action):
        luck = np.random.uniform() if self.steps % 2 == 0 else 0.5
        self.steps += 1
        return np.array([luck, self.steps], float), luck + float(action.sum()), luck > 0.8, False, {}


def walk(observations, action=None):
    """Act by what a row sees, or always in the same way."""
    if action is None:
        return np.sin(3.0 * observations[..., :1]) * np.array([1.0, -1.0, 0.5, 0.2, 0.7, -0.4, 0.1, 0.9])
    return np.broadcast_to(action, (*observations.shape[:-1], len(action)))


def played(evaluator, action=None):
    """Return returns, lengths and what was seen, of all rows."""
    seen, width = [], evaluator.action_space.shape[0]

    def policy(observations):
        seen.append(observations)
        return walk(observations, action)[..., :width]

    found = evaluator.run(policy)
    rows = np.stack(seen).reshape(len(seen), found.lengths.size, -1)
    lengths = found.lengths.ravel().tolist()
    return found.returns.ravel().tolist(), lengths, [rows[:length, row].tolist() for row, length in enumerate(lengths)]


def played_alone(evaluator, action=None):
    """Return the same of a plain loop: the global generator and the environment have the seed of the reset."""
    returns, lengths, seen = [], [], []
    with lent():
        env = gymnasium.make(evaluator.envs[0].spec, disable_env_checker=True)
        for seed in evaluator.reset_seeds.ravel().tolist():
            np.random.seed(seed)
            observation, _ = env.reset(seed=seed)
            rewards, rows, done = [], [], False
            while not done:
                rows.append(observation.tolist())
                chosen = walk(observation, action)[: env.action_space.shape[0]].astype(env.action_space.dtype)
                observation, reward, terminated, truncated, _ = env.step(chosen)
                rewards.append(reward)
                done = terminated or truncated
            returns.append(sum(rewards))
            lengths.append(len(rewards))
            seen.append(rows)
        env.close()
    return returns, lengths, seen


def assert_episodes_are_their_seeds(env_id, env_kwargs=None, limit=20, action=None):
    """Each episode is that of a plain loop, in any number of threads, and leaves the caller's generator alone."""
    np.random.seed(2)
    np.random.normal()
    state, found = np.random.get_state(), []
    is_arm = env_id.startswith(("cube", "puzzle"))  # a quarter of a second to make each
    several, episodes = ((1, 4), 1) if is_arm else ((1, 2, 4), 2)
    for threads in several:
        with Evaluator(env_id, [0, 7], episodes, env_kwargs, threads, max_episode_steps=limit) as evaluator:
            evaluator.probe()
            found += [played(evaluator, action) for _ in range(2)]
            if threads == 1:
                expected = played_alone(evaluator, action)
        np.testing.assert_equal(np.random.get_state(), state)
        np.random.uniform(size=threads)  # others draw, too
        state = np.random.get_state()
    if is_arm:  # their resets leave a trace of spaces that the plain loop does not seed
        assert expected[:2] == found[0][:2]
        np.testing.assert_allclose(expected[2], found[0][2], rtol=0, atol=1e-12)
        expected = found[0]
    assert found == [expected] * 2 * len(several)
    with Evaluator(env_id, 7, 1, env_kwargs, max_episode_steps=limit) as evaluator:
        assert played(evaluator, action) == tuple(column[episodes : episodes + 1] for column in expected)
    return expected


@pytest.mark.parametrize("at_reset", [True, False], ids=["at resets", "at steps"])
def test_an_environment_that_draws_from_the_global_generator(monkeypatch, at_reset):
    spec = gymnasium.envs.registration.EnvSpec("Dice-v0", entry_point=Dice)
    monkeypatch.setitem(gymnasium.registry, "Dice-v0", spec)
    returns, lengths, seen = assert_episodes_are_their_seeds("Dice-v0", {"at_reset": at_reset})
    assert len(set(returns)) == 4
    assert len(set(lengths)) > 1
    assert len({rows[0][0] for rows in seen}) == (4 if at_reset else 1)


class Late(Dice):
    """An environment that draws in a later step alone, and, when it is made, where it starts."""

    def __init__(self, at=2):
        super().__init__()
        self.at, self.place = at, np.random.uniform(size=2)

    def reset(self, *, seed=None, options=None):
        gymnasium.Env.reset(self, seed=seed)
        self.steps = 0
        return self.place, {}

    def step(self, action):
        self.steps += 1
        luck = np.random.uniform() if self.steps == self.at else 0.0
        return self.place + luck, luck, False, False, {}


def test_one_that_draws_later_is_noticed_and_one_that_draws_when_it_is_made_is_its_seeds(monkeypatch, capsys):
    spec = gymnasium.envs.registration.EnvSpec("Late-v0", entry_point=Late)
    monkeypatch.setitem(gymnasium.registry, "Late-v0", spec)
    found = []
    for start in (1, 2):
        np.random.seed(start)
        with Evaluator("Late-v0", [0, 7], 1, max_episode_steps=4) as evaluator:
            assert np.random.uniform() == np.random.RandomState(start).uniform()
            found.append([played(evaluator) for _ in range(3)])
            said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert said[0].startswith("warning: while Late-v0 made a step that is not its first one, somebody drew from N")
    for one, other in zip(*found, strict=True):
        assert [rows[0] for rows in one[2]] == [rows[0] for rows in other[2]]  # they start alike
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[0][2] == found[1][1] == found[1][2]
    with Evaluator("Late-v0", [0, 7], 1, {"at": 9}, max_episode_steps=4) as evaluator:
        played(evaluator)
    assert capsys.readouterr().err == ""


class Samples(Dice):
    """An environment that draws from spaces: from its actions', or as OGBench's arms from one made anew."""

    def reset(self, *, seed=None, options=None):
        first, _ = super().reset(seed=seed)
        return first + self.action_space.sample() + gymnasium.spaces.Box(-1.0, 1.0, (2,)).sample(), {}


def test_an_environment_that_samples_from_its_spaces(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Samples-v0", entry_point=Samples)
    monkeypatch.setitem(gymnasium.registry, "Samples-v0", spec)
    found = []
    for seeds in ([0, 7], [7, 0], [7]):
        with Evaluator("Samples-v0", seeds, 1, max_episode_steps=5) as evaluator:
            for _ in range(2):
                found.append(dict(zip(seeds, zip(*played(evaluator), strict=True), strict=True)))
    assert all(each[7] == found[0][7] for each in found)
    assert all(each[0] == found[0][0] for each in found[:4])
    assert found[0][0] != found[0][7]
    assert (
        gymnasium.spaces.Box(-1.0, 1.0, (9,)).sample().tolist()
        != gymnasium.spaces.Box(-1.0, 1.0, (9,)).sample().tolist()
    )


class Whim(Dice):
    """An environment that asks the operating system where to start."""

    def reset(self, *, seed=None, options=None):
        return np.random.default_rng().uniform(size=2), super().reset(seed=seed)[1]


@pytest.mark.parametrize(("kind", "warnings"), [(Whim, 1), (Dice, 0), (Samples, 0)])
def test_a_start_that_no_seed_decides_is_said_once(monkeypatch, capsys, kind, warnings):
    spec = gymnasium.envs.registration.EnvSpec("Whim-v0", entry_point=kind)
    monkeypatch.setitem(gymnasium.registry, "Whim-v0", spec)
    with Evaluator("Whim-v0", 0, 2, max_episode_steps=5) as evaluator:
        evaluator.probe()
        assert capsys.readouterr().err == ""
        for _ in range(3):
            played(evaluator)
    said = capsys.readouterr().err.splitlines()
    assert [line.startswith("warning: Whim-v0 starts elsewhere whenever it is reset") for line in said] == [
        True
    ] * warnings


def test_threads_step_what_does_not_draw():
    with Evaluator("Swimmer-v5", 0, 4, num_threads=2) as evaluator:
        chunks = []
        threads = evaluator._rows._threads
        evaluator._rows._threads = lambda step, rows: (chunks.append(len(rows)), threads(step, rows))
        evaluator.run(lambda observations: np.zeros((1, 4, 2)) if len(chunks) < 3 else np.full((1, 4, 2), np.nan))
        evaluator._rows._threads = threads
    assert chunks == [4, 4, 4]


@pytest.mark.parametrize(
    "env_id",
    [
        "pointmaze-medium-singletask-v0",
        "antmaze-medium-singletask-task2-v0",
        *(
            pytest.param(env_id, marks=pytest.mark.slow)
            for env_id in ("cube-single-singletask-v0", "puzzle-3x3-singletask-v0", "antsoccer-arena-singletask-v0")
        ),
        pytest.param("pointmaze-large-v0", marks=pytest.mark.slow),  # draws a task, too
    ],
)
def test_ogbenchs_episodes_are_their_seeds(env_id):
    pytest.importorskip("ogbench", exc_type=ImportError)
    _, _, seen = assert_episodes_are_their_seeds(env_id, limit=8)
    assert len({tuple(rows[0]) for rows in seen}) == len(seen) > 1


def test_a_teleport_leads_where_the_seed_says():
    """OGBench's environment draws it in a step: of three places, none of them near the other two."""
    pytest.importorskip("ogbench", exc_type=ImportError)
    _, _, seen = assert_episodes_are_their_seeds("pointmaze-teleport-singletask-task3-v0", limit=40, action=(0.0, -1.0))
    assert len({tuple(np.round(np.array(rows[-1]) / 16).tolist()) for rows in seen}) > 1
