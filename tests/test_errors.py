"""What the user is told in one line."""

import pytest

from rlrat.errors import InputError, heard_warnings, one_line_errors, printable, reason, warn


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


def test_control_characters_are_no_commands_to_the_terminal(capsys):
    assert printable("a\x1b]0;title\x07\x9b2J\udcffb") == "a�]0;title��2J�b"
    warn("\x1b[2Jone\ntwo\r\n three")
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        raise InputError("no \x1b[31mfile\n  here")
    assert capsys.readouterr().err == "warning: �[2Jone two  three\nerror: no �[31mfile   here\n"
    assert reason(ValueError("no\x1b[2J file")) == "no�[2J file"
