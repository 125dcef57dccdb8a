from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from rlrat.reports.build import build_report
from rlrat.reports.read import RunRecord, read_runs
from rlrat.reports.report import RunGroup, Task
from rlrat.reports.significance import compare_means, corrected
from rlrat.reports.statistics import Estimate
from rlrat.reports.verdicts import best_and_tied, compare_all
from tests.reports.run_folders import write_run

FLAT = np.ones(6)


@pytest.fixture
def report_of(tmp_path):
    """`report_of(relu=[1.0, 2.0])`: of runs that stay at these heights."""

    def build(**heights):
        for activation, values in heights.items():
            for seed, value in enumerate(values):
                write_run(tmp_path, value * FLAT, seed, activation=activation)
        return build_report(read_runs([tmp_path]))

    return build


def test_a_winner_has_a_corrected_p_below_five_percent(report_of):
    heights = {"relu": [40.0, 41, 42, 43, 44], "silu": [40.5, 41, 41.5, 43, 45], "rational": [50.0, 51, 52, 53, 54]}
    report = report_of(**heights)
    final = {(c.first, c.second): c for c in report.comparisons if c.quantity == "final"}
    assert set(final) == {("silu", "relu"), ("rational", "relu"), ("rational", "silu")}
    best = final["rational", "relu"]
    p = float(compare_means(*(np.array(heights[label]) for label in ("rational", "relu")))[3])
    assert best.p == pytest.approx(p)
    # Flat curves: areas repeat the final values, so that each pair counts once, and this p is the least.
    assert best.p_corrected == pytest.approx(3 * p)
    assert best.winner == "rational"
    assert best.difference == pytest.approx(10)
    assert best.low > 0
    assert best.verdict.startswith("rational ends higher than relu: 52.0 against 42.0, by ")
    assert best.verdict.endswith("corrected for 6 comparisons)")
    tie = final["silu", "relu"]
    assert tie.winner is None
    assert "silu and relu are not told apart at the end" in tie.verdict
    assert tie.low < 0 < tie.high
    (area,) = (c for c in report.comparisons if c.quantity == "area" and c.winner and c.second == "silu")
    assert "rational is higher on average over training than silu" in area.verdict
    assert best_and_tied(report.tasks[0], "final", report.comparisons) == ("rational", set())


def test_those_not_told_apart_from_the_best_are_marked(report_of):
    report = report_of(relu=[40.0, 41, 42], silu=[40.5, 41, 43], tanh=[1.0, 2, 3], gelu=[60.0])
    assert best_and_tied(report.tasks[0], "final", report.comparisons) == (None, set())  # gelu has one seed
    report = report_of(elu=[1.0])
    assert "nothing can be concluded from 1 and 3 seeds" in " ".join(c.verdict for c in report.comparisons)


def test_ties_of_the_best(report_of):
    report = report_of(relu=[40.0, 41, 42], silu=[40.5, 41, 43], tanh=[1.0, 2, 3])
    assert best_and_tied(report.tasks[0], "final", report.comparisons) == ("silu", {"relu"})
    (verdict,) = (c.verdict for c in report.comparisons if c.quantity == "final" and c.second == "silu")
    assert "silu ends higher than tanh" in verdict
    assert "With 3 seeds this rests on runs that scatter normally" in verdict


def test_fewer_than_three_seeds_conclude_nothing(report_of):
    report = report_of(relu=[40.0, 41], silu=[90.0, 90.1])
    assert {c.winner for c in report.comparisons} == {None}
    assert all("nothing can be concluded from 2 and 2 seeds" in c.verdict for c in report.comparisons)
    assert any("fewer than 3 seeds of relu (2), silu (2)" in note for note in report.notes)


def test_seeds_that_are_all_the_same_conclude_nothing(report_of):
    report = report_of(relu=[40.0] * 3, silu=[90.0] * 3)
    assert all("no independent runs" in c.verdict for c in report.comparisons)


def test_a_label_with_diverged_seeds_wins_nothing_and_is_not_bold(report_of, tmp_path):
    write_run(tmp_path, 3 * FLAT, 9, activation="silu", status="diverged")
    report = report_of(relu=[40.0, 41, 42], silu=[90.0, 90.5, 91], tanh=[1.0, 2, 3])
    of_silu = [c for c in report.comparisons if "silu" in (c.first, c.second)]
    assert {c.winner for c in of_silu} == {None}
    assert np.isnan([c.p for c in of_silu]).all()
    assert of_silu[0].verdict == "silu against relu at the end: 1 of 4 of silu diverged, so nothing can be concluded"
    assert {c.winner for c in report.comparisons} == {None, "relu"}
    assert best_and_tied(report.tasks[0], "final", report.comparisons) == (None, set())


def simulated_group(label: str, finals: np.ndarray) -> RunGroup:
    """A seed for each final value, diverged where that is NaN."""
    empty = np.empty(0)
    statuses = np.where(np.isnan(finals), "diverged", "finished")
    runs = [
        RunRecord(Path(), "iql", "data", label, "", seed, status, empty, empty, empty, empty, empty)
        for seed, status in enumerate(statuses)
    ]
    judged, known = (run for run in runs if run.status == "finished"), finals[~np.isnan(finals)]
    counts = np.full(len(known), 5)
    return RunGroup(label, tuple(runs), tuple(judged), known, counts, Estimate(*(np.nan,) * 3), known, {})


@pytest.mark.parametrize("seeds", [10, 20])
def test_collapses_that_end_in_nan_for_one_label_alone_make_no_winners(seeds):
    """Both labels collapse as often; of one of them such seeds diverge, and the mean of its others would be higher."""
    random = np.random.default_rng(5)
    winners, survivors = 0, 0
    for _ in range(400):
        collapsed = random.random((2, seeds)) < 0.3
        relu, rational = np.where(collapsed, 5, 50) + 5 * random.standard_normal((2, seeds))
        rational[collapsed[1]] = np.nan
        groups = simulated_group("relu", relu), simulated_group("rational", rational)
        found = compare_all([Task("task", "score", groups, 100, 0, None, (), None)])
        winners += any(c.winner for c in found)
        survivors += stats.ttest_ind(relu, rational, equal_var=False, nan_policy="omit").pvalue < 0.05 / 2
    assert survivors > 0.1 * 400
    assert winners <= 0.05 * 400


def test_a_seed_that_is_there_twice_is_named_and_not_tested(report_of, tmp_path):
    write_run(tmp_path, 91 * FLAT, 2, activation="silu", name="again", total_updates=50)
    report = report_of(relu=[40.0, 41, 42], silu=[90.0, 90.5, 91])
    report = build_report([run for task in report.tasks for g in task.groups for run in g.runs], by=["activation"])
    assert {c.winner for c in report.comparisons} == {None}
    assert all("silu has seed 2 more than once, so nothing can be concluded" in c.verdict for c in report.comparisons)
    assert any("silu has seed 2 more than once (imported twice, or with other settings)" in n for n in report.notes)


def test_corrections_and_intervals_are_for_all_comparisons_of_the_report(tmp_path):
    random = np.random.default_rng(6)
    for dataset, height in (("a", 1.0), ("b", 3.0)):
        for place, activation in enumerate(("relu", "silu", "tanh")):
            for seed in range(5):
                values = place * height + random.standard_normal() + 0.3 * random.standard_normal(12)
                write_run(tmp_path, values, seed, dataset=dataset, activation=activation)
    report = build_report(read_runs([tmp_path]))
    pairs = [("silu", "relu"), ("tanh", "relu"), ("tanh", "silu")]
    units = [(task, *pair) for task in report.tasks for pair in pairs]
    quantities = ("final", "area")

    def test_of(quantity, task, first, second, level=0.95):
        return compare_means(*(task.group(label).values(quantity) for label in (first, second)), level)

    expected = corrected(np.array([[test_of(quantity, *unit)[3] for unit in units] for quantity in quantities]))
    assert len(report.comparisons) == 12
    for c in report.comparisons:
        unit = next(unit for unit in units if (unit[0].name, *unit[1:]) == (c.task, c.first, c.second))
        p = expected[quantities.index(c.quantity), units.index(unit)]
        assert c.p_corrected == pytest.approx(p)
        assert (c.winner is not None) == (p < 0.05)
        assert (c.low, c.high) == pytest.approx(test_of(c.quantity, *unit, 1 - 0.05 / 12)[1:3])
    assert {c.winner is None for c in report.comparisons} == {True, False}
