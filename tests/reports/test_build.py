from itertools import product

import numpy as np
import pytest

from rlrat.errors import InputError
from rlrat.reports.build import build_report
from rlrat.reports.importing import import_runs
from rlrat.reports.read import filter_runs, read_runs
from tests.reports.run_folders import (
    REFERENCE,
    RISING,
    SUCCESS_REFERENCE,
    line,
    write_goal_seeds,
    write_run,
    write_seeds,
)


def test_final_values_areas_and_times_by_hand(tmp_path):
    write_seeds(tmp_path, scatter=0.0)
    write_seeds(tmp_path, np.array([0.0, 40, 60, 60, 60, 60, 60, 60, 60, 60]), activation="rational", scatter=0.0)
    report = build_report(read_runs([tmp_path]))
    assert report.labels == ("relu", "rational")
    assert report.reference == "relu"
    (task,) = report.tasks
    assert (task.name, task.measure, task.horizon, task.start) == ("iql on rlrat/hopper/mixed-v0", "score", 90, 0)
    assert task.data_return == 500
    relu, rational = task.groups
    np.testing.assert_allclose(relu.finals, 50)
    np.testing.assert_allclose(rational.finals, 60)
    np.testing.assert_allclose(relu.areas, (50 * 5 / 2 + 50 * 4) / 9)
    reach = {share.share: share for share in relu.reach}
    # Running mean: 0, 5, 10, 20, 30, 40, 46.7, 50: it is at 25 from update 40 on, at 47.5 from 70 on.
    assert reach[0.5].updates.value == 40
    assert reach[0.95].updates.value == 70
    assert reach[0.95].seconds.value == 7
    assert [share.updates.value for share in rational.reach] == [20, 30, 30, 30]
    assert {share.reached for share in rational.reach} == {5}


def test_seeds_that_never_reach_or_diverge_are_censored(tmp_path):
    write_seeds(tmp_path)
    write_seeds(tmp_path, RISING / 2, seeds=3, activation="silu")
    write_run(tmp_path, RISING[:7], 3, activation="silu", status="diverged")
    report = build_report(read_runs([tmp_path]))
    silu = report.tasks[0].group("silu")
    assert (len(silu.judged), silu.diverged, silu.unfinished) == (3, 1, 0)
    (half, *_, most) = silu.reach
    assert (most.reached, most.seeds, most.updates.value) == (0, 4, np.inf)
    assert half.seeds == 4
    assert any("1 of 4 runs of silu diverged" in note for note in report.notes)
    assert report.tasks[0].group("relu").obstacle("final") is None
    assert silu.obstacle("final") == silu.obstacle("area") == "1 of 4 of silu diverged"


def test_the_reference_is_drawn_anew_in_every_bootstrap_sample(tmp_path):
    write_seeds(tmp_path, scatter=100.0)
    write_seeds(tmp_path, np.arange(0.0, 100, 10), activation="silu", scatter=0.0)
    (half, *_, most) = build_report(read_runs([tmp_path])).tasks[0].group("silu").reach
    # Seeds that are all the same scatter nothing: what is uncertain is the reference's final value alone.
    assert half.updates.low < half.updates.high
    assert most.updates.low < most.updates.high


def test_of_a_single_seed_of_the_reference_no_interval_is_known(tmp_path):
    write_run(tmp_path, RISING)
    write_seeds(tmp_path, activation="silu", scatter=30.0)
    for share in build_report(read_runs([tmp_path])).tasks[0].group("silu").reach:
        assert np.isfinite(share.updates.value)
        assert np.isnan([share.updates.low, share.updates.high, share.seconds.low, share.seconds.high]).all()


def test_what_comes_after_the_horizon_counts_for_no_time(tmp_path):
    write_seeds(tmp_path, RISING[:6], scatter=0.0)
    write_seeds(tmp_path, np.array([0.0, 40, 50, 50, 50, 50, 0, 0, 0, 0]), activation="silu", scatter=0.0)
    write_seeds(tmp_path, np.array([0.0, 0, 0, 0, 0, 0, 50, 50, 50, 50]), activation="tanh", scatter=0.0)
    (task,) = build_report(read_runs([tmp_path])).tasks
    assert task.horizon == 50
    assert {share.reached for share in task.group("silu").reach} == {5}
    assert {share.reached for share in task.group("tanh").reach} == {0}


def test_unfinished_runs_are_marked_and_judged_on_demand(tmp_path):
    write_seeds(tmp_path, seeds=3)
    write_run(tmp_path, RISING[:4], 3, status=None)
    report = build_report(read_runs([tmp_path]))
    (group,) = report.tasks[0].groups
    assert (len(group.runs), len(group.judged), group.unfinished) == (4, 3, 1)
    assert any("1 of 4 runs of relu have not come to update 90" in note for note in report.notes)
    (group,) = build_report(read_runs([tmp_path]), until=30).tasks[0].groups
    assert len(group.judged) == 4
    np.testing.assert_allclose(group.finals.mean(), 20, atol=1)  # without update 0


def test_runs_of_different_lengths_are_judged_at_the_same_update(tmp_path):
    write_seeds(tmp_path)
    write_seeds(tmp_path, RISING[:6], activation="silu", total_updates=50)
    report = build_report(read_runs([tmp_path]))
    assert report.tasks[0].horizon == 50
    np.testing.assert_allclose(report.tasks[0].group("relu").finals.mean(), 30)
    assert any("judged at update 50" in note and "others go on to 90" in note for note in report.notes)


def test_one_long_run_does_not_unjudge_the_others(tmp_path):
    write_seeds(tmp_path)
    write_seeds(tmp_path, activation="silu", seeds=4)
    write_run(tmp_path, np.append(RISING, [50.0] * 10), 4, activation="silu")
    (task,) = build_report(read_runs([tmp_path])).tasks
    assert task.horizon == 90
    assert [len(group.judged) for group in task.groups] == [5, 5]


def test_of_ends_that_are_as_common_the_earliest_judges_all(tmp_path):
    for seed, length in enumerate((6, 8, 10)):
        write_run(tmp_path, RISING[:length], seed)
    (task,) = build_report(read_runs([tmp_path])).tasks
    assert (task.horizon, len(task.groups[0].judged)) == (50, 3)


def write_late(root, first: int, seed: int, activation: str) -> None:
    """A run whose first evaluation is its place `first` of ten."""
    path = write_run(root, RISING, seed, activation=activation) / "evaluations.csv"
    header, *lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([header, *lines[first:]]))


def test_a_run_that_begins_late_has_no_area_and_moves_no_others(tmp_path):
    write_seeds(tmp_path)
    write_seeds(tmp_path, activation="silu", seeds=4)
    write_late(tmp_path, 9, 4, "silu")  # its last line alone
    report = build_report(read_runs([tmp_path]))
    (task,) = report.tasks
    assert task.start == 0
    silu = task.group("silu")
    assert np.isnan(silu.areas).tolist() == [False] * 4 + [True]
    assert len(silu.finals) == 5
    final, area = report.comparisons
    assert np.isfinite(final.p)
    assert np.isnan(area.p)
    assert "1 of 5 of silu begin too late for an area, so nothing can be concluded" in area.verdict
    assert any("1 of silu have no evaluation by update 0 and so no area" in note for note in report.notes)
    assert "from update 0 to where" in report.explanations["area"]


def test_areas_begin_where_all_runs_have_begun(tmp_path):
    write_seeds(tmp_path, np.append(RISING, [50.0] * 10))
    for seed in range(3):
        write_late(tmp_path, 1, seed, "silu")
    (task,) = (report := build_report(read_runs([tmp_path]), until=90)).tasks
    assert task.start == 0  # update 10 is after a tenth of 90
    assert np.isnan(task.group("silu").areas).all()
    (task,) = (report := build_report([run for run in read_runs([tmp_path]) if run.activation == "silu"])).tasks
    assert task.start == 10
    np.testing.assert_allclose(task.groups[0].areas, (60 / 2 + 20 + 30 + 40 + 50 * 4) / 8)
    assert "from update 10 to where" in report.explanations["area"]


def test_runs_of_one_evaluation_have_no_area(tmp_path):
    for seed in range(3):
        write_run(tmp_path, [5.0], seed)
        write_late(tmp_path, 9, seed, "silu")
    report = build_report(read_runs([tmp_path]), until=90)
    assert report.tasks[0].start is None
    assert np.isnan(report.tasks[0].group("silu").areas).all()
    assert any("none has an area" in note for note in report.notes)


def test_different_references_are_not_mixed(tmp_path):
    write_seeds(tmp_path)
    write_seeds(tmp_path, activation="silu", reference={**REFERENCE, "expert": 3000.0})
    report = build_report(read_runs([tmp_path]))
    (task,) = report.tasks
    assert task.measure == "return"
    np.testing.assert_allclose(task.group("silu").finals.mean(), 1000)
    assert "optimality_gap" not in report.aggregates["relu"]
    assert any("compared by raw returns" in note for note in report.notes)
    assert any("reference scores: " in note and "Hopper-v5: 0.0, 3000.0) (silu)" in note for note in report.notes)


def test_runs_without_references_are_compared_by_returns(tmp_path):
    write_seeds(tmp_path, reference=None)
    report = build_report(read_runs([tmp_path]))
    assert report.tasks[0].measure == "return"
    assert set(report.tasks[0].groups[0].curves) == {"return"}


def test_labels_made_of_any_setting_and_runs_that_they_mix(tmp_path):
    write_seeds(tmp_path, expectile=0.7)
    write_seeds(tmp_path, expectile=0.9, name="expectile=0.9")
    report = build_report(read_runs([tmp_path]), by=["expectile"])
    assert report.labels == ("0.7", "0.9")
    mixed = build_report(read_runs([tmp_path]), by=["activation"])
    assert mixed.labels == ("relu",)
    assert any("relu has runs of different settings: expectile: 0.7 (relu), 0.9 (relu)" in n for n in mixed.notes)
    both = read_runs([tmp_path])
    assert build_report(both).labels == ("relu", "relu+expectile=0.9")
    assert build_report([run for run in both if run.name]).labels == ("relu",)


def test_agents_can_be_compared_too(tmp_path):
    write_seeds(tmp_path)
    write_seeds(tmp_path, agent="td3_bc")
    report = build_report(read_runs([tmp_path]), by=["agent", "activation"], reference="td3_bc relu")
    assert report.labels == ("td3_bc relu", "iql relu")
    assert [task.name for task in report.tasks] == ["rlrat/hopper/mixed-v0"]


def test_a_run_without_an_evaluation_shortly_before_the_horizon_is_not_judged(tmp_path):
    write_seeds(tmp_path, np.full(11, 10.0))  # until 100
    write_seeds(tmp_path, np.array([24.0, 7.0, 7.0]), activation="sparse", every=150)
    report = build_report(read_runs([tmp_path]), until=100)
    (task,) = report.tasks
    assert (task.horizon, task.group("sparse").unfinished, len(task.group("sparse").finals)) == (100, 5, 0)
    assert any("or have no evaluation shortly before it" in note for note in report.notes)
    assert not any(comparison.winner for comparison in report.comparisons)


def test_how_often_runs_were_evaluated_makes_no_winner(tmp_path):
    """The last five evaluations of one are a tenth of training, of the other half of it."""

    def curve(every):
        return 50 * (1 - np.exp(-np.arange(0, 1001, every) / 200))

    write_seeds(tmp_path, curve(10))
    write_seeds(tmp_path, curve(100), activation="silu", every=100)
    (task,) = (report := build_report(read_runs([tmp_path]))).tasks
    assert not any(comparison.winner for comparison in report.comparisons)
    relu, silu = task.groups
    np.testing.assert_allclose(relu.finals, silu.finals)
    np.testing.assert_allclose(relu.areas, silu.areas)
    assert [share.updates for share in relu.reach] == [share.updates for share in silu.reach]
    assert any("final values, areas and times are of the 11 evaluations that all have" in n for n in report.notes)
    alone = build_report(filter_runs(read_runs([tmp_path]), ["activation=relu"]))
    assert not any("at the same updates" in note for note in alone.notes)


def test_runs_without_evaluations_in_common_are_not_tested(tmp_path):
    write_seeds(tmp_path, RISING)
    write_seeds(tmp_path, RISING + 10, activation="silu", every=7)
    report = build_report(read_runs([tmp_path]), until=63)
    assert {comparison.p for comparison in report.comparisons if comparison.p == comparison.p} == set()
    assert "silu against relu at the end: runs were evaluated at other updates than others, so" in (
        report.comparisons[0].verdict
    )
    assert any("so no test is made" in note for note in report.notes)


@pytest.mark.parametrize("updates", [(99, 105), (95, 105), (10, *range(15, 110, 10))])
def test_imports_that_share_few_evaluations_are_not_tested(tmp_path, updates):
    write_seeds(tmp_path, np.linspace(0, 50, 12))
    rows = [f"iql,rlrat/hopper/mixed-v0,relu,{seed},{u},{u + seed}\n" for seed in range(3) for u in updates]
    (tmp_path / "others.csv").write_text("agent,dataset,activation,seed,update,score\n" + "".join(rows))
    records = [*read_runs([tmp_path]), *import_runs([str(tmp_path / "others.csv")])]
    report = build_report(records, until=100)
    (task,) = report.tasks
    assert all(np.isfinite(group.finals).all() and len(group.finals) for group in task.groups)
    assert not any(np.isfinite(comparison.p) for comparison in report.comparisons)
    assert "so no test is made" in task.spacing


def test_evaluations_beyond_the_horizon_need_not_agree(tmp_path):
    write_seeds(tmp_path, np.append(RISING, 50.0))
    write_seeds(tmp_path, RISING, activation="silu")
    for folder in tmp_path.glob("**/silu/seed*"):
        with (folder / "evaluations.csv").open("a") as file:
            file.write(line(97, 1000.0, 50.0) + line(100, 1000.0, 50.0))
    (task,) = build_report(read_runs([tmp_path]), until=90).tasks
    assert task.spacing is None
    np.testing.assert_allclose(task.group("relu").finals, task.group("silu").finals)


def test_tasks_that_all_labels_have_are_aggregated_where_the_others_are_of_another_family(tmp_path):
    for dataset, activation in (("a", "relu"), ("a", "silu"), ("a", "gelu"), *product(("b", "c"), ("relu", "silu"))):
        reference = {**REFERENCE, "name": "other" if dataset == "b" else "v5-test"}
        write_seeds(tmp_path, dataset=dataset, activation=activation, reference=reference)
    report = build_report(read_runs([tmp_path]))
    assert report.aggregate_tasks == ("iql on a",)
    assert set(report.aggregates) == {"relu", "silu", "gelu"}


def test_a_label_without_text_is_a_dash(tmp_path):
    write_seeds(tmp_path)
    write_seeds(tmp_path, name="own")
    assert set(build_report(read_runs([tmp_path]), by=["run-name"]).labels) == {"-", "own"}


def test_aggregates_are_over_the_tasks_that_every_label_has(tmp_path):
    for dataset in ("a", "b"):
        write_seeds(tmp_path, dataset=dataset)
        write_seeds(tmp_path, RISING + 5, dataset=dataset, activation="silu")
    write_seeds(tmp_path, dataset="c")
    report = build_report(read_runs([tmp_path]))
    assert report.aggregate_tasks == ("iql on a", "iql on b")
    assert report.aggregates["silu"]["mean"].value == pytest.approx(55)
    assert report.aggregates["silu"]["optimality_gap"].value == pytest.approx(45)
    np.testing.assert_allclose(report.aggregate_curves["silu"].mean, RISING + 5)
    (improvement,) = report.improvements
    assert (improvement.first, improvement.second, improvement.probability.value) == ("silu", "relu", 1)
    np.testing.assert_allclose(report.profiles["silu"].share[[0, -1]], [1, 0])
    assert any("Aggregates are over iql on a, iql on b alone" in note for note in report.notes)


def test_a_label_on_few_tasks_costs_the_others_none_of_theirs(tmp_path):
    for dataset in ("a", "b", "c"):
        for activation in ("relu", "silu"):
            write_seeds(tmp_path, dataset=dataset, activation=activation)
    write_seeds(tmp_path, dataset="a", activation="tried")
    report = build_report(read_runs([tmp_path]))
    assert len(report.aggregate_tasks) == 3
    assert set(report.aggregates) == set(report.profiles) == set(report.aggregate_curves) == {"relu", "silu"}
    assert any("Aggregates are without tried, not judged on every task" in note for note in report.notes)


def test_tasks_against_different_references_are_not_aggregated(tmp_path):
    write_seeds(tmp_path, dataset="a")
    write_seeds(tmp_path, dataset="b", reference={**REFERENCE, "name": "d4rl-v2"})
    report = build_report(read_runs([tmp_path]))
    assert report.aggregates == {}
    assert report.profiles == {}
    assert any("Nothing is aggregated over tasks" in note for note in report.notes)


def test_mistakes_are_one_line(tmp_path):
    write_run(tmp_path, RISING)
    runs = read_runs([tmp_path])
    with pytest.raises(InputError, match="--reference is 'gelu', but the labels are relu"):
        build_report(runs, reference="gelu")
    with pytest.raises(InputError, match="no run has a setting 'activatoin'; the nearest is activation"):
        build_report(runs, by=["activatoin"])


GOAL = np.array([0.0, 0.1, 0.2, 0.4, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6])


def test_runs_are_compared_by_success_where_that_is_asked_for(tmp_path):
    for dataset in ("a", "b"):
        write_goal_seeds(tmp_path, GOAL, dataset=dataset)
        write_goal_seeds(tmp_path, GOAL + 0.2, dataset=dataset, activation="silu")
    records = read_runs([tmp_path])
    report = build_report(records)
    (task, _) = report.tasks
    assert task.measure == "return"
    assert report.aggregate_tasks == ()  # raw returns of two tasks
    relu = task.group("relu")
    assert list(relu.curves) == ["return", "success"]
    np.testing.assert_allclose(relu.curves["success"].mean, [0.006, *GOAL[1:]], atol=1e-9)
    assert relu.final_success == pytest.approx(0.6)

    report = build_report(records, measure="success")
    (task, _) = report.tasks
    assert task.measure == "success"
    np.testing.assert_allclose(task.group("silu").finals.mean(), 0.8)
    assert task.group("silu").reach[-1].threshold == pytest.approx(0.95 * 0.6)
    assert report.aggregate_tasks == tuple(task.name for task in report.tasks)
    assert report.aggregates["silu"]["iqm"].value == pytest.approx(0.8, abs=0.01)
    assert "optimality_gap" not in report.aggregates["silu"]
    assert report.aggregate_curves["silu"].mean[-1] == pytest.approx(0.8, abs=0.01)
    verdict = next(comparison.verdict for comparison in report.comparisons)
    assert verdict.startswith("silu ends higher in success rate than relu: 0.800 against 0.600, by 0.1")
    assert "success rate" in report.explanations


def test_scores_of_success_are_scores(tmp_path):
    write_goal_seeds(tmp_path, GOAL, reference=SUCCESS_REFERENCE)
    report = build_report(read_runs([tmp_path]))
    (task,) = report.tasks
    assert task.measure == "score"
    np.testing.assert_allclose(task.groups[0].finals.mean(), 60)
    assert task.groups[0].final_success == pytest.approx(0.6)


def test_a_measure_that_not_all_runs_have_is_refused(tmp_path):
    write_goal_seeds(tmp_path, GOAL)
    write_run(tmp_path, RISING, activation="silu")
    records = read_runs([tmp_path])
    with pytest.raises(
        InputError, match=r"^not all runs of iql on .* have a success rate at every evaluation: give another"
    ):
        build_report(records, measure="success")
    with pytest.raises(
        InputError, match=r"have a score at every evaluation against one reference: give another --measure"
    ):
        build_report(records, measure="score")
    (task,) = build_report(records, measure="return").tasks
    assert task.measure == "return"
    assert "success" not in task.group("silu").curves
    assert np.isnan(task.group("silu").final_success)


def test_returns_that_were_asked_for_are_not_said_to_avoid_mixed_references(tmp_path):
    write_seeds(tmp_path)
    records = read_runs([tmp_path])
    report = build_report(records, measure="return")
    np.testing.assert_allclose(report.tasks[0].groups[0].finals.mean(), 1000)
    assert not any("raw returns" in note for note in report.notes)
    write_seeds(tmp_path, activation="silu", reference=REFERENCE | {"expert": 3000.0})
    assert any("raw returns" in note for note in build_report(read_runs([tmp_path])).notes)
