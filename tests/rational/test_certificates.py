"""What is certified holds between samples, and what is not true is not proved."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlrat.rational import FUNCTIONS, VERSIONS, Fit, Rational, backend, fit
from rlrat.rational.certificates import certify, evaluate, evaluation_bound, lower_bound, upper_bound
from rlrat.rational.exact import define
from rlrat.rational.minimax import Problem, solve
from rlrat.rational.table import table
from tests.rational.inputs import needs_kernels

INTERVAL = (-5.0, 5.0)


def values(x):
    return np.maximum(x, 0.0)


def test_an_upper_bound_that_is_known():
    """ReLU - (x / 2 + 5 / 4) is 5 / 4 at the ends and in the middle."""
    bound = upper_bound([1.25, 0.5], [], "N", define("relu"), INTERVAL, 1.25)
    assert 1.25 <= bound <= 1.25 * (1 + 1e-5)
    assert upper_bound([0.0, 1.0], [0.0, 0.0], "N", define("identity"), INTERVAL, 0.0) == 0.0


@pytest.mark.parametrize("version", VERSIONS)
def test_a_peak_between_samples_counts(version):
    """Q is 1e-6 wide at 1 / 3 (0 in version A), where no sample was."""
    center = 0.0 if version == "A" else 1 / 3
    width, height = 1e-6, 0.5
    if version == "A":  # P = height, Q = 1 + |x| / width
        a, b = [height, 0.0], [1 / width]
    else:  # S = ((x - c)^2 + (constant - q0) ...) / width^2 is least at c
        q = np.array([center**2 + width**2, -2 * center, 1.0]) / width**2
        a, b = [height / q[0], 0.0], (q / q[0])[1:].tolist()
        if version == "B":
            a, b = [height], [0.0, 1e12]  # the peak is at 0
        if version == "C":
            a, b = [0.1 * height], [0.0, 0.0, 1e12]
    bound = upper_bound(a, b, version, define("identity"), (-1.0, 1.0), 1.0)
    spike = upper_bound([c * 4 for c in a], b, version, define("identity"), (-1.0, 1.0), 1.0)
    assert 1.0 <= bound < 1.01
    assert 2.0 - 1e-6 - (0.34 if version == "N" else 0) <= spike < 2.01


def test_a_pole_on_the_interval_has_no_bound():
    assert upper_bound([1.0], [-1.0], "N", define("tanh"), INTERVAL, 1.0) == np.inf


def test_s_that_changes_its_sign():
    a, b = [0.0, 1.0, 0.3], [0.7, -0.4, 0.2]
    x = np.linspace(*INTERVAL, 100_001)
    for version in "BC":
        sampled = np.abs(evaluate(x, np.array(a), np.array(b), version) - np.tanh(x)).max()
        bound = upper_bound(a, b, version, define("tanh"), INTERVAL, sampled)
        assert sampled <= bound < sampled * 1.0001


@pytest.mark.parametrize(
    ("name", "version", "weight"),
    [
        ("elu", "A", 0.0),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in [("silu", "N", 0.0), ("tanh", "A", 0.001)]),
    ],
)
def test_a_lower_bound_is_close_and_no_larger_one_is_proved(name, version, weight):
    exact = define(name)
    found = solve(
        Problem(
            lambda x: FUNCTIONS[name](torch.from_numpy(np.array(x))).numpy(),
            (5, 4),
            version,
            INTERVAL,
            exact.kinks,
            weight,
        )
    )
    bound = lower_bound(found, exact)
    assert found.error * (1 - 1e-4) < bound <= found.error
    assert lower_bound(replace(found, level=found.level * 1.01), exact) is None
    assert lower_bound(replace(found, weights=-found.weights), exact) is None


def test_patterns_have_no_lower_bound():
    problem = Problem(np.tanh, (3, 2), "B", INTERVAL)
    assert lower_bound(solve(problem), define("tanh")) is None


def test_a_function_of_the_users_is_sampled_or_certified_by_its_slope():
    own = fit(lambda x: x.clamp(-1, 2), (2, 0), tail="free")
    assert (own.certificate.kind, own.certificate.lower, own.certificate.within) == ("sampled", None, None)
    bounded = fit(lambda x: x.clamp(-1, 2), (2, 0), tail="free", derivative_bound=1.0).certificate
    assert bounded.kind == "certified"
    assert own.certificate.upper < bounded.upper < own.certificate.upper * 1.011
    assert bounded.lower is None


def test_without_flint_it_is_sampled(monkeypatch):
    monkeypatch.setattr("rlrat.rational.certificates.find_spec", lambda name: None)
    found = solve(Problem(values, (3, 2), "N", INTERVAL, (0.0,)))
    certificate = certify(found, [0.0, 0.5], [0.0, 0.0], "N", define("relu"))
    assert (certificate.kind, certificate.upper) == ("sampled", pytest.approx(2.5))


def check_the_operator(name, found):
    """Compare a million results of the compiled operator with the certificate and the bound of rounding."""
    x = torch.linspace(*found.interval, 1_000_000)
    exact = x.double()
    with backend("cpu"), torch.no_grad():
        error = (Rational(found, found.degrees, found.version)(x).double() - FUNCTIONS[name](exact)).abs().numpy()
    rounding = evaluation_bound(found, exact.numpy())
    assert rounding.max() < 3e-5, (name, found.version)
    excess = error - found.certificate.upper - rounding
    assert excess.max() <= 0.0, (name, found.version, found.degrees, excess.max())


@needs_kernels
@pytest.mark.parametrize(("name", "version"), [("silu", "A"), ("elu", "C")])
def test_the_operator_stays_within_the_certificate_and_rounding(name, version):
    check_the_operator(name, table()[name, (5, 4), version])


@needs_kernels
@pytest.mark.slow
def test_every_entry_of_the_table_does_so_on_a_million_points():
    for (name, _, _), found in table().items():
        check_the_operator(name, found)


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "degrees", "version"),
    [("gelu", (3, 2), "A"), ("tanh", (3, 2), "B"), ("elu", (3, 2), "C"), ("mish", (3, 2), "N"),
     ("relu", (7, 6), "A"), ("selu", (7, 6), "B"), ("silu", (7, 6), "C"), ("softplus", (7, 6), "N")],
)  # fmt: skip
def test_so_do_fits_of_other_degrees(name, degrees, version):
    check_the_operator(name, fit(name, degrees, version))


def test_the_bound_of_rounding_is_near_what_is_seen_and_none_where_q_may_vanish():
    """At six bits every rounding is large: R = (0.5 + x + 0.75 x^2) / (1 + |x|), each step rounded to nearest."""
    found = Fit((0.5, 1.0, 0.75), (1.0,), "A", (-4.0, 4.0), 0.0, (0.0,) * 4)

    def rounded(value, bits=6):
        fraction, exponent = np.frexp(value)
        return np.ldexp(np.round(np.ldexp(fraction, bits)), exponent - bits)

    x = np.unique(rounded(np.linspace(-4, 4, 999)))
    p = rounded(rounded(rounded(rounded(0.75 * x) + 1.0) * x) + 0.5)
    computed = rounded(p / rounded(rounded(np.abs(x)) + 1.0))
    error = np.abs(computed - evaluate(x, np.array(found.numerator), np.array(found.denominator), "A"))
    bound = evaluation_bound(found, x, bits=6)
    assert np.all(error <= bound)
    assert error.max() > 0.1 * bound.max()
    pole = Fit((1.0,), (-1.0,), "N", (-4.0, 4.0), 0.0, (0.0,) * 4)
    assert evaluation_bound(pole, np.array([0.0, 1.0]))[1] == np.inf
