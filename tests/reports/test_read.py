import errno
import json
import os

import numpy as np
import pytest

from rlrat.errors import InputError
from rlrat.reports import read
from rlrat.reports.build import build_report
from rlrat.reports.read import filter_runs, read_runs, setting_texts
from rlrat.reports.tables import make_tables
from tests.reports.run_folders import HEADER, REFERENCE, SUCCESS_REFERENCE, line, write_run


def test_a_run_is_read_with_what_its_folder_says(tmp_path):
    folder = write_run(tmp_path, [1.0, 2.0, 4.0], 3, activation="rational:gelu", name="expectile=0.9", expectile=0.9)
    (run,) = read_runs([tmp_path])
    assert (run.path, run.agent, run.dataset, run.seed) == (folder, "iql", "rlrat/hopper/mixed-v0", 3)
    assert (run.activation, run.name, run.variant) == ("rational:gelu", "expectile=0.9", "rational:gelu+expectile=0.9")
    assert run.status == "finished"
    assert run.reference["name"] == "v5-test"
    np.testing.assert_array_equal(run.updates, [0, 10, 20])
    np.testing.assert_array_equal(run.scores, [1.0, 2.0, 4.0])
    np.testing.assert_array_equal(run.returns, [20.0, 40.0, 80.0])
    np.testing.assert_array_equal(run.train_seconds, [0.0, 1.0, 2.0])
    np.testing.assert_array_equal(run.wall_seconds, [0.0, 2.0, 4.0])


def test_every_state_of_a_run_is_told(tmp_path):
    for seed, status in enumerate(("finished", "diverged", None)):
        write_run(tmp_path, [1.0], seed, status=status)
    assert [run.status for run in read_runs([tmp_path])] == ["finished", "diverged", "unfinished"]


def test_of_several_target_returns_the_first_makes_the_curve(tmp_path):
    folder = write_run(tmp_path, [])
    rows = [line(u, v, "", target) for u in (0, 10) for target, v in (("3600", u + 1.0), ("1800", 99.0))]
    (folder / "evaluations.csv").write_text(HEADER + "".join(rows))
    (run,) = read_runs([tmp_path])
    np.testing.assert_array_equal(run.returns, [1.0, 11.0])
    np.testing.assert_allclose(run.scores, run.returns / 20)


def test_damaged_lines_are_named_and_left_out(tmp_path, capfd):
    folder = write_run(tmp_path, [])
    good = [line(update, 1.0, 2.0) for update in (0, 10, 20)]
    bad = ["10,0.1\n", line(15, float("nan"), 2.0), "\0" * 20 + "\n", line(-1, 1.0, 2.0), line(30, 1.0, 2.0)[:-1]]
    (folder / "evaluations.csv").write_text(HEADER + "".join([good[0], *bad[:4], *good[1:], bad[4]]))
    (run,) = read_runs([tmp_path])
    np.testing.assert_array_equal(run.updates, [0, 10, 20])
    assert f"{folder / 'evaluations.csv'}: left out as damaged: line 3, 4, 5, 6, 9" in capfd.readouterr().err


def test_an_update_that_was_evaluated_again_counts_once(tmp_path):
    folder = write_run(tmp_path, [])
    rows = [line(0, 1.0, 1.0), line(10, 2.0, 2.0), line(20, 3.0, 3.0), line(10, 5.0, 5.0)]
    (folder / "evaluations.csv").write_text(HEADER + "".join(rows))
    (run,) = read_runs([tmp_path])
    np.testing.assert_array_equal(run.updates, [0, 10, 20])
    np.testing.assert_array_equal(run.returns, [1.0, 5.0, 3.0])


@pytest.mark.parametrize("content", ["", "update,retu", "\xff\xfe nonsense\n1,2\n", HEADER])
def test_a_run_without_an_evaluation_is_named_and_left_out(tmp_path, capfd, content):
    folder = write_run(tmp_path, [], seed=1)
    (folder / "evaluations.csv").write_text(content)
    write_run(tmp_path, [1.0])
    assert [run.seed for run in read_runs([tmp_path])] == [0]
    assert f"{folder} has no evaluation yet" in capfd.readouterr().err


@pytest.mark.parametrize("content", [None, "", "[1]", '{"agent": "iq'])
def test_without_its_configuration_a_run_is_left_out(tmp_path, capfd, content):
    write_run(tmp_path, [1.0])
    folder = write_run(tmp_path, [1.0], seed=7, name="a", activation="silu")
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    (run,) = read_runs([tmp_path])
    assert run.seed == 0
    assert capfd.readouterr().err == f"warning: {folder} has no config.json that can be read: it is left out\n"


def test_a_score_that_is_not_there_is_that_of_the_return(tmp_path):
    folder = write_run(tmp_path, [])
    rows = [line(0, 20.0, 1.0), line(10, 40.0, "nan"), line(20, 60.0, "")]
    (folder / "evaluations.csv").write_text(HEADER + "".join(rows))
    (run,) = read_runs([tmp_path])
    np.testing.assert_allclose(run.scores, [1.0, 2.0, 3.0])


def test_names_are_of_characters_that_can_be_written(tmp_path):
    folder = write_run(tmp_path, [1.0], reference=None)
    config = json.loads((folder / "config.json").read_text())
    config["identity"] |= {"dataset": "d\ud800", "activation": "\x1b[1mb\x07\ufffe"}
    (folder / "config.json").write_text(json.dumps(config))
    folder.parent.rename(folder.parent.with_name(os.fsdecode(b"relu+\xff")))
    (run,) = read_runs([tmp_path])
    assert (run.dataset, run.activation, run.name) == ("d\ufffd", "\ufffd[1mb\ufffd\ufffd", "\ufffd")
    report = build_report([run], by=["activation", "run-name"])
    for table in make_tables(report).values():
        (table.markdown() + table.csv() + table.latex()).encode()
    assert report.labels == ("\ufffd[1mb\ufffd\ufffd \ufffd",)


@pytest.mark.parametrize(
    "damaged",
    [
        {"identity": [], "reference": 3, "seed": "x", "dataset": None, "resumed": [2]},
        {
            "versions": 1,
            "reference": {"random": "1"},
            "seed": None,
            "dataset": {"return_mean": [1]},
            "resumed": 1,
        },
    ],
)
def test_a_configuration_of_the_wrong_shape_does_no_harm(tmp_path, damaged):
    folder = write_run(tmp_path, [1.0])
    (folder / "config.json").write_text(json.dumps(damaged))
    (folder / "summary.json").write_text("{")
    (run,) = read_runs([tmp_path])
    assert (run.agent, run.activation, run.seed, run.status) == ("iql", "relu", -1, "unfinished")
    assert run.reference is None
    assert build_report([run]).tasks[0].data_return is None


def test_a_copy_of_a_run_is_named_and_left_out(tmp_path, capfd):
    write_run(tmp_path / "a", [1.0, 2.0])
    longer = write_run(tmp_path / "b", [1.0, 2.0, 3.0])
    write_run(tmp_path / "b", [1.0, 2.0, 3.0], seed=1)
    runs = read_runs([tmp_path, tmp_path / "b"])
    assert [(run.seed, len(run.updates)) for run in runs] == [(0, 3), (1, 3)]
    error = capfd.readouterr().err
    assert f"is seed 0 with the settings of {longer}: it is left out as a copy" in error
    assert error.count("\n") == 1  # a folder that is given twice is no copy


def test_filters(tmp_path):
    for activation in ("relu", "silu", "gelu"):
        for seed in (0, 1):
            write_run(tmp_path, [1.0], seed, activation=activation, hidden_dims=[256, 256])
    kept = filter_runs(read_runs([tmp_path]), ["activation=relu", "activation=gelu", "seed=1", "hidden-dims=256x256"])
    assert [(run.activation, run.seed) for run in kept] == [("gelu", 1), ("relu", 1)]
    assert setting_texts(kept, "num_seeds") == ["5", "5"]
    write_run(tmp_path, [1.0], activation="tanh", name="own", config={"arguments": {"run_name": "own"}})
    (own,) = filter_runs(read_runs([tmp_path]), ["run-name=own"])
    assert own.activation == "tanh"
    assert len(filter_runs(read_runs([tmp_path]), ["run-name="])) == 6


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (["activation"], r"--filter has 'activation', but expects name=value"),
        (["activatoin=relu"], r"no run has a setting 'activatoin'; the nearest is activation"),
        (["activation=tanh"], r"no run passes --filter activation=tanh: activation is relu"),
    ],
)
def test_a_filter_that_cannot_be_right_is_one_line(tmp_path, filters, message):
    write_run(tmp_path, [1.0])
    with pytest.raises(InputError, match=message):
        filter_runs(read_runs([tmp_path]), filters)


def test_paths_without_runs_are_one_line(tmp_path):
    with pytest.raises(InputError, match="no evaluated run below"):
        read_runs([tmp_path])
    with pytest.raises(InputError, match="does not exist: give run folders"):
        read_runs([tmp_path / "runs"])
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="is a file: give run folders"):
        read_runs([tmp_path / "file"])


def test_a_reference_between_whose_ends_nothing_lies_is_named_and_left_out(tmp_path, capfd):
    folder = write_run(tmp_path, [1.0], reference={**REFERENCE, "expert": REFERENCE["random"]})
    (run,) = read_runs([tmp_path])
    assert run.reference is None
    assert f"{folder} has a reference whose random and expert return are the same" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"identity": []}, "whose identity is no mapping"),
        ({"resumed": {"update": 3}}, "whose resumed is no list of mappings"),
        ({"resumed": [3]}, "whose resumed is no list of mappings"),
        ({"dataset": {"return_mean": 10**400}}, "a return_mean that is no number"),
        ({"reference": {"random": 0, "expert": 10**400}}, "a reference without finite numbers"),
        ({"reference": {"random": -1.7e308, "expert": 1.7e308}}, "a reference without finite numbers"),
        ({"reference": {"random": True, "expert": 3.0}}, "a reference without finite numbers"),
        *(({"seed": seed}, "says of no seed which it is") for seed in ("²", "٣", -1, True, 2**60, "9" * 5000, [1])),
    ],
)
def test_what_is_of_the_wrong_type_is_named(tmp_path, capfd, content, said):
    folder = write_run(tmp_path, [1.0], config=content)
    (run,) = read_runs([tmp_path])
    assert run.seed == (-1 if "seed" in content else 0)
    assert run.returns.tolist() == [20.0]
    error = capfd.readouterr().err
    assert error.startswith(f"warning: {folder} ")
    assert said in error
    build_report([run])


def test_json_nested_without_end_is_as_none(tmp_path, capfd):
    write_run(tmp_path, [1.0])
    for seed, depth in ((1, 100), (2, 100_000)):
        folder = write_run(tmp_path, [1.0], seed)
        (folder / "config.json").write_text('{"identity": {"a": ' + "[" * depth + "]" * depth + "}}")
    (run,) = read_runs([tmp_path])
    assert run.seed == 0
    assert capfd.readouterr().err.count("has no config.json that can be read: it is left out") == 2


def test_what_a_summary_says_is_checked(tmp_path, capfd):
    whole = {"status": "finished", "missing_evaluations": [30, 20], "failed_evaluations": [30]}
    write_run(tmp_path, [1.0], 0)
    for seed, content in enumerate(
        (whole, {**whole, "status": ["finished"]}, {**whole, "missing_evaluations": [1, "x"]})
    ):
        folder = write_run(tmp_path / "more", [1.0], seed)
        (folder / "summary.json").write_text(json.dumps(content))
    runs = read_runs([tmp_path / "more"])
    assert [(run.status, run.missing) for run in runs] == [
        ("finished", (20, 30)), ("unfinished", (20, 30)), ("finished", (1, 30))
    ]  # fmt: skip
    error = capfd.readouterr().err
    assert "has no status that is known: the run counts as unfinished" in error
    assert "has missing_evaluations that are no list of updates" in error
    notes = build_report(runs[:1]).notes
    assert any(f"{runs[0].path} lacks 2 evaluations" in note and "at update 20, 30: " in note for note in notes)


def test_a_run_that_failed_is_named_and_in_no_test(tmp_path):
    for seed in range(3):
        write_run(tmp_path, [0.0, 1.0, 2.0], seed)
        write_run(tmp_path, [0.0, 5.0, 6.0 + seed], seed, activation="silu")
    write_run(tmp_path, [0.0], 3, status="failed")
    write_run(tmp_path, [], 4, status="failed")
    report = build_report(read_runs([tmp_path]))
    group = report.tasks[0].group("relu")
    assert (len(group.runs), len(group.judged), group.failed, group.unfinished, group.diverged) == (5, 3, 2, 0, 0)
    assert "2 of 5 runs of relu failed: no evaluation of a trained policy exists" in " ".join(report.notes)
    assert np.isfinite(report.comparisons[0].p)
    statuses = [(row[3].text, row[4].text, row[5].text) for row in make_tables(report)["runs"].rows]
    assert statuses[3:5] == [("failed", "no", "0"), ("failed", "no", "-")]


def test_a_pipe_or_a_file_that_may_not_be_read_is_named(tmp_path, capfd, monkeypatch):
    write_run(tmp_path, [1.0])
    pipe, closed = (write_run(tmp_path, [1.0], seed) for seed in (1, 2))
    (pipe / "evaluations.csv").unlink()
    os.mkfifo(pipe / "evaluations.csv")
    monkeypatch.setattr(read, "open_text", refusing(closed / "evaluations.csv"))
    assert [run.seed for run in read_runs([tmp_path])] == [0]
    error = capfd.readouterr().err
    assert f"{pipe / 'evaluations.csv'} cannot be read (it is no plain file): its evaluations are left out" in error
    assert f"{closed / 'evaluations.csv'} cannot be read (Permission denied)" in error


def refusing(refused):
    """`open_text`, but for one path: nothing is refused to the user who is root."""

    def call(path, open_text=read.open_text):
        if path == refused:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return open_text(path)

    return call


def test_success_rates_are_read_where_there_are_some(tmp_path, capfd):
    write_run(tmp_path, [1.0, 2.0, 3.0], successes=[0, "", 0.75])
    write_run(tmp_path, [1.0, 2.0], 1, successes=["", ""])  # an environment that does not say
    write_run(tmp_path, [1.0, 2.0], 2)  # an older folder
    damaged = write_run(tmp_path, [1.0, 2.0, 3.0, 4.0], 3, successes=[0.5, "1.5", "-1", "x"])
    said, silent, older, changed = read_runs([tmp_path])
    np.testing.assert_array_equal(said.successes, [0, np.nan, 0.75])
    assert silent.successes is older.successes is None
    np.testing.assert_array_equal(older.scores, [1, 2])
    np.testing.assert_array_equal(changed.successes, [0.5])
    assert f"{damaged / 'evaluations.csv'}: left out as damaged: line 3, 4, 5" in capfd.readouterr().err


def test_a_score_of_success_that_is_not_there_is_that_of_the_success_rate(tmp_path, capfd):
    folder = write_run(tmp_path, [7.0, 8.0], successes=[0.25, 0.5], reference=SUCCESS_REFERENCE)
    text = (folder / "evaluations.csv").read_text()
    (folder / "evaluations.csv").write_text(text.replace(",7.0,", ",,").replace(",8.0,", ",,"))
    write_run(tmp_path, [1.0], 1, reference=SUCCESS_REFERENCE | {"measure": "length"})
    run, wrong = read_runs([tmp_path])
    np.testing.assert_allclose(run.scores, [25, 50])
    assert wrong.reference is None
    assert "has a reference of neither returns nor success rates: it is left out" in capfd.readouterr().err
