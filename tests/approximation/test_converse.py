"""rlrat/approximation/converse.py."""

import math

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrat.approximation.converse import (
    SMOOTH,
    Network,
    pole_pair,
    relu_barrier,
    relu_interpolant,
    relu_parabolas,
    relu_quotient,
    smooth_quotient,
)

X = np.union1d(np.linspace(-1.0, 1.0, 2001), 0.3 * np.linspace(-1.0, 1.0, 1001))


def error_of(network: Network, distance: float = 0.1) -> float:
    return float(np.abs(network(X) - pole_pair(distance)(X)).max())


def test_a_network_counts_what_it_is_made_of_and_is_a_module():
    network = Network(
        "relu", ((np.array([[2.0], [0.0]]), np.array([0.0, 1.0])), (np.array([[1.0, -3.0]]), np.zeros(1)))
    )
    assert (network.parameters_count, network.units, network.largest_weight) == (4, 2, 3.0)
    np.testing.assert_array_equal(network(np.array([-1.0, 0.0, 2.0])), [-3.0, -3.0, 1.0])
    module = network.module()
    assert [type(part).__name__ for part in module] == ["Linear", "ReLU", "Linear"]
    assert module(torch.tensor([[2.0]], dtype=torch.float64)).item() == 1.0


@pytest.mark.parametrize("activation", ["relu", "tanh", *SMOOTH])
def test_activations_are_those_of_pytorch_and_of_mpmath(activation):
    layers = ((np.array([[1.7], [-1.0]]), np.array([0.2, 0.3])), (np.array([[1.0, -0.4]]), np.array([0.5])))
    network, x = Network(activation, layers), np.linspace(-3.0, 3.0, 7)
    exact = np.array([float(one) for one in Network(activation, layers, 30)(x)])
    np.testing.assert_allclose(network(x), exact, rtol=1e-14, atol=1e-15)
    theirs = network.module()(torch.from_numpy(x)[:, None])[:, 0].detach().numpy()
    np.testing.assert_allclose(theirs, exact, rtol=1e-14, atol=1e-15)


def test_interpolation_is_of_second_order_with_three_parameters_a_piece():
    few, many = (relu_interpolant(pole_pair(0.1), pieces) for pieces in (32, 128))
    assert (few.parameters_count, few.units) == (97, 32)
    assert error_of(few) == pytest.approx(1.71e-3, rel=0.02)
    assert 14 < error_of(few) / error_of(many) < 25
    assert relu_interpolant(np.square, 1)(np.array([-1.0, 1.0])) == pytest.approx([0.5, 0.5])  # the best line


def test_parabolas_are_of_third_order():
    few, many = (relu_parabolas(pole_pair(0.1), pieces, 10) for pieces in (16, 64))
    assert error_of(few) == pytest.approx(7.0e-4, rel=0.03)
    assert 50 < error_of(few) / error_of(many) < 90
    assert many.parameters_count < 5.5 * 64 + 2 * 8 * 10 + 40


@given(st.floats(-2.0, 2.0), st.floats(-2.0, 2.0), st.floats(-2.0, 2.0))
@settings(max_examples=8, deadline=None)
def test_one_parabola_is_as_exact_as_its_sawteeth(a, b, c):
    network = relu_parabolas(lambda x: a + b * x + c * x * x, 2, 8)
    assert np.abs(network(X) - (a + b * X + c * X * X)).max() <= abs(c) * 2.0**-18 + 1e-10


def test_division_gains_digits_in_proportion_to_its_size():
    networks = [relu_quotient(0.1, 16, *one) for one in ((1, 10), (2, 16), (3, 24))]
    errors, sizes = [error_of(one) for one in networks], [one.parameters_count for one in networks]
    assert errors[0] < 2e-4
    assert errors[1] < 2e-8
    assert errors[2] < 1e-12
    assert sizes == [755, 1567, 2897]
    with pytest.raises(ValueError, match="pieces=1 are too few to start a division from: its relative error is 1"):
        relu_quotient(0.01, 1, 1, 4)


@given(st.floats(0.05, 2.0))
@settings(max_examples=3, deadline=None)
def test_division_works_at_any_distance(distance):
    assert error_of(relu_quotient(distance, 16, 2, 22), distance) < 1e-6


@pytest.mark.parametrize("activation", SMOOTH)
def test_smooth_networks_double_their_digits_with_each_step_in_exact_arithmetic(activation):
    x = [0.0, 0.04, 0.3, 1.0]
    errors, sizes = [], []
    with mpmath.workdps(120):
        exact = [mpmath.mpf(0.1) ** 2 / (mpmath.mpf(one) ** 2 + mpmath.mpf(0.1) ** 2) for one in x]
        for steps in (9, 10, 11):
            network = smooth_quotient(0.1, steps, 1e-25, activation, 120)
            values = network(np.array(x))
            errors.append(float(max(abs(a - b) for a, b in zip(values, exact, strict=True))))
            sizes.append(network.parameters_count)
    q = 1 / 1.02
    np.testing.assert_allclose(errors, [q**512, q**1024, q**2048], rtol=0.1)
    assert np.ptp(np.diff(sizes)) == 0
    assert network.largest_weight > 1e49


def test_in_float64_rounding_ends_smooth_division():
    errors = {
        name: min(error_of(smooth_quotient(0.1, 11, 2.0**-place, name)) for place in range(10, 20, 2))
        for name in SMOOTH
    }
    assert 1e-7 < errors["softplus"] < 1e-5
    assert 1e-10 < errors["silu"] < 1e-8
    assert 1e-10 < errors["gelu"] < 1e-8


def test_no_relu_network_is_below_the_barrier():
    assert relu_barrier(np.square) == pytest.approx(0.5, rel=0.02)  # no line is nearer than 1/2
    assert relu_barrier(np.square) <= 0.5
    assert relu_barrier(lambda x: 2 * x) == pytest.approx(0.0, abs=1e-9)
    barrier = relu_barrier(pole_pair(0.1))
    assert relu_barrier(lambda x: -pole_pair(0.1)(x)) == barrier
    for network in (relu_interpolant(pole_pair(0.1), 1), relu_interpolant(pole_pair(0.1), 2)):
        assert error_of(network) > barrier / 4**network.units


@pytest.mark.parametrize("distance", [0.0, -1.0, math.inf, math.nan])
def test_a_pole_is_off_the_axis(distance):
    with pytest.raises(ValueError, match="must be above 0 and finite"):
        pole_pair(distance)


def test_mistakes_are_told():
    with pytest.raises(ValueError, match="squares of 'tanh' are not known, only of softplus, silu, gelu"):
        smooth_quotient(0.1, 1, 0.1, "tanh")
    with pytest.raises(ValueError, match="above 0"):
        smooth_quotient(0.1, 1, 0.0)
    with pytest.raises(ValueError, match="steps must be at least 1, not 0"):
        smooth_quotient(0.1, 0, 0.1)
    with pytest.raises(ValueError, match="depth must be at least 1, not 0"):
        relu_parabolas(np.square, 1, 0)
    with pytest.raises(ValueError, match="pieces must be at least 1, not 0"):
        relu_quotient(0.1, 0, 1, 1)
