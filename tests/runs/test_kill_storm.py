"""Single runs and groups that are killed at random instants, also within their saves, against undisturbed ones."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from tests.short_runs import ROOT, assert_equal_runs, read_run

KILLS = 12
STORM = ("--total-updates", "400", "--eval-every", "20", "--checkpoint-every", "5", "--log-every", "20")
# Imports once, and forks for each line that it reads: an import takes longer than these runs.
SERVER = """if True:
    import json, os, sys
    import mujoco, torch.utils.tensorboard, rlrat.runs.run
    from agents import iql
    from rlrat.runs.arguments import parse
    from rlrat.errors import one_line_errors
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            sys.stdout = sys.stderr
            code = 1
            try:
                with one_line_errors():
                    iql.main(parse(iql.Arguments, "iql", json.loads(line)))
                code = 0
            finally:
                os._exit(code)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)
"""


@pytest.fixture
def server(tmp_path):
    """A process to which one writes an agent's arguments, and which answers with a process id, and with its end."""
    with (tmp_path / "stderr").open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT,
        )  # fmt: skip
        yield process
        process.stdin.close()
        process.stdout.close()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [1, 2])
def test_a_run_that_is_killed_a_dozen_times_equals_an_undisturbed_one(command, run_agent, server, tmp_path, seeds):
    storm = (*STORM, "--num-seeds", str(seeds))
    chance, kills, status = random.Random(seeds), 0, signal.SIGKILL
    while kills < KILLS and status == signal.SIGKILL:
        saved, until = _saved(tmp_path), time.monotonic() + 60
        print(json.dumps(command(*storm)[2:]), file=server.stdin, flush=True)
        pid = int(server.stdout.readline())
        while _saved(tmp_path) == saved and time.monotonic() < until:
            time.sleep(0.001)  # until it has begun to save
        time.sleep(chance.uniform(0.0, 0.05))
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        status = int(server.stdout.readline())
        kills += status == signal.SIGKILL
    assert "Traceback" not in (tmp_path / "stderr").read_text()
    assert kills >= KILLS // 2, "the run was over before it could be killed"
    run_agent(*storm)
    folders = [next(tmp_path.glob(f"runs/*/*/*/seed{seed}")) for seed in range(seeds)]
    killed = [read_run(folder) for folder in folders]
    assert not [file for folder in folders for file in folder.glob("*.tmp")]
    run_agent(*storm, "--overwrite")
    for before, folder in zip(killed, folders, strict=True):
        assert_equal_runs(before, read_run(folder))


def _saved(tmp_path) -> set[int]:
    """The moments at which the checkpoints that are there were written."""
    return {path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/*/*/*/checkpoint.pt")}
