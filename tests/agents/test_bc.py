"""Behaviour cloning's update beside its definition, computed a second time in NumPy and float64."""

import copy
import json
from functools import partial

import numpy as np
import pytest
import torch

import rlrat
from rlrat.rational import Rational
from rlrat.runs.arguments import RationalArguments
from tests.agents.learners import HEADS, NO_DROPOUT, assert_gradients, log_prob, make_learner

_learner = partial(make_learner, "bc")


def _numpy_loss(learner, batch, seed):
    """Minus the mean log-likelihood of the actions; for the deterministic head the mean squared distance."""
    s, a = (t[seed].double().numpy() for t in batch[:2])
    return -np.mean(log_prob(learner.policy, s, a, seed))


@pytest.mark.parametrize("policy", HEADS)
def test_the_loss_is_the_mean_log_likelihood(small_dataset, policy):
    learner, batches = _learner(small_dataset, [3, 4], policy=policy, batch_size=4, learning_rate=3e-3)
    for update in range(5):
        before, batch = copy.deepcopy(learner), batches.at(update)
        metrics = learner.update(batch, NO_DROPOUT)
        assert set(metrics) == {"losses/actor"}
        expected = [_numpy_loss(before, batch, seed) for seed in range(2)]
        np.testing.assert_allclose(metrics["losses/actor"].detach().numpy(), expected, rtol=1e-4)


@pytest.mark.parametrize("policy", HEADS)
def test_the_gradient_of_the_loss_is_the_one_that_steps(small_dataset, policy):
    learner, batches = _learner(small_dataset, [0], policy=policy, batch_size=4)
    before, batch = copy.deepcopy(learner), batches.at(0)
    learner.update(batch, NO_DROPOUT)
    assert ("log_std" in dict(learner.policy.named_parameters())) == (policy != "deterministic")
    assert_gradients(learner, before, "policy", learner.policy_optimizer, lambda moved: _numpy_loss(moved, batch, 0))


def test_the_best_episodes_are_what_is_cloned():
    """Good episodes act with 0.5, bad ones with -0.5, in the same states."""
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.normal(0.0, 3.0, (steps + 1, 11)) + offset,
            "actions": np.full((steps, 3), action),
            "rewards": np.full(steps, reward),
            "terminations": np.arange(steps) == steps - 1,
            "truncations": np.zeros(steps, bool),
        }
        for steps, action, reward, offset in (
            (90, -0.5, 0.1, 0),
            (20, 0.5, 1.0, 2),
            (90, -0.5, 0.2, 0),
            (20, 0.5, 2, 2),
        )
    ]
    dataset = rlrat.Dataset.from_episodes(episodes, env_id="Hopper-v5")
    acted = {}
    for share in (0.5, 1.0):
        learner, batches = _learner(dataset, [0, 1], best_episodes=share, learning_rate=1e-2)
        for update in range(100):
            learner.update(batches.at(update), NO_DROPOUT)
        acted[share] = learner.policy(torch.zeros(2, 1, 11))
        cloned = dataset.actions[:, 0] > 0 if share < 1 else slice(None)
        mean = dataset.observations[cloned].mean(0)
        np.testing.assert_allclose(learner.policy.observation_mean[1], mean, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(acted[0.5], torch.full((2, 1, 3), 0.5), atol=0.1, rtol=0)
    assert (acted[1.0] < 0).all()


@pytest.mark.parametrize("agent", ["bc"])
def test_the_command_clones_the_best_episodes(run_agent, tmp_path):
    run_agent("--best-episodes", 0.1)
    (checkpoint,) = tmp_path.glob("runs/*/bc/*/seed0/checkpoint.pt")
    dataset = rlrat.load_dataset("rlrat/hopper/mixed-v0")
    for part, same in ((dataset.best_episodes(0.1), True), (dataset, False)):
        learner, batches = _learner(part, [0], batch_size=16)
        for update in range(40):
            learner.update(batches.at(update), NO_DROPOUT)
        weights = learner.policy.mean.output.weight[0]
        cloned = torch.load(checkpoint, weights_only=True)["state"]["policy.mean.output.weight"]
        assert torch.allclose(cloned, weights, atol=1e-5) == same


def test_rational_settings_arrive(small_dataset):
    rational = RationalArguments(degrees=(3, 2), version="B", groups=4)
    learner, _ = _learner(small_dataset, [0], actor_activation="rational", rational=rational)
    rationals = [m for m in learner.policy.modules() if isinstance(m, Rational)]
    assert [(*r.numerator.shape, *r.denominator.shape) for r in rationals] == [(1, 4, 4, 1, 4, 2)] * 2


@pytest.mark.parametrize("agent", ["bc"])
def test_the_run_is_of_the_whole_dataset_and_its_share(run_agent, tmp_path):
    configs = {}
    for share in (1.0, 0.1):
        run_agent("--best-episodes", share)
        name = "relu+batch_size=16," + ("" if share == 1 else f"best_episodes={share},") + "hidden_dims=16x16"
        config = tmp_path / "runs/rlrat-hopper-mixed-v0/bc" / name / "seed0/config.json"
        configs[share] = json.loads(config.read_text())
    assert configs[0.1]["dataset"] == configs[1.0]["dataset"]
    assert configs[0.1]["identity"] == {**configs[1.0]["identity"], "best_episodes": 0.1}
    run_agent("--run-name", "x")
    refused = run_agent("--run-name", "x", "--best-episodes", 0.1, check=False)
    assert refused.returncode == 2
    assert "best_episodes" in refused.stderr


@pytest.mark.parametrize("agent", ["bc"])
@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--best-episodes", 0, "--best-episodes is 0.0, but must be above 0 and at most 1"),
        ("--best-episodes", 1.5, "--best-episodes is 1.5, but must be above 0 and at most 1"),
        ("--critic-norm", "layer", "Unrecognized options: --critic-norm, layer"),
    ],
)
def test_mistakes_are_named_in_one_line(run_agent, tmp_path, flag, value, message):
    result = run_agent(flag, value, check=False)
    assert (result.returncode, result.stderr) == (2, f"error: {message}\n")
    assert not (tmp_path / "runs").exists()
