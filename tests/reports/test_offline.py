"""Runs without an environment: their estimates are read, judged among themselves, and stand beside no return."""

import json
import re

import numpy as np
import pandas
import pytest

from rlrat.errors import InputError
from rlrat.reports.build import build_report
from rlrat.reports.html import render
from rlrat.reports.importing import import_runs
from rlrat.reports.metrics import with_metrics
from rlrat.reports.offline import read_offline
from rlrat.reports.page_data import page_data
from rlrat.reports.plots import make_figures
from rlrat.reports.read import filter_runs, read_runs, setting_texts
from rlrat.reports.tables import make_tables
from scripts import compare
from tests.reports.run_folders import (
    RISING,
    line,
    write_metrics,
    write_offline,
    write_offline_seeds,
    write_run,
    write_seeds,
)

TASK = "iql on rlrat/hopper/mixed-v0 (FQE)"


@pytest.fixture(autouse=True)
def small_plotly(monkeypatch):
    """Five megabytes that no test here reads."""
    monkeypatch.setattr("rlrat.reports.html._plotly", lambda: "var Plotly;")


@pytest.fixture
def both(tmp_path):
    """Two labels of five seeds, with an environment and without."""
    for activation, more in (("relu", 0.0), ("silu", 5.0)):
        write_seeds(tmp_path / "played", RISING + more, activation=activation)
        write_offline_seeds(tmp_path / "offline", RISING + 10 - more, activation=activation)
    return tmp_path


def test_a_run_is_read_with_its_estimates(tmp_path):
    folder = write_offline(
        tmp_path, [1.0, 2.5, 4.0], columns={"action_error": [0.5, 0.25, 0.125], "losses/q": [3, 2, ""]}
    )
    (run,) = read_runs([folder])
    np.testing.assert_array_equal(run.values, [1.0, 2.5, 4.0])
    assert np.isnan(run.returns).all()
    assert np.isnan(run.scores).all()
    np.testing.assert_array_equal(run.train_seconds, [0.0, 1.0, 2.0])
    assert run.offline == {"fqe_value": 4.0, "data_value": 40.0, "action_error": 0.125}
    assert run.measured
    assert setting_texts([run], "env-id") == ["none"]
    assert filter_runs([run], ["env_id=none"]) == [run]
    (played,) = read_runs([write_run(tmp_path / "played", [1.0])])
    assert played.values is None


def test_estimates_and_returns_are_tasks_apart(both):
    report = build_report(read_runs([both]))
    played, estimated = report.tasks
    assert (played.name, played.measure) == ("iql on rlrat/hopper/mixed-v0", "score")
    assert (estimated.name, estimated.measure, estimated.data_value) == (TASK, "value", 40.0)
    finals = {group.label: group.finals for group in estimated.groups}
    np.testing.assert_allclose([finals["relu"].mean(), finals["silu"].mean()], [60.0, 55.0])
    np.testing.assert_allclose(played.group("silu").finals.mean(), 55.0)
    assert [set(group.curves) for task in report.tasks for group in task.groups] == [{"score", "return"}] * 2 + [
        {"value"}
    ] * 2
    assert report.aggregate_tasks == (played.name,)
    assert {c.task: c.winner for c in report.comparisons} == {played.name: "silu", TASK: "relu"}
    verdicts = [c.verdict for c in report.comparisons if c.task == TASK]
    assert verdicts[0].startswith("relu ends higher in estimated value than silu: 60.0 against 55.0, by ")
    assert verdicts[1].startswith("relu is higher in estimated value on average over training than silu: ")
    assert [cell.text for cell in make_tables(report)["results"].rows[2][3:5]] == ["estimated value (FQE)", "60.0"]
    assert [note for note in report.notes if "These are estimates and no returns" in note] == [report.notes[0]]
    assert not any("not every label" in note or "Nothing is aggregated" in note for note in report.notes)


def test_the_final_value_is_of_the_last_five_and_never_of_the_untrained_policy(tmp_path):
    write_offline(tmp_path, [900.0, 1.0, 2.0], 0)
    write_offline(tmp_path, [900.0, 50.0, 1.0, 2.0, 3.0, 4.0, 5.0], 0, activation="silu")
    finals = {}
    for label in ("relu", "silu"):
        report = build_report(filter_runs(read_runs([tmp_path]), [f"activation={label}"]))
        finals[label] = report.tasks[0].groups[0].finals.tolist()
    assert finals == {"relu": [1.5], "silu": [3.0]}


def test_labels_without_returns_take_no_aggregate_from_the_others(both):
    write_offline_seeds(both / "more", activation="gelu")
    report = build_report(read_runs([both]))
    assert set(report.aggregates) == {"relu", "silu"}
    assert not any("Aggregates are" in note for note in report.notes)
    alone = build_report(read_runs([both / "offline"]))
    assert (alone.aggregates, alone.profiles, alone.improvements, alone.aggregate_curves) == ({}, {}, (), {})


def test_small_estimates_keep_their_digits(tmp_path):
    for activation, size in (("relu", 0.001), ("silu", 0.0012)):
        for seed in range(5):
            write_offline(tmp_path, size * (RISING + 1 + seed / 9), seed, activation=activation, data_value=0.05)
    report = build_report(read_runs([tmp_path]))
    assert report.tasks[0].digits == 4
    assert "silu ends higher in estimated value than relu: 0.0615 against 0.0512, by " in report.comparisons[0].verdict
    assert make_tables(report)["final"].rows[0][1].text == "0.0512 ± 0.0002"


def test_a_policy_without_an_estimate_is_listed_with_its_losses_and_not_tested(tmp_path):
    write_offline_seeds(tmp_path)
    for seed in range(5):
        write_offline(tmp_path, None, seed, agent="decision_transformer")
    report = build_report(read_runs([tmp_path]), by=["agent"])
    (task,) = report.tasks
    assert task.name == "rlrat/hopper/mixed-v0 (FQE)"
    transformer = task.group("decision_transformer")
    assert (len(transformer.runs), len(transformer.judged), transformer.unmeasured, transformer.unfinished) == (
        *(5, 0, 5, 0),
    )
    assert transformer.curves == {}
    assert {c.winner for c in report.comparisons} == {None}
    assert "decision_transformer has no estimated value, so nothing can be concluded" in report.comparisons[0].verdict
    rows = {row[1].text: [cell.text for cell in row[2:]] for row in make_tables(report)["without_environment"].rows}
    assert rows == {"decision_transformer": ["5", "-", "40", "1.75"], "iql": ["5", "50.0", "40", "0.75"]}
    assert any(
        "5 of 5 runs of decision_transformer have no estimated value (no fqe_value in" in n for n in report.notes
    )
    assert not any("have not come to update" in note for note in report.notes)
    alone = build_report(filter_runs(read_runs([tmp_path]), ["agent=decision_transformer"]))
    assert alone.tasks[0].horizon is None
    assert not any("no run is finished" in note for note in alone.notes)
    assert page_data(alone)["tasks"][0]["groups"][0]["curves"] == {}
    assert make_figures(alone) == {}


def test_estimates_of_different_discounts_are_not_compared(tmp_path):
    write_offline_seeds(tmp_path, discount=0.99)
    write_offline_seeds(tmp_path, RISING + 50, discount=0.999, name="discount=0.999", data_value=90.0)
    report = build_report(read_runs([tmp_path]), by=["discount"])
    (task,) = report.tasks
    assert task.data_value is None
    assert not any(np.isfinite(c.p) for c in report.comparisons)
    said = "the data's own value is not the same for all runs, so their discounts or their data differ"
    assert f"{said}, so nothing can be concluded" in report.comparisons[0].verdict
    assert f"{TASK}: {said}, and no test is made" in report.notes
    assert all(group.reach == () for group in task.groups)


def test_a_run_that_diverged_or_is_not_finished_is_counted_and_not_judged(tmp_path):
    write_offline_seeds(tmp_path, seeds=3)
    write_offline(tmp_path, RISING[:3], 3, status="diverged")
    write_offline(tmp_path, RISING[:4], 4, status=None)
    write_offline(tmp_path, [], 5, status="diverged")
    report = build_report(read_runs([tmp_path]))
    (group,) = report.tasks[0].groups
    assert (len(group.judged), group.diverged, group.unfinished, group.unmeasured) == (3, 2, 1, 0)
    assert any("2 of 6 runs of relu diverged" in note for note in report.notes)
    alone = build_report(filter_runs(read_runs([tmp_path]), ["status=unfinished"]))
    assert any("no run is finished, so none is judged; --until 30 judges" in note for note in alone.notes)
    until = build_report(filter_runs(read_runs([tmp_path]), ["status=unfinished"]), until=30)
    np.testing.assert_allclose(until.tasks[0].groups[0].finals, [20.0])


@pytest.mark.parametrize(
    ("damage", "known", "said"),
    [
        (lambda text: text[:-3], [0, 10, 20], "left out as damaged: line 5"),
        (lambda text: text.replace("20,", "x,"), [0, 10, 30], "left out as damaged: line 4"),
        (lambda text: text.replace("20.0", "nan"), [0, 10, 30], ""),
        (lambda text: text.replace("fqe_value", "other"), [], ""),
        (lambda text: text.replace("update", "time"), [], "has no header that can be read: its estimates and held-out"),
        (lambda text: "", [], "has no header that can be read"),
        (None, [], "does not exist: no estimates and held-out losses of this run are known"),
    ],
)
def test_what_is_left_of_a_damaged_file_is_read(tmp_path, capfd, damage, known, said):
    file = write_offline(tmp_path, [5.0, 10.0, 20.0, 30.0]) / "offline.csv"
    text = file.read_text()
    file.unlink()
    if damage is not None:
        file.write_text(damage(text))
    (run,) = read_runs([tmp_path])
    assert run.measured == bool(known)
    assert run.updates.tolist() == (known or [0, 10, 20, 30])
    assert run.missing == (tuple({0, 10, 20, 30} - set(known)) if known else ())
    assert said in capfd.readouterr().err
    notes = " ".join(build_report([run]).notes)
    assert ("lacks 1 evaluation" if known else "1 of 1 runs of relu have no estimated value") in notes


def test_lines_with_returns_are_no_evaluations_of_such_a_run(tmp_path, capfd):
    folder = write_offline(tmp_path, [1.0, 2.0])
    with (folder / "evaluations.csv").open("a") as file:
        file.write(line(20, 3000.0, ""))
    (run,) = read_runs([tmp_path])
    assert run.updates.tolist() == [0, 10]
    assert f"{folder / 'evaluations.csv'}: left out as damaged: line 4" in capfd.readouterr().err
    played = write_run(tmp_path / "played", [1.0, 2.0])
    with (played / "evaluations.csv").open("a") as file:
        file.write("20,2.000,4.000,,0,,,,\n")
    (run,) = read_runs([played])
    assert run.updates.tolist() == [0, 10]


def test_nothing_of_a_file_is_known_before_the_first_evaluation(tmp_path):
    values, found = read_offline(write_offline(tmp_path, [1.0]), np.array([], dtype=np.int64))
    assert (values.tolist(), found) == ([], {})


def test_imported_curves_are_never_beside_estimates(both, tmp_path):
    table = tmp_path / "others.csv"
    rows = [f"iql,rlrat/hopper/mixed-v0,relu,{seed},{u},{u}\n" for seed in range(3) for u in range(0, 100, 10)]
    table.write_text("agent,dataset,activation,seed,update,score\n" + "".join(rows))
    report = build_report([*read_runs([both / "offline"]), *import_runs([str(table)])], by=["activation"])
    assert [(task.measure, len(task.groups)) for task in report.tasks] == [("score", 1), ("value", 2)]
    assert not any("imported runs among others" in note for note in report.notes)


def test_settings_that_judge_are_named_where_they_differ(tmp_path):
    write_offline_seeds(tmp_path, fqe_updates=2000)
    write_offline_seeds(tmp_path, activation="silu", fqe_updates=500)
    report = build_report(read_runs([tmp_path]))
    assert any("not all runs were judged alike: fqe_updates: 2000 (relu), 500 (silu)" in note for note in report.notes)
    write_seeds(tmp_path / "played", fqe_updates=2000, holdout=None)
    write_seeds(tmp_path / "played", activation="silu")
    report = build_report(read_runs([tmp_path / "played"]))
    assert report.tasks[0].differences == ()


def test_metrics_and_seconds_are_those_of_any_run(tmp_path):
    for activation in ("relu", "silu"):
        for seed in range(3):
            folder = write_offline(tmp_path, RISING + seed, seed, activation=activation)
            write_metrics(folder, 10, losses_q=[3.0, 2.0, 1.0])
    report = build_report(with_metrics(read_runs([tmp_path]), ["losses/q"]))
    assert set(make_figures(report)) == {"curves_updates", "curves_seconds", "metric_losses-q"}
    assert "metrics" in make_tables(report)
    assert not any(group.reach for group in report.tasks[0].groups)  # 0 means nothing for an estimate
    assert "reach" not in make_tables(report)
    write_offline(tmp_path, RISING, 3, activation="silu", config={"device": "cuda"})
    other = build_report(read_runs([tmp_path]))
    assert any("training seconds cannot be compared: the device is" in note for note in other.notes)
    assert set(make_figures(other)) == {"curves_updates"}


def test_figures_say_whose_numbers_they_are(both):
    (played, estimated) = make_figures(build_report(read_runs([both])))["curves_updates"].axes
    assert (played.get_ylabel(), estimated.get_ylabel()) == ("normalised score", "estimated value (FQE)")
    level = [drawn for drawn in estimated.lines if list(drawn.get_ydata()) == [40.0, 40.0]]
    assert len(level) == 1
    legends = {}
    for name, folder in (("both", both), ("played", both / "played"), ("offline", both / "offline")):
        figure = make_figures(build_report(read_runs([folder])))["curves_updates"]
        legends[name] = figure.legends[0].get_texts()[-1].get_text()
    assert legends == {
        "both": "mean or value of the data",
        "played": "mean of the data",
        "offline": "value of the data",
    }


def test_the_page_of_estimates_says_nothing_of_returns(both):
    text = render(build_report(read_runs([both / "offline"])))
    assert re.findall(r'name="y" value="([^"]*)"( checked)?', text) == [("value", " checked")]
    data = json.loads(re.search(r'id="data">(.*?)</script>', text)[1])
    (task,) = data["tasks"]
    assert task["data"] == {"value": 40.0}
    assert "return" not in task["groups"][0]["runs"][0]
    np.testing.assert_allclose(task["groups"][0]["runs"][0]["value"], RISING + 10 - 0.4)
    visible = re.sub(r"<script.*?</script>|<style.*?</style>", "", text, flags=re.DOTALL)
    said = [sentence for sentence in re.split(r"[.;:<>\n]", visible) if re.search(r"\breturns?\b", sentence)]
    assert all("no returns" in sentence for sentence in said), said
    mixed = render(build_report(read_runs([both])))
    choices = re.findall(r'name="y" value="([^"]*)"( checked)?', mixed)
    assert choices == [("score", " checked"), ("return", ""), ("value", "")]
    assert ["are never in one panel" in page for page in (text, mixed)] == [False, True]


def test_the_command_tells_both_kinds_apart_in_every_file(both, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr("rlrat.reports.plots.FORMATS", ("svg",))
    compare.main(compare.Arguments((both,), output=tmp_path / "report"))
    out = capfd.readouterr().out
    assert out.count("These are estimates and no returns") == 1
    assert re.search(r"\| estimated value \(final\) \| the data's own value \| losses/actor \|", out)
    assert re.search(rf"\| {re.escape(TASK)} \| silu +\| 5 +\| 55\.0 +\| 40 +\| 0\.75 +\|", out)
    curves = pandas.read_csv(tmp_path / "report" / "curves.csv")  # scores, that others import
    assert len(curves) == 2 * 5 * 10
    np.testing.assert_allclose(curves.groupby("activation")["score"].max(), [50.4, 55.4])
    table = pandas.read_csv(tmp_path / "report" / "without_environment.csv")
    assert table["estimated value (final)"].tolist() == pytest.approx([60.0, 55.0])
    assert table["the data's own value"].tolist() == [40.0, 40.0]


def test_the_command_compares_runs_without_an_environment_alone(both, capfd):
    compare.main(compare.Arguments((both / "offline",)))
    out = capfd.readouterr().out
    assert "relu ends higher in estimated value than silu" in out
    assert "Aggregates" not in out
    write_offline(both / "none", [])
    with pytest.raises(InputError, match="no evaluated run below"):
        compare.main(compare.Arguments((both / "none",)))
