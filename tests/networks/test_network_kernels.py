"""The kernels of the networks, in Triton's interpreter, beside the operations that they take the place of."""

import pytest
import torch

from rlrat.networks import network_kernels
from rlrat.networks.layers import MLP, Linear, initialize
from rlrat.networks.policies import Policy
from rlrat.rational import launching
from tests.compile_kernels import Launches, compile_launches

pytest.importorskip("triton")


def _numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _assert_equal(monkeypatch, function, wanted, tolerance=1e-5):
    """`function` and its gradients are the same by operations and by kernels, of which some are launched."""
    launch, found, launched = launching.launch, [], []
    monkeypatch.setattr(launching, "launch", lambda kernel, *a, **k: launched.append(kernel) or launch(kernel, *a, **k))
    for types in (("cuda",), ("cuda", "cpu")):
        monkeypatch.setattr(launching, "_gpu_types", types)
        result = function()
        gradients = torch.autograd.grad(result, wanted, torch.linspace(-1.0, 1.0, result.numel()).view_as(result))
        found.append((result, *gradients))
        assert bool(launched) == (len(types) == 2)
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
    x = _numbers(*batch, rows, features).requires_grad_()
    _assert_equal(monkeypatch, lambda: layer(x), (x, layer.weight, layer.bias))
    shared = _numbers(batch[0], *[1] * (len(batch) - 1), rows, 2 * features)[..., ::2].requires_grad_()
    _assert_equal(monkeypatch, lambda: layer(shared), (shared, layer.weight, layer.bias))


def test_a_layer_whose_parameters_have_gaps(monkeypatch):
    layer, memory = Linear(9, 2, (3, 2)), _numbers(3, 2, 400)
    layer.weight.data = memory[..., :288].unflatten(-1, (9, 32))[..., :2]
    layer.bias.data = memory[..., 288:290]
    x = _numbers(3, 2, 20, 9).requires_grad_()
    _assert_equal(monkeypatch, lambda: layer(x), (x, layer.weight, layer.bias))


def test_other_layers_and_types_are_computed_by_operations(monkeypatch):
    monkeypatch.setattr(launching, "_gpu_types", ("cpu",))
    monkeypatch.setattr(launching, "launch", lambda *_, **__: pytest.fail("launched"))
    Linear(4, 9, (2,))(_numbers(2, 5, 4))
    Linear(4, 1, (2,)).double()(_numbers(2, 5, 4).double())
    policy = Policy(4, 9, num_seeds=2, head="tanh_gaussian", hidden_dims=(8,), activation="tanh").double()
    assert policy.log_prob(_numbers(2, 5, 4).double(), _numbers(2, 5, 9).double()).dtype == torch.float64


@pytest.mark.parametrize("rows", [1, 270])
@pytest.mark.parametrize("head", ["squashed_gaussian", "tanh_gaussian", "deterministic"])
def test_the_log_density_of_a_policy(head, rows, monkeypatch):
    monkeypatch.setattr(network_kernels, "_ROWS", 128)
    policy = Policy(4, 3, num_seeds=2, head=head, hidden_dims=(8,), activation="tanh")
    initialize(policy, [0, 1], "test", "pytorch")
    wanted = tuple(policy.parameters())
    if head != "deterministic":  # one at a bound, one beyond each
        low, high = Policy.HEADS[head]
        policy.log_std.data = torch.tensor([[low, 0.3, high + 1.0], [low - 1.0, -0.7, high]])
    batch = 1.4 * _numbers(2, rows, 8, seed=1)  # actions are columns of it, some beyond the bounds
    observations, actions = batch[..., :4], batch[..., 4:7].clamp(-1.0, 1.0)
    _assert_equal(monkeypatch, lambda: policy.log_prob(observations, actions), wanted, 1e-4)
    columns = torch.cat([observations, actions], dim=-1)[..., 4:]
    _assert_equal(monkeypatch, lambda: policy.log_prob(observations, columns), wanted, 1e-4)


def test_a_network_computes_what_it_does_without_kernels(monkeypatch):
    network = MLP(4, (8, 8), 1, batch_shape=(2, 2), activation="relu")
    initialize(network, [0, 1], "test", "pytorch")
    x = _numbers(2, 1, 30, 4)
    _assert_equal(monkeypatch, lambda: network(x), tuple(network.parameters()))


def test_the_kernels_compile_for_gpus(monkeypatch, tmp_path):
    found = Launches()
    monkeypatch.setattr(launching, "launch", found)
    monkeypatch.setattr(launching, "_gpu_types", ("cpu",))
    actions = _numbers(2, 256, 9)[..., 3:6]
    for head in ("squashed_gaussian", "tanh_gaussian", "deterministic"):
        policy = Policy(4, 3, num_seeds=2, head=head, hidden_dims=(256,), activation="tanh")
        log_prob = policy.log_prob(_numbers(2, 256, 4), actions)
        torch.autograd.grad(log_prob.sum(), tuple(policy.parameters()))
    assert len(found) == 12
    different = list({str(launch): launch for launch in found}.values())  # the layer's are the same each time
    assert len(different) == 8
    for result in compile_launches(different, list(range(len(different))), [80, 90], tmp_path)[1]:
        assert result["spilled"] == 0
        assert result["registers"] <= 128
        assert result["float atomics"] == 0
