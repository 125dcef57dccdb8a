import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from rliable import library, metrics

from rlrat.reports.statistics import (
    LEVEL,
    SAMPLES,
    bootstrap_coverage,
    estimate,
    estimate_improvement,
    interquartile_interval,
    interquartile_mean,
    interval,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    resample,
)

TAIL = 100 * (1 - LEVEL) / 2
ENDS = [TAIL, 100 - TAIL]


@pytest.fixture
def scores() -> np.ndarray:
    """Seven seeds on three tasks, on a scale of 1."""
    return np.random.default_rng(0).normal(0.8, 0.3, (7, 3))


def by_task(scores: np.ndarray) -> list[np.ndarray]:
    return list(100 * scores.T)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (interquartile_mean, metrics.aggregate_iqm),
        (median, metrics.aggregate_median),
        (mean, metrics.aggregate_mean),
        (optimality_gap, metrics.aggregate_optimality_gap),
    ],
)
@pytest.mark.filterwarnings("ignore:random_state is deprecated:FutureWarning")
def test_aggregates_and_their_intervals_are_rliables(scores, ours, theirs):
    points, intervals = library.get_interval_estimates(
        {"a": scores}, lambda x: np.array([theirs(x)]), reps=1000, random_state=np.random.RandomState(0)
    )
    found = estimate(ours, by_task(scores), samples=20_000)
    assert found.value == pytest.approx(100 * points["a"][0])
    # Two bootstraps with random numbers of their own.
    np.testing.assert_allclose([found.low, found.high], 100 * intervals["a"][:, 0], atol=2.0)


def test_the_profile_is_rliables(scores):
    thresholds = np.linspace(0, 1.5, 11)
    theirs = library.score_distributions(scores, thresholds)
    share, low, high = performance_profile(by_task(scores), 100 * thresholds)
    np.testing.assert_allclose(share, theirs)
    drawn = np.random.default_rng(0).integers(7, size=(3, SAMPLES, 7))  # as of each sample's runs
    above = [
        task[own][..., None, :] > 100 * thresholds[:, None] for task, own in zip(by_task(scores), drawn, strict=True)
    ]
    ends = np.percentile(np.mean([task.mean(-1) for task in above], axis=0), ENDS, axis=0)
    np.testing.assert_array_equal([low, high], ends)


def test_probability_of_improvement_is_rliables_with_ties(scores):
    other = np.random.default_rng(1).normal(0.9, 0.3, (5, 3))
    other[0] = scores[0]
    ours = probability_of_improvement(by_task(scores), by_task(other))
    assert ours == pytest.approx(metrics.probability_of_improvement(scores, other))
    groups = by_task(scores), by_task(other)
    assert estimate_improvement(*groups) == estimate(probability_of_improvement, *groups)


def test_aggregates_by_hand_of_tasks_with_different_seeds():
    scores = [np.array([0.0, 10.0, 20.0]), np.array([110.0])]
    assert mean(scores) == pytest.approx((10 + 110) / 2)
    assert median(scores) == pytest.approx(60)
    # They weigh 2, 2, 2 and 6 twelfths; the middle half is from 3 to 9: 1 of the ten, 2 of the twenty, 3 of the 110.
    assert interquartile_mean(scores) == pytest.approx((1 * 10 + 2 * 20 + 3 * 110) / 6)
    assert optimality_gap(scores) == pytest.approx(100 - (10 + 100) / 2)
    share, low, high = performance_profile(scores, np.array([5.0, 50.0]))
    np.testing.assert_allclose(share, [(2 / 3 + 1) / 2, 1 / 2])
    assert np.isnan([low, high]).all()  # one task has a single seed


def test_a_task_weighs_the_same_whatever_its_seeds():
    """Copies of its seeds change nothing; rliable, which takes equal numbers alone, tells the value."""
    random = np.random.default_rng(4)
    few, many = random.normal(size=4), random.normal(0.3, size=8)
    theirs = metrics.aggregate_iqm(np.stack([np.repeat(few, 2), many], axis=1))
    assert interquartile_mean([few, many]) == pytest.approx(theirs)
    samples = [random.normal(size=(50, 3)), random.normal(size=(50, 7))]
    each = [interquartile_mean([first, second]) for first, second in zip(*samples, strict=True)]
    np.testing.assert_allclose(interquartile_mean(samples), each)


def test_a_bootstrap_draws_within_tasks_and_the_same_every_time():
    scores = [np.array([1.0, 2.0]), np.array([5.0, 6.0, 7.0])]
    ((first, second),) = resample(scores, samples=50)
    assert set(first.ravel()) == {1.0, 2.0}
    assert set(second.ravel()) == {5.0, 6.0, 7.0}
    assert (first.shape, second.shape) == ((50, 2), (50, 3))
    assert estimate(mean, scores) == estimate(mean, scores)


def test_a_single_seed_has_no_interval():
    found = estimate(mean, [np.array([1.0, 2.0]), np.array([5.0])])
    assert found.value == pytest.approx(3.25)
    assert np.isnan([found.low, found.high]).all()


def test_an_interval_of_times_may_end_in_never():
    times = np.array([10.0] * 5 + [20.0] * 90 + [np.inf] * 5)
    assert interval(times) == (10.0, np.inf)
    assert interval(np.full(10, np.inf)) == (np.inf, np.inf)


@given(
    arrays(float, array_shapes(min_dims=1, max_dims=2, max_side=60), elements=st.floats(-1e6, 1e6)),
    st.sampled_from([0, -1]),
)
def test_an_interval_is_numpys_to_the_last_digit(samples, axis):
    np.testing.assert_array_equal(interval(samples, axis), np.percentile(samples, ENDS, axis=axis))


@pytest.mark.parametrize("seeds", [(5, 5, 5), (3, 4, 7)])
def test_the_band_of_an_interquartile_mean_is_that_of_all_points_at_once(seeds):
    random = np.random.default_rng(0)
    tasks = [random.normal(size=(count, 6)) for count in seeds]
    (drawn,) = resample(tasks, samples=40)
    means = [interquartile_mean([task[:, :, point] for task in drawn]) for point in range(6)]
    found = interquartile_interval(tasks, 40)
    np.testing.assert_allclose(found, np.percentile(means, ENDS, axis=1), rtol=1e-13, atol=1e-13)


def test_a_coverage_is_that_of_one_experiment_after_the_other():
    generator = np.random.default_rng(3)
    ends = []
    for runs in generator.standard_normal((20, 4)):
        ends.append(np.percentile(runs[generator.integers(4, size=(50, 4))].mean(-1), [2.5, 97.5]))
    held = sum(low <= 0 <= high for low, high in ends)
    assert bootstrap_coverage(4, experiments=20, samples=50, seed=3) == held / 20 < 1


@pytest.mark.parametrize(("seeds", "least", "most"), [(3, 0.70, 0.80), (5, 0.80, 0.88), (10, 0.88, 0.93)])
def test_a_bootstrap_interval_of_few_seeds_holds_the_truth_less_often_than_it_says(seeds, least, most):
    assert least < bootstrap_coverage(seeds) < most
