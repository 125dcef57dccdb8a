"""Runs judged from their folders: on their own data, side by side, with doubts, and by importance sampling."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import rlrat
from rlrat.errors import InputError
from rlrat.evaluation.fqe import FQESettings, discounted_returns, initial_rows
from rlrat.networks.policies import Policy
from rlrat.runs import judging
from rlrat.runs.folder import RunFolder
from rlrat.runs.judging import _doubts, judge, outside_shares, t_interval
from rlrat.runs.judging import _importance as importance_of
from rlrat.runs.schema import JUDGEMENT
from tests.evaluation.test_fqe import two_states
from tests.short_runs import ROOT

FEW = FQESettings(updates=20, batch_size=16, hidden_dims=(16,))


BEFORE = ROOT / "tests" / "fixtures" / "before_the_wings" / "trained"


def folder_of(agent: str) -> Path:
    (found,) = BEFORE.glob(f"*/{agent}/*/seed0")
    return found


@pytest.fixture
def run(tmp_path):
    """A copy of a finished run of TD3+BC."""
    return shutil.copytree(folder_of("td3_bc"), tmp_path / "seed3")


def test_a_run_is_judged_on_its_own_data_and_its_folder_says_so(run):
    (found,) = judge([run], FEW, refits=2)
    data = rlrat.load_dataset("rlrat/hopper/mixed-v0")
    assert found.data_value == pytest.approx(discounted_returns(data, 0.99)[initial_rows(data)].mean())
    assert (found.discount, found.update, len(found.refits)) == (0.99, 40, 2)
    assert found.interval[0] < found.value < found.interval[1]
    assert found.importance == {}  # the packaged data has no log_probs
    written = json.loads((run / JUDGEMENT).read_text())
    assert written["value"] == found.value
    assert written["dataset"] == {"id": data.id, "fingerprint": data.fingerprint}
    assert written["fqe"]["updates"] == 20
    assert judge([run], FEW, refits=2) == [found]  # the same bits


def test_side_by_side_a_run_is_judged_as_it_is_alone(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    alone = judge([run], FEW, refits=1)[0]
    both = judge([other, run], FEW, refits=1)
    assert [result.run for result in both] == [str(other), str(run)]
    assert both[1].value == pytest.approx(alone.value, rel=1e-5)
    assert both[0].refits == pytest.approx(alone.refits, rel=1e-5)
    assert judge([run], FEW, refits=0)[0].interval is None


def test_other_data_is_used_where_it_is_given_and_said_to_differ(run, capsys):
    (found,) = judge([run], FEW, dataset="rlrat/hopper/medium-v0", refits=0)
    assert "was trained on other data than rlrat/hopper/medium-v0 is now" in capsys.readouterr().err
    assert json.loads((run / JUDGEMENT).read_text())["dataset"]["id"] == "rlrat/hopper/medium-v0"
    assert found.data_value > 200.0


def test_data_is_read_as_for_training_and_not_as_of_the_environment_of_the_evaluations(run, monkeypatch):
    config = json.loads((run / "config.json").read_text())
    config["identity"]["env_id"] = "Walker2d-v5"  # as an eval_env_spec may have it
    asked, load = [], judging.load_dataset
    monkeypatch.setattr(judging, "load_dataset", lambda name, env_id, **_: asked.append(env_id) or load(name))
    for typed in (None, "my_envs:Toy-v0"):
        config["arguments"]["env_id"] = typed
        (run / "config.json").write_text(json.dumps(config))
        judge([run], FEW, refits=0)
    assert asked == [None, "Toy-v0"]


def test_a_diverged_run_is_not_to_be_trusted(run):
    folder = RunFolder(run)
    folder.write_json("summary.json", {**folder.summary(), "status": "diverged", "diverged_at": 7})
    (found,) = judge([run], FEW, refits=0)
    assert found.problems[0].startswith("the run diverged at update 7")
    assert json.loads((run / JUDGEMENT).read_text())["trusted"] is False


def test_what_cannot_be_judged_is_refused_in_one_line(run, tmp_path, small_dataset):
    with pytest.raises(InputError, match="is a Decision Transformer, which acts on its history"):
        judge([folder_of("decision_transformer")], FEW)
    with pytest.raises(InputError, match="there is no run folder"):
        judge([tmp_path / "nothing"], FEW)
    with pytest.raises(InputError, match=r"has observations of size 11, test/two-states of 2: give the data it is for"):
        judge([run], FEW, dataset=two_states())
    config = RunFolder(run).config()
    config["arguments"]["dataset"] = "/nowhere/log.hdf5"
    RunFolder(run).write_json("config.json", config)
    with pytest.raises(
        InputError, match=r"seed3 was trained on it: give --dataset .*judge\(\.\.\., dataset=\.\.\.\) if it was in"
    ):
        judge([run], FEW)
    with pytest.raises(InputError, match=r"/nowhere/other\.hdf5"):
        judge([run], FEW, dataset="/nowhere/other.hdf5")
    del config["arguments"]["dataset"], config["identity"]["dataset"]
    RunFolder(run).write_json("config.json", config)
    with pytest.raises(InputError, match="names no dataset: give --dataset"):
        judge([run], FEW)
    assert judge([run], FEW, dataset=small_dataset, refits=0)[0].problems  # five episodes
    (run / "config.json").unlink()
    with pytest.raises(InputError, match=r"config.json is missing: give a whole run folder"):
        judge([run], FEW)


def test_intervals_are_students():
    assert t_interval(10.0, np.array([8.0, 9.0, 10.0, 11.0, 12.0])) == pytest.approx(
        (10.0 - 2.7764451 * 2.5**0.5, 10.0 + 2.7764451 * 2.5**0.5)
    )
    assert t_interval(10.0, np.array([8.0])) is None


def test_doubts_name_what_went_wrong():
    data = two_states(episodes=30)  # rewards from 0 to 2
    steady = [(update, 5.0) for update in range(10, 101, 10)]
    assert list(_doubts(data, 0.9, steady, 1.0, 0.05)) == []
    (beyond,) = _doubts(data, 0.9, [(update, 21.0) for update, _ in steady], 1.0, 0.05)
    assert "21 is beyond what rewards allow, 0 to 20" in beyond
    (moving,) = _doubts(data, 0.9, [(update, update / 20) for update, _ in steady], 1.0, 0.05)
    assert "still moves, by +1 in its last fifth" in moving
    (unlike,) = _doubts(data, 0.9, steady, 1.0, 0.7)
    assert "unlike the data at 70% of the states" in unlike
    (few,) = _doubts(two_states(episodes=5), 0.9, steady, 1.0, 0.05)
    assert "5 episodes are too few" in few
    assert list(_doubts(data, 0.9, [(100, np.nan)], 1.0, 0.05)) == ["the fit met numbers that are not finite"]


def test_the_share_of_states_where_a_policy_acts_unlike_the_data():
    random, found = np.random.default_rng(0), []
    for _ in range(40):
        states = random.uniform(-1, 1, (51, 2))
        actions = 0.5 * states[:-1, :1] + 0.05 * random.normal(size=(50, 1))
        flags = {"terminations": np.zeros(50, bool), "truncations": np.arange(50) == 49}
        found.append({"observations": states, "actions": actions, "rewards": np.ones(50), **flags})
    data = rlrat.Dataset.from_episodes(found)
    policies = [lambda s: 0.5 * s[:, :1], lambda s: -0.5 * s[:, :1], lambda s: np.ones((len(s), 1))]
    alike, mirrored, far = outside_shares(data, policies, seed=0)
    assert alike < 0.05
    assert 0.6 < mirrored < 1.0  # at states near 0 both are the same
    assert far == 1.0


@pytest.mark.parametrize("head", ["squashed_gaussian", "tanh_gaussian", "sac"])
def test_importance_sampling_of_a_policy_on_its_own_data_gives_its_mean_return(head):
    data = two_states(episodes=40, steps=3)
    policy = Policy(2, 1, num_seeds=1, head=head, hidden_dims=(8,)).requires_grad_(False)
    states = policy.read(np.array(data.observations)[None])
    log_probs = policy.log_prob(states, torch.from_numpy(np.array(data.actions))[None])[0].numpy()
    fitted = _Fitted(0.0)
    with_log_probs = _with_log_probs(data, log_probs)
    found = importance_of(with_log_probs, policy, fitted, 0, 0.9, seed=0)
    expected = discounted_returns(data, 0.9)[initial_rows(data)].mean()
    for name in ("per_decision", "weighted_per_decision", "doubly_robust", "weighted_doubly_robust"):
        assert found[name] == pytest.approx(expected, rel=1e-5), name
    assert found["effective_sample_size"] == pytest.approx(40)
    far = _with_log_probs(data, log_probs + np.repeat(np.linspace(0, 400, 40), 3))
    assert "below 10" in importance_of(far, policy, fitted, 0, 0.9, seed=0)["refused"]
    assert importance_of(data, policy, fitted, 0, 0.9, seed=0) == {}


def test_densities_are_compared_in_the_environments_units():
    episodes = [
        {"observations": np.zeros((2, 1)), "actions": np.array([[float(a)]]), "rewards": np.ones(1)}
        | {"terminations": np.ones(1, bool), "truncations": np.zeros(1, bool)}
        for a in np.linspace(-3.0, 3.0, 20)
    ]
    data = rlrat.Dataset.from_episodes(episodes, action_low=-4.0, action_high=4.0)
    policy = Policy(1, 1, num_seeds=1, head="tanh_gaussian", hidden_dims=(8,)).requires_grad_(False)
    policy.action_scale.fill_(4.0)
    # The network is 0: N(0, 1) in units of 4, which is N(0, 4) in the environment's.
    log_probs = -0.5 * (data.actions[:, 0] / 4.0) ** 2 - np.log(4.0) - 0.5 * np.log(2 * np.pi)
    found = importance_of(_with_log_probs(data, log_probs), policy, _Fitted(0.0), 0, 0.9, seed=0)
    assert found["effective_sample_size"] == pytest.approx(20)
    assert found["per_decision"] == pytest.approx(1.0)


class _Fitted:
    """A Q that is the same everywhere."""

    num_entries = 1

    def __init__(self, value: float) -> None:
        self._value = value

    def policy(self, observations: np.ndarray) -> np.ndarray:
        return np.zeros((*observations.shape[:-1], 1), np.float32)

    def q(self, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        return np.full((1, len(observations)), self._value)


class _WithLogProbs:
    """A dataset with a column more."""

    def __init__(self, data: rlrat.Dataset, log_probs: np.ndarray) -> None:
        self._data, self.log_probs = data, log_probs

    def __getattr__(self, name: str):
        return getattr(self._data, name)

    def __len__(self) -> int:
        return len(self._data)


def _with_log_probs(data: rlrat.Dataset, log_probs: np.ndarray) -> _WithLogProbs:
    return _WithLogProbs(data, log_probs)
