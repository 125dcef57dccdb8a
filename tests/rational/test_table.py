"""The committed fits: what is recorded about them is true, and they are good."""

import numpy as np
import pytest
import torch
from torch import nn

from rlrat.rational import FUNCTIONS, VERSIONS, Fit, rational
from rlrat.rational.table import sample, table
from tests.rational.inputs import apply

ENTRIES = [pytest.param(name, version, id=f"{name}-{version}") for name in FUNCTIONS for version in VERSIONS]


def test_the_table_is_complete():
    assert set(table()) == {(name, (5, 4), version) for name in FUNCTIONS for version in VERSIONS}


@pytest.mark.parametrize(("name", "version"), ENTRIES)
def test_recorded_figures_are_true(name, version):
    fitted = table()[name, (5, 4), version]
    x = np.linspace(*fitted.interval, 20_011)
    error = np.abs(apply(fitted, x) - FUNCTIONS[name](torch.from_numpy(x)).numpy()).max()
    assert error == pytest.approx(fitted.max_error, rel=1e-3, abs=1e-12)
    assert error <= fitted.max_error
    certificate = fitted.certificate
    assert (certificate.kind, certificate.upper) == ("certified", fitted.max_error)
    if version in "AN" and name != "identity":
        rounding = 2.0**-23 * max(1.0, np.abs(FUNCTIONS[name](torch.from_numpy(x)).numpy()).max())
        assert certificate.lower <= certificate.upper <= 1.01 * certificate.lower + rounding
        assert certificate.within == certificate.upper / certificate.lower
    else:
        assert (certificate.lower, certificate.within) == (None, None)
    assert apply(fitted, np.array([-100.0, -10.0, 10.0, 100.0])) == pytest.approx(fitted.values, rel=1e-5)


@pytest.mark.parametrize(("name", "version"), ENTRIES)
def test_fits_are_good_inside_and_do_not_run_away_outside(name, version):
    fitted = table()[name, (5, 4), version]
    corner = name in {"relu", "leaky_relu", "prelu", "selu"}
    assert fitted.max_error < (0.0252 if corner else 0.0051)
    x = np.geomspace(5.0, 1e3, 5000)
    for side in (-x, x):
        f = FUNCTIONS[name](torch.from_numpy(side)).numpy()
        assert np.all(np.abs(apply(fitted, side) - f) <= 1.26 * np.maximum(x, np.abs(f)))
    # Large coefficients of opposite signs would lose digits in float32, where the activation is computed.
    a, b = (torch.tensor(c)[None] for c in (fitted.numerator, fitted.denominator))
    single = rational(torch.linspace(-5, 5, 1001), a, b, version).numpy()
    assert np.abs(single - apply(fitted, np.linspace(-5, 5, 1001))).max() < 1e-5


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_unguarded_version_has_no_pole_on_the_real_line(name):
    denominator = table()[name, (5, 4), "N"].denominator
    roots = np.roots([*denominator[::-1], 1.0])
    assert not np.any(np.isreal(roots))
    x = np.linspace(-50, 50, 10_001)
    assert np.polynomial.polynomial.polyval(x, [1.0, *denominator]).min() > 0.005


def test_identity_is_exact():
    x = np.linspace(-1e3, 1e3, 101)
    for version in VERSIONS:
        rtol = 1e-7 if version == "C" else 1e-15  # 0.1 + 0.9, of which 0.9 is a float32
        np.testing.assert_allclose(apply(table()["identity", (5, 4), version], x), x, rtol=rtol)


def test_degrees_are_read_from_the_coefficients():
    coefficients = (0.0, 1.0, 2.0), (1.0, 0.5)
    degrees = {version: Fit(*coefficients, version, (-1.0, 1.0), 0.0, (0.0,) * 4).degrees for version in VERSIONS}
    assert degrees == {"A": (2, 2), "B": (2, 2), "C": (2, 1), "N": (2, 2)}


def test_sample_is_in_float64_and_changes_nothing():
    x = torch.linspace(-2.0, 2.0, 5, dtype=torch.float64)
    module = nn.PReLU(init=0.1)
    assert torch.equal(sample(module, x), torch.where(x > 0, x, module.weight.detach().double() * x))
    assert module.weight.dtype == torch.float32
    assert torch.equal(sample(torch.relu_, x), torch.tensor([0.0, 0, 0, 1, 2], dtype=torch.float64))
    assert x[0] == -2.0
    assert sample(torch.log, x).isnan().any()  # NaN in both passes is one value


@pytest.mark.parametrize(
    ("function", "name"),
    [(nn.Softmax(dim=-1), r"Softmax\(dim=-1\)"), (torch.sum, "sum"), (torch.Tensor.tolist, "tolist"),
     (lambda x: x[:3], "<lambda>")],
)  # fmt: skip
def test_sample_refuses_what_is_not_elementwise(function, name):
    with pytest.raises(ValueError, match=f"{name} is not an elementwise function"):
        sample(function, torch.linspace(-2.0, 2.0, 5, dtype=torch.float64))
