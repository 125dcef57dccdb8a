import json
import os

import pytest

from rlrat.errors import InputError
from rlrat.json_files import DEEPEST, as_number, find_json, parse_json, read_json


def test_what_was_written_is_read(tmp_path):
    content = {"a": [1, -2.5, None, True, "\ud800"], "b": {"c": 2**62}}
    (tmp_path / "x.json").write_text(json.dumps(content))
    assert read_json(tmp_path / "x.json") == content
    assert read_json(tmp_path / "y.json") is None
    assert read_json(tmp_path / "x.json" / "y.json") is None


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "Expecting value"),
        (b"[]", "no JSON object"),
        (b"\xff\xfe", "decode"),
        (b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested more than"),
        (b'{"a": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001, "nested more than"),
        (b'{"a": ' + b"[" * DEEPEST + b"]" * DEEPEST + b"}", "nested more than"),
        (b'{"a": 1' + b"0" * 5000 + b"}", "19 digits"),
    ],
    ids=range(7),
)
def test_what_is_no_object_is_one_line(tmp_path, content, why):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(InputError, match=why) as caught:
        read_json(tmp_path / "x.json")
    assert find_json(tmp_path / "x.json") == ({"a": float("inf")} if why == "19 digits" else None)
    assert str(tmp_path / "x.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_may_be_nested_may_be_written_again():
    content = parse_json("[" * DEEPEST + "]" * DEEPEST)
    json.dumps(content, indent=2)


@pytest.mark.parametrize("kind", ["folder", "pipe", "refused", "large"])
def test_what_is_no_readable_file_is_one_line(tmp_path, monkeypatch, kind):
    path = tmp_path / "x.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "large":
        path.touch()
        os.truncate(path, 2**40)  # with nothing in it
    else:
        path.write_text("{}")

        def refuse(*_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr("rlrat.json_files.open_file", refuse)
    with pytest.raises(InputError, match=r"x\.json"):
        read_json(path)
    assert find_json(path) is None


def test_who_can_do_without_finds_what_there_is(tmp_path):
    assert find_json(tmp_path / "x.json") is None
    (tmp_path / "x.json").write_bytes(b'{"a\xff": -100000000000000000000, "b": 3}')
    assert find_json(tmp_path / "x.json") == {"a\ufffd": -1e20, "b": 3}
    assert type(find_json(tmp_path / "x.json")["b"]) is int


def test_a_number_is_a_finite_one():
    assert [as_number(value) for value in (3, -0.5, 2**70)] == [3.0, -0.5, 2.0**70]
    for value in (True, None, "3", [3], 10**400, float("nan"), float("inf")):
        assert as_number(value) is None
