from dataclasses import dataclass
from typing import Annotated, Literal

import pytest

from rlrat.sweeps.records import fits, make


@dataclass(frozen=True)
class Kind:
    name: str
    level: Literal["low", "high"] | None = None
    sizes: Annotated[list[int], "of layers"] = ()
    share: float = 1.0


def test_a_dataclass_is_made_of_what_json_has():
    assert make(Kind, {"name": "a"}) == Kind("a")
    assert make(Kind, {"name": "a", "level": "low", "sizes": [1, 2], "share": 1}) == Kind("a", "low", [1, 2], 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "it has no Kind"),
        (["name"], "it has no Kind"),
        ({}, "missing 1 required positional argument: 'name'"),
        ({"name": "a", "more": 1}, "more is unknown"),
        ({"name": 1}, "name is of another type"),
        ({"name": "a", "level": "middle"}, "level is of another type"),
        ({"name": "a", "level": ["low"]}, "level is of another type"),
        ({"name": "a", "sizes": [1, 2.0]}, "sizes is of another type"),
        ({"name": "a", "sizes": {"0": 1}}, "sizes is of another type"),
        ({"name": "a", "share": float("nan")}, "share is of another type"),
    ],
)
def test_what_is_of_another_kind_is_named(content, message):
    with pytest.raises(ValueError, match=message):
        make(Kind, content)


@pytest.mark.parametrize(
    ("value", "kind", "fit"),
    [
        (3, int, True),
        (True, int, False),
        (2**63, int, False),
        (3, float, True),
        (True, float, False),
        (10**400, float, False),
        (None, int | None, True),
        ("3", int | None, False),
        ([["a"]], list[list[str]], True),
        ([["a", 1]], list[list[str]], False),
        ({}, dict, True),
    ],
)
def test_a_value_fits_a_type_or_not(value, kind, fit):
    assert fits(value, kind) == fit
