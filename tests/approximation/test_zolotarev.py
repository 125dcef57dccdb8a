"""Sign, |x|, ReLU and the step: the paper's facts, and where float32 ends the race."""

import numpy as np
import pytest
import torch
from mpmath import mpf, nstr

from rlrat.approximation import construction
from rlrat.rational.minimax import Problem, solve


def test_three_scaled_compositions_bring_sign_to_88e_11():
    sign = construction("sign", 3, gap=0.01)
    assert nstr(sign.error_bound, 2) == "8.8e-10"
    assert nstr(sign.measured_error("mpmath"), 2) == "8.8e-10"
    assert sign.degree == (27, 26)


def test_unscaled_halley_needs_six_steps_for_1e_6():
    errors = [construction("sign", steps, gap=0.01, scaled=False).measured_error("mpmath") for steps in (5, 6)]
    assert errors[0] > 1e-3
    assert 9e-7 < errors[1] < 1e-6


@pytest.mark.slow
def test_halley_for_abs_is_worse_than_the_best_of_degree_four():
    halley = construction("abs", 3, scaled=False)
    assert nstr(halley.measured_error("mpmath"), 2) == nstr(halley.error_bound, 2) == "0.037"
    best = solve(Problem(np.abs, (4, 4), "N", (-1.0, 1.0), kinks=(0.0,)))
    assert f"{best.error:.2g}" == "0.0085"


@pytest.mark.parametrize("name", ["abs", "relu", "step", "sign"])
@pytest.mark.parametrize("domain", [(-1, 1), pytest.param((-3, 7), marks=pytest.mark.slow)])
def test_the_bound_is_the_largest_error(name, domain):
    for steps in (1, 3):
        found = construction(name, steps, domain=domain)
        assert 0.97 * found.error_bound < found.measured_error("mpmath") <= found.error_bound * (1 + mpf("1e-13"))


def test_scaling_abs_beats_halley():
    errors = [construction("abs", 4, scaled=scaled).error_bound for scaled in (True, False)]
    assert errors[0] < 2e-9 < 1e-2 < errors[1]


def test_float32_ends_the_race_after_three_compositions():
    errors = [float(construction("sign", steps).measured_error("float32")) for steps in (2, 3, 4)]
    assert errors[0] > 2e-3
    assert errors[1] == errors[2] == pytest.approx(1.2e-7, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["sign", "step", "abs", "relu"])
def test_nothing_is_lost_at_zero_and_below_the_gap(name, dtype):
    for steps in (2, 4):
        x = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e-45], dtype=dtype, requires_grad=True)
        y = construction(name, steps)(x)
        torch.testing.assert_close(y, torch.full_like(y, 0.5 if name == "step" else 0.0), rtol=0, atol=1e-20)
        y.sum().backward()
        assert x.grad.isfinite().all()


def test_constants_beyond_float32_are_refused():
    sign = construction("sign", 6, gap=1e-30)
    with pytest.raises(ValueError, match=r"sign with 6 steps has a constant \S+, which torch.float32 does not hold"):
        sign(torch.ones(2))
    assert (sign(torch.tensor([-1.0, 1e-30, 1.0], dtype=torch.float64)) - torch.tensor([-1, 1, 1])).abs().max() < 1e-14


@pytest.mark.parametrize("gap", [0, -1, 1, 2, float("nan")])
def test_the_gap_lies_inside_the_domain(gap):
    with pytest.raises(ValueError, match=r"the gap of sign must be above 0 and below the end of its domain, 1, not"):
        construction("sign", gap=gap)
