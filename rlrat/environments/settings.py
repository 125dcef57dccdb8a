"""Read an environment's settings, each `name=value`, and compare them and its id with those in a file."""

import ast
import json
import re
import warnings
from collections.abc import Sequence
from typing import Any

from rlrat.errors import InputError
from rlrat.json_files import parse_json

_LONGEST = 100_000  # characters of a value: a maze of thousands of cells
_DEEPEST = 20  # brackets in brackets
# How a list, tuple, dict, text in quotes or number begins.
_LITERAL = re.compile(r"[\[({\d+-]|\.\d|[A-Za-z]{0,2}['\"]")
_WORDS = {
    **dict.fromkeys(("true", "yes", "on"), "true"),
    **dict.fromkeys(("false", "no", "off"), "false"),
    **dict.fromkeys(("none", "null", "nil"), "null"),
    **dict.fromkeys(("inf", "infinity"), "Infinity"),
    **dict.fromkeys(("-inf", "-infinity"), "-Infinity"),
    "nan": "NaN",
}
_NEXT_PAIR = re.compile(r",\s*[A-Za-z_]\w*\s*=")
TAKEN = {
    "id": "give --env-id",
    "max_episode_steps": "give --max-episode-steps",
    "disable_env_checker": "leave it out, Gymnasium's checker only warns",
    "render_mode": "leave it out, nothing is drawn",
}
"""What `gymnasium.make` takes for itself, or how it draws: no settings of the task. What to do instead."""


def parse_env_kwargs(pairs: Sequence[str]) -> dict[str, Any]:
    """Read `name=value` pairs as keyword arguments.

    A value is JSON (`false`, `0.5`, `[0.8, 1.2]`, `"text"`) or else a Python literal (`False`, `None`, `(0.8, 1.2)`). A
    bare word such as walker2d.xml is text. A value that looks like JSON or Python and is neither is refused.

    Raises:
        InputError: no pair, a name twice or one that Gymnasium reserves, or a value that is not clear.
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"--env-kwargs has {pair!r}, but expects name=value, such as xml_file=walker2d.xml")
        if name in TAKEN:
            raise InputError(f"--env-kwargs has {pair!r}, which is no setting of an environment: {TAKEN[name]}")
        if name in found:
            raise InputError(f"--env-kwargs has {name} twice: give each name once")
        found[name] = _value(name, value.strip())
    return found


def _value(name: str, text: str) -> Any:
    shown = text if len(text) <= 60 else f"{text[:60]}..."
    given = f"--env-kwargs has {name}={shown}"
    quoted = f"'{name}={json.dumps(shown, ensure_ascii=False)}' for the text itself"
    if not text:
        raise InputError(f"--env-kwargs has no value for {name}: give '{name}=\"\"' for an empty text")
    try:
        return _storable(given, json.loads(text))
    except InputError:
        raise
    except (ValueError, RecursionError):
        pass
    try:
        value = _python(text)
    except ValueError:
        pass
    else:
        if isinstance(value, tuple) and text[0] != "(":  # 1,000 is not the pair of 1 and 0
            raise InputError(f"{given}, which is not clear: give '{name}=({shown})' for a tuple, or {quoted}")
        return _storable(given, value)
    if word := _WORDS.get(text.lower()):
        raise InputError(f"{given}, which is not clear: give {name}={word}, or {quoted}")
    if _NEXT_PAIR.search(text):
        raise InputError(f"{given}, which is several at once: give them with blanks between, or {quoted}")
    if _LITERAL.match(text):
        raise InputError(
            f"{given}, which begins like a number, a list or a quoted text and is neither JSON nor a Python literal: "
            f"correct it, or give {quoted}"
        )
    return text


def _storable(given: str, value: Any) -> Any:
    """Return the value if a run's `config.json` can hold it, that is, if it can be read again from there."""
    try:
        parse_json(json.dumps({"identity": {"env_kwargs": {"": value}}}))
    except ValueError as error:
        raise InputError(f"{given}, which cannot be kept: {error}") from None
    return value


def _python(text: str) -> Any:
    """Return the value of a Python literal that JSON can also express; raise ValueError for any other text."""
    depth = deepest = 0
    for character in text:
        depth += (character in "[({") - (character in "])}")
        deepest = max(deepest, depth)
    # Endless brackets and signs would fill Python's stack.
    if len(text) > _LONGEST or deepest > _DEEPEST or re.search(r"[-+~]\s*[-+~]", text):
        raise ValueError(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes such as \\d
            value = ast.literal_eval(text)
        json.dumps(value)
    except (TypeError, SyntaxError, RecursionError, MemoryError):
        raise ValueError(text) from None
    return value


def bare(env_id: str) -> str:
    """Return an environment's registered id without the module in front of it."""
    return env_id.rpartition(":")[2]


def same_settings(ours: Any, theirs: Any) -> bool:
    """Return whether two values are equal after JSON: a tuple equals a list, and NaN equals NaN.

    1 and 1.0 are the same number; True is not a number.
    """
    return _through_json(ours) == _through_json(theirs)


def _through_json(value: Any) -> str:
    return json.dumps(json.loads(json.dumps(value, default=str), parse_int=float), sort_keys=True)
