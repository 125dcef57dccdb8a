"""exp and tanh: cubic convergence, with logarithms that are as exact as each step needs."""

import pytest
import torch
from mpmath import mpf

from rlrat.approximation import construction


@pytest.mark.parametrize("name", ["exp", "tanh"])
def test_each_step_cubes_the_error(name):
    digits = [construction(name, steps).digits_needed for steps in (1, 2, 3)]
    assert 2.5 < digits[2] / digits[1] < 3.5
    assert digits[1] > 2.5 * digits[0] - 15


@pytest.mark.parametrize("domain", [(-20, 1), (0, 0.25)])
@pytest.mark.parametrize("name", ["exp", "tanh"])
def test_the_bound_holds_on_every_domain(name, domain):
    found = construction(name, 1, domain=domain)
    assert found.measured_error("mpmath", 21) <= found.error_bound < 1e-6


def test_exp_starts_near_enough_on_wide_domains():
    found = construction("exp", 1, domain=(-30000, 1))
    assert found.measured_error("mpmath", 5) <= found.error_bound < 0.1


def test_what_float32_and_float64_keep():
    x = torch.linspace(-5, 5, 201, dtype=torch.float64)
    for steps, dtype, limit in ((1, torch.float32, 5e-6), (2, torch.float64, 1e-14)):
        exp, tanh = (construction(name, steps)(x.to(dtype)) for name in ("exp", "tanh"))
        assert ((exp.double() / x.to(dtype).double().exp()) - 1).abs().max() < limit
        assert (tanh.double() - x.to(dtype).double().tanh()).abs().max() < limit


def test_tanh_is_zero_at_zero():
    tanh = construction("tanh", 1)
    assert abs(tanh.mpmath(0)) < mpf("1e-14")
