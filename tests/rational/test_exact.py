"""The definitions are PyTorch's functions, with their settings."""

from fractions import Fraction
from functools import partial

import mpmath
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rlrat.rational import FUNCTIONS
from rlrat.rational.exact import define

X = np.array([-30.0, -6.5, -3.0, -1.7, -0.5, 0.0, 0.3, 1.0, 2.9, 6.0, 21.0, 45.0])
SETTINGS = [
    *(FUNCTIONS.values()), torch.abs, F.hardtanh, F.hardsigmoid, F.hardswish, F.softsign, F.tanhshrink, F.relu6,
    nn.ReLU(), nn.LeakyReLU(0.2), nn.ELU(0.5), nn.CELU(2.0), nn.SELU(), nn.GELU("tanh"), nn.Softplus(2.0, 10.0),
    nn.Hardtanh(-2.0, 3.0), nn.PReLU(init=0.1), nn.ReLU6(), nn.SiLU(inplace=True), nn.Tanhshrink(), nn.Softsign(),
    partial(F.gelu, approximate="tanh"), partial(F.elu, alpha=0.3, inplace=False), partial(F.softplus, beta=3.0),
]  # fmt: skip


@pytest.mark.parametrize("function", SETTINGS, ids=lambda function: type(function).__name__)
def test_a_definition_has_the_values_of_its_function(function):
    exact = define(function)
    assert len(exact.branches) == len(exact.kinks) + 1
    if isinstance(function, nn.Module):
        function = function.double()
    expected = function(torch.from_numpy(X.copy())).detach().numpy()
    found = [float(exact.at(x)(mpmath.mpf(x), mpmath.mp)) for x in X.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-14)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_names_and_functions_have_one_definition(name):
    assert define(name).kinks == define(FUNCTIONS[name]).kinks


@pytest.mark.parametrize(
    "function",
    [lambda x: x.relu(), nn.PReLU(3), nn.Dropout(), torch.exp, partial(F.elu, alpha=1.0, wrong=2), F.prelu,
     type("Own", (nn.ReLU,), {})(), nn.Softplus(-1.0), partial(F.softplus, beta=0.0)],
)  # fmt: skip
def test_others_have_none(function):
    assert define(function) is None


def test_what_hooks_may_change_has_none():
    module = nn.ReLU()
    handle = module.register_forward_hook(lambda module, inputs, output: 2 * output)
    assert define(module) is None
    handle.remove()
    assert define(module) is not None


def test_a_branch_is_chosen_exactly():
    """3 - 1e-30 is 3 in float64, but left of the kink of hardswish."""
    exact = define(F.hardswish)
    below = 3 - Fraction(1, 10**30)
    assert exact.at(below) is exact.branches[1]
    assert exact.at(3.0) is exact.branches[2]
