"""Which activation functions a forward calls, seen in its bytecode."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rlrat.rational.called import called, known, named, staying


def test_a_function_is_known_in_each_of_its_homes_and_in_place():
    for function in (F.relu, torch.relu, torch.relu_, torch.Tensor.relu_, F.relu_, torch.ops.aten.relu):
        assert known(function) == "relu"
    assert known(functools.partial(F.gelu, approximate="tanh")) == "gelu"
    assert known(torch.special.expit) == "sigmoid"
    assert known(F.prelu) == "prelu"
    assert known(torch.ops.aten.relu.default) == "relu"


def test_both_forms_of_gelu_have_names():
    tanh = functools.partial(F.gelu, approximate="tanh")
    assert [named(f) for f in (F.gelu, tanh, nn.GELU(), nn.GELU("tanh"))] == ["gelu", "gelu_tanh"] * 2
    assert named(tanh, "gelu") == "gelu_tanh"
    assert named(nn.LeakyReLU(0.2)) == "leakyrelu"


def test_what_no_rational_replaces_is_known_apart():
    for function in (F.softmax, torch.softmax, torch.Tensor.softmax, torch.ops.aten.softmax.int):
        assert (staying(function), known(function)) == ("softmax", None)
    assert staying(torch.Tensor.clamp_) == "clamp"
    assert staying(F.relu) is None


@pytest.mark.parametrize("other", [torch.sin, F.softmax, nn.ReLU(), nn.ReLU, "relu", [], None, lambda x: F.relu(x)])
def test_other_things_are_not_known(other):
    assert known(other) is None


def _make(forward):
    """Make a module of a class of its own."""
    return type("Module", (nn.Module,), {"forward": forward})()


def _recursive(x, depth=3):
    return _recursive(torch.sigmoid(x), depth - 1) if depth else x


def _of_two(x):
    return F.silu(x) + x.tanh()


_TABLE = {"celu": F.celu}


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        (lambda self, x: F.relu(x) + torch.nn.functional.elu(x), {"relu", "elu"}),
        (lambda self, x: x.relu_().tanh(), {"relu", "tanh"}),
        (lambda self, x: x.relu, set()),  # not called
        (lambda self, x: x.clamp(min=0).exp(), {"clamp"}),
        (lambda self, x: F.softmax(x, -1) + x.log_softmax(-1), {"softmax", "log_softmax"}),
        (lambda self, x: nn.ReLU()(x), {"ReLU()"}),
        (lambda self, x: isinstance(x, nn.ReLU), set()),
        (lambda self, x: _of_two(x), {"silu", "tanh"}),
        (lambda self, x: _recursive(x), {"sigmoid"}),
        (lambda self, x: _TABLE["celu"](x), {"one of _TABLE"}),
        (lambda self, x: [F.mish(y) for y in x], {"mish"}),
    ],
)
def test_what_a_forward_calls(forward, expected):
    assert set(called(_make(forward))) == expected


def test_functions_that_a_module_holds_are_looked_at_but_not_its_submodules():
    module = _make(lambda self, x: self.layer(self.held(x)))
    module.held, module.layer = lambda x: F.softplus(x), nn.ReLU()
    assert called(module) == ["softplus"]


def test_methods_properties_and_what_they_replace_are_looked_at():
    class Base(nn.Module):
        def forward(self, x):
            return F.selu(x)

    class Derived(Base):
        @property
        def late(self):
            raise AssertionError("it must not be run")

        @functools.cached_property
        def kept(self):
            return F.hardtanh(torch.ones(1))

        @staticmethod
        def fixed(x):
            return F.softsign(x)

        def unused(self, x):
            return F.gelu(x)

        def forward(self, x):
            return super().forward(x) + self.fixed(x) + self.kept + self.late

    assert set(called(Derived())) == {"selu", "hardtanh", "softsign"}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_activations_in_scripted_functions_are_named():
    scripted = torch.jit.script(_of_two)
    module = _make(lambda self, x: scripted(x) + 1.0)
    assert called(module) == ["silu in scripted _of_two", "tanh in scripted _of_two"]


def test_nothing_of_pytorch_is_looked_at():
    assert called(nn.TransformerEncoderLayer(4, 2, 4)) == []
    assert called(nn.GRU(2, 2)) == []


def test_a_variable_without_a_value_is_no_error():
    def build():
        module = _make(lambda self, x: later(x))
        assert called(module) == []
        later = F.relu
        return module, later

    assert called(build()[0]) == ["relu"]
