"""The kernels of the networks, interpreted where there is no GPU, beside the operations that they take the place of."""

import pytest
import torch

from rlrat.networks import network_kernels
from rlrat.networks.layers import MLP, Linear, initialize
from rlrat.networks.policies import Policy
from rlrat.rational import launching
from tests.compile_kernels import Launches, compile_launches
from tests.rational.conftest import _quick_interpreter  # noqa: F401  # Triton's interpreter, made quicker
from tests.rational.inputs import DEVICE

pytest.importorskip("triton")


def _numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE)


def _assert_equal(monkeypatch, function, wanted, tolerance=1e-5):
    """`function` and its gradients are the same by operations and by kernels, of which some are launched."""
    launch, found, launched = launching.launch, [], []
    monkeypatch.setattr(launching, "launch", lambda kernel, *a, **k: launched.append(kernel) or launch(kernel, *a, **k))
    for types in ((), (DEVICE,)):
        monkeypatch.setattr(launching, "_gpu_types", types)
        result = function()
        factors = torch.linspace(-1.0, 1.0, result.numel(), device=DEVICE).view_as(result)
        gradients = torch.autograd.grad(result, wanted, factors)
        found.append((result, *gradients))
        assert bool(launched) == bool(types)
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(
            got, expected, rtol=tolerance, atol=tolerance * max(1.0, expected.abs().max().item())
        )


@pytest.mark.parametrize(
    ("batch", "rows", "features", "outputs"),
    [((1,), 5, 7, 1), ((3,), 9, 5, 3), ((1, 2), 17, 300, 2), ((3, 2), 70, 20, 1), ((2,), 1040, 5, 1)],
)
def test_a_layer_with_few_outputs(batch, rows, features, outputs, monkeypatch):
    monkeypatch.setattr(network_kernels, "_ROWS", 16 if rows < 50 else 64)  # the interpreter's time is that of programs
    layer = Linear(features, outputs, batch)
    initialize(layer, range(batch[0]), "test", "pytorch")
    layer.to(DEVICE)
    x = _numbers(*batch, rows, features).requires_grad_()
    _assert_equal(monkeypatch, lambda: layer(x), (x, layer.weight, layer.bias))
    shared = _numbers(batch[0], *[1] * (len(batch) - 1), rows, 2 * features)[..., ::2].requires_grad_()
    _assert_equal(monkeypatch, lambda: layer(shared), (shared, layer.weight, layer.bias))


def test_a_layer_whose_parameters_have_gaps(monkeypatch):
    layer, memory = Linear(9, 2, (3, 2)).to(DEVICE), _numbers(3, 2, 400)
    layer.weight.data = memory[..., :288].unflatten(-1, (9, 32))[..., :2]
    layer.bias.data = memory[..., 288:290]
    x = _numbers(3, 2, 20, 9).requires_grad_()
    _assert_equal(monkeypatch, lambda: layer(x), (x, layer.weight, layer.bias))


def test_a_layer_can_be_differentiated_twice(monkeypatch):
    layer, x = Linear(5, 2, (2,)).to(DEVICE), _numbers(2, 9, 5).requires_grad_()
    layer.weight.data = _numbers(2, 5, 2, seed=1)

    def penalty():
        (slope,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        return slope.square().sum().unsqueeze(0)

    _assert_equal(monkeypatch, penalty, (x, layer.weight))


def test_other_layers_and_types_are_computed_by_operations(monkeypatch):
    monkeypatch.setattr(launching, "_gpu_types", (DEVICE,))
    monkeypatch.setattr(launching, "launch", lambda *_, **__: pytest.fail("launched"))
    Linear(4, 9, (2,)).to(DEVICE)(_numbers(2, 5, 4))
    Linear(4, 1, (2,)).to(DEVICE).double()(_numbers(2, 5, 4).double())
    policy = Policy(4, 1, num_seeds=2, head="tanh_gaussian", hidden_dims=(4,)).to(DEVICE).double()
    log_prob = policy.log_prob(_numbers(2, 5, 4).double(), _numbers(2, 5, 1).double())
    assert log_prob.dtype == torch.float64


def test_outputs_of_a_policy_may_be_narrow(monkeypatch):
    """As autocast makes them."""
    monkeypatch.setattr(launching, "_gpu_types", (DEVICE,))
    outputs, actions, log_std = _numbers(2, 5, 3).requires_grad_(), _numbers(2, 5, 3, seed=1), _numbers(2, 3, seed=2)
    settings = "tanh_gaussian", Policy.HEADS["tanh_gaussian"]
    narrow = network_kernels.log_prob(outputs.bfloat16(), actions, log_std, *settings)
    wide = network_kernels.log_prob(outputs, actions, log_std, *settings)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow, wide, rtol=0.1, atol=0.1)
    assert torch.isfinite(*torch.autograd.grad(narrow.sum(), outputs)).all()


@pytest.mark.parametrize("rows", [1, 270])
@pytest.mark.parametrize("head", ["squashed_gaussian", "tanh_gaussian", "deterministic"])
def test_the_log_density_of_a_policy(head, rows, monkeypatch):
    monkeypatch.setattr(network_kernels, "_ROWS", 128)
    policy = Policy(4, 3, num_seeds=2, head=head, hidden_dims=(8,), activation="tanh")
    initialize(policy, [0, 1], "test", "pytorch")
    policy.to(DEVICE)
    wanted = tuple(policy.parameters())
    if head != "deterministic":  # one at a bound, one beyond each
        low, high = Policy.HEADS[head]
        policy.log_std.data = torch.tensor([[low, 0.3, high + 1.0], [low - 1.0, -0.7, high]], device=DEVICE)
    batch = 1.4 * _numbers(2, rows, 8, seed=1)  # actions are columns of it, some beyond the bounds
    observations, actions = batch[..., :4], batch[..., 4:7].clamp(-1.0, 1.0)
    _assert_equal(monkeypatch, lambda: policy.log_prob(observations, actions), wanted, 1e-4)
    columns = torch.cat([observations, actions], dim=-1)[..., 4:]
    _assert_equal(monkeypatch, lambda: policy.log_prob(observations, columns), wanted, 1e-4)


def test_a_network_computes_what_it_does_without_kernels(monkeypatch):
    network = MLP(4, (8, 8), 1, batch_shape=(2, 2), activation="relu")
    initialize(network, [0, 1], "test", "pytorch")
    network.to(DEVICE)
    x = _numbers(2, 1, 30, 4)
    _assert_equal(monkeypatch, lambda: network(x), tuple(network.parameters()))


@pytest.mark.parametrize("architecture", [90, pytest.param(80, marks=pytest.mark.slow)])
def test_the_kernels_compile_for_gpus(architecture, monkeypatch, tmp_path):
    found = Launches()
    monkeypatch.setattr(launching, "launch", found)
    monkeypatch.setattr(launching, "_gpu_types", (DEVICE,))
    actions = _numbers(2, 256, 9)[..., 3:6]
    for head in ("squashed_gaussian", "tanh_gaussian", "deterministic"):
        policy = Policy(4, 3, num_seeds=2, head=head, hidden_dims=(256,), activation="tanh").to(DEVICE)
        log_prob = policy.log_prob(_numbers(2, 256, 4), actions)
        torch.autograd.grad(log_prob.sum(), tuple(policy.parameters()))
    assert len(found) == 12
    different = list({str(launch): launch for launch in found}.values())  # the layer's are the same each time
    assert len(different) == 8
    for result in compile_launches(different, list(range(len(different))), [architecture], tmp_path)[1]:
        assert result["spilled"] == 0
        assert result["registers"] <= 160, result  # Triton 3.6 takes 149, 3.9 at most 128
        assert result["float atomics"] == 0
