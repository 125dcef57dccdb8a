"""The swap of activations: what is replaced, what stays and is named, and that nothing is computed by the old ones."""

import copy
import functools
import io
import pickle
import time
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rlrat
from rlrat.rational import Rational, rationalize, rationalized
from tests.rational.models import DEGREES, KINDS, LoopedMLP, ResNet, ViT

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
    module = rationalize(nn.Tanh(), degrees=(2, 1), version="B")
    assert isinstance(module, Rational)
    assert (module.degrees, module.version) == ((2, 1), "B")


@pytest.mark.parametrize("activation", KINDS)
def test_every_known_activation_can_be_fitted(activation):
    module = rationalize(activation(), degrees=DEGREES[activation])
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
@pytest.mark.parametrize(
    "activation",
    [F.relu, nn.GELU(), tanh_gelu, *(pytest.param(a, marks=pytest.mark.slow) for a in ("gelu", nn.ReLU(), torch.tanh))],
)
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


def test_a_long_list_is_short():
    with pytest.warns(UserWarning, match=r"replace: 0, 1, 2 and 9 more: those of GRU$"):
        rationalize(nn.ModuleList(nn.GRU(1, 1) for _ in range(12)))
    different = (nn.GRU(1, 1), nn.LSTM(1, 1), nn.RNN(1, 1), nn.Softmax(-1), nn.Softmin(-1), nn.LogSoftmax(-1), nn.GLU(),
                 nn.RReLU(), nn.Softshrink(), nn.Hardshrink())  # fmt: skip
    with pytest.warns(UserWarning, match=r"7: RReLU; and 2 more$"):
        rationalize(nn.ModuleList(different))


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


def _fingerprint(model):
    """All that a failed call could have left changed."""
    return [
        (type(module), {name: id(value) for name, value in vars(module).items()}, {**module._modules}, module.training)
        for module in model.modules()
    ]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"data": []}, "data yields nothing: give at least one batch of inputs as the model takes them"),
        ({"data": iter(())}, "data yields nothing"),
        ({"data": 3}, "data must be an iterable of the model's inputs, such as a DataLoader, not 3"),
        ({"data": [torch.ones(2, 5)]}, r"the model cannot be called with batch 0 of data, \[2, 5\]: .*mat1 and mat2"),
        ({"data": [torch.ones(2, 8), (3, "x")]}, r"the model cannot be called with batch 1 of data, \(3, 'x'\): "),
        ({"interval": (2, 2)}, r"interval must be two numbers, low < high, or \"auto\", not \(2, 2\)"),
        ({"interval": (3, -3)}, "low < high"),
        ({"interval": (0, float("inf"))}, "low < high"),
        ({"interval": "wide"}, "low < high"),
        ({"degrees": (5,)}, r"degrees must be two integers >= 0, of numerator and denominator, not \(5,\)"),
        ({"degrees": 5}, "degrees must be two integers >= 0"),
        ({"degrees": (5, -1)}, "degrees must be two integers >= 0"),
        ({"degrees": (5.0, 4)}, "degrees must be two integers >= 0"),
        ({"version": "D"}, "there is no version 'D' of a rational, only A, B, C, N"),
    ],
)
def test_bad_input_is_one_line_and_changes_nothing(settings, said):
    model = nn.Sequential(LoopedMLP(1), nn.TransformerEncoderLayer(8, 2, 8), nn.ReLU())
    before = _fingerprint(model)
    with pytest.raises(ValueError, match=said) as caught:
        rationalize(model, **settings)
    assert "\n" not in str(caught.value)
    assert _fingerprint(model) == before


@pytest.mark.parametrize("failing", ["a warning that is an error", "a rational that cannot be applied"])
def test_a_late_failure_changes_nothing(failing):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.held, self.act, self.looped = F.silu, nn.ReLU(), LoopedMLP(2)

        def forward(self, x):
            if any(isinstance(module, Rational) for module in self.modules()):
                raise KeyboardInterrupt
            return self.last(self.looped(self.act(self.act(self.held(x)))))

    model = Model()
    model.last = nn.Softmax(-1) if failing.startswith("a warning") else nn.Identity()
    before = _fingerprint(model)
    with pytest.raises(UserWarning if failing.startswith("a warning") else KeyboardInterrupt):
        rationalize(model, data=[torch.ones(1, 8)], interval=(-5, 5))
    assert _fingerprint(model) == before


def test_a_forward_that_calls_all_its_children_is_refused():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 2)

        def forward(self, x):
            for child in self.children():
                x = F.relu(child(x))
            return x

    model = Model()
    before = _fingerprint(model)
    with pytest.raises(ValueError, match=r"^with rationals, the model cannot be called .* over its own children\?\)$"):
        rationalize(model, data=[torch.ones(1, 2)], interval=(-5, 5))
    assert _fingerprint(model) == before


def test_a_model_without_shapes_yet_is_refused():
    with pytest.raises(ValueError, match=r"0 has no shape yet \(LazyLinear\): call the model once first"):
        rationalize(nn.Sequential(nn.LazyLinear(2), nn.ReLU()), data=[torch.ones(1, 2)])


def test_a_network_of_each_kind_keeps_its_state_and_its_outputs():
    torch.manual_seed(0)
    images = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    for model, inputs in ((ResNet(), images), (LoopedMLP(), [torch.randn(4, 8)])):
        state = {name: value.clone() for name, value in model.state_dict().items()}
        generator, outputs = torch.get_rng_state(), copy.deepcopy(model).eval()(inputs[0])
        assert rationalize(model, data=inputs, interval=(-5, 5)) is model
        assert torch.equal(torch.get_rng_state(), generator)
        assert all(module.training for module in model.modules())
        assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
        after = model.eval()(inputs[0])
        assert (after - outputs).abs().max() <= rationalized(model).max_change <= rationalized(model).bound
    assert len(rationalized(model).replaced) == 3


def test_a_second_call_replaces_what_is_new():
    torch.manual_seed(0)
    model, x = ResNet().eval(), torch.randn(2, 3, 8, 8)
    rationalize(model, data=[x], interval=(-5, 5))
    names, outputs = list(model.state_dict()), model(x)
    rationalize(model, data=[x], interval=(-5, 5))
    assert list(model.state_dict()) == names
    assert torch.equal(model(x), outputs)
    assert rationalized(model).replaced == rationalized(model).stays == ()
    model.fc = nn.Sequential(model.fc, LoopedMLP(1, 5), nn.ReLU())
    rationalize(model, data=[x], interval=(-5, 5))
    assert [one.name for one in rationalized(model).replaced] == ["fc.1.rationals.0", "fc.2"]


def test_a_second_call_says_what_it_cannot_add():
    class Model(nn.Module):
        def forward(self, x, other=False):
            return F.silu(x) if other else F.relu(x)

    model, x = Model(), torch.ones(2)
    message = r"replace: Model: silu called by Model, {}$"
    with pytest.warns(UserWarning, match=message.format("where data did not reach it")):
        rationalize(model, data=[x], interval=(-5, 5))
    with (
        pytest.warns(UserWarning, match=message.format("whose other calls were replaced before")),
        pytest.warns(UserWarning, match="Model calls silu where it did not"),
    ):
        rationalize(model, data=[{"x": x, "other": True}], interval=(-5, 5))


def test_a_vit_and_its_dropout():
    torch.manual_seed(0)
    model = ViT()
    with pytest.warns(
        UserWarning,
        match=r"blocks\.0\.attention, blocks\.1\.attention: scaled_dot_product_attention called by Attention",
    ):
        rationalize(model, data=[torch.randn(2, 3, 8, 8)], interval=(-5, 5))
    assert [one.name for one in rationalized(model).replaced] == ["blocks.0.rationals.0", "blocks.1.rationals.0"]
    x = torch.randn(2, 3, 8, 8)
    assert not torch.equal(model(x), model(x))  # dropout
    model.eval()
    torch.testing.assert_close(*_with_and_without_gradients(model, x))
    assert rationalized(model).max_change < 0.05


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("activation", [F.relu, "gelu", nn.ReLU()])
def test_transformers_with_data(activation):
    torch.manual_seed(0)
    model = nn.Transformer(8, 2, 1, 2, 16, activation=activation, batch_first=True)
    data = [(torch.randn(2, 4, 8), torch.randn(2, 3, 8))]
    _rationalize_attention(model, data=data, interval=(-5, 5))
    names = [one.name for one in rationalized(model).replaced]
    assert names == ["encoder.layers.0.activation", "decoder.layers.0.activation", "decoder.layers.1.activation"]
    _move(model.eval())
    torch.testing.assert_close(*_with_and_without_gradients(model, *data[0]))
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        torch.testing.assert_close(other(*data[0]), model(*data[0]))


def test_what_the_bytecode_names_but_the_data_do_not_reach_is_named():
    class Model(nn.Module):
        def forward(self, x, extra=None):
            x = nn.LeakyReLU()(F.relu(x))
            return x if extra is None else F.gelu(x)

    with pytest.warns(UserWarning, match=r"replace: Model: gelu called by Model, where data did not reach it$"):
        rationalize(Model(), data=[torch.ones(2)], interval=(-5, 5))


@pytest.mark.slow
def test_a_compiled_module_is_refused_or_named():
    inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    inner.compile()
    with pytest.raises(ValueError, match=r"module is compiled.*before torch\.compile"):
        rationalize(inner)
    with pytest.warns(UserWarning, match="0: all of a compiled module"):
        model = rationalize(nn.Sequential(inner, nn.ReLU()), interval=(-5, 5))
    assert (type(model[0][1]), type(model[1])) == (nn.ReLU, Rational)


@pytest.mark.slow
def test_a_compiled_submodule_is_run_as_it_is_written():
    model = nn.Sequential(torch.compile(LoopedMLP(1), backend="eager"), LoopedMLP(1))
    with pytest.warns(UserWarning, match="0: all of a compiled module"):
        rationalize(model, data=[torch.ones(2, 8)], interval=(-5, 5))
    assert [one.name for one in rationalized(model).replaced] == ["1.rationals.0"]


@pytest.mark.slow
def test_ten_layers_with_data_take_less_than_20_seconds():
    start = time.process_time()
    model = rationalize(LoopedMLP(10), data=[torch.randn(256, 8)])
    assert time.process_time() - start < 20.0
    assert len({one.interval for one in rationalized(model).replaced}) == 10


@pytest.mark.slow
def test_a_trained_agent_keeps_its_return(tmp_path):
    run = rlrat.train(
        "bc", "rlrat/hopper/medium-v0", activation="relu", total_updates=3000, hidden_dims=(64, 64), num_threads=1,
        eval_every=3000, eval_episodes=1, run_dir=tmp_path,
    )  # fmt: skip
    folder, policy = run.paths[0], rlrat.load_policy(run.paths[0])
    before = rlrat.evaluate(policy, "Hopper-v5", episodes=20, seed=0).returns
    observations = torch.tensor(rlrat.load_dataset("rlrat/hopper/medium-v0").observations)[:2560].split(256)
    rational = rationalize(rlrat.load_policy(folder), data=observations)
    assert [one.function for one in rationalized(rational).replaced] == ["relu", "relu", "tanh"]
    after = rlrat.evaluate(rational, "Hopper-v5", episodes=20, seed=0).returns
    assert before.mean() > 500.0
    assert after.mean() == pytest.approx(before.mean(), rel=0.1)
