import importlib.util
import sys

import numpy as np
import pytest

import rlrat
from rlrat.datasets.d4rl_names import LEVELS, NAMES
from rlrat.errors import InputError
from rlrat.evaluation.scores import (
    d4rl_tables,
    find_reference,
    mean_height,
    normalized_score,
    recorded_reference,
    references,
)


@pytest.mark.parametrize("family", ["v5", "d4rl"])
def test_random_is_0_and_expert_is_100(family):
    for key, reference in references(family).items():
        assert reference.env_id == key
        assert reference.random < reference.expert
        returns = np.array([[reference.random, reference.expert], [(reference.random + reference.expert) / 2, np.nan]])
        np.testing.assert_allclose(normalized_score(key, returns, family), [[0, 100], [50, np.nan]], atol=1e-9)


def test_known_value():
    # d4rl's own example of the rule: 100 (1000 + 20.272305) / (3234.3 + 20.272305).
    assert normalized_score("hopper-medium-v2", 1000, "d4rl") == pytest.approx(31.348890, abs=1e-6)
    assert rlrat.normalized_score is normalized_score


def test_every_level_and_environment_of_d4rl():
    for env in ("HalfCheetah", "Hopper", "Walker2d", "Ant"):
        expected = references("d4rl")[f"{env}-v4"]
        for level in LEVELS:
            found = find_reference(f"{env.lower()}-{level}-v2", "d4rl")
            assert (found.random, found.expert) == (expected.random, expected.expert)
            assert found.name == "d4rl-v2"
    assert {name for name in references("d4rl") if name.islower()} == set(NAMES)


def test_references_say_what_they_were_measured_with():
    assert find_reference("Hopper-v5").measured_with == "gymnasium 1.4.0, mujoco 4.0.0"
    assert find_reference("pen-human-v1", "d4rl").measured_with == "d4rl 1.1, gym and mujoco_py"


def test_families_are_never_mixed():
    assert set(references("v5")) == {"HalfCheetah-v5", "Hopper-v5", "Walker2d-v5"}
    assert find_reference("Hopper-v5", "d4rl") is None
    assert find_reference("Hopper-v4", "v5") is None
    assert find_reference("hopper-medium-v2") is None


def test_a_changed_environment_has_no_reference():
    assert find_reference("Walker2d-v5", env_kwargs={"xml_file": "walker2d.xml"}) is None
    assert find_reference("hopper-medium-v2", "d4rl", {"reset_noise_scale": 0.1}) is None
    assert find_reference("Walker2d-v5", env_kwargs={}) is not None


def test_success_rates_are_scores_of_their_own():
    np.testing.assert_array_equal(
        normalized_score("AntMaze_UMaze-v5", [[0, 0.5], [1, np.nan]], "success"), [[0, 50], [100, np.nan]]
    )
    found = find_reference("cube-single-singletask-v0", "success", {"any": "settings"})
    assert (found.name, found.measure, found.random, found.expert) == ("success", "success", 0, 1)
    assert {reference.measure for family in ("v5", "d4rl") for reference in references(family).values()} == {"return"}
    assert references("success") == {}
    assert find_reference("Hopper-v5", "success") is None
    assert find_reference("AntMaze_UMaze-v5", "v5") is None
    with pytest.raises(InputError, match=r"^'Hopper-v5' is not scored by success rates: AntMaze .* single-task"):
        normalized_score("Hopper-v5", 0.5, "success")


def test_unknown_names():
    assert find_reference("Swimmer-v5") is None
    with pytest.raises(InputError) as error:
        normalized_score("hopper-v5", 1.0)
    assert str(error.value) == (
        "no v5 reference for 'hopper-v5'; the nearest is Hopper-v5, known are HalfCheetah-v5, Hopper-v5, Walker2d-v5"
    )
    with pytest.raises(InputError, match=r"unknown reference 'd4rl-v2': choose one of v5, d4rl, success"):
        normalized_score("Hopper-v5", 1.0, reference="d4rl-v2")


def test_references_that_a_dataset_records():
    found = recorded_reference("Pendulum-v1", {"env_spec": {}, "ref_min_score": -1200.0, "ref_max_score": -200.0})
    assert (found.name, found.env_id, found.source) == ("recorded", "Pendulum-v1", "recorded with the dataset")
    assert found.normalize(-700).item() == 50
    for wrong in ({}, {"ref_min_score": 1, "ref_max_score": 1}, {"ref_min_score": "a", "ref_max_score": 1}):
        assert recorded_reference("Pendulum-v1", wrong) is None
    assert references("recorded") == {}
    with pytest.raises(InputError, match="recorded references belong to a dataset, not to 'Hopper-v5': give rec"):
        normalized_score("Hopper-v5", 1.0, "recorded")


def test_references_of_d4rls_other_families():
    assert normalized_score("door-cloned-v0", [-56.512833, 2880.5693087298737], "d4rl").tolist() == [0, 100]
    assert normalized_score("kitchen-mixed-v0", 1.0, "d4rl") == 25
    assert normalized_score("maze2d-umaze-v1", (23.85 + 161.86) / 2, "d4rl") == pytest.approx(50)
    assert "pointmaze/__init__.py" in find_reference("maze2d-umaze-v0", "d4rl").source
    assert find_reference("antmaze-umaze-v2", "d4rl").name == "d4rl-v2"
    assert find_reference("hopper-medium-v0", "d4rl").name == "d4rl-v0"


def test_references_cannot_be_changed_by_a_caller():
    references("v5").clear()
    assert references("v5")
    with pytest.raises(AttributeError):
        references("v5")["Hopper-v5"].random = 0.0


INFOS = """
DATASET_URLS = {'a-random-v0': 'http://a'}
REF_MIN_SCORE = {'a-random-v0': -1.5}
REF_MAX_SCORE = {'a-random-v0': 2.5}
for version in ('v1', 'v2'):
    for table in (DATASET_URLS, REF_MIN_SCORE, REF_MAX_SCORE):
        table['a-random-' + version] = table['a-random-v0']
"""


def test_tables_of_d4rl_are_read_without_importing_it(tmp_path, monkeypatch):
    package = tmp_path / "d4rl"
    package.mkdir()
    (package / "__init__.py").write_text("raise OSError('You must install MuJoCo 2.1.0')")
    (package / "infos.py").write_text(INFOS)
    monkeypatch.syspath_prepend(tmp_path)
    tables = d4rl_tables()
    assert "d4rl" not in sys.modules
    assert tables.urls["a-random-v2"] == "http://a"
    assert (tables.random["a-random-v2"], tables.expert["a-random-v2"]) == (-1.5, 2.5)
    (package / "infos.py").write_text("DATASET_URLS = {}")
    with pytest.raises(InputError, match="REF_MIN_SCORE"):
        d4rl_tables()
    (package / "infos.py").unlink()
    with pytest.raises(InputError, match=r"infos\.py has no tables"):
        d4rl_tables()


def test_without_d4rl_there_are_no_tables(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert d4rl_tables() is None


@pytest.mark.skipif(importlib.util.find_spec("d4rl") is None, reason="needs pip's d4rl 1.1 (its files, not its import)")
def test_ours_equal_those_of_d4rl_entry_by_entry():
    tables = d4rl_tables()
    datasets = {name for name in references("d4rl") if name.islower()}
    without = {name for name in NAMES if name.startswith(("antmaze", "maze2d")) or name == "ant-random-expert-v0"}
    assert datasets - set(tables.random) <= without  # only the registrations have them
    for name in datasets & set(tables.random):
        reference = find_reference(name, "d4rl")
        assert (reference.random, reference.expert) == (tables.random[name], tables.expert[name])


def test_a_mean_height_is_the_area_by_trapezoids_over_its_length():
    updates, values = np.array([0, 10, 30]), np.array([0.0, 10.0, 20.0])
    assert mean_height(updates, values, 0, 30) == pytest.approx((50 + 300) / 30)
    assert mean_height(updates, values, 5, 20) == pytest.approx((5 * 7.5 + 10 * 12.5) / 15)
    assert mean_height(updates, values, 10, 10) == 10
    assert mean_height(updates[:1], values[:1] + 3, 0, 0) == 3
