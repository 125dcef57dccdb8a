"""scripts/convert.py."""

import json
import warnings

import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from minari.data_collector import EpisodeBuffer

from rlrat.errors import InputError
from scripts.convert import FIELDS, convert
from tests.short_runs import ROOT

ID = "own/set-v0"
OBSERVATIONS, ACTIONS = Box(-np.inf, np.inf, (3,), np.float64), Box(-1, 1, (2,), np.float64)


@pytest.fixture
def make_source(tmp_path, monkeypatch):
    """Write two episodes in float64, with infos, where Minari keeps its datasets: the folder of all datasets."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))

    def make(action_space=ACTIONS):
        random = np.random.default_rng(0)
        buffers = [
            EpisodeBuffer(
                id=index,
                seed=index,
                observations=random.normal(size=(steps + 1, 3)),
                actions=random.integers(2, size=steps) if action_space != ACTIONS else random.uniform(size=(steps, 2)),
                rewards=random.normal(size=steps).tolist(),
                terminations=[False] * steps,
                truncations=[False] * (steps - 1) + [True],
                infos={"x": np.zeros(steps + 1)},
            )
            for index, steps in enumerate((5, 3))
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the descriptions that a test does without
            minari.create_dataset_from_buffers(ID, buffers, observation_space=OBSERVATIONS, action_space=action_space)
        return tmp_path / "minari"

    return make


def edit_metadata(folder, **changes):
    path = folder / ID / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_values_become_float32_and_infos_go(make_source, tmp_path, monkeypatch):
    make_source()
    source = minari.load_dataset(ID)
    convert(ID, tmp_path / "out")
    assert (tmp_path / "out" / "own" / "namespace_metadata.json").read_text() == "{}\n"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "out"))
    result = minari.load_dataset(ID)
    assert result.observation_space == Box(-np.inf, np.inf, (3,), np.float32)
    assert result.action_space == Box(-1, 1, (2,), np.float32)
    assert result.storage.metadata["description"] == f"{ID} (float32 version, without infos)"
    for ours, theirs in zip(result.iterate_episodes(), source.iterate_episodes(), strict=True):
        for name, dtype in FIELDS.items():
            assert getattr(ours, name).dtype == dtype
            np.testing.assert_array_equal(getattr(ours, name), np.asarray(getattr(theirs, name)).astype(dtype))
    with h5py.File(tmp_path / "out" / ID / "data" / "main_data.hdf5") as file:
        assert set(file["episode_1"]) == set(FIELDS)
        assert file["episode_1"].attrs["seed"] == 1


def test_equal_sources_give_equal_bytes(make_source, tmp_path):
    make_source()
    for name in ("one", "two"):
        convert(ID, tmp_path / name)
    one, two = (tmp_path / name / ID / "data" for name in ("one", "two"))
    assert {path.name for path in one.iterdir()} == {"main_data.hdf5", "metadata.json"}
    assert all(path.read_bytes() == (two / path.name).read_bytes() for path in one.iterdir())
    with pytest.raises(InputError, match=f"{tmp_path / 'one' / ID} exists already: name another folder"):
        convert(ID, tmp_path / "one")


def test_a_failure_leaves_nothing(make_source, tmp_path, monkeypatch):
    make_source()
    monkeypatch.setattr("scripts.convert._write_episodes", lambda path, source: path.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(ID, tmp_path / "out")
    assert not (tmp_path / "out" / ID).exists()


def test_only_boxes(make_source, tmp_path):
    make_source(action_space=Discrete(2))
    with pytest.raises(InputError, match=r"own/set-v0 has the action space Discrete\(2\): only Box spaces"):
        convert(ID, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"action_space": None}, "own/set-v0 records no action_space, which is needed to convert it"),
        ({"action_space": {}, "observation_space": 1}, "own/set-v0 records no action_space and no observation_space, "),
        ({"action_space": "x"}, "cannot read own/set-v0: Expecting value"),
        ({"action_space": "[]"}, "cannot read own/set-v0: AssertionError"),
        ({"action_space": "{}"}, "cannot read own/set-v0: "),
        ({"action_space": '{"type": "Box"}'}, "cannot read own/set-v0: "),
        ({"action_space": '{"type": "Box", "dtype": 3, "shape": 3, "low": 3, "high": 3}'}, "cannot read own/set-v0: "),
    ],
)
def test_metadata_without_a_space_is_one_line(make_source, tmp_path, changes, message):
    edit_metadata(make_source(), **changes)
    with pytest.raises(InputError, match=message):
        convert(ID, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dataset_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    with pytest.raises(InputError, match=f"cannot read {ID}: "):
        convert(ID, tmp_path / "out")


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (("own/set-v0", "out", "more"), "Unrecognized options: more"),
        ((), f"Missing from {ROOT / 'scripts' / 'convert.py'}: SOURCE_ID, OUT_FOLDER"),
    ],
)
def test_a_mistake_in_the_command_line_is_one_line(run_script, argv, line, capsys):
    assert run_script("convert.py", *argv) == 2
    assert capsys.readouterr().err == f"error: {line}\n"
