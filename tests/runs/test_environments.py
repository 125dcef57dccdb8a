"""Which environment a run is evaluated in, when its scores have a reference, and how its folder knows it again."""

import dataclasses
import json
import sys

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

from agents.iql import Arguments
from rlrat.errors import InputError
from rlrat.runs.environments import make_evaluator
from rlrat.runs.run import Run
from rlrat.runs.trained import TrainedRun
from tests.goal_env import GOAL_ID, goal_dataset
from tests.goal_env import SPEC as SPEC_OF_GOAL

SPEC = {"id": "Hopper-v5", "max_episode_steps": 1000, "additional_wrappers": [], "kwargs": {}}


@pytest.fixture
def begin(small_dataset, tmp_path, monkeypatch, capsys):
    """`begin(fields of the dataset, **arguments)`: a run before its first update, and what was said."""

    def build(fields=(), **arguments):
        dataset = dataclasses.replace(small_dataset, **dict(fields))
        monkeypatch.setattr("rlrat.runs.run.load_dataset", lambda *_, **__: dataset)
        capsys.readouterr()
        return Run("iql", Arguments(run_dir=tmp_path / "runs", device="cpu", **arguments)), capsys.readouterr().err

    return build


def test_a_standard_dataset_keeps_its_reference(begin):
    for recorded in ({}, {"env_spec": SPEC}, {"env_spec": SPEC, "eval_env_spec": SPEC}):
        for limit in (None, 1000):
            run, said = begin({"env_recorded": recorded}, max_episode_steps=limit)
            assert run.reference.name == "v5-2026.11"
            assert said == ""


def test_the_packaged_data_keep_their_reference(tmp_path):
    for name in ("mixed", "medium"):
        run = Run("iql", Arguments(dataset=f"rlrat/hopper/{name}-v0", run_dir=tmp_path, device="cpu"))
        assert run.reference.name == "v5-2026.11"


CLIP = {
    "name": "ClipReward", "entry_point": "gymnasium.wrappers.transform_reward:ClipReward",
    "kwargs": {"min_reward": -1.0, "max_reward": 0.2},
}  # fmt: skip
NORMALIZE = {
    "name": "NormalizeObservation", "entry_point": "gymnasium.wrappers.stateful_observation:NormalizeObservation",
    "kwargs": {"epsilon": 1e-8},
}  # fmt: skip


def recorded(**changes):
    return {"env_recorded": {"env_spec": {**SPEC, **changes}}}


def test_what_references_were_not_measured_in_has_none(begin):
    for changes, limit in (({"max_episode_steps": 15}, 15), ({"additional_wrappers": [CLIP]}, 1000)):
        run, said = begin(recorded(**changes))
        assert (run.reference, said) == (None, "")
        with make_evaluator(run.environment, (), [0], 1, 1) as evaluator:
            assert evaluator.time_limit == limit
    run, said = begin({}, max_episode_steps=500)
    assert (run.reference, said) == (None, "")
    run, said = begin(recorded(kwargs={"healthy_reward": 2.0}) | {"env_kwargs": {"healthy_reward": 2.0}})
    assert (run.reference, said) == (None, "")
    run, said = begin(recorded(max_episode_steps=None))
    assert run.reference is None
    assert "records no time limit of Hopper-v5, which is registered with 1000 steps" in said
    with make_evaluator(run.environment, (), [0], 1, 1) as evaluator:
        assert evaluator.time_limit is None


def test_what_is_not_evaluated_as_recorded_has_no_reference_and_that_is_said_once(begin):
    run, said = begin(recorded(max_episode_steps=500), max_episode_steps=1000)
    assert run.reference is None
    assert said.count("dataset test/hopper records a time limit of 500 steps, not 1000 steps") == said.count("\n") == 1
    with pytest.raises(InputError, match=r"cannot be made again: NormalizeObservation \(.*give --ignore-wrappers"):
        begin(recorded(additional_wrappers=[NORMALIZE]))
    run, said = begin(recorded(additional_wrappers=[NORMALIZE, CLIP]), ignore_wrappers=True)
    assert run.reference is None
    assert said.count("records wrappers that are left out (--ignore-wrappers): NormalizeObservation") == 1
    assert said.count("\n") == 1
    assert [wrapper.name for wrapper in run.environment.wrappers] == ["ClipReward"]


def test_d4rls_own_settings_keep_their_reference(begin):
    ant = {"env_id": "Hopper-v4", "reference": "d4rl", "env_kwargs": {"healthy_reward": 1.0}}
    assert begin(ant)[0].reference.name == "d4rl-v2"
    assert begin(ant, env_kwargs=("healthy_reward=2",))[0].reference is None


def test_success_is_the_score_of_a_task_with_any_settings(begin, monkeypatch):
    monkeypatch.setitem(gymnasium.registry, GOAL_ID, SPEC_OF_GOAL)
    dataset = goal_dataset()
    goal = {field.name: getattr(dataset, field.name) for field in dataclasses.fields(dataset)}
    for settings in ((), ("at=2",)):
        run, said = begin(goal, env_kwargs=settings)
        assert (run.reference.measure, said) == ("success", "")
    run, _ = begin(goal, max_episode_steps=2)  # too few to compare with anybody
    assert run.reference is None
    recorded = {"env_recorded": {"env_spec": {"id": GOAL_ID, "max_episode_steps": 2}}}
    assert begin(goal | recorded)[0].reference.measure == "success"


MODULE = """
import pathlib
import gymnasium
pathlib.Path(__file__).with_suffix(".imported").touch()
gymnasium.register("OwnHopper-v0", "gymnasium.envs.mujoco.hopper_v5:HopperEnv", max_episode_steps=3)
"""


def test_training_imports_what_the_command_names_and_not_what_the_data_names(begin, tmp_path, monkeypatch):
    (tmp_path / "own_hoppers.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    data = {"env_id": "own_hoppers:OwnHopper-v0", "env_kwargs": {"healthy_reward": 2.0}, "reference": None}
    with pytest.raises(InputError, match="give --env-modules own_hoppers if you trust that code"):
        begin(data)
    assert not (tmp_path / "own_hoppers.imported").exists()
    try:
        for given in ({"env_modules": ("own_hoppers",)}, {"env_id": "own_hoppers:OwnHopper-v0"}):
            run, _ = begin(data, **given)
            environment = run.environment
            assert (environment.env_id, environment.env_kwargs) == ("OwnHopper-v0", {"healthy_reward": 2.0})
    finally:
        del gymnasium.registry["OwnHopper-v0"], sys.modules["own_hoppers"]
    assert (tmp_path / "own_hoppers.imported").exists()


def test_settings_that_fail_in_the_first_step_are_one_line(begin, monkeypatch):
    class Picky(HopperEnv):
        def __init__(self, joint="hip", **settings):
            super().__init__(**settings)
            self.joint = joint

        def step(self, action):
            return {"hip": super().step}[self.joint](action)

    spec = gymnasium.envs.registration.EnvSpec("Picky-v0", entry_point=Picky, max_episode_steps=3)
    monkeypatch.setitem(gymnasium.registry, "Picky-v0", spec)
    begin({"env_id": "Picky-v0"}, env_kwargs=("joint=hip",))
    with pytest.raises(InputError, match=r"Picky-v0 refuses the settings .*: KeyError: 'knee' is missing"):
        begin({"env_id": "Picky-v0"}, env_kwargs=("joint=knee",))


def test_a_folder_knows_its_run_again(run_agent, tmp_path):
    settings = ("--env-kwargs", "healthy_z_range=(0.7, 9.0)", "reset_noise_scale=0.01")
    run_agent(*settings, "--max-episode-steps", "5")
    (config,) = tmp_path.rglob("config.json")
    (episodes,) = tmp_path.rglob("episodes.csv")
    assert all(line.endswith(",5,") for line in episodes.read_text().splitlines()[1:])
    content = json.loads(config.read_text())
    assert content["identity"]["env_kwargs"] == {"healthy_z_range": [0.7, 9.0], "reset_noise_scale": 0.01}
    # As it was written before: the module with the id.
    content["identity"]["env_id"] = "some_module:Hopper-v5"
    config.write_text(json.dumps(content))
    assert "is finished: nothing to do" in run_agent(*settings, "--max-episode-steps", "5").stdout
    other = run_agent(*settings, check=False)
    assert other.returncode == 2
    assert "max_episode_steps is 5 there and None here" in other.stderr


RESCALE = {
    "name": "RescaleAction", "entry_point": "gymnasium.wrappers.transform_action:RescaleAction",
    "kwargs": {"min_action": -2.0, "max_action": 2.0},
}  # fmt: skip
REPEAT = {
    "name": "RepeatAction", "entry_point": "gymnasium.wrappers.stateful_action:RepeatAction",
    "kwargs": {"num_repeats": 4},
}  # fmt: skip


@pytest.fixture
def train(run_agent, small_dataset, tmp_path, monkeypatch):
    """`train(fields of the dataset, *options)`: the folder of a short run, and what was said."""

    def call(fields, *options, **settings):
        dataset = dataclasses.replace(small_dataset, **fields)
        monkeypatch.setattr("rlrat.runs.run.load_dataset", lambda *_, **__: dataset)
        done = run_agent(*options, **settings)
        (config,) = tmp_path.rglob("config.json")
        return config.parent, done

    return call


def played(folder, updates=(0, 40)):
    """Returns and lengths in a run's episodes.csv."""
    rows = [line.split(",") for line in (folder / "episodes.csv").read_text().splitlines()[1:]]
    assert {int(row[0]) for row in rows} >= set(updates)
    return np.array([[float(cell) for cell in row[4:6]] for row in rows]).T


@pytest.mark.parametrize(
    ("changes", "limit", "check"),
    [
        ({"max_episode_steps": 15}, 15, lambda returns, lengths: lengths.max() == 15),
        # Each reward is at most 0.2: 10 steps are worth at most 2.
        (
            {"max_episode_steps": 10, "additional_wrappers": [CLIP]},
            10,
            lambda returns, lengths: returns.max() <= 2 + 1e-9,
        ),
        # An untrained policy falls within 10 to 60 steps, each with 4 steps' rewards.
        ({"additional_wrappers": [REPEAT]}, 1000, lambda returns, lengths: (returns > 2 * lengths).all()),
    ],
)
def test_data_is_trained_on_and_evaluated_as_it_was_recorded(train, changes, limit, check):
    folder, done = train(recorded(**changes))
    assert check(*played(folder))
    assert done.stdout.count("no reference scores for Hopper-v5 (") == 1
    wrappers = [{name: one[name] for name in ("name", "kwargs")} for one in changes.get("additional_wrappers", [])]
    config = json.loads((folder / "config.json").read_text())
    assert config["environment"] == {
        "env_id": "Hopper-v5", "env_kwargs": {}, "max_episode_steps": limit, "wrappers": wrappers
    }  # fmt: skip
    again, _ = TrainedRun(folder).evaluate(2)
    returns, lengths = played(folder)
    assert again[None].returns[0].tolist() == returns[-2:].tolist()
    assert again[None].lengths[0].tolist() == lengths[-2:].tolist()
    assert "is finished: nothing to do" in train(recorded(**changes))[1].stdout
    _, other = train(recorded(), check=False)  # the same options on other data would be another run
    assert other.returncode == 2
    assert ("wrappers is" in other.stderr) == bool(wrappers)
    assert ("max_episode_steps is" in other.stderr) == (limit != 1000)


def test_actions_that_were_rescaled_are_those_of_the_environment(train):
    wide = {"action_low": np.full(3, -2, np.float32), "action_high": np.full(3, 2, np.float32)}
    folder, done = train(recorded(additional_wrappers=[RESCALE]) | wide)
    assert "warning" not in done.stderr
    trained = TrainedRun(folder)
    with trained.evaluator(1, {}) as evaluator:
        assert evaluator.action_space.high.tolist() == [2, 2, 2]
    assert TrainedRun(folder, env_id="Walker2d-v5").wrappers == ()
    assert TrainedRun(folder, env_id="Hopper-v5").wrappers == trained.wrappers != ()


def test_a_folder_of_before_is_evaluated_as_it_was(train):
    folder, _ = train(recorded())
    content = json.loads((folder / "config.json").read_text())
    del content["environment"], content["identity"]["ignore_wrappers"], content["arguments"]["ignore_wrappers"]
    (folder / "config.json").write_text(json.dumps(content))
    assert TrainedRun(folder).reference is not None
    assert "is finished: nothing to do" in train(recorded())[1].stdout
    _, other = train(recorded(additional_wrappers=[CLIP]), check=False)  # which it was evaluated without
    assert other.returncode == 2
    assert "wrappers is None there and [{'name': 'ClipReward'" in other.stderr


def test_an_environment_that_is_not_installed_is_trained_without(begin, monkeypatch):
    monkeypatch.setattr("rlrat.environments.registry._is_installed", lambda package: False)
    monkeypatch.setattr("gymnasium.envs.registration.registry", {})
    maze = {"env_id": "PointMaze_UMaze-v3", "reference": None}
    with pytest.raises(InputError, match=r"pip install 'rlrat\[robotics\]', or give --env-id none, to train without"):
        begin(maze)
    assert begin(maze, env_id="none")[0].environment is None


def test_an_environment_that_cannot_be_made_is_trained_without(begin):
    old = {"env_id": "Hopper-v2", "reference": None}
    with pytest.raises(InputError, match=r"did you mean Hopper-v5 or Hopper-v4\?; --env-id none trains without"):
        begin(old)
    assert begin(old, env_id="none")[0].environment is None
    newer = {"env_id": "Hopper-v5", "reference": None, "env_kwargs": {"new": 3}}
    with pytest.raises(InputError, match="argument 'new'; --env-id none trains without"):
        begin(newer)
