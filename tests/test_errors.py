"""What the user is told in one line."""

import pytest

from rlrat.errors import reason


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
