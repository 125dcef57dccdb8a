"""What is certified holds between samples, and what is not true is not proved."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from rlrat.rational import FUNCTIONS, VERSIONS, Rational, fit
from rlrat.rational.certificates import certify, evaluate, evaluation_bound, lower_bound, upper_bound
from rlrat.rational.exact import define
from rlrat.rational.minimax import Problem, solve
from rlrat.rational.table import table

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
    own = fit(lambda x: x.clamp(-1, 2), (3, 2), tail="free")
    assert (own.certificate.kind, own.certificate.lower, own.certificate.within) == ("sampled", None, None)
    bounded = fit(lambda x: x.clamp(-1, 2), (3, 2), tail="free", derivative_bound=1.0).certificate
    assert bounded.kind == "certified"
    assert own.certificate.upper < bounded.upper < own.certificate.upper * 1.011
    assert bounded.lower is None


def test_without_flint_it_is_sampled(monkeypatch):
    monkeypatch.setattr("rlrat.rational.certificates.find_spec", lambda name: None)
    found = solve(Problem(values, (3, 2), "N", INTERVAL, (0.0,)))
    certificate = certify(found, [0.0, 0.5], [0.0, 0.0], "N", define("relu"))
    assert (certificate.kind, certificate.upper) == ("sampled", pytest.approx(2.5))


@pytest.mark.parametrize(
    ("name", "version"),
    [("silu", "A"), ("elu", "C")]
    + [pytest.param(*one, marks=pytest.mark.slow) for one in [(n, v) for n in FUNCTIONS for v in VERSIONS]],
)
def test_the_operator_stays_within_the_certificate_and_rounding(name, version):
    found = table()[name, (5, 4), version]
    rounding = evaluation_bound(found)
    assert rounding < 2e-5
    x = torch.linspace(*found.interval, 1_000_000)
    y = Rational(found, (5, 4), version)(x).detach().double()
    assert (y - FUNCTIONS[name](x.double())).abs().max() <= found.certificate.upper + rounding
