"""Calls that a forward makes are computed by rationals, each by its own, however the model is used."""

import copy
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rlrat.rational import Rational, rationalize, rationalized
from rlrat.rational.call_sites import CallSites, ReplacedByCaller, derived, free_name, is_installed
from tests.rational.models import DEGREES, KINDS, LoopedMLP, ResNet

TABLE = (-5.0, 5.0)  # where the fits are in the table


def replaced(model, data, **settings):
    """Rationalize, and move each rational away from the others and from what it was."""
    rationalize(model, data=data, interval=TABLE, **settings)
    with torch.no_grad():
        for number, rational in enumerate(m for m in model.modules() if isinstance(m, Rational)):
            rational.numerator[..., 0] += 0.1 * (number + 1)
    return model.eval()


class Branches(nn.Module):
    """Two calls in one line, of which a forward makes one, then as many rounds as it is told."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x, rounds=1):
        x = F.relu(x) if x.sum() > 0 else torch.relu(self.linear(x))
        for _ in range(rounds):
            x = x.tanh()
        return x


class InPlace(nn.Module):
    """What the activation writes into its input is used."""

    def __init__(self, activation):
        super().__init__()
        self.activation = activation

    def forward(self, x):
        x = x * 1.0
        y = self.activation(x) if self.activation else F.relu_(x)
        return y + x


def test_each_round_of_a_loop_has_its_own():
    model = replaced(LoopedMLP(), [torch.randn(3, 8)])
    x = torch.randn(5, 8)
    y = x
    for layer, rational in zip(model.layers, model.rationals, strict=True):
        y = rational(layer(y))
    torch.testing.assert_close(model(x), y)
    model(x).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.rationals.parameters())


def test_each_call_of_a_shared_module_has_its_own():
    torch.manual_seed(0)
    model = replaced(ResNet(), [torch.randn(2, 3, 8, 8)])
    x = torch.randn(2, 3, 8, 8)
    block = model.layer2[0]
    y = block.rationals[0](block.bn1(block.conv1(model.layer1[0](x := torch.randn(2, 4, 4, 4)))))
    x = model.layer1[0](x)
    y = block.rationals[1](block.bn2(block.conv2(y)) + block.downsample(x))
    torch.testing.assert_close(block(x), y)
    assert isinstance(block.relu, ReplacedByCaller)
    assert isinstance(model.relu, Rational)
    assert not any(isinstance(module, nn.ReLU) for module in model.modules())
    assert "ReLU(inplace=True)" in repr(block.relu)
    with pytest.warns(UserWarning, match="ReLU.* is called where it was not"):
        torch.testing.assert_close(block.relu(torch.tensor([-1.0, 2.0])), torch.tensor([0.0, 2.0]))


def test_hooks_of_an_activation_stay_where_it_was():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.once, self.twice = nn.ReLU(), nn.Tanh()

        def forward(self, x):
            return self.twice(self.twice(self.once(x)))

    model, seen = Shared(), []
    handles = [child.register_forward_hook(lambda *call: seen.append(call)) for child in model.children()]
    replaced(model, [torch.randn(4)])
    seen.clear()
    model(torch.randn(4))
    assert [type(module) for module, _, _ in seen] == [Rational, ReplacedByCaller, ReplacedByCaller]
    torch.testing.assert_close(seen[1][2], model.rationals[0](*seen[1][1]))
    for handle in handles:
        handle.remove()
    model(torch.randn(4))
    assert len(seen) == 3


def test_an_activation_that_is_called_where_the_data_did_not_warns():
    class Twice(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.act = act

        def forward(self, x):
            return self.act(self.act(x) - 1.0)

    class Either(nn.Module):
        def __init__(self):
            super().__init__()
            act = nn.ReLU()
            self.first, self.second = Twice(act), Twice(act)

        def forward(self, x, second=False):
            return self.second(x) if second else self.first(x)

    x = torch.linspace(-3, 3, 9)
    model = replaced(Either(), [x])
    with pytest.warns(UserWarning, match=r"^ReLU\(\) is called where it was not on the data given to rationalize"):
        torch.testing.assert_close(model(x, second=True), F.relu(F.relu(x) - 1.0))


@pytest.mark.parametrize("activation", KINDS)
def test_each_kind_of_module_is_replaced_where_it_is_called(activation):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = activation()

        def forward(self, x):
            return self.act(self.act(x) - 1.0)

    x = torch.randn(9)
    model = rationalize(Twice(), DEGREES[activation], data=[x], interval=TABLE)
    with torch.no_grad():
        model.rationals[1].numerator += 1.0
    torch.testing.assert_close(model(x), model.rationals[1](model.rationals[0](x) - 1.0))


def test_copies_and_files_hold_the_same_model():
    torch.manual_seed(0)
    data = [torch.randn(2, 3, 8, 8)]
    model = replaced(ResNet(), data)
    assert isinstance(model.layer1[0], type(ResNet().layer1[0]))
    assert repr(model.layer1[0]).startswith("BasicBlock(")
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = rationalize(ResNet(), data=data, interval=TABLE).eval()
    again.load_state_dict(model.state_dict())
    others = [
        copy.deepcopy(model), torch.load(file, weights_only=False), again,
        *(pickle.loads(pickle.dumps(model, protocol)) for protocol in (0, 2, 5)),
    ]  # fmt: skip
    for other in others:
        assert torch.equal(other(data[0]), model(data[0]))
        assert other.layer1[0].rationals[0] is not model.layer1[0].rationals[0]
        with torch.no_grad():
            other.layer1[0].rationals[0].numerator += 1.0
        assert not torch.equal(other(data[0]), model(data[0]))


def replica(network):
    """What torch.nn.parallel.replicate makes for one device, which it does on GPUs alone."""
    copies = {module: module._replicate_for_data_parallel() for module in network.modules()}
    for module, copied in copies.items():
        for name, child in module._modules.items():
            setattr(copied, name, None if child is None else copies[child])
        for name, parameter in module._parameters.items():
            setattr(copied, name, None if parameter is None else parameter + 0.0)  # as broadcast: no leaf
        for name, buffer in module._buffers.items():
            setattr(copied, name, None if buffer is None else buffer.clone())
    return copies[network]


@pytest.mark.filterwarnings("ignore:rationalize leaves")
def test_replicas_of_data_parallel_compute_by_their_own_coefficients():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, activation="gelu", batch_first=True)
            self.decoder, self.mlp = nn.TransformerDecoder(layer, 2), LoopedMLP(2)

        def forward(self, x, memory):
            return self.mlp(self.decoder(x, memory))

    torch.manual_seed(0)
    x = torch.randn(2, 4, 8), torch.randn(2, 3, 8)
    model = rationalize(Network().eval(), data=[x], interval=TABLE)
    other = replica(model)
    y = other(*x)
    torch.testing.assert_close(y, model(*x))
    y.sum().backward()
    rationals = [module for module in model.modules() if isinstance(module, Rational)]
    assert len(rationals) == 4
    assert all(module.numerator.grad is not None for module in rationals)
    for module in other.modules():
        if isinstance(module, Rational):
            module.numerator = torch.ones_like(module.numerator)
    assert not torch.allclose(other(*x), y)


def test_branches_are_told_apart_and_rounds_that_vary_share_one():
    up, down = torch.ones(2, 4), -torch.ones(2, 4)
    model = replaced(Branches(), [{"x": up, "rounds": 1}, {"x": down, "rounds": 3}])
    of_up, rounds, of_down = model.rationals
    torch.testing.assert_close(model(up, 2), rounds(rounds(of_up(up))))
    torch.testing.assert_close(model(down, 1), rounds(of_down(model.linear(down))))
    assert model._call_sites.order is None


def test_a_call_that_was_not_seen_warns_and_stays():
    model = rationalize(LoopedMLP(), data=[torch.randn(2, 8)], interval=TABLE)
    model.layers.append(nn.Linear(8, 8))
    x = torch.randn(2, 8)
    with pytest.warns(UserWarning, match=r"LoopedMLP calls relu .* \(LoopedMLP\.forward, models\.py:\d+\)"):
        y = model(x)
    for layer, rational in zip(model.layers, model.rationals, strict=False):
        x = rational(layer(x))
    torch.testing.assert_close(y, F.relu(model.layers[-1](x)))


@pytest.mark.filterwarnings("ignore:rationalize leaves")
@pytest.mark.parametrize("activation", [nn.ReLU(inplace=True), nn.Sequential(nn.ReLU(inplace=True)), None])
def test_what_is_written_into_the_input_is_kept_where_it_matters(activation):
    x = torch.randn(4, 4)
    model = replaced(InPlace(copy.deepcopy(activation)), [x])
    (rational,) = (module for module in model.modules() if isinstance(module, Rational))
    expected = rational(x.clone())
    assert not torch.allclose(expected, F.relu(x))
    torch.testing.assert_close(model(x), 2.0 * expected)
    assert rationalized(model).max_change < 0.1
    x.requires_grad_()
    model(x).sum().backward()
    torch.testing.assert_close(x.grad, 2.0 * rational.derivative(x.detach()))


def test_a_forward_of_the_instance_runs_inside():
    model = LoopedMLP(1)
    plain = model.forward
    model.forward = lambda x: torch.sigmoid(plain(x))
    x = torch.randn(2, 8)
    replaced(model, [x])
    torch.testing.assert_close(model(x), model.rationals[1](model.rationals[0](model.layers[0](x))))


def test_the_childs_name_is_free_and_numbers_without_axes_are_taken():
    class Named(nn.Module):
        rationals = 3

        def forward(self, x):
            return F.silu(x.sum())

    model = replaced(Named(), [torch.ones(2)])
    assert free_name(nn.Linear(1, 1)) == "rationals"
    assert model.rationals == 3
    assert model(torch.ones(2)).shape == ()
    torch.testing.assert_close(model(torch.ones(2)), model.rationals_[0](torch.tensor([2.0]))[0])


def test_transforms_and_replicas_compute_the_same():
    x = torch.randn(3, 8)
    model = replaced(LoopedMLP(2), [x])
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.rationals[1].numerator += 1.0
    y = torch.func.functional_call(model, dict(moved.named_parameters()), (x,))
    torch.testing.assert_close(y, moved(x))
    assert (y - model(x)).abs().min() > 0.0
    torch.testing.assert_close(torch.func.vmap(model)(x), model(x))
    replica = model._replicate_for_data_parallel()
    replica._modules = {name: copy.deepcopy(child) for name, child in model._modules.items()}
    with torch.no_grad():
        replica.rationals[1].numerator[..., 0] += 1.0
    assert not torch.allclose(replica(x), model(x))  # the replica's own, not the model's


def test_the_class_is_derived_once_and_calls_are_described():
    assert derived(LoopedMLP) is derived(LoopedMLP)
    model = replaced(LoopedMLP(2), [torch.randn(2, 8)])
    assert type(model) is derived(LoopedMLP)
    assert is_installed(model)
    assert not is_installed(model.layers)
    assert isinstance(type(model)(2)(torch.ones(1, 8)), torch.Tensor)  # of its class, and not rationalized
    (key,) = model._call_sites.table
    assert key == ((("LoopedMLP.forward", 2, 16),), "relu")
    assert model._call_sites == CallSites("rationals", {key: (0, 1)}, (("relu", 0), ("relu", 1)))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_graphs_compute_the_same():
    torch.manual_seed(0)
    x = torch.randn(2, 3, 8, 8)
    model = replaced(ResNet(), [x])
    expected = model(x)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    compiled(x).sum().backward()
    assert all(p.grad is not None for p in model.layer1[0].rationals.parameters())
    torch.testing.assert_close(torch.export.export(model, (x,)).module()(x), expected)
    torch.testing.assert_close(torch.jit.trace(model, x)(x), expected)
    up, down = torch.ones(2, 4), -torch.ones(2, 4)
    branches = replaced(Branches(), [up, down])
    compiled = torch.compile(branches, backend="aot_eager")
    for x in (down, up, down):
        torch.testing.assert_close(compiled(x), branches(x))


def _unsupported(x):
    return F.relu(x)


class Broken(nn.Module):
    """A compiler must leave the graph in the middle, and runs a call outside."""

    def forward(self, x):
        x = F.relu(x - 0.1)
        x = torch.compiler.disable(_unsupported)(x - 0.2)
        return F.relu(x - 0.3)


@pytest.mark.slow
def test_a_graph_that_breaks_computes_the_same():
    x = torch.randn(5, 4)
    model = replaced(Broken(), [x])
    torch.testing.assert_close(torch.compile(model, backend="eager")(x), model(x))
    assert len(model.rationals) == 3


class Optional(nn.Module):
    def __init__(self, is_on):
        super().__init__()
        self.is_on = is_on

    def forward(self, x):
        if self.is_on:
            x = F.relu(x) - 0.1
        return F.relu(x - 0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Optional calls relu")
@pytest.mark.parametrize("was_on", [False, True])
def test_a_compiled_module_that_makes_other_calls_is_an_error(was_on):
    x = torch.randn(5, 4)
    model = replaced(Optional(was_on), [x])
    model.is_on = not was_on
    assert model(x).shape == x.shape
    torch._dynamo.reset()  # code that did not compile once runs as it is written
    with pytest.raises(RuntimeError, match="a compiled Optional calls other activations than on the data"):
        torch.compile(model, backend="eager")(x)


def test_calls_of_containers_and_generated_code_pass_by():
    class Sequence(nn.Sequential):
        def forward(self, x):
            return super().forward(F.relu(x))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.sequence = Sequence(nn.Linear(4, 4))
            self.generated = torch.fx.symbolic_trace(LoopedMLP(1, 4))

        def forward(self, x):
            return F.relu(self.generated(F.relu(self.sequence(x))))

    model, x = Model(), torch.randn(3, 4)
    with pytest.warns(UserWarning, match=r"sequence: relu called by Sequence, whose .*; generated: relu called by"):
        replaced(model, [x])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y = model(x)
    first, second = model.rationals
    torch.testing.assert_close(y, second(model.generated(first(model.sequence(x)))))
    torch.testing.assert_close(model.sequence(x), model.sequence[0](F.relu(x)))
    assert len(model.sequence) == 1
    assert copy.deepcopy(model)(x).equal(y)


@pytest.mark.slow
def test_calls_of_a_compiled_module_stay_below_one_with_its_own():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.compiled = torch.compile(LoopedMLP(1, 4), backend="eager")

        def forward(self, x):
            return F.relu(self.compiled(F.relu(x) - 1.0))

    x = torch.randn(3, 4)
    with pytest.warns(UserWarning, match="compiled: all of a compiled module"):
        model = replaced(Model(), [x])
    first, second = model.rationals
    layer = model.compiled._orig_mod.layers[0]
    torch.testing.assert_close(model(x), second(F.relu(layer(first(x) - 1.0))))
