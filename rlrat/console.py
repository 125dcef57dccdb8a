"""The console that programs print to."""

from collections.abc import Iterable
from typing import Any

import rich.console
from rich.segment import Segment

from rlrat.errors import printable


class Console(rich.console.Console):
    """Shows names, paths and log lines as they are: nothing in them is markup or a command to the terminal."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"highlight": False, "markup": False, "emoji": False, **settings})

    def render(self, *arguments: Any, **settings: Any) -> Iterable[Segment]:
        for segment in super().render(*arguments, **settings):
            if segment.control or segment.text == "\n":
                yield segment
            else:
                yield segment._replace(text="\n".join(map(printable, segment.text.split("\n"))))
