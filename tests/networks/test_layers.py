import math

import pytest
import torch
from scipy import stats

from rlrat.networks.layers import INITIALIZATIONS, MLP, Dropout, gated_dims, initialize, joined
from rlrat.rational import launching, rational, rationalize
from rlrat.updates.random import Stream


def _mlp(seeds, critics=None, scheme="xavier_uniform", **settings):
    batch_shape = (len(seeds),) if critics is None else (len(seeds), critics)
    network = MLP(5, (16, 12), 3, batch_shape=batch_shape, **settings)
    initialize(network, seeds, "test", scheme)
    return network


def normalized(x, weight, bias):
    """By definition (Ba et al. 2016, eq. 4), the epsilon that of the test below."""
    variance = (x - x.mean(-1, keepdim=True)).square().mean(-1, keepdim=True)
    return (x - x.mean(-1, keepdim=True)) / (variance + 0.1).sqrt() * weight + bias


@pytest.mark.parametrize("activation", ["tanh", "rational:tanh"])
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("norm", ["none", "layer", "layer_after"])
def test_mlp_is_plain_linear_algebra_for_each_seed_and_critic(norm, gated, activation):
    """Each norm where it belongs, after the activation also after the gate."""
    network = _mlp([0, 1, 2], critics=2, norm=norm, norm_epsilon=0.1, gated=gated, activation=activation)
    with torch.no_grad():
        for layer in network.hidden:
            layer.linear.bias.normal_(generator=torch.Generator().manual_seed(0))
            if norm != "none":
                layer.norm.weight.normal_(generator=torch.Generator().manual_seed(2))
            if activation != "tanh":  # coefficients of their own
                layer.activation.numerator.mul_(torch.rand(3, 2, 1, 6, generator=torch.Generator().manual_seed(1)))
    x = torch.randn(3, 1, 7, 5)
    y = network(x)
    assert y.shape == (3, 2, 7, 3)
    for s in range(3):
        for c in range(2):
            h = x[s, 0]
            for layer in network.hidden:
                z = h @ layer.linear.weight[s, c] + layer.linear.bias[s, c]
                if norm == "layer":
                    z = normalized(z, layer.norm.weight[s, c], layer.norm.bias[s, c])
                gate = h @ layer.gate.weight[s, c] + layer.gate.bias[s, c] if gated else 1.0
                if activation == "tanh":
                    h = torch.tanh(z) * gate
                else:
                    h = rational(z, layer.activation.numerator[s, c], layer.activation.denominator[s, c]) * gate
                if norm == "layer_after":
                    h = normalized(h, layer.norm.weight[s, c], layer.norm.bias[s, c])
            expected = h @ network.output.weight[s, c] + network.output.bias[s, c]
            torch.testing.assert_close(y[s, c], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scheme", INITIALIZATIONS)
def test_a_seed_starts_alike_whatever_is_beside_it(scheme):
    together, alone = _mlp(list(range(8)), 2, scheme), _mlp([3], 2, scheme)
    for (name, many), one in zip(together.named_parameters(), alone.parameters(), strict=True):
        assert torch.equal(many[3], one[0]), name
    first = together.hidden[0].linear.weight
    assert not torch.equal(first[0, 0], first[0, 1])
    assert not torch.equal(first[0, 0], first[1, 0])


def test_initializations_are_those_of_their_papers():
    bound = math.sqrt(6 / (5 + 16))
    weight = _mlp(range(50), 2).hidden[0].linear.weight
    assert weight.abs().max() <= bound
    assert stats.kstest(weight.detach().flatten(), "uniform", (-bound, 2 * bound)).pvalue > 0.01

    orthogonal = _mlp([0], scheme="orthogonal")
    hidden, output = orthogonal.hidden[1].linear.weight[0], orthogonal.output.weight[0]
    torch.testing.assert_close(hidden.T @ hidden, 2 * torch.eye(12), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.T @ output, torch.eye(3), atol=1e-5, rtol=0)

    pytorch = _mlp(range(50), scheme="pytorch").hidden[1].linear
    for values in (pytorch.weight, pytorch.bias):
        assert stats.kstest(values.detach().flatten(), "uniform", (-0.25, 0.5)).pvalue > 0.01
    with pytest.raises(ValueError, match="choose from xavier_uniform"):
        _mlp([0], scheme="kaiming")


def test_an_unknown_norm_is_named():
    with pytest.raises(ValueError, match="unknown norm 'batch': choose from none, layer, layer_after"):
        _mlp([0], norm="batch")


@pytest.mark.parametrize(
    "sizes",
    [(14, (256, 256), 1), (11, (256, 256), 3), (17, (256, 256, 256), 6), (4, (64,), 2), (11, (64,) * 30, 3)],
)
def test_a_gated_network_is_about_as_large(sizes):
    count = lambda gated: sum(  # noqa: E731
        p.numel() for p in MLP(sizes[0], sizes[1], sizes[2], batch_shape=(1,), gated=gated).parameters()
    )
    assert abs(count(True) / count(False) - 1) < 0.02
    assert len(gated_dims(*sizes)) == len(sizes[1])


def test_a_gated_network_keeps_widths_that_rational_groups_divide():
    settings = {"activation": "rational", "activation_settings": {"groups": 8}}
    for sizes in ((256, 256), (96, 64)):
        plain, gated = (MLP(11, sizes, 3, batch_shape=(1,), gated=g, **settings) for g in (False, True))
        assert gated(torch.randn(1, 5, 11)).shape == (1, 5, 3)
        ratio = sum(p.numel() for p in gated.parameters()) / sum(p.numel() for p in plain.parameters())
        assert abs(ratio - 1) < 0.02


def test_dropout_is_each_seeds_own():
    network = _mlp([0, 1])
    x = torch.randn(2, 100, 5)
    masks = Dropout([0, 1], 100, "cpu", actor=(network, 0.25)).at(7)["actor"]
    alone = Dropout([1], 100, "cpu", actor=(network, 0.25)).at(7)["actor"]
    assert [mask.shape[1:] for mask in masks] == [(100, layer.linear.weight.shape[-1]) for layer in network.hidden]
    assert torch.equal(masks[0][1], alone[0][0])
    assert torch.equal(masks[1], Stream([0, 1], "dropout 1").dropout(7, 0.25, masks[1].shape[1:]))
    assert Dropout([0, 1], 100, "cpu", q=(network, 0.0)).at(7) == {"q": None}
    assert set(masks[0].unique().tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
    assert abs(masks[0].mean() - 1) < 0.1
    assert not torch.equal(network(x), network(x, masks))


def test_dropout_is_each_networks_own_with_its_rate():
    critics, actor = MLP(5, (16, 8), 1, batch_shape=(2, 3)), _mlp([0, 1])
    initialize(critics, [0, 1], "critics", "pytorch")
    both = Dropout([0, 1], 100, "cpu", q=(critics, 0.5), v=(actor, 0.0), actor=(actor, 0.25)).at(7)
    assert both["v"] is None
    masks, x = both["q"], torch.randn(2, 1, 100, 5)
    assert [mask.shape for mask in masks] == [(2, 300, 16), (2, 300, 8)]
    assert set(masks[0].unique().tolist()) == {0.0, 2.0}
    alone = Dropout([0, 1], 100, "cpu", actor=(actor, 0.25)).at(7)["actor"]
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(both["actor"], alone, strict=True))
    y = torch.relu(critics.hidden[0].linear(x)) * masks[0].view(2, 3, 100, 16)
    y = torch.relu(critics.hidden[1].linear(y)) * masks[1].view(2, 3, 100, 8)
    torch.testing.assert_close(critics(x, masks), critics.output(y))
    assert not torch.equal(*critics(x.expand(2, 3, 100, 5), masks)[0, :2])  # each critic its own


@pytest.mark.parametrize("types", [("cuda",), ("cuda", "cpu")])
def test_neighbours_in_memory_are_joined_without_a_copy_on_a_gpu_alone(types, monkeypatch):
    monkeypatch.setattr(launching, "_gpu_types", types)
    batch = torch.randn(3, 5, 9)
    first, second, third = batch.split([4, 3, 2], dim=-1)
    compiled = torch.compile(joined, backend="eager", fullgraph=True)
    copied = joined(first, second).data_ptr() != batch.data_ptr()
    assert copied == ("cpu" not in types)
    for pair in ((first, second), (first, third), (first.clone(), second), (first, second.clone().requires_grad_())):
        for function in (joined, compiled):
            assert torch.equal(function(*pair), torch.cat(pair, dim=-1))


@pytest.mark.parametrize("settings", [{}, {"gated": True}, {"norm": "layer"}])
def test_a_rationalized_network_has_one_rational_for_all_seeds(settings):
    network = _mlp([0, 1], **settings)
    x = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(1))  # of other inputs some are beyond 0.1
    before = network(x)
    rationalize(network)
    assert network.hidden[0].activation.batch_shape == ()
    torch.testing.assert_close(network(x), before, atol=0.1, rtol=0)
