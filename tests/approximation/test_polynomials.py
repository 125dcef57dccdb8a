"""rlrat/approximation/polynomials.py."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrat.approximation.comparison import pole_error
from rlrat.approximation.converse import pole_pair
from rlrat.approximation.polynomials import bernstein_rho, best_polynomial, best_spline, minimax, place_knots


@pytest.mark.parametrize("degree", [0, 1, 2, 7, 20, 64])
def test_best_polynomials_of_a_pole_pair_have_bernsteins_error(degree):
    polynomial, error = best_polynomial(pole_pair(0.1), degree)
    assert error == pytest.approx(pole_error(0.1, degree), rel=2e-5)
    x = np.linspace(-1.0, 1.0, 3001)
    assert np.abs(polynomial(x) - pole_pair(0.1)(x)).max() == pytest.approx(error, rel=1e-3)


@given(st.floats(1.01, 5.0), st.integers(1, 12))
@settings(max_examples=10, deadline=None)
def test_best_polynomials_of_one_pole_have_chebyshevs_error(pole, degree):
    root = math.sqrt(pole**2 - 1)
    error = best_polynomial(lambda x: 1 / (x - pole), degree)[1]
    assert error == pytest.approx((pole - root) ** degree / root**2, rel=1e-3, abs=1e-12)


def test_best_polynomials_to_abs_tend_to_bernsteins_constant():
    assert 80 * best_polynomial(np.abs, 80)[1] == pytest.approx(0.2801694990, rel=1e-3)


def test_best_polynomials_on_another_interval():
    polynomial, error = best_polynomial(np.exp, 5, (2.0, 3.0))
    x = np.linspace(2.0, 3.0, 501)
    assert np.abs(polynomial(x) - np.exp(x)).max() <= error * (1 + 1e-6)
    assert error < best_polynomial(np.exp, 4, (2.0, 3.0))[1] / 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.abs, -1), "the degree of a polynomial must be at least 0, not -1"),
        ((np.abs, 1, (1.0, 1.0)), r"must be finite and low < high, not \(1, 1\)"),
        ((np.abs, 1, (0.0, math.inf)), "must be finite"),
        ((lambda x: np.full_like(x, np.nan), 1), "is not finite everywhere"),
    ],
)
def test_mistakes_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        best_polynomial(*arguments)


def test_rho_of_the_ellipse_through_a_pole():
    assert bernstein_rho(0.1j) == pytest.approx(0.1 + math.sqrt(1.01))
    assert bernstein_rho(2.0) == bernstein_rho(-2.0) == pytest.approx(2 + math.sqrt(3))
    assert bernstein_rho(5j * math.pi, (-10.0, 10.0)) == pytest.approx(bernstein_rho(0.5j * math.pi))
    assert bernstein_rho(3 + 1j, (2.0, 4.0)) == pytest.approx(1 + math.sqrt(2))
    errors = [pole_error(0.1, degree) for degree in (40, 42)]
    assert errors[0] / errors[1] == pytest.approx(bernstein_rho(0.1j) ** 2)
    with pytest.raises(ValueError, match=r"lies on the interval \(-1, 1\)"):
        bernstein_rho(0.5)


def test_knots_of_a_parabola_are_even_and_those_of_a_peak_crowd_there():
    np.testing.assert_allclose(place_knots(np.square, 4, (-1.0, 1.0)), np.linspace(-1.0, 1.0, 5), atol=1e-6)
    knots = place_knots(pole_pair(0.01), 20, (-1.0, 1.0))
    assert (np.abs(knots) < 0.1).sum() > 15
    assert (knots[0], knots[-1]) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="at least 1 piece, not 0"):
        place_knots(np.square, 0, (-1.0, 1.0))


def test_relative_errors_want_knots_where_a_function_is_small():
    even, relative = (place_knots(np.exp, 10, (0.0, 5.0), relative=one) for one in (False, True))
    np.testing.assert_allclose(relative, np.linspace(0.0, 5.0, 11), atol=1e-3)  # f'' / f is 1
    assert even[5] > 3.5


def test_best_splines():
    knots = np.linspace(-1.0, 1.0, 5)
    spline, error = best_spline(lambda x: np.maximum(x - 0.5, 0.0) ** 3 - x, knots)
    assert error < 1e-12  # a spline of these knots
    error = best_spline(np.square, knots, 1)[1]
    assert error == pytest.approx(1 / 32, rel=1e-6)  # h^2 / 16, of the best line on each piece
    few, many = (best_spline(np.exp, np.linspace(-1.0, 1.0, count + 1))[1] for count in (16, 32))
    assert few / many == pytest.approx(16, rel=0.2)  # h^4
    assert spline(0.75) == pytest.approx(0.25**3 - 0.75)


def test_minimax_is_the_least_largest_error():
    x = np.linspace(-1.0, 1.0, 201)
    columns = np.stack([np.ones_like(x), x], 1)
    coefficients = minimax(columns, np.exp(x))
    assert np.abs(columns @ coefficients - np.exp(x)).max() == pytest.approx(best_polynomial(np.exp, 1)[1], rel=1e-3)
