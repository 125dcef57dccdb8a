import os
import sys
import warnings

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

import rlrat
from rlrat.environments.making import NO_LIMIT, Wrapper
from rlrat.errors import InputError
from rlrat.evaluation.evaluator import Evaluation, Evaluator, check_spaces, evaluate, reset_seed


class RowPolicy:
    """A fixed tanh-linear policy; no matrix product, whose rounding would depend on the number of rows."""

    def __init__(self, env_id="Hopper-v5", scale=0.5):
        env = gymnasium.make(env_id)
        shape = (*env.observation_space.shape, *env.action_space.shape)
        self.weights = np.random.default_rng(7).normal(size=shape) * scale
        self.high = env.action_space.high
        env.close()

    def __call__(self, observations):
        return self.high * np.tanh((observations[..., None] * self.weights).sum(-2)).astype(np.float32)


class Recorder(RowPolicy):
    """Keeps all that it is given and all that it answers, in order."""

    def reset(self):
        self.observations, self.actions, self.rewards, self.dones, self.resets = [], [], [], [], 1

    def __call__(self, observations):
        self.observations.append(observations)
        self.actions.append(super().__call__(observations))
        return self.actions[-1]

    def observe(self, rewards, dones):
        self.rewards.append(rewards)
        self.dones.append(dones)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """MuJoCo logs warnings to the working directory."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def hopper() -> Evaluation:
    return evaluate(RowPolicy(), "Hopper-v5", episodes=5, seed=[0, 3, 7], num_threads=2)


@pytest.mark.parametrize(
    ("env_id", "env_kwargs", "seeds", "episodes"),
    [
        ("Hopper-v5", {}, [0, 1], 8),
        ("Hopper-v5", {"terminate_when_unhealthy": False}, [4], 1),
        ("HalfCheetah-v5", {}, [5], 1),
        ("Walker2d-v4", {"max_episode_steps": 600, "terminate_when_unhealthy": False}, [0, 1], 1),
        ("Pendulum-v1", {}, [0, 1], 3),
    ],
)
def test_equals_gymnasium_bit_for_bit(env_id, env_kwargs, seeds, episodes):
    policy = Recorder(env_id)
    limit = {"max_episode_steps": env_kwargs.get("max_episode_steps")}
    own = {name: value for name, value in env_kwargs.items() if name not in limit}
    result = evaluate(policy, env_id, episodes, seeds, own, num_threads=3, **limit)
    assert result.lengths.sum() >= 1000 or env_id == "Pendulum-v1"
    env = gymnasium.make(env_id, **env_kwargs)
    for s, seed in enumerate(seeds):
        for e in range(episodes):
            observation, _ = env.reset(seed=reset_seed(seed, e))
            total, step, terminated, truncated = 0.0, 0, False, False
            while not (terminated or truncated):
                np.testing.assert_array_equal(policy.observations[step][s, e], observation)
                observation, reward, terminated, truncated, _ = env.step(policy.actions[step][s, e])
                assert policy.rewards[step][s, e] == reward
                total += reward
                step += 1
            assert policy.dones[step - 1][s, e]
            assert (result.returns[s, e], result.lengths[s, e]) == (total, step)
            assert result.terminated[s, e] == terminated


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("RepeatAction", {"num_repeats": 4}),
        ("ClipReward", {"min_reward": -1.0, "max_reward": 0.5}),
        ("StickyAction", {"repeat_action_probability": 0.5}),  # which draws from the environment's generator
        ("DelayObservation", {"delay": 2}),
    ],
)
def test_wrappers_equal_gymnasium_bit_for_bit(name, kwargs):
    policy = Recorder("Hopper-v5")
    wrappers = [Wrapper("TimeLimit", {"max_episode_steps": 30}), Wrapper(name, kwargs)]
    result = evaluate(policy, "Hopper-v5", 3, [0, 4], num_threads=3, wrappers=wrappers)
    again = evaluate(policy, "Hopper-v5", 2, 4, num_threads=1, wrappers=wrappers)
    np.testing.assert_array_equal(again.returns[0], result.returns[1, :2])
    env = getattr(gymnasium.wrappers, name)(gymnasium.make("Hopper-v5", max_episode_steps=30), **kwargs)
    policy.reset()
    for e in range(3):
        observation, _ = env.reset(seed=reset_seed(4, e))
        total, step, terminated, truncated = 0.0, 0, False, False
        while not (terminated or truncated):
            action = policy(observation[None, None])[0, 0]
            observation, reward, terminated, truncated, _ = env.step(action)
            total += reward
            step += 1
        assert (result.returns[1, e], result.lengths[1, e]) == (total, step)
        assert result.terminated[1, e] == terminated
    env.close()


def test_wrappers_that_are_refused():
    said = refused("Hopper-v5", 0, 1, wrappers=[Wrapper("ClipReward", {"min": 0})])
    assert said.startswith("Hopper-v5 refuses the wrappers ClipReward(min=0): ")
    said = refused("Hopper-v5", 0, 1, wrappers=[Wrapper("FrameStackObservation", {"stack_size": 2})])
    assert "only vectors work" in said
    assert "has no wrapper Mine" in refused("Hopper-v5", 0, 1, wrappers=[Wrapper("Mine")])
    with (
        Evaluator("Hopper-v5", 0, 1, wrappers=[Wrapper("ClipReward", {"max_reward": "x"})]) as evaluator,
        pytest.raises(InputError, match=r"Hopper-v5 refuses the wrappers ClipReward\(max_reward='x'\): "),
    ):
        evaluator.probe()


def test_a_seed_does_not_depend_on_its_neighbours_nor_on_threads(hopper):
    alone = evaluate(RowPolicy(), "Hopper-v5", episodes=5, seed=3, num_threads=1)
    for name in ("returns", "lengths", "terminated", "reset_seeds"):
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(hopper, name)[1])
    fewer = evaluate(RowPolicy(), "Hopper-v5", episodes=2, seed=3, num_threads=2)
    np.testing.assert_array_equal(fewer.returns, alone.returns[:, :2])


def test_repeats_play_the_same_episodes(hopper):
    with Evaluator("Hopper-v5", [0, 3, 7], 5, repeats=2) as evaluator:
        whole = evaluator.run(RowPolicy())
    assert whole.returns.shape == (3, 10)
    for part in whole.split(2):
        for name in ("returns", "lengths", "terminated", "reset_seeds"):
            np.testing.assert_array_equal(getattr(part, name), getattr(hopper, name))


def test_evaluations_of_one_evaluator_start_alike(hopper):
    with Evaluator("Hopper-v5", [0, 3, 7], 5, num_threads=2) as evaluator:
        evaluator.run(RowPolicy(scale=0.1))
        np.testing.assert_array_equal(evaluator.run(RowPolicy()).returns, hopper.returns)


def test_reset_seeds_are_distinct_and_do_not_change_between_versions():
    assert reset_seed(0, 0) == 2968811710
    assert reset_seed(3, 1) == 457190280
    assert len({reset_seed(s, e) for s in range(30) for e in range(30)}) == 900


def test_statistics_are_per_seed(hopper):
    assert hopper.returns.shape == hopper.lengths.shape == hopper.terminated.shape == (3, 5)
    assert (hopper.returns.dtype, hopper.lengths.dtype) == (np.float64, np.int64)
    np.testing.assert_allclose(hopper.return_mean[1], np.mean(hopper.returns[1]))
    np.testing.assert_allclose(hopper.return_std[1], np.std(hopper.returns[1], ddof=0))
    np.testing.assert_allclose(hopper.length_mean[1], np.mean(hopper.lengths[1]))


def test_policy_calls_keep_one_shape_and_finished_rows_rest():
    policy = Recorder()
    result = evaluate(policy, "Hopper-v5", 4, [0, 1], num_threads=2)
    assert {o.shape for o in policy.observations} == {(2, 4, 11)}
    assert {o.dtype for o in policy.observations} == {np.dtype(np.float64)}
    assert len(policy.observations) == result.lengths.max() > result.lengths.min()
    s, e = np.unravel_index(result.lengths.argmin(), result.lengths.shape)
    end = result.lengths[s, e]
    for observations in policy.observations[end + 1 :]:
        np.testing.assert_array_equal(observations[s, e], policy.observations[end][s, e])


def test_memory_hooks():
    policy = Recorder()
    result = evaluate(policy, "Hopper-v5", 4, [0, 1])
    assert policy.resets == 1
    rewards, dones = np.array(policy.rewards), np.array(policy.dones)
    np.testing.assert_allclose(rewards.sum(0), result.returns, rtol=1e-12)
    np.testing.assert_array_equal((~dones).sum(0) + 1, result.lengths)
    assert (dones[1:] >= dones[:-1]).all()
    assert dones[-1].all()
    assert (rewards[1:][dones[:-1]] == 0).all()


def test_actions_of_finished_rows_are_ignored(hopper):
    class NanWhenOver(RowPolicy):
        def reset(self):
            self.over = np.zeros((3, 5), bool)

        def observe(self, rewards, dones):
            self.over = dones

        def __call__(self, observations):
            return np.where(self.over[..., None], np.nan, super().__call__(observations))

    np.testing.assert_array_equal(evaluate(NanWhenOver(), "Hopper-v5", 5, [0, 3, 7]).returns, hopper.returns)


@pytest.mark.parametrize("value", [np.nan, -np.inf, 1e300])
def test_a_row_with_an_action_that_is_not_finite_ends_alone(hopper, value, tmp_path, capfd):
    class Diverges(RowPolicy):
        def reset(self):
            self.step = 0

        def __call__(self, observations):
            actions = super().__call__(observations).astype(np.float64)
            if self.step == 5:
                actions[1, 2, 0] = value
            self.step += 1
            return actions

    result = evaluate(Diverges(), "Hopper-v5", 5, [0, 3, 7], num_threads=2)
    assert np.isnan(result.returns[1, 2])
    assert (result.lengths[1, 2], result.terminated[1, 2]) == (5, False)
    others = np.arange(15).reshape(3, 5) != 7
    np.testing.assert_array_equal(result.returns[others], hopper.returns[others])
    assert np.isnan(result.return_mean).tolist() == [False, True, False]
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())


def test_tensors_are_actions_too(hopper):
    policy = RowPolicy()
    result = evaluate(lambda o: torch.tensor(policy(o), requires_grad=True), "Hopper-v5", 5, [0, 3, 7])
    np.testing.assert_array_equal(result.returns, hopper.returns)


def test_wrong_action_shape_is_a_programming_error_and_closes():
    evaluator = Evaluator("Hopper-v5", [0, 1], 3)
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \(2, 3, 3\)"):
        evaluator.run(lambda o: o[..., 0])
    with pytest.raises(RuntimeError, match="closed"):
        evaluator.run(RowPolicy())
    evaluator.close()


class BreaksHopper(HopperEnv):
    closed = 0
    steps = 0

    def step(self, action):
        BreaksHopper.steps += 1
        if BreaksHopper.steps > 7:
            raise ArithmeticError("the leg came off")
        return super().step(action)

    def close(self):
        BreaksHopper.closed += 1
        super().close()


@pytest.mark.parametrize("num_threads", [1, 3])
def test_an_environment_that_breaks_surfaces_and_all_are_closed(num_threads, monkeypatch):
    monkeypatch.setattr(BreaksHopper, "closed", 0)
    monkeypatch.setattr(BreaksHopper, "steps", 0)
    monkeypatch.setitem(
        gymnasium.registry,
        "BreaksHopper-v0",
        gymnasium.envs.registration.EnvSpec("BreaksHopper-v0", entry_point=BreaksHopper, max_episode_steps=100),
    )
    with pytest.raises(ArithmeticError, match="the leg came off"):
        evaluate(RowPolicy(), "BreaksHopper-v0", 4, 0, num_threads=num_threads)
    assert BreaksHopper.closed == 4


def refused(*args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        Evaluator(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_unknown_environments():
    assert refused("hoper-v5", 0, 1) == "unknown environment 'hoper-v5': did you mean Hopper-v5 or Hopper-v4?"
    assert "did you mean Hopper-v5" in refused("Hopper-v9", 0, 1)
    assert "Walker2d-v5" in refused("Zzz", 0, 1)
    assert "did you mean Hopper-v5" in refused("Hopper-v2", 0, 1)
    with pytest.raises(InputError, match="there is no module no_such_module"):
        evaluate(RowPolicy(), "no_such_module:Env-v0", 1, 0)


def test_environments_that_cannot_be_evaluated(monkeypatch):
    assert "continuous actions" in refused("CartPole-v1", 0, 1)

    class Pixels(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 1, (8, 8))
        action_space = gymnasium.spaces.Box(-1, 1, (2,))

    spec = gymnasium.envs.registration.EnvSpec("Pixels-v0", entry_point=Pixels)
    monkeypatch.setitem(gymnasium.registry, "Pixels-v0", spec)
    assert "only vectors work" in refused("Pixels-v0", 0, 1)


@pytest.mark.parametrize(
    "env_kwargs",
    [
        *({"foo": 1}, {"xml_file": "/no/such.xml"}, {"xml_file": __file__}, {"xml_file": 3}, {"max_episode_steps": 0}),
        *({"frame_skip": 0}, {"frame_skip": -1}, {"frame_skip": "x"}, {"render_mode": 3}, {"healthy_z_range": 5}),
        *({"healthy_state_range": ["a", "b"]}, {"ctrl_cost_weight": "much"}, {"reset_noise_scale": 1.7e308}),
    ],
)
def test_settings_that_the_environment_refuses(env_kwargs):
    assert f"Hopper-v5 refuses the settings {env_kwargs}: " in refused("Hopper-v5", 0, 1, env_kwargs)


def test_numbers_that_make_no_sense():
    assert "none below 0" in refused("Hopper-v5", -1, 1)
    assert "at least one" in refused("Hopper-v5", [], 1)
    assert "0 episodes" in refused("Hopper-v5", 0, 0)
    assert "0 threads" in refused("Hopper-v5", 0, 1, num_threads=0)
    assert "after 0 steps" in refused("Hopper-v5", 0, 1, max_episode_steps=0)
    assert "given twice" in refused("Hopper-v5", 0, 1, {"max_episode_steps": 5}, max_episode_steps=5)
    many = "cannot play 1,000,000,000 episodes at once: give at most 100,000 in all"
    assert refused("Hopper-v5", 0, 1_000_000_000) == many
    assert "30,000 episodes for each of 4 seeds" in refused("Hopper-v5", range(4), 30_000)


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        *(({}, 1000), ({"max_episode_steps": np.int64(7)}, 7), ({"max_episode_steps": NO_LIMIT}, None)),
        ({"env_kwargs": {"max_episode_steps": -1}}, None),
    ],
)
def test_the_time_limit_is_known(settings, limit):
    with Evaluator("Hopper-v5", 0, 1, **settings) as evaluator:
        assert evaluator.time_limit == limit


def test_it_is_known_meanwhile_how_many_rows_go_on():
    seen = []

    class Watches(RowPolicy):
        def __call__(self, observations):
            seen.append(evaluator.going_on)
            return super().__call__(observations)

    with Evaluator("Hopper-v5", [0, 3, 7], 2) as evaluator:
        result = evaluator.run(Watches())
        assert evaluator.going_on == 0
    assert seen == [(result.lengths > step).sum() for step in range(result.lengths.max())]


def test_missing_packages(monkeypatch):
    def needs_engine(**_):
        raise gymnasium.error.DependencyNotInstalled("Engine is not installed, run `pip install engine`")

    spec = gymnasium.envs.registration.EnvSpec("Engine-v0", entry_point=needs_engine)
    monkeypatch.setitem(gymnasium.registry, "Engine-v0", spec)
    assert "pip install engine" in refused("Engine-v0", 0, 1)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert "pip install 'gymnasium[mujoco]'" in refused("Hopper-v5", 0, 1)


def test_an_environment_of_a_module(tmp_path, monkeypatch):
    (tmp_path / "my_hoppers.py").write_text(
        "import gymnasium\n"
        "gymnasium.register('MyHopper-v0', 'gymnasium.envs.mujoco.hopper_v5:HopperEnv', max_episode_steps=3)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        result = evaluate(RowPolicy(), "my_hoppers:MyHopper-v0", 2, 0)
    finally:
        del gymnasium.registry["MyHopper-v0"], sys.modules["my_hoppers"]
    assert (result.lengths == 3).all()
    assert not result.terminated.any()


def test_making_environments_is_quiet(tmp_path, capfd):
    handler = mujoco.get_mju_user_warning()  # dm_control, which OGBench imports, has one
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for env_id in ("HalfCheetah-v4", "HalfCheetah-v5"):
            Evaluator(env_id, 0, 3).close()
    # What the model compiler says (MuJoCo 4: a deprecated attribute) is said once per message, not per environment.
    compiler = [str(w.message) for w in caught if str(w.message).startswith("MuJoCo")]
    assert len(compiler) <= 2
    assert not [w for w in caught if "out of date" in str(w.message)]
    assert capfd.readouterr() == ("", "")
    assert not list(tmp_path.iterdir())
    assert mujoco.get_mju_user_warning() is handler


def test_threads(monkeypatch):
    for env_id, rows, cores, asked, expected in (
        ("Hopper-v5", 5, 3, None, 3),
        ("Hopper-v5", 2, 3, None, 2),
        ("Hopper-v5", 9, 64, None, 9),
        ("Reacher-v5", 9, 64, None, 4),
        ("Hopper-v5", 9, 1, 6, 6),
        ("Pendulum-v1", 5, 3, 3, 1),
    ):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)), raising=False)
        with Evaluator(env_id, 0, rows, num_threads=asked) as evaluator:
            assert evaluator.num_threads == expected


def test_torch_threads():
    """Idle ones spin where environments are to be stepped; a policy with memory needs them."""
    seen = []

    class Counts(RowPolicy):
        def __call__(self, observations):
            seen.append(torch.get_num_threads())
            return super().__call__(observations)

    class Remembers(Counts):
        def observe(self, rewards, dones): ...

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        for policy, expected in ((Counts(), 1), (Remembers(), 3)):
            seen.clear()
            with Evaluator("Hopper-v5", 0, 2, {"max_episode_steps": 5}) as evaluator:
                evaluator.run(policy)
            assert set(seen) == {expected}
            assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_check_spaces():
    with Evaluator("Hopper-v5", 0, 1) as evaluator:
        low, high = -np.ones(3), np.ones(3)
        check_spaces(evaluator, 11, low, high)
        check_spaces(gymnasium.make("Hopper-v5"), 11, low, high)
        for args, message in (
            ((17, low, high), r"observations have shape \(17,\), those of Hopper-v5 \(11,\)"),
            ((11, -np.ones(6), np.ones(6)), r"actions have shape \(6,\), those of Hopper-v5 \(3,\)"),
            ((11, low, 2 * high), r"lie in \[-1, 2\], those of Hopper-v5 in \[-1, 1\]"),
            ((11, low * [1, 2, 1], high), r"lie in \[-1, 1\] x \[-2, 1\] x \[-1, 1\], those of"),
        ):
            with pytest.raises(InputError, match=message):
                check_spaces(evaluator, *args)
        check_spaces(evaluator, 11, low / 2, high, typed=True)
        with pytest.raises(InputError, match=r"lie in \[-0.5, 1\] x"):
            check_spaces(evaluator, 11, low * [0.5, 1, 1], high)
        with pytest.raises(InputError, match=r"--action-bounds are \[-1, 2\], beyond those of Hopper-v5, \[-1, 1\]"):
            check_spaces(evaluator, 11, low, 2 * high, typed=True)


def test_public_name():
    assert rlrat.evaluate is evaluate
