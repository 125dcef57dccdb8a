"""Runs that are stopped, killed, damaged, or that diverge."""

import json
import os
import resource
import signal
import sys
import threading
import time

import numpy as np
import pytest
import torch

from agents.iql import IQL
from rlrat.errors import InputError
from rlrat.evaluation.background import MOST_PENDING_SNAPSHOTS, BackgroundEvaluator
from rlrat.evaluation.evaluator import Evaluator
from rlrat.runs.folder import RunFolder
from tests.forked import Forked
from tests.short_runs import ROOT, SHORT, assert_equal_runs, read_run, wait_for


def _run_folder(tmp_path, seed=0):
    (folder,) = tmp_path.glob(f"runs/*/*/*/seed{seed}")
    return folder


LONG = ("--num-seeds", "2", "--total-updates", "600", "--eval-every", "100", "--checkpoint-every", "100",
        "--activation", "rational", "--run-name", "kill")  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The two seeds of a run that nobody stopped."""
    folder = tmp_path_factory.mktemp("undisturbed")
    command = [sys.executable, str(ROOT / "agents/iql.py"), *SHORT, *LONG, "--run-dir", str(folder / "runs")]
    assert Forked(command, folder).wait().returncode == 0
    return [read_run(_run_folder(folder, seed)) for seed in (0, 1)]


def test_a_run_killed_three_times_equals_an_undisturbed_one(start_agent, run_agent, tmp_path, undisturbed, scalars):
    evaluations = tmp_path / "runs/rlrat-hopper-mixed-v0/iql/rational+kill/seed1/evaluations.csv"
    for update in (0, 300, 400):  # the first time before there is a checkpoint
        process = start_agent(*LONG)
        assert wait_for(evaluations, f"\n{update},", process), "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
    run_agent(*LONG)
    for seed in (0, 1):
        assert_equal_runs(read_run(_run_folder(tmp_path, seed)), undisturbed[seed])
        scalars(_run_folder(tmp_path, seed))  # which asserts that no update is there twice


def test_a_run_that_another_process_trains_is_left_alone(run_agent, tmp_path):
    run_agent()
    folder = RunFolder(next((tmp_path / "runs").rglob("seed0")))
    before = read_run(folder.path)
    with folder.locked():
        result = run_agent("--overwrite", check=False)
    assert result.returncode == 2
    assert "is being trained by another process" in result.stderr
    assert_equal_runs(read_run(folder.path), before)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_stops_cleanly_and_the_same_command_goes_on(start_agent, run_agent, tmp_path, undisturbed, number):
    process = start_agent(*LONG)
    evaluations = tmp_path / "runs/rlrat-hopper-mixed-v0/iql/rational+kill/seed1/evaluations.csv"
    assert wait_for(evaluations, "\n200,", process)
    process.send_signal(number)
    stopped = process.wait()
    assert stopped.returncode == 128 + number, stopped.stderr
    assert "stopped at update" in stopped.stdout
    assert "the same command goes on from there" in stopped.stdout
    assert "going on from update" in run_agent(*LONG).stdout
    for seed in (0, 1):
        assert_equal_runs(read_run(_run_folder(tmp_path, seed)), undisturbed[seed])


def test_evaluations_that_a_signal_leaves_pending_are_made_up_for(run_agent, tmp_path, monkeypatch):
    """Training is over long before the environments are, at the second of three evaluations."""
    plain, calls, update, updates = Evaluator.run, [], IQL.update, []

    def count(self, *inputs):
        updates.append(None)
        return update(self, *inputs)

    def run(self, policy):
        calls.append(self)
        if len(calls) == 1:
            return plain(self, policy)
        while len(updates) < 40:
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGTERM)
        while True:  # until the policy is told that nobody waits any more
            policy(np.zeros((2, 2, 11)))

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "run", run)
        patch.setattr(IQL, "update", count)
        stopped = run_agent("--num-seeds", 2, check=False)
    assert (stopped.returncode, len(calls)) == (128 + signal.SIGTERM, 2)
    assert "stopped at update 40" in stopped.stdout
    assert [len(RunFolder(_run_folder(tmp_path, seed)).evaluations()) for seed in (0, 1)] == [1, 1]
    again = run_agent("--num-seeds", 2)
    assert "going on from update 40" in again.stdout
    found = [read_run(_run_folder(tmp_path, seed)) for seed in (0, 1)]
    run_agent("--num-seeds", 2, "--overwrite")
    for seed in (0, 1):
        assert [row["update"] for row in found[seed]["rows"]] == ["0", "20", "40"]
        assert_equal_runs(found[seed], read_run(_run_folder(tmp_path, seed)))


def _lose_the_simulator(patch):
    """At the second evaluation of a run, and when it is tried again."""
    plain, calls = Evaluator.run, []

    def run(self, policy):
        calls.append(self)
        if len(calls) in (2, 3):
            raise OSError("the simulator is gone")
        return plain(self, policy)

    patch.setattr(Evaluator, "run", run)


def test_an_evaluation_that_fails_twice_is_recorded_and_training_goes_on(run_agent, tmp_path, monkeypatch):
    _lose_the_simulator(monkeypatch)
    result = run_agent()
    assert "the evaluation at update 20 failed (OSError: the simulator is gone) again: it is left out" in result.stderr
    folder = RunFolder(_run_folder(tmp_path))
    assert [row["update"] for row in folder.evaluations()] == ["0", "40"]
    assert folder.summary()["failed_evaluations"] == [20]
    assert folder.summary()["status"] == "finished"


def test_members_of_other_groups_keep_what_was_their_own(run_agent, tmp_path, monkeypatch):
    """One had an evaluation that failed, one diverged in an evaluation, one had neither."""
    with monkeypatch.context() as patch:
        _lose_the_simulator(patch)
        run_agent("--seed", 0)
    run_agent("--seed", 1)
    folders = [RunFolder(_run_folder(tmp_path, seed)) for seed in (0, 1)]
    before = [folder.evaluations() for folder in folders]
    for folder in folders:
        (folder.path / "summary.json").unlink()
        checkpoint = torch.load(folder.path / "checkpoint.pt", weights_only=True)
        checkpoint["guard_names"] = checkpoint["guard_names"][::-1]  # another version's
        if folder is folders[1]:
            checkpoint["state"]["guard.alive"].fill_(False)
            checkpoint["state"]["guard.first_update"].fill_(40)
            checkpoint["state"]["guard.first_tensor"].fill_(len(checkpoint["guard_names"]) - 1)
        torch.save(checkpoint, folder.path / "checkpoint.pt")
    run_agent("--num-seeds", 2)
    assert [folder.evaluations() for folder in folders] == before
    assert [folder.summary()["failed_evaluations"] for folder in folders] == [[20], []]
    assert [folder.summary()["status"] for folder in folders] == ["finished", "diverged"]
    assert folders[1].summary()["diverged_tensor"] == "return of an evaluation"


def test_training_waits_only_where_more_than_two_evaluations_do(run_agent, monkeypatch):
    enough, pending = threading.Event(), []
    submit, run = BackgroundEvaluator.submit, Evaluator.run

    def counting(self, snapshot):
        submit(self, snapshot)
        pending.append(len(self.pending))
        if len(pending) == MOST_PENDING_SNAPSHOTS + 1:
            enough.set()

    def late(self, policy):
        assert enough.wait(60), "training waited for the first evaluation"
        return run(self, policy)

    monkeypatch.setattr(BackgroundEvaluator, "submit", counting)
    monkeypatch.setattr(Evaluator, "run", late)
    result = run_agent("--eval-every", 5)
    assert "failed" not in result.stderr
    assert (len(pending), max(pending)) == (9, MOST_PENDING_SNAPSHOTS + 1)


def test_many_members_are_measured_before_anything_is_written(run_agent, tmp_path, monkeypatch):
    many = ("--num-seeds", 4, "--expectile", 0.6, 0.7, 0.8, 0.9, "--total-updates", 2, "--eval-episodes", 1)
    monkeypatch.setattr("rlrat.runs.estimates.available_memory", lambda _: 1)
    result = run_agent(*many, check=False)
    assert result.returncode == 2
    assert "16 members side by side need" in result.stderr
    assert "are free: not even one fits" in result.stderr
    assert not (tmp_path / "runs").exists()
    monkeypatch.undo()
    assert "16 members side by side: about" in run_agent(*many).stdout


def test_many_members_are_measured_as_they_will_run(run_agent, monkeypatch):
    asked = []

    def estimate(build, num_members, device, capture):
        asked.append((num_members, device.type, capture))
        raise InputError("enough")

    monkeypatch.setattr("rlrat.runs.run.estimate_resources", estimate)
    for option in ("--capture", "--no-capture"):
        run_agent("--num-seeds", 16, option, check=False)
    assert asked == [(16, "cpu", True), (16, "cpu", False)]


def test_gated_says_how_large_the_networks_are(run_agent):
    output = run_agent("--gated", "--total-updates", 1, "--eval-every", 1).stdout
    assert "gated: q: hidden widths 10 10 instead of 16 16, 531 weights instead of 529 (+0.4%)" in output
    assert "gated: policy.mean: hidden widths" in output
    assert "q_target" not in output


def test_settings_that_the_agent_refuses_leave_what_was_there(run_agent, tmp_path):
    run_agent("--activation", "rational", "--run-name", "mine")
    before = read_run(_run_folder(tmp_path))
    wrong = ("--activation", "rational", "--run-name", "mine", "--overwrite", "--rational.groups", 3)
    result = run_agent(*wrong, check=False)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert_equal_runs(read_run(_run_folder(tmp_path)), before)


def test_a_disk_that_refuses_tensorboards_file_is_one_line(run_agent):
    limit = 20_000  # bytes a file may have: less than the scalars, more than anything before them
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        every = ("--checkpoint-every", 2000, "--eval-every", 2000)
        result = run_agent("--log-every", 1, "--total-updates", 2000, *every, check=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert result.returncode == 2, result.stderr
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: cannot write")


def test_a_stop_says_which_command_goes_on(start_agent, tmp_path):
    process = start_agent(*LONG, "--overwrite")
    evaluations = tmp_path / "runs/rlrat-hopper-mixed-v0/iql/rational+kill/seed1/evaluations.csv"
    assert wait_for(evaluations, "\n100,", process)
    process.send_signal(signal.SIGINT)
    assert "the same command without --overwrite goes on from there" in process.wait().stdout


def test_a_last_step_that_spoils_the_policy_is_a_divergence(run_agent, tmp_path):
    result = run_agent("--learning-rate", 1e30, "--total-updates", 1)
    summary = json.loads((_run_folder(tmp_path) / "summary.json").read_text())
    assert summary["status"] == "diverged"
    assert summary["diverged_at"] == 1
    assert f"{summary['diverged_tensor']} is not finite at update 1" in result.stderr
    assert summary["diverged_tensor"] == "return of an evaluation"
    assert [row["update"] for row in read_run(_run_folder(tmp_path))["rows"]] == ["0"]


def test_a_diverging_seed_is_frozen_named_and_the_others_go_on(train_poisoned, tmp_path, capsys):
    train_poisoned(eval_every=10)
    assert "seed 1 diverged: q loss is not finite at update 13; it is frozen" in capsys.readouterr().err
    healthy, frozen = (read_run(tmp_path / "test-hopper-v0/iql/relu+x" / f"seed{s}") for s in (0, 1))
    assert healthy["status"] == "finished"
    assert [row["update"] for row in healthy["rows"]] == ["0", "10", "20", "30", "40"]
    assert [row["update"] for row in frozen["rows"]] == ["0", "10"]
    summary = json.loads((tmp_path / "test-hopper-v0/iql/relu+x/seed1/summary.json").read_text())
    assert summary["status"] == "diverged"
    assert (summary["diverged_at"], summary["diverged_tensor"]) == (13, "q loss")
    assert summary["final_score"] is None
    assert all(torch.isfinite(value).all() for value in frozen["state"].values() if value.is_floating_point())


def test_a_run_whose_every_seed_diverges_ends_early(run_agent, tmp_path):
    arguments = ("--learning-rate", "1e30", "--total-updates", 10000)
    result = run_agent(*arguments)
    assert "diverged" in result.stderr
    assert read_run(_run_folder(tmp_path))["status"] == "diverged"
    assert "is diverged: nothing to do" in run_agent(*arguments).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "hoper-medium-v2"], "hopper-medium-v2"),
        (["--expectile", "0.7", "1.5"], "--expectile is 1.5"),
        (["--expectile", "0.7", "0.7"], "each once"),
        (["--expectile", "0.7", "0.9", "--run-name", "mine"], "--run-name"),
        (["--activation", "rellu"], "relu"),
        (["--critic-activation", "rational:softmax"], "elementwise"),
        (["--env-id", "Hoper-v5"], "Hopper-v5"),
        (["--env-id", "Walker2d-v5"], "shape"),
        (["--env-kwargs", "xml_file=missing.xml"], "missing.xml"),
        (["--device", "cuda:99"], "cuda:99"),
        (["--activation", "rational", "--rational.groups", "3"], "groups"),
        (["--run-dir", "/dev/null/runs"], "--run-dir"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_2(run_agent, arguments, message):
    result = run_agent(*arguments, check=False)
    assert result.returncode == 2
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("warning:")]
    assert line.startswith("error: ")
    assert message in line


def test_another_identity_in_the_folder_is_one_line_and_exit_code_2(run_agent, tmp_path):
    run_agent("--run-name", "mine")
    before = read_run(_run_folder(tmp_path))
    result = run_agent("--run-name", "mine", "--expectile", 0.9, check=False)
    assert result.returncode == 2
    assert "expectile is 0.7 there and 0.9 here" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert_equal_runs(read_run(_run_folder(tmp_path)), before)


def test_what_does_not_change_a_result_may_change(run_agent):
    run_agent("--run-name", "mine")
    assert "nothing to do" in run_agent("--run-name", "mine", "--log-every", 7, "--num-threads", 2).stdout


def test_without_reference_scores_returns_are_raw_and_that_is_said_once(run_agent, tmp_path):
    changed = ("--env-kwargs", "healthy_reward=0.5", "--total-updates", "20", "--num-seeds", "2")
    result = run_agent(*changed)
    assert result.stdout.count("no reference scores for Hopper-v5") == 1
    assert "score " not in result.stdout.replace("reference scores", "")
    folder = RunFolder(_run_folder(tmp_path, 1))
    assert {row["normalized_score"] for row in folder.evaluations()} == {""}
    summary = folder.summary()
    assert summary["reference"] is summary["final_score"] is summary["best_score"] is None
    assert summary["final_return"] is not None
