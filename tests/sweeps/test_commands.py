import os

import pytest

from rlrat.errors import InputError
from rlrat.sweeps import commands
from tests.sweeps.whole_sweeps import TOY_FILE


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


def test_the_plan_is_printed_with_an_estimate_and_nothing_is_trained(sweeper):
    assert sweeper("--dry-run", "--seeds", 3, "--seeds-per-process", 2, "--activations", "relu", "tanh") == 0
    assert "2 cells, 6 runs in 4 processes; 0 are finished" in sweeper.said
    assert "rlrat-hopper-mixed-v0 toy tanh  0-1 2  2" in sweeper.said
    assert "toy: 10 updates/s, " in sweeper.said
    assert "processes at a time, and up to" in sweeper.said
    assert "assumed: " in sweeper.said
    assert os.listdir(sweeper.run_dir) == [".sweep"]


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
