"""What the user is told in one line."""

import pytest

from rlrat.errors import heard_warnings, reason, warn


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no such\n  file."), "no such file"),
        (RuntimeError(), "RuntimeError"),
        (KeyError("scale"), "'scale' is missing"),
    ],
)
def test_a_reason_is_one_line(error, said):
    assert reason(error) == reason(error, end=True) == said


def test_a_long_reason_is_cut():
    error = RuntimeError("a" * 299 + "bc" + "d" * 299)
    assert reason(error) == "a" * 299 + "b"
    assert reason(error, end=True) == "c" + "d" * 299


def test_warnings_are_printed_and_heard(capsys):
    with heard_warnings() as said:
        warn("one")
    warn("two")
    assert said == ["one"]
    assert capsys.readouterr().err == "warning: one\nwarning: two\n"
