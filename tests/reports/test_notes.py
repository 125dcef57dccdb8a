import numpy as np

from rlrat.reports.build import build_report
from rlrat.reports.notes import folded
from rlrat.reports.read import read_runs
from rlrat.reports.tables import make_tables
from tests.reports.run_folders import RISING, write_run, write_seeds


def test_where_nothing_is_finished_nothing_is_judged(tmp_path):
    write_run(tmp_path, RISING, status=None)
    report = build_report(read_runs([tmp_path]))
    assert report.tasks[0].horizon is None
    assert len(report.tasks[0].groups[0].judged) == 0
    assert "--until 90 judges all" in report.notes[0]
    np.testing.assert_allclose(report.tasks[0].groups[0].curves["score"].mean, RISING)


def test_a_reference_that_ends_below_zero_has_no_shares(tmp_path):
    write_seeds(tmp_path, -RISING)
    report = build_report(read_runs([tmp_path]))
    assert report.tasks[0].groups[0].reach == ()
    assert any("relu ends at -50.0, and a share of what is not above 0 means nothing" in n for n in report.notes)


def test_a_task_where_the_reference_is_not_judged_says_so(tmp_path):
    write_seeds(tmp_path, dataset="a")
    write_seeds(tmp_path, dataset="b", activation="silu")
    report = build_report(read_runs([tmp_path]))
    assert report.tasks[1].groups[0].reach == ()
    assert "iql on b: no run of relu is judged, so no speed is measured against it" in report.notes


def test_final_values_of_fewer_evaluations_say_so(tmp_path):
    for seed in range(3):
        write_run(tmp_path, [99.0, 1.0, 2.0 + seed / 10], seed)
        write_run(tmp_path, [99.0, 5.0, 6.0 + seed / 10], seed, activation="silu")
    report = build_report(read_runs([tmp_path]))
    np.testing.assert_allclose(report.tasks[0].group("relu").finals, [1.5, 1.55, 1.6])
    final = report.comparisons[0]
    assert "(fewer than five evaluations: 2 of silu and 2 of relu; p = " in final.verdict
    assert "fewer than five" not in report.comparisons[1].verdict  # of the area
    assert any("final values of silu are of 2 evaluations, not of five" in note for note in report.notes)
    tables = make_tables(report)
    assert [row[-1].text for row in tables["results"].rows] == ["2", "2"]
    assert tables["final"].title.endswith("or of all that a trained policy has where they are fewer")


def test_notes_that_say_the_same_of_others_are_folded(tmp_path):
    for dataset in ("a", "b"):
        write_seeds(tmp_path, dataset=dataset)
        write_seeds(tmp_path, seeds=2, dataset=dataset, activation="silu")
    report = build_report(read_runs([tmp_path]))
    said = [f"/runs/{place}/x y has no evaluation yet: it is left out" for place in ("one", "two")]
    groups = folded([*said, "/runs/one: left out as damaged: line 3", *report.notes], report)
    assert said in groups
    assert ["/runs/one: left out as damaged: line 3"] in groups
    (few,) = [group for group in groups if "fewer than 3 seeds" in group[0]]
    assert [note.partition(":")[0] for note in few] == ["iql on a", "iql on b"]
    assert sum(map(len, groups)) == 3 + len(report.notes)
