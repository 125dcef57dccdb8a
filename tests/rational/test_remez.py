"""Errors below the rounding of float64."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from rlrat.rational import FUNCTIONS
from rlrat.rational.certificates import lower_bound, upper_bound
from rlrat.rational.exact import define
from rlrat.rational.minimax import Problem, coefficients
from rlrat.rational.remez import polish


def problem(name, degrees):
    return Problem(lambda x: FUNCTIONS[name](torch.from_numpy(np.array(x))).numpy(), degrees, "N", (-1.0, 1.0))


@pytest.mark.parametrize(
    ("name", "degrees", "error", "points"),
    [
        ("tanh", (6, 4), 6.35934e-11, 12),
        pytest.param("sigmoid", (5, 4), 2.1501e-14, 12, marks=pytest.mark.slow),
        pytest.param("silu", (7, 6), 4.69492e-18, 15, marks=pytest.mark.slow),
    ],
)
def test_the_error_alternates_and_is_proved_to_be_the_best(name, degrees, error, points):
    """An odd function of even m has a defect: (6, 4) is (5, 4)."""
    exact = define(name)
    found = polish(problem(name, degrees), exact)
    assert found.error == pytest.approx(error, rel=1e-4)
    assert len(found.points) == points
    p, q = coefficients(found, "N")
    assert (len(p) - 1, len(q)) == degrees
    assert all(isinstance(c, Fraction) for c in p)
    upper = upper_bound(p, q, "N", exact, (-1.0, 1.0), found.error, bits=300)
    assert 1 <= upper / lower_bound(found, exact) < 1.0001


def test_it_says_where_it_does_not_converge():
    assert polish(Problem(np.abs, (3, 2), "N", (-1.0, 1.0)), define("relu")) is None
