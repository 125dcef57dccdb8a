import re
import sys

import pytest
import torch
from torch import nn

import rlrat
from rlrat.errors import InputError
from rlrat.networks import activations
from rlrat.networks.activations import check_activation, make_activation, name_activation, name_modules, names
from rlrat.networks.layers import MLP
from rlrat.rational import FUNCTIONS
from rlrat.updates.trained_activations import trained_activations
from tests.short_runs import ROOT

NOT_ELEMENTWISE = {"softmin", "softmax", "logsoftmax"}
ALL_NAMES = (*names(), *(f"rational:{name}" for name in FUNCTIONS))


def test_names_are_those_of_the_documentation_in_their_order():
    order = (
        "relu leaky_relu prelu elu selu celu gelu gelu_tanh silu mish softplus sigmoid logsigmoid tanh softmin softmax "
        "logsoftmax identity rational"
    )
    assert " ".join(names()) == order
    assert set(names()) == set(FUNCTIONS) | NOT_ELEMENTWISE | {"rational"}
    assert rlrat.make_activation is make_activation


def test_wherever_all_are_listed_they_are_these():
    found = {}
    for path in (file for folder in ("agents", "rlrat", "docs") for file in (ROOT / folder).rglob("*.[pm][yd]")):
        lists = re.findall(r"\brelu leaky_relu [\w\s]+? rational\b", path.read_text(encoding="utf-8"))
        found |= {path.name: {" ".join(text.split()) for text in lists}} if lists else {}
    assert {"arguments.py", "decision_transformer.py"} <= set(found)
    assert set.union(*found.values()) == {" ".join(names())}


@pytest.mark.parametrize("name", ALL_NAMES)
def test_forward_and_backward_over_a_batch_shape(name):
    check_activation(name)
    module = make_activation(name, features=8, batch_shape=(3, 2), degrees=(5, 4), version="A", groups=2)
    x = torch.randn(3, 2, 5, 8, requires_grad=True)
    y = module(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    y.square().sum().backward()
    for tensor in (x, *module.parameters()):
        assert tensor.grad.isfinite().all()
        assert tensor.grad.abs().sum() > 0
    # Parameters belong to one entry of the batch: an entry's gradient comes from that entry alone.
    for parameter in module.parameters():
        (grad,) = torch.autograd.grad(module(x)[1, 0].sum(), parameter)
        assert parameter.shape[:2] == (3, 2)
        assert grad[1, 0].abs().sum() > 0
        grad[1, 0] = 0
        assert not grad.any()


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_values_are_those_of_the_function_and_rationals_are_near(name):
    x = torch.linspace(-5, 5, 200)
    torch.testing.assert_close(make_activation(name)(x), FUNCTIONS[name](x))
    torch.testing.assert_close(make_activation(f"rational:{name}")(x), FUNCTIONS[name](x), atol=0.03, rtol=0)


def test_rational_starts_as_relu():
    expected = make_activation("rational:relu").state_dict()
    torch.testing.assert_close(make_activation("rational").state_dict(), expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", sorted(NOT_ELEMENTWISE))
def test_softmax_and_its_like_act_on_the_features(name):
    x = torch.randn(3, 4, 5)
    y = make_activation(name, features=5, batch_shape=(3,))(x)
    probabilities = y.exp() if name == "logsoftmax" else y
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(3, 4))
    torch.testing.assert_close(probabilities, (-x if name == "softmin" else x).softmax(-1))


def test_prelu_equals_pytorch_with_one_slope_and_its_gradients():
    ours, theirs = make_activation("prelu"), nn.PReLU()
    x = torch.tensor([-2.0, -0.5, 0.0, 1.0])
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    for module, tensor in zip((ours, theirs), inputs, strict=True):
        (module(tensor) * torch.arange(1.0, 5.0)).sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad[0])
    assert make_activation("prelu", batch_shape=(2,))(torch.ones(2, 3, dtype=torch.bfloat16)).dtype == torch.bfloat16
    with pytest.raises(ValueError, match=r"with \[2\], not \[3, 4\]"):
        make_activation("prelu", batch_shape=(2,))(torch.ones(3, 4))


def test_settings_reach_the_rational():
    module = make_activation("rational:tanh", features=12, batch_shape=(2,), degrees=(3, 2), version="C", groups=3)
    assert module.numerator.shape == (2, 3, 4)
    assert module.denominator.shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gleu"}, r"unknown activation 'gleu': did you mean gelu\? Valid names are relu, .*rational:<name>"),
        ({"name": "ReLU"}, r"did you mean relu"),
        ({"name": "xyz"}, r"unknown activation 'xyz': valid names are relu, leaky_relu"),
        ({"name": "rational:gleu"}, r"did you mean rational:gelu.* Valid names are rational:relu, rational:leaky_relu"),
        ({"name": "rational:softmax"}, r"softmax is not elementwise; a rational can start as relu, .*tanh, identity$"),
        ({"name": "rational:rational"}, r"rational is one itself; a rational can start as relu"),
        (
            {"name": "rational:hardswish"},
            r"hardswish is no entry of the registry; a rational can start as relu, .*hardswish\) fits it",
        ),
        (
            {"name": "relu:gelu"},
            r"'relu:gelu' is of a module of yours, .* add --activation-modules relu if you",
        ),
        ({"name": "rational", "version": "Z"}, r"activation 'rational': there is no version 'Z'"),
        ({"name": "rational", "degrees": (5, -4)}, r"activation 'rational': degrees must be two integers"),
        ({"name": "rational", "features": 10, "groups": 3}, r"3 groups do not divide 10 features"),
        ({"name": "rational", "features": 10, "groups": 0}, r"groups must be an integer >= 1"),
    ],
)
def test_mistakes_are_one_line(arguments, message):
    with pytest.raises(rlrat.InputError, match=message) as caught:
        make_activation(**arguments)
    assert "\n" not in str(caught.value)


def test_a_rational_can_start_as_an_entry_of_ones_own(monkeypatch):
    monkeypatch.setitem(activations._REGISTRY, "step", lambda: nn.Hardtanh(-2.0, 2.0))
    check_activation("rational:step")
    x = torch.linspace(-5, 5, 101)
    found = make_activation("rational:step", degrees=(3, 2), batch_shape=(2,))
    torch.testing.assert_close(found(x.expand(2, 1, 101))[1, 0], x.clamp(-2, 2), atol=0.5, rtol=0)


def test_a_trained_entry_is_its_class_alone(monkeypatch):
    class Shift(nn.Module):
        trained_activation = True

        def __init__(self, batch_shape):
            super().__init__()
            self.by = nn.Parameter(torch.zeros(batch_shape))

        def forward(self, x):
            return (x + self.by[..., None, None]).relu()

    monkeypatch.setitem(activations._REGISTRY, "shift", Shift)
    network = MLP(3, (4,), 2, batch_shape=(3, 2), activation="shift")
    assert network.hidden[0].activation.by.shape == (3, 2)
    assert [*trained_activations(network)] == ["hidden.0.activation"]


@pytest.mark.parametrize("groups", [3, 10**20])
def test_groups_that_do_not_divide_the_features(groups):
    with pytest.raises(InputError, match=f"activation 'rational': {groups} groups do not divide 8 features"):
        make_activation("rational", features=8, groups=groups)


SNAKES = """
import pathlib
import torch
from torch import nn

pathlib.Path(__file__).with_suffix(".imported").touch()


class Snake(nn.Module):
    def __init__(self, features, batch_shape):
        super().__init__()
        self.a = nn.Parameter(torch.ones(batch_shape))

    def forward(self, x):
        a = self.a.view(*self.a.shape, *[1] * (x.ndim - self.a.ndim))
        return x + torch.sin(a * x).square() / a


class Fixed(nn.Module):
    def __init__(self, features, batch_shape):
        super().__init__()

    def forward(self, x):
        return x.sin()


class OfAll(Snake):
    def __init__(self, features, batch_shape):
        super().__init__(features, ())


class Short(Fixed):
    def forward(self, x):
        return x[..., :1]


class Failing(Fixed):
    def forward(self, x):
        raise RuntimeError("no such\\nluck")


class Bare(nn.Module):
    pass


number = 3
"""


@pytest.fixture
def snakes(tmp_path, monkeypatch):
    """A module of the user's in the working directory, that nothing knows of yet."""
    (tmp_path / "snakes.py").write_text(SNAKES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(activations, "_modules", set())
    yield tmp_path / "snakes.imported"
    sys.modules.pop("snakes", None)


def test_an_activation_of_ones_own_is_made_only_of_a_module_that_the_user_names(snakes):
    for _ in range(2):
        with pytest.raises(
            InputError, match=r"'snakes:Snake' is of a module of yours, .* add --activation-modules snakes"
        ):
            make_activation("snakes:Snake", features=4)
    assert not snakes.exists()
    name_modules(["snakes"])
    assert snakes.exists()
    check_activation("snakes:Snake")
    snake = make_activation("snakes:Snake", features=4, batch_shape=(3, 2), degrees=(5, 4))
    assert snake.a.shape == (3, 2)
    assert snake.trained_activation
    assert trained_activations(nn.ModuleDict({"x": snake})) == {"x": snake}
    assert not hasattr(make_activation("snakes:Fixed", features=4), "trained_activation")
    network = MLP(3, (4,), 2, batch_shape=(3, 2), activation="snakes:Snake", gated=True)
    assert network(torch.randn(3, 1, 5, 3)).shape == (3, 2, 5, 2)


def test_naming_an_activation_imports_its_module(snakes):
    name_activation("snakes:Fixed")
    name_activation("relu")
    assert snakes.exists()
    torch.testing.assert_close(make_activation("snakes:Fixed")(torch.ones(2)), torch.ones(2).sin())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("snaks:Snake", "there is no module snaks: it must be installed, or lie in the working directory"),
        ("sna kes:Snake", "--activation has 'sna kes', but a module's name is needed"),
        (":Snake", "--activation has '', but a module's name is needed, such as my_module"),
        (
            "snakes:Snke",
            "activation 'snakes:Snke': the module snakes has no class Snke of torch.nn.Module: it has "
            "Snake, Fixed, OfAll, Short, Failing, Bare",
        ),
        ("snakes:number", "the module snakes has no class number of torch.nn.Module: it has Snake, "),
        ("snakes:", "the module snakes has no class  of torch.nn.Module"),
        (
            "snakes:OfAll",
            "'snakes:OfAll' has a of shape []: its first axes must be batch_shape, here [2], so that seeds and critics",
        ),
        ("snakes:Short", "'snakes:Short' must give what has the shape of its input, [2, 3, 4], not [2, 3, 1]"),
        (
            "snakes:Failing",
            "made as Failing(features=4, batch_shape=(2,)) and applied to zeros: RuntimeError: no such luck",
        ),
        ("snakes:Bare", "cannot be made as Bare(features=4, batch_shape=(2,)) and applied to zeros: TypeError: "),
    ],
)
def test_mistakes_in_ones_own_are_one_line(snakes, name, message):
    def make():
        name_activation(name)
        return make_activation(name, features=4, batch_shape=(2,))

    with pytest.raises(InputError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
