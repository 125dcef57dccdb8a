"""scripts/export.py."""

import pytest

from rlrat.runs.exporting import exported
from rlrat.runs.exporting.exported import FORMATS
from scripts import export
from tests.runs.exporting.policies import make_policy, save_run


@pytest.fixture
def run(tmp_path):
    return save_run(tmp_path / "seed0", make_policy())


def test_it_says_what_was_written_and_how_it_compares(run, capsys):
    export.main(export.Arguments(run, format="numpy"))
    lines = capsys.readouterr().out.splitlines()
    sizes = {name: f"{(run / name).stat().st_size:,} bytes" for name in ("policy.py", "policy.npz")}
    assert lines[:2] == [f"{run / name} ({size})" for name, size in sizes.items()]
    assert lines[2].startswith("largest difference to our policy's actions: ")
    assert lines[2].endswith("e-07, on 10,000 observations of rlrat/hopper/mixed-v0")


def test_without_a_compiler_it_warns(run, capsys, monkeypatch):
    monkeypatch.setattr(exported.c_source.shutil, "which", lambda name: None)
    export.main(export.Arguments(run, format="c"))
    said = capsys.readouterr()
    assert said.err == "warning: there is no C compiler: what was written was not compared with our policy\n"
    assert "difference" not in said.out


def test_it_offers_the_formats_that_there_are():
    assert tuple(FORMATS) == export.FORMATS


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--format", "tflite"], "tflite"),
        (["--opset", "11"], "error: --opset is 11, which is too old: give at least 18\n"),
        (["--format", "c", "--out", "robot.c"], "error: --out robot.c must end in .h for --format c\n"),
    ],
)
def test_a_mistake_is_one_line(run, run_script, capsys, words, said):
    assert run_script("export.py", str(run), *words) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert run_script("export.py", str(run / "nowhere"), "--format", "numpy") == 2
    assert capsys.readouterr().err.startswith("error: there is no run folder ")
