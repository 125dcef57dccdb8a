"""Run folders that a disk, a kill or a person has damaged: equal data, less data with a warning, or one line."""

import contextlib
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rlrat.errors import InputError, heard_warnings
from rlrat.reports.build import build_report
from rlrat.reports.learned import read_learned
from rlrat.reports.metrics import with_metrics
from rlrat.reports.read import RunRecord, read_runs
from rlrat.reports.tables import make_tables
from tests.reports.run_folders import write_episodes, write_metrics, write_offline, write_run

RETURNS = [20.0 * score for score in range(8)]
JSON_VALUES = (
    *(None, True, -1, 0, 3.5, 10**400, 10**4000, float("inf"), float("nan"), 2**64, 1e308, "", "²", "٣", "9" * 5000),
    *(
        "\ud800",
        "\x1b[2J\x07",
        "a\nb\0c",
        "=1+1",
        [],
        {},
        [[]],
        [1, "x", None],
        {"a": {"b": [1]}},
        {"\ud800\x1b": "\n"},
    ),
)
FIELDS = ("", "x", "²", "1_0", "1 0", "-", "1e400", "nan", "inf", "9" * 5000, str(2**63), "\0", "\x1b[2J", '"', "1,1")
TEXTS = (
    "",
    "\0" * 50,
    "{",
    "[" * 100_000,
    '{"a":' * 100_000,
    "null",
    "[1]",
    '"x"',
    '{"a": 1' + "0" * 5000 + "}",
    "\ufeff{}",
)
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A finished run with trained activations, as nothing has damaged it."""
    start = {
        "update": 30,
        "members": 2,
        "device": "cpu",
        "versions": {"torch": "2.14.0"},
        "arguments": {"num_threads": 2},
    }
    root = tmp_path_factory.mktemp("whole")
    folder = write_run(
        root, [value / 20 for value in RETURNS], hidden_dims=[8, 8], env_id="Hopper-v5", config={"resumed": [start]},
        successes=[value / 140 for value in RETURNS],
    )  # fmt: skip
    best = {"by": "return", "value": 140.0, "update": 70, "file": "checkpoint.best.pt"}
    summary = {"status": "finished", "final_return": 1.0, "missing_evaluations": [], "best": best}
    (folder / "summary.json").write_text(json.dumps(summary))
    write_episodes(folder, [[value - 1.0, value + 1.0] for value in RETURNS])
    header = "update,layer,part,group,version,numerator,denominator,low,high,counts\n"
    lines = [f"{update},actor.0,0,0,A,0 1 2,1 1,-1.0,1.0,1 2 3\n" for update in range(0, 80, 10)]
    (folder / "activations.csv").write_text(header + "".join(lines))
    write_metrics(folder, 10, losses_q=[value / 4 for value in RETURNS], losses_v=[""] * 4 + ["nan"] * 4)
    return folder


@pytest.fixture(scope="module")
def offline(tmp_path_factory) -> Path:
    """A finished run without an environment."""
    columns = {"losses/q": [value / 4 for value in RETURNS], "losses/v": [""] * 4 + [1.0] * 4}
    return write_offline(tmp_path_factory.mktemp("offline"), RETURNS, columns=columns)


def damage_json(text: str, rng: random.Random) -> str:
    if rng.random() < 0.1:
        return rng.choice(TEXTS)
    content = json.loads(text)
    place, *_ = path = [content]
    while isinstance(place, dict | list) and place and (len(path) == 1 or rng.random() < 0.7):
        key = rng.choice(list(place) if isinstance(place, dict) else range(len(place)))
        parent, place = place, place[key]
        path.append(key)
    if rng.random() < 0.2:
        del parent[key]
    else:
        parent[key] = rng.choice(JSON_VALUES)
    return json.dumps(content)


def damage_csv(text: str, rng: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    fields = lines[at].rstrip("\n").split(",")
    column = rng.randrange(len(fields))
    kind = rng.randrange(5)
    if kind == 0:
        del fields[column]
    elif kind == 1:
        fields.insert(column, rng.choice(FIELDS))
    elif kind == 2:
        return "".join(lines)[: -rng.randrange(1, len(lines[-1]))]
    else:
        fields[column] = rng.choice(FIELDS)
    lines[at] = ",".join(fields) + "\n"
    return "".join(lines)


def damage_bytes(content: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(content))
    end = min(len(content), start + rng.randrange(1, 30))
    kind = rng.randrange(4)
    if kind == 0:
        return content[:start] + bytes([content[start] ^ (1 << rng.randrange(8))]) + content[start + 1 :]
    if kind == 1:
        return content[:start] + content[end:]
    return content[:start] + (bytes(end - start) if kind == 2 else rng.randbytes(end - start)) + content[end:]


def check_damaged_runs(whole: Path, root: Path, count: int, seed: int, check: Callable[..., None]) -> None:
    rng = random.Random(seed)
    folder = root / whole.relative_to(whole.parents[3])
    shutil.copytree(whole, folder)
    kept = {path.name: path.read_bytes() for path in whole.iterdir()}
    for number in range(count):
        name = rng.choice(sorted(kept))
        structural = number % 2 == 0
        path = folder / name
        if structural:
            damage = damage_json if name.endswith(".json") else damage_csv
            path.write_bytes(damage(kept[name].decode(), rng).encode(errors="surrogatepass"))
        else:
            path.write_bytes(damage_bytes(kept[name], rng))
        what = f"mutation {number} of seed {seed}, of {name}: {path.read_bytes()[:2000]!r}"
        try:
            check(folder, root, name, structural, build=number % 10 < 2)
        except Exception as error:
            raise AssertionError(what) from error
        path.write_bytes(kept[name])


def check_outcome(folder: Path, root: Path, name: str, structural: bool, build: bool) -> None:
    with heard_warnings() as said:
        try:
            (run,) = read_runs([root])
        except InputError as error:
            said.append(str(error))
            run = None
        read_learned(folder)
        if run is not None:
            with contextlib.suppress(InputError):  # whose name was damaged
                (run,) = with_metrics([run], ["losses/q"])
                found = run.metrics.get("losses/q")
                points = {} if found is None else dict(zip(found.updates.tolist(), found.values.tolist(), strict=True))
                whole = {10 * place + 10: value / 4 for place, value in enumerate(RETURNS)}
                assert points == whole or name == "metrics.csv"
    assert not any("\n" in text for text in said)
    if run is None:
        return
    returns = dict(zip(run.updates.tolist(), run.returns.tolist(), strict=True))
    if name != "evaluations.csv" or structural:
        whole = dict(zip(range(0, 80, 10), RETURNS, strict=True))
        # A number in place of a return is one: nobody can tell.
        returns = {update: whole.get(update) if value == 2.0**63 else value for update, value in returns.items()}
        assert returns.items() <= whole.items()
        assert returns == whole or said
    if build:
        check_report(run)


def check_report(run: RunRecord) -> None:
    report = build_report([run])
    for table in make_tables(report).values():
        assert not CONTROL.search(table.markdown() + table.latex() + table.csv())
    assert not CONTROL.search(" ".join(report.notes))


def check_offline(folder: Path, root: Path, name: str, structural: bool, build: bool) -> None:
    with heard_warnings() as said:
        try:
            (run,) = read_runs([root])
        except InputError as error:
            said.append(str(error))
            run = None
    assert not any("\n" in text for text in said)
    if run is None:
        return
    assert run.values is not None  # it is never taken for one with returns
    assert np.isnan([run.returns, run.scores]).all()
    assert np.isfinite(run.values).all() or not run.measured
    if name not in ("offline.csv", "evaluations.csv") or structural:
        whole = dict(zip(range(0, 80, 10), RETURNS, strict=True))
        values = dict(zip(run.updates.tolist(), run.values.tolist(), strict=True)) if run.measured else {}
        # A number in place of an estimate is one: nobody can tell.
        values = {update: whole.get(update) if value == 2.0**63 else value for update, value in values.items()}
        assert values.items() <= whole.items()
        assert values == whole or said or run.missing or not run.measured  # which the report says
    if build:
        check_report(run)


@pytest.mark.filterwarnings("error")
def test_damaged_run_folders_are_read_or_named(whole, tmp_path):
    check_damaged_runs(whole, tmp_path, 200, seed=0, check=check_outcome)


@pytest.mark.filterwarnings("error")
def test_damaged_runs_without_an_environment_are_read_or_named(offline, tmp_path):
    check_damaged_runs(offline, tmp_path, 200, seed=2, check=check_offline)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_thousands_of_damaged_run_folders_are_read_or_named(whole, tmp_path):
    check_damaged_runs(whole, tmp_path, 2000, seed=1, check=check_outcome)


@pytest.mark.slow
@pytest.mark.filterwarnings("error")
def test_thousands_of_damaged_runs_without_an_environment_are_read_or_named(offline, tmp_path):
    check_damaged_runs(offline, tmp_path, 1000, seed=3, check=check_offline)


@pytest.mark.parametrize("name", ["config.json", "summary.json", "evaluations.csv", "activations.csv"])
def test_a_folder_in_the_place_of_a_file_is_named(whole, tmp_path, name, capfd):
    folder = tmp_path / whole.relative_to(whole.parents[3])
    shutil.copytree(whole, folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    if name in ("config.json", "evaluations.csv"):
        with pytest.raises(InputError, match="no evaluated run below"):
            read_runs([tmp_path])
    else:
        (run,) = read_runs([tmp_path])
        assert (len(run.updates), run.status) == (8, "unfinished" if name == "summary.json" else "finished")
        assert len(read_learned(folder)) == (name != "activations.csv")
    assert str(folder) in capfd.readouterr().err
