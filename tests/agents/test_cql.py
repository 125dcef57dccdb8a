"""CQL's update beside the paper's equations, computed a second time in NumPy and float64."""

import copy
from functools import partial

import numpy as np
import pytest
import torch

from tests.agents.learners import assert_gradients, forward, make_learner, make_trainer

_small = {"num_actions": 4, "initialization": "xavier_uniform", "reward_scaling": "paper"}
_small |= {"discount": 0.9, "alpha": 4.0, "polyak": 0.01}  # no setting of the equations has its default
_learner = partial(make_learner, "cql", **_small)
_trainer = partial(make_trainer, "cql", **_small)
VARIANTS = {
    "plain": {},
    "temperature": {"temperature": 0.5, "alpha": 3.0},
    "lagrange": {"lagrange": True, "target_action_gap": 2.0},
    "max target backup": {"max_target_backup": True},
    "entropy in the backup": {"backup_entropy": True, "entropy_weight": 0.3},
    "entropy in the max backup": {"backup_entropy": True, "max_target_backup": True, "automatic_entropy": False},
    "no importance sampling": {"importance_sampling": False},
    "cloning": {"cloning_updates": 2},
    "clipped gap": {"gap_low": 3.7, "gap_high": 4.0},
}


def _gaussian(policy, x, seed):
    mean, log_std = np.split(forward(policy.mean, x, seed), 2, axis=1)
    scale, offset = (p[seed].item() for p in (policy.log_std_scale, policy.log_std_offset))
    return mean, np.clip(scale * log_std + offset, -20, 2)


def _log_prob(mean, log_std, u):
    """Of a = tanh(u): the normal density of u over the slope of tanh."""
    density = np.exp(-0.5 * ((u - mean) / np.exp(log_std)) ** 2) / (np.exp(log_std) * np.sqrt(2 * np.pi))
    return np.log(density / (1 - np.tanh(u) ** 2)).sum(1)


def _sample(policy, x, seed, noise):
    mean, log_std = _gaussian(policy, x, seed)
    u = mean + np.exp(log_std) * noise
    return np.tanh(u), _log_prob(mean, log_std, u)


def _q(network, s, a, seed):
    return np.stack([forward(network, np.concatenate([s, a], 1), (seed, c))[:, 0] for c in range(2)])


def _numpy_losses(learner, batch, noise, cloning, seed):
    """Every loss of one seed at the parameters that `learner` has, and the gap before it is clipped."""
    args, q, policy = learner.args, learner.q, learner.policy
    s, a, r, s2, d = (t[seed].double().numpy() for t in batch)
    uniform, current, following, backup, own = (t[seed].double().numpy() for t in noise)
    log_weight = learner.log_entropy_weight.value[seed].item()

    action, log_prob = _sample(policy, s, seed, own[0])
    losses = {"entropy": -log_weight * np.mean(log_prob - 3)}
    if cloning:
        mean, log_std = _gaussian(policy, s, seed)
        value = _log_prob(mean, log_std, np.arctanh(np.clip(a, -0.999, 0.999)))
    else:
        value = _q(q, s, action, seed).min(0)
    losses["actor"] = np.mean(np.exp(log_weight) * log_prob - value)

    candidates = []
    for eps in backup:
        a2, log_prob2 = _sample(policy, s2, seed, eps)
        candidates.append((_q(learner.q_target, s2, a2, seed).min(0), log_prob2))
    next_q, next_log_prob = (np.array(x) for x in zip(*candidates, strict=True))
    best, rows = next_q.argmax(0), np.arange(len(s))
    next_q = next_q[best, rows] - args.backup_entropy * np.exp(log_weight) * next_log_prob[best, rows]
    target = r + args.discount * (1 - d) * next_q

    data_q = _q(q, s, a, seed)
    samples = [(x, np.full(len(s), np.log(0.5**3))) for x in uniform]
    samples += [_sample(policy, s2, seed, eps) for eps in following]
    samples += [_sample(policy, s, seed, eps) for eps in current]
    terms = [_q(q, s, x, seed) - (density if args.importance_sampling else 0) for x, density in samples]
    terms = np.array(terms if args.importance_sampling else [*terms, data_q])
    gap = args.temperature * np.log(np.exp(terms / args.temperature).sum(0)) - data_q
    clipped = gap
    if args.gap_low is not None:
        clipped = np.clip(gap, args.gap_low, args.gap_high)
    mean_gap = clipped.mean(1)
    losses["conservative"] = args.alpha * mean_gap.sum()
    if args.lagrange:
        excess = args.alpha * (mean_gap - args.target_action_gap)
        multiplier = np.exp(learner.log_multiplier.value[seed].item())
        losses["conservative"] = multiplier * excess.sum()
        losses["multiplier"] = -multiplier * excess.mean()
    losses["q"] = np.mean((data_q - target) ** 2, axis=1).sum() + losses["conservative"]
    if not args.automatic_entropy:
        del losses["entropy"]
    return losses, gap


@pytest.mark.parametrize("variant", VARIANTS)
def test_losses_are_the_papers_at_the_parameters_before_the_update(small_dataset, variant):
    rates = {"actor_learning_rate": 3e-3, "critic_learning_rate": 3e-3}
    learner, _ = _learner(small_dataset, [3, 4], **VARIANTS[variant], **rates)
    learner.part_size = 12  # the batch is of 32
    for update in range(4):
        before, inputs = copy.deepcopy(learner), learner.inputs(update)
        assert inputs[2] == (variant == "cloning" and update < 2)
        metrics = learner.update(*inputs)
        for seed in range(2):
            expected, gap = _numpy_losses(before, *inputs, seed)
            got = {name.removeprefix("losses/"): v[seed].item() for name, v in metrics.items() if "losses/" in name}
            assert got == pytest.approx(expected, rel=1e-4, abs=1e-5)
            if variant == "clipped gap":
                assert all(x.any() for x in (gap < 3.7, (gap > 3.7) & (gap < 4.0), gap > 4.0))
            else:
                assert metrics["charts/gap"][seed].item() == pytest.approx(gap.mean(), rel=1e-4)
            weight = before.log_entropy_weight.value[seed].exp().item()
            assert metrics["charts/entropy_weight"][seed].item() == pytest.approx(weight)
        target = 0.99 * before.q_target.output.weight + 0.01 * learner.q.output.weight
        torch.testing.assert_close(learner.q_target.output.weight, target)


@pytest.mark.parametrize("variant", ["lagrange", "no importance sampling", "clipped gap", "cloning"])
def test_the_gradient_of_each_loss_is_the_one_that_steps(small_dataset, variant):
    learner, _ = _learner(small_dataset, [0], entropy_weight=0.5, **VARIANTS[variant])
    learner.part_size = 12
    before, inputs = copy.deepcopy(learner), learner.inputs(0)
    learner.update(*inputs)
    trained = [("q", "q", "q"), ("policy", "policy", "actor"), ("log_entropy_weight", "entropy", "entropy")]
    if variant == "lagrange":
        trained.append(("log_multiplier", "multiplier", "multiplier"))
    for network, optimizer, name in trained:
        optimizer = getattr(learner, f"{optimizer}_optimizer")
        assert_gradients(
            learner, before, network, optimizer, lambda moved, name=name: _numpy_losses(moved, *inputs, 0)[0][name]
        )


def test_the_entropys_weight_follows_each_seeds_own_entropy(small_dataset):
    learner, _, train = _trainer(small_dataset, [0, 1], entropy_weight=0.2)
    learner.policy.log_std_offset.data.copy_(torch.tensor([-6.0, 0.0]))  # too certain, too random
    metrics = [train(update) for update in range(10)]
    assert metrics[0]["charts/entropy_weight"].tolist() == pytest.approx([0.2, 0.2])
    assert metrics[0]["charts/log_prob"][0] > 3 > metrics[0]["charts/log_prob"][1]
    low, high = 0.2 * np.exp(-9 * 3e-5), 0.2 * np.exp(9 * 3e-5)  # Adam steps by about its rate
    assert metrics[-1]["charts/entropy_weight"].tolist() == pytest.approx([high, low], rel=3e-5)


def test_a_fixed_entropy_weight_stays(small_dataset):
    learner, _, train = _trainer(small_dataset, [0, 1], automatic_entropy=False, entropy_weight=0.2)
    metrics = [train(update) for update in range(3)]
    assert "losses/entropy" not in metrics[-1]
    assert learner.log_entropy_weight.value.exp().tolist() == pytest.approx([0.2, 0.2])


def test_the_multiplier_follows_each_seeds_own_gap(small_dataset):
    learner, _, train = _trainer(small_dataset, [0, 1])
    gaps = train(0)["charts/gap"]
    learner, _, train = _trainer(small_dataset, [0, 1], lagrange=True, target_action_gap=gaps.mean().item())
    metrics = train(0)
    torch.testing.assert_close(metrics["charts/multiplier"], torch.full((2,), np.e))
    expected = 1.0 + 3e-4 * torch.sign(gaps - gaps.mean())
    torch.testing.assert_close(learner.log_multiplier.value.data, expected, rtol=0, atol=1e-6)
    assert sorted(expected.tolist()) == pytest.approx([0.9997, 1.0003])


def test_one_seeds_rewards_change_nothing_for_the_other(small_dataset):
    settings = {"lagrange": True, "backup_entropy": True}
    plain, _ = _learner(small_dataset, [0, 1], **settings)
    scaled, _ = _learner(small_dataset, [0, 1], **settings)
    factor = torch.tensor([[1.0], [1000.0]])
    for update in range(20):
        batch, *rest = plain.inputs(update)
        ours = plain.update(batch, *rest)
        theirs = scaled.update(batch._replace(rewards=batch.rewards * factor), *rest)
        for name, value in ours.items():
            assert value[0] == theirs[name][0]
    for name, value in plain.state_dict().items():
        assert torch.equal(value[0], scaled.state_dict()[name][0]), name
    for name in ("q_optimizer.flat", "policy_optimizer.flat", "log_multiplier.value"):
        ours, theirs = (getattr(getattr(x, name.split(".")[0]), name.split(".")[1]) for x in (plain, scaled))
        assert not torch.equal(ours[1], theirs[1]), name


@pytest.mark.parametrize("max_target_backup", [False, True])
def test_noise_is_a_function_of_seed_and_update(small_dataset, max_target_backup):
    many, one = (_learner(small_dataset, seeds, max_target_backup=max_target_backup)[0] for seeds in ([0, 3], [3]))
    for update in (0, 1, 63, 64):
        for ours, theirs in zip(many.inputs(update)[1], one.inputs(update)[1], strict=True):
            torch.testing.assert_close(ours[1], theirs[0])
    noise, later = one.inputs(0)[1], one.inputs(1)[1]
    assert [x.shape for x in noise] == [(1, k, 32, 3) for k in (4, 4, 4, 4 if max_target_backup else 1, 1)]
    assert not any(torch.equal(x, y) for x, y in zip(noise, later, strict=True))
    assert len({x[0, 0, 0, 0].item() for x in noise}) == 5
    assert noise.uniform.amin() < -0.9
    assert 0.9 < noise.uniform.amax() < 1.0


def test_the_density_of_an_action_at_its_bound_is_finite(small_dataset):
    learner, _ = _learner(small_dataset, [0])
    mean = torch.tensor([-40.0, 3.0, 40.0]).view(1, 1, 3).requires_grad_()
    actions, log_prob = learner.squash(mean, torch.zeros(1, 1, 3), torch.zeros(1, 1, 1, 3))
    # log(1 - tanh(u)^2) = 2 log 2 - 2 |u| - 2 log(1 + exp(-2 |u|))
    size = np.abs([40.0, 3.0, 40.0])
    slope = 2 * np.log(2) - 2 * size - 2 * np.log1p(np.exp(-2 * size))
    assert log_prob.item() == pytest.approx(-1.5 * np.log(2 * np.pi) - slope.sum())
    (gradient,) = torch.autograd.grad(log_prob.sum(), mean)
    np.testing.assert_allclose(gradient.flatten(), 2 * np.tanh([-40.0, 3.0, 40.0]), rtol=1e-5)
    assert actions.abs().max() == 1.0


@pytest.mark.parametrize("agent", ["cql"])
@pytest.mark.parametrize(
    ("low", "high", "bound"),
    [
        (1.0, 0.0, "below --gap-high, which is 0.0"),
        (1.0, 1.0, "below --gap-high, which is 1.0"),
        ("nan", 1.0, "at least"),
    ],
)
def test_bounds_of_the_gap_that_leave_nothing_are_named_in_one_line(run_agent, tmp_path, low, high, bound):
    result = run_agent("--gap-low", low, "--gap-high", high, check=False)
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith(f"error: --gap-low is {low}, but must be {bound}")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("agent", ["cql"])
@pytest.mark.parametrize("gaps", [(10,), (5.5, 10)])
def test_a_target_of_the_gap_without_a_multiplier_is_no_setting(run_agent, tmp_path, gaps):
    result = run_agent("--target-action-gap", *gaps, check=False)
    assert (result.returncode, result.stderr) == (
        2,
        "error: --target-action-gap is for --lagrange: give both or neither\n",
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("agent", ["cql"])
def test_every_setting_can_be_given_on_the_command_line(run_agent, tmp_path, scalars):
    flags = ("--lagrange", "--max-target-backup", "--backup-entropy", "--no-importance-sampling")
    run_agent(*flags, "--cloning-updates", 15, "--gap-high", 50, "--run-name", "x")
    points = scalars(tmp_path / "runs/rlrat-hopper-mixed-v0/cql/relu+x/seed0")
    assert {"losses/multiplier", "charts/multiplier"} <= set(points)
