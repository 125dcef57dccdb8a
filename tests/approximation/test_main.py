"""`python -m rlrat.approximation`: the paper's tables, and constructions that say what they are made of."""

import signal
import subprocess
import sys

import pytest

from rlrat.approximation import __main__, names
from tests.approximation.test_tables import LOG, ROOT, TANH, THETA2, THETA3


def test_one_command_prints_the_five_tables_without_torch():
    code = "import sys; from rlrat.approximation.__main__ import main; main(['tables']); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, has_torch = [line.replace(",", "") for line in done.stdout.splitlines()]
    assert has_torch == "False"
    for row in (f"{ROOT} 4.5987e-214", THETA3, THETA2, LOG, f"{TANH} 3.03e-301"):
        assert row in lines
    assert lines[-1] == "(the last entry with 320 digits: 2.99e-301)"


@pytest.mark.skipif(not hasattr(signal, "SIGPIPE"), reason="there is no such signal")
def test_a_reader_that_leaves_early_is_no_error():
    command = [sys.executable, "-m", "rlrat.approximation", "tables", "--digits", "340"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == -signal.SIGPIPE


def test_a_construction_is_shown(capsys):
    __main__.main(["show", "gelu", "--steps", "1"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "gelu from -5 to 5, 1 step:"
    assert lines[4] == "of the tanh form of GELU, which differs from GELU by up to 4.73e-4"
    assert lines[-2:] == [
        f"After 1 step the error in {number} is rounding: more gain nothing there." for number in ("float32", "float64")
    ]


def test_where_float32_ends_the_race(capsys):
    __main__.main(["show", "sign"])
    out = capsys.readouterr().out
    assert "sign from -1 to 1 but for |x| < 0.01, 3 steps:\n12 constants in 21 operations + - * /\n" in out
    assert "   3         12          21  (27, 26)                8.79e-10   1.19e-7    8.79e-10   8.79e-10\n" in out
    assert "After 3 steps the error in float32 is rounding: more gain nothing there.\n" in out
    __main__.main(["show", "step", "--unscaled", "--error", "0.45"])
    assert "step from -1 to 1 but for |x| < 0.01, 3 steps:\n" in capsys.readouterr().out
    __main__.main(["show", "root", "--p", "10", "--steps", "1"])
    assert "error at most 1.82e-1," in capsys.readouterr().out


def test_what_floats_do_not_hold_is_left_out(capsys):
    __main__.main(["show", "relu", "--domain", "-1e-20", "1e-20", "--steps", "1"])
    assert capsys.readouterr().out.splitlines()[6].split()[-4:] == ["1.63e-22", "-", "1.63e-22", "1.63e-22"]


@pytest.mark.slow
def test_all_are_listed(capsys):
    __main__.main(["list"])
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == [*names()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "glu"], "there is no construction 'glu', only relu, abs"),
        (["show", "root", "--p", "1"], "p of a p-th root must be an integer of at least 2, not 1"),
        (["show", "root", "--alpha0", "1"], "alpha0 of a p-th root must lie between 0 and 1, not at 1.0"),
        (["show", "log", "--domain", "0", "1"], "the domain of log must lie above 0, where log has a branch point"),
        (["show", "gelu", "--p", "2"], "gelu has no setting 'p', only domain"),
        (["tables", "--digits", "100"], "100 digits do not suffice for 10 steps of the p-th root: about 215 do"),
        (["tables", "--alpha0", "0"], "alpha0 of a p-th root must lie between 0 and 1, not at 0.0"),
        (["tables", "--s", "1"], "s of tanh must lie between -1 and 1, where there is no branch point, not at 1.0"),
    ],
)
def test_mistakes_are_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        __main__.main(arguments)
    assert stop.value.code == 2
    out, error = capsys.readouterr()
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert out == ""
