"""Command lines in processes of their own that did their imports before: one process imports, and forks for each."""

import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.short_runs import ROOT

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        *("agents.iql", "rlrat.runs.run", "tyro"),
        *("gymnasium.envs.mujoco", "torch.fx.experimental.symbolic_shapes", "torch.utils.tensorboard"),
    ]
)


class Forked:
    """What `subprocess.Popen` is for `[sys.executable, file, *arguments]`; says what it says into `folder`.

    Triton compiles there. `variables` are of the environment and set before the file runs, but after the imports.
    """

    def __init__(self, command: Sequence[str], folder: Path, **variables: str) -> None:
        assert command[0] == sys.executable
        self._files = [folder / f"{name}.txt" for name in ("stdout", "stderr")]
        self._process = _CONTEXT.Process(target=_run, args=(command[1:], self._files, Path.cwd(), variables))
        with pytest.MonkeyPatch.context() as patch:  # the first one starts the process that imports
            patch.setenv("PYTHONPATH", str(ROOT))
            patch.setenv("TRITON_INTERPRET", "0")
            self._process.start()

    def poll(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self._process.pid, number)

    def wait(self, seconds: float = 120.0) -> subprocess.CompletedProcess:
        """Its end; the returncode of one that a signal killed is minus the signal's number."""
        self._process.join(seconds)
        assert self.poll() is not None, f"still there after {seconds} seconds"
        return subprocess.CompletedProcess([], self.poll(), *(file.read_text() for file in self._files))


def _run(arguments: list[str], files: list[Path], directory: Path, variables: dict[str, str]) -> None:
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(directory)
    os.environ.update(variables)
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")
