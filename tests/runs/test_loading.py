"""Policies from run folders: what acts is what was trained, and what cannot be loaded is one line."""

import shutil

import gymnasium
import numpy as np
import pytest
import torch

import rlrat
from agents import iql
from rlrat.errors import InputError
from rlrat.evaluation.evaluator import reset_seed
from rlrat.networks.layers import initialize
from rlrat.networks.transformer import SequencePolicy
from rlrat.runs.arguments import parse
from tests.short_runs import SHORT


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a rational run that holds seed3 and seed4."""
    base = tmp_path_factory.mktemp("trained")
    argv = [*SHORT, "--activation", "rational", "--seed", "3", "--num-seeds", "2", "--eval-every", "40"]
    threads = torch.get_num_threads()
    iql.main(parse(iql.Arguments, "iql", [*argv, "--run-dir", str(base), "--run-name", "short"]))
    torch.set_num_threads(threads)
    return base / "rlrat-hopper-mixed-v0" / "iql" / "rational+short"


@pytest.fixture
def run(trained, tmp_path):
    """A copy of seed3 to be spoilt."""
    return shutil.copytree(trained / "seed3", tmp_path / "seed3")


def spoil(run, **changes) -> None:
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**checkpoint, **changes}, run / "checkpoint.pt")


def test_a_loaded_policy_is_the_trained_one(trained):
    first = rlrat.load_policy(trained / "seed3")
    second = rlrat.load_policy(str(trained / "seed4"))
    state = torch.load(trained / "seed3" / "checkpoint.pt", weights_only=True)["state"]
    loaded = first.state_dict()
    assert {f"policy.{name}" for name in loaded} == {name for name in state if name.startswith("policy.")}
    for name, value in loaded.items():
        assert torch.equal(value[0], state[f"policy.{name}"]), name
    assert not first.training
    assert not any(parameter.requires_grad for parameter in first.parameters())
    observation = np.random.default_rng(0).normal(size=11)
    assert not np.allclose(first(observation), second(observation))


def test_a_run_that_cannot_be_looked_at_is_one_line():
    """As root may look everywhere, a name that no file can have."""
    with pytest.raises(InputError, match=r"cannot read a+: File name too long$"):
        rlrat.load_policy("a" * 300)


def test_a_checkpoint_of_before_has_one_scale_of_actions(run):
    observation = np.random.default_rng(0).normal(size=11)
    expected = rlrat.load_policy(run)(observation)
    state = torch.load(run / "checkpoint.pt", weights_only=True)["state"]
    state["policy.action_scale"] = state["policy.action_scale"][:1]
    del state["policy.action_offset"]
    spoil(run, state=state)
    np.testing.assert_array_equal(rlrat.load_policy(run)(observation), expected)


def test_a_loaded_policy_takes_one_observation_or_many(trained):
    policy = rlrat.load_policy(trained / "seed3")
    observations = np.random.default_rng(0).normal(size=(5, 11))
    actions = policy(observations)
    assert isinstance(actions, np.ndarray)
    assert actions.shape == (5, 3)
    assert policy(observations[None]).shape == (1, 5, 3)
    assert isinstance(policy(torch.from_numpy(observations)), torch.Tensor)
    one = policy(observations[2])
    assert one.shape == (3,)
    np.testing.assert_allclose(one, actions[2], rtol=1e-5, atol=1e-6)


def test_a_loaded_policy_plays_in_a_loop_of_ones_own(trained):
    policy = rlrat.load_policy(trained / "seed3")
    env = gymnasium.make("Hopper-v5")
    observation, _ = env.reset(seed=reset_seed(0, 0))
    total, over = 0.0, False
    while not over:
        observation, reward, terminated, truncated, _ = env.step(policy(observation))
        total += reward
        over = terminated or truncated
    env.close()
    assert rlrat.evaluate(policy, "Hopper-v5", episodes=1, seed=0).returns == pytest.approx(total)


def test_the_newest_checkpoint_that_loads_counts(trained, run, capsys):
    spoil(run, update=20)
    (run / "checkpoint.pt").rename(run / "checkpoint.previous.pt")
    shutil.copy(trained / "seed4" / "checkpoint.pt", run)
    names = {"checkpoint.pt": "seed4", "checkpoint.previous.pt": "seed3"}
    observation = np.ones(11)
    for file, seed in names.items():
        expected = rlrat.load_policy(trained / seed)(observation)
        np.testing.assert_array_equal(rlrat.load_policy(run / file)(observation), expected)
    newest = rlrat.load_policy(run)(observation)
    np.testing.assert_array_equal(newest, rlrat.load_policy(run / "checkpoint.pt")(observation))
    content = (run / "checkpoint.pt").read_bytes()
    (run / "checkpoint.pt").write_bytes(content[: len(content) // 2])
    older = rlrat.load_policy(run)(observation)
    np.testing.assert_array_equal(older, rlrat.load_policy(run / "checkpoint.previous.pt")(observation))
    assert "checkpoint.pt is damaged" in capsys.readouterr().err
    with pytest.raises(rlrat.InputError, match=r"checkpoint.pt is damaged .*: give another checkpoint"):
        rlrat.load_policy(run / "checkpoint.pt")
    (run / "checkpoint.previous.pt").unlink()
    with pytest.raises(rlrat.InputError, match=r"no checkpoint in .* can be read"):
        rlrat.load_policy(run)


def test_what_is_no_run_folder_is_one_line(trained, run, tmp_path):
    with pytest.raises(rlrat.InputError, match=r"no run folder .*nowhere: expected <run-dir>/.*/seed<k>"):
        rlrat.load_policy(tmp_path / "nowhere")
    with pytest.raises(rlrat.InputError, match=r"holds the runs of seed3, seed4: give one of them, such as .*/seed3$"):
        rlrat.load_policy(trained)
    with pytest.raises(rlrat.InputError, match=r"is not a run folder, there is no checkpoint.pt in it"):
        rlrat.load_policy(trained.parent)
    for file in run.glob("checkpoint*"):
        file.unlink()
    with pytest.raises(rlrat.InputError, match="has no checkpoint yet"):
        rlrat.load_policy(run)
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pt")
    with pytest.raises(rlrat.InputError, match=r"other.pt is damaged \(it is no checkpoint of a run\)"):
        rlrat.load_policy(tmp_path / "other.pt")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"kind": "diffusion"}, "of the kind 'diffusion', known are mlp, sequence"),
        ({"head": "categorical"}, "unknown policy head 'categorical'"),
        ({"width": 3}, "unexpected keyword argument 'width'"),
        ({"activation": "relo"}, "unknown activation 'relo'"),
        ({"hidden_dims": (17, 16)}, "size mismatch"),
        ({"norm": "layer"}, "Missing key"),
        ({"kind": ["mlp"]}, "unhashable type"),
        ({"hidden_dims": (16, 10**7)}, "hidden_dims is"),
        ({"hidden_dims": (600, 600)}, "a layer's size is"),
        ({"hidden_dims": 16}, "hidden_dims is 16"),
        ({"observation_size": 11.0}, "observation_size is 11.0"),
        ({"action_size": 10**30}, "action_size is 1"),
        ({"activation_settings": {"degrees": (500, 400)}}, "activation_settings is"),
        ({"activation_settings": ["degrees"]}, "has no attribute"),
        ({"activation_settings": {"entry_point": "os:system"}}, "unexpected keyword argument 'entry_point'"),
    ],
)
def test_a_checkpoint_of_another_version_is_one_line(run, changes, reason):
    settings = torch.load(run / "checkpoint.pt", weights_only=True)["policy"]
    spoil(run, policy={**settings, **changes})
    with pytest.raises(rlrat.InputError, match=f"does not fit this version of rlrat .*{reason}") as caught:
        rlrat.load_policy(run)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_without_settings_is_one_line(run):
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    del checkpoint["policy"]
    torch.save(checkpoint, run / "checkpoint.pt")
    with pytest.raises(rlrat.InputError, match="'policy' is missing"):
        rlrat.load_policy(run)


def test_a_device_that_is_not_there_is_one_line(trained):
    for device in ("nonsense", "cuda:99"):
        with pytest.raises(rlrat.InputError, match=f"device {device} cannot be used: .*; give auto"):
            rlrat.load_policy(trained / "seed3", device=device)


@pytest.fixture
def sequence_run(run):
    """The run as if a Decision Transformer had been trained in it, and its policy, of two seeds of which it has one."""
    policy = SequencePolicy(
        *(11, 3), num_seeds=2, target_returns=(3600.0, 1800.0), return_scale=1000.0, context_length=4,
        max_episode_steps=1000, embedding_size=8, num_layers=1, num_heads=1, norm="layer",
        hidden_dims=(8,), activation="gelu",
    )  # fmt: skip
    initialize(policy, [0, 1], "policy", "xavier_uniform")
    state = {f"policy.{name}": value[1].clone() for name, value in policy.state_dict().items()}
    spoil(run, policy=policy.settings, state=state)
    return run, policy


def test_a_decision_transformer_reaches_for_the_targets_it_is_given(sequence_run):
    run, both = sequence_run
    observations = np.random.default_rng(0).normal(size=(2, 11))
    expected = both(np.stack([observations, observations]))[1]  # one column for each target
    np.testing.assert_allclose(rlrat.load_policy(run)(observations[0]), expected[0], rtol=1e-5, atol=1e-6)
    policy = rlrat.load_policy(run, target_returns=(3600, 1800))
    assert policy.target_returns == (3600.0, 1800.0)
    np.testing.assert_allclose(policy(observations), expected, rtol=1e-5, atol=1e-6)
    lower = rlrat.load_policy(run, target_returns=[1800.0])(observations[1])
    np.testing.assert_allclose(lower, expected[1], rtol=1e-5, atol=1e-6)
    assert np.abs(lower - rlrat.load_policy(run)(observations[1])).max() > 1e-4
    for targets in ((), (float("nan"),)):
        with pytest.raises(rlrat.InputError, match="give one or more different finite numbers"):
            rlrat.load_policy(run, target_returns=targets)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"context_length": []}, r"context_length is \[\]"),
        ({"return_scale": "x"}, "return_scale is 'x'"),
        ({"return_scale": float("nan")}, "return_scale is nan"),
        ({"target_returns": {"a": 1}}, "target_returns is"),
        ({"target_returns": ["a"]}, "give one or more different finite numbers"),
        ({"num_heads": 3}, "num_heads is 3"),
        ({"num_layers": 10**9}, "num_layers is 1000000000"),
        ({"max_episode_steps": None}, "max_episode_steps is None"),
    ],
)
def test_settings_of_other_types_are_refused_before_anything_is_built(sequence_run, changes, reason):
    run, policy = sequence_run
    spoil(run, policy={**policy.settings, **changes})
    with pytest.raises(rlrat.InputError, match=f"does not fit this version of rlrat .*{reason}") as caught:
        rlrat.load_policy(run)
    assert "\n" not in str(caught.value)


def test_target_returns_are_for_a_decision_transformer(trained):
    with pytest.raises(rlrat.InputError, match="takes no target returns, only a Decision Transformer does"):
        rlrat.load_policy(trained / "seed3", target_returns=(3600.0,))
