"""The swap of activations: what is replaced, what stays and is named, and that nothing is computed by the old ones."""

import copy
import functools
import io
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rlrat.rational import ACTIVATIONS, FUNCTIONS, Rational, rationalize

tanh_gelu = functools.partial(F.gelu, approximate="tanh")


@pytest.fixture(autouse=True)
def _silent():
    """What is not expected to warn must not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="rationalize leaves")
        yield


def test_rationalize_honours_settings_and_leaves_the_rest():
    shared = nn.SiLU()
    model = nn.Sequential(
        nn.Linear(4, 8),
        nn.ReLU(inplace=True),
        nn.Sequential(shared, nn.Linear(8, 8), nn.GELU(approximate="tanh")),
        shared,
        nn.PReLU(init=0.1),
        nn.Identity(),
        nn.Dropout(),
    ).eval()
    originals = {"1": nn.ReLU(), "2.0": nn.SiLU(), "2.2": nn.GELU(approximate="tanh"), "4": nn.PReLU(init=0.1)}
    kept = [type(model[i]) for i in (0, 5, 6)]
    assert rationalize(model) is model
    assert [type(model[i]) for i in (0, 5, 6)] == kept
    assert model[3] is model[2][0]
    x = torch.linspace(-5, 5, 101)
    for path, original in originals.items():
        replacement = model.get_submodule(path)
        assert isinstance(replacement, Rational)
        assert not replacement.training
        torch.testing.assert_close(replacement(x), original(x), atol=0.03, rtol=0)
    model(torch.randn(3, 4)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_rationalize_an_activation_itself():
    module = rationalize(nn.Tanh(), degrees=(3, 2), version="B")
    assert isinstance(module, Rational)
    assert (module.degrees, module.version) == ((3, 2), "B")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_known_activation_can_be_fitted(activation):
    module = rationalize(activation(), degrees=(5, 4) if activation.__name__.lower() in FUNCTIONS else (3, 2))
    x = torch.linspace(-5, 5, 101)
    torch.testing.assert_close(module(x), activation()(x), atol=0.5, rtol=0)


def test_rationalize_changes_nothing_when_it_cannot_finish():
    model = nn.Sequential(nn.ReLU(), nn.PReLU(8))
    with pytest.raises(ValueError, match=r"1 is an nn\.PReLU with 8 slopes"):
        rationalize(model)
    assert type(model[0]) is nn.ReLU


def _encoder(activation, **settings):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, activation=activation, batch_first=True, **settings)
    return nn.TransformerEncoder(layer, 2).eval()


def _rationalize_attention(model, **settings):
    with pytest.warns(UserWarning, match=r"MultiheadAttention") as caught:
        rationalize(model, **settings)
    assert len(caught) == 1
    return model


def _move(model):
    """Far away from what the activations were."""
    with torch.no_grad():
        for rational in model.modules():
            if isinstance(rational, Rational):
                rational.numerator += 0.3 * torch.randn_like(rational.numerator)
    return model


def _with_and_without_gradients(model, *args, **kwargs):
    with torch.no_grad():
        without = model(*args, **kwargs)
    return without, model(*args, **kwargs).detach()


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("activation", [F.relu, "gelu", nn.ReLU(), nn.GELU(), tanh_gelu, torch.tanh])
def test_an_encoder_computes_its_rationals_in_evaluation(activation):
    x = torch.randn(3, 5, 8)
    original = _encoder(activation)
    model = _rationalize_attention(copy.deepcopy(original))
    found = [module for module in model.modules() if isinstance(module, Rational)]
    assert len(found) == 2  # one for each layer, though both had the same function
    torch.testing.assert_close(*_with_and_without_gradients(model, x))
    torch.testing.assert_close(model(x), original(x), atol=0.1, rtol=0)
    _move(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = _rationalize_attention(_encoder(activation))
    again.load_state_dict(model.state_dict())
    others = copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(file, weights_only=False), again
    for other in (model, *others):
        torch.testing.assert_close(_with_and_without_gradients(other, x), (model(x),) * 2)
    assert (model(x) - original(x)).abs().max() > 0.01


def test_an_encoder_with_padding_makes_no_nested_tensors():
    original = _encoder("relu")
    assert original.use_nested_tensor
    model = _move(_rationalize_attention(original))
    padded = torch.arange(5) >= torch.tensor([5, 3, 2]).unsqueeze(1)
    found = _with_and_without_gradients(model, torch.randn(3, 5, 8), src_key_padding_mask=padded)
    torch.testing.assert_close(*(y[~padded] for y in found))


def test_a_decoder_layer_and_functions_anywhere():
    class Block(nn.Module):
        of_the_class = staticmethod(torch.sigmoid)

        def __init__(self):
            super().__init__()
            self.function, self.own_settings = F.elu, functools.partial(F.leaky_relu, negative_slope=0.25)
            self.other = torch.sin

        def forward(self, x):
            return self.of_the_class(self.function(x)) + self.own_settings(x) + self.other(x)

    decoder = _rationalize_attention(nn.TransformerDecoderLayer(8, 2, 16, dropout=0.0, activation="gelu"))
    assert isinstance(decoder.activation, Rational)
    x = torch.linspace(-4, 4, 50)
    block = Block()
    expected = block(x)
    model = rationalize(nn.ModuleDict({"a": block, "b": block}).eval())
    assert model["a"] is model["b"] is block
    for other in (block, copy.deepcopy(block)):
        torch.testing.assert_close(other(x), expected, atol=0.05, rtol=0)
        assert {name for name, _ in other.named_parameters()} == {
            f"{name}.{part}"
            for name in ("function", "own_settings", "of_the_class")
            for part in ("numerator", "denominator")
        }
        assert not any(module.training for module in other.modules())
        before = other(x)
        _move(other)
        assert not torch.allclose(other(x), before)


def _helper(x):
    return x * torch.tanh(F.softplus(x))


_BY_NAME = {"celu": F.celu, "three": 3}
_SETTINGS = {"three": 3}


class _Calls(nn.Module):
    """Names in its code, which must not be run, of submodules that are called so and of everything that stays."""

    of_the_class = nn.Tanhshrink()

    def __init__(self):
        super().__init__()
        self.relu, self.linear = nn.ReLU(), nn.Linear(4, 4)
        self.kept = [nn.SiLU(), 3]
        self.positional = functools.partial(F.leaky_relu, 0.5)
        self.lambda_ = lambda x: F.mish(x)

    @property
    def property_(self):
        raise AssertionError("it must not be run")

    def _forward(self, x):
        return [self.linear(x).sigmoid_() for _ in range(2)]

    def unused(self, x):
        return F.selu(x)

    def forward(self, x):
        for block in (self.relu,):
            x = block.relu(x)  # a submodule of that name
        x = nn.ELU(alpha=0.5)(nn.LogSigmoid()(x)) if isinstance(x, nn.SELU) or type(x) is nn.CELU else x
        x = _BY_NAME["celu"](x) * _SETTINGS["three"]
        return _helper(self.relu(x)), self._forward(x), self.property_, torch.nn.functional.hardswish(x), torch.exp(x)


class _Own(nn.ReLU):
    pass


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_what_stays_is_named_with_its_place():
    scripted = torch.jit.script(nn.Sequential(nn.ReLU()))
    model = nn.ModuleDict({"calls": _Calls(), "rnn": nn.GRU(2, 2), "own": _Own(), "fixed": scripted, "relu": nn.ReLU()})
    with pytest.warns(UserWarning, match="rationalize leaves") as caught:
        rationalize(model)
    (warning,) = caught
    text = str(warning.message)
    called = set(text.partition(" called by")[0].rpartition("calls: ")[2].split(", "))
    functions = {"hardswish", "softplus", "tanh", "sigmoid", "mish"}
    assert called == functions | {"ELU()", "LogSigmoid()", "one of _BY_NAME"}
    for part in (
        "calls: SiLU in kept", "calls: leaky_relu as positional", "calls: Tanhshrink as of_the_class of its class",
        "rnn: those of GRU",
        "own: _Own, a class of its own", "fixed: all of a scripted module",
    ):  # fmt: skip
        assert part in text
    assert "\n" not in text
    assert "elu as" not in text.replace("leaky_relu as", "")
    assert isinstance(model["relu"], Rational)
    assert isinstance(model["calls"].relu, Rational)
    assert type(model["own"]) is _Own


def test_a_long_list_is_cut():
    with pytest.warns(UserWarning, match=r"7: those of GRU; and 4 more$"):
        rationalize(nn.ModuleList(nn.GRU(1, 1) for _ in range(12)))


def test_a_warning_that_is_an_error_changes_nothing():
    model = nn.ModuleList([nn.ReLU(), nn.GRU(1, 1), nn.TransformerEncoderLayer(4, 2, 4)])
    with pytest.raises(UserWarning, match="those of GRU"):
        rationalize(model)
    assert not any(isinstance(module, Rational) for module in model.modules())
    assert (model[2].activation, model[2].activation_relu_or_gelu) == (F.relu, 1)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_a_scripted_module_is_refused():
    with pytest.raises(ValueError, match=r"module is scripted.*before torch\.jit\.script"):
        rationalize(torch.jit.script(nn.Sequential(nn.ReLU())))


def test_a_forward_of_the_instance_and_generated_code():
    model = nn.Linear(2, 2)
    plain = model.forward
    model.forward = lambda x: plain(x).relu()
    traced = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU(), _Own()))
    with pytest.warns(UserWarning, match=r"replace: 0: relu called by Linear; 1: relu called by Sequential"):
        rationalize(nn.Sequential(model, traced))
    assert isinstance(traced.get_submodule("0"), Rational)
    assert traced(torch.ones(1)).requires_grad
