"""The kernels of the losses, interpreted where there is no GPU, beside the operations that define them."""

import math

import pytest
import torch

from rlrat.rational import launching
from rlrat.updates import losses
from tests.compile_kernels import Launches, compile_launches
from tests.rational.conftest import _quick_interpreter  # noqa: F401  # Triton's interpreter, made quicker
from tests.rational.inputs import DEVICE

pytest.importorskip("triton")


def _numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def _both(monkeypatch, function, *inputs):
    """What `function` returns and the gradients of the sum of its first output: by operations, and by kernels."""
    found = []
    for types in ((), (DEVICE,)):
        monkeypatch.setattr(launching, "_gpu_types", types)
        own = [x.clone().requires_grad_() if x is inputs[0] else x for x in inputs]
        result = function(*own)
        flat = [result] if isinstance(result, torch.Tensor) else [result[0], *_rest(result[1])]
        gradients = []
        if flat[0].requires_grad:
            factors = torch.linspace(0.5, 2.0, flat[0].numel(), device=DEVICE).view_as(flat[0])  # not the same for each
            gradients = [*torch.autograd.grad(flat[0], own[:1], factors)]
        found.append([*flat, *gradients])
        assert not any(t.requires_grad for t in flat[1:]) or not types
    return found


def _rest(result):
    return [*result] if isinstance(result, tuple) else [result]


def _assert_equal(pair):
    for expected, got in zip(*pair, strict=True):
        torch.testing.assert_close(got, expected, rtol=2e-5, atol=1e-6, equal_nan=True)


PER_SEED = torch.tensor([[0.3], [0.8], [0.5]], device=DEVICE)


@pytest.mark.parametrize("rows", [1, 300])
@pytest.mark.parametrize("setting", [0.7, PER_SEED])
def test_a_kernel_computes_what_the_operations_do(rows, setting, monkeypatch):
    value, target, q = _numbers(3, rows), _numbers(3, rows, seed=1), _numbers(3, 2, rows, seed=2)
    _assert_equal(_both(monkeypatch, losses.squared_error, q, target))
    _assert_equal(_both(monkeypatch, losses.expectile_error, value, target, setting))
    for most in (1.5, 2.0 * PER_SEED):
        _assert_equal(_both(monkeypatch, losses.weighted_likelihood, value, target, setting, most))
    columns = _numbers(3, rows, 5)
    rewards, ends = columns[..., 1], (columns[..., 3] > 0.5).float()
    with torch.no_grad():
        _assert_equal(_both(monkeypatch, losses.bellman_target, rewards, ends, target, setting))
        _assert_equal(_both(monkeypatch, losses.bellman_target, columns[..., 4], ends, target, 1))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_stays_in_its_seed_and_shows(bad, monkeypatch):
    value, target = _numbers(3, 9), _numbers(3, 9, seed=1)
    value[1, 4] = bad
    for function, *settings in (
        (lambda v, t: losses.squared_error(v.unsqueeze(1), t),),
        (losses.expectile_error, 0.7),
        (losses.weighted_likelihood, 3.0, 100.0),
        (lambda advantage, log_prob: losses.weighted_likelihood(log_prob, advantage.detach(), 3.0, 100.0),),
    ):
        pair = _both(monkeypatch, function, value, target, *settings)
        _assert_equal(pair)
        assert torch.isfinite(pair[1][0]).tolist() in ([True, False, True], [True] * 3 if bad == math.inf else None)


def test_other_types_and_other_devices_are_computed_by_operations(monkeypatch):
    monkeypatch.setattr(launching, "launch", lambda *_, **__: pytest.fail("launched"))
    value, target = _numbers(3, 9), _numbers(3, 9, seed=1)
    losses.squared_error(value.cpu().unsqueeze(1), target.cpu())
    monkeypatch.setattr(launching, "_gpu_types", (DEVICE,))
    losses.squared_error(value.double().unsqueeze(1), target.double())


@pytest.mark.parametrize(
    ("setting", "architecture"),
    [(0.7, 90), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.7, 80), (PER_SEED, 80), (PER_SEED, 90)))],
)
def test_the_kernels_compile_for_gpus(setting, architecture, monkeypatch, tmp_path):
    found = Launches()
    monkeypatch.setattr(launching, "launch", found)
    monkeypatch.setattr(launching, "_gpu_types", (DEVICE,))
    value, target, q = (_numbers(3, *shape, 256).requires_grad_() for shape in ((), (), (2,)))
    loss, _ = losses.squared_error(q, target)
    other, _ = losses.expectile_error(value, target, setting)
    last, _ = losses.weighted_likelihood(value, target, setting, setting)
    torch.autograd.grad((loss + other + last).sum(), (q, value))
    losses.bellman_target(target, target, target, setting)
    assert len(found) == 7
    for result in compile_launches(found, list(range(len(found))), [architecture], tmp_path)[1]:
        assert result["spilled"] == 0
        assert result["registers"] <= 64
        assert result["float atomics"] == 0
