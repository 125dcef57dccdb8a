from dataclasses import replace

from rlrat.reports.build import build_report
from rlrat.reports.explanations import explanations
from rlrat.reports.read import read_runs
from tests.reports.run_folders import RISING, write_seeds


def test_they_name_the_reference_and_where_areas_begin(tmp_path):
    write_seeds(tmp_path, activation="silu")
    write_seeds(tmp_path, RISING + 1, activation="gelu")
    report = build_report(read_runs([tmp_path]), reference="gelu")
    found = explanations(report)
    assert found == report.explanations
    assert "95% of gelu's final value" in found["reach"]
    assert found["area"].startswith("Area under a run's curve from update 0 to where its task is judged")
    (task,) = report.tasks
    late = replace(report, tasks=(replace(task, start=2000), replace(task, start=10), replace(task, start=None)))
    assert "from update 10 or 2,000 to where" in explanations(late)["area"]
    assert "from update 0 to where" in explanations(replace(report, tasks=(replace(task, start=None),)))["area"]


def test_every_one_is_whole_sentences(tmp_path):
    write_seeds(tmp_path, seeds=2)
    for name, text in build_report(read_runs([tmp_path])).explanations.items():
        assert name.islower()
        assert text.endswith(".")
        assert "  " not in text
