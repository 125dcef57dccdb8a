import subprocess
import sys
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.mujoco_env import MujocoEnv

from rlrat.evaluation import stepping
from rlrat.evaluation.evaluator import Evaluator
from rlrat.evaluation.gymnasium_rows import GymnasiumRows
from rlrat.evaluation.stepping import NativeRows, native_rows

IDS = [f"{name}-v{version}" for name in ("Hopper", "Walker2d", "HalfCheetah", "Ant") for version in (4, 5)]
SEEDS = [3, 2**31, 12345]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """MuJoCo logs warnings to the working directory."""
    monkeypatch.chdir(tmp_path)


def make(env_id, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # v4 is out of date
        return gymnasium.make(env_id, disable_env_checker=True, **kwargs)


@pytest.fixture
def without_batch(monkeypatch):
    monkeypatch.setitem(sys.modules, "mujoco.batch", None)


def both(env, seeds, num_threads) -> list[NativeRows]:
    """Rows on MuJoCo 4's threads and on Python's."""
    with pytest.MonkeyPatch.context() as patch:
        rows = [native_rows(env, seeds, num_threads)]
        patch.setitem(sys.modules, "mujoco.batch", None)
        rows.append(native_rows(env, seeds, num_threads))
    assert isinstance(rows[1]._physics, stepping._ThreadedPhysics)
    return rows


def assert_equal(ours, theirs):
    for own, its in zip(ours, theirs, strict=True):
        assert own.dtype == its.dtype
        np.testing.assert_array_equal(own, its)


@pytest.mark.parametrize(
    ("env_id", "kwargs", "steps"),
    [
        *((env_id, {}, 160) for env_id in IDS),
        ("Hopper-v4", {"terminate_when_unhealthy": False}, 140),
        ("Hopper-v5", {"terminate_when_unhealthy": False, "frame_skip": 2, "max_episode_steps": 70}, 140),
        ("Hopper-v5", {"healthy_state_range": (-1.5, 1.5), "healthy_reward": 3, "ctrl_cost_weight": 1}, 140),
        ("Hopper-v5", {"ctrl_cost_weight": np.float64(0.3), "reset_noise_scale": 0.2}, 140),
        ("Walker2d-v5", {"xml_file": "walker2d.xml", "exclude_current_positions_from_observation": False}, 140),
        ("Walker2d-v4", {"healthy_z_range": [0.5, 1.2], "forward_reward_weight": 0.7}, 140),
        ("HalfCheetah-v5", {"exclude_current_positions_from_observation": False, "max_episode_steps": -1}, 140),
        ("Ant-v5", {"include_cfrc_ext_in_observation": False, "main_body": 2, "contact_cost_weight": 0.1}, 140),
        ("Ant-v5", {"contact_force_range": (-0.2, 0.3), "terminate_when_unhealthy": False}, 140),
        ("Ant-v4", {"use_contact_forces": True, "exclude_current_positions_from_observation": False}, 140),
    ],
)
def test_rows_equal_gymnasium_bit_for_bit(env_id, kwargs, steps):
    env = make(env_id, **kwargs)
    natives = both(env, SEEDS, 2)
    reference = GymnasiumRows([make(env_id, **kwargs) for _ in SEEDS], SEEDS, 1)
    random = np.random.default_rng(0)
    every = np.arange(len(SEEDS))
    ends = np.zeros(2)
    for step in range(steps):
        if step in (0, steps - 50):
            observations = reference.reset()
            for native in natives:
                np.testing.assert_array_equal(native.reset(), observations)
        # An episode that is over goes on: robots fall, and lie on the ground.
        rows = every if step % 3 else np.sort(random.permutation(every)[: random.integers(1, 4)])
        actions = random.uniform(-1.5, 1.5, (len(rows), *env.action_space.shape)).astype(np.float32)
        expected = reference.step(rows, actions)
        for native in natives:
            assert_equal(native.step(rows, actions), expected)
        ends += [expected[2].sum(), expected[3].sum()]
    falls = "HalfCheetah" not in env_id and kwargs.get("terminate_when_unhealthy", True)
    assert ends[0] > 0 or not falls
    assert (ends[1] > 0) == (kwargs.get("max_episode_steps") == 70)
    for rows in (*natives, reference):
        rows.close()


@pytest.mark.parametrize("env_id", ["Walker2d-v5", "Ant-v5"])
def test_a_row_does_not_depend_on_others_nor_on_threads(env_id):
    env = make(env_id)
    random = np.random.default_rng(0)
    actions = random.uniform(-1, 1, (40, 5, *env.action_space.shape)).astype(np.float32)
    seeds = list(range(5))
    for alone, several in zip(both(env, seeds[3:4], 1), both(env, seeds, 3), strict=True):
        np.testing.assert_array_equal(alone.reset()[0], several.reset()[3])
        for step, wanted in enumerate(actions):
            rows = np.array([0, 3, 4]) if step > 20 else np.arange(5)
            expected = alone.step(np.arange(1), wanted[3:4])
            found = several.step(rows, wanted[rows])
            assert_equal([array[rows == 3] for array in found], expected)
        alone.close()
        several.close()


def test_results_are_copies():
    rows = native_rows(make("Hopper-v5"), [0, 1], 1)
    first = rows.reset()
    kept = first.copy()
    second = rows.step(np.arange(2), np.ones((2, 3), np.float32))
    kept_second = [array.copy() for array in second]
    rows.step(np.arange(2), np.ones((2, 3), np.float32))
    np.testing.assert_array_equal(first, kept)
    assert_equal(second, kept_second)
    rows.close()


def play(env_id, kwargs=None, native=True, num_threads=2):
    """An evaluation of three seeds by a policy whose third row of the second seed loses its head."""
    step = 0

    def policy(observations):
        nonlocal step
        step += 1
        size = evaluator.action_space.shape[0]
        actions = 0.3 * np.sin(observations[..., :size] + np.arange(size))
        if step == 9:
            actions[1, 2, 0] = np.nan
        return actions

    with pytest.MonkeyPatch.context() as patch:
        if not native:
            patch.setattr("rlrat.evaluation.evaluator.native_rows", lambda *_: None)
        evaluator = Evaluator(env_id, [0, 1, 7], 4, kwargs, num_threads)
    with evaluator:
        assert len(evaluator.envs) == (1 if native else 12)
        return evaluator.run(policy)


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Walker2d-v4", "HalfCheetah-v5", "Ant-v5"])
def test_evaluations_equal_those_through_gymnasium(env_id):
    kwargs = {"max_episode_steps": 60}
    native, expected = play(env_id, kwargs), play(env_id, kwargs, native=False)
    for name in ("returns", "lengths", "terminated", "reset_seeds"):
        np.testing.assert_array_equal(getattr(native, name), getattr(expected, name))
    assert np.isnan(native.returns).sum() == 1
    assert native.lengths[1, 2] == 8
    assert 8 < native.lengths.max() <= 60
    assert native.terminated.any() == (env_id in ("Hopper-v5", "Walker2d-v4"))


def test_evaluations_on_python_threads(without_batch):
    native, expected = play("Hopper-v5", num_threads=3), play("Hopper-v5", native=False)
    np.testing.assert_array_equal(native.returns, expected.returns)


class MyHopper(HopperEnv):
    pass


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [("Pendulum-v1", {}), ("Swimmer-v5", {}), ("Hopper-v5", {"render_mode": "rgb_array"}), ("MyHopper-v0", {})],
)
def test_everything_else_is_left_to_gymnasium(env_id, kwargs, monkeypatch, recwarn):
    spec = gymnasium.envs.registration.EnvSpec("MyHopper-v0", entry_point=MyHopper, max_episode_steps=100)
    monkeypatch.setitem(gymnasium.registry, "MyHopper-v0", spec)
    with Evaluator(env_id, 0, 2, kwargs) as evaluator:
        assert len(evaluator.envs) == 2
    assert not recwarn.list


def test_other_wrappers_are_left_to_gymnasium(recwarn):
    env = gymnasium.wrappers.TransformReward(make("Hopper-v5"), lambda reward: 2 * reward)
    assert native_rows(env, [0], 1) is None
    assert not recwarn.list


def changed_reward(self, *args, _original=HopperEnv._get_rew):
    reward, info = _original(self, *args)
    return reward + 1e-9, info


def other_physics(self, ctrl, n_frames):
    self.data.qpos[1] -= 0.1


@pytest.mark.parametrize(
    ("owner", "name", "value", "reason"),
    [
        (HopperEnv, "_get_rew", changed_reward, "its reward differs in step 1"),
        (MujocoEnv, "do_simulation", other_physics, "its observation differs in step 1"),
        (HopperEnv, "is_healthy", property(lambda _: False), "its reward differs in step 1"),
        (HopperEnv, "reset_model", lambda self: self._get_obs() + 1, "it starts elsewhere"),
    ],
)
def test_a_gymnasium_that_differs_steps_itself_after_one_warning(owner, name, value, reason, monkeypatch):
    monkeypatch.setattr(owner, name, value)
    expected = f"Hopper-v5 is not stepped natively but by Gymnasium, at a fraction of the speed: {reason}"
    with pytest.warns(UserWarning, match=expected) as caught:
        evaluator = Evaluator("Hopper-v5", [0, 1], 3)
    assert [warning.filename for warning in caught] == [__file__]
    with evaluator:
        assert len(evaluator.envs) == 6
        assert evaluator.run(lambda _: np.ones((2, 3, 3))).lengths.min() > 0


def test_settings_under_other_names(monkeypatch):
    """Gymnasium keeps them in private attributes."""
    init = HopperEnv.__init__

    def renamed(self, **kwargs):
        init(self, **kwargs)
        self.zs = self.__dict__.pop("_healthy_z_range")

    monkeypatch.setattr(HopperEnv, "__init__", renamed)
    monkeypatch.setattr(HopperEnv, "is_healthy", True)
    with pytest.warns(UserWarning, match="_healthy_z_range"), Evaluator("Hopper-v5", 0, 2) as evaluator:
        assert len(evaluator.envs) == 2


def test_a_step_that_never_returns_does_not_keep_the_process_alive():
    script = """if True:
        import threading, time
        import numpy as np
        from rlrat.evaluation.gymnasium_rows import Threads
        stuck = threading.Event()

        def step(row):
            if row:
                stuck.set()
                time.sleep(3600)

        threading.Thread(target=Threads(2), args=(step, np.arange(2)), daemon=True).start()
        stuck.wait()
    """
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
