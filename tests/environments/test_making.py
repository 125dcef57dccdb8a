"""Environments that cannot be made say in one line why, as seen with MuJoCo 3.5, 3.11, 3.12 and 4.0."""

import subprocess
import sys
import types
import warnings

import gymnasium
import numpy as np
import pytest

from rlrat.environments import making
from rlrat.environments.making import NO_LIMIT, Wrapper, import_mujoco, make, mujoco_damage, wrapper_class
from rlrat.environments.registry import find_spec
from rlrat.errors import InputError
from tests.kitchen import needs_older_mujoco


def refused(*args) -> str:
    with pytest.raises(InputError) as caught:
        make(*args).close()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrappers_come_around_the_time_limit():
    wrappers = [Wrapper("RescaleAction", {"min_action": -2.0, "max_action": 2.0}), Wrapper("ClipAction")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = make("Hopper-v5", {"frame_skip": 2}, 7, wrappers)
    found = []
    while isinstance(env, gymnasium.Wrapper):
        found.append(type(env).__name__)
        env = env.env
    assert found == ["ClipAction", "RescaleAction", "TimeLimit", "OrderEnforcing"]
    assert env.frame_skip == 2
    env.close()


def test_an_environment_without_a_time_limit():
    with make("Hopper-v5", {}, NO_LIMIT) as env:
        assert env.spec.max_episode_steps is None
    with make("Hopper-v5", {}, np.int64(5)) as env:  # Gymnasium accepts no NumPy integer
        assert env.spec.max_episode_steps == 5


def test_only_gymnasiums_wrappers_are_found():
    assert wrapper_class("ClipReward") is gymnasium.wrappers.ClipReward
    for name in ("Wrapper", "vector", "gymnasium", "Own", "", "utils", "__name__"):
        assert wrapper_class(name) is None


def test_wrappers_that_need_a_package_are_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    monkeypatch.delitem(sys.modules, "gymnasium.wrappers.jax_to_numpy", raising=False)
    assert wrapper_class("JaxToNumpy") is None

    def needs(*_, **__):
        raise gymnasium.error.DependencyNotInstalled("opencv-python is not installed")

    monkeypatch.setattr(gymnasium.wrappers.ResizeObservation, "__init__", needs)
    message = "Hopper-v5 cannot be put into the wrapper ResizeObservation here: opencv-python is not installed"
    assert refused("Hopper-v5", {}, None, [Wrapper("ResizeObservation", {"shape": [2, 2]})]) == message


def test_wrappers_that_refuse_are_one_line():
    message = "Hopper-v5 refuses the wrappers ClipReward(max_reward=1, more=2): "
    assert refused("Hopper-v5", {}, None, [Wrapper("ClipReward", {"max_reward": 1, "more": 2})]).startswith(message)
    message = "Hopper-v5 refuses the wrappers FilterObservation(filter_keys=['x']): "
    assert refused("Hopper-v5", {}, None, [Wrapper("FilterObservation", {"filter_keys": ["x"]})]).startswith(message)
    message = f"Gymnasium {gymnasium.__version__} has no wrapper Own"
    assert refused("Hopper-v5", {}, None, [Wrapper("Own")]) == message


def test_what_an_older_version_needs_is_said():
    because = "cannot be made here: it needs mujoco_py, which no longer installs"
    assert refused("Hopper-v2", {}) == f"Hopper-v2 {because}; did you mean Hopper-v5 or Hopper-v4?"
    pytest.importorskip("gymnasium_robotics")
    assert refused("FetchReach-v1", {}) == f"FetchReach-v1 {because}; did you mean FetchReach-v4?"
    assert refused("FetchReach-v2", {}) == "unknown environment 'FetchReach-v2': did you mean FetchReach-v4?"


class Robot(gymnasium.Env):
    """Fails as gymnasium-robotics 1.4.2 does with MuJoCo 3.12 and newer."""

    def __init__(self):
        raise AssertionError


class OwnCheck(gymnasium.Env):
    def __init__(self):
        raise AssertionError("a check of its own")


@pytest.fixture
def robots(monkeypatch):
    """`robots(version of MuJoCo)`: Robot-v0 and OwnCheck-v0, as gymnasium-robotics has them."""
    monkeypatch.setitem(
        sys.modules, "gymnasium_robotics.stand_in", types.SimpleNamespace(Robot=Robot, OwnCheck=OwnCheck)
    )
    for kind in (Robot, OwnCheck):
        name = f"{kind.__name__}-v0"
        spec = gymnasium.envs.registration.EnvSpec(name, entry_point=f"gymnasium_robotics.stand_in:{kind.__name__}")
        monkeypatch.setitem(gymnasium.registry, name, spec)

    def set_version(version):
        monkeypatch.setattr(making.importlib.metadata, "version", lambda name: version)

    return set_version


def test_a_mujoco_that_is_too_new_for_the_kitchen_is_said(robots):
    for version in ("4.0.0", "3.12.0", "5.1"):
        robots(version)
        said = refused("Robot-v0", {})
        assert said.startswith("Robot-v0 cannot be made here: ")
        assert f"MuJoCo {version}" in said
        assert "MuJoCo below 3.12 works: pip install 'rlrat[kitchen]'" in said
    robots("4.0.0")
    with pytest.raises(AssertionError, match="a check of its own"):
        make("OwnCheck-v0", {})
    robots("3.11.0")
    with pytest.raises(AssertionError):
        make("Robot-v0", {})


ROBOTS = [
    *("FetchReach-v4", pytest.param("FrankaKitchen-v1", marks=pytest.mark.slow)),
    pytest.param("HandReach-v3", marks=pytest.mark.slow),
]


@pytest.mark.kitchen
@pytest.mark.parametrize("env_id", ROBOTS)
def test_the_kitchen_is_made(env_id):
    pytest.importorskip("gymnasium_robotics")
    with make(env_id, {}) as env:
        env.reset(seed=0)


@pytest.mark.skipif(not needs_older_mujoco(), reason="needs MuJoCo from 3.12 on")
@pytest.mark.parametrize("env_id", ROBOTS)
def test_the_right_mujoco_is_named(env_id):
    pytest.importorskip("gymnasium_robotics")
    assert "MuJoCo below 3.12 works" in refused(env_id, {})


def broken_import(**settings):
    """What Gymnasium raises where MuJoCo 4.0.0 was installed over 3.5.0."""
    try:
        try:
            try:
                raise ModuleNotFoundError("No module named 'mujoco._specs'", name="mujoco._specs")
            except ModuleNotFoundError as error:
                raise ImportError(
                    "The 'mujoco' package is installed, but its core bindings ('mujoco-core') are missing or corrupted"
                ) from error
        except ImportError as error:
            text = 'MuJoCo is not installed, run `pip install "gymnasium[mujoco]"`'
            raise gymnasium.error.DependencyNotInstalled(text) from error
    finally:
        pass


REPAIR = "pip install --force-reinstall --no-deps mujoco==4.0.0 mujoco-core==4.0.0"


def test_a_mujoco_of_which_parts_are_missing_is_repaired(monkeypatch):
    monkeypatch.setattr(making.importlib.metadata, "version", lambda name: "4.0.0")
    spec = gymnasium.envs.registration.EnvSpec("Broken-v0", entry_point=broken_import)
    monkeypatch.setitem(gymnasium.registry, "Broken-v0", spec)
    said = refused("Broken-v0", {})
    assert said.startswith("Broken-v0 cannot be made here: parts of the installed MuJoCo 4.0.0 are missing")
    assert said.endswith(REPAIR)
    other = ImportError("Version mismatch between 'mujoco' (4.0.0) and 'mujoco-core' (4.0.1). Please upgrade")
    assert mujoco_damage(other).endswith(REPAIR)
    assert mujoco_damage(ImportError("no OpenGL")) is None
    monkeypatch.setattr(making.importlib.metadata, "version", lambda name: "3.5.0")
    missing = ModuleNotFoundError("No module named 'mujoco._structs'", name="mujoco._structs")
    assert mujoco_damage(missing).endswith("--no-deps mujoco==3.5.0")


def test_mujoco_that_cannot_be_imported_is_one_line(tmp_path, monkeypatch):
    assert import_mujoco().__name__ == "mujoco"
    broken = tmp_path / "mujoco"
    broken.mkdir()
    monkeypatch.setattr(making.importlib.metadata, "version", lambda name: "4.0.0")
    monkeypatch.syspath_prepend(tmp_path)
    for code, message in (
        ("import mujoco._specs_of_before", REPAIR),
        ("raise RuntimeError('invalid value for MUJOCO_GL')", "MUJOCO_GL=.*: invalid value for MUJOCO_GL; unset it"),
    ):
        (broken / "__init__.py").write_text(code)
        with monkeypatch.context() as patch:
            for name in [name for name in sys.modules if name.partition(".")[0] == "mujoco"]:
                patch.delitem(sys.modules, name)
            with pytest.raises(InputError, match=message):
                import_mujoco()
        sys.path_importer_cache.clear()
    monkeypatch.setitem(sys.modules, "mujoco", None)
    assert import_mujoco() is None


def test_what_packages_print_when_they_are_imported_is_not_shown():
    pytest.importorskip("gymnasium_robotics")
    code = "from rlrat.environments.registry import find_spec; print(find_spec('PointMaze_UMaze-v3').id)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("PointMaze_UMaze-v3\n", "")
    assert find_spec("PointMaze_UMaze-v3").max_episode_steps == 300
