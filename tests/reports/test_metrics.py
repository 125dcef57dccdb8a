"""Metrics of runs in reports: read, damaged, drawn, in tables and on the page."""

import csv
import math
import re

import numpy as np
import pytest

from rlrat.errors import InputError
from rlrat.reports import files
from rlrat.reports.build import build_report
from rlrat.reports.html import render
from rlrat.reports.metrics import with_metrics
from rlrat.reports.metrics import write_metrics as write_curves
from rlrat.reports.page_data import page_data
from rlrat.reports.plots import make_figures
from rlrat.reports.read import read_runs
from rlrat.reports.tables import make_tables
from tests.reports.run_folders import write_metrics, write_run

RISING = [0.0, 10.0, 20.0, 30.0]


def _read(root, *names):
    return with_metrics(read_runs([root]), names)


@pytest.fixture
def run(tmp_path):
    """A run that is evaluated at 0, 10, 20 and 30 and has points at 4, 8, ..., 32."""
    folder = write_run(tmp_path / "runs", RISING)
    return write_metrics(
        folder, 4, losses_q=[8, 7, 6, 5, 4, 3, 2, 1], charts_gap=["", 1, "", "nan", "inf", "-inf", 2, ""]
    )


def test_a_metric_has_its_points_and_seconds_between_evaluations(run):
    (record,) = _read(run, "losses/q")
    assert list(record.metrics) == ["losses/q"]
    line = record.metrics["losses/q"]
    np.testing.assert_array_equal(line.updates, np.arange(4, 33, 4))
    np.testing.assert_array_equal(line.values, np.arange(8.0, 0.0, -1.0))
    np.testing.assert_allclose(line.train_seconds, [*np.arange(0.4, 2.9, 0.4), np.nan])  # 32 is behind the last


def test_an_empty_field_is_no_point_and_what_is_not_finite_a_gap(run):
    (record,) = _read(run, "charts/gap")
    line = record.metrics["charts/gap"]
    np.testing.assert_array_equal(line.updates, [8, 16, 20, 24, 28])
    np.testing.assert_array_equal(line.values, [1, np.nan, np.nan, np.nan, 2])


def test_without_metrics_no_file_is_opened(run, monkeypatch):
    monkeypatch.setattr(files, "open_text", None)
    (record,) = _read(run)
    assert record.metrics == {}


def test_patterns_are_every_metric_that_they_fit_in_the_order_of_the_file(run):
    (record,) = _read(run, "*/*")
    assert list(record.metrics) == ["losses/q", "charts/gap"]
    (record,) = _read(run, "charts/*", "losses/q", "charts/gap")
    assert list(record.metrics) == ["charts/gap", "losses/q"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("loss/q", r"no run has a metric 'loss/q'; the nearest are losses/q, charts/gap"),
        ("rational/*", r"no run has a metric 'rational/\*'; the nearest are "),
        ("\x1b[2J", r"no run has a metric '\N{REPLACEMENT CHARACTER}\[2J'"),
    ],
)
def test_an_unknown_metric_is_one_line_with_the_nearest(run, name, message):
    with pytest.raises(InputError, match=message):
        _read(run, name)


def test_runs_of_before_have_none(tmp_path):
    write_run(tmp_path, RISING)
    with pytest.raises(InputError, match=r"--metric has losses/q, but none of these runs has a metrics\.csv"):
        _read(tmp_path, "losses/q")


def test_runs_without_a_metric_are_named_and_left_out_of_its_curve(run, tmp_path, capfd):
    folders = [write_run(tmp_path / "runs", RISING, seed) for seed in range(1, 6)]
    report = build_report(_read(tmp_path / "runs", "losses/q"))
    (said,) = capfd.readouterr().err.splitlines()
    named = ", ".join(map(str, folders[:3]))
    assert (
        said == f"warning: 5 of 6 runs have no losses/q in a metrics.csv, and are not in its curves: {named} and 2 more"
    )
    curve = report.tasks[0].groups[0].metrics["losses/q"]
    np.testing.assert_array_equal(curve.mean, np.arange(8.0, 0.0, -1.0))
    assert set(curve.seeds) == {1}
    assert report.metrics == ("losses/q",)


def test_metrics_that_the_same_runs_lack_are_one_warning(run, tmp_path, capfd):
    more = {f"rational_{number}": [1.0] * 8 for number in range(5)}
    write_metrics(write_run(tmp_path / "runs", RISING, activation="rational"), 4, losses_q=[1.0] * 8, **more)
    _read(tmp_path / "runs", "rational/*", "losses/*", "charts/*")
    gap, rational = capfd.readouterr().err.splitlines()[::-1]
    names = "rational/0, rational/1, rational/2 and 2 more"
    assert f"1 of 2 runs have no {names} in a metrics.csv, and are not in their curves: {run}" in rational
    assert "1 of 2 runs have no charts/gap in a metrics.csv, and are not in its curves: " in gap


@pytest.mark.parametrize(
    "damage", ["x,1", "12,1,1", "12", "-4,1", "1e3,1", "12,x", "12,1_0", "٣,1", f"{2**63},1", '12,"1"', ""]
)
def test_damaged_lines_are_left_out_and_named(tmp_path, capfd, damage):
    folder = write_metrics(write_run(tmp_path, RISING), 4, losses_q=[3, 2, 1])
    lines = (folder / "metrics.csv").read_text().splitlines()
    (folder / "metrics.csv").write_text("\n".join([*lines[:2], damage, *lines[2:]]) + "\n16,")  # and one cut short
    (record,) = _read(tmp_path, "losses/q")
    np.testing.assert_array_equal(record.metrics["losses/q"].values, [3, 2, 1])
    assert f"{folder / 'metrics.csv'}: left out as damaged: line 3, 6" in capfd.readouterr().err


def test_of_an_update_that_is_there_twice_the_last_line_counts(tmp_path):
    folder = write_metrics(write_run(tmp_path, RISING), 4, losses_q=[3, 2, 1])
    with (folder / "metrics.csv").open("a") as file:
        file.write("8,5\n10,4\n")
    (record,) = _read(tmp_path, "losses/q")
    line = record.metrics["losses/q"]
    assert dict(zip(line.updates.tolist(), line.values.tolist(), strict=True)) == {4: 3, 8: 5, 10: 4, 12: 1}


@pytest.mark.parametrize(
    "header", ["", "losses/q", "update", "update,losses/q,losses/q", "update," + "x" * 2**20, "update," + "a," * 20_000]
)
def test_a_header_that_is_none_is_named(tmp_path, capfd, header):
    folder = write_run(tmp_path / "damaged", RISING)
    (folder / "metrics.csv").write_text(f"{header}\n4,1\n")
    write_metrics(write_run(tmp_path / "whole", RISING, 1), 4, losses_q=[1, 2])
    records = _read(tmp_path, "losses/q")
    assert [len(record.metrics) for record in records] == [0, 1]
    said = capfd.readouterr().err
    assert header == "update" or f"{folder / 'metrics.csv'} has no header that can be read" in said
    assert "1 of 2 runs have no losses/q" in said


def test_what_is_no_file_or_too_large_is_named(tmp_path, capfd, monkeypatch):
    write_metrics(write_run(tmp_path / "whole", RISING, 1), 4, losses_q=[1, 2])
    folder = write_run(tmp_path / "damaged", RISING)
    (folder / "metrics.csv").mkdir()
    assert [len(record.metrics) for record in _read(tmp_path, "losses/q")] == [0, 1]
    assert f"{folder / 'metrics.csv'} cannot be read (" in capfd.readouterr().err
    (folder / "metrics.csv").rmdir()
    write_metrics(folder, 4, losses_q=range(1000))
    monkeypatch.setattr(files, "_MOST_BYTES", 1000)
    assert [len(record.metrics) for record in _read(tmp_path, "losses/q")] == [0, 1]
    assert "has more than 0 GiB: its metrics are left out" in capfd.readouterr().err


def test_names_from_a_file_are_printable(tmp_path):
    folder = write_run(tmp_path, RISING)
    (folder / "metrics.csv").write_text("update,\x1b[2J\n4,1\n8,2\n")
    (record,) = _read(tmp_path, "*2J")
    assert list(record.metrics) == ["\N{REPLACEMENT CHARACTER}[2J"]


@pytest.fixture
def report(tmp_path):
    """Two labels on two tasks, three seeds each, with one metric that only one label has."""
    for dataset in ("a", "b"):
        for activation, more in (("relu", {}), ("rational", {"rational_outside": [0.5, 0.25, 0.125]})):
            for seed in range(3):
                folder = write_run(tmp_path / "runs", RISING, seed, dataset=dataset, activation=activation)
                write_metrics(folder, 10, losses_q=[3 + seed, 2 + seed, 1 + seed], **more)
    return build_report(_read(tmp_path / "runs", "losses/q", "rational/*"))


@pytest.mark.filterwarnings("error")
def test_curves_are_means_over_seeds_with_a_band(report):
    curve = report.tasks[0].group("relu").metrics["losses/q"]
    np.testing.assert_array_equal(curve.updates, [10, 20, 30])
    np.testing.assert_array_equal(curve.mean, [4, 3, 2])
    assert (curve.low < curve.mean).all()
    assert (curve.high > curve.mean).all()
    np.testing.assert_allclose(curve.seconds, [1, 2, 3])
    assert list(report.tasks[0].group("relu").metrics) == ["losses/q"]
    assert report.metrics == ("losses/q", "rational/outside")
    assert "metrics" in report.explanations


@pytest.mark.filterwarnings("error")
def test_a_point_that_no_seed_has_finite_is_a_gap(tmp_path):
    for seed, values in enumerate((["nan", 2, 3], ["nan", "inf", 5])):
        write_metrics(write_run(tmp_path, RISING, seed), 10, losses_q=values)
    curve = build_report(_read(tmp_path, "losses/q")).tasks[0].groups[0].metrics["losses/q"]
    np.testing.assert_array_equal(curve.mean, [np.nan, 2, 4])
    np.testing.assert_array_equal(curve.seeds, [0, 1, 2])


def test_a_table_has_the_last_point_of_each(report):
    table = make_tables(report)["metrics"]
    rows = [tuple(cell.text for cell in row) for row in table.rows]
    assert rows[0][:6] == ("iql on a", "relu", "losses/q", "3", "30", "2")
    assert [row[1:3] for row in rows[:3]] == [
        ("relu", "losses/q"),
        ("rational", "losses/q"),
        ("rational", "rational/outside"),
    ]
    assert (rows[2][5], len(rows)) == ("0.125", 6)


def test_a_figure_has_a_panel_for_each_task(report):
    figures = make_figures(report)
    assert {"metric_losses-q", "metric_rational-outside"} < set(figures)
    figure = figures["metric_losses-q"]
    assert [axes.get_title() for axes in figure.axes] == ["iql on a", "iql on b"]
    for axes in figure.axes:
        assert (axes.get_xlabel(), axes.get_ylabel()) == ("updates", "losses/q")
        np.testing.assert_allclose(axes.lines[0].get_ydata(), [4, 3, 2])
        assert len(axes.collections) == 2  # bands


def test_all_points_are_exported(report, tmp_path):
    runs = [run for task in report.tasks for group in task.groups for run in group.runs]
    write_curves(runs, report.metrics, tmp_path / "metric_curves.csv")
    with (tmp_path / "metric_curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3 * 3
    assert rows[0] == {
        **{"agent": "iql", "dataset": "a", "activation": "relu", "seed": "0", "update": "10"},
        **{"losses/q": "3", "rational/outside": ""},
    }
    assert {row["rational/outside"] for row in rows if row["activation"] == "rational"} == {"0.5", "0.25", "0.125"}


def test_the_page_has_a_choice_and_the_numbers(report, monkeypatch):
    monkeypatch.setattr("rlrat.reports.html._plotly", lambda: "var Plotly;")
    text = render(report)
    assert re.findall(r'name="y" value="([^"]+)"', text) == [
        "score",
        "return",
        "metric:losses/q",
        "metric:rational/outside",
    ]
    data = page_data(report)
    (group,) = (group for group in data["tasks"][1]["groups"] if data["labels"][group["label"]]["name"] == "relu")
    drawn = group["metrics"]["losses/q"]
    assert drawn["curve"]["mean"] == [4, 3, 2]
    assert [run["values"] for run in drawn["runs"]] == [[3, 2, 1], [4, 3, 2], [5, 4, 3]]
    assert data["updates"][drawn["runs"][0]["updates"]] == [10, 20, 30]
    assert data["tasks"][0]["groups"][0]["metrics"] == {}  # scores alone are aggregated


def test_names_on_the_page_are_escaped(tmp_path, monkeypatch):
    monkeypatch.setattr("rlrat.reports.html._plotly", lambda: "var Plotly;")
    folder = write_run(tmp_path, RISING)
    name = "<img src=x onerror=alert(1)>"
    (folder / "metrics.csv").write_text(f"update,{name}\n4,1\n8,2\n")
    text = render(build_report(_read(tmp_path, name)))
    assert name not in text


def test_a_page_of_many_points_is_thinned_and_keeps_the_extremes(tmp_path):
    values = np.sin(np.arange(5000) / 300)
    values[1234] = -50
    write_metrics(write_run(tmp_path, RISING), 10, losses_q=values.round(6).tolist())
    data = page_data(build_report(_read(tmp_path, "losses/q")))
    (task,) = data["tasks"]
    (run,) = task["groups"][0]["metrics"]["losses/q"]["runs"]
    assert len(run["values"]) < 1000
    assert min(run["values"]) == -50
    assert task["thinned_metrics"] == "Drawn are some of 5,000 points."
    assert task["thinned"] == ""
    assert not any(value is not None and math.isnan(value) for value in run["values"])
