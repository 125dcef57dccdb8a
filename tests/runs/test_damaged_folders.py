"""The JSON and CSV files of a run, damaged before it goes on: equal data, less of it, or one line."""

import json
import random

import pytest

from rlrat.errors import InputError
from rlrat.runs.folder import RunFolder, starts
from rlrat.runs.recovery import recover
from tests.runs.test_recovery import ARGUMENTS, FILES, INITIAL, START, UPDATES, write_run

CONFIG = {
    "agent": "iql",
    "seed": 0,
    "members": 2,
    "group": ["seed 0", "seed 1"],
    "identity": {"agent": "iql", "env_id": "Hopper-v5", "env_kwargs": {"a": [1, 2]}, "expectile": 0.7},
    "arguments": {"num_threads": 1, "compile": False, "capture": None},
    "versions": {"torch": "2.13.0", "minari": None},
    "device": "cpu",
    "resumed": [{"update": 10, "members": 1, "group": ["seed 0"], "device": "cpu"}],
}
SUMMARY = {"status": "finished", "final_return": 1.5, "final_score": None, "failed_evaluations": [10]}
_WRONG = (
    *(None, True, -1, 0.5, 2**70, 10**400, float("nan"), float("inf"), "", "x", "\ud800", "\x1b[31m", "y" * 10_000),
    *([], [None], {}, {"x": 1}, [[1]], {"": {"": {}}}),
)
_DEEP = '[{"x":' * 100_000 + "1" + "}]" * 100_000


def _places(content, path=()):
    yield path
    if isinstance(content, dict | list):
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield from _places(value, (*path, key))


def _changed_json(chance: random.Random, content: dict) -> bytes:
    if chance.random() < 0.5:
        return _changed_bytes(chance, json.dumps(content, indent=2).encode())
    content = json.loads(json.dumps(content))
    path = chance.choice(list(_places(content)))
    value, deep = chance.choice(_WRONG), chance.random() < 0.02
    value = "DEEP" if deep else value
    if not path:
        content = value
    else:
        inner = content
        for key in path[:-1]:
            inner = inner[key]
        if chance.random() < 0.3:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
    text = "1" + "0" * 400 if value == 10**400 and not path else json.dumps(content)
    return text.replace('"DEEP"', _DEEP).encode()


def _changed_bytes(chance: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    at, kind = chance.randrange(len(changed)), chance.randrange(4)
    if kind == 0:
        changed[at] = chance.randrange(256)
    elif kind == 1:
        changed = changed[:at]
    elif kind == 2:
        del changed[at : at + chance.randrange(1, 60)]
    else:
        changed[at:at] = chance.randbytes(chance.randrange(1, 60))
    return bytes(changed)


_FIELDS = ("", "nan", "1e999", "-1", "0.5", "1" * 30, "9" * 5000, "x", '"', "\x00", "\x1b[31m", "٣", "²", "1,1", "\r")


def _changed_csv(chance: random.Random, content: bytes) -> bytes:
    if chance.random() < 0.5:
        return _changed_bytes(chance, content)
    lines = content.decode().splitlines()
    at, kind = chance.randrange(len(lines)), chance.randrange(5)
    fields = lines[at].split(",")
    if kind == 0:
        fields[chance.randrange(len(fields))] = chance.choice(_FIELDS)
    elif kind == 1:
        del fields[chance.randrange(len(fields))]
    elif kind == 2:
        chance.shuffle(fields)
    elif kind == 3:
        lines.insert(chance.randrange(len(lines)), lines[at])
    else:
        chance.shuffle(lines)
        return "\n".join(lines).encode() + b"\n"
    lines[at] = ",".join(fields)
    return "\n".join(lines).encode() + b"\n"


def _fuzz(path, capsys, numbers) -> None:
    folder, checkpoints = write_run(path)
    folder.write_json("config.json", CONFIG)
    rows = {row["update"]: row for row in folder.evaluations()}
    names = ("config.json", "summary.json", *FILES)
    files = {name: (path / name).read_bytes() for name in names if name != "summary.json"}
    for number in numbers:
        chance, name = random.Random(number), names[number % len(names)]
        for file, content in files.items():
            (path / file).write_bytes(content)
        (path / "summary.json").unlink(missing_ok=True)
        if name.endswith(".csv"):
            (path / name).write_bytes(_changed_csv(chance, files[name]))
        else:
            (path / name).write_bytes(_changed_json(chance, CONFIG if name == "config.json" else SUMMARY))
        again = RunFolder(path)
        try:
            again.check(CONFIG, resume=True, defaults={"expectile": 0.7})
            done = again.is_done()
            assert done == (name == "summary.json" and again.summary()["status"] != "failed"), number
            if done:
                continue  # nothing to do
            found = recover(again, "seed 0", checkpoints, START, ARGUMENTS, 1, INITIAL)
            again.go_back(START, found.whole, found.pending.keys(), found.missing)
            assert starts(again.config()), number
            again.create(CONFIG, 15)
        except InputError as error:
            refused = str(error)
        else:
            refused = None
        said = capsys.readouterr().err
        if refused is not None:
            assert not name.endswith(".csv"), number
            assert "\n" not in refused, number
            assert len(refused) < 3000, number
            continue
        assert len(said.splitlines()) <= 1 + (name == "config.json"), number
        left = {row["update"]: row for row in again.evaluations()}
        assert all(rows[update] == row for update, row in left.items()), number
        assert found.whole | found.pending.keys() | {START} | found.missing == set(UPDATES), number
        assert len(left) == len(rows) or said, number
        again.check(CONFIG, resume=True, defaults={"expectile": 0.7})


def test_a_run_with_a_damaged_file_goes_on_or_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)
    _fuzz(tmp_path / "seed0", capsys, range(150))


@pytest.mark.slow
def test_thousands_of_runs_with_a_damaged_file_go_on_or_are_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)
    _fuzz(tmp_path / "seed0", capsys, range(150, 2650))
