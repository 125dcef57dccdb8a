import subprocess
import sys

import pytest
import torch
from torch import nn

import rlrat
from rlrat.rational import ACTIVATIONS, FUNCTIONS, VERSIONS, Rational, fit, rational, rationalize


@pytest.mark.parametrize("version", VERSIONS)
def test_shapes_and_initial_values(version):
    module = Rational("tanh", degrees=(5, 4), version=version, groups=2, batch_shape=(3, 2))
    assert module.numerator.shape == (3, 2, 2, 6)
    assert module.denominator.shape == (3, 2, 2, 5 if version == "C" else 4)
    assert module.numerator.dtype == module.denominator.dtype == torch.float32
    x = torch.linspace(*module.interval, 120).expand(3, 2, 7, 120)
    torch.testing.assert_close(module(x), x.tanh(), atol=1e-3, rtol=0)
    slope = module.derivative(x)
    assert not slope.requires_grad
    torch.testing.assert_close(slope, 1 - x.tanh() ** 2, atol=1e-2, rtol=0)


def test_init_may_be_a_function_a_module_or_a_fit():
    torch.testing.assert_close(Rational(nn.GELU()).state_dict(), Rational("gelu").state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(Rational(torch.relu).state_dict(), Rational().state_dict(), rtol=0, atol=0)
    square = fit.fit(torch.square, (2, 0), interval=(-1, 1))
    module = Rational(square, degrees=(2, 0))
    assert module.interval == (-1.0, 1.0)
    torch.testing.assert_close(module(torch.tensor([0.5, 3.0])), torch.tensor([0.25, 9.0]))
    with pytest.raises(ValueError, match=r"the fit is of degrees \(2, 0\), version A, not \(5, 4\), A"):
        Rational(square)


def test_state_dict_round_trip():
    source, target = Rational("gelu", batch_shape=(2,)), Rational("relu", batch_shape=(2,))
    assert set(source.state_dict()) == {"numerator", "denominator"}
    target.load_state_dict(source.state_dict())
    x = torch.randn(2, 8, 3)
    torch.testing.assert_close(target(x), source(x), rtol=0, atol=0)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["relu", "gelu", "sigmoid", "identity"])
def test_asymptotic_slope_is_the_limit_of_the_ratio(name, version):
    module = Rational(name, version=version, batch_shape=(2,))
    with torch.no_grad():
        module.numerator[1] *= -3.0
    x = torch.tensor([1e9], dtype=torch.float64).expand(2, 1)
    torch.testing.assert_close(module.asymptotic_slope().double(), module(x) / x, rtol=1e-4, atol=1e-7)


def test_asymptotic_slope_of_every_pair_of_degrees():
    def slope(a, b, version="A"):
        module = Rational(degrees=(len(a) - 1, len(b) - (version == "C")), version=version)
        with torch.no_grad():
            module.numerator[:], module.denominator[:] = torch.tensor(a), torch.tensor(b)
        return module.asymptotic_slope().item()

    assert slope([1.0, 2.0, 3.0], [4.0, -5.0]) == 0.0
    assert slope([1.0, 2.0, -3.0], [-4.0]) == -0.75
    assert slope([1.0, 2.0, -3.0], [-4.0], "N") == 0.75
    assert slope([1.0, 2.0, -3.0], [5.0, -4.0], "B") == 0.0
    assert slope([1.0, 2.0, -3.0, 0.0], [-4.0, 0.0], "B") == -0.75
    assert slope([1.0, 2.0, -3.0], [0.0]) == -torch.inf
    assert slope([0.0, 2.0], [-0.3], "C") == pytest.approx(5.0)
    assert slope([0.0, 0.0], [0.0]) == 0.0


def test_training_moves_all_coefficients():
    module = Rational("identity", groups=2)
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    losses = []
    for _ in range(60):
        loss = (module(x) - x.sin()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert (module.denominator != 0).all()


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
        nn.Softmax(dim=-1),
    ).eval()
    originals = {"1": nn.ReLU(), "2.0": nn.SiLU(), "2.2": nn.GELU(approximate="tanh"), "4": nn.PReLU(init=0.1)}
    kept = [type(model[i]) for i in (0, 5, 6, 7)]
    assert rationalize(model) is model
    assert [type(model[i]) for i in (0, 5, 6, 7)] == kept
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"init": "softmax"}, "no function 'softmax' to approximate"),
        ({"version": "a"}, "no version 'a'"),
        ({"degrees": (5,)}, "degrees must be two integers"),
        ({"groups": 0}, "groups must be an integer >= 1, not 0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Rational(**settings)


def test_repr_names_the_settings():
    assert repr(Rational("gelu", batch_shape=(3,))) == (
        "Rational(init=gelu, degrees=(5, 4), version=A, groups=1, batch_shape=(3,))"
    )


def test_the_package_is_callable():
    module = Rational(groups=2)
    x = torch.randn(5, 6)
    found = rlrat.rational(x, module.numerator, module.denominator, version="A")
    torch.testing.assert_close(found, rational(x, module.numerator, module.denominator), rtol=0, atol=0)
    assert rlrat.rational.Rational is rlrat.Rational is Rational


def test_the_package_loads_neither_scipy_nor_the_rest_of_rlrat():
    code = """if True:
        import sys, rlrat.rational
        rlrat.rational.Rational("gelu")
        ours = {name for name in sys.modules if name.startswith("rlrat.") and not name.startswith("rlrat.rational")}
        print(ours, "scipy" in sys.modules)
    """
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["set()", "False"]
