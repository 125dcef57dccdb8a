"""A run on dictionary observations: trained, judged, loaded and evaluated again in the order of its data."""

import json

import gymnasium
import numpy as np
import pytest
import torch

import rlrat
from rlrat.environments.registry import find_spec
from rlrat.errors import InputError
from rlrat.reports import build_report, read_runs
from rlrat.runs import export
from rlrat.runs.card import write_card
from rlrat.runs.judging import judge
from rlrat.runs.trained import TrainedRun
from tests.environments.goals import Reach, play

SETTINGS = {
    **{"total_updates": 20, "eval_every": 10, "eval_episodes": 2, "batch_size": 8, "hidden_dims": (8,)},
    **{"num_threads": 1, "reward_scaling": "none", "device": "cpu", "compile": False},
}
PARTS = [["desired_goal/height", 1], ["desired_goal/place", 2], ["observation", 4]]


@pytest.fixture(autouse=True)
def reach(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Reach-v0", entry_point=Reach, max_episode_steps=5)
    monkeypatch.setitem(gymnasium.registry, "Reach-v0", spec)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def train(tmp_path):
    """`train(agent, **arguments)`: the folder of a run on five episodes of it."""
    path = tmp_path / "reach"
    episodes = [play(Reach(), 6, seed) for seed in range(5)]
    rlrat.Dataset.from_episodes(episodes, id="reach", env_id="Reach-v0", drop_achieved_goal=False).save(path)
    # As another program would have written it: what is left out is found in the data.
    metadata = json.loads((path / "data" / "metadata.json").read_text())
    del metadata["rlrat_observation_parts"]
    (path / "data" / "metadata.json").write_text(json.dumps(metadata))

    def run(agent="iql", **arguments):
        kept = {name: value for name, value in SETTINGS.items() if agent == "iql" or name != "reward_scaling"}
        (folder,) = rlrat.train(agent, path, run_dir=tmp_path / "runs", **kept | arguments).paths
        return folder

    return run


def evaluations(folder):
    return [line.split(",") for line in (folder / "evaluations.csv").read_text().splitlines()[1:]]


def test_a_run_knows_its_parts_and_is_evaluated_again_by_them(train, tmp_path):
    folder = train()
    config = json.loads((folder / "config.json").read_text())
    assert (config["observation_parts"], config["identity"]["drop_achieved_goal"]) == (PARTS, None)
    last = float(evaluations(folder)[-1][5])
    again, _ = TrainedRun(folder).evaluate(2)
    assert again[None].return_mean[0] == last
    policy = rlrat.load_policy(folder)
    assert policy.observation_parts == tuple(map(tuple, PARTS))
    assert rlrat.evaluate(policy, "Reach-v0", 2, seed=0).return_mean[0] == last
    observation, _ = Reach().reset(seed=3)
    goal = observation["desired_goal"]
    vector = np.concatenate([[goal["height"]], goal["place"], observation["observation"]])
    np.testing.assert_array_equal(policy(observation), policy(vector))
    with pytest.raises(InputError, match="observations lack desired_goal/height: they have observation"):
        policy({"observation": observation["observation"]})
    (judgement,) = judge([folder], rlrat.evaluation.FQESettings(updates=5), refits=0)
    assert np.isfinite(judgement.value)
    text = write_card(folder).read_text()
    assert "with their widths: `desired_goal/height 1`, `desired_goal/place 2`, `observation 4`." in text
    done = export(folder, format="numpy")
    assert done.difference < 1e-5
    text = done.files[0].read_text()
    assert "# observation 0 to 0: desired_goal/height\n# observation 1 to 2: desired_goal/place\n# obs" in text


FAMILIES = {  # of Gymnasium-Robotics: how wide observations are, and whether success is the score
    "PointMaze_UMaze-v3": (6, False),
    "AntMaze_UMaze-v5": (109, True),
    "FetchPush-v4": (28, False),
    "FrankaKitchen-v1": (93, False),
    "AdroitHandDoor-v1": (39, False),
    "AdroitHandHammer-v1": (46, False),
    "AdroitHandPen-v1": (45, False),
    "AdroitHandRelocate-v1": (39, False),
}


@pytest.mark.parametrize(
    "env_id",
    [pytest.param(env_id, marks=[pytest.mark.kitchen] * env_id.startswith(("Fetch", "Franka"))) for env_id in FAMILIES],
)
def test_a_set_of_every_family_goes_from_episodes_to_a_report(env_id, tmp_path):
    pytest.importorskip("gymnasium_robotics")
    width, by_success = FAMILIES[env_id]
    spec = {"id": env_id, "max_episode_steps": 3, "kwargs": {}}
    env = gymnasium.make(find_spec(env_id), disable_env_checker=True, max_episode_steps=3)
    about = {"id": "tiny", "env_id": env_id, "env_recorded": {"env_spec": spec}}
    dataset = rlrat.Dataset.from_episodes([play(env, 3, seed) for seed in range(2)], **about)
    env.close()
    assert dataset.observations.shape == (6, width)
    settings = {**SETTINGS, "total_updates": 2, "eval_every": 2, "run_dir": tmp_path}
    result = rlrat.train("iql", dataset, **settings)
    assert set(result.episodes["length"]) == {3}  # as recorded
    assert set(result.episodes["success"]) == {0}
    (summary,) = result.summaries
    assert (summary["status"], summary["final_success_rate"]) == ("finished", 0)
    assert summary["final_score"] == (0 if by_success else None)
    again, _ = TrainedRun(result.path).evaluate(2)
    assert again[None].return_mean[0] == summary["final_return"]
    (task,) = build_report(read_runs([tmp_path])).tasks
    assert (task.measure, task.groups[0].final_success) == ("score" if by_success else "return", 0)


def test_what_the_user_keeps_is_another_run(train):
    folders = [train("bc", drop_achieved_goal=drop) for drop in (None, False)]
    assert "drop_achieved_goal=False" in folders[1].parent.name
    configs = [json.loads((folder / "config.json").read_text()) for folder in folders]
    assert [len(config["observation_parts"]) for config in configs] == [3, 4]
    assert TrainedRun(folders[1]).policy.settings["observation_size"] == 9
    (judgement,) = judge([folders[1]], rlrat.evaluation.FQESettings(updates=5), refits=0)
    assert np.isfinite(judgement.value)  # on the same data: another one has other widths


def test_a_policy_that_looks_back_takes_dictionaries_too(train):
    folder = train("decision_transformer", num_layers=1, embedding_size=8, num_heads=1, context_length=4)
    policy = rlrat.load_policy(folder)
    observation, _ = Reach().reset(seed=3)
    assert policy(observation).shape == (2,)


def test_another_environment_than_the_datas_is_one_line(train, monkeypatch):
    kwargs = ("goal_width=3",)
    with pytest.raises(InputError, match="desired_goal/place in the data's observations has 2 components, that of "):
        train(env_kwargs=kwargs)
    with pytest.raises(InputError, match=r"Hopper-v5 has the observations Box.*the data's are dictionaries: choose"):
        train(env_id="Hopper-v5")
    folder = train(env_id="none", fqe_updates=5)
    assert rlrat.load_policy(folder).observation_parts == tuple(map(tuple, PARTS))
    with pytest.raises(InputError, match=r"takes as observations dictionaries \(desired_goal/height 1, .*Reach-v0 "):
        TrainedRun(folder, env_id="Reach-v0", env_kwargs=kwargs).evaluate(1)


def test_a_checkpoint_whose_parts_are_not_its_policys_is_one_line(train):
    folder = train("bc")
    path = folder / "checkpoint.pt"
    checkpoint = torch.load(path, weights_only=True)
    for wrong, said in (([["a", 3]], "does not fit this version .*observation_parts are a 3"), (["a"], "is damaged")):
        torch.save({**checkpoint, "observation_parts": wrong}, path)
        with pytest.raises(InputError, match=said) as caught:
            rlrat.load_policy(path)
        assert "\n" not in str(caught.value)
