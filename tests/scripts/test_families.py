"""A tiny set of every family of MuJoCo data goes through load, train, evaluate and report."""

import csv
import json
import os
import subprocess

import gymnasium
import numpy as np
import pytest

import rlrat
from rlrat.datasets.d4rl_names import NAMES
from rlrat.environments.registry import find_spec
from rlrat.evaluation.evaluator import reset_seed
from rlrat.runs.folder import RunFolder
from scripts import compare, evaluate
from tests.families import LIMIT, write

pytest.importorskip("gymnasium_robotics")

EPISODES = 2
TASKS = ("bottom burner", "hinge cabinet", "kettle", "light switch", "microwave", "slide cabinet", "top burner")
KITCHEN = [*(f"{goal}_goal/{task}" for goal in ("achieved", "desired") for task in TASKS), "observation"]
MINARI = {  # what policies see, the measure of a score
    "PointMaze_UMazeDense-v3": (["desired_goal", "observation"], None),
    "AntMaze_UMaze-v5": (["achieved_goal", "desired_goal", "observation"], "success"),
    "AdroitHandDoor-v1": ([], None),
    "FetchReachDense-v4": (["desired_goal", "observation"], None),
    "FrankaKitchen-v1": (KITCHEN, None),
}
D4RL = {
    "hopper-medium-v2": "return",
    "antmaze-umaze-v2": "success",
    "maze2d-umaze-dense-v1": "return",
    "door-human-v1": "return",
    "kitchen-complete-v0": "return",
}
OGBENCH = {
    "pointmaze-medium-navigate": 1,
    "cube-single-play": 1,
    "cube-double-play": 2,
    "puzzle-3x3-play": 5,
}  # sub-goals
AGENTS = {"AntMaze_UMaze-v5": "td3_bc", "PointMaze_UMazeDense-v3": "cql", "AdroitHandDoor-v1": "decision_transformer"}
SETTINGS = {
    "iql": ("--reward-scaling", "none"),
    "cql": ("--reward-scaling", "none"),
    "decision_transformer": (
        *("--target-returns", 1, "--context-length", 4, "--embedding-size", 8, "--num-layers", 1, "--num-heads", 1),
    ),
}
WARNINGS = (  # of the kitchen, of the door
    "desired_goal is the same in every step: policies learn for this alone",
    "whose reward has 0.1 x the hand's distance with the wrong sign since gymnasium-robotics 1.2.1",
)
CHEAP = ("AntMaze_UMaze-v5", "AdroitHandDoor-v1")


def marked(name):
    marks = [] if name in CHEAP else [pytest.mark.slow]
    if name.startswith(("Fetch", "Franka", "kitchen")):
        marks.append(pytest.mark.kitchen)
    return pytest.param(name, AGENTS.get(name, "iql"), marks=marks)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    for variable, name in {"MINARI_DATASETS_PATH": "minari", "OGBENCH_DATASET_DIR": "ogbench"}.items():
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def through(run_agent, agent, tmp_path, capfd, recwarn):
    """`through(dataset, ...)`: train, evaluate and report; its folder, config.json, last line, what was said."""

    def go(dataset, *extra, warnings=()):
        recwarn.clear()  # of who wrote the dataset
        settings = ("--total-updates", 2, "--eval-every", 2, "--checkpoint-every", 2, "--eval-episodes", EPISODES)
        trained = run_agent("--dataset", dataset, *settings, *SETTINGS.get(agent, ()), *extra)
        (folder,) = (tmp_path / "runs").glob("*/*/*/seed0")
        lines = RunFolder(folder).evaluations()
        assert [line["update"] for line in lines] == ["0", "2"]

        evaluate.main(evaluate.Arguments((folder,), episodes=EPISODES))
        printed = capfd.readouterr()
        (head,) = [line.split("┃") for line in printed.out.splitlines() if line.startswith("┃")]
        (row,) = [line.split("│") for line in printed.out.splitlines() if line.startswith("│")]
        shown = {name.strip(): cell.strip() for name, cell in zip(head, row, strict=True)}
        assert shown["return"].startswith(f"{float(lines[-1]['return_mean']):.1f} +- ")
        assert shown["length"] == f"{float(lines[-1]['length_mean']):.1f}"
        score = lines[-1]["normalized_score"]
        assert shown["score"] == (f"{float(score):.1f}" if score else "-")

        compare.main(compare.Arguments(runs=(tmp_path / "runs",)))
        report = capfd.readouterr()
        (result,) = [line for line in report.out.splitlines() if line.startswith(f"| {agent} on ")][:1]
        assert ("score" if score else "return") in result
        heard = [*trained.stderr.splitlines(), *printed.err.splitlines(), *report.err.splitlines()]
        assert [line for line in heard if not any(expected in line for expected in warnings)] == []
        assert [str(warning.message) for warning in recwarn] == []
        return folder, json.loads((folder / "config.json").read_text()), lines[-1], trained.stdout

    return go


def vector(observation, names):
    """Put the named parts of an observation side by side, as config.json has them."""
    if not names:
        return np.asarray(observation)
    parts = []
    for name in names:
        part = observation
        for key in name.split("/"):
            part = part[key]
        parts.append(np.ravel(part))
    return np.concatenate(parts)


def played(folder, config):
    """Play the run's episodes in plain environments of Gymnasium, side by side: returns and successes."""
    policy, about = rlrat.load_policy(folder), config["environment"]
    settings = {**about["env_kwargs"], "max_episode_steps": about["max_episode_steps"]}
    spec = find_spec(about["env_id"])
    envs = [gymnasium.make(spec, disable_env_checker=True, **settings) for _ in range(EPISODES)]
    names = [name for name, _ in config["observation_parts"]]
    seen = [vector(env.reset(seed=reset_seed(0, index))[0], names) for index, env in enumerate(envs)]
    returns, successes, over = np.zeros(EPISODES), np.zeros(EPISODES), np.zeros(EPISODES, bool)
    if hasattr(policy, "reset"):
        policy.reset()
    while not over.all():
        rewards = np.zeros((1, EPISODES))
        for index, action in enumerate(policy(np.stack(seen)[None])[0]):
            if not over[index]:
                observation, reward, terminated, truncated, info = envs[index].step(action)
                seen[index], over[index] = vector(observation, names), terminated or truncated
                rewards[0, index] = reward
                done = info.get("success", info.get("is_success", 0.0))
                successes[index] = max(successes[index], done)
        returns += rewards[0]
        if hasattr(policy, "observe"):
            policy.observe(rewards, over[None])
    for env in envs:
        env.close()
    return returns, successes


def expect_plain_returns(folder, config):
    """Compare the run's last evaluation, bit by bit, with what `played` finds."""
    returns, successes = played(folder, config)
    with (folder / "episodes.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["update"] == "2"]
    assert [float(row["return"]) for row in rows] == returns.tolist()
    assert [float(row["success"] or 0) for row in rows] == successes.tolist()


@pytest.mark.parametrize(("name", "agent"), [marked(name) for name in MINARI])
def test_a_set_of_minaris(name, through, tmp_path):
    parts, measure = MINARI[name]
    folder, config, last, said = through(write(name, tmp_path), warnings=WARNINGS)
    environment = config["environment"]
    assert (environment["env_id"], environment["max_episode_steps"], environment["wrappers"]) == (name, LIMIT, [])
    assert [part for part, _ in config["observation_parts"]] == parts
    assert float(last["length_mean"]) == LIMIT
    if measure is None:
        assert f"no reference scores for {name} (at most {LIMIT} steps) with this data: returns are raw" in said
        assert last["normalized_score"] == ""
    else:
        assert config["reference"]["measure"] == measure
        assert float(last["normalized_score"]) == 100 * float(last["success_rate"])
    expect_plain_returns(folder, config)


@pytest.mark.parametrize(("name", "agent"), [marked(name) for name in D4RL])
def test_a_file_of_d4rls(name, through, tmp_path):
    folder, config, last, _ = through(write(name, tmp_path))
    entry, rate = NAMES[name], last["success_rate"]
    assert config["environment"]["env_id"] == entry.env_id
    assert config["environment"]["max_episode_steps"] == entry.time_limit
    assert config["reference"]["measure"] == D4RL[name]
    assert (rate == "") == (entry.family == "locomotion")
    score = 100 * (float(last["return_mean"]) - entry.random) / (entry.expert - entry.random)
    assert float(last["normalized_score"]) == pytest.approx(100 * float(rate) if D4RL[name] == "success" else score)
    expect_plain_returns(folder, config)


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["iql"])
@pytest.mark.parametrize("task", OGBENCH)
def test_a_task_of_ogbenchs(task, through, tmp_path):
    pytest.importorskip("ogbench", exc_type=ImportError)
    name = f"{task}-singletask-v0"
    _, config, last, said = through(write(name, tmp_path), "--max-episode-steps", 8)
    env_id = f"{task.rpartition('-')[0]}-singletask-v0"
    assert (config["environment"]["env_id"], config["environment"]["max_episode_steps"]) == (env_id, 8)
    assert f"no reference scores for {env_id} (at most 8 steps) with this data: returns are raw" in said
    assert (last["length_mean"], last["success_rate"]) == ("8.0", "0.0")
    assert float(last["return_mean"]) == -8.0 * OGBENCH[task]


@pytest.mark.slow
def test_nothing_else_reaches_the_screen(command, tmp_path):
    """What is imported warns once a process: that there is no display, that spaces are rounded."""
    pytest.importorskip("ogbench", exc_type=ImportError)
    name = write("cube-single-play-singletask-v0", tmp_path)
    rlrat.load_dataset(name)
    env = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "PYTHONWARNINGS")}
    argv = command("--dataset", name, "--reward-scaling", "none", "--max-episode-steps", "5")
    done = subprocess.run(argv, capture_output=True, text=True, env=env, check=True)
    assert done.stderr == ""
    begins = ("no reference scores", "update 0:", "update 20:", "update 40:", str(tmp_path / "runs"))
    for line, begin in zip(done.stdout.splitlines(), begins, strict=True):
        assert line.startswith(begin)
