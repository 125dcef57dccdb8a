"""metrics.csv: the means that TensorBoard is given, as a table that grows, through kills, damage and divergence."""

import csv
import json
import math
import os
import signal

import pandas
import pytest
import torch

from rlrat.errors import InputError
from rlrat.runs.arguments import RunArguments
from rlrat.runs.checkpoints import load_checkpoint
from rlrat.runs.folder import RunFolder
from rlrat.runs.lines import Lines, is_metric
from rlrat.runs.metrics import _stacked, add_metrics
from rlrat.runs.recovery import recover
from rlrat.runs.run import Run
from rlrat.runs.schema import METRICS
from tests.short_runs import assert_equal_runs, read_metrics, read_run


@pytest.fixture
def lines(tmp_path):
    return Lines(tmp_path / METRICS, ("update",), grows=True)


def _add(lines, update, **metrics):
    lines.append([{"update": update, **metrics}])


def test_a_metric_that_comes_later_is_a_new_last_column(lines):
    _add(lines, 10, q="1.5")
    _add(lines, 20, q="2.5", actor="0.5")
    expected = {update: list(checksums) for update, checksums in lines.expected.items()}
    _add(lines, 30, late="-inf", q="nan")
    assert lines.path.read_text() == "update,q,actor,late\n10,1.5,,\n20,2.5,0.5,\n30,nan,,-inf\n"
    assert {update: lines.expected[update] for update in expected} == expected
    found = lines.read()
    assert (found.damaged, lines.whole(found)) == (0, {10, 20, 30})
    assert found.rows[30] == [{"update": "30", "q": "nan", "actor": "", "late": "-inf"}]
    assert [entry.name for entry in os.scandir(lines.path.parent)] == [METRICS]


def test_pandas_reads_it(lines):
    for update, metrics in ((10, {"losses/q": "0.25"}), (20, {"losses/q": "nan", "charts/gap": "inf"})):
        _add(lines, update, **metrics)
    table = pandas.read_csv(lines.path)
    assert list(table) == ["update", "losses/q", "charts/gap"]
    assert table["update"].tolist() == [10, 20]
    assert table["losses/q"][0] == 0.25
    assert math.isnan(table["losses/q"][1])
    assert math.isnan(table["charts/gap"][0])
    assert table["charts/gap"][1] == math.inf


def test_what_is_cut_off_takes_its_columns_along(lines):
    for update, metrics in ((10, {"q": "1"}), (20, {"q": "2", "late": "3"})):
        _add(lines, update, **metrics)
    early = {10: list(lines.expected[10])}
    again = Lines(lines.path, ("update",), grows=True)
    again.expected = early  # of a checkpoint from before there was a third column
    assert (again.read().damaged, again.whole(again.read())) == (0, {10, 20})
    again.keep(range(20))
    assert lines.path.read_text() == "update,q\n10,1\n"
    _add(again, 20, q="2", late="3")
    assert lines.path.read_text() == "update,q,late\n10,1,\n20,2,3\n"
    again.keep(range(1))
    assert lines.path.read_text() == "update\n"
    _add(again, 10, q="1")
    assert lines.path.read_text() == "update,q\n10,1\n"


@pytest.mark.parametrize(
    "changed", ["update,p,late\n10,1,\n20,2,3\n", "10,1,\n20,2,3\n", "update,late,q\n10,1,\n20,2,3\n"]
)
def test_numbers_under_anothers_name_are_none(lines, changed):
    for update, metrics in ((10, {"q": "1"}), (20, {"q": "2", "late": "3"})):
        _add(lines, update, **metrics)
    lines.path.write_text(changed)
    again = Lines(lines.path, ("update",), grows=True)
    again.expected = lines.expected
    assert (again.read().damaged, again.read().rows) == (2, {})


@pytest.mark.parametrize("field", ["x", "1e", "NaN(1)", "1 0"])
def test_what_is_no_number_is_damage(lines, field):
    _add(lines, 10, q="1")
    lines.path.write_text(f"update,q\n5,{field}\n10,1\n")
    assert (lines.read().damaged, list(lines.read().rows)) == (1, [10])


def test_a_column_may_be_called_as_one_of_evaluations(lines):
    _add(lines, 10, **{"return": "nan", "episodes": "inf"})
    assert lines.read().damaged == 0


@pytest.mark.parametrize("name", ["losses/q", "q", "a b", "énergie", "length"])
def test_names_of_metrics(name):
    assert is_metric(name)


@pytest.mark.parametrize("name", ["", " ", " q", "update", "a,b", 'a"b', "a\nb", "\x1b[2J", "\ud800", 3, None, ("a",)])
def test_what_heads_no_column_is_no_name(name):
    assert not is_metric(name)


def _folder(tmp_path, seed=0):
    (folder,) = tmp_path.glob(f"runs/*/*/*/seed{seed}")
    return folder


def test_every_seed_has_what_tensorboard_is_given(run_agent, tmp_path, scalars):
    run_agent("--num-seeds", 2, "--activation", "rational")
    for seed in (0, 1):
        folder = _folder(tmp_path, seed)
        shown = {tag: points for tag, points in scalars(folder).items() if not tag.startswith(("eval/", "final/"))}
        with (folder / METRICS).open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0])[:3] == ["update", "losses/q", "charts/q_mean"]
        assert {"losses/actor", "charts/updates_per_second", "rational/q.hidden.0.activation/outside"} < set(rows[0])
        assert set(shown) == set(rows[0]) - {"update"}
        assert [row["update"] for row in rows] == ["10", "20", "30", "40"]
        for tag, points in shown.items():
            assert {int(row["update"]): float(row[tag]) for row in rows} == pytest.approx(points, rel=1e-7), (
                tag
            )  # of 32 bits
        assert json.loads((folder / "summary.json").read_text())["missing_metrics"] == []
    assert (_folder(tmp_path, 0) / METRICS).read_text() != (_folder(tmp_path, 1) / METRICS).read_text()


@pytest.mark.parametrize("agent", ["td3_bc"])
def test_a_metric_of_every_other_update_is_a_mean_over_those(agent, run_agent, tmp_path, monkeypatch):
    """The actor of TD3+BC is trained in every second update."""
    given = []
    plain = Run.log

    def logged(self, metrics):
        given.append({name: value.detach().clone() for name, value in metrics.items()})
        plain(self, metrics)

    monkeypatch.setattr(Run, "log", logged)
    run_agent()
    with (_folder(tmp_path) / METRICS).open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        part = given[10 * number : 10 * number + 10]
        for name in ("losses/q", "losses/actor"):
            values = [float(one[name]) for one in part if name in one]
            assert len(values) == (10 if name == "losses/q" else 5)
            assert float(row[name]) == pytest.approx(sum(values) / len(values), rel=1e-5)


UNEVEN = ("--num-seeds", 2, "--total-updates", 60, "--checkpoint-every", 7, "--log-every", 10)


def _stop_at(monkeypatch, update):
    """Send this process a signal in that update."""
    plain = Run.log

    def log(self, metrics):
        plain(self, metrics)
        if self._progress.update + 1 == update:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Run, "log", log)


@pytest.mark.parametrize(
    ("agent", "update"),
    [
        *(("iql", 10), ("iql", 13), ("td3_bc", 13)),
        *(pytest.param(*rest, marks=pytest.mark.slow) for rest in (("iql", 30), ("td3_bc", 10), ("td3_bc", 30))),
    ],
)
def test_sums_since_the_last_point_outlive_a_stop(agent, run_agent, tmp_path, monkeypatch, update):
    with monkeypatch.context() as patch:
        _stop_at(patch, update)
        assert run_agent(*UNEVEN, check=False).returncode == 128 + signal.SIGTERM
    checkpoint = load_checkpoint(_folder(tmp_path) / "checkpoint.pt")
    assert sum(one["count"] for one in checkpoint["sums"]) == update % 10
    assert f"going on from update {update}" in run_agent(*UNEVEN).stdout
    found = [read_run(_folder(tmp_path, seed)) for seed in (0, 1)]
    run_agent(*UNEVEN, "--overwrite")
    for seed in (0, 1):
        assert [line[0] for line in found[seed]["metrics"]] == ["update", "10", "20", "30", "40", "50", "60"]
        assert_equal_runs(found[seed], read_run(_folder(tmp_path, seed)))


def test_sums_outlive_a_crash_between_checkpoint_and_point(run_agent, tmp_path, monkeypatch):
    plain = Run.log

    def crash(self, metrics):
        if self._progress.update == 25:
            raise ZeroDivisionError
        plain(self, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", crash)
        with pytest.raises(ZeroDivisionError):
            run_agent(*UNEVEN)
    assert "going on from update 21" in run_agent(*UNEVEN).stdout
    found = read_run(_folder(tmp_path))
    run_agent(*UNEVEN, "--overwrite")
    assert_equal_runs(found, read_run(_folder(tmp_path)))


def test_a_checkpoint_of_before_goes_on_with_a_file_that_begins_there(run_agent, tmp_path):
    run_agent("--total-updates", 60)
    folder = _folder(tmp_path)
    whole = read_run(folder)
    for name in ("summary.json", "checkpoint.previous.pt", METRICS):
        (folder / name).unlink()
    checkpoint = torch.load(folder / "checkpoint.pt", weights_only=True)
    del checkpoint["sums"], checkpoint["lines"][METRICS]
    torch.save(checkpoint, folder / "checkpoint.pt")
    result = run_agent("--total-updates", 60)
    assert "metrics" not in result.stderr
    assert not (folder / METRICS).exists()  # nothing was left to do
    assert {**read_run(folder), "metrics": None, "state": None} == {**whole, "metrics": None, "state": None}


def test_members_of_several_commands_begin_their_sums_anew(run_agent, tmp_path, monkeypatch):
    """One was stopped in its third update since a point, the other's points are others."""
    for seed, every in ((0, 10), (1, 4)):
        with monkeypatch.context() as patch:
            _stop_at(patch, 13)
            run_agent("--seed", seed, "--log-every", every, check=False)
    run_agent("--num-seeds", 2)
    for seed, updates in ((0, "10 20 30 40"), (1, "4 8 12 20 30 40")):
        assert [line[0] for line in read_metrics(_folder(tmp_path, seed) / METRICS)[1:]] == updates.split()
    names, *_ = read_metrics(_folder(tmp_path, 1) / METRICS)
    assert "losses/q" in names


def test_a_frozen_seed_has_no_further_lines(train_poisoned, tmp_path):
    train_poisoned(eval_every=20)
    for seed, updates in ((0, ["10", "20", "30", "40"]), (1, ["10"])):
        lines = read_metrics(tmp_path / "test-hopper-v0/iql/relu+x" / f"seed{seed}" / METRICS)
        assert [line[0] for line in lines[1:]] == updates


def test_lost_points_are_said_and_in_the_summary(run_agent, tmp_path):
    run_agent()
    folder = _folder(tmp_path)
    (folder / "summary.json").unlink()
    lines = (folder / METRICS).read_text().splitlines(keepends=True)
    (folder / METRICS).write_text("".join([*lines[:2], lines[2].replace(",", ",9", 1), *lines[3:]]))
    result = run_agent()
    assert "metrics.csv is without its points at update 20; 1 line is not as written and left out" in result.stderr
    assert json.loads((folder / "summary.json").read_text())["missing_metrics"] == [20]
    assert [line[0] for line in read_metrics(folder / METRICS)[1:]] == ["10", "30", "40"]


def test_a_disk_that_refuses_the_file_is_one_line(tmp_path):
    folder = RunFolder(tmp_path)
    folder.lines[METRICS].append([{"update": 10, "q": 1}])
    (tmp_path / METRICS).unlink()
    (tmp_path / METRICS).symlink_to("/dev/full")
    with pytest.raises(InputError, match=r"cannot write .*metrics\.csv: No space left on device; .*: make room"):
        folder.lines[METRICS].append([{"update": 20, "q": 1}])
    (tmp_path / METRICS).unlink()
    (tmp_path / METRICS).mkdir()
    with pytest.raises(InputError, match=r"cannot (read|write) .*metrics\.csv"):
        RunFolder(tmp_path).lines[METRICS].append([{"update": 10, "q": 1}])


def test_a_damaged_sum_is_a_damaged_checkpoint(tmp_path):
    checkpoint = {"update": 3, "state": {}}
    good = {"names": ["q", "v"], "count": 3, "sums": torch.ones(2)}
    wrong = [{**good, "names": ["q"]}, {**good, "count": -1}, {**good, "sums": [1.0, 2.0]}, {"names": ["q"]}, 3]
    wrong += [{**good, "sums": torch.ones(2, dtype=torch.int64)}, {**good, "names": [1, 2]}]
    wrong += [{**good, "count": 0}, {**good, "names": ["q", "a,b"]}, {**good, "names": ["q", "v\nupdate"]}]
    torch.save({**checkpoint, "sums": [good]}, tmp_path / "checkpoint.pt")
    assert load_checkpoint(tmp_path / "checkpoint.pt")["sums"][0]["count"] == 3
    for one in wrong:
        torch.save({**checkpoint, "sums": [good, one]}, tmp_path / "checkpoint.pt")
        with pytest.raises(InputError, match="its sums is not what a run saves"):
            load_checkpoint(tmp_path / "checkpoint.pt")


def test_a_name_that_heads_no_column_is_one_line(run_agent, monkeypatch):
    plain = Run.log
    monkeypatch.setattr(Run, "log", lambda self, metrics: plain(self, {**metrics, "a,b": metrics["losses/q"]}))
    result = run_agent(check=False)
    assert result.returncode == 2
    assert "update returned a metric 'a,b': a name like `losses/q` is needed" in result.stderr


def test_without_a_checkpoint_all_points_are_cut_off(tmp_path):
    folder = RunFolder(tmp_path)
    folder.lines[METRICS].append([{"update": 10, "q": 1}])
    again = RunFolder(tmp_path)
    again.go_back(0, set())
    assert (tmp_path / METRICS).read_text() == "update\n"
    state = {"policy.weight": torch.zeros(1), "guard.first_update": torch.tensor(-1)}
    checkpoint = {"update": 10, "train_seconds": 1.0, "wall_seconds": 1.0, "state": state, "pending": []}
    checkpoint["lines"] = {METRICS: dict(folder.lines[METRICS].expected)}
    arguments = RunArguments(eval_every=50, total_updates=50)
    recover(again, "seed 0", {10: checkpoint}, 10, arguments, 1, {"weight": torch.zeros(1)})
    assert again.lost(METRICS) == {10}


def test_rows_of_one_tensor_are_summed_as_that_tensor():
    whole = torch.arange(6.0).view(3, 2).clone()
    assert _stacked({"a": whole[0], "b": whole[1], "c": whole[2]}) is whole
    for rows in ([0, 1], [1, 0, 2], [0, 1, 1], [2, 1, 0]):  # not all of it, in order
        found = _stacked({str(i): whole[row] for i, row in enumerate(rows)})
        assert found.tolist() == [whole[row].tolist() for row in rows]
    changed = {"a": whole[0], "b": whole[1] + 1.0, "c": whole[2]}
    assert _stacked(changed).tolist() == [[0, 1], [3, 4], [4, 5]]
    square = torch.arange(4.0).view(2, 2).clone()
    assert _stacked({"a": square[:, 0], "b": square[:, 1]}).tolist() == [[0, 2], [1, 3]]
    sums = {}
    for _ in range(3):
        add_metrics(sums, {"x/a": whole[0]}, 2)
    assert (sums[("x/a",)][0].tolist(), sums[("x/a",)][1]) == ([[0, 3]], 3)
    assert whole.tolist() == [[0, 1], [2, 3], [4, 5]]  # as it was
