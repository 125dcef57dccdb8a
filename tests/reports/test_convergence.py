import numpy as np
import pytest

from rlrat.reports.convergence import (
    final_value,
    median_time,
    paper_statistic,
    running_mean,
    time_to_stay,
)


def test_the_papers_statistic():
    values = np.array([[100.0, 1, 2, 3, 4, 5], [100, 3, 3, 3, 3, 3], [0, 5, 6, 7, 8, 9]])
    finals = np.array([final_value(np.arange(6), run) for run in values])
    np.testing.assert_allclose(finals, [3, 3, 7])
    assert paper_statistic(finals) == pytest.approx((13 / 3, np.sqrt(32 / 9)))


def test_a_final_value_is_of_trained_policies_alone():
    assert final_value(np.array([0, 10, 20]), np.array([99.0, 2, 4])) == 3
    assert final_value(np.array([10, 20]), np.array([2.0, 4.0])) == 3
    assert final_value(np.arange(10), np.arange(10.0)) == 7
    assert np.isnan(final_value(np.array([0]), np.array([99.0])))


def test_running_mean_of_three():
    np.testing.assert_allclose(running_mean(np.array([3.0, 6, 9, 0, 0])), [3, 4.5, 6, 5, 3])
    np.testing.assert_allclose(running_mean(np.array([[3.0, 6], [1, 1]])), [[3, 4.5], [1, 1]])
    np.testing.assert_allclose(running_mean(np.array([4.0])), [4])


def test_a_threshold_is_reached_where_a_curve_stays_above_it():
    times = np.arange(0, 70, 10)
    values = np.array([0.0, 30, 30, 0, 0, 30, 60])  # running mean: 0, 15, 20, 20, 10, 10, 30
    found = time_to_stay(times, values, np.array([0, 9, 10, 12, 30, 31]))
    np.testing.assert_array_equal(found, [0, 10, 10, 60, 60, np.inf])
    clocks = np.stack([times, times / 10])
    found = time_to_stay(clocks, values, np.array([[9, 30], [12, 31]]))
    np.testing.assert_array_equal(found, [[[10, 60], [60, np.inf]], [[1, 6], [6, np.inf]]])


def test_the_median_takes_what_never_came_as_latest():
    times, same = np.array([[10.0], [20.0], [np.inf]]), np.array([0, 0])
    assert median_time(times, same, None).value == 20
    assert np.isnan([median_time(times, same, None).low, median_time(times, same, None).high]).all()
    found = median_time(times, same, np.array([[0, 1, 2]]))
    assert (found.value, found.low, found.high) == (20, 20, 20)
    half = np.array([[10.0], [np.inf]])
    assert median_time(half, same, np.array([[0, 0]])).value == np.inf
    assert median_time(half, same, np.array([[0, 0]])).low == 10


def test_the_median_of_an_even_number_is_the_mean_of_the_middle_two():
    times = np.array([[10.0], [20.0], [50.0], [np.inf]])
    found = median_time(times, np.array([0, 0]), np.array([[0, 1, 2, 3]]))
    assert (found.value, found.low, found.high) == (35, 35, 35)


def test_each_bootstrap_sample_has_a_threshold_of_its_own():
    times = np.array([[10.0, 30.0, 20.0]] * 2)
    found = median_time(
        times, np.array([0, 1, 2]), np.array([[0, 1], [0, 1]])
    )  # two samples, and the seeds as they are
    assert found.value == 20
    assert 10 <= found.low < found.high <= 30
