import copy
import io
import sys

import pytest
import torch
from torch import nn

from rlrat.rational import VERSIONS, Fit, Rational, fit, rational, rationalize


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
    square = fit(torch.square, (2, 0), interval=(-1, 1))
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
@pytest.mark.parametrize(("groups", "batch_shape"), [(1, ()), (3, (2,)), (2, (3, 2))])
def test_a_saved_state_dict_gives_the_same_bits(version, groups, batch_shape):
    initial = Fit(
        (0.1, 0.5, 0.3, 0.05, 0.01), (0.2, 0.4, 0.1, 0.3)[version != "C" :], version, (-5, 5), 0.0, (0.0,) * 4
    )
    source = Rational(initial, (4, 3), version, groups, batch_shape)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    file = io.BytesIO()
    torch.save(source.state_dict(), file)
    file.seek(0)
    target = Rational(initial, (4, 3), version, groups, batch_shape)
    x = 3 * torch.randn(*batch_shape, 7, 6)
    assert not torch.equal(target(x), source(x))
    target.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(target.numerator, source.numerator)
    assert torch.equal(target.denominator, source.denominator)
    assert torch.equal(target(x), source(x))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("frozen", ["numerator", "denominator"])
def test_frozen_coefficients_stay_and_the_others_have_their_gradients(version, frozen):
    other = "denominator" if frozen == "numerator" else "numerator"
    free = Rational("gelu", version=version, groups=2)
    module = Rational("gelu", version=version, groups=2, **{f"train_{frozen}": False})
    assert repr(module).endswith(f"groups=2, frozen={frozen})")
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    for each in (free, module):
        each(x).square().sum().backward()
    assert getattr(module, frozen).grad is None
    assert torch.equal(getattr(module, other).grad, getattr(free, other).grad)

    before = copy.deepcopy(module.state_dict())
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2, weight_decay=0.1)
    optimizer.step()
    assert torch.equal(getattr(module, frozen), before[frozen])
    assert not torch.equal(getattr(module, other), before[other])

    module.load_state_dict(free.state_dict())
    for moved in (module, copy.deepcopy(module), module.to(torch.float64), module.to("meta")):
        assert not getattr(moved, frozen).requires_grad
        assert getattr(moved, other).requires_grad


def test_frozen_coefficients_and_second_derivatives():
    module = Rational("tanh", train_denominator=False).double()
    x = torch.randn(5, dtype=torch.float64, requires_grad=True)

    def slope(numerator):
        y = rational(x, numerator, module.denominator)
        return torch.autograd.grad(y.sum(), x, create_graph=True)[0]

    assert torch.autograd.gradcheck(slope, module.numerator)
    slope(module.numerator).sum().backward()
    assert module.denominator.grad is None


def test_one_rational_in_two_places():
    shared = Rational("gelu")
    model = nn.Sequential(nn.Linear(3, 3), shared, nn.Linear(3, 3), shared)
    apart = nn.Sequential(model[0], copy.deepcopy(shared), model[2], copy.deepcopy(shared))
    assert sum(parameter is shared.numerator for parameter in model.parameters()) == 1
    assert len(list(model.parameters())) == 6
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    model(x).square().sum().backward()
    apart(x).square().sum().backward()
    for name in ("numerator", "denominator"):
        parts = [getattr(apart[i], name).grad for i in (1, 3)]
        assert all(part.abs().max() > 0 for part in parts)
        torch.testing.assert_close(getattr(shared, name).grad, sum(parts))
    assert (copied := copy.deepcopy(model))[1] is copied[3]
    assert rationalize(model)[1] is model[3] is shared


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
        fit = Fit(tuple(a), tuple(b), version, (-5.0, 5.0), 0.0, (0.0,) * 4)
        return Rational(fit, fit.degrees, version).asymptotic_slope().item()

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


@pytest.mark.parametrize("version", VERSIONS)
def test_from_rational_activations_computes_what_the_package_does(version):
    package = pytest.importorskip("rational.torch", exc_type=ImportError)
    theirs = package.Rational("gelu", version=version, cuda=False, train_denominator=False)
    x = torch.linspace(-6, 6, 1001, dtype=torch.float64)
    expected = copy.deepcopy(theirs).double()(x).detach()
    for source, given in ((theirs, None), (theirs, version), (theirs.state_dict(), version)):
        module = Rational.from_rational_activations(source, given)
        assert (module.degrees, module.version, module.interval) == ((5, 4), version, (-3.0, 3.0))
        assert module.numerator.dtype == torch.float32
        torch.testing.assert_close(module(x).detach(), expected, rtol=1e-9, atol=1e-12)
        assert module.numerator.requires_grad
        assert module.denominator.requires_grad == (source is not theirs)
    with torch.no_grad():
        module.numerator += 1  # theirs stay
    torch.testing.assert_close(theirs.state_dict()["numerator"], module.numerator[0] - 1)


def test_from_rational_activations_needs_no_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "rational", None)
    state = {"numerator": torch.tensor([1.0, 2.0, 3.0]), "denominator": torch.tensor([0.5, -0.25])}
    x = torch.tensor([-2.0, 0.5])
    p = 1 + 2 * x + 3 * x**2
    expected = {
        "A": p / (1 + (0.5 * x).abs() + 0.25 * x**2),
        "B": p / (1 + (0.5 * x - 0.25 * x**2).abs()),
        "C": p / (0.1 + (0.5 - 0.25 * x).abs()),
        "N": p / (1 + 0.5 * x - 0.25 * x**2),
    }
    for version, values in expected.items():
        module = Rational.from_rational_activations(state, version)
        torch.testing.assert_close(module(x), values)
        assert module.degrees == (2, 1 if version == "C" else 2)
    assert repr(module) == "Rational(init=rational-activations, degrees=(2, 2), version=N, groups=1)"


class _Theirs(nn.Module):
    """What matters of the package's module."""

    def __init__(self, version):
        super().__init__()
        self.version = version
        self.numerator, self.denominator = nn.Parameter(torch.ones(6)), nn.Parameter(torch.ones(4))


_STATE = {"numerator": torch.ones(6), "denominator": torch.ones(4)}


@pytest.mark.parametrize(
    ("source", "version", "error", "message"),
    [
        (_Theirs("D"), None, ValueError, "no version 'D' here, only A, B, C, N; in evaluation it is B"),
        (_Theirs("NonSafe"), None, ValueError, "no version 'NonSafe' here, only A, B, C, N$"),
        (_Theirs("A"), "B", ValueError, "the module is of version 'A', not 'B'"),
        (_STATE, None, ValueError, "a state_dict does not say its version: give it, one of A, B, C, N"),
        (_STATE, "D", ValueError, "no version 'D' here"),
        ({"act.numerator": torch.ones(6)}, "A", ValueError, r"there is no numerator among act\.numerator"),
        (nn.ReLU(), None, ValueError, "no version None here"),
        (_STATE | {"numerator": torch.ones(2, 6)}, "A", ValueError, r"the numerator must have one axis.* not \[2, 6\]"),
        (_STATE | {"numerator": torch.ones(0)}, "A", ValueError, "the numerator must have .* at least 1 coefficient"),
        (
            _STATE | {"denominator": torch.ones(0)},
            "C",
            ValueError,
            "the denominator must have .* at least 1 coefficient",
        ),
        ("weights.pt", "A", TypeError, "source must be a module or its state_dict, not str"),
    ],
)
def test_from_rational_activations_says_what_it_cannot_load(source, version, error, message):
    with pytest.raises(error, match=message) as caught:
        Rational.from_rational_activations(source, version)
    assert "\n" not in str(caught.value)


def test_bias_and_gate_in_one_pass():
    module = Rational("silu", groups=2, batch_shape=(3,))
    x, bias, gate = torch.randn(3, 5, 8), torch.randn(3, 8), torch.randn(3, 5, 8)
    with module.record_inputs() as inputs:
        found = module(x, bias, gate)
    torch.testing.assert_close(found, module(x + bias.unsqueeze(1)) * gate)
    torch.testing.assert_close(inputs, [x + bias.unsqueeze(1)])
    torch.testing.assert_close(module(x, gate=gate), module(x) * gate)


def test_record_inputs_copies_what_comes_in():
    module = Rational()
    model = nn.Sequential(nn.Identity(), module)
    x, y = torch.randn(3, 4), torch.randn(2, 4, requires_grad=True)
    with module.record_inputs() as inputs:
        model(x)
        module(x=y)
    expected = [x.clone(), y.detach()]
    x.zero_()
    model(x)
    torch.testing.assert_close(inputs, expected)
    assert not any(recorded.requires_grad for recorded in inputs)
    with pytest.raises(RuntimeError, match="stop"), module.record_inputs():
        raise RuntimeError("stop")
    assert not module._forward_pre_hooks


def test_repr_names_the_settings():
    assert repr(Rational("gelu", batch_shape=(3,))) == (
        "Rational(init=gelu, degrees=(5, 4), version=A, groups=1, batch_shape=(3,))"
    )
