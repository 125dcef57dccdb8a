"""Guard texts in tables that spreadsheets open: none of them becomes a formula, and each is read back as it was."""

import re
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_GUARDED = re.compile(r"'+[=+\-@\t\r]")


def guarded(value: Any) -> Any:
    """Return a cell's value; put an apostrophe before a text that a spreadsheet would compute, not before a number."""
    if not isinstance(value, str) or not _FORMULA.match(value) or len(value) == 1 or _is_number(value):
        return value
    return f"'{value}"


def unguarded(text: str) -> str:
    """Return the text of a cell that `guarded` wrote."""
    return text[1:] if _GUARDED.match(text) else text


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
