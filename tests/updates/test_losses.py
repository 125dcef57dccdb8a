"""Losses as they are defined; test_loss_kernels.py has the GPU's."""

import numpy as np
import pytest
import torch

from rlrat.updates import losses


def _numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_bellman_target_is_its_equation():
    rewards, value = _numbers(2, 5), _numbers(2, 5, seed=1)
    ends = torch.tensor([[0.0, 1.0, 0.0, 0.0, 1.0]] * 2)
    for discount in (0.9, torch.tensor([[0.9], [0.5]])):
        found = losses.bellman_target(rewards, ends, value, discount)
        torch.testing.assert_close(found, torch.where(ends > 0, rewards, rewards + discount * value))


def test_the_squared_error_is_a_mean_over_rows_and_a_sum_over_critics():
    q, target = _numbers(3, 2, 7), _numbers(3, 7, seed=1)
    loss, mean = losses.squared_error(q, target)
    expected = ((q.numpy() - target.numpy()[:, None]) ** 2).mean(2).sum(1)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(mean.numpy(), q.numpy().mean((1, 2)), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("expectile", [0.5, 0.7, torch.tensor([[0.2], [0.9]])])
def test_the_expectile_error_weighs_both_sides(expectile):
    value, target = _numbers(2, 7), _numbers(2, 7, seed=1)
    loss, mean = losses.expectile_error(value, target, expectile)
    u = (target - value).numpy()
    expected = (np.abs(np.asarray(expectile) - (u < 0)) * u**2).mean(1)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(mean.numpy(), value.numpy().mean(1), rtol=1e-5)


def test_the_weighted_likelihood_clips_its_weights():
    log_prob, advantage = _numbers(2, 50).requires_grad_(), _numbers(2, 50, seed=1)
    beta, most = torch.tensor([[1.0], [2.0]]), 2.0
    loss, known = losses.weighted_likelihood(log_prob, advantage, beta, most)
    weight = np.minimum(np.exp(beta.numpy() * advantage.numpy()), most)
    np.testing.assert_allclose(loss.detach().numpy(), -(weight * log_prob.detach().numpy()).mean(1), rtol=1e-5)
    (slope,) = torch.autograd.grad(loss.sum(), log_prob)
    np.testing.assert_allclose(slope.numpy(), -weight / 50, rtol=1e-5)
    expected = {
        "advantage_mean": advantage.numpy().mean(1),
        "advantage_std": advantage.numpy().std(1),
        "mean": weight.mean(1),
        "clipped": (weight == most).mean(1),
    }
    assert list(known._fields) == list(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(known, name).numpy(), value, rtol=1e-5, err_msg=name)
