"""Read data from a folder: it may be damaged, of another version or somebody else's, and have any types."""

import dataclasses
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from rlrat.json_files import as_number

Kind = TypeVar("Kind")


def make(kind: type[Kind], content: Any) -> Kind:
    """Make a dataclass from its JSON object; an absent field gets its default.

    Raises:
        ValueError: a field is absent and has no default, is unknown or is of another type.
    """
    if not isinstance(content, dict):
        raise ValueError(f"it has no {kind.__name__}")
    kinds = _kinds(kind)
    if unknown := [name for name in content if name not in kinds]:
        raise ValueError(f"{unknown[0]} is unknown")
    if wrong := [name for name, value in content.items() if not fits(value, kinds[name])]:
        raise ValueError(f"{wrong[0]} is of another type")
    try:
        return kind(**content)
    except TypeError as error:
        raise ValueError(str(error)) from None


@cache
def _kinds(kind: type) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    return {name: one for name, one in get_type_hints(kind, include_extras=True).items() if name in names}


def fits(value: Any, kind: Any) -> bool:
    """Tell whether a value from JSON is of a type, such as `int | None` or `list[str]`; numbers must be finite."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return fits(value, parts[0])
    if origin in (Union, UnionType):
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return isinstance(value, str) and value in parts
    if origin is list:
        return isinstance(value, list) and all(fits(one, parts[0]) for one in value)
    if kind is int:
        return type(value) is int and abs(value) < 2**63
    if kind is float:
        return as_number(value) is not None
    return isinstance(value, kind)
