import numpy as np
import pytest
from run_folders import write_run
from scipy import stats

from rlrat.reports.build import build_report
from rlrat.reports.read import read_runs
from rlrat.reports.verdicts import best_and_tied

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
    p = stats.ttest_ind(heights["rational"], heights["relu"], equal_var=False).pvalue
    assert best.p == pytest.approx(p)
    assert best.p_holm == pytest.approx(6 * p)  # flat curves: areas repeat the final values, and this p is the least
    assert best.winner == "rational"
    assert best.difference == pytest.approx(10)
    assert best.low > 0
    assert best.verdict.startswith("rational ends higher than relu: 52.0 against 42.0, by ")
    assert best.verdict.endswith("after Holm's correction for 6 comparisons)")
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


def test_a_verdict_says_which_seeds_diverged(report_of, tmp_path):
    write_run(tmp_path, 3 * FLAT, 9, activation="silu", status="diverged")
    report = report_of(relu=[40.0, 41, 42], silu=[90.0, 90.5, 91])
    assert all("(1 of 4 of silu)" in c.verdict for c in report.comparisons)
