"""scripts/convert.py."""

import json
from pathlib import Path

import h5py
import minari
import numpy as np
import pytest
from gymnasium.spaces import Discrete

from rlrat import load_dataset
from rlrat.datasets import Dataset
from rlrat.errors import InputError
from scripts.convert import convert
from tests.short_runs import ROOT

ID = "own/set-v0"


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def test_converting_keeps_the_content_and_is_reproducible(make_minari, make_episode, tmp_path, monkeypatch):
    episodes = [make_episode(5), make_episode(3, seed=1, terminal=False)]
    source = make_minari("own/deep/set-v1", episodes, infos=True)
    for name in ("one", "two"):
        convert("own/deep/set-v1", tmp_path / name)
    one, two = (
        {p.relative_to(r): p.read_bytes() for p in r.rglob("*") if p.is_file()}
        for r in (tmp_path / "one", tmp_path / "two")
    )
    assert one == two
    assert {path.as_posix() for path in one} == {
        "own/namespace_metadata.json",
        "own/deep/namespace_metadata.json",
        "own/deep/set-v1/data/main_data.hdf5",
        "own/deep/set-v1/data/metadata.json",
    }
    before = json.loads((source / "data" / "metadata.json").read_text())
    after = json.loads(one[Path("own/deep/set-v1/data/metadata.json")])
    kept = ("env_spec", "author", "algorithm_name", "dataset_id", "total_steps", "total_episodes", "action_space")
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}
    assert json.loads(after["observation_space"])["dtype"] == "float32"
    assert "float32" in after["description"]

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "one"))
    converted = minari.load_dataset("own/deep/set-v1")
    assert [int(each["seed"]) for each in converted.storage.get_episode_metadata(range(2))] == [0, 1]
    assert load_dataset("own/deep/set-v1").fingerprint == Dataset.from_episodes(episodes).fingerprint


def test_a_converted_file_carries_no_time(make_minari, make_episode, tmp_path):
    make_minari(ID, [make_episode(4)])
    convert(ID, tmp_path / "out")
    times = []
    with h5py.File(tmp_path / "out/own/set-v0/data/main_data.hdf5") as file:
        file.visititems(lambda _, item: times.append(h5py.h5o.get_info(item.id).mtime))
    assert times == [0] * 6


def test_mistakes_in_converting(make_minari, make_episode, tmp_path):
    with pytest.raises(InputError, match=r"cannot read own/set-v0: .*not found locally"):
        convert(ID, tmp_path / "out")
    make_minari(ID, [make_episode(4)])
    convert(ID, tmp_path / "out")
    with pytest.raises(InputError, match="exists already"):
        convert(ID, tmp_path / "out")
    metadata = make_minari("own/bare-v0", [make_episode(4)]) / "data" / "metadata.json"
    content = json.loads(metadata.read_text())
    metadata.write_text(json.dumps({name: value for name, value in content.items() if name != "action_space"}))
    with pytest.raises(InputError, match="own/bare-v0 records no action_space"):
        convert("own/bare-v0", tmp_path / "out")
    discrete = make_episode(4) | {"actions": np.zeros(4, np.int64)}
    make_minari("own/discrete-v0", [discrete], action_space=Discrete(2))
    with pytest.raises(InputError, match=r"action space Discrete.*only Box"):
        convert("own/discrete-v0", tmp_path / "out")
    assert not (tmp_path / "out/own/discrete-v0").exists()


def test_a_failure_leaves_nothing(make_minari, make_episode, tmp_path, monkeypatch):
    make_minari(ID, [make_episode(4)])
    monkeypatch.setattr("scripts.convert._write_episodes", lambda path, source: path.write_bytes(b"half") and 1 / 0)
    with pytest.raises(ZeroDivisionError):
        convert(ID, tmp_path / "out")
    assert not (tmp_path / "out" / ID).exists()


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
def test_metadata_without_a_space_is_one_line(make_minari, make_episode, tmp_path, changes, message):
    path = make_minari(ID, [make_episode(4)]) / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(InputError, match=message):
        convert(ID, tmp_path / "out")
    assert not (tmp_path / "out").exists()


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
