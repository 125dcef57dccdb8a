"""How a run ends: its final value, no evaluation at all, another process that was quicker, nothing left to do."""

import json

import pytest
import torch

from rlrat.evaluation.evaluator import Evaluator
from rlrat.runs.folder import RunFolder
from rlrat.runs.group import Group
from rlrat.runs.run import Run
from rlrat.sweeps.folder import seed_status
from tests.short_runs import assert_equal_runs, read_run


def _folder(tmp_path, seed=0):
    (folder,) = tmp_path.glob(f"runs/*/*/*/seed{seed}")
    return folder


def _summary(tmp_path, seed=0):
    return json.loads((_folder(tmp_path, seed) / "summary.json").read_text())


@pytest.mark.parametrize(("every", "count"), [(40, 1), (20, 2), (5, 5)])
def test_the_final_value_is_of_trained_policies_alone(run_agent, tmp_path, every, count):
    result = run_agent("--eval-every", every)
    rows, summary = RunFolder(_folder(tmp_path)).evaluations(), _summary(tmp_path)
    assert rows[0]["update"] == "0"
    returns, scores = ([float(row[name]) for row in rows[1:]] for name in ("return_mean", "normalized_score"))
    assert summary["final_evaluations"] == count
    assert summary["final_return"] == pytest.approx(sum(returns[-count:]) / count)
    assert summary["final_score"] == pytest.approx(sum(scores[-count:]) / count)
    assert summary["best_score"] == max(scores)
    over = "its only evaluation of a trained policy" if count == 1 else f"the mean of its last {count} evaluations"
    values = f"final return {summary['final_return']:.1f}, score {summary['final_score']:.1f}"
    assert result.stdout.endswith(f"seed0 is finished: {values}, {over}\n")


def test_a_run_without_an_evaluation_failed_and_its_command_tries_again(run_agent, tmp_path, monkeypatch):
    def broken(*_):
        raise OSError("the simulator is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Evaluator, "run", broken)
        result = run_agent("--num-seeds", 2, check=False)
        assert result.returncode == 1
        (line,) = [line for line in result.stderr.splitlines() if not line.startswith("warning: ")]
        said = "seed 0 and 1 more have no evaluation of a trained policy (OSError: the simulator is gone)"
        assert line.startswith(f"error: {said}: the same command")
        summary = _summary(tmp_path)
        assert (summary["status"], summary["reason"]) == ("failed", "OSError: the simulator is gone")
        assert summary["final_return"] is summary["best_score"] is None
        assert summary["failed_evaluations"] == [0, 20, 40]
        assert seed_status(_folder(tmp_path)) == "failed"
        again = run_agent("--num-seeds", 2, check=False)
        assert again.returncode == 1
        assert "the evaluations at updates 0, 20 and 40 failed and are tried again" in again.stderr
        assert run_agent("--num-seeds", 2, "--no-resume", check=False).returncode == 2
    run_agent("--num-seeds", 2)
    for seed in (0, 1):
        summary = _summary(tmp_path, seed)
        assert summary["status"] == "finished"
        assert summary["failed_evaluations"] in ([0], [])  # none if it was pending in the checkpoint of update 20
        assert summary["missing_evaluations"] == []
        made = [update for update in (0, 20, 40) if update not in summary["failed_evaluations"]]
        assert [int(row["update"]) for row in RunFolder(_folder(tmp_path, seed)).evaluations()] == made
    assert run_agent("--num-seeds", 2).stdout.count("nothing to do") == 2


def _meanwhile(monkeypatch, what) -> None:
    """Do something between the first look at the folders and their locks."""
    plain = Run.build

    def build(self, learner):
        with monkeypatch.context() as patch:
            patch.undo()
        what()
        return plain(self, learner)

    monkeypatch.setattr(Run, "build", build)


def test_a_run_that_another_process_began_with_other_settings_is_left_alone(run_agent, tmp_path, monkeypatch):
    run_agent("--run-name", "mine", "--discount", 0.9)
    folder = _folder(tmp_path)
    (folder / "summary.json").unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    away = tmp_path / "away"
    folder.rename(away)
    _meanwhile(monkeypatch, lambda: away.rename(folder))
    result = run_agent("--run-name", "mine", check=False)
    assert result.returncode == 2
    assert "discount is 0.9 there and 0.99 here" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_run_that_another_process_finished_is_left_alone_and_the_rest_is_trained(run_agent, tmp_path, monkeypatch):
    run_agent("--num-seeds", 2)
    expected = [read_run(_folder(tmp_path, seed)) for seed in (0, 1)]
    first, second = (_folder(tmp_path, seed) for seed in (0, 1))
    before = {path.name: path.read_bytes() for path in first.iterdir()}
    for kept in (second, None):
        away = tmp_path / f"away{kept is None}"
        first.rename(away)
        if kept is not None:
            (kept / "summary.json").unlink()
            (kept / "checkpoint.pt").unlink()  # it goes on from the one before
        with monkeypatch.context() as patch:
            _meanwhile(patch, lambda away=away: away.rename(first))
            result = run_agent("--num-seeds", 2)
        assert f"{first} is finished: nothing to do" in result.stdout
        assert "diverged" not in result.stderr
        assert {path.name: path.read_bytes() for path in first.iterdir()} == before
        if kept is not None:
            assert "going on from update 20" in result.stdout
        assert_equal_runs(read_run(second), expected[1])
    assert "going on" not in result.stdout


def test_a_checkpoint_beyond_the_end_is_one_line(run_agent, tmp_path):
    run_agent()
    folder = _folder(tmp_path)
    (folder / "summary.json").unlink()
    for path in (folder / "checkpoint.pt", folder / "checkpoint.previous.pt"):
        checkpoint = torch.load(path, weights_only=True)
        torch.save(checkpoint | {"update": checkpoint["update"] + 50}, path)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = run_agent(check=False)
    assert result.returncode == 2
    assert "is at update 90, beyond the 40 of --total-updates" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_checkpoint_of_nobody_knows_which_settings_is_one_line(run_agent, tmp_path):
    run_agent()
    folder = _folder(tmp_path)
    for name in ("config.json", "summary.json"):
        (folder / name).unlink()
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    result = run_agent("--eval-episodes", 3, check=False)
    assert result.returncode == 2
    assert "has a checkpoint and no config.json" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    run_agent("--overwrite")


def test_a_lock_that_is_lost_ends_the_training_in_one_line(run_agent, tmp_path, monkeypatch):
    plain = Group.save

    def save(self, *arguments):
        if (folder := self.folders[0].path).joinpath("checkpoint.pt").exists():
            folder.with_name(".seed0.lock").unlink(missing_ok=True)
        plain(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Group, "save", save)
        result = run_agent(check=False)
    assert result.returncode == 2
    assert "the lock file of" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert torch.load(_folder(tmp_path) / "checkpoint.pt", weights_only=True)["update"] == 20
    assert "going on from update 20" in run_agent().stdout


def test_leftovers_of_killed_processes_are_removed(run_agent, tmp_path):
    run_agent()
    folder = _folder(tmp_path)
    (folder / "summary.json").unlink()
    for name in ("checkpoint.pt.tmp", "evaluations.csv.123.4567abcd.tmp"):
        (folder / name).write_text("half")
    run_agent()
    assert not list(folder.glob("*.tmp"))
