"""What data names is never imported: with harmless modules that record that they were imported or called."""

import dataclasses
import json
import types

import gymnasium
import numpy as np
import pytest

from rlrat.environments.making import Wrapper
from rlrat.environments.recorded import of_data, recorded_id, recorded_kwargs, recorded_wrappers, saved_wrappers
from rlrat.environments.registry import import_modules
from rlrat.errors import InputError


@pytest.fixture
def toy_data(small_dataset):
    """Data of the module's environment, as somebody recorded it."""
    spec = {
        "id": "toy_module:Toy-v0",
        "entry_point": "toy_module:Toy",
        "max_episode_steps": 3,
        "kwargs": {"reward": 9.0},
    }
    return dataclasses.replace(
        small_dataset, env_id=spec["id"], env_kwargs=spec["kwargs"], env_recorded={"env_spec": spec}, reference=None
    )


def test_an_environment_that_data_names_is_looked_up_and_never_imported(toys, toy_data):
    with pytest.raises(InputError) as caught:
        of_data(toy_data)
    assert "give --env-modules toy_module if you trust that code" in str(caught.value)
    assert "dataset test/hopper names the environment 'toy_module:Toy-v0'" in str(caught.value)
    with pytest.raises(InputError, match="give --env-modules with the module that registers it"):
        recorded_id("Toy-v0", "it")
    with pytest.raises(InputError, match="give --env-modules with the module that registers it"):
        recorded_id("os.system('x'):Toy-v0", "it")
    with pytest.raises(InputError, match=r"give --env-modules toy_module if you trust .* or another --env-id$"):
        of_data(dataclasses.replace(toy_data, env_id="Toy-v0"))  # the entry point's module
    for modules in (None, 3, "toy_module", {"a": 1}, ["a;b", 3, None], [["toy_module"]], ["\x1b[2J"]):
        with pytest.raises(InputError, match="give --env-modules with the module that registers it"):
            recorded_id("Toy-v0", "it", modules)
    for name in (None, 3, ["Hopper-v5"], {}):
        with pytest.raises(InputError, match="which is no text: give --env-id"):
            recorded_id(name, "it")
    assert toys() == set()
    import_modules(["toy_module"])
    assert toys() == {"imported"}
    assert of_data(toy_data) == ("Toy-v0", {"reward": 9.0})
    assert of_data(toy_data, None, {"reward": 2.0}) == ("Toy-v0", {"reward": 2.0})
    assert toys() == {"imported"}


@pytest.mark.parametrize("name", ["toy_module:Toy-v0", "toy_module"])
def test_a_module_that_the_user_names_is_found_in_the_working_directory(toys, toy_data, name):
    if ":" in name:
        assert of_data(toy_data, name) == ("Toy-v0", {"reward": 9.0})  # the recorded settings are its own
    else:
        import_modules(name)
        assert of_data(toy_data, "Toy-v0") == ("Toy-v0", {"reward": 9.0})
    assert toys() == {"imported"}


def test_settings_of_another_environment_are_not_taken_over(toys, toy_data):
    assert of_data(toy_data, "Hopper-v5", {"frame_skip": 2}) == ("Hopper-v5", {"frame_skip": 2})
    assert toys() == set()


def test_without_an_environment_there_are_no_settings(toys, toy_data):
    unnamed = dataclasses.replace(toy_data, env_id=None)
    for dataset, given in ((unnamed, None), (unnamed, "none"), (toy_data, "none")):
        assert of_data(dataset, given) == (None, {})
        with pytest.raises(InputError, match="sets reward, but there is no environment: give its --env-id"):
            of_data(dataset, given, {"reward": 2.0})
    assert toys() == set()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("xml_file", "walker2d.xml"), ("xml_file", "ant"), ("model", "a"), ("model_path", "a"), ("data_dir", "b"),
        ("xmlpath", "a"), ("asset", "a"), ("shape", "my_module.ComputeReward"),
        ("asset", "/etc/passwd"), ("asset", "..\\a"), ("asset", "~"), ("asset", ".netrc"), ("asset", "a.so"),
        ("assets", ["x", ["y/z"]]), ("options", {"robot": {"file": "x"}}), ("env_id", "module:Env-v0"), ("url", "x"),
    ],
)  # fmt: skip
def test_files_and_modules_are_named_by_the_user_alone(name, value):
    with pytest.raises(InputError, match=rf"it records {name}=.* give --env-kwargs {name}=\.\.\. yourself"):
        recorded_kwargs("Hopper-v5", {name: value}, {}, "it")
    assert recorded_kwargs("Hopper-v5", {name: value}, {name: "mine.xml"}, "it") == {name: "mine.xml"}


def test_what_names_no_file_is_taken_over(monkeypatch):
    kwargs = {"reward_type": "sparse", "range": [0.5, 1.5], "flag": False, "maze": [[1, "g"], [0, "r"]], "none": None}
    drawn = {"render_mode": "human", "max_episode_steps": 3, "id": "x", "disable_env_checker": True}
    assert recorded_kwargs("Hopper-v5", {**kwargs, **drawn}, {"flag": True}, "it") == {**kwargs, "flag": True}
    spec = gymnasium.envs.registration.EnvSpec("Filed-v0", entry_point="x:y", kwargs={"xml_file": "a.xml"})
    monkeypatch.setitem(gymnasium.registry, "Filed-v0", spec)
    assert recorded_kwargs("Filed-v0", {"xml_file": "a.xml"}, {}, "it") == {"xml_file": "a.xml"}  # it is registered so
    with pytest.raises(InputError, match="data may name no files"):
        recorded_kwargs("Filed-v0", {"xml_file": "b.xml"}, {}, "it")


def deep(levels):
    value = "x"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("kwargs", [None, 3, "xml", ["a"], {1: 2}, {"a": deep(5000)}])
def test_settings_that_are_none_are_one_line(kwargs):
    with pytest.raises(InputError, match="it records settings of Hopper-v5 that are no names and values"):
        recorded_kwargs("Hopper-v5", kwargs, {}, "it")


SPEC = {
    "id": "Hopper-v5", "entry_point": "gymnasium.envs.mujoco.hopper_v5:HopperEnv", "max_episode_steps": 1000,
    "order_enforce": True, "disable_env_checker": False, "kwargs": {}, "additional_wrappers": [],
}  # fmt: skip


def unlike(spec, judged=None, env_id="Hopper-v5", kwargs=None, limit=None):
    recorded = {"env_spec": spec} | ({} if judged is None else {"eval_env_spec": judged})
    return not_followed(types.SimpleNamespace(env_recorded=recorded), env_id, kwargs or {}, limit)


def test_a_standard_record_is_followed():
    assert unlike(SPEC) == []
    assert unlike(SPEC, limit=1000) == []
    assert unlike({"id": "Hopper-v5"}) == unlike({}) == unlike(None) == []
    assert unlike({**SPEC, "kwargs": {"frame_skip": 2}}, kwargs={"frame_skip": 3}) == []  # the user's own choice
    assert unlike({**SPEC, "max_episode_steps": 5}, env_id="Walker2d-v5") == []
    made = gymnasium.make("Hopper-v5")
    watched = gymnasium.wrappers.RecordEpisodeStatistics(made)
    for env in (made, watched):
        assert unlike(json.loads(env.spec.to_json())) == []
    made.close()


def test_what_is_recorded_and_not_followed_is_said():
    def only(*args, **kwargs):
        (line,) = unlike(*args, **kwargs)
        return line

    other = {**SPEC, "max_episode_steps": 500}
    assert only(other) == "records a time limit of 500 steps, not 1000 steps (--max-episode-steps)"
    assert unlike(other, limit=500) == []
    assert "records no time limit, not 1000 steps" in only({**SPEC, "max_episode_steps": None})
    assert "of 1000 steps, not 500 steps" in only(SPEC, limit=500)
    wrapped = gymnasium.wrappers.RescaleAction(gymnasium.make("Hopper-v5"), np.float32(-2), np.float32(2))
    names = [wrapper.name for wrapper in wrapped.spec.additional_wrappers]
    wrappers = [{"name": name, "entry_point": "x:y", "kwargs": None} for name in names]
    assert only({**SPEC, "additional_wrappers": wrappers}) == "records wrappers that are not applied: RescaleAction"
    wrapped.close()
    for_evaluation = {**SPEC, "kwargs": {"frame_skip": 2, "render_mode": "human"}, "max_episode_steps": 7}
    assert unlike(SPEC, SPEC) == unlike({**SPEC, "max_episode_steps": 7}, SPEC) == []
    assert unlike(SPEC, for_evaluation, kwargs={"frame_skip": 2}, limit=7) == []
    assert len(unlike(SPEC, for_evaluation)) == 2
    assert only(SPEC, for_evaluation, limit=7).startswith("records the settings {'frame_skip': 2} to evaluate with")
    another = {**SPEC, "id": "AntMaze-v5"}
    assert only(SPEC, another) == "records the environment 'AntMaze-v5' to evaluate in, not Hopper-v5"
    assert unlike(SPEC, another, env_id="Walker2d-v5") == []


def test_a_registered_wrapper_is_applied(monkeypatch):
    wrapper = gymnasium.envs.registration.WrapperSpec("Rescale", "x:y", {"low": -1})
    spec = dataclasses.replace(gymnasium.spec("Hopper-v5"), id="Wrapped-v0", additional_wrappers=(wrapper,))
    monkeypatch.setitem(gymnasium.registry, "Wrapped-v0", spec)
    record = {
        "id": "Wrapped-v0",
        "additional_wrappers": [{"name": "Rescale", "entry_point": "x:y", "kwargs": {"low": -1}}],
    }
    assert unlike(record, env_id="Wrapped-v0") == []
    record["additional_wrappers"][0]["kwargs"] = {"low": -2}
    assert unlike(record, env_id="Wrapped-v0") == ["records wrappers that are not applied: Rescale"]


@pytest.mark.parametrize("value", [None, 3, "text", [], [1], {"a": 1}, True, 1e400, [[]], deep(40), deep(5000)])
def test_any_json_in_the_record_is_borne(value):
    for record in ({}, {"env_spec": value}, {"eval_env_spec": value}, {"env_spec": SPEC, "eval_env_spec": value}):
        assert isinstance(not_followed(types.SimpleNamespace(env_recorded=record), "Hopper-v5", {}), list)
    for name in SPEC:
        for record in ({"env_spec": {**SPEC, name: value}}, {"eval_env_spec": {**SPEC, name: value}}):
            lines = not_followed(types.SimpleNamespace(env_recorded=record), "Hopper-v5", {})
            assert all("\n" not in line and len(line) < 1000 for line in lines)
