"""Fits as users ask for them: in float32, with a certificate, or with one line that says why not."""

import numpy as np
import pytest
import torch
from torch import nn

from rlrat.rational import FUNCTIONS, VERSIONS, fit
from rlrat.rational.certificates import upper_bound
from rlrat.rational.exact import define
from rlrat.rational.fit import _has_pole, find_best
from rlrat.rational.minimax import Problem, coefficients
from rlrat.rational.table import table
from tests.rational.inputs import apply


def problem_of(name, degrees, interval):
    def values(x):
        return FUNCTIONS[name](torch.from_numpy(np.array(x))).numpy()

    return Problem(values, degrees, "N", interval, define(name).kinks)


def test_a_fit_has_float32_coefficients_and_a_true_certificate():
    found = fit("silu", (5, 4), "A", (-3.0, 3.0), "free")
    assert all(float(np.float32(c)) == c for c in (*found.numerator, *found.denominator))
    assert found.degrees == (5, 4)
    certificate = found.certificate
    assert found.max_error == certificate.upper
    assert certificate.kind == "certified"
    assert certificate.interval == found.interval == (-3.0, 3.0)
    assert certificate.lower == pytest.approx(4.558e-7, rel=1e-3)
    assert certificate.upper <= 1.01 * certificate.lower + 2.0**-23 * 3
    x = np.linspace(-3, 3, 10_001)
    assert np.abs(apply(found, x) - FUNCTIONS["silu"](torch.from_numpy(x)).numpy()).max() <= certificate.upper
    assert found.values == pytest.approx(apply(found, np.array([-100.0, -10.0, 10.0, 100.0])), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "version"), [("tanh", "N"), ("relu", "A")])
def test_a_fit_computed_again_agrees_with_the_table(name, version):
    again, committed = fit(FUNCTIONS[name], version=version), table()[name, (5, 4), version]
    assert again.max_error == pytest.approx(committed.max_error, rel=1e-3)
    x = np.linspace(-5, 5, 1001)
    assert np.abs(apply(again, x) - apply(committed, x)).max() <= 0.05 * committed.max_error
    np.testing.assert_allclose(again.values, committed.values, rtol=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("interval", [(-5.0, 5.0), (-1.0, 1.0)])
def test_rounding_costs_little_and_the_best_is_proved(name, interval):
    """Form N of every entry: the best within 1.001, in float32 within 1.01 and rounding of it."""
    for degrees in ((3, 2), (5, 4), (7, 6)):
        found = fit(name, degrees, "N", interval, "free")
        certificate = found.certificate
        largest = FUNCTIONS[name](torch.linspace(*interval, 101, dtype=torch.float64)).abs().max().item()
        assert certificate.upper <= 1.01 * (certificate.lower or 0) + 2.0**-23 * max(1, largest)
        exact = define(name)
        best = find_best(problem_of(name, degrees, interval), exact)
        if best.error == 0:
            continue
        p, q = coefficients(best, "N")
        upper = upper_bound(p, q, "N", exact, interval, best.error, bits=300)
        assert upper / certificate.lower <= 1.001


@pytest.mark.parametrize("version", VERSIONS)
def test_identity_is_exact(version):
    found = fit("identity", (3, 2), version)
    assert found.max_error == (0.0 if version != "C" else pytest.approx(1.2e-7, rel=0.1))  # 0.1 + 0.9 in float32


def test_another_interval():
    found = fit(torch.exp, (3, 2), "N", (-1.0, 0.5), "free")
    x = np.linspace(-1.0, 0.5, 1000)
    assert np.abs(apply(found, x) - np.exp(x)).max() <= found.max_error * 1.001 < 1e-5
    assert found.certificate.kind == "sampled"
    assert fit(torch.exp, (3, 2), "N", (2.0, 3.0)).max_error < 1e-3


def test_kinks_of_a_users_function_are_found():
    """Hardtanh with kinks that no grid has."""
    low, high = -1.0 / 3, 2.0**0.5
    own = fit(lambda x: x.clamp(low, high), (3, 2), "N", tail="free")
    known = fit(nn.Hardtanh(low, high), (3, 2), "N", tail="free")
    assert own.max_error == pytest.approx(known.certificate.lower, rel=1e-3)


def test_an_odd_n_of_version_n_falls_back():
    odd, even = (fit("gelu", (3, n), "N", tail="free") for n in (3, 2))
    assert odd.denominator == (*even.denominator, 0.0)
    assert odd.max_error == even.max_error


@pytest.mark.slow
def test_the_size_of_a_function_does_not_matter():
    """An error far above 1 is not what coefficients of Q are compared with."""
    large = fit(lambda x: 2.0**40 * torch.tanh(x), (3, 2), "A", tail="free")
    assert large.max_error == pytest.approx(2.0**40 * 0.005225, rel=0.01)
    steep = fit(torch.exp, (3, 2), "N", (0.0, 60.0))
    assert steep.max_error < 0.4 * np.exp(60.0)  # half of it is that of a constant


@pytest.mark.slow
def test_tails():
    free, weighted = (fit("silu", tail=tail) for tail in ("free", 0.01))
    bounded = table()["silu", (5, 4), "A"]
    assert free.max_error == pytest.approx(2.551e-5, rel=5e-3)
    assert bounded.max_error == pytest.approx(free.max_error, rel=5e-3)
    assert 100 * free.max_error < weighted.max_error < 4e-3
    assert abs(weighted.values[0]) < abs(free.values[0])  # nearer to 0 at -100
    positive = {tail: fit("relu", interval=(0.5, 3.0), tail=tail).values for tail in ("free", "bounded")}
    assert positive["free"][1] == pytest.approx(-10.0)  # at -10
    assert abs(positive["bounded"][1]) < 2


def test_an_error_that_is_reached_and_one_that_is_not():
    assert fit("tanh", (3, 2), "N", tail="free", error=0.0103).max_error < 0.0103
    message = r"degrees \(1, 0\) of version N reach an error of 0.479, not 0.02; \(3, 2\) would do"
    with pytest.raises(ValueError, match=message):
        fit("tanh", (1, 0), "N", tail="free", error=0.02)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit(torch.log), r"not finite everywhere on \[-5, 5\]: nan at -5$"),
        (lambda: fit(lambda x: x.where(x < 4.9, torch.nan)), r"not finite everywhere on \[-5, 5\]: nan at 4.9"),
        (lambda: fit(torch.tan), r"has a pole at -?(1.5708|4.71239), inside"),
        (lambda: fit(lambda x: 1 / (x - 0.1234567) ** 2), r"has a pole at 0.123457, inside"),
        (lambda: fit(torch.sign), r"jumps at -?[\d.e-]+, inside \[-5, 5\]: it must be continuous"),
        (lambda: fit(lambda x: x.floor() / 7), "jumps at"),
        (lambda: fit(nn.Softmax(dim=-1)), "not an elementwise function"),
        (lambda: fit("rleu"), "no function 'rleu' to approximate, only relu, leaky_relu"),
        (lambda: fit("tanh", interval=(1, 1)), r"low < high, not \(1.0, 1.0\)"),
        (lambda: fit("tanh", interval=(0, float("inf"))), "must be finite"),
        (lambda: fit("tanh", (5, -1)), r"two integers from 0 to 14, not \(5, -1\)"),
        (lambda: fit("tanh", 5), "two integers from 0 to 14, not 5"),
        (lambda: fit("tanh", interval=(1,)), r"two numbers, low < high, not \(1,\)"),
        (lambda: fit("tanh", interval=(-1.7e308, 1.7e308)), "must be finite and low < high"),
        (lambda: fit("tanh", interval=(-1e-30, 1e-30)), r"from 1e-09 to 1e\+09, and its width"),
        (lambda: fit("tanh", interval=(1.0, 1.0 + 1e-9)), r"its width at least 2\^-20 of that"),
        (lambda: fit(lambda x: 1e40 * x.tanh(), (1, 0), "N"), r"is -9.99909e\+39 at -?[\d.]+, above 1e\+30: scale it"),
        (lambda: fit(torch.abs, (6, 0), "N", (-1e-9, 1e-9), "free"), "coefficients .* are beyond float32"),
        (lambda: fit("tanh", tail=None), "a weight >= 0, not None"),
        (lambda: fit("tanh", error=-1.0), "must be above 0, not -1.0"),
        (lambda: fit(torch.abs, kinks=[float("nan")]), "kinks of a function must be finite"),
        (lambda: fit(torch.abs, kinks=3.0), r"kinks of a function must be finite numbers, not 3\.0"),
        (lambda: fit("tanh", error="small"), "must be above 0, not 'small'"),
        (lambda: fit(torch.sin, derivative_bound="1"), "derivative_bound must be finite"),
        (lambda: fit(lambda x: x.sort().values), "<lambda> is not an elementwise function"),
        (lambda: fit(lambda x: x.cummax(0).values), "<lambda> is not an elementwise function"),
        (lambda: fit(torch.sin, derivative_bound=0.5), r"which is (1|0\.99999\d) or more, not 0\.5"),
        (lambda: fit(torch.sin, derivative_bound=float("nan")), "derivative_bound must be finite"),
        (lambda: fit(torch.add), "add cannot be computed on an axis of float64, .* TypeError: "),
        (lambda: fit(lambda x: (x + 0j).sqrt()), "is a complex function"),
        (lambda: fit(lambda x: x > 0), "jumps at"),
        (lambda: fit("tanh", (15, 4)), r"two integers from 0 to 14, not \(15, 4\)"),
        (lambda: fit("tanh", version="Z"), "there is no version 'Z'"),
        (lambda: fit("tanh", tail="loose"), "must be bounded, free or a weight >= 0, not 'loose'"),
        (lambda: fit("tanh", tail=-1.0), "a weight >= 0, not -1.0"),
    ],
)
def test_what_cannot_be_fitted(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("denominator", "expected"),
    [([], False), ([0.0, 0.0], False), ([0.0, 1.0], False), ([-1.0], True), ([-2.0, 1.0], True), ([2.0, 1.0], True),
     ([-2.0, 1.0000001], False), ([0.0, 0.5, 0.0, 0.0625], False), ([0.0, -2.0, 0.0, 1.0], True),
     ([0.0, 0.0, 1e-30], True), ([0.0, 0.3, 0.0, 0.01, 0.0, 1e-9], False)],
)  # fmt: skip
def test_poles_are_counted_exactly(denominator, expected):
    assert _has_pole(denominator) is expected
