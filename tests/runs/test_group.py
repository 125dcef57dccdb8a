"""Members that are trained side by side: their folders, what they go on from, and the lines that they leave."""

import os

import numpy as np
import pytest
import torch

from agents.iql import Arguments
from rlrat.environments.recorded import of_data
from rlrat.evaluation.background import Snapshot
from rlrat.evaluation.evaluator import Evaluation
from rlrat.evaluation.scores import find_reference
from rlrat.runs.arguments import RunArguments, members
from rlrat.runs.checkpoints import load_checkpoint
from rlrat.runs.dashboards import LAYOUT
from rlrat.runs.folder import RunFolder
from rlrat.runs.group import Group, TrainingProgress
from tests.short_runs import assert_equal_runs, read_run

REFERENCE = find_reference("Hopper-v5")


def _run_folder(tmp_path, seed=0):
    (folder,) = tmp_path.glob(f"runs/*/*/*/seed{seed}")
    return folder


def test_settings_side_by_side_have_the_folders_that_each_has_alone(run_agent, tmp_path):
    both = ("--num-seeds", 2, "--expectile", 0.7, 0.9, "--learning-rate", 3e-4, 1e-3)
    run_agent(*both)
    cells = {path.parent.name: path for path in tmp_path.glob("runs/*/*/*/seed1")}
    short = "relu+batch_size=16{},hidden_dims=16x16{}".format
    changes = [(expectile, rate) for expectile in ("", ",expectile=0.9") for rate in ("", ",learning_rate=0.001")]
    assert set(cells) == {short(*change) for change in changes}
    assert run_agent(*both).stdout.count("nothing to do") == 8
    alone = ("--seed", 1, "--expectile", 0.9)
    folder = cells[short(",expectile=0.9", "")]
    assert f"{folder} is finished: nothing to do" in run_agent(*alone).stdout
    together = read_run(folder)
    run_agent(*alone, "--overwrite")
    for name, value in read_run(folder)["state"].items():
        torch.testing.assert_close(value, together["state"][name], msg=name)


def test_the_checkpoint_before_a_damaged_one_is_gone_on_from(run_agent, tmp_path):
    run_agent()
    folder = _run_folder(tmp_path)
    expected = read_run(folder)
    (folder / "summary.json").unlink()
    (folder / "checkpoint.pt").write_bytes(b"torn")
    result = run_agent()
    assert "is damaged" in result.stderr
    assert "going on from update 20" in result.stdout
    assert_equal_runs(read_run(folder), expected)


def test_checkpoints_that_do_not_fit_the_agent_are_one_line(run_agent, tmp_path):
    run_agent()
    folder = _run_folder(tmp_path)
    (folder / "summary.json").unlink()
    (folder / "checkpoint.previous.pt").unlink()
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    checkpoint["state"].popitem()
    torch.save(checkpoint, folder / "checkpoint.pt")
    kept = (folder / "evaluations.csv").read_text()
    result = run_agent(check=False)
    assert result.returncode == 2
    assert "do not fit this version of iql" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert (folder / "evaluations.csv").read_text() == kept


def test_a_checkpoint_from_another_agent_is_one_line(run_agent, tmp_path):
    run_agent()
    folder = _run_folder(tmp_path)
    (folder / "summary.json").unlink()
    (folder / "checkpoint.previous.pt").unlink()
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    torch.save({**checkpoint, "agent": "td3_bc"}, folder / "checkpoint.pt")
    result = run_agent(check=False)
    assert result.returncode == 2
    assert "is of the agent td3_bc, not iql: give another --run-name, or --overwrite" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_group_goes_on_from_the_newest_update_that_all_have(run_agent, tmp_path):
    run_agent("--num-seeds", 2)
    expected = [read_run(_run_folder(tmp_path, seed)) for seed in (0, 1)]
    for seed in (0, 1):
        (_run_folder(tmp_path, seed) / "summary.json").unlink()
    # Seed 1 was killed before its last checkpoint, seed 0 after it.
    os.replace(_run_folder(tmp_path, 1) / "checkpoint.previous.pt", _run_folder(tmp_path, 1) / "checkpoint.pt")
    assert "going on from update 20" in run_agent("--num-seeds", 2).stdout
    for seed in (0, 1):
        assert_equal_runs(read_run(_run_folder(tmp_path, seed)), expected[seed])


@pytest.mark.parametrize("padded", [False, True])
def test_a_run_goes_on_where_buffers_are_padded_and_the_other_way_round(run_agent, tmp_path, padded, monkeypatch):
    """As from a CPU on a GPU."""
    run = ("--num-seeds", 2, "--activation", "rational")
    monkeypatch.setattr("rlrat.updates.flat.is_padded", lambda device: padded)
    run_agent(*run)
    expected = [read_run(_run_folder(tmp_path, seed)) for seed in (0, 1)]
    for seed in (0, 1):
        (_run_folder(tmp_path, seed) / "summary.json").unlink()
        os.replace(
            _run_folder(tmp_path, seed) / "checkpoint.previous.pt", _run_folder(tmp_path, seed) / "checkpoint.pt"
        )
    monkeypatch.setattr("rlrat.updates.flat.is_padded", lambda device: not padded)
    assert "going on from update 20" in run_agent(*run).stdout
    for seed in (0, 1):
        state = read_run(_run_folder(tmp_path, seed))["state"]
        assert state.keys() == expected[seed]["state"].keys()
        for name, value in expected[seed]["state"].items():
            torch.testing.assert_close(state[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_seeds_that_came_to_different_updates_alone_are_not_thrown_back(run_agent, tmp_path):
    run_agent()
    alone = _run_folder(tmp_path)
    (alone / "summary.json").unlink()
    before = {path.name: path.read_bytes() for path in alone.iterdir()}
    result = run_agent("--num-seeds", 2, check=False)
    assert result.returncode == 2
    assert "error: seed 0 is at update 40 and seed 1 at 0: side by side both would begin at 0" in result.stderr
    assert not alone.with_name("seed1").exists()
    assert {path.name: path.read_bytes() for path in alone.iterdir()} == before


def test_seeds_of_two_groups_without_a_common_update_are_not_thrown_back(run_agent, tmp_path):
    run_agent("--num-seeds", 2)
    run_agent("--seed", 2, "--num-seeds", 2)
    for seed in (1, 2):
        (_run_folder(tmp_path, seed) / "summary.json").unlink()
        (_run_folder(tmp_path, seed) / "checkpoint.previous.pt").unlink()
    (_run_folder(tmp_path, 2) / "checkpoint.pt").unlink()  # killed before it had one, and as many in its process
    result = run_agent("--seed", 1, "--num-seeds", 2, check=False)
    assert "error: seed 1 is at update 40 and seed 2 at 0" in result.stderr
    assert (_run_folder(tmp_path, 1) / "checkpoint.pt").exists()


def test_a_kill_between_the_last_files_is_no_other_way_to_train(run_agent, tmp_path):
    run_agent("--num-seeds", 2)
    config = RunFolder(_run_folder(tmp_path, 1)).config()
    (_run_folder(tmp_path, 1) / "summary.json").unlink()
    run_agent("--num-seeds", 2)
    assert RunFolder(_run_folder(tmp_path, 1)).summary()["status"] == "finished"
    assert RunFolder(_run_folder(tmp_path, 1)).config() == config


def test_a_checkpoint_that_does_not_fit_leaves_the_folder_as_it_was(run_agent, tmp_path):
    run_agent()
    folder = _run_folder(tmp_path)
    (folder / "summary.json").unlink()
    (folder / "checkpoint.previous.pt").unlink()
    checkpoint = load_checkpoint(folder / "checkpoint.pt")
    del checkpoint["state"]["guard.alive"]
    torch.save({**checkpoint, "update": 20}, folder / "checkpoint.pt")
    before = (folder / "config.json").read_bytes()
    result = run_agent("--num-threads", 2, check=False)
    assert result.returncode == 2
    assert "do not fit this version of iql" in result.stderr
    assert (folder / "config.json").read_bytes() == before


def test_a_group_killed_in_its_first_save_begins_anew(run_agent, tmp_path):
    run_agent("--num-seeds", 2)
    expected = [read_run(_run_folder(tmp_path, seed)) for seed in (0, 1)]
    for seed in (0, 1):
        (_run_folder(tmp_path, seed) / "summary.json").unlink()
        (_run_folder(tmp_path, seed) / "checkpoint.previous.pt").unlink()
    (_run_folder(tmp_path, 1) / "checkpoint.pt").unlink()
    assert "seed 0 goes back from update 40 to 0" in run_agent("--num-seeds", 2).stderr
    for seed in (0, 1):
        assert_equal_runs(read_run(_run_folder(tmp_path, seed)), expected[seed])


@pytest.fixture
def group(small_dataset, tmp_path):
    """`group(num_seeds=2)`: a group whose folders are begun."""
    groups = []

    def build(**settings) -> Group:
        arguments = RunArguments(run_dir=tmp_path, **settings)
        where = (torch.device("cpu"), small_dataset, of_data(small_dataset), REFERENCE)
        made = Group("iql", arguments, members(arguments), *where)
        groups.append(made)
        for index, folder in enumerate(made.folders):
            folder.create(made._config(made.members[index]))
            folder.open_scalars(LAYOUT, None)
        return made

    yield build
    for made in groups:
        for folder in made.folders:
            folder.close_scalars()


def _evaluation(returns):
    """Of S seeds that got `returns` `[S, E]`."""
    returns = np.array(returns)
    numbers = np.arange(returns.size).reshape(returns.shape)
    return Evaluation(returns, 10 + numbers, np.ones(returns.shape, bool), 100 + numbers)


def _snapshot(update, seeds=2):
    return Snapshot(update, np.ones(seeds, bool), 1.5, 2.25, {})


class _Learner:
    """As far as the end of a run asks: what diverged, of each member."""

    def __init__(self, *diverged):
        self.guard = self
        self.report = lambda: diverged


def test_members_are_called_seeds_where_only_these_differ(group):
    assert group(num_seeds=3).kind == "3 seeds"
    arguments = Arguments(num_seeds=2, expectile=(0.7, 0.9))
    varied = Group("iql", arguments, members(arguments), torch.device("cpu"), None, None, None)
    assert varied.kind == "4 members"
    assert [folder.path.parent.name for folder in varied.folders] == ["relu", "relu+expectile=0.9"] * 2


def test_an_evaluation_is_a_line_a_target_and_one_for_each_episode(group, scalars):
    made = group(num_seeds=2)
    results = {3600.0: _evaluation([[1.0, 3.0], [5.0, 9.0]]), 1800.5: _evaluation([[0.0, 0.0], [2.0, 4.0]])}
    for index in (0, 1):
        made.record(index, _snapshot(10), results)
        made.folders[index].flush_scalars()
    first, second = made.folders[1].evaluations()
    assert first == {
        **{"update": "10", "train_seconds": "1.500", "wall_seconds": "2.250", "target_return": "3600"},
        **{"episodes": "2", "return_mean": "7.0", "return_std": "2.0", "length_mean": "12.5"},
        **{"normalized_score": str(float(REFERENCE.normalize(7.0))), "success_rate": ""},
    }
    assert (second["target_return"], second["return_mean"]) == ("1800.5", "3.0")
    assert [row["return_mean"] for row in made.folders[0].curve()] == ["2.0"]
    episodes = (made.folders[1].path / "episodes.csv").read_text().splitlines()[1:]
    assert episodes[:2] == ["10,3600,0,102,5.0,12,", "10,3600,1,103,9.0,13,"]
    assert len(episodes) == 4
    points = scalars(made.folders[1].path)
    assert points["eval/return_mean"] == {10: 7.0}
    assert points["eval/target_1800.5/return_mean"] == {10: 3.0}


def test_a_member_ends_finished_diverged_or_failed(group, capsys):
    made = group(num_seeds=3)
    for update in range(0, 70, 10):
        result = {None: _evaluation([[float(update)], [1.0], [1.0]])}
        for index in (0, 1) if update else (0, 1, 2):
            made.record(index, _snapshot(update, 3), result)
    progress = TrainingProgress(60, 4.0, 5.0, failed=[set(), set(), {60}], missing=[set()] * 3, failure="it broke")
    said, why = made.finish(_Learner(None, ("q loss", 33), None), progress)
    first, second, third = (folder.summary() for folder in made.folders)
    assert (first["status"], first["final_return"], first["final_evaluations"]) == ("finished", 40.0, 5)
    assert first["final_score"] == pytest.approx(float(REFERENCE.normalize(40.0)))
    assert first["best_score"] == pytest.approx(float(REFERENCE.normalize(60.0)))
    assert (first["updates_per_second"], first["missing_evaluations"]) == (15.0, [])
    assert (second["status"], second["diverged_at"], second["diverged_tensor"]) == ("diverged", 33, "q loss")
    assert (second["final_return"], second["final_score"], second["final_evaluations"]) == (None, None, 0)
    assert (third["status"], third["reason"], third["failed_evaluations"]) == ("failed", "it broke", [60])
    assert said[0].endswith(f"score {first['final_score']:.1f}, the mean of its last 5 evaluations")
    assert [line.rpartition(" is ")[2] for line in said[1:]] == ["diverged", "failed"]
    assert why == (
        "seed 2 has no evaluation of a trained policy (it broke): the same command tries to evaluate it again"
    )
    assert capsys.readouterr().err == ""


def test_a_run_of_which_lines_vanished_says_so_at_its_end(group, capsys):
    made = group()
    for update in (0, 10, 20):
        made.record(0, _snapshot(update, 1), {None: _evaluation([[float(update)]])})
    text = (made.folders[0].path / "evaluations.csv").read_text()
    (made.folders[0].path / "evaluations.csv").write_text(text.rpartition("\n20,")[0] + "\n")
    made.finish(_Learner(None), TrainingProgress(20, 4.0, 5.0, failed=[set()], missing=[set()]))
    summary = made.folders[0].summary()
    assert (summary["missing_evaluations"], summary["missing_episodes"]) == ([20], [])
    assert (summary["final_return"], summary["final_evaluations"]) == (10.0, 1)
    assert "evaluations.csv has lost lines: 1 evaluations are missing" in capsys.readouterr().err


def test_lines_of_metrics_are_missing_also_where_an_evaluation_failed(group):
    made = group()
    for update in (10, 20):
        made.folders[0].add_metrics({"losses/q": 1.0}, update)
    (made.folders[0].path / "metrics.csv").write_text("update,losses/q\n10,1\n")
    made.finish(_Learner(None), TrainingProgress(20, 4.0, 5.0, failed=[{20}], missing=[set()]))
    assert made.folders[0].summary()["missing_metrics"] == [20]
