"""rlrat/approximation/comparison.py."""

import math

import numpy as np
import pytest
import torch

from rlrat.approximation import comparison as of
from rlrat.approximation.converse import pole_pair
from rlrat.approximation.polynomials import best_polynomial


@pytest.fixture(autouse=True)
def _few_sizes(monkeypatch):
    sizes = {"_DEGREES": (2, 16, 64), "_PIECES": (4, 16), "_DEPTHS": (2, 6), "_FITTED": ((1, 0), (5, 4))}
    sizes |= {"_QUOTIENTS": ((16,), (2,), (8, 16)), "_HIDDEN": ((4,),)}
    for name, value in sizes.items():
        monkeypatch.setattr(of, name, value)


def by_method(found: list[of.Measured]) -> dict[str, list[tuple[int, float]]]:
    return {
        name: [(one.parameters, one.error) for one in found if one.method == name] for name in {x.method for x in found}
    }


def test_the_construction_of_relu_beside_polynomials_and_splines():
    found = by_method(of.measure_activation("relu", 5))
    sizes, errors = zip(*found[of.RATIONAL], strict=True)
    assert sizes == (5, 9, 13)
    assert errors[-1] < 1e-5 < errors[-2]
    assert errors[-1] < errors[-2] ** 1.5  # faster than geometric
    assert [round(size * error / 0.14, 1) for size, error in found[of.POLYNOMIAL]][-1] == 1.0  # half of 0.28 / n
    assert found[of.FIT] == [(2, pytest.approx(0.25)), (10, pytest.approx(0.00425, rel=1e-3))]
    assert found[of.SHALLOW] == [(2, 0.0)]
    assert found[of.SPLINE][-1][1] > 1e-3  # it does not know the kink


@pytest.mark.slow
def test_a_pole_pair_beside_what_imitates_it():
    found = by_method(of.measure_pole(0.3, 1, 4))
    assert found[of.FIT] == [(3, 0.0)]
    degree = found[of.POLYNOMIAL][-1][0] - 1
    assert found[of.POLYNOMIAL][-1][1] == pytest.approx(of.pole_error(0.3, degree), rel=1e-4)
    assert found[of.EXACT][-1][1] < 1e-4 < found[of.EXACT][-2][1]
    assert found[of.ROUNDED][-1][1] == pytest.approx(found[of.EXACT][-1][1], rel=1e-3)  # 1e-4 is far above rounding
    for name in (of.DEEP, of.SHALLOW, of.SPLINE):
        sizes, errors = zip(*found[name], strict=True)
        assert list(sizes) == sorted(sizes)
        assert list(errors) == sorted(errors, reverse=True)  # what is no better is left out
    assert found[of.DEEP][-1][1] < 1e-7 < 1e-4 < found[of.SHALLOW][-1][1]
    assert {size for name in of.TRAINED.values() for size, _ in found[name]} == {13}


def test_the_rational_is_the_one_that_starts_as_relu():
    import rlrat

    function, parameters, rho, (low, high) = of.rational_activation()
    x = np.linspace(low, high, 101)
    theirs = rlrat.Rational(init="relu", version="N")(torch.from_numpy(x).float()).detach().numpy()
    np.testing.assert_allclose(function(x / 5), theirs, atol=1e-5)
    assert (parameters, low, high) == (10, -5.0, 5.0)
    errors = [best_polynomial(function, degree)[1] for degree in (100, 140)]
    assert (errors[0] / errors[1]) ** (1 / 40) == pytest.approx(rho, rel=1e-3)
    found = by_method(of.measure_rational(0))
    assert found[of.FIT] == [(10, 0.0)]
    assert not set(of.TRAINED.values()) & found.keys()


@pytest.mark.slow
def test_a_pole_that_nears_the_axis_costs_polynomials_its_distance_and_smooth_networks_its_logarithm():
    found = of.measure_approach((0.1, 0.01, 0.001), 2e-2)
    sizes = {name: [one.parameters for one in found if one.method == name] for name in {one.method for one in found}}
    assert sizes[of.FIT] == [3, 3, 3]
    assert all(8 < more / few < 12 for few, more in zip(sizes[of.POLYNOMIAL], sizes[of.POLYNOMIAL][1:], strict=False))
    first, second = np.diff(sizes[of.EXACT])
    assert first == pytest.approx(second, abs=30)  # a step of 28 parameters
    assert max(sizes[of.SHALLOW]) < 60
    assert all(one.error <= 2e-2 for one in found)


def test_the_error_of_best_polynomials_of_a_pole_pair():
    assert of.pole_error(0.1, 33) == of.pole_error(0.1, 32)
    assert best_polynomial(pole_pair(0.5), 8)[1] == pytest.approx(of.pole_error(0.5, 8), rel=1e-4)


def test_the_pace_of_polynomials():
    assert of.rho("tanh", (-5.0, 5.0)) == pytest.approx(math.pi / 10 + math.sqrt(1 + math.pi**2 / 100))
    assert of.rho("relu", (-1.0, 1.0)) is None
    for target, within in (("tanh", 1e-3), ("silu", 1e-3), ("softplus", 0.05), ("mish", 0.05), ("gelu", 0.05)):
        function = of._moved(of.TARGETS[target], (-5.0, 5.0))
        errors = [best_polynomial(function, degree)[1] for degree in (16, 42)]  # about a period of those of GELU
        assert (errors[0] / errors[1]) ** (1 / 26) == pytest.approx(of.rho(target, (-5.0, 5.0)), rel=within), target
