"""`python -m rlrat.rational`: the backends of a machine, and fits for those who do not train."""

import json
import runpy
import sys

import pytest

from rlrat.rational import FUNCTIONS, VERSIONS, __main__, backends
from rlrat.rational.table import table

SILU = ["fit", "silu", "--degrees", "5", "4", "--interval", "-3", "3", "--version", "A", "--tail", "free"]


@pytest.mark.filterwarnings("ignore:'rlrat.rational.__main__' found in sys.modules")
def test_the_command_prints_the_report(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rlrat.rational"])
    runpy.run_module("rlrat.rational", run_name="__main__")
    printed = capsys.readouterr()
    assert printed.out.splitlines() == backends.report()
    assert printed.err == ""


def test_a_fit_is_printed_and_drawn(tmp_path, capsys):
    __main__.main([*SILU, "--output", str(tmp_path / "silu.png")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "silu = P(x) / Q(x) on [-3, 3], degrees (5, 4), version A"
    assert [line.split()[0] for line in lines if " = " in line][2:] == [
        *(f"a_{i}" for i in range(6)), *(f"b_{i}" for i in range(1, 5)),
    ]  # fmt: skip
    assert "  a_1 = 0.5" in lines
    assert any(line.startswith("largest error 4.9") and "certified" in line for line in lines)
    assert any(line.startswith("no other R of this form is below 4.557") for line in lines)
    assert "real poles: none" in lines
    assert any(line.startswith("largest slope on the interval: 1.09984") for line in lines)
    assert (tmp_path / "silu.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_not_certified_says_so(monkeypatch, capsys):
    monkeypatch.setattr("rlrat.rational.certificates.find_spec", lambda name: None)
    __main__.main(["fit", "tanh", "--degrees", "3", "2", "--version", "N"])
    said = capsys.readouterr().out
    assert "sampled: the largest of many samples)" in said
    assert "pip install python-flint proves a bound between samples" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "rleu"], "error: there is no function 'rleu' to approximate, only relu"),
        (["fit", "relu", "--interval", "3", "3"], "error: the interval of a fit must be finite and low < high"),
        (["fit", "relu", "--degrees", "3", "-2"], "error: degrees of a fit must be two integers from 0 to 14"),
        (["fit", "relu", "--version", "D"], "error: there is no version 'D' of a rational"),
        (["fit", "relu", "--tail", "x"], "error: the tail of a fit must be bounded, free or a weight"),
        (["fit", "tanh", "--degrees", "1", "0", "--error", "0.02", "--version", "N"], "(3, 2) would do"),
        (["fit", "relu", "--output", "/nowhere/x.png"], "error: there is no folder /nowhere for x.png"),
        (["fit", "relu", "--output", "/"], "error: --output must be the name of a file that ends in .png, .svg, .pdf"),
        (["table", "--output", "/nowhere/x.json"], "error: there is no folder /nowhere for x.json"),
        (["fit"], "error: the following arguments are required: name"),
        (["fit", "tanh", "--degrees", "1.5", "0"], "error: argument --degrees: invalid int value: '1.5'"),
        (["fit", "tanh", "--interval", "-3"], "error: argument --interval: expected 2 arguments"),
        (["fit", "tanh", "--error", "nan"], "error: the error that is wanted of a fit must be above 0, not nan"),
        (["fits"], "error: argument command: invalid choice: 'fits'"),
        (["table", "--tail", "x"], "error: the tail of a fit must be bounded, free or a weight"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_the_table_is_written_as_the_package_carries_it(tmp_path, monkeypatch, capsys):
    chosen = {name: FUNCTIONS[name] for name in ("sigmoid", "identity")}
    monkeypatch.setattr(__main__, "FUNCTIONS", chosen)
    monkeypatch.setattr(__main__, "VERSIONS", "N")
    __main__.main(["table", "--output", str(tmp_path / "fitted.json")])
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "fitted.json").read_text())
    assert written["written by"] == "python -m rlrat.rational table"
    assert [(entry["name"], entry["version"]) for entry in written["fits"]] == [(name, "N") for name in chosen]
    for entry in written["fits"]:
        committed = table()[entry["name"], (5, 4), entry["version"]]
        assert f"{entry['name']:<11} {entry['version']}" in printed
        assert entry["certificate"]["upper"] == pytest.approx(committed.max_error, rel=0.02)
    assert set(VERSIONS) == set("ABCN")
