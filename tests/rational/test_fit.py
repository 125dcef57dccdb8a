import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from rlrat.rational import FUNCTIONS, VERSIONS, fit, initial, rational, table

ENTRIES = [pytest.param(name, version, id=f"{name}-{version}") for name in FUNCTIONS for version in VERSIONS]


def apply(fitted, x):
    """R by the definition that users call, on a NumPy array."""
    coefficients = (torch.tensor(c, dtype=torch.float64)[None] for c in (fitted.numerator, fitted.denominator))
    return rational(torch.from_numpy(x), *coefficients, fitted.version).numpy()


def test_the_table_is_complete():
    assert set(table.table()) == {(name, (5, 4), version) for name in FUNCTIONS for version in VERSIONS}


@pytest.mark.parametrize(("name", "version"), ENTRIES)
def test_recorded_figures_are_true(name, version):
    fitted = initial.find(name, (5, 4), version)
    x = np.linspace(*fitted.interval, 20_011)
    error = np.abs(apply(fitted, x) - FUNCTIONS[name](torch.from_numpy(x)).numpy()).max()
    assert error == pytest.approx(fitted.max_error, rel=2e-2, abs=1e-12)
    assert apply(fitted, np.array([-100.0, -10.0, 10.0, 100.0])) == pytest.approx(fitted.values, rel=1e-5)


@pytest.mark.parametrize(("name", "version"), ENTRIES)
def test_fits_are_good_inside_and_do_not_run_away_outside(name, version):
    fitted = initial.find(name, (5, 4), version)
    corner = name in {"relu", "leaky_relu", "prelu", "selu"}
    assert fitted.max_error < (0.03 if corner else 0.006)
    x = np.geomspace(5.0, 1e4, 5000)
    for side in (-x, x):
        assert np.all(np.abs(apply(fitted, side)) <= 1.4 * x)
    # Large coefficients of opposite signs would lose digits in float32, where the activation is computed.
    a, b = (torch.tensor(c)[None] for c in (fitted.numerator, fitted.denominator))
    single = rational(torch.linspace(-5, 5, 1001), a, b, version).numpy()
    assert np.abs(single - apply(fitted, np.linspace(-5, 5, 1001))).max() < 1e-5


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_unguarded_version_has_no_pole_on_the_real_line(name):
    denominator = initial.find(name, (5, 4), "N").denominator
    roots = np.roots([*denominator[::-1], 1.0])
    assert not np.any(np.isreal(roots))
    x = np.linspace(-50, 50, 10_001)
    assert np.polynomial.polynomial.polyval(x, [1.0, *denominator]).min() > 0.005


def test_identity_is_exact():
    x = np.linspace(-1e3, 1e3, 101)
    for version in VERSIONS:
        np.testing.assert_allclose(apply(initial.find("identity", (5, 4), version), x), x, rtol=1e-15)


def test_the_command_writes_what_the_package_carries(tmp_path, monkeypatch, capsys):
    chosen = {name: FUNCTIONS[name] for name in ("sigmoid", "identity")}
    monkeypatch.setattr(fit, "FUNCTIONS", chosen)
    monkeypatch.setattr(sys, "argv", ["fit", "--output", str(tmp_path / "fitted.json")])
    fit.main()
    printed = capsys.readouterr().out
    entries = json.loads((tmp_path / "fitted.json").read_text())["fits"]
    assert [entry["name"] for entry in entries] == [name for name in chosen for _ in VERSIONS]
    for entry in entries:
        name = entry.pop("name")
        assert f"{name:<11} {entry['version']}" in printed
        check_same(table.Fit(**entry), initial.find(name, (5, 4), entry["version"]))


def test_a_fit_computed_again_agrees_with_the_table():
    check_same(fit.fit(torch.relu), initial.find("relu"))


def check_same(again, committed):
    """Another machine's rounding may lead the search to other coefficients, not to another quality."""
    x = np.linspace(-5, 5, 1001)
    assert again.max_error == pytest.approx(committed.max_error, rel=0.2, abs=1e-9)
    assert np.abs(apply(again, x) - apply(committed, x)).max() <= committed.max_error + 1e-9
    np.testing.assert_allclose(again.values, committed.values, rtol=0.2, atol=0.05)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("degrees", [(3, 2), (4, 3), (2, 0), (1, 1)])
def test_other_degrees(degrees, version):
    fitted = initial.find("gelu", degrees, version)
    assert fitted.degrees == degrees
    assert fitted.max_error < {(3, 2): 0.1, (4, 3): 0.1, (2, 0): 0.4, (1, 1): 1.5}[degrees]
    assert initial.find(nn.GELU(), degrees, version) is fitted


def test_another_interval():
    fitted = fit.fit(torch.exp, (3, 2), interval=(-1.0, 0.5))
    x = np.linspace(-1.0, 0.5, 100)
    assert fitted.interval == (-1.0, 0.5)
    assert np.abs(apply(fitted, x) - np.exp(x)).max() <= fitted.max_error * 1.01 < 1e-2


def test_functions_are_recognised_by_their_values():
    assert initial.find(nn.ELU()) is initial.find("elu")
    assert initial.find(lambda x: x.clamp_(min=0)) is initial.find("relu")
    assert initial.find(nn.PReLU()) is initial.find("prelu")
    assert initial.find(nn.ELU(alpha=0.5), (2, 2)) is initial.find(nn.ELU(alpha=0.5, inplace=True), (2, 2))
    assert initial.find(nn.ELU(alpha=0.5), (2, 2)) is not initial.find(nn.ELU(), (2, 2))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: initial.find("rleu"), "no function 'rleu' to approximate, only relu, leaky_relu"),
        (lambda: initial.find("relu", version="E"), "no version 'E'"),
        (lambda: initial.find("relu", (5, -1)), r"degrees must be two integers >= 0, .* not \(5, -1\)"),
        (lambda: initial.find("relu", (5, 4, 3)), "degrees must be two integers"),
        (lambda: initial.find(nn.Softmax(dim=-1)), "not an elementwise function"),
        (lambda: initial.find(nn.Dropout()), "not an elementwise function"),
        (lambda: initial.find(torch.sum), "sum is not an elementwise function"),
        (lambda: fit.fit(torch.log), r"not finite everywhere on \[-5, 5\]"),
        (lambda: fit.fit(torch.tanh, interval=(1, 1)), r"low < high, not \(1.0, 1.0\)"),
    ],
)
def test_what_cannot_be_fitted(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
