import dataclasses
import json

import numpy as np
import pytest
from gymnasium.spaces import Box, Dict, Discrete, Tuple

from agents.iql import Arguments
from rlrat import load_dataset
from rlrat.datasets import minari
from rlrat.datasets.metadata import read_metadata
from rlrat.errors import InputError
from rlrat.runs.run import Run
from tests.datasets.minari_sets import ID


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"action_space": Discrete(3)}, "action space Discrete: continuous actions only"),
        ({"action_space": Box(0, 5, (2,), np.int64)}, r"action space Box, int64, shape \[2\]: continuous"),
        ({"action_space": Box(-1, 1, (2, 2), np.float32)}, "action space Box, .*: only flat vectors"),
        ({"action_space": Dict(a=Box(-1, 1, (4,)))}, "action space Dict: continuous actions only"),
        ({"observation_space": Tuple([Box(-1, 1, (4,))])}, "observation space Tuple: only flat vectors"),
        (
            {"observation_space": Dict(b=Dict(a=Tuple([Box(-1, 1, (4,))])))},
            "observation space/b/a Tuple: only flat vec",
        ),
        ({"observation_space": Dict(a=Discrete(4))}, "observation space/a Discrete: only flat vectors"),
        (
            {"observation_space": Dict(a=Box(0, 1, (8, 8, 3)))},
            r"space/a Box, float32, shape \[8, 8, 3\]: only flat vec",
        ),
        ({"observation_space": Dict({})}, "observations are an empty dictionary"),
        ({"observation_space": Dict(a=Box(-1, 1, (4,)))}, "records dictionaries as observations and has vectors of 4"),
        ({"observation_space": Box(0, 255, (8, 8, 3), np.uint8)}, r"observation space Box, uint8, shape \[8, 8, 3\]"),
        ({"action_space": Box(-np.inf, np.inf, (2,), np.float32)}, "action bounds are .*: finite low < high"),
        ({"action_space": Box(-0.1, 0.1, (2,), np.float32)}, r"actions hold .* outside their bounds \[-0.1, 0.1\]"),
    ],
)
def test_unusable_spaces(make_minari, episodes, space, message):
    make_minari(ID, episodes)
    path = minari.minari_root() / ID / "data" / "metadata.json"
    from minari.serialization import serialize_space

    change = {name: serialize_space(each) for name, each in space.items()}
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=f"^{ID}.*{message}") as caught:
        load_dataset(ID)
    assert "\n" not in str(caught.value)


@pytest.fixture
def write(tmp_path):
    """`write(total_episodes=3)`: a metadata.json of these entries alone."""

    def write(**content):
        path = tmp_path / "metadata.json"
        path.write_text(json.dumps(content))
        return path

    return write


BOX = {"type": "Box", "dtype": "float32", "shape": [2], "low": [-1, -2], "high": [1, 2]}


def test_what_is_used_of_it(write):
    spec = {"id": "Hopper-v5", "kwargs": {"healthy_reward": 2}}
    found = read_metadata(ID, write(total_episodes=3.0, action_space=json.dumps(BOX), env_spec=json.dumps(spec)))
    assert (found.episodes, found.steps, found.data_format) == (3, None, "hdf5")
    assert (found.action_bounds.low, found.action_bounds.high) == ([-1, -2], [1, 2])
    assert (found.env_id, found.env_kwargs, found.env_recorded) == ("Hopper-v5", spec["kwargs"], {"env_spec": spec})
    bare = read_metadata(ID, write(total_episodes=0, total_steps=7, data_format="arrow", env_spec=None))
    assert (bare.steps, bare.data_format, bare.action_bounds, bare.env_id) == (7, "arrow", None, None)
    assert (bare.env_kwargs, bare.env_recorded) == ({}, {})


def test_reference_returns_are_read_where_both_are_there(write):
    both = {"ref_min_score": -3, "ref_max_score": 12.5}
    spec = {"id": "Pendulum-v1"}
    found = read_metadata(ID, write(total_episodes=3, env_spec=json.dumps(spec), **both))
    assert found.env_recorded == {"env_spec": spec, "ref_min_score": -3.0, "ref_max_score": 12.5}
    for name in both:
        assert read_metadata(ID, write(total_episodes=3, **(both | {name: None}))).env_recorded == {}


def test_references_that_the_data_records_are_for_the_recorded_environment(small_dataset, tmp_path, monkeypatch):
    spec = {"id": "Hopper-v5", "max_episode_steps": 1000, "additional_wrappers": [], "kwargs": {}}

    def begin(recorded, **arguments):
        dataset = dataclasses.replace(small_dataset, reference="recorded", env_recorded=recorded)
        monkeypatch.setattr("rlrat.runs.run.load_dataset", lambda *_, **__: dataset)
        return Run("iql", Arguments(run_dir=tmp_path / "runs", device="cpu", **arguments)).reference

    recorded = {"env_spec": spec, "ref_min_score": 10.0, "ref_max_score": 510.0}
    found = begin(recorded)
    assert (found.name, found.env_id, found.normalize(260.0)) == ("recorded", "Hopper-v5", 50.0)
    assert begin(recorded, env_kwargs=("healthy_reward=2",)) is begin(recorded, env_id="Hopper-v4") is None
    assert begin({"env_spec": spec}) is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "total_episodes is None, not a count"),
        ({"ref_min_score": "low", "ref_max_score": 1}, "ref_min_score is 'low', not a number"),
        ({"ref_min_score": 0, "ref_max_score": True}, "ref_max_score is True, not a number"),
        ({"total_episodes": True}, "total_episodes is True, not a count"),
        ({"total_episodes": -1}, "total_episodes is -1"),
        ({"total_steps": 1.5}, r"total_steps is 1\.5"),
        ({"data_format": "zip"}, "data_format is 'zip', which is none of hdf5, arrow and parquet"),
        ({"action_space": BOX}, "action_space is {.*, not a text"),
        ({"action_space": "{"}, "action_space cannot be read: "),
        ({"action_space": "[1]"}, r"action_space is \[1\], not a mapping of names to values"),
        ({"action_space": json.dumps(BOX | {"low": "less"})}, "action_space has the low 'less', not numbers"),
        (
            {"action_space": json.dumps(BOX | {"shape": [-2]})},
            r"action_space has the shape \[-2\], not a list",
        ),
        ({"observation_space": json.dumps(BOX | {"dtype": 32})}, "observation_space has the dtype 32, not a text"),
        ({"observation_space": json.dumps({"type": None})}, "observation_space has the type None, not a text"),
        ({"observation_space": json.dumps({"type": "Dict"})}, "subspaces of observation_space is None, not a mapping"),
        (
            {"observation_space": json.dumps({"type": "Dict", "subspaces": {"a": 5}})},
            "a of observation_space is 5, not a mapping",
        ),
        ({"env_spec": json.dumps({"id": 5})}, "env_spec has the id 5, not a text"),
        ({"env_spec": json.dumps({"kwargs": [1]})}, r"kwargs of env_spec is \[1\], not a mapping"),
    ],
)
def test_damage_is_one_line(write, content, message):
    path = write(**({"total_episodes": 3} if content else {}) | content)
    with pytest.raises(InputError, match=rf"metadata\.json is damaged \({message}.*: metadata as Minari writes it"):
        read_metadata(ID, path)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_what_is_no_json_of_names_is_one_line(tmp_path, content):
    (tmp_path / "metadata.json").write_bytes(content)
    with pytest.raises(InputError, match=r"metadata\.json is damaged \(") as caught:
        read_metadata(ID, tmp_path / "metadata.json")
    assert "\n" not in str(caught.value)
