"""Whole sweeps on this machine, of an agent that counts."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from rlrat.errors import InputError
from rlrat.runs.locks import Watch
from rlrat.sweeps import commands, local
from rlrat.sweeps.agents import load_agent
from rlrat.sweeps.estimate import Probe
from rlrat.sweeps.folder import SweepFolder, read_progress
from rlrat.sweeps.grid import Block, Grid, expand, make_jobs
from rlrat.sweeps.local import GPU, LocalLauncher, find_gpus, fitting
from tests.short_runs import ROOT
from tests.sweeps.whole_sweeps import TOY_FILE, hold_back, wait_until, write_record


def updates(folder) -> list[int]:
    return [int(line.partition(",")[0]) for line in (folder / "evaluations.csv").read_text().splitlines()[1:]]


def begin(sweeper, *argv) -> subprocess.Popen:
    """As `sweeper`, in a process of its own, without the names of activations, which importing torch would cost."""
    script = "; ".join(
        (
            "import sys; from scripts import sweep; sweep.commands.check_settings = lambda cells: None",
            "from rlrat.sweeps import conductor; conductor._POLL_SECONDS, conductor._LOOK_SECONDS = 0.02, 0.2",
            "sys.exit(sweep.main(sys.argv[1:]))",
        )
    )
    command = [sys.executable, "-c", script, "--agents", TOY_FILE, "--run-dir", sweeper.run_dir]
    return subprocess.Popen(
        [*map(str, command), *map(str, argv)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_what_is_missing_is_done_once(sweeper):
    arguments = ("--activations", "relu", "tanh", "--seeds", 3, "--seeds-per-process", 2)
    assert sweeper(*arguments) == 0
    assert "2 cells in 4 processes" in sweeper.said
    assert sweeper.said.count(": finished") == 4
    for run in ("relu", "tanh"):
        for seed in range(3):
            assert updates(sweeper.folder(run, seed)) == [1, 2, 3]
    assert "rlrat-hopper-mixed-v0  toy    tanh  3/3    3.0 ± 0.0" in sweeper.said
    assert f"python scripts/compare.py {sweeper.run_dir}" in sweeper.said
    assert not any((sweeper.run_dir / ".sweep" / "permits").iterdir())
    assert not SweepFolder(sweeper.run_dir).locked()

    (sweeper.folder("tanh", 2) / "summary.json").unlink()
    assert sweeper(*arguments) == 0
    assert sweeper.said.count(": finished") == 1
    assert sweeper.command("status") == 0
    assert "2 cells, 6 runs: 6 finished" in sweeper.said


def test_a_crash_is_tried_again_from_its_checkpoint(sweeper):
    assert sweeper("--grid.trouble", "first") == 0
    assert "exit code 1; attempt 2 of 3 goes on from its checkpoint" in sweeper.said
    assert updates(sweeper.folder("relu+trouble=first")) == [1, 2, 3]


@pytest.mark.parametrize(
    ("trouble", "attempts", "reason", "line"),
    [
        ("crash", 2, "exit code 1", "RuntimeError: the last line of its log"),
        ("killed", 2, "killed by SIGKILL", "update 2"),
        ("mistake", 1, "exit code 2", "error: this cannot be: mend it"),
    ],
)
def test_a_process_that_fails_for_good_is_reported_and_the_others_go_on(sweeper, trouble, attempts, reason, line):
    assert sweeper("--grid.trouble", "none", trouble, "--retries", 1, "--workers", 1) == 1
    assert updates(sweeper.folder()) == [1, 2, 3]
    label = f"toy relu+trouble={trouble} seed0"
    assert f"{label}: FAILED: {reason}" in sweeper.said
    assert line in sweeper.said
    log = SweepFolder(sweeper.run_dir).path / "jobs"
    assert sum(file.read_text().count("-- ") for file in log.glob("*/log.txt")) == 1 + attempts
    assert sweeper.command("status") == 0
    assert "2 runs: 1 finished, 1 failed" in sweeper.said
    assert f"failed: rlrat-hopper-mixed-v0 {label}: {reason}" in sweeper.said


def test_what_a_file_system_says_in_passing_is_tried_again(sweeper):
    assert sweeper("--grid.trouble", "passing") == 0
    assert "exit code 1; attempt 2 of 3 goes on from its checkpoint" in sweeper.said


def test_retry_that_is_stopped_leaves_the_next_grid(sweeper, monkeypatch):
    for trouble in ("crash", "killed"):
        assert sweeper("--grid.trouble", trouble, "--retries", 0) == 1
    begun = []
    monkeypatch.setattr(commands, "sweep", lambda *_, only: begun.append(only) or 130)
    assert sweeper.command("retry", "--agents", TOY_FILE) == 130
    assert len(begun) == 1


def test_retry_does_what_failed(sweeper):
    assert sweeper("--grid.trouble", "first", "--retries", 0) == 1
    assert sweeper.command("retry", "--agents", TOY_FILE) == 0
    assert "in 1 processes" in sweeper.said
    assert sweeper.command("retry", "--agents", TOY_FILE) == 0
    assert "nothing has failed" in sweeper.said


def test_progress_makes_a_failure_count_anew(sweeper, tmp_path):
    """A process that is killed at each update, and so fails more often than it may without having moved."""
    agent = tmp_path / "toy.py"
    agent.write_text(
        TOY_FILE.read_text().replace("        for folder in folders:\n            with", KILLS + "            with")
    )
    assert sweeper("--grid.total-updates", 4, "--retries", 1, agents=[agent]) == 0
    assert sweeper.said.count("killed by SIGKILL") == 3


KILLS = """        if update > min(states) + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        for folder in folders:
"""


def test_a_run_that_diverges_is_finished_and_counted(sweeper):
    assert sweeper("--grid.trouble", "diverge", "--seeds", 2) == 0
    assert "seed0-1: finished, seed0 diverged" in sweeper.said
    assert "1/2    3.0 ± 0.0  3.0 ± 0.0  1" in sweeper.said
    sweeper.command("status")
    assert "2 runs: 1 finished, 1 diverged" in sweeper.said
    assert "seed0 at update 2" in sweeper.said


def test_a_run_of_which_no_evaluation_worked_has_failed(sweeper):
    assert sweeper("--grid.trouble", "unscored", "--retries", 1) == 1
    label, folder = "rlrat-hopper-mixed-v0 toy relu+trouble=unscored seed0", sweeper.folder("relu+trouble=unscored")
    why = "exit code 1: no evaluation of what it trained worked"
    assert f"{label}: {why}; attempt 2 of 2 goes on" in sweeper.said
    assert f"{label}: FAILED: {why}" in sweeper.said
    assert "toy    relu+trouble=unscored  0/1" in sweeper.said
    assert sweeper.command("status") == 0
    assert "1 runs: 1 failed" in sweeper.said
    assert f"failed: {label}: {why}" in sweeper.said
    (record,) = (sweeper.run_dir / ".sweep" / "jobs").glob("*/failed.json")
    record.unlink()  # as of a run that was begun by hand
    sweeper.command("status")
    assert "1 runs: 1 failed" in sweeper.said
    assert f"failed: {folder}: no evaluation of what it trained worked" in sweeper.said
    (folder / "summary.json").write_text('["finished"]')
    sweeper.command("status")
    assert "1 runs: 1 unfinished" in sweeper.said
    assert sweeper("--grid.trouble", "unscored", "--retries", 0) == 1
    assert sweeper.command("retry", "--agents", TOY_FILE) == 1
    log = record.with_name("log.txt").read_text()
    assert log.count("-- ") == 2 + 1 + 1  # retry has the options of the newest sweep


def test_a_full_disk_pauses_the_sweep_until_there_is_room(sweeper, monkeypatch):
    sweeper.run_dir.mkdir()
    (sweeper.run_dir / "full").touch()

    def has_room(self, job) -> bool:
        looks.append(job)
        if len(looks) == 3:
            (sweeper.run_dir / "full").unlink()
        return len(looks) >= 3

    looks = []
    monkeypatch.setattr(SweepFolder, "has_room", has_room)
    assert sweeper("--grid.trouble", "full", "--retries", 0) == 0
    assert "is full: paused until there is room" in sweeper.said
    assert "there is room again" in sweeper.said
    assert len(looks) == 3
    assert updates(sweeper.folder("relu+trouble=full")) == [1, 2, 3]


def test_two_sweeps_on_one_folder_share_the_work(sweeper):
    arguments = ("--activations", "relu", "tanh", "gelu", "--grid.hold", 2, "--workers", 1)
    hold = hold_back(sweeper.run_dir)
    folder, sweeps = SweepFolder(sweeper.run_dir), []
    for number in (1, 2):
        sweeps.append(begin(sweeper, *arguments))
        wait_until(lambda number=number: len(folder.locked()) == number)
    hold.unlink()
    said = [process.communicate()[0] for process in sweeps]
    assert [process.returncode for process in sweeps] == [0, 0], said
    for run in ("relu", "tanh", "gelu"):
        assert updates(sweeper.folder(f"{run}+hold=2")) == [1, 2, 3]
    assert "is at it" in said[1]
    logs = [file.read_text() for file in (sweeper.run_dir / ".sweep" / "jobs").glob("*/log.txt")]
    assert sum("update 3" in log for log in logs) == sum(log.count("update 3") for log in logs) == 3


def test_a_killed_sweep_takes_its_workers_along_and_the_next_goes_on(sweeper):
    arguments = ("--grid.hold", 3, "--grid.total-updates", 4, "--seeds", 2, "--seeds-per-process", 1, "--workers", 2)
    hold = hold_back(sweeper.run_dir)
    first = begin(sweeper, *arguments)
    folders = [sweeper.folder("relu+hold=3", seed) for seed in range(2)]
    wait_until(lambda: all((folder / "checkpoint.pt").exists() for folder in folders))
    first.kill()
    first.communicate()
    folder, watch = SweepFolder(sweeper.run_dir), Watch()
    wait_until(lambda: not any(watch.holder(folder.lock(path)) for path in folders))
    assert not any((path / "summary.json").exists() for path in folders)
    sweeper.command("status")
    assert "2 runs: 2 unfinished" in sweeper.said
    assert "a sweep is under way" not in sweeper.said
    hold.unlink()
    assert sweeper(*arguments) == 0
    assert [updates(folder) for folder in folders] == [[1, 2, 3, 4]] * 2


@pytest.mark.parametrize("how", ["stop", "SIGINT"])
def test_a_sweep_is_stopped_with_its_checkpoints_kept(sweeper, how):
    hold_back(sweeper.run_dir)
    process = begin(sweeper, "--grid.hold", 3)
    folder = sweeper.folder("relu+hold=3")
    wait_until((folder / "checkpoint.pt").exists)
    sweeper.command("status")
    assert "1 runs: 1 running" in sweeper.said
    assert "a sweep is under way: process" in sweeper.said
    if how == "stop":
        assert sweeper.command("stop") == 0
        assert "stopped" in sweeper.said
    else:
        process.send_signal(signal.SIGINT)
    said = process.communicate()[0]
    assert process.returncode == 130
    assert "stopping: each process saves a checkpoint first" in said
    assert "stopped; the same command goes on from here" in said
    assert not SweepFolder(sweeper.run_dir).locked()
    assert "FAILED" not in said


def test_the_plan_is_printed_with_an_estimate_and_nothing_is_trained(sweeper):
    assert sweeper("--dry-run", "--seeds", 3, "--seeds-per-process", 2, "--activations", "relu", "tanh") == 0
    assert "2 cells, 6 runs in 4 processes; 0 are finished" in sweeper.said
    assert "rlrat-hopper-mixed-v0 toy tanh  0-1 2  2" in sweeper.said
    assert "toy: 10 updates/s, " in sweeper.said
    assert "processes at a time, and up to" in sweeper.said
    assert "assumed: " in sweeper.said
    assert os.listdir(sweeper.run_dir) == [".sweep"]


def test_a_probe_that_fails_says_what_the_agent_said(sweeper):
    with pytest.raises(InputError, match=r"the probe of .* ended with exit code 2 and said: error: this cannot be"):
        sweeper("--dry-run", "--grid.trouble", "mistake")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("--seeds", 0), "--seeds is 0"),
        (("--first-seed", -1), "--first-seed is -1"),
        (("--seeds-per-process", 0), "--seeds-per-process is 0"),
        (("--threads", 0), "--threads is 0"),
        (("--workers", 0), "--workers is 0"),
        (("--retries", -1), "--retries is -1"),
        (("--ray.gpus", -1), "--ray.gpus is -1.0, but must be finite and at least 0"),
        (("--slurm.minutes", 0), "--slurm.minutes is 0, but must be at least 1"),
        (("--grid.size",), "--grid.size has no value"),
        (("--grid.size", 2), "toy: --size is 2.0, but must be at least 0 and at most 1"),
        (("--datasets", "hopper-medum-v2"), "unknown dataset 'hopper-medum-v2'; the nearest known: hopper-medium"),
        (("--preset", "smoke", "--file", "x.toml"), "give --preset or --file, not both"),
        (("--device", "gpu"), "--device gpu cannot be used"),
        (("--device", "cuda:1"), "--device is cuda:1, but a process knows the GPU that it is given as cuda"),
        (("--grid.total_updates", 2, "--grid.total-updates", 3), "--grid.total-updates is given twice"),
    ],
)
def test_mistakes_are_one_line_before_anything_is_written(sweeper, argv, message):
    with pytest.raises(InputError, match=message):
        sweeper(*argv)
    assert not sweeper.run_dir.exists()


@pytest.mark.parametrize("command", ["status", "stop", "retry"])
def test_a_folder_without_a_sweep_is_one_line(sweeper, command):
    with pytest.raises(InputError, match="no sweep has begun in"):
        sweeper.command(command)


def test_a_damaged_record_of_a_sweep_is_one_line(sweeper):
    (sweeper.run_dir / ".sweep" / "grids").mkdir(parents=True)
    (sweeper.run_dir / ".sweep" / "grids" / "a.json").write_text("{}")
    with pytest.raises(InputError, match=r"a.json cannot be used \(its grid is of another type\)"):
        sweeper.command("status")


# Where workers run.


def test_gpus_are_found_and_filled_by_memory(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho '0, GPU-aa, 80000'\necho '1, GPU-bb, 24000'\necho '2, GPU-cc, [N/A]'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert find_gpus() == [GPU("GPU-aa", 80000 * 2**20), GPU("GPU-bb", 24000 * 2**20)]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-aa,7")
    assert find_gpus() == [GPU("1", 24000 * 2**20), GPU("GPU-aa", 80000 * 2**20)]
    gpu = find_gpus()[0]
    assert fitting(gpu, 400 * 2**20) == 21
    assert fitting(gpu, 2**60) == 1
    two = [GPU("0", 0), GPU("1", 0)]
    monkeypatch.setattr(local, "usable_cores", lambda: 5)
    assert LocalLauncher(None, 1, two, per_gpu=2).room() == 4
    assert "2 GPUs" in LocalLauncher(None, 1, two, per_gpu=2).describe()
    assert LocalLauncher(None, 1, two, per_gpu=50).room() == 5  # each process needs a CPU, too
    assert LocalLauncher(None, 8, two, per_gpu=50).room() == 2
    assert LocalLauncher(7, 1, two).room() == 7
    assert LocalLauncher(None, 2, []).room() == 2


@pytest.mark.parametrize(("gpu_memory", "room"), [(2**30, 4), (None, 8)])
def test_a_probe_decides_how_many_processes_share_a_gpu(sweeper, monkeypatch, gpu_memory, room):
    monkeypatch.setattr(local, "usable_cores", lambda: 8)
    monkeypatch.setattr(commands, "find_gpus", lambda: [GPU("0", 4 * 2**30), GPU("1", 5 * 2**30)])
    found = Probe("", 1.0, 1.0, 1.0, memory=0, gpu_memory=gpu_memory)
    monkeypatch.setattr(commands, "probe", lambda *_: {"toy": found})
    assert sweeper("--dry-run") == 0
    assert f"{room} processes at a time" in sweeper.said


# What is read in folders.


def test_the_newest_evaluation_is_read_from_the_end_of_a_long_file(tmp_path):
    header = (
        "update,train_seconds,wall_seconds,target_return,episodes,return_mean,return_std,length_mean,normalized_score\n"
    )
    lines = [
        f"{n},{n / 10},{n / 5},{target},2,{n}.5,0,9,{score}\n"
        for n in range(3000)
        for target, score in ((2, 7), (1, 3))
    ]
    (tmp_path / "evaluations.csv").write_text(header + "".join(lines) + "3000,1")
    progress = read_progress(tmp_path)
    assert (progress.update, progress.return_mean, progress.score) == (2999, 2999.5, 7)
    for text in (None, "", header, header + "1,2\n", "what\nis this\n"):
        (tmp_path / "evaluations.csv").unlink(missing_ok=True)
        if text is not None:
            (tmp_path / "evaluations.csv").write_text(text)
        assert read_progress(tmp_path) is None


def test_room_is_tried_for_not_believed(tmp_path, monkeypatch):
    (cell,) = expand(Grid((Block((str(TOY_FILE),)),)), TOY_FILE.parent, tmp_path)
    (job,) = make_jobs([cell], None)
    folder = SweepFolder(tmp_path)
    assert folder.has_room(job)
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    assert not folder.has_room(job)
    assert os.listdir(folder.path) == []


def test_an_agent_without_a_main_block_is_one(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("from rlrat.runs.arguments import RunArguments\nclass Arguments(RunArguments):\n    pass\n")
    assert load_agent(str(file), tmp_path).name == "mine"


def test_a_plan_for_data_that_is_not_here_is_probed_on_the_packaged_one(sweeper, tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    assert sweeper("--dry-run", "--datasets", "hopper-medium-v2", "--grid.env-id", "Hopper-v4") == 0
    assert "to be downloaded: hopper-medium-v2" in sweeper.said
    assert "(probed: rlrat-hopper-mixed-v0 toy relu seed0)" in sweeper.said


def test_a_sweep_of_another_version_is_one_line(sweeper):
    assert sweeper() == 0
    (file,) = (sweeper.run_dir / ".sweep" / "grids").iterdir()
    content = json.loads(file.read_text())
    content["options"]["of_tomorrow"] = 1
    write_record(file, content)
    (sweeper.folder() / "summary.json").write_text('{"status": "failed"}')
    assert sweeper.command("status") == 0
    with pytest.raises(InputError, match=r"is of another version of rlrat .*of_tomorrow"):
        sweeper.command("retry", "--agents", TOY_FILE)


@pytest.mark.slow
def test_a_disk_that_is_really_full_pauses_the_sweep(sweeper, tmp_path):
    sweeper.run_dir = tmp_path / "disk" / "runs"
    sweeper.run_dir.parent.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4M", "tmpfs", str(sweeper.run_dir.parent)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("needs the right to mount a tmpfs of 4 MB")
    try:
        hold = hold_back(sweeper.run_dir)
        process = begin(sweeper, "--grid.hold", 3, "--grid.total-updates", 20, "--retries", 0)
        wait_until((sweeper.folder("relu+hold=3") / "checkpoint.pt").exists)
        filler = sweeper.run_dir.parent / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
        hold.unlink()
        said = line = process.stdout.readline()
        while line and "is full: paused until there is room" not in line:
            line = process.stdout.readline()
            said += line
        filler.unlink()
        said += process.communicate()[0]
    finally:
        subprocess.run(["umount", "-l", str(sweeper.run_dir.parent)], check=True)
    assert process.returncode == 0
    assert "is full: paused until there is room" in said
    assert "there is room again: going on" in said
    assert "seed0: finished" in said
