import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from rlrat.rational import FUNCTIONS, VERSIONS, Fit, fit
from rlrat.rational.initial import find
from tests.rational.inputs import apply


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
        check_same(Fit(**entry), find(name, (5, 4), entry["version"]))


def test_the_command_is_run_once_as_a_module():
    """Were it imported before it is run, Python would warn, and its constants would exist twice."""
    command = [sys.executable, "-W", "error", "-m", "rlrat.rational.fit", "--help"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--output" in done.stdout


def test_a_fit_computed_again_agrees_with_the_table():
    check_same(fit.fit(torch.relu), find("relu"))


def check_same(again, committed):
    """Another machine's rounding may lead the search to other coefficients, not to another quality."""
    x = np.linspace(-5, 5, 1001)
    assert again.max_error == pytest.approx(committed.max_error, rel=0.2, abs=1e-9)
    assert np.abs(apply(again, x) - apply(committed, x)).max() <= committed.max_error + 1e-9
    np.testing.assert_allclose(again.values, committed.values, rtol=0.2, atol=0.05)


def test_another_interval():
    fitted = fit.fit(torch.exp, (3, 2), interval=(-1.0, 0.5))
    x = np.linspace(-1.0, 0.5, 100)
    assert fitted.interval == (-1.0, 0.5)
    assert np.abs(apply(fitted, x) - np.exp(x)).max() <= fitted.max_error * 1.01 < 1e-2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit.fit(torch.log), r"not finite everywhere on \[-5, 5\]"),
        (lambda: fit.fit(torch.tanh, interval=(1, 1)), r"low < high, not \(1.0, 1.0\)"),
    ],
)
def test_what_cannot_be_fitted(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
