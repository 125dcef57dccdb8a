"""What takes long is said, and what does not is not."""

import sys
import threading
import time

import pytest

from rlrat.datasets import progress
from rlrat.datasets.progress import counted, told_if_slow


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(progress, "AFTER_SECONDS", 0.05)


def wait(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_pipe_gets_one_line(capsys):
    said = ""

    def is_said():
        nonlocal said
        said += capsys.readouterr().err
        return said

    with told_if_slow("reading a\x1blog"):
        wait(is_said)
        assert list(counted("abc", 3)) == ["a", "b", "c"]
    assert said + capsys.readouterr().err == "reading a\N{REPLACEMENT CHARACTER}log: this takes a while\n"


def test_what_is_quick_or_fails_at_once_says_nothing(capsys, monkeypatch):
    monkeypatch.setattr(progress, "AFTER_SECONDS", 30)
    before = threading.active_count()
    with pytest.raises(KeyError), told_if_slow("reading"):
        raise KeyError
    wait(lambda: threading.active_count() == before)
    assert capsys.readouterr().err == ""


def test_a_terminal_sees_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    seen = ""

    def is_seen():
        nonlocal seen
        seen += capsys.readouterr().err
        return "2/3" in seen

    with told_if_slow("reading [red]log"):
        for item in counted("abc", 3):
            if item == "c":
                wait(is_seen)
    assert "reading [red]log" in seen
    assert progress._works == []


def test_counting_without_an_audience():
    assert list(counted(range(3), 3)) == [0, 1, 2]
