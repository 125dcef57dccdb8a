import numpy as np

from rlrat.reports.build import build_report
from rlrat.reports.learned import read_learned
from rlrat.reports.page_data import page_data
from rlrat.reports.read import read_runs
from tests.reports.page_runs import LAYERS, make_report, make_run
from tests.reports.run_folders import SUCCESS_REFERENCE, write_goal_seeds


def test_curves_are_the_reports(tmp_path):
    report = make_report(tmp_path)
    data = page_data(report)
    (task,) = data["tasks"]
    for drawn, group in zip(task["groups"], report.tasks[0].groups, strict=True):
        assert data["labels"][drawn["label"]]["name"] == group.label
        curve = drawn["curves"]["score"]
        np.testing.assert_allclose(curve["mean"], group.curves["score"].mean, rtol=1e-4)
        assert data["updates"][curve["updates"]] == group.curves["score"].updates.tolist()
        assert curve["seeds"] == [3] * 21
        assert len(drawn["runs"]) == 3
        for seed, run in zip(drawn["runs"], group.runs, strict=True):
            np.testing.assert_allclose(seed["return"], run.returns, rtol=1e-4)
    assert len(data["updates"]) == 1  # what all runs have in common is there once
    assert task["data"] == {"return": 500.0, "score": 25.0}


def test_learned_functions_are_the_runs(tmp_path):
    report = make_report(tmp_path, ("rational",), seeds=2)
    (entry,) = page_data(report)["learned"]
    assert [layer["name"] for layer in entry["layers"]] == list(LAYERS)
    layer = entry["layers"][0]
    assert layer["lines"] == [f"seed {seed}, critic {part}" for seed in (0, 1) for part in (1, 2)]
    recorded = read_learned(report.tasks[0].groups[0].runs[1].path)["q.hidden.0"]
    np.testing.assert_allclose(layer["numerator"][-1][3], recorded.numerator[-1, 0, 1, 0], rtol=1e-3)
    assert entry["updates"] == recorded.updates.tolist()
    np.testing.assert_allclose(np.sum(layer["histogram"], axis=1), 1.0, rtol=1e-2)


def test_functions_of_a_users_are_values_on_one_grid(tmp_path):
    for seed in range(2):
        folder = make_run(tmp_path / "runs", "rational", seed)
        text = (folder / "activations.csv").read_text()
        (folder / "activations.csv").write_text(text.replace(",A,", ",custom:Snake,"))
    report = build_report(read_runs([tmp_path / "runs"]))
    (entry,) = page_data(report)["learned"]
    layer, recorded = entry["layers"][0], read_learned(folder)["q.hidden.0"]
    assert (layer["version"], layer["numerator"][-1][3]) == ("custom:Snake", [])
    assert layer["denominator"][0][3][0] is None  # the first evaluation met fewer inputs than the last
    shown = recorded.values(np.linspace(layer["low"], layer["high"], 61))[-1, 0, 1, 0]
    np.testing.assert_allclose(layer["denominator"][-1][3], shown, rtol=1e-3)


def test_success_rates_are_drawn_where_there_are_some(tmp_path):
    rates = np.array([0.0, 0.2, 0.4, 0.5, 0.5, 0.5])
    for dataset in ("a", "b"):
        write_goal_seeds(tmp_path, rates, dataset=dataset, reference=SUCCESS_REFERENCE)
    records = read_runs([tmp_path])
    together, task, _ = page_data(build_report(records))["tasks"]
    (group,) = task["groups"]
    np.testing.assert_allclose(group["curves"]["success"]["mean"], np.array(group["curves"]["score"]["mean"]) / 100)
    np.testing.assert_allclose(group["runs"][2]["success"], rates)
    assert task["data"] == {"return": 500.0, "score": None}
    assert list(together["groups"][0]["curves"]) == ["score"]
    together, *_ = page_data(build_report(records, measure="success"))["tasks"]
    np.testing.assert_allclose(together["groups"][0]["curves"]["success"]["mean"][-1], 0.5)
