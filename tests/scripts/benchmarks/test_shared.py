"""Runs at once, as the benchmark starts, watches and ends them."""

import time
from pathlib import Path

import pytest

import shared
from rlrat.errors import InputError
from shared import Shared, run_shared

AGENT = """
import json, pathlib, sys, time
folder = pathlib.Path(sys.argv[sys.argv.index("--run-dir") + 1]) / "run"
folder.mkdir(parents=True)
start = {"update": 3, "arguments": {"num_threads": 1}}
(folder / "config.json").write_text(json.dumps({"arguments": {"num_threads": 2}, "resumed": [start]}))
for update in range(100_000):
    with open(folder / "metrics.csv", "a") as file:
        file.write(f"{25 * update},0.5\\n" if update else "update,loss\\n")
    time.sleep(0.005)
"""


def build(place: Path, text: str) -> Path:
    (place / "agents").mkdir(parents=True)
    (place / "agents" / "iql.py").write_text(text)
    return place


SMALL = {"settle": 0.0, "seconds": 0.1, "startup": 20.0}


def test_each_build_takes_turns_with_each_number_of_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(shared, "_ROOT", build(tmp_path / "one", AGENT))
    began = time.monotonic()
    rows = run_shared(Shared(counts=(1, 2), builds=(build(tmp_path / "two", AGENT),), **SMALL))
    assert list(rows) == [f"{name}, {count}" for count in (1, 2) for name in ("one", "two")]
    assert [row["threads"] for row in rows.values()] == [[1], [1], [1, 1], [1, 1]]
    for row in rows.values():
        assert 25 / (time.monotonic() - began) < row["lowest"] <= row["median"] <= row["highest"] <= 25 / 0.005
    assert "threads" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; sys.exit('error: no core')", r"a run ended: error: no core"),
        ("import time; time.sleep(60)", r"after 1 s the runs are at update 0"),
    ],
)
def test_runs_that_do_not_train_are_one_line_and_end(text, said, tmp_path, monkeypatch):
    monkeypatch.setattr(shared, "_ROOT", build(tmp_path, text))
    started, whole = [], shared.subprocess.Popen
    monkeypatch.setattr(shared.subprocess, "Popen", lambda *a, **k: started.append(whole(*a, **k)) or started[-1])
    with pytest.raises(InputError, match=said):
        run_shared(Shared(counts=(1,), **{**SMALL, "startup": 1.0}))
    assert all(process.poll() is not None for process in started)
    assert len(started) == 1


def test_a_build_without_the_agent_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no agents/iql\.py: give the folder of a clone"):
        run_shared(Shared(builds=(tmp_path,)))
