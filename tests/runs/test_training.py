"""Training from Python: what the command does, on a dataset in memory."""

import json
import math
import sys

import gymnasium
import numpy as np
import pandas
import pytest

import rlrat
from rlrat.datasets.bounds import typed_bounds
from rlrat.errors import InputError
from rlrat.networks import activations
from rlrat.reports.learned import read_learned
from rlrat.runs.training import RunResult
from tests.goal_env import GOAL_ID, SPEC, goal_dataset
from tests.short_runs import ROOT

SMALL = {
    **{"hidden_dims": (8, 8), "batch_size": 16, "total_updates": 40, "eval_every": 20, "num_threads": 1},
    **{"fqe_updates": 10, "log_every": 20},
}


def own_data(seed: int) -> rlrat.Dataset:
    """Ten episodes of two numbers observed and one action, with no environment."""
    random = np.random.default_rng(seed)
    episodes = [
        {
            "observations": random.normal(size=(13, 2)),
            "actions": random.uniform(-1, 1, (12, 1)),
            "rewards": random.normal(size=12),
            "terminations": np.zeros(12, bool),
            "truncations": np.arange(12) == 11,
        }
        for _ in range(10)
    ]
    return rlrat.Dataset.from_episodes(episodes, id="my-log")


@pytest.fixture
def log() -> rlrat.Dataset:
    return own_data(seed=3)


def test_arrays_become_a_policy_and_a_curve(log, tmp_path, capsys):
    settings = {**SMALL, "run_dir": str(tmp_path), "num_seeds": 2, "rational": {"degrees": [3, 2]}}
    result = rlrat.train("iql", log, activation="rational", **settings)
    assert isinstance(result, RunResult)
    names = ["my-log/iql/rational+batch_size=16,hidden_dims=8x8,rational.degrees=3x2/seed" + seed for seed in "01"]
    assert result.paths == tuple(tmp_path / name for name in names)
    assert "dataset my-log names no environment (--env-id)" in capsys.readouterr().out
    curves = pandas.DataFrame(result.curves)
    assert curves.groupby("seed")["update"].apply(list).to_dict() == {0: [0, 20, 40], 1: [0, 20, 40]}
    assert np.isfinite(curves["fqe_value"]).all()
    assert curves["return_mean"].isna().all()
    assert list(result.metrics["update"]) == [20, 40] * 2
    assert result.episodes == {}
    assert [summary["status"] for summary in result.summaries] == ["finished"] * 2
    assert result.policy(np.zeros(2)).shape == (1,)
    other = result.load_policy(member=1)
    assert not np.array_equal(other(np.zeros(2)), result.policy(np.zeros(2)))
    assert result.path == result.paths[0]


def test_a_task_with_a_goal_is_scored_by_how_often_it_is_reached(tmp_path, capsys, monkeypatch, scalars):
    monkeypatch.setitem(gymnasium.registry, GOAL_ID, SPEC)
    settings = {**SMALL, "run_dir": tmp_path, "num_seeds": 2, "eval_episodes": 4, "keep_best": "score"}
    result = rlrat.train("bc", goal_dataset(), **settings)
    curves, episodes = pandas.DataFrame(result.curves), pandas.DataFrame(result.episodes)
    # Each seed has the same episodes at every evaluation, and whether the goal is reached is drawn at their reset.
    rates = {seed: float(np.mean(group["success"])) for seed, group in episodes.groupby("seed")}
    assert 0 < rates[0] != rates[1] < 1
    assert set(episodes["success"]) == {0, 1}
    np.testing.assert_allclose(curves["success_rate"], [rates[0]] * 3 + [rates[1]] * 3)
    np.testing.assert_allclose(curves["normalized_score"], 100 * curves["success_rate"])
    assert (curves["return_mean"] < -5).all()
    for seed, (path, summary) in enumerate(zip(result.paths, result.summaries, strict=True)):
        assert summary["final_success_rate"] == pytest.approx(rates[seed])
        assert summary["final_score"] == summary["best"]["value"] == pytest.approx(100 * rates[seed])
        assert summary["reference"]["measure"] == "success"
        assert summary["final_return"] == pytest.approx(curves["return_mean"][3 * seed])
        points = scalars(path)
        assert points["eval/success_rate"] == pytest.approx(dict.fromkeys((0, 20, 40), rates[seed]))
        assert list(points["final/success_rate"]) == [40]
        header, *lines = (path / "evaluations.csv").read_text().splitlines()
        assert header.endswith(",normalized_score,success_rate")
        assert all(float(line.rpartition(",")[2]) == pytest.approx(rates[seed]) for line in lines)
        assert (path / "episodes.csv").read_text().splitlines()[0].endswith(",length,success")
    mean = np.mean(list(rates.values()))
    said = capsys.readouterr().out
    assert f"over 2 seeds, success rate {mean:.2f}, score {100 * mean:.1f}\n" in said
    assert f"success rate {rates[1]:.2f}, score {100 * rates[1]:.1f}, the mean of its last 2 evaluations" in said


def test_the_same_call_trains_once_and_other_content_is_refused(log, tmp_path, capsys):
    settings = {**SMALL, "run_dir": tmp_path}
    first = rlrat.train("bc", log, **settings)
    written = (first.path / "checkpoint.pt").stat().st_mtime_ns
    capsys.readouterr()
    again = rlrat.train("bc", log, **settings)
    assert "is finished: nothing to do" in capsys.readouterr().out
    assert (again.path / "checkpoint.pt").stat().st_mtime_ns == written
    assert again == first
    with pytest.raises(InputError, match=r"my-log/bc/.* holds a run with other settings .*dataset_fingerprint"):
        rlrat.train("bc", own_data(seed=4), **settings)
    assert json.loads((first.path / "config.json").read_text())["dataset"]["fingerprint"] == log.fingerprint


def test_it_is_what_the_command_does(run_agent, tmp_path):
    run_agent()
    settings = {**SMALL, "hidden_dims": (16, 16), "eval_episodes": 2, "log_every": 10, "checkpoint_every": 20}
    result = rlrat.train("iql", "rlrat/hopper/mixed-v0", **settings, run_dir=tmp_path / "ours")
    (theirs,) = tmp_path.glob("runs/*/*/*/seed0")
    assert (result.path / "episodes.csv").read_text() == (theirs / "episodes.csv").read_text()
    assert len(result.episodes["return"]) == 6
    assert math.isnan(result.curves["target_return"][0])


def test_an_agent_of_ones_own_is_given_by_its_file(log, tmp_path):
    own = tmp_path / "my_bc.py"
    own.write_text((ROOT / "agents/bc.py").read_text().replace('Run("bc"', 'Run("mine"'))
    result = rlrat.train(own, log, **SMALL, run_dir=tmp_path / "runs")
    assert result.path.parent.parent.name == "mine"


def test_an_activation_of_ones_own_trains_is_recorded_and_drawn(log, tmp_path, monkeypatch):
    """What is recorded is drawn without its module, which nothing imports that does not name it."""
    (tmp_path / "my_swish.py").write_text(SWISH)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    settings = {**SMALL, "num_seeds": 2, "actor_activation": "my_swish:Swish"}
    with pytest.raises(InputError, match="there is no module my_swich: it must be installed"):
        rlrat.train("iql", log, run_dir=tmp_path / "runs", **{**settings, "actor_activation": "my_swich:Swish"})
    done = rlrat.train("iql", log, run_dir=tmp_path / "runs", **settings)
    observations = np.zeros((3, 2), np.float32)
    actions = done.policy(observations)
    layers = read_learned(done.paths[0])
    assert {(name, layer.version) for name, layer in layers.items()} == {
        (f"policy.mean.hidden.{index}", "custom:Swish") for index in range(2)
    }
    layer = layers["policy.mean.hidden.1"]
    beta = layer.numerator[:, 0, 0, 0, 0]
    assert beta[0] == 1.0 != beta[-1]
    x = np.linspace(*layer.at([-1]).range(), 9)
    np.testing.assert_allclose(layer.values(x)[-1, 0, 0, 0], x / (1 + np.exp(-beta[-1] * x)), atol=1e-2)
    metrics = pandas.read_csv(done.paths[0] / "metrics.csv")
    assert metrics["activation/policy.mean.hidden.1.activation/steepness"].iloc[-1] == pytest.approx(beta[-1])
    with monkeypatch.context() as elsewhere:  # as in a process of its own
        elsewhere.setattr(activations, "_modules", set())
        elsewhere.delitem(sys.modules, "my_swish")
        with pytest.raises(InputError, match=r"^activation 'my_swish:Swish' is of a module .* --activation-modules"):
            rlrat.load_policy(done.paths[0])
        assert "my_swish" not in sys.modules
        policy = rlrat.load_policy(done.paths[0], activation_modules=["my_swish"])
        np.testing.assert_array_equal(policy(observations), actions)
        del sys.modules["my_swish"]


SWISH = """
import torch
from torch import nn


class Swish(nn.Module):
    trained_activation = True

    def __init__(self, features, batch_shape):
        super().__init__()
        self.beta = nn.Parameter(torch.ones(batch_shape))

    def forward(self, x):
        return x * torch.sigmoid(self.beta.view(*self.beta.shape, *[1] * (x.ndim - self.beta.ndim)) * x)

    def scalars(self, x):
        return {"steepness": self.beta.detach().reshape(len(x), -1).mean(1)}
"""


@pytest.mark.parametrize(
    ("agent", "settings", "said"),
    [
        ("iqll", {}, "no agent iqll: did you mean iql?"),
        ("iql", {"expectil": 0.7}, "no setting expectil: did you mean expectile?"),
        ("iql", {"rational": {"degree": 2}}, "no setting rational.degree: did you mean rational.degrees?"),
        ("iql", {"total_updates": "many"}, "the setting total_updates is 'many', but must be int"),
        ("iql", {"total_updates": True}, "the setting total_updates is True, but must be int"),
        (
            "iql",
            {"policy": "gaussian"},
            "the setting policy is 'gaussian', but must be squashed_gaussian, tanh_gaussian",
        ),
        ("iql", {"expectile": "0.7"}, "the setting expectile is '0.7', but must be float or tuple"),
        ("iql", {"total_updates": np.int64(0)}, "--total-updates is 0, but must be at least 1"),
        ("iql", {"run_dir": 3}, "the setting run_dir is 3, but must be Path"),
        (3, {}, "the agent is a int, but must be a name or a path"),
        ("iql", {"total_updates": 0}, "--total-updates is 0, but must be at least 1"),
        ("iql", {"activation": "rationl"}, "rationl"),
    ],
)
def test_what_the_command_refuses_is_one_line(log, tmp_path, agent, settings, said):
    with pytest.raises(InputError, match=said) as error:
        rlrat.train(agent, log, **{"run_dir": tmp_path, **settings})
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="the dataset is a list, but must be a Dataset, an id or a path"):
        rlrat.train("iql", [log])


def test_an_interrupted_training_is_an_error(log, tmp_path, monkeypatch):
    from rlrat.runs.run import Run

    def stop(self, learner):
        raise SystemExit(130)
        yield

    monkeypatch.setattr(Run, "updates", stop)
    with pytest.raises(RuntimeError, match=r"training iql was interrupted: the same call goes on \(exit code 130\)"):
        rlrat.train("iql", log, **SMALL, run_dir=tmp_path)


def test_other_bounds_are_other_content(log, tmp_path):
    settings = {**SMALL, "run_dir": tmp_path}
    first = rlrat.train("bc", log, **settings)
    wider = log.with_bounds(typed_bounds([(-2, 2)]))
    assert wider.fingerprint == log.fingerprint
    with pytest.raises(InputError, match="action_bounds"):
        rlrat.train("bc", wider, **settings)
    again = rlrat.train("bc", wider, **settings, run_name="wider")
    assert (first.policy.action_scale, again.policy.action_scale) == (1.0, 2.0)
