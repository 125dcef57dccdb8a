import json
from itertools import product

import numpy as np
import pytest
from run_folders import write_run

from rlrat.errors import InputError
from rlrat.reports.build import build_report
from rlrat.reports.importing import import_runs, with_scores, write_table
from rlrat.reports.read import read_runs

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
    imported = with_scores(import_runs([f"data={tmp_path / 'logs'}"]), ours)
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
