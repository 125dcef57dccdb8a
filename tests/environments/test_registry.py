"""What the user names is imported; ids are looked up, and an unknown one says what would be right."""

import gymnasium
import numpy as np
import pytest

import rlrat
from rlrat.environments import registry as environments
from rlrat.environments.recorded import recorded_id
from rlrat.environments.registry import import_modules, typed
from rlrat.errors import InputError


def test_python_takes_modules_too(toys):
    result = rlrat.evaluate(lambda o: np.zeros((1, 2, 3)), "Toy-v0", 2, 0, {"reward": 2.0}, env_modules=["toy_module"])
    assert result.returns.tolist() == [[6.0, 6.0]]
    assert rlrat.evaluate(lambda o: np.zeros((1, 1, 3)), "Toy-v0", 1, 0, max_episode_steps=5).returns == 5.0
    assert toys() == {"imported", "called"}


def test_modules_that_cannot_be_imported_are_one_line(toys, tmp_path):
    (tmp_path / "here" / "needs_more.py").write_text("import no_such_thing_at_all")
    (tmp_path / "here" / "breaks.py").write_text("raise RuntimeError('on\\nimport')")
    (tmp_path / "here" / "exits.py").write_text("raise SystemExit(3)")
    for names, message in (
        ("no_such_module", "there is no module no_such_module: it must be installed, or lie in the working directory"),
        ("needs_more", "the module needs_more needs no_such_thing_at_all, which is not installed"),
        ("breaks", "the module breaks cannot be imported: RuntimeError: on import"),
        ("exits", "the module exits cannot be imported: SystemExit: 3"),
        ("my_envs.py:x", "--env-modules has 'my_envs.py:x', but a module's name is needed"),
        ("../evil", "--env-modules has '../evil', but a module's name is needed"),
        ("", "--env-modules has '', but"),
    ):
        with pytest.raises(InputError) as caught:
            import_modules([names])
        assert str(caught.value).startswith(message)
    with pytest.raises(InputError, match="--env-id has 'a b', but a module's name is needed"):
        typed("a b:Toy-v0")
    assert toys() == set()


def test_ids_without_a_version_hinder_no_others(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("MyHopper", entry_point=gymnasium.spec("Hopper-v5").entry_point)
    monkeypatch.setitem(gymnasium.registry, "MyHopper", spec)
    with pytest.raises(InputError, match="did you mean Hopper-v5"):
        typed("hopper-v5")


def test_similar_names_of_d4rl_and_of_known_packages_are_told(monkeypatch):
    pytest.importorskip("gymnasium_robotics")
    monkeypatch.setitem(environments.KNOWN_PACKAGES, "ogbench", "no-such-package-anywhere")  # whose mazes are others
    for name, meant in {
        "antmaze-umaze-v3": "antmaze-umaze-v[012]",
        "antmaze-large-play-v3": "antmaze-large-play-v[012]",
        "pen-humans-v1": "pen-human-v1",
        "AntMaze_Umaze-v5": "AntMaze_UMaze-v5",
    }.items():
        with pytest.raises(InputError, match=f"unknown environment '{name}': did you mean .*{meant}"):
            typed(name)


def test_known_packages_are_imported_where_they_are_installed(toys, monkeypatch):
    monkeypatch.setattr(environments, "KNOWN_PACKAGES", {"toy_module": "no-such-package-anywhere"})
    with pytest.raises(InputError, match="unknown environment 'Toy-v0'"):
        typed("Toy-v0")
    monkeypatch.setattr(environments, "_is_installed", lambda package: True)
    with pytest.raises(InputError, match="anywhere cannot be imported: ModuleNotFoundError"):  # not where we are
        typed("Toy-v0")
    monkeypatch.syspath_prepend(".")
    assert recorded_id("Toy-v0", "it") == "Toy-v0"
    assert toys() == {"imported"}
