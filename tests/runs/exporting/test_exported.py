"""Exporting a run: one checked file that says what it is, or one line and no file."""

import os
import re
import shutil

import numpy as np
import pytest
import torch

import rlrat
from rlrat.errors import InputError
from rlrat.runs import export
from rlrat.runs.exporting import exported
from rlrat.runs.exporting.exported import FORMATS, Format
from tests.runs.exporting.policies import make_policy, save_run
from tests.short_runs import ROOT


@pytest.fixture
def run(tmp_path):
    return save_run(tmp_path / "seed0", make_policy())


def hidden(folder) -> set[str]:
    """What a run folder has not by itself."""
    return {path.name for path in folder.iterdir()} - {"checkpoint.pt", "config.json"}


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_a_run_becomes_a_file_in_its_folder_that_acts_as_its_policy(run):
    done = export(run, "torchscript")
    assert done.files == (run / "policy.torchscript.pt",)
    assert 0 <= done.difference < 1e-6
    assert done.compared_on == "10,000 observations of rlrat/hopper/mixed-v0"
    assert hidden(run) == {"policy.torchscript.pt"}
    observation = np.ones((1, 11), np.float32)
    about = dict.fromkeys(["agent", "activation", "dataset", "seed", "update", "rlrat"], "")
    found = torch.jit.load(done.files[0], _extra_files=about)(torch.from_numpy(observation))
    np.testing.assert_allclose(found, rlrat.load_policy(run)(observation), rtol=0, atol=1e-5)
    about = {name: value.decode() if isinstance(value, bytes) else value for name, value in about.items()}
    assert about == {
        **{"agent": "iql", "activation": "rational", "dataset": "rlrat/hopper/mixed-v0"},
        **{"seed": "0", "update": "40", "rlrat": "0.1.0"},
    }


def test_a_checkpoint_alone_is_enough_and_weights_stand_beside(run, tmp_path):
    lone = tmp_path / "lone"
    lone.mkdir()
    shutil.copy(run / "checkpoint.pt", lone)
    done = export(lone / "checkpoint.pt", "numpy", tmp_path / "new" / "robot.py")
    assert done.files == (tmp_path / "new" / "robot.py", tmp_path / "new" / "robot.npz")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["robot.npz", "robot.py"]
    assert "drawn by mean and standard deviation (the run names no dataset)" in done.compared_on
    assert export(run, "numpy", str(done.files[0])).files == done.files  # written anew


def test_the_best_checkpoint_is_asked_for(run):
    other = make_policy(hidden_dims=(8,))
    save_run(run.parent / "other", other)
    shutil.move(run.parent / "other" / "checkpoint.pt", run / "checkpoint.best.pt")
    export(run, "numpy", which="best")
    assert len(np.load(run / "policy.npz")["hidden_0_bias"]) == 8
    with pytest.raises(InputError, match="which is 'first'"):
        export(run, "numpy", which="first")


def test_a_run_that_diverged_is_named(run, capsys):
    (run / "summary.json").write_text('{"status": "diverged", "diverged_at": 12}')
    export(run, "numpy")
    assert capsys.readouterr().err == f"warning: {run} diverged at update 12: its policy is the one frozen then\n"


def test_a_decision_transformer_has_graphs_alone(tmp_path):
    run = save_run(tmp_path / "seed0", make_policy(sequence=True))
    for format in ("numpy", "c"):
        with pytest.raises(InputError) as caught:
            export(run, format)
        assert str(caught.value) == (
            f"--format {format} is for MLPs, a Decision Transformer has onnx, torch-export, aoti, torchscript: "
            "give one of these"
        )
    done = export(run, "torchscript")
    assert done.difference < 1e-5
    assert done.compared_on == "256 observations of rlrat/hopper/mixed-v0"


def test_what_differs_leaves_no_file(run, monkeypatch):
    def wrong(path):
        return lambda arrays: [np.zeros((len(arrays[0]), 3), np.float32)]

    monkeypatch.setitem(FORMATS, "numpy", Format("policy.py", FORMATS["numpy"].write, wrong, graph=False))
    (run / "policy.py").write_text("before")
    with pytest.raises(InputError, match=r"actions differ from ours by up to .* more than 1e-05: nothing was written$"):
        export(run, "numpy")
    assert hidden(run) == {"policy.py"}
    assert (run / "policy.py").read_text() == "before"


def test_a_writer_that_fails_leaves_no_file(run, monkeypatch):
    def fail(source, path, about):
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(FORMATS, "numpy", Format("policy.py", fail, FORMATS["numpy"].open, graph=False))
    with pytest.raises(InputError, match=r"^cannot write .*/policy.py: No space left on device$"):
        export(run, "numpy")
    assert hidden(run) == set()


def test_without_a_c_compiler_it_is_said(run, monkeypatch):
    monkeypatch.setattr(exported.c_source.shutil, "which", lambda name: None)
    assert export(run, "c").difference is None
    assert hidden(run) == {"policy.h", "policy_weights.h"}


@pytest.mark.parametrize(
    ("format", "settings", "said"),
    [
        ("tflite", {}, "there is no format 'tflite': give one of onnx, torch-export, aoti, torchscript, numpy, c"),
        ("numpy", {"opset": 18}, "--opset is for --format onnx, not numpy: leave it out"),
        ("numpy", {"out": "."}, "--out . is a folder: name a file in it, such as policy.py"),
        ("numpy", {"out": "a.txt"}, "--out a.txt must end in .py for --format numpy"),
        ("c", {"out": "a-b.h"}, "--out a-b.h names code: give letters, digits and _ before .h"),
        ("numpy", {"out": "/dev/null/a.py"}, "cannot write /dev/null/a.py: File exists"),
        ("numpy", {"out": "/proc/a.py"}, "cannot write /proc/a.py: "),
        ("numpy", {"dataset": "nowhere"}, "unknown dataset 'nowhere'"),
    ],
)
def test_a_mistake_is_one_line_and_no_file(run, format, settings, said):
    with pytest.raises(InputError) as caught:
        export(run, format, **settings)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert hidden(run) == set()


def test_a_run_that_cannot_be_loaded_is_one_line(run, tmp_path):
    with pytest.raises(InputError, match="there is no run folder"):
        export(tmp_path / "nowhere", "numpy")
    os.remove(run / "checkpoint.pt")
    with pytest.raises(InputError, match="has no checkpoint yet"):
        export(run, "numpy")


@pytest.mark.slow
def test_the_loops_of_the_page_run_as_they_stand_there(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    for block, sequence in zip(blocks, (False, True, False), strict=True):
        run = save_run(tmp_path / "seed0", make_policy(sequence=sequence))
        export(run, "onnx", "policy.onnx")
        names: dict = {}
        exec(compile(block, "export.md", "exec"), names)
        assert names.get("over", True)
