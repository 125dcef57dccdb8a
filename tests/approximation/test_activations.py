"""Activations, softmaxes and gates: PyTorch's functions within the stated bound, on other domains and settings, too."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mpmath import exp, mpf

from rlrat.approximation import construction
from rlrat.approximation.activations import centre, total

X = torch.linspace(-5, 5, 101, dtype=torch.float64)
SMOOTH = {
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "mish": F.mish,
    "softplus": F.softplus,
    "logsigmoid": F.logsigmoid,
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations_are_pytorchs(name):
    exact = SMOOTH[name](X)
    assert (construction(name, 2)(X) - exact).abs().max() < 5e-14
    assert (construction(name, 1)(X.float()).double() - exact).abs().max() < 5e-6


@pytest.mark.parametrize(
    ("name", "settings", "function"),
    [
        ("leaky_relu", {"slope": 0.25}, lambda x: F.leaky_relu(x, 0.25)),
        ("leaky_relu", {}, F.leaky_relu),
        ("elu", {"alpha": 3.0}, lambda x: F.elu(x, 3.0)),
        ("elu", {}, F.elu),
        ("celu", {"alpha": 0.5}, lambda x: F.celu(x, 0.5)),
        ("selu", {}, F.selu),
    ],
)
def test_activations_with_a_kink_are_pytorchs(name, settings, function):
    found = construction(name, 4, **settings)
    assert found.error_bound < 3e-8
    assert (found(X) - function(X)).abs().max() <= float(found.error_bound)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gelu", "mish", "softplus", "elu", "silu"])
@pytest.mark.parametrize("domain", [(-1, 3), (-20, 10)])
def test_bounds_hold_on_other_domains(name, domain):
    found = construction(name, 2, domain=domain)
    assert found.domain == domain
    assert found.measured_error("mpmath", 15) <= found.error_bound


@pytest.mark.parametrize(
    ("name", "function"), [("softmax", torch.softmax), ("softmin", F.softmin), ("logsoftmax", torch.log_softmax)]
)
def test_softmaxes_are_pytorchs_whatever_the_rows_share(name, function):
    x = torch.rand(3, 4, 6, generator=torch.manual_seed(0), dtype=torch.float64) * 10 + 1000
    found = construction(name, 2, features=6)
    torch.testing.assert_close(found(x), function(x, -1), rtol=1e-11, atol=1e-12)
    if name != "logsoftmax":
        torch.testing.assert_close(found(x).sum(-1), torch.ones(3, 4, dtype=torch.float64))


@pytest.mark.parametrize(("name", "function"), [("swiglu", F.silu), ("geglu", SMOOTH["gelu"])])
def test_gates_multiply_the_halves(name, function):
    a, b = X[:100].reshape(2, 5, 10), X[1:].reshape(2, 5, 10)
    found = construction(name, 2)(torch.cat([a, b], -1))
    torch.testing.assert_close(found, function(a) * b, rtol=1e-12, atol=1e-13)


def test_rows_are_added_up_without_a_reduction():
    x = np.array([mpf(1), mpf(2), mpf(6)], dtype=object)
    assert total(x, 3).tolist() == [9]
    assert centre(x, 3, mpf(1) / 3).tolist() == [-2, -1, 3]


def test_mish_changes_with_exp_by_less_than_its_bound_takes():
    """By 4 u (u - 1) / (u^2 + 1)^2 for u = 1 + exp(x): most where x is near 0, so that a narrow domain counts."""
    plain = construction("mish", 1, domain=(-0.12, 0.05))
    inner = construction("exp", 1, domain=(-0.12, 0.05))
    relative = inner.error_bound / exp(mpf("0.05"))
    steepest = max(4 * u * (u - 1) / (u * u + 1) ** 2 for u in (1 + mpf(i) / 100 for i in range(1, 300)))
    assert plain.error_bound > steepest * relative * mpf("0.12")
