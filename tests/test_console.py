"""The console shows what it is given, and lets none of it command the terminal."""

import io

import pytest
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlrat.console import Console

HOSTILE = "a\x1b]0;title\x07[red]:smile:\x9b2J"


def table():
    shown = Table(HOSTILE)
    shown.add_row(HOSTILE)
    return shown


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("shown", [HOSTILE, Text(HOSTILE), table()], ids=["text", "Text", "table"])
def test_nothing_reaches_the_terminal(shown, terminal):
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, color_system=None, width=80)
    console.print(shown, soft_wrap=True)
    with Live(shown, console=console, auto_refresh=False):
        pass
    said = file.getvalue()
    assert "a�]0;title" in said
    assert "[red]:smile:" in said
    assert not {"\x07", "\x9b", "\x1b]"} & {said[i : i + n] for n in (1, 2) for i in range(len(said))}
    assert "\x1b[2J" not in said


def test_lines_stay_lines():
    file = io.StringIO()
    Console(file=file, width=80).print("one\ntwo\n\nthree")
    assert file.getvalue() == "one\ntwo\n\nthree\n"
