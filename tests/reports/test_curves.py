from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import trapezoid

from rlrat.reports.build import build_report
from rlrat.reports.curves import POINTS, aligned, common_updates, interquartile_curve, mean_curve, thinned
from rlrat.reports.plots import write_figures
from rlrat.reports.read import RunRecord, read_runs
from tests.reports.run_folders import HEADER, line, write_run


def record(updates: list[int] | np.ndarray, values: list[float] | np.ndarray) -> RunRecord:
    updates, values = np.array(updates), np.array(values, np.float64)
    return RunRecord(
        *(Path("run"), "iql", "data", "relu", "", 0, "finished", updates),
        returns=20 * values,
        scores=values,
        train_seconds=updates / 10,
        wall_seconds=updates / 5,
    )


def test_seeds_are_aligned_on_updates():
    runs = [record([0, 10, 20], [1, 2, 3]), record([0, 20, 40], [5, 6, 7])]
    # At 10 the second was under way, but not evaluated; at 40 the first had ended.
    np.testing.assert_array_equal(common_updates(runs), [0, 20, 40])
    np.testing.assert_array_equal(aligned(runs, "scores", np.array([0, 20, 40])), [[1, 3, np.nan], [5, 6, 7]])


def test_a_mean_goes_on_without_the_seeds_that_ended():
    curve = mean_curve([record([0, 10, 20], [1, 2, 3]), record([0, 10], [3, 6])], "scores")
    np.testing.assert_array_equal(curve.updates, [0, 10, 20])
    np.testing.assert_allclose(curve.mean, [2, 4, 3])
    np.testing.assert_array_equal(curve.seeds, [2, 2, 1])
    np.testing.assert_allclose(curve.seconds, [0, 1, 2])
    np.testing.assert_allclose(curve.low, [1, 2, np.nan])
    np.testing.assert_allclose(curve.high, [3, 6, np.nan])


def test_one_seed_has_no_band_and_unknown_seconds_stay_unknown():
    run = replace(record([0, 10], [1, 2]), train_seconds=np.array([np.nan, np.nan]))
    curve = mean_curve([run], "returns")
    np.testing.assert_allclose(curve.mean, [20, 40])
    assert np.isnan([curve.low, curve.high, curve.seconds]).all()


def test_long_curves_are_thinned_and_keep_their_ends():
    updates = np.arange(100_001)
    curve = mean_curve([record(updates, updates / 2)] * 3, "scores")
    assert len(curve.updates) == POINTS
    assert curve.updates[0] == 0
    assert curve.updates[-1] == 100_000
    np.testing.assert_allclose(curve.mean, curve.updates / 2)
    np.testing.assert_array_equal(thinned(np.arange(3), 3), [0, 1, 2])


@pytest.mark.slow
def test_a_million_evaluations_are_thinned_for_drawing_and_not_for_statistics(tmp_path):
    folder = write_run(tmp_path, [])
    values = np.random.default_rng(0).normal(50, 1, 1_000_000)
    (folder / "evaluations.csv").write_text(HEADER + "".join(line(n, v, v) for n, v in enumerate(values)))
    report = build_report(read_runs([tmp_path]))
    (group,) = report.tasks[0].groups
    assert group.finals[0] == pytest.approx(values[-5:].mean())
    assert group.areas[0] == pytest.approx(trapezoid(values) / 999_999)
    assert len(group.curves["score"].updates) == POINTS
    write_figures(report, tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.svg")) < 300_000


def test_the_interquartile_curve_is_over_all_runs_of_all_tasks():
    tasks = [[record([0, 10, 20], [0, 0, 9]), record([0, 10, 20], [1, 1, 9])], [record([0, 20], [5, 9])] * 2]
    assert np.isnan(interquartile_curve([tasks[0][:1], tasks[1]], "scores", 20).low).all()
    curve = interquartile_curve(tasks, "scores", 20)
    np.testing.assert_array_equal(curve.updates, [0, 20])
    np.testing.assert_allclose(curve.mean, [(1 + 5) / 2, 9])
    assert curve.low[0] <= 3 <= curve.high[0]
    assert curve.seconds == pytest.approx([0, 2])
    assert interquartile_curve(tasks, "scores", 10) is None


def test_in_the_interquartile_curve_a_task_weighs_the_same_whatever_its_seeds():
    tasks = [[record([0, 10], [value, 8]) for value in (0, 1, 2)], [record([0, 10], [5, 8])]]
    curve = interquartile_curve(tasks, "scores", 10)
    np.testing.assert_allclose(curve.mean, [(1 * 1 + 2 * 2 + 3 * 5) / 6, 8])
