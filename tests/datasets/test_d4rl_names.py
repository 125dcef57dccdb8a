"""The table of D4RL's names, and a tiny file of every family in D4RL's layout."""

import h5py
import numpy as np
import pytest

import rlrat
from rlrat import load_dataset
from rlrat.datasets import d4rl, names
from rlrat.datasets.d4rl_names import AGENTS, NAMES, agent_of, d4rl_name_of
from rlrat.environments.d4rl import TASKS
from rlrat.errors import InputError
from rlrat.evaluation.scores import d4rl_tables, find_reference
from rlrat.reports import build_report, read_runs


def test_how_many_names_each_family_has():
    count = {family: sum(entry.family == family for entry in NAMES.values()) for family in FAMILIES}
    # 4 agents of 5 levels in v0, 6 in v1 and v2, and ant-random-expert-v0
    assert count == {"locomotion": 4 * 17 + 1, "antmaze": 18, "maze2d": 14, "adroit": 24, "kitchen": 3}


FAMILIES = {
    "locomotion": ("halfcheetah_mixed", "halfcheetah-medium-replay-v0", "HalfCheetah-v4", "d4rl", 1000),
    "antmaze": (
        *("Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse_fixed", "antmaze-large-play-v2"),
        *("antmaze-large-play-v2", "success", 1000),
    ),
    "maze2d": ("maze2d-umaze-dense-v1", "maze2d-umaze-dense-v1", "maze2d-umaze-dense-v1", "d4rl", 300),
    "adroit": ("pen-demos-v0-bc-combined", "pen-cloned-v0", "pen-cloned-v0", "d4rl", 100),
    "kitchen": (
        *("mini_kitchen_microwave_kettle_light_slider-v0", "kitchen-complete-v0", "kitchen-complete-v0"),
        *("d4rl", 280),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_of_every_family(family, write_hdf5, d4rl_arrays, capsys):
    stem, id, env_id, reference, limit = FAMILIES[family]
    observations, actions = NAMES[id].widths
    data = d4rl_arrays("." * 3, steps=limit, observations=observations, actions=actions)
    del data["timeouts"]
    dataset = load_dataset(write_hdf5(f"d4rl/{stem}.hdf5", data))
    assert (dataset.id, dataset.env_id, dataset.reference) == (id, env_id, reference)
    # cut at the time limit: the last step of each episode has no next observation
    assert (dataset.episode_lengths.tolist(), len(dataset)) == ([limit] * 3, 3 * limit - 3)
    assert dataset.longest_episode == limit
    said = capsys.readouterr().err
    assert f"episodes are split after {limit} steps" in said
    assert (f"{id}: D4RL's v0 has no timeouts" in said) == (family == "locomotion")
    if reference == "d4rl":
        found = find_reference(dataset.id, "d4rl")
        assert (found.random, found.expert) == (NAMES[id].random, NAMES[id].expert)
        assert found.measured_with == "d4rl 1.1, gym and mujoco_py"


@pytest.mark.parametrize("name", ["observations", "actions"])
def test_other_widths_than_d4rls(name, write_hdf5, d4rl_arrays):
    widths = {"observations": 29, "actions": 8, name: 5}
    path = write_hdf5("antmaze-umaze-v2.hdf5", d4rl_arrays(**widths))
    right = {"observations": 29, "actions": 8}[name]
    with pytest.raises(InputError, match=rf"has 5 {name} a step, D4RL's antmaze-umaze-v2 has {right}: give the file"):
        load_dataset(path)
    assert load_dataset(path.rename(path.with_name("mine.hdf5"))).env_id is None


@pytest.mark.parametrize("name", ["antmaze-umaze-v1", "hammer-human-v0", "kitchen-mixed-v0", "maze2d-open-v0"])
def test_a_name_is_downloaded_from_where_d4rl_has_it(name, monkeypatch, tmp_path, write_hdf5, d4rl_arrays):
    paths = {
        "antmaze-umaze-v1": "ant_maze_v1/Ant_maze_umaze_noisy_multistart_False_multigoal_False_sparse.hdf5",
        "hammer-human-v0": "hand_dapg/hammer-v0_demos_clipped.hdf5",
        "kitchen-mixed-v0": "kitchen/kitchen_microwave_kettle_bottomburner_light-v0.hdf5",
        "maze2d-open-v0": "maze2d/maze2d-open-sparse.hdf5",
    }
    observations, actions = NAMES[name].widths
    there = write_hdf5("server.hdf5", d4rl_arrays(observations=observations, actions=actions))

    def download(url, path, **_):
        assert url == f"https://rail.eecs.berkeley.edu/datasets/offline_rl/{paths[name]}"
        path.parent.mkdir(parents=True)
        there.rename(path)

    monkeypatch.setattr(d4rl, "download", download)
    dataset = load_dataset(name)
    assert dataset.id == name
    path = names.d4rl_folder() / paths[name].rpartition("/")[2]
    assert load_dataset(path).fingerprint == dataset.fingerprint
    assert load_dataset(path).id == name


def test_every_file_has_one_name():
    assert len({entry.file for entry in NAMES.values()}) == len(NAMES)
    for name, entry in NAMES.items():
        assert d4rl_name_of(entry.file.removesuffix(".hdf5"), is_d4rls=True) == name
        assert d4rl_name_of(name, is_d4rls=False) == name
        assert entry.env_id in (name, *(agent.env_id for agent in AGENTS.values()))
        assert entry.random < entry.expert
    assert {name for name, entry in NAMES.items() if entry.family != "locomotion"} == set(TASKS)


def test_names_that_are_nearly_d4rls():
    assert agent_of("hopper-medium") == agent_of("hopper-medium-v1") == agent_of("hopper-full-replay-v0") == "hopper"
    assert agent_of("hopper-medium-v3") is agent_of("pen-human-v1") is agent_of("hopper") is None
    assert d4rl_name_of("walker2d_medium_expert-v2", is_d4rls=False) == "walker2d-medium-expert-v2"
    assert d4rl_name_of("antmaze-umaze", is_d4rls=True) is d4rl_name_of("pen", is_d4rls=True) is None


@pytest.mark.parametrize(
    ("stem", "theirs", "own"),
    [
        ("hopper_medium", "hopper-medium-v0", "hopper-medium"),
        ("walker_mixed", "walker2d-medium-replay-v0", "walker_mixed"),
    ],
)
def test_locomotions_v0_is_d4rls_in_its_folder_alone(stem, theirs, own, write_hdf5, d4rl_arrays, capsys):
    """Elsewhere it is a log like any other: with its own next observations, and no reference returns."""
    observations, actions = NAMES[theirs].widths
    data = d4rl_arrays("to", observations=observations, actions=actions)
    data["next_observations"] = np.roll(data["observations"], -1, axis=0)
    data["next_observations"][[4, 9]] += 1.0
    dataset = load_dataset(write_hdf5(f"{stem}.hdf5", data))
    assert (dataset.id, dataset.reference, len(dataset)) == (own, None, 10)
    assert "D4RL's v0" not in capsys.readouterr().err
    dataset = load_dataset(write_hdf5(f"d4rl/{stem}.hdf5", data))
    assert (dataset.id, dataset.reference, len(dataset)) == (theirs, "d4rl", 9)


def test_urls_and_scores_are_d4rls():
    tables = d4rl_tables()
    if tables is None:
        pytest.skip("the extra d4rl is not installed")
    for name, entry in NAMES.items():
        if name in tables.urls:
            assert tables.urls[name].replace("http://", "https://") == f"{d4rl.BASE_URL}/{entry.path}"
        if name in tables.random:
            assert (tables.random[name], tables.expert[name]) == (entry.random, entry.expert)
    assert len(set(tables.urls) & set(NAMES)) > 100


def write_set(name, folder):
    """Write two random episodes, the second broken off, in the file that D4RL has under a name; return its path."""
    entry, random = NAMES[name], np.random.default_rng(0)
    steps = entry.time_limit + 1
    with h5py.File(folder / entry.file, "w") as file:
        for array, width in zip(("observations", "actions"), entry.widths, strict=True):
            file[array] = random.uniform(-1, 1, (steps, width)).astype(np.float32)
        sparse = entry.family == "antmaze"
        file["rewards"] = (np.arange(steps) % 50 == 49).astype(float) if sparse else random.uniform(size=steps)
        file["terminals"] = np.arange(steps) % 50 == 49 if sparse else np.zeros(steps, bool)
        file["timeouts"] = np.arange(steps) == entry.time_limit - 1
    return str(folder / entry.file)


SETTINGS = {
    **{"total_updates": 2, "eval_every": 2, "eval_episodes": 2, "batch_size": 4, "hidden_dims": (4,)},
    "device": "cpu",
}


@pytest.mark.parametrize("name", ["pen-human-v1", "maze2d-open-dense-v0"])
def test_a_set_of_d4rls_goes_through_load_train_evaluate_and_report(name, tmp_path, capsys):
    pytest.importorskip("gymnasium_robotics")
    entry = NAMES[name]
    result = rlrat.train("iql", write_set(name, tmp_path), run_dir=tmp_path / "runs", **SETTINGS)
    said = capsys.readouterr().out
    assert f"rewards of {entry.family}, as IQL's authors have them: they are not scaled (--reward-scaling)" in said
    (summary,) = result.summaries
    assert (summary["status"], summary["reference"]["name"]) == ("finished", f"d4rl-{name[-2:]}")
    assert summary["reference"]["measured_with"] == "d4rl 1.1, gym and mujoco_py"
    score = 100 * (summary["final_return"] - entry.random) / (entry.expert - entry.random)
    assert summary["final_score"] == pytest.approx(score)
    assert max(result.episodes["length"]) <= entry.time_limit
    assert result.path.is_relative_to(tmp_path / "runs" / name)
    (task,) = build_report(read_runs([tmp_path / "runs"])).tasks
    assert (task.measure, name in task.name) == ("score", True)


def test_antmaze_is_learned_from_shifted_rewards_and_scored_by_success(tmp_path, capsys):
    pytest.importorskip("gymnasium_robotics")
    path = write_set("antmaze-umaze-v2", tmp_path)
    settings = {**SETTINGS, "run_dir": tmp_path / "runs", "eval_episodes": 1}
    (summary,) = rlrat.train("iql", path, **settings).summaries
    assert (
        "rewards of antmaze, as IQL's authors have them: 1 is subtracted (--reward-shift), and they are not scaled"
    ) in capsys.readouterr().out
    assert (summary["status"], summary["reference"]["measure"]) == ("finished", "success")
    assert summary["final_score"] == 100 * summary["final_success_rate"]
