"""Damaged metadata and HDF5 files give the same data, or a valid dataset where nothing could tell, or one line.

The inputs are read in a process of their own, with a bound on its memory: where HDF5 itself crashes or hangs on damaged
bytes, that is said, and no fault of ours.
"""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_BATCH, _SECONDS = 500, 120


def fuzz(kind: str, folder: Path, count: int) -> list:
    """What was wrong with inputs 0 to `count` - 1."""
    wrong, first = [], 0
    while first < count:
        batch = min(_BATCH, count - first)
        folder.mkdir(exist_ok=True)
        command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), kind]
        command += [str(folder / f"{first}"), str(first), str(batch)]
        (folder / f"{first}").mkdir()
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        with subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes) as process:
            try:
                output, errors = process.communicate(timeout=_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                output, errors = process.communicate()
        lines = [json.loads(line) for line in output.splitlines()]
        wrong += [line for line in lines if isinstance(line, list)]
        numbers = [line for line in lines if isinstance(line, int)]
        if process.returncode > 0 or not numbers:
            pytest.fail(f"after input {numbers[-1:]}: {errors[-2000:]}")
        if process.returncode < 0:  # a signal
            warnings.warn(f"HDF5 crashes or hangs on {kind} input {numbers[-1]}: {process.returncode}", stacklevel=1)
        first = numbers[-1] + 1
    return wrong


@pytest.mark.parametrize(("kind", "count"), [("metadata", 150), ("hdf5", 150), ("goals", 60)])
def test_some_damaged_inputs(kind, count, tmp_path):
    assert fuzz(kind, tmp_path, count) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["metadata", "hdf5", "goals"])
def test_damaged_inputs(kind, tmp_path):
    assert fuzz(kind, tmp_path, 2000) == []
