"""Settings of an environment on the command line: what is meant is read, what may be meant otherwise is refused."""

import math

import pytest

from rlrat.environments.settings import parse_env_kwargs, same_settings
from rlrat.errors import InputError


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("false", False), ("False", False), ("true", True), ("True", True), ("null", None), ("None", None),
        ("5", 5), ("-3", -3), ("0.5", 0.5), ("-1e-3", -1e-3), ("0x10", 16), ("Infinity", math.inf),
        ("(0.7, 2.0)", (0.7, 2.0)), ("(1,)", (1,)), ("()", ()), ("[0.7, 2.0]", [0.7, 2.0]),
        ("[True, (1, -2)]", [True, (1, -2)]),
        ('{"a": [1, null]}', {"a": [1, None]}), ("{'a': (None, 1)}", {"a": (None, 1)}),
        ('"False"', "False"), ("'1,000'", "1,000"), ('""', ""), (" False ", False),
        ("walker2d.xml", "walker2d.xml"), ("./a b.xml", "./a b.xml"), ("sparse", "sparse"), ("a,b", "a,b"),
        ("x=y", "x=y"), ("nobody", "nobody"), ("__import__('os')", "__import__('os')"),
    ],
)  # fmt: skip
def test_a_value_is_json_or_a_python_literal_or_a_word(text, value):
    (found,) = parse_env_kwargs([f"name={text}"]).values()
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("FALSE", "give name=false, or 'name=\"FALSE\"' for the text itself"),
        ("tRue", "give name=true"),
        ("no", "give name=false"),
        ("On", "give name=true"),
        ("none", "give name=null"),
        ("nan", "give name=NaN"),
        ("-inf", "give name=-Infinity"),
        ("False,b=0", "several at once: give them with blanks between"),
        ("1, b = 0", "several at once"),
        ("1,000", "give 'name=(1,000)' for a tuple, or 'name=\"1,000\"'"),
        ("False,0", "give 'name=(False,0)' for a tuple"),
        ("", "give 'name=\"\"' for an empty text"),
        ("9" * 20, "cannot be kept: an integer has more than 19 digits"),
        ("[" * 63 + "]" * 63, "cannot be kept: it is nested more than 64 deep"),
        *(
            (text, "neither JSON nor a Python literal: correct it")
            for text in (
                *("[1, 2", "(1", "{1, 2}", "{'a'}", '"open', "'open", "3d.xml", "+x", ".5.5", "1+2j", "b'x'", "007"),
                *("[f()]", "{(1, 2): 3}", "[" * 10_000, "9" * 5000, "-" * 3000 + "1", "(" * 30 + "1" + ")" * 30),
                "0x" + "f" * 5000,
            )
        ),
    ],
)
def test_what_only_looks_like_a_value_is_one_line_that_says_how_to_write_it(text, advice):
    with pytest.raises(InputError) as caught:
        parse_env_kwargs([f"name={text}"])
    message = str(caught.value)
    assert message.startswith("--env-kwargs has ")
    assert advice in message
    assert "\n" not in message
    assert len(message) < 400


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (("walker2d.xml",), "expects name=value"),
        (("=1",), "expects name=value"),
        (("a.b=1",), "expects name=value"),
        (("a=1", "b=2", "a=1"), "has a twice"),
        (("max_episode_steps=5",), "give --max-episode-steps"),
        (("id=Hopper-v5",), "give --env-id"),
        (("render_mode=human",), "nothing is drawn"),
        (("disable_env_checker=true",), "leave it out"),
    ],
)
def test_names_that_are_no_settings(pairs, message):
    with pytest.raises(InputError, match=message):
        parse_env_kwargs(pairs)


def test_values_are_compared_as_json_keeps_them():
    kept = {"a": [1, [2.0, None]], "1": math.nan}
    assert same_settings({1: math.nan, "a": (1, (2.0, None))}, kept)
    assert not same_settings({"a": (1, 2)}, {"a": [2, 1]})
    assert not same_settings({"a": True}, {"a": 1})
    assert same_settings({"a": [1, -2]}, {"a": (1.0, -2.0)})
    assert not same_settings({"a": "1"}, {"a": 1})
