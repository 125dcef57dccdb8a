"""Decision Transformer's update beside the paper's equations, computed a second time in NumPy and float64."""

import copy
import dataclasses
from functools import partial

import numpy as np
import pytest
import torch

import rlrat
from agents.decision_transformer import Arguments, check, choose_targets
from rlrat.errors import InputError
from rlrat.networks.layers import Embedding, LayerNorm
from rlrat.networks.transformer import Gain
from rlrat.rational import Rational
from tests.agents.learners import assert_gradients, make_learner, make_trainer

NO_DROPOUT = {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}
_small = {"embedding_size": 16, "context_length": 6, "num_layers": 2}
_learner = partial(make_learner, "decision_transformer", activation="relu", **_small)
_trainer = partial(make_trainer, "decision_transformer", **_small)


def _numpy_loss(learner, batch, seed):
    """Squared error of the real steps' actions, each predicted at its state's token (Chen et al. 2021, sec. 3)."""
    parameters = {name: p.detach()[seed].double().numpy() for name, p in learner.policy.named_parameters()}
    s, a, g, t, mask = (x[seed].double().numpy() for x in batch)
    rows, steps, _ = s.shape

    def linear(name, x):
        return x @ parameters[f"{name}.weight"] + parameters[f"{name}.bias"]

    def norm(name, x):
        if f"{name}.weight" not in parameters:
            return x
        centred = x - x.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return normed * parameters[f"{name}.weight"] + parameters[f"{name}.bias"]

    times = parameters["timestep_embedding.weight"]
    time = times[np.minimum(t.astype(int), len(times) - 1)]
    kinds = (("return", g[..., None]), ("observation", s), ("action", a))
    x = np.stack([linear(f"{name}_embedding", value) + time for name, value in kinds], 2).reshape(rows, 3 * steps, -1)
    x = norm("embedding_norm", x)
    hidden = len(learner.args.hidden_dims)
    for index in range(learner.args.num_layers):
        name = f"blocks.{index}"
        gains = [parameters.get(f"{name}.{branch}_gain.weight", 1.0) for branch in ("attention", "mlp")]
        y = norm(f"{name}.attention_norm", x)
        q = linear(f"{name}.attention.query", y)
        k, v = np.split(linear(f"{name}.attention.key_value", y), 2, -1)
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        scores[:, np.triu(np.ones((3 * steps, 3 * steps), bool), 1)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        gathered = weights / weights.sum(-1, keepdims=True) @ v
        x = x + gains[0] * linear(f"{name}.attention.output", gathered)
        y = norm(f"{name}.mlp_norm", x)
        for layer in range(hidden):
            y = np.maximum(linear(f"{name}.mlp.hidden.{layer}.linear", y), 0)
        x = x + gains[1] * linear(f"{name}.mlp.output", y)
    actions = np.tanh(linear("head", norm("output_norm", x)[:, 1::3]))
    return (((actions - a) ** 2).mean(-1) * mask).sum() / mask.sum()


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_the_loss_is_the_papers(small_dataset, norm):
    learner, batches = _learner(small_dataset, [3, 4], norm=norm, embedded_steps=30, **NO_DROPOUT)
    for update in range(4):
        before, batch = copy.deepcopy(learner), batches.at(update)
        assert (batch.mask == 0).any()
        metrics = learner.update(batch)
        for seed in range(2):
            expected = _numpy_loss(before, batch, seed)
            assert metrics["losses/actor"][seed].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_the_gradient_of_the_loss_is_the_one_that_steps(small_dataset, norm):
    settings = {"max_norm": 1e9, "weight_decay": 0.0, "return_scale": 10.0, "embedded_steps": 30, **NO_DROPOUT}
    learner, batches = _learner(small_dataset, [0], norm=norm, **settings)
    for module in learner.policy.modules():  # from where every parameter has a gradient worth comparing
        if isinstance(module, Gain):
            module.weight.data.fill_(0.8)
    for parameter in learner.policy.parameters():
        if parameter.ndim > 2:
            parameter.data.mul_(10.0 if norm == "layer" else 1.0)
    before, batch = copy.deepcopy(learner), batches.at(0)
    learner.update(batch)
    assert_gradients(learner, before, "policy", learner.policy_optimizer, lambda moved: _numpy_loss(moved, batch, 0))


def test_padding_is_no_part_of_the_loss(small_dataset):
    (learner, batches), (other, _) = (_learner(small_dataset, [0], **NO_DROPOUT) for _ in range(2))
    batch = batches.at(0)
    padding = (batch.mask == 0).unsqueeze(-1)
    changed = batch._replace(
        observations=batch.observations.masked_fill(padding, 9.0), actions=batch.actions.masked_fill(padding, -0.3)
    )
    torch.testing.assert_close(learner.update(batch), other.update(changed), check_stride=False)
    torch.testing.assert_close(learner.policy_optimizer.first_moment, other.policy_optimizer.first_moment)


def test_the_learning_rate_warms_up(small_dataset):
    """Under a constant gradient each of Adam's steps is the learning rate."""
    learner, batches = _learner(small_dataset, [0], warmup_updates=4, learning_rate=1e-3, **NO_DROPOUT)
    batch, sizes = batches.at(0), []
    for _ in range(6):
        before = learner.policy_optimizer.flat.clone()
        learner.update(batch)
        sizes.append((learner.policy_optimizer.flat - before).abs().max().item())
    np.testing.assert_allclose(sizes, [2.5e-4, 5e-4, 7.5e-4, 1e-3, 1e-3, 1e-3], rtol=0.1)


def test_gradients_are_clipped_for_each_seed(small_dataset):
    free, batches = _learner(small_dataset, [0, 1], max_norm=1e9, **NO_DROPOUT)
    free.update(batches.at(0))
    norms = 10 * free.policy_optimizer.first_moment.norm(dim=1)
    bound = norms.mean().item()  # between the two
    clipped, _ = _learner(small_dataset, [0, 1], max_norm=bound, **NO_DROPOUT)
    clipped.update(batches.at(0))
    got = 10 * clipped.policy_optimizer.first_moment.norm(dim=1)
    torch.testing.assert_close(got, norms.clamp(max=bound), atol=1e-6, rtol=1e-4)
    assert norms.min() < bound < norms.max()


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_decay_leaves_embeddings_norms_gains_and_rationals_alone(small_dataset, norm):
    """Where the gradient is zero only the decay moves a parameter: once per step by rate * decay."""
    settings = {"activation": "rational", "weight_decay": 0.5, "learning_rate": 0.1, "warmup_updates": 1}
    learner, _ = _learner(small_dataset, [0], norm=norm, **{**settings, **NO_DROPOUT})
    for parameter in learner.policy.parameters():
        parameter.data.add_(1.0)  # zeros would not decay
    policy, before = learner.policy, copy.deepcopy(learner.policy)
    zero = sum(parameter.sum() * 0.0 for parameter in policy.parameters()).expand(1)
    learner.policy_optimizer.step(zero)
    kept = {
        name
        for name, module in policy.named_modules()
        if isinstance(module, Embedding | LayerNorm | Gain | Rational) or name.endswith("_embedding")
    }
    assert len(kept) == 4 + (2 if norm == "layer" else 0) + 2 * 2 + 2 * 2
    for name, parameter in policy.named_parameters():
        factor = 1.0 if name.rpartition(".")[0] in kept else 0.95
        torch.testing.assert_close(parameter, factor * before.get_parameter(name), msg=name)


def test_dropout_is_each_seeds_own_and_of_each_update(small_dataset):
    many, _, _ = _trainer(small_dataset, [0, 3])
    one, _, _ = _trainer(small_dataset, [3])
    (_, ours), (batch, theirs), (_, later) = many.inputs(5), one.inputs(5), one.inputs(6)
    for both, alone in zip(ours, theirs, strict=True):
        assert torch.equal(both[1], alone[0])
    assert not torch.equal(theirs[0], later[0])
    losses = [_trainer(small_dataset, [3])[0].update(batch, theirs)["losses/actor"].item() for _ in range(2)]
    without = _trainer(small_dataset, [3])[0].update(batch)["losses/actor"].item()
    assert losses[0] == losses[1] != without
    assert _learner(small_dataset, [3], **NO_DROPOUT)[0].inputs(0)[1] is None


def _dataset(rewards, env_id="Ant-v5"):
    episodes = [
        {
            "observations": np.zeros((len(r) + 1, 2)),
            "actions": np.zeros((len(r), 1)),
            "rewards": np.array(r),
            "terminations": np.arange(len(r)) == len(r) - 1,
            "truncations": np.zeros(len(r), bool),
        }
        for r in rewards
    ]
    return rlrat.Dataset.from_episodes(episodes, env_id=env_id)


def test_target_returns():
    data = _dataset([[1.0, 2.0], [4.0, 6.0]])
    assert choose_targets(Arguments(env_id="Hopper-v5"), data) == (3600.0, 1800.0)
    assert choose_targets(Arguments(env_id="HalfCheetah-v4"), data) == (12000.0, 6000.0)
    assert choose_targets(Arguments(env_id="my_module:Walker2d-v5"), data) == (5000.0, 2500.0)
    assert choose_targets(Arguments(), data) == (10.0, 5.0)
    assert choose_targets(Arguments(target_returns=(7.0,)), data) == (7.0,)
    assert choose_targets(Arguments(), _dataset([[-8.0], [-2.0]])) == (-2.0, -5.0)
    assert choose_targets(Arguments(), _dataset([[-8.0], [0.0]])) == (0.0, -4.0)
    for wrong in ((), (3.0, 3.0), (float("nan"),)):
        with pytest.raises(InputError, match="one or more different finite numbers"):
            choose_targets(Arguments(target_returns=wrong), data)


def test_settings_that_do_not_fit_the_data():
    data = _dataset([[1.0] * 6, [1.0] * 3])
    check(Arguments(context_length=6), data)
    with pytest.raises(InputError, match="--context-length is 7, but the longest episode of episodes has 6 steps"):
        check(Arguments(context_length=7), data)
    with pytest.raises(InputError, match="--num-heads is 3, but must divide --embedding-size, 64"):
        check(Arguments(num_heads=3, embedding_size=64), data)
    endless = dataclasses.replace(_dataset([[1.0] * 30]), episode_complete=np.array([False]))
    with pytest.raises(InputError, match="has no complete episodes"):
        check(Arguments(), endless)


@pytest.mark.parametrize("agent", ["decision_transformer"])
def test_mistakes_on_the_command_line_are_one_line(agent, run_agent, tmp_path):
    for arguments, message in (
        (("--context-length", 5000), "--context-length is 5000, but the longest episode"),
        (("--target-returns",), "give one or more different finite numbers"),
        (("--attention-dropout", 1.0), "--attention-dropout is 1.0, but must be at least 0 and below 1"),
    ):
        result = run_agent(*arguments, check=False)
        assert result.returncode == 2
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("agent", ["decision_transformer"])
def test_every_target_return_has_its_lines(agent, run_agent, tmp_path, scalars):
    small = ("--embedding-size", 16, "--context-length", 4, "--num-layers", 1)
    output = run_agent(*small, "--target-returns", 500, 100, "--run-name", "x").stdout
    assert "at target 500; return" in output
    (folder,) = tmp_path.glob("runs/*/*/*/seed0")
    rows = rlrat.runs.folder.RunFolder(folder).evaluations()
    assert [(row["update"], row["target_return"]) for row in rows] == [
        (str(update), target) for update in (0, 20, 40) for target in ("500", "100")
    ]
    episodes = (folder / "episodes.csv").read_text().splitlines()[1:]
    assert len(episodes) == 3 * 2 * 2
    seeds = [[line.split(",")[3] for line in episodes if line.split(",")[1] == target] for target in ("500", "100")]
    assert seeds[0] == seeds[1]  # the same initial states
    points = scalars(folder)
    first = [float(row["return_mean"]) for row in rows if row["target_return"] == "500"]
    assert list(points["eval/return_mean"].values()) == pytest.approx(first)
    assert list(points["eval/target_100/return_mean"]) == [0, 20, 40]
