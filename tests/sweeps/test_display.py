import io
import json

import pytest
from rich.console import Console

from rlrat.sweeps import display
from rlrat.sweeps.conductor import Conductor
from rlrat.sweeps.display import Display, duration
from rlrat.sweeps.folder import SweepFolder
from rlrat.sweeps.grid import Block, Grid, expand, make_jobs
from rlrat.sweeps.local import LocalLauncher
from tests.short_runs import ROOT

HEADER = "update,train_seconds,wall_seconds,target_return,episodes,return_mean,return_std,length_mean,normalized_score"


@pytest.fixture
def conductor(tmp_path):
    """Of four cells: one done, one given up, one running at update 100 of 300, one waiting."""
    block = Block(
        (str(ROOT / "tests/sweeps/toy.py"),),
        activations=("relu", "tanh", "gelu", "silu"),
        axes={"total-updates": ("300",)},
    )
    jobs = make_jobs(expand(Grid((block,)), tmp_path), None)
    found = Conductor(
        jobs, LocalLauncher(1, 1, []), SweepFolder(tmp_path), extra={}, retries=0, say=print, show=lambda _: None
    )
    for entry, state in zip(found.entries.values(), ("done", "given up", "running", "waiting"), strict=True):
        entry.state = state
    running = jobs[2].folders[0]
    running.mkdir(parents=True)
    (running / "evaluations.csv").write_text(f"{HEADER}\n100,2.0,10.0,,2,321.0,0,9,12.5\n")
    return found


def test_the_table_has_what_runs_and_what_became_of_the_rest(conductor, monkeypatch):
    monkeypatch.setattr(display, "_REFRESH_SECONDS", 0.0)
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120, color_system=None)
    conductor.diverged = 1
    with Display(console, cells=4, diverged=1) as shown:
        shown.show(conductor)
        shown.say("an event")
    said = text.getvalue()
    # 10 s for a third: 20 s of the running one, 30 s of the waiting one, one at a time
    counts = "1 of 4 cells done, 1 processes running, 1 failed, 2 runs diverged, about 50 s left"
    assert counts in said
    assert "rlrat-hopper-mixed-v0 toy gelu seed0  100/300  50         12.5" in said
    assert "an event" in said


def test_without_a_terminal_there_is_a_line_now_and_then(conductor, monkeypatch):
    text = io.StringIO()
    conductor.paused_by = next(iter(conductor.entries.values())).job
    with Display(Console(file=text, width=120), cells=4) as shown:
        shown.show(conductor)
        assert text.getvalue() == ""
        monkeypatch.setattr(display, "_LINE_SECONDS", 0.0)
        shown.show(conductor)
    assert text.getvalue().count("\n") == 1
    assert "1 failed, paused: the disk is full, about 50 s left" in text.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (300, "5 min"), (7200, "2.0 h"), (400000, "4.6 days")])
def test_durations_are_short(seconds, text):
    assert duration(seconds) == text


def test_the_table_has_the_estimate_where_there_is_no_return(conductor, monkeypatch):
    monkeypatch.setattr(display, "_REFRESH_SECONDS", 0.0)
    (running,) = (entry.job.folders[0] for entry in conductor.entries.values() if entry.state == "running")
    (running / "evaluations.csv").write_text(f"{HEADER}\n100,2.0,10.0,,0,,,,\n")
    (running / "offline.csv").write_text("update,fqe_value,losses/q\n0,1.5,3\n100,0.04321,2\n200,9.0,1\n")
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=True, width=120, color_system=None), cells=4) as shown:
        shown.show(conductor)
    assert "score, return or value" in text.getvalue()
    assert "toy gelu seed0  100/300  50         0.0432 (FQE)" in text.getvalue()


def test_the_end_has_estimates_in_a_column_of_their_own(sweeper):
    assert sweeper("--grid.env-id", "none", "--seeds", 2, "--grid.total-updates", 5) == 0
    assert "1 of 1 cells have no environment: their policies are judged on data alone" in sweeper.said
    head, row = (line.split("  ") for line in sweeper.said.splitlines() if "seeds" in line or "2/2" in line)
    assert "estimated value (FQE)" in [cell.strip() for cell in head]
    assert [cell.strip() for cell in row if cell.strip()][3:] == ["2/2", "0.625 ± 0"]
    assert sweeper("--grid.env-id", "none", "--seeds", 2, "--grid.total-updates", 5) == 0  # nothing is left to do
    assert sweeper("--seeds", 2, "--grid.total-updates", 7, "--activations", "tanh") == 0
    assert "FQE" not in sweeper.said


def test_the_end_has_success_rates_where_runs_have_them(sweeper):
    run = ("--seeds", 2, "--grid.total-updates", 5)
    assert sweeper(*run) == 0
    assert "success rate" not in sweeper.said
    for seed, rate in enumerate((0.25, 0.75)):
        path = sweeper.folder(seed=seed) / "summary.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"final_success_rate": rate}))
    assert sweeper(*run) == 0
    head, row = (line.split("  ") for line in sweeper.said.splitlines() if "seeds" in line or "2/2" in line)
    assert "success rate" in [cell.strip() for cell in head]
    assert [cell.strip() for cell in row if cell.strip()][-1] == "0.50 ± 0.25"
