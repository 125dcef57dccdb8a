"""One name for a dataset, however it is spelled, and never a way out of the folder of runs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rlrat.datasets.names import dataset_id, folder_name
from rlrat.runs.arguments import RunArguments, run_folder


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path


@pytest.mark.parametrize(
    ("spellings", "id", "folder"),
    [
        (["rlrat/hopper/mixed-v0", "rlrat//hopper/mixed-v0/"], "rlrat/hopper/mixed-v0", "rlrat-hopper-mixed-v0"),
        (["hopper-medium-v2", "hopper-medium-v2/"], "hopper-medium-v2", "hopper-medium-v2"),
        (["x", "./x/", "{here}/x", "../{name}/x", "y/../x"], "x", "x"),
        (["deep/x", "./deep//x/", "{here}/deep/x"], "x", "x"),
        (["minari/toy/set-v0", "./minari/toy/set-v0", "{here}/minari/toy/set-v0/"], "{first}", "{first}"),
        (["./minari/toy/set-v0", "{here}/minari/toy/set-v0/"], "toy/set-v0", "toy-set-v0"),
        (["mine.hdf5", "./mine.hdf5", "a/../mine.hdf5", "{here}/mine.hdf5", "mine.h5"], "mine", "mine"),
        (["hopper_medium-v2.hdf5"], "hopper_medium-v2", "hopper_medium-v2"),
        (["mine.bin", "./mine.bin", "{here}/mine.bin"], "mine.bin", "mine.bin"),
        (["...hdf5", "./...hdf5"], "dataset..", "dataset.."),
        (["..hdf5"], "dataset.", "dataset."),
        (["/", "//"], "dataset", "dataset"),
        (["a\x1b[31m\nb.hdf5"], "a_[31m_b", "a_[31m_b"),
    ],
)
def test_every_spelling_has_one_name(here, spellings, id, folder):
    if id == "{first}":  # what has the form of an id is one
        spellings, id, folder = spellings[:1], "minari/toy/set-v0", "minari-toy-set-v0"
    for spelling in spellings:
        text = spelling.format(here=here, name=here.name)
        assert (dataset_id(text), folder_name(text)) == (id, folder), text
        run = run_folder(RunArguments(dataset=text, run_dir=Path("runs")), "iql", 3)
        assert run == Path("runs", folder, "iql", "relu", "seed3")


def test_no_dataset_leads_out_of_the_folder_of_runs(here):
    for text in ("", ".", "..", "../..", "...hdf5", "x/..", "/", "~", "\0", "./.hdf5", "..", "a\\..\\b"):
        folder = run_folder(RunArguments(dataset=text, run_dir=here / "runs"), "iql", 0)
        assert Path(os.path.abspath(folder)) == folder
        assert folder.relative_to(here / "runs").parts[1:] == ("iql", "relu", "seed0")


def test_names_need_neither_numpy_nor_torch():
    code = "import sys, rlrat.datasets.names; print({'numpy', 'torch', 'h5py'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
