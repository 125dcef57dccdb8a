"""Which environment a run is evaluated in, when its scores have a reference, and how its folder knows it again."""

import dataclasses
import json
import sys

import gymnasium
import pytest
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

from agents.iql import Arguments
from rlrat.errors import InputError
from rlrat.runs.run import Run

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


def test_what_is_not_evaluated_as_recorded_has_no_reference_and_that_is_said_once(begin):
    recorded = {"env_spec": {**SPEC, "max_episode_steps": 500}}
    run, said = begin({"env_recorded": recorded})
    assert run.reference is None
    assert said.count("dataset test/hopper records a time limit of 500 steps, not 1000 steps") == said.count("\n") == 1
    run, said = begin({"env_recorded": recorded}, max_episode_steps=500)  # followed, but not what references are of
    assert (run.reference, said) == (None, "")
    assert run._evaluator([0], 1).time_limit == 500
    run, said = begin({"env_recorded": {"env_spec": {**SPEC, "additional_wrappers": [{"name": "ScaleReward"}]}}})
    assert run.reference is None
    assert "records wrappers that are not applied: ScaleReward" in said
    run, said = begin({}, max_episode_steps=500)
    assert (run.reference, said) == (None, "")


def test_d4rls_own_settings_keep_their_reference(begin):
    ant = {"env_id": "Hopper-v4", "reference": "d4rl", "env_kwargs": {"healthy_reward": 1.0}}
    assert begin(ant)[0].reference.name == "d4rl-v2"
    assert begin(ant, env_kwargs=("healthy_reward=2",))[0].reference is None


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
            assert (run.env_id, run.env_kwargs) == ("OwnHopper-v0", {"healthy_reward": 2.0})
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
    assert all(line.endswith(",5") for line in episodes.read_text().splitlines()[1:])
    content = json.loads(config.read_text())
    assert content["identity"]["env_kwargs"] == {"healthy_z_range": [0.7, 9.0], "reset_noise_scale": 0.01}
    # As it was written before: the module with the id.
    content["identity"]["env_id"] = "some_module:Hopper-v5"
    config.write_text(json.dumps(content))
    assert "is finished: nothing to do" in run_agent(*settings, "--max-episode-steps", "5").stdout
    other = run_agent(*settings, check=False)
    assert other.returncode == 2
    assert "max_episode_steps is 5 there and None here" in other.stderr
