"""Folders that the version before the wings wrote (tests/fixtures/before_the_wings): read, resumed, acted on, reported.

They were made on one CPU: what an older version saw is compared exactly where it is read, and to rounding where it is
computed again.
"""

import json
import re
import runpy
import shutil
import signal
import sys

import numpy as np
import pytest
import torch

import rlrat
from rlrat.runs.folder import RunFolder
from rlrat.runs.schema import COLUMNS, EVALUATIONS, LATER_COLUMNS
from tests.short_runs import ROOT, read_metrics

BEFORE = ROOT / "tests" / "fixtures" / "before_the_wings"
ACTIONS = json.loads((BEFORE / "actions.json").read_text())
SETTINGS = (
    *("--batch-size", "16", "--hidden-dims", "8", "8", "--eval-every", "20", "--eval-episodes", "2"),
    *("--log-every", "10", "--checkpoint-every", "20", "--num-threads", "1"),
)


@pytest.fixture
def before(tmp_path, monkeypatch):
    """A copy of the folders, below the working directory of the commands."""
    shutil.copytree(BEFORE, tmp_path / "before")
    monkeypatch.chdir(tmp_path / "before")
    return tmp_path / "before"


@pytest.fixture
def run(monkeypatch, capfd):
    """`run("scripts/sweep.py", "status", "swept")`: what the command prints, done in this process."""

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", [str(ROOT / words[0]), *words[1:]])
        capfd.readouterr()
        code = 0
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code or 0
        output = capfd.readouterr()
        assert code == 0, output.err
        return output.out

    threads, handler = torch.get_num_threads(), signal.getsignal(signal.SIGINT)
    yield call
    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize("name", ACTIONS, ids=lambda name: name.split("/")[2])
def test_a_policy_acts_as_it_did(name):
    observation = np.linspace(-1, 1, 11, dtype=np.float32).reshape(1, 1, 11)
    actions = rlrat.load_policy(BEFORE / name)(observation)
    np.testing.assert_allclose(np.ravel(actions), ACTIONS[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("killed", [False, True])
def test_a_killed_run_goes_on(before, run, killed):
    """Two seeds that were killed at update 50 of 60, with a checkpoint of update 40.

    If it is `killed` again as it goes on, the files are of this version, and the checkpoint still of the older one.
    """
    seeds = sorted((before / "trained").glob("*/iql/*/seed*"))
    lines = [(seed / "evaluations.csv").read_text() for seed in seeds]
    for folder in map(RunFolder, seeds if killed else ()):
        for name, checksums in folder.checkpoints()[40]["lines"].items():
            folder.lines[name].expected = checksums
        folder.go_back(40, {0, 20, 40})
        assert "success_rate" in (folder.path / "evaluations.csv").read_text()
    words = ("--total-updates", "60", "--activation", "rational", "--num-seeds", "2", "--run-dir", "trained")
    assert "going on from update 40" in run("agents/iql.py", *SETTINGS, *words)
    for seed, text in zip(seeds, lines, strict=True):
        header, *older = text.splitlines()  # which columns at the end were added to
        now = (seed / "evaluations.csv").read_text().splitlines()
        later = COLUMNS[EVALUATIONS][-LATER_COLUMNS[EVALUATIONS] :]
        assert now[: len(older) + 1] == [",".join((header, *later)), *(line + "," * len(later) for line in older)]
        assert len(now) > len(older) + 1
        assert [line[0] for line in read_metrics(seed / "metrics.csv")] == ["update", "50", "60"]
        assert json.loads((seed / "summary.json").read_text())["status"] == "finished"
        config = json.loads((seed / "config.json").read_text())
        assert {name: config[name] for name in ("identity", "dataset", "reference")} == {
            name: json.loads((BEFORE / seed.relative_to(before) / "config.json").read_text())[name]
            for name in ("identity", "dataset", "reference")
        }


def test_a_finished_run_is_finished(before, run):
    words = ("--total-updates", "40", "--activation", "prelu", "--run-dir", "trained")
    summary = next((before / "trained").glob("*/td3_bc/*/seed0")) / "summary.json"
    text = summary.read_text()
    assert "is finished" in run("agents/td3_bc.py", *SETTINGS, *words)
    assert summary.read_text() == text


def test_a_sweep_trains_what_is_missing(before, run):
    """Of two cells with two seeds each, one seed had not begun."""
    there = {path: path.read_text() for path in (before / "swept").glob("*/*/*/seed*/*.csv")}
    assert "4 runs: 3 finished, 1 missing" in run("scripts/sweep.py", "status", "swept")
    words = ("--agents", "iql", "--activations", "relu", "rational", "--seeds", "2", "--seeds-per-process", "1")
    grid = [word.replace("--", "--grid.") for word in SETTINGS[:-2]]
    grid[grid.index("8") : grid.index("8") + 2] = ["8 8"]
    grid += ["--grid.total-updates", "40", "--workers", "1", "--run-dir", "swept"]
    assert run("scripts/sweep.py", *words, *grid).count("2/2") == 2
    assert {path: path.read_text() for path in there} == there
    assert len(list((before / "swept").glob("*/*/*/seed*/summary.json"))) == 4


def test_the_report_of_them(before, run):
    """Its numbers are those that the runs wrote down."""
    said = run("scripts/compare.py", "swept", "--output", "report")
    finals = [
        json.loads(path.read_text())["final_score"] for path in (before / "swept").glob("*/*/rat*/*/summary.json")
    ]
    assert re.search(rf"rational.*\b{np.mean(finals):.1f}\b", said)
    assert (before / "report" / "report.html").exists()


def test_the_evaluation_of_them(before, run):
    said = run("scripts/evaluate.py", next(iter(ACTIONS)), "--episodes", "1")
    assert "return" in said
