import json
from itertools import product

import numpy as np
import pytest

from rlrat.errors import InputError
from rlrat.reports.build import build_report
from rlrat.reports.importing import import_runs, with_scores, write_table
from rlrat.reports.page_data import curve_data
from rlrat.reports.read import read_runs
from rlrat.reports.tables import make_tables
from tests.reports.run_folders import SUCCESS_REFERENCE, write_offline, write_run

HEADER = "agent,dataset,activation,seed,update,score\n"


def write_log(root, name, returns, kind="td3_plus_bc", **params):
    """A run as d3rlpy 2.8.1's FileAdapter leaves it: epoch, step, value, without a header."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "params.json").write_text(json.dumps({"config": {"type": kind, "params": params}}))
    rows = [f"{epoch},{40 * epoch},{value}\n" for epoch, value in enumerate(returns, start=1)]
    (folder / "environment.csv").write_text("".join(rows))
    (folder / "time_step.csv").write_text("".join(f"{n},{40 * n},0.01\n" for n in range(1, len(returns) + 1)))
    return folder


def test_a_table_of_curves(tmp_path):
    path = tmp_path / "published.csv"
    rows = ["iql,data,relu,0,10,2.0\n", "iql,data,relu,0,0,1.0\n", "iql,data,relu,1,0,5\n", '"a,b",data,silu,0,0,1e1\n']
    path.write_text("\ufeff" + HEADER + "".join(rows), encoding="utf-8")
    runs = import_runs([str(path)])
    assert [(run.agent, run.variant, run.seed) for run in runs] == [
        ("iql", "relu+published", 0), ("iql", "relu+published", 1), ("a,b", "silu+published", 0)
    ]  # fmt: skip
    np.testing.assert_array_equal(runs[0].updates, [0, 10])
    np.testing.assert_array_equal(runs[0].scores, [1.0, 2.0])
    assert np.isnan(runs[0].returns).all()
    assert runs[0].status == "imported"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column agent, dataset"),
        ("agent,dataset,seed,update,score\n", "has no column activation: it takes agent, dataset, activation"),
        (HEADER, "has no evaluation"),
        (HEADER + "iql,data,relu,0,0,1\niql,data,relu,0,1.5,2\n", r"line 3 of .* is no evaluation"),
        (HEADER + "iql,data,relu,0,0,nan\n", r"line 2 of .* is no evaluation"),
        (HEADER + f"iql,data,relu,0,{2**53},1\n", r"line 2 of .* is no evaluation: .* below 2\*\*53"),
        (HEADER + "iql,data,relu,0\n", r"line 2 of .* is no evaluation"),
        (HEADER + ",data,relu,0,0,1\n", r"line 2 of .* is no evaluation"),
        (HEADER + "iql,data,relu,0,0,1\n" * 2 + "iql,data,relu,0,0,2\n", r"line 4 of .* has another score of a seed"),
    ],
)
def test_a_table_that_is_wrong_is_one_line(tmp_path, text, message):
    (tmp_path / "results.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        import_runs([str(tmp_path / "results.csv")])


def test_a_table_that_cannot_be_read_is_one_line(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    path.write_text("x" * 200_000)  # more than a field of Python's csv holds
    with pytest.raises(InputError, match="is no table of comma-separated values: field larger"):
        import_runs([str(path)])

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(InputError, match=r"cannot read .*results\.csv: Permission denied"):
        import_runs([str(path)])


def test_curves_that_are_written_are_read_again(tmp_path):
    write_run(tmp_path / "runs", [100.0, 321.4], seed=3, activation="rational:gelu", name="own")
    write_run(tmp_path / "runs", [100.0], activation="raw, alone", reference=None)  # it has no scores
    ours = read_runs([tmp_path / "runs"])
    write_table(ours, tmp_path / "curves.csv")
    (run,) = import_runs([str(tmp_path / "curves.csv")])
    own = next(run for run in ours if run.seed == 3)
    assert (run.agent, run.dataset, run.activation, run.seed) == ("iql", own.dataset, "rational:gelu+own", 3)
    np.testing.assert_array_equal(run.updates, own.updates)
    np.testing.assert_allclose(run.scores, own.scores, rtol=1e-5)


def test_success_rates_are_written_and_read_again(tmp_path):
    write_run(tmp_path / "runs", [1.0, 2.0, 3.0], successes=[0.25, "", 1])
    write_run(tmp_path / "runs", [1.0], 1)
    ours = read_runs([tmp_path / "runs"])
    write_table(ours, tmp_path / "curves.csv")
    text = (tmp_path / "curves.csv").read_text()
    assert text.splitlines()[0] == "agent,dataset,activation,seed,update,score,status,success_rate"
    said, silent = import_runs([str(tmp_path / "curves.csv")])
    np.testing.assert_array_equal(said.successes, [0.25, np.nan, 1])
    assert silent.successes is None
    for wrong in ("1.01", "-0.1", "nan", "yes"):
        (tmp_path / "curves.csv").write_text(text.replace(",0.25\n", f",{wrong}\n"))
        with pytest.raises(
            InputError, match=r"line 2 of .* in success_rate, if it is there, nothing or a number from 0"
        ):
            import_runs([str(tmp_path / "curves.csv")])


def test_returns_are_not_normalised_as_success_rates(tmp_path):
    write_run(tmp_path / "runs", [25.0], dataset="maze", reference=SUCCESS_REFERENCE, successes=[0.25])
    write_log(tmp_path / "logs", "first", [-40.0])
    ours, imported = read_runs([tmp_path / "runs"]), import_runs([f"maze={tmp_path / 'logs'}"])
    (theirs,) = with_scores(imported, ours)
    assert np.isnan(theirs.scores).all()


def test_a_run_that_diverged_is_imported_as_such(tmp_path):
    for activation, seed, status in product(("relu", "silu"), range(3), ("finished",)):
        write_run(tmp_path / "runs", [1.0, 2.0, 3.0 + seed], seed, activation=activation, status=status)
    write_run(tmp_path / "runs", [1.0], 3, activation="silu", status="diverged")
    write_table(read_runs([tmp_path / "runs"]), tmp_path / "curves.csv")
    report = build_report(import_runs([str(tmp_path / "curves.csv")]))
    group = report.tasks[0].group("silu")
    assert (len(group.judged), group.diverged) == (3, 1)
    assert report.tasks[0].measure == "score"
    write_run(tmp_path / "more", [1.0, 2.0], activation="silu", status=None)
    for length in (2, 3):
        write_run(tmp_path / f"{length}", [1.0] * length, total_updates=length)  # one seed, twice
    records = read_runs([tmp_path / "more", tmp_path / "2", tmp_path / "3"])
    write_table(records, tmp_path / "more.csv")
    again = import_runs([str(tmp_path / "more.csv")])
    assert [(run.activation, run.status, len(run.updates)) for run in again] == [
        ("silu", "unfinished", 2), ("relu", "imported", 2), ("relu (2)", "imported", 3)
    ]  # fmt: skip
    both = build_report([*import_runs([str(tmp_path / "curves.csv")]), *read_runs([tmp_path / "runs"])])
    assert both.tasks[0].measure == "score"


def test_a_source_that_is_given_twice_is_read_once(tmp_path, capfd):
    (tmp_path / "results.csv").write_text(HEADER + "iql,data,relu,0,0,1\n")
    (tmp_path / "link.csv").symlink_to(tmp_path / "results.csv")
    log = write_log(tmp_path / "logs", "one", [1.0])
    write_log(tmp_path / "more", "two", [1.0])
    sources = ["results.csv", "link.csv", "data=logs", f"data=logs/{log.name}", "data=more"]
    sources = [source.replace("=", f"={tmp_path}/") if "=" in source else f"{tmp_path}/{source}" for source in sources]
    runs = import_runs(sources)
    assert [(run.name, run.seed) for run in runs] == [("results", 0), ("d3rlpy", 0), ("d3rlpy", 1)]
    error = capfd.readouterr().err
    assert f"--import has {tmp_path}/link.csv twice: it is read once" in error
    assert f"1 of the runs below {log} are imported already: they are read once" in error


def test_tables_of_one_name_are_one_label_whose_seeds_are_not_independent(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        rows = [f"iql,data,relu,{seed},{update},{seed}\n" for seed in range(3) for update in (0, 10)]
        (tmp_path / folder / "results.csv").write_text(HEADER + "".join(rows))
    report = build_report(import_runs([str(tmp_path / folder / "results.csv") for folder in ("a", "b")]))
    assert any("relu has seeds 0, 1, 2 more than once (imported twice" in note for note in report.notes)
    assert any("training seconds of relu are not known" in note for note in report.notes)


def test_d3rlpys_logs(tmp_path, capfd):
    write_log(tmp_path, "TD3PlusBC_1", [100.0, 300.0], actor_encoder_factory={"params": {"activation": "gelu"}})
    write_log(tmp_path, "TD3PlusBC_2", [200.0], actor_encoder_factory={"params": {"activation": "gelu"}})
    write_log(tmp_path, "DT", [1.0], "decision_transformer", activation_type="silu")
    (write_log(tmp_path, "no_evaluator", [1.0]) / "environment.csv").unlink()
    (write_log(tmp_path, "cut", [1.0]) / "environment.csv").write_text("1,40")
    (write_log(tmp_path, "late", [1.0]) / "environment.csv").write_text(f"1,{2**53},1.0\n")
    (write_log(tmp_path, "list", [1.0]) / "params.json").write_text('{"config": {"type": "iql", "params": []}}')
    write_log(tmp_path, "names", [1.0], activation_type=["relu"])
    dt, *td3 = import_runs([f"hopper-medium-v2={tmp_path}"])
    assert (dt.agent, dt.variant) == ("decision_transformer", "silu+d3rlpy")
    assert [(run.agent, run.dataset, run.variant, run.seed) for run in td3] == [
        ("td3_bc", "hopper-medium-v2", "gelu+d3rlpy", seed) for seed in (0, 1)
    ]
    np.testing.assert_array_equal(td3[0].updates, [40, 80])
    np.testing.assert_array_equal(td3[0].returns, [100.0, 300.0])
    np.testing.assert_allclose(td3[0].train_seconds, [0.4, 0.8])
    error = capfd.readouterr().err
    assert f"{tmp_path / 'no_evaluator'} has no environment.csv" in error
    for name in ("cut", "late", "list", "names"):
        assert f"{tmp_path / name} is no whole log of d3rlpy" in error


def test_imported_returns_get_the_scores_of_ours(tmp_path):
    for seed in range(3):
        write_run(tmp_path / "runs", np.arange(11.0) + seed, seed, dataset="data", every=40, agent="td3_bc")
        write_log(tmp_path / "logs", f"run{seed}", [200.0, 400.0] * 5)
    ours = read_runs([tmp_path / "runs"])
    estimated = read_runs([write_offline(tmp_path / "offline", [1.0, 2.0], dataset="data")])  # without a reference
    imported = with_scores(import_runs([f"data={tmp_path / 'logs'}"]), ours + estimated)
    np.testing.assert_allclose(imported[0].scores, [10.0, 20.0] * 5)
    report = build_report([*ours, *imported])
    assert report.labels == ("relu", "relu+d3rlpy")
    assert report.tasks[0].measure == "score"
    assert report.tasks[0].start == 40
    assert any("areas begin at update 40" in note for note in report.notes)
    pooled = build_report([*ours, *imported], by=["activation"])
    assert any("relu has imported runs among others" in note for note in pooled.notes)


def test_scores_alone_are_not_compared_with_returns_alone(tmp_path):
    write_run(tmp_path, [1.0, 2.0], dataset="data", reference=None)
    (tmp_path / "results.csv").write_text(HEADER + "iql,data,relu,0,0,1\n")
    runs = [*read_runs([tmp_path]), *import_runs([str(tmp_path / "results.csv")])]
    with pytest.raises(InputError, match="some runs of iql on data have only scores and others none"):
        build_report(runs)


def test_a_source_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(InputError, match=r"there is no such file: give a \.csv, or DATASET=FOLDER"):
        import_runs(["results.csv"])
    with pytest.raises(InputError, match=r"d3rlpy's logs do not name their dataset: give --import DATASET="):
        import_runs([str(tmp_path)])
    with pytest.raises(InputError, match="no log of d3rlpy below"):
        import_runs([f"data={tmp_path}"])


def log_of_seeds(root, *returns):
    return [write_log(root, f"run{seed}", values) for seed, values in enumerate(returns)]


@pytest.mark.parametrize(
    ("returns", "kept"),
    [([1.0, 2.0, "nan"], 2), ([1.0, "nan", 3.0], 1), ([1.0, 2.0, "inf"], 2), (["nan", 2.0, 3.0], 0)],
)
def test_a_log_of_d3rlpy_with_an_evaluation_that_is_no_number_counts_as_diverged(tmp_path, capfd, returns, kept):
    *_, last = log_of_seeds(tmp_path, *[[1.0, 2.0, 3.0]] * 3, returns)
    runs = import_runs([f"data={tmp_path}"])
    assert [(run.status, len(run.updates)) for run in runs] == [*[("imported", 3)] * 3, ("diverged", kept)]
    warning = f"{last} has an evaluation that is no number, at update {40 * (kept + 1)}: it counts as diverged"
    assert warning in capfd.readouterr().err
    report = build_report(runs)
    group = report.tasks[0].groups[0]
    assert (len(group.runs), len(group.judged), group.diverged) == (4, 3, 1)
    assert group.obstacle("final") == "1 of 4 of relu diverged"
    assert any("1 of 4 runs of relu diverged" in note for note in report.notes)
    assert make_tables(report)["final"].rows[0][1].text == "2.0 ± 0.0 (3 of 4)"
    drawn = curve_data(report)["tasks"][0]["groups"][0]["runs"]
    assert [run["status"] for run in drawn] == ["imported"] * 3 + ["diverged"] * (kept > 0)


def test_a_folder_of_nothing_but_diverged_logs_of_d3rlpy_is_beside_ours(tmp_path):
    log_of_seeds(tmp_path / "logs", ["nan", 1.0])
    write_run(tmp_path / "runs", [1.0, 2.0, 3.0], 0)
    report = build_report([*read_runs([tmp_path / "runs"]), *import_runs([f"data={tmp_path / 'logs'}"])])
    assert sorted(run.status for task in report.tasks for group in task.groups for run in group.runs) == [
        "diverged", "finished"
    ]  # fmt: skip


def test_a_run_that_diverged_before_any_evaluation_is_counted_after_export_and_import(tmp_path):
    for seed in range(3):
        write_run(tmp_path / "runs", [1.0, 2.0, 3.0], seed)
    write_run(tmp_path / "runs", [], 3, status="diverged")
    runs = read_runs([tmp_path / "runs"])
    write_table(runs, tmp_path / "curves.csv")
    for records in (runs, import_runs([str(tmp_path / "curves.csv")])):
        (group,) = build_report(records).tasks[0].groups
        assert (len(group.runs), len(group.judged), group.diverged) == (4, 3, 1)


def test_damaged_logs_of_d3rlpy_are_named_and_left_out(tmp_path, capfd):
    whole = write_log(tmp_path, "whole", [1.0, 2.0])
    texts = {
        **{"nul": "1,40,\0\n", "digit": "1,²,3.0\n", "huge": f"1,{'9' * 5000},3.0\n", "empty": "", "_": "1,4_0,3\n"},
        **{"bytes": b"1,40,\xff\n", "late": f"1,{2**53},1.0\n"},
    }
    for name, text in texts.items():
        path = write_log(tmp_path, f"log {name}", [1.0]) / "environment.csv"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    settings = {
        **{"deep": "[" * 100_000, "list": "[1]", "type": '{"config": {"type": 3, "params": {}}}', "cut": '{"conf'},
        **{"params": '{"config": {"type": "iql", "params": {"actor_encoder_factory": {"params": 3}}}}'},
        **{"number": '{"config": {"type": "iql", "params": {"actor_encoder_factory": 7}}}'},
    }
    for name, text in settings.items():
        (write_log(tmp_path, f"settings {name}", [1.0]) / "params.json").write_text(text)
    for name in ("environment.csv", "time_step.csv"):
        folder = write_log(tmp_path, f"folder {name}", [1.0])
        (folder / name).unlink()
        (folder / name).mkdir()
    (run, untimed) = sorted(import_runs([f"data={tmp_path}"]), key=lambda run: run.path != whole)
    assert (run.path, run.returns.tolist()) == (whole, [1.0, 2.0])
    assert np.isnan(untimed.train_seconds).all()
    error = capfd.readouterr().err
    named = [f"log {name}" for name in texts] + [f"settings {name}" for name in settings] + ["folder environment.csv"]
    for name in named:
        assert f"{tmp_path / name} is no whole log of d3rlpy" in error
    assert f"{untimed.path / 'time_step.csv'} cannot be read" in error
    assert error.count("\n") == len(named) + 1


def test_the_untrained_policy_of_an_imported_run_is_in_no_final_value(tmp_path):
    rows = [f"iql,data,relu,{seed},{u},{value}\n" for seed in range(3) for u, value in ((0, 1000), (10, 2), (20, 4))]
    (tmp_path / "results.csv").write_text(HEADER + "".join(rows))
    report = build_report(import_runs([str(tmp_path / "results.csv")]))
    np.testing.assert_array_equal(report.tasks[0].groups[0].finals, 3.0)
    assert any("final values of relu are of 2 evaluations, not of five" in note for note in report.notes)


def test_a_table_of_untrained_policies_alone_has_no_final_value(tmp_path):
    (tmp_path / "results.csv").write_text(HEADER + "iql,data,relu,0,0,1\niql,data,silu,0,0,1\n")
    report = build_report(import_runs([str(tmp_path / "results.csv")]))
    assert report.tasks[0].horizon is None
    assert "iql on data: no run is finished, so none is judged" in report.notes
