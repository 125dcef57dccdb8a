"""The logarithm by the arithmetic-geometric mean: its plan keeps the error that is asked for."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import jtheta, log, mp, mpf, sqrt

from rlrat.approximation import construction
from rlrat.approximation.agm import log_for, logarithm, thetas


def test_three_terms_of_the_thetas_leave_the_fourth():
    with mp.workdps(50):
        s = mpf("0.1")
        theta3, theta2 = thetas(s)
        assert abs(theta3 + 2 * s**18 - jtheta(3, 0, s**2)) < 1e-30
        assert abs(theta2 + s**24 - jtheta(2, 0, s**2) / (2 * sqrt(s))) < 1e-38


@settings(max_examples=10, deadline=None)
@given(st.floats(-8, 8), st.floats(0.1, 12), st.integers(1, 25))
def test_the_error_that_is_asked_for_is_kept(start, width, digits):
    with mp.workdps(60):
        low, error = mpf(10) ** start, mpf(10) ** -digits
        high = low * mpf(10) ** width
        found, bound = log_for(low, high, error)
        assert bound <= error
        x = [low * (high / low) ** (mpf(i) / 12) for i in range(13)]
        assert max(abs(found(each) - log(each)) for each in x) <= bound


def test_two_steps_of_the_mean_double_the_digits():
    """One goes to the mean, one to the smaller s that the thetas' few terms need."""
    bounds = [float(log(logarithm(steps).error, 10)) for steps in range(4, 9)]
    assert all(1.41 < after / before < 2.1 for before, after in pairwise(bounds))


def test_the_logarithm_takes_few_constants():
    found = construction("log", error=1e-9)
    assert found.steps == 5
    assert found.measured_error("mpmath") < found.error_bound < 1e-9
    assert found.parameters_count < 50


@pytest.mark.parametrize("domain", [(0, 1), (-1, 1)])
def test_the_branch_point_is_refused(domain):
    with pytest.raises(
        ValueError, match=r"^the domain of log must lie above 0, where log has a branch point, not be \("
    ):
        construction("log", domain=domain)
