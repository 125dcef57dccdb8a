"""scripts/data.py."""

import os
import subprocess
import sys

import pytest

from rlrat import load_dataset
from rlrat.errors import InputError
from scripts import data
from tests.short_runs import ROOT

SCRIPT = ROOT / "scripts" / "data.py"


def test_damage_is_exit_code_1(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_dataset("rlrat/hopper/medium-v0")
    root = tmp_path / "rlrat" / "datasets"
    assert data.main(["check"]) == 0
    assert capsys.readouterr().out == f"rlrat/hopper/medium-v0 in {root}: ok\n"
    (path,) = root.glob("*/rewards.npy")
    path.write_bytes(b"\0")
    done = subprocess.run([sys.executable, SCRIPT, "check"], capture_output=True, text=True, env=dict(os.environ))
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout.endswith("damaged (rewards.npy has another content): it is made anew when it is loaded next\n")


def test_mistakes_are_one_line(capsys):
    with pytest.raises(InputError, match="nonsense is in no cache"):
        data.main(["check", "nonsense"])
    for argv in ([], ["chek"]):
        with pytest.raises(SystemExit, match="2"):
            data.main(argv)
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert said.count("\n") == 1
    with pytest.raises(SystemExit, match="0"):
        data.main(["--help"])
    assert "data.py check [DATASET ...]" in capsys.readouterr().out
