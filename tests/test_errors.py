"""What the user is told in one line."""

import pytest

from rlrat.errors import heard_warnings, one_line_errors, reason, warn


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


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (MemoryError(), ""),
        (MemoryError("Unable to allocate 7.28 TiB for an array"), ": 7.28 TiB more would be needed at once"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes."),
            ": 4,000 GB more would be needed at once",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU"), ": 20.00 GiB more would be needed at"),
    ],
)
def test_an_allocation_that_fails_is_one_line(error, size, capsys):
    with pytest.raises(SystemExit) as stop, one_line_errors():
        raise error
    said = capsys.readouterr().err
    assert (stop.value.code, said.count("\n")) == (2, 1)
    assert said.startswith(f"error: there is not enough memory{size}")
    assert "--batch-size" in said


def test_other_exceptions_keep_their_traceback():
    with pytest.raises(RuntimeError, match="shapes"), one_line_errors():
        raise RuntimeError("shapes do not match")
