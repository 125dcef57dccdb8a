"""What data names is never imported: with harmless modules that record that they were imported or called."""

import dataclasses
import json
import types

import gymnasium
import numpy as np
import pytest

from rlrat.environments.making import Wrapper, make
from rlrat.environments.recorded import of_data, recorded_id, recorded_kwargs, saved_wrappers
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


def chosen(*args):
    environment = of_data(*args)
    return environment.env_id, environment.env_kwargs


def test_an_environment_that_data_names_is_looked_up_and_never_imported(toys, toy_data):
    with pytest.raises(InputError) as caught:
        of_data(toy_data)
    assert "give --env-modules toy_module if you trust that code" in str(caught.value)
    assert "dataset test/hopper names the environment 'toy_module:Toy-v0'" in str(caught.value)
    with pytest.raises(InputError, match="give --env-modules with the module that registers it"):
        recorded_id("Toy-v0", "it")
    with pytest.raises(InputError, match="give --env-modules with the module that registers it"):
        recorded_id("os.system('x'):Toy-v0", "it")
    with pytest.raises(InputError, match=r"give --env-modules toy_module if .* another --env-id, or --env-id n"):
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
    assert chosen(toy_data) == ("Toy-v0", {"reward": 9.0})
    assert chosen(toy_data, None, {"reward": 2.0}) == ("Toy-v0", {"reward": 2.0})
    assert toys() == {"imported"}


@pytest.mark.parametrize("name", ["toy_module:Toy-v0", "toy_module"])
def test_a_module_that_the_user_names_is_found_in_the_working_directory(toys, toy_data, name):
    if ":" in name:
        assert chosen(toy_data, name) == ("Toy-v0", {"reward": 9.0})  # the recorded settings are its own
    else:
        import_modules(name)
        assert chosen(toy_data, "Toy-v0") == ("Toy-v0", {"reward": 9.0})
    assert toys() == {"imported"}


def test_settings_of_another_environment_are_not_taken_over(toys, toy_data):
    assert chosen(toy_data, "Hopper-v5", {"frame_skip": 2}) == ("Hopper-v5", {"frame_skip": 2})
    assert toys() == set()


def test_without_an_environment_there_are_no_settings(toys, toy_data):
    unnamed = dataclasses.replace(toy_data, env_id=None)
    for dataset, given in ((unnamed, None), (unnamed, "none"), (toy_data, "none")):
        assert of_data(dataset, given) is None
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


def data(spec, judged=None):
    """A dataset that records these specs, of an environment or as JSON has them."""
    specs = {"env_spec": spec} | ({} if judged is None else {"eval_env_spec": judged})
    specs = {k: v if isinstance(v, dict) else json.loads(v.spec.to_json()) for k, v in specs.items()}
    own = specs["env_spec"]
    return types.SimpleNamespace(id="own", env_id=own.get("id"), env_kwargs=own.get("kwargs", {}), env_recorded=specs)


def hopper(*wrappers, **settings):
    """Hopper in wrappers: (class, arguments)."""
    env = gymnasium.make("Hopper-v5", **settings)
    for kind, *arguments in wrappers:
        env = kind(env, *arguments)
    return env


def test_a_standard_record_is_as_it_is_registered():
    watched = hopper((gymnasium.wrappers.RecordEpisodeStatistics,), (gymnasium.wrappers.Autoreset,))
    for spec in (SPEC, {"id": "Hopper-v5"}, hopper(), watched):
        found = of_data(data(spec))
        assert (found.limit, found.wrappers, found.unlike, found.notes) == (None, (), (), ())
        assert str(found) == "Hopper-v5"
        assert found.settings() == {
            "env_id": "Hopper-v5", "env_kwargs": {}, "max_episode_steps": 1000, "wrappers": []
        }  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_a_record_is_followed():
    w = gymnasium.wrappers
    cases = [
        (hopper(max_episode_steps=15), 15, ()),
        (hopper(max_episode_steps=-1), -1, ()),
        (hopper((w.TimeLimit, 15)), 15, ()),
        (hopper((w.ClipReward, -1.0, 0.2)), None, (Wrapper("ClipReward", {"min_reward": -1.0, "max_reward": 0.2}),)),
        (hopper((w.RepeatAction, 4)), None, (Wrapper("RepeatAction", {"num_repeats": 4}),)),
        (
            hopper((w.RescaleAction, -2.0, 2.0), (w.ClipAction,)),
            None,
            (Wrapper("RescaleAction", {"min_action": -2.0, "max_action": 2.0}), Wrapper("ClipAction")),
        ),
    ]
    for env, limit, wrappers in cases:
        found = of_data(data(env))
        assert (found.limit, found.wrappers) == (limit, wrappers)
        assert found.unlike == ()
    assert str(of_data(data(cases[0][0]))) == "Hopper-v5 (at most 15 steps)"
    assert str(of_data(data(cases[1][0]))) == "Hopper-v5 (no time limit)"
    assert str(of_data(data(cases[3][0]))) == "Hopper-v5 (ClipReward(min_reward=-1.0, max_reward=0.2))"
    assert of_data(data(cases[1][0])).settings()["max_episode_steps"] is None


def test_what_the_user_chose_goes_over_the_record():
    recorded = data({**SPEC, "max_episode_steps": 15, "kwargs": {"frame_skip": 2}})
    found = of_data(recorded, "Hopper-v5", {"frame_skip": 3}, 20)
    assert (found.env_kwargs, found.limit) == ({"frame_skip": 3}, 20)
    assert str(found) == "Hopper-v5 (frame_skip=3, at most 20 steps)"
    assert found.unlike == ("records a time limit of 15 steps, not 20 steps (--max-episode-steps)",)
    assert of_data(recorded, None, {"reset_noise_scale": 0}).env_kwargs == {"frame_skip": 2, "reset_noise_scale": 0}
    assert of_data(recorded, max_episode_steps=15).unlike == ()
    other = of_data(recorded, "Walker2d-v5")
    assert (other.env_kwargs, other.limit, other.unlike) == ({}, None, ())
    forever = data({**SPEC, "max_episode_steps": None})
    assert of_data(forever, max_episode_steps=9).unlike == ("records no time limit, not 9 steps (--max-episode-steps)",)
    assert of_data(forever, max_episode_steps=9).notes == ()
    (note,) = of_data(forever).notes
    assert note.startswith("records no time limit of Hopper-v5, which is registered with 1000 steps")


def test_the_environment_for_evaluation_counts():
    judged = {**SPEC, "kwargs": {"frame_skip": 2, "render_mode": "human"}, "max_episode_steps": 7}
    found = of_data(data({**SPEC, "max_episode_steps": 1_000_000}, judged))
    assert (found.env_id, found.env_kwargs, found.limit, found.unlike) == ("Hopper-v5", {"frame_skip": 2}, 7, ())
    another = data({**SPEC, "max_episode_steps": 15}, {**judged, "id": "Walker2d-v5"})
    assert of_data(another).env_id == "Walker2d-v5"
    assert (of_data(another).env_kwargs, of_data(another).limit) == ({"frame_skip": 2}, 7)
    collected = of_data(another, "Hopper-v5")  # the user's choice
    assert (collected.env_kwargs, collected.limit) == ({}, 15)
    assert collected.unlike == ("records the environment 'Walker2d-v5' to evaluate in, not Hopper-v5",)
    assert of_data(another, "Walker2d-v5").limit == 7
    assert of_data(another, "Ant-v5").unlike == ()
    assert of_data(another, "none") is None


def test_settings_that_are_registered_are_no_others():
    maze = gymnasium.envs.registration.EnvSpec("Maze-v0", entry_point="x:y", kwargs={"reward": "sparse", "map": (1, 2)})
    gymnasium.registry["Maze-v0"] = maze
    try:
        found = of_data(data({"id": "Maze-v0", "kwargs": {"reward": "sparse", "map": [1, 2], "more": None}}))
        assert found.other_kwargs == {"more": None}
    finally:
        del gymnasium.registry["Maze-v0"]


class Own(gymnasium.Wrapper):
    """A wrapper of a user's own."""


def test_wrappers_that_cannot_be_made_again_are_named():
    w = gymnasium.wrappers
    # A function cannot be in JSON; Gymnasium itself records no settings of wrappers that keep none.
    doubled = json.loads(hopper((w.ClipReward, 0, 1)).spec.to_json())
    doubled["additional_wrappers"][0] |= {"name": "TransformReward", "kwargs": None}
    doubled["additional_wrappers"][0]["entry_point"] = "gymnasium.wrappers.transform_reward:TransformReward"
    masked = json.loads(hopper((w.ClipReward, 0, 1)).spec.to_json())
    masked["additional_wrappers"][0]["entry_point"] = "toy_module:ClipReward"
    cases = [
        (hopper((w.NormalizeObservation,)), "NormalizeObservation (what it had seen is not recorded)"),
        (hopper((w.NormalizeReward,)), "NormalizeReward (what it had seen is not recorded)"),
        (hopper((Own,)), "Own (not one of Gymnasium's here)"),
        (doubled, "TransformReward (its settings are not recorded)"),
        (masked, "ClipReward (not one of Gymnasium's here)"),
        ({**SPEC, "additional_wrappers": [{"name": "vector"}]}, "vector (not one of Gymnasium's here)"),
        ({**SPEC, "additional_wrappers": [{"name": "Wrapper", "kwargs": {}}]}, "Wrapper (not one of Gymnasium's here)"),
    ]
    for env, said in cases:
        recorded = data(env)
        with pytest.raises(InputError) as caught:
            of_data(recorded)
        assert str(caught.value) == (
            f"dataset own records wrappers of Hopper-v5 that cannot be made again: {said}; give --ignore-wrappers to "
            "evaluate without them, or --env-id none"
        )
        found = of_data(recorded, ignore_wrappers=True)
        assert (found.wrappers, found.unlike) == (
            (), (f"records wrappers that are left out (--ignore-wrappers): {said}",)
        )  # fmt: skip
    both = data(hopper((w.NormalizeObservation,), (w.ClipReward, 0, 1), (Own,)))
    assert [one.name for one in of_data(both, ignore_wrappers=True).wrappers] == ["ClipReward"]
    with pytest.raises(InputError, match=r"NormalizeObservation \(.*\), Own \("):
        of_data(both)


def test_wrappers_name_no_files():
    named = {"name": "FilterObservation", "entry_point": "gymnasium.wrappers:FilterObservation"}
    recorded = data({**SPEC, "additional_wrappers": [{**named, "kwargs": {"filter_keys": ["/etc/passwd"]}}]})
    with pytest.raises(InputError, match=r"records filter_keys=.* of the wrapper FilterObservation, and data may name"):
        of_data(recorded)
    with pytest.raises(InputError, match=r"it records filter_keys=.* data may name no files"):
        saved_wrappers([{"name": "FilterObservation", "kwargs": {"filter_keys": ["a.xml"]}}], "it")


def test_wrappers_of_the_registration_are_not_applied_again(monkeypatch):
    clip = gymnasium.wrappers.ClipReward.wrapper_spec(min_reward=0, max_reward=1)
    spec = gymnasium.spec("Hopper-v5")
    registered = dataclasses.replace(spec, id="Wrapped-v0", additional_wrappers=(clip,))
    monkeypatch.setitem(gymnasium.registry, "Wrapped-v0", registered)
    with gymnasium.make("Wrapped-v0") as env:
        assert of_data(data(env)).wrappers == ()
        twice = gymnasium.wrappers.ClipReward(env, 0, 1)
        assert [one.name for one in of_data(data(twice)).wrappers] == ["ClipReward"]
    record = json.loads(env.spec.to_json())
    record["additional_wrappers"][0]["kwargs"] = {"min_reward": 0, "max_reward": 2}
    assert of_data(data(record)).wrappers == (Wrapper("ClipReward", {"min_reward": 0, "max_reward": 2}),)


def test_wrappers_of_an_entry_point_are_not_applied_again(monkeypatch):
    def make(**settings):
        return Own(gymnasium.make("Hopper-v5", **settings).unwrapped)

    monkeypatch.setitem(
        gymnasium.registry, "Inside-v0", gymnasium.envs.registration.EnvSpec("Inside-v0", entry_point=make)
    )
    with gymnasium.make("Inside-v0") as env:
        record = {"id": "Inside-v0", "additional_wrappers": [vars(one) for one in env.spec.additional_wrappers]}
    assert [one["name"] for one in record["additional_wrappers"]] == ["Own"]
    assert of_data(data(record)).wrappers == ()


def test_saved_wrappers_are_read_again():
    found = of_data(data(hopper((gymnasium.wrappers.ClipReward, 0, 1), (gymnasium.wrappers.ClipAction,))))
    saved = json.loads(json.dumps(found.settings()))["wrappers"]
    assert saved_wrappers(saved, "it") == found.wrappers
    for damaged in (None, 3, "x", {}, [3], [{}], [{"name": 3}], [{"name": "ClipReward", "kwargs": None}], [deep(50)]):
        with pytest.raises(InputError, match=r"it (is damaged|has the wrapper)"):
            saved_wrappers(damaged, "it")
    with pytest.raises(InputError, match="it has the wrapper 'Own', which is not one of this Gymnasium's"):
        saved_wrappers([{"name": "Own", "kwargs": {}}], "it")


def test_versions_that_are_not_registered_are_named_with_those_that_are(monkeypatch):
    for name in ("Reach-v1", "Reach-v4"):
        monkeypatch.setitem(
            gymnasium.registry, name, gymnasium.envs.registration.EnvSpec(name, entry_point="reach:Env")
        )
    for name in ("Reach-v2", "Reach-v9"):  # Gymnasium calls the first one deprecated
        with pytest.raises(InputError) as caught:
            of_data(data({"id": name, "entry_point": "reach_old:Env"}))
        assert str(caught.value) == (
            f"dataset own names the environment '{name}', which is not registered here, but Reach-v4 is: give --env-id "
            "Reach-v4 if you want to evaluate there, which may be another task, or --env-id none, to train without "
            "evaluating in it"
        )
    assert of_data(data({"id": "Reach-v2", "kwargs": {"x": 1}}), "Reach-v4").env_kwargs == {}


@pytest.mark.parametrize(
    ("name", "entry_point", "package", "extra"),
    [
        ("PointMaze_UMaze-v3", None, "gymnasium-robotics", "robotics"),
        ("FrankaKitchen-v1", "gymnasium_robotics.envs.franka_kitchen:KitchenEnv", "gymnasium-robotics", "kitchen"),
        ("FetchReach-v4", None, "gymnasium-robotics", "kitchen"),
        ("Another-v0", "gymnasium_robotics.envs.another:Env", "gymnasium-robotics", "robotics"),
        ("antmaze-large-singletask-v0", None, "ogbench", "ogbench"),
    ],
)
def test_what_is_not_installed_is_named(monkeypatch, name, entry_point, package, extra):
    monkeypatch.setattr("rlrat.environments.registry._is_installed", lambda package: False)
    others = {key: spec for key, spec in gymnasium.registry.items() if key != name}
    monkeypatch.setattr("gymnasium.envs.registration.registry", others)
    with pytest.raises(InputError) as caught:
        of_data(data({"id": name, "entry_point": entry_point}))
    assert str(caught.value) == (
        f"dataset own names the environment '{name}', which is not registered here: it is of {package}, which is not "
        f"installed: pip install 'rlrat[{extra}]', or give --env-id none, to train without evaluating in it"
    )
    assert of_data(data({"id": name}), "none") is None


@pytest.mark.parametrize("value", [None, 3, "text", [], [1], {"a": 1}, True, 1e400, [[]], deep(40), deep(5000)])
def test_any_json_in_the_record_is_borne(value):
    def find(recorded):
        own = types.SimpleNamespace(id="own", env_id="Hopper-v5", env_kwargs={}, env_recorded=recorded)
        try:
            found = of_data(own)
        except InputError as error:
            said = [str(error)]
        else:
            assert found.env_id == "Hopper-v5"
            said = [*found.unlike, *found.notes]
        assert all("\n" not in line and len(line) < 1000 for line in said)

    for record in (
        {},
        {"env_spec": value},
        {"eval_env_spec": value},
        {"env_spec": SPEC, "eval_env_spec": value},
        value,
    ):
        find(record)
    for name in SPEC:
        for record in ({"env_spec": {**SPEC, name: value}}, {"eval_env_spec": {**SPEC, name: value}}):
            find(record)
    for name in ("name", "entry_point", "kwargs"):
        wrapper = {"name": "ClipReward", "entry_point": "gymnasium.wrappers:ClipReward", "kwargs": {}, name: value}
        find({"env_spec": {**SPEC, "additional_wrappers": [wrapper]}})


def test_a_time_limit_that_is_none_is_one_line():
    for limit in (0, -1, 2.5, "x", True, [3]):
        recorded = data({**SPEC, "max_episode_steps": limit})
        with pytest.raises(InputError, match=r"records max_episode_steps=.* of Hopper-v5, which is no number of steps"):
            of_data(recorded)
        assert of_data(recorded, max_episode_steps=5).limit == 5


def test_a_reward_that_is_known_to_be_wrong_is_said():
    pytest.importorskip("gymnasium_robotics")
    said = "is evaluated in AdroitHandDoor-v1, whose reward has 0.1 x the hand's distance with the wrong sign since"
    for found in (of_data(data({"id": "AdroitHandDoor-v1"})), of_data(data(SPEC), "AdroitHandDoor-v1")):
        (note,) = found.notes
        assert note.startswith(said)
    for right in ("AdroitHandPen-v1", "AdroitHandDoorSparse-v1", "door-human-v1"):
        assert of_data(data({"id": right})).notes == ()
    assert of_data(data({"id": "AdroitHandDoor-v1", "kwargs": {"reward_type": "sparse"}})).notes == ()


def test_the_reward_that_is_known_to_be_wrong_still_is():
    """If this fails, Gymnasium-Robotics was mended: the note is to go."""
    pytest.importorskip("gymnasium_robotics")
    with make("AdroitHandDoor-v1", {}) as env:
        base = env.unwrapped
        env.reset(seed=0)
        observation, reward, *_ = env.step(np.zeros(28, np.float32))
        angle, rest = observation[28], -1e-5 * np.square(base.data.qvel).sum()
        others = -0.1 * (angle - 1.57) ** 2 + rest
        assert reward - others == pytest.approx(0.1 * np.linalg.norm(observation[35:38]), abs=1e-9)
