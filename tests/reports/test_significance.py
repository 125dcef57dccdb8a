from itertools import combinations, product

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import trapezoid

from rlrat.reports.significance import compare_means, corrected

# Numbers of seeds and true spreads of labels: what Welch's test with Holm's correction gets wrong comes first.
DESIGNS = (
    *(((3, 20), spreads) for spreads in ((2, 1), (1, 1), (5, 1), (1, 5))),
    *(((3, 3), spreads) for spreads in ((5, 1), (1, 1))),
    *(((3, 5), spreads) for spreads in ((3, 1), (1, 1), (1, 3))),
    *(((5, 5), spreads) for spreads in ((5, 1), (3, 1), (1, 1))),
    *(((5, 20), spreads) for spreads in ((2, 1), (1, 1), (5, 1), (1, 5))),
    *(((4, 10), spreads) for spreads in ((5, 1), (1, 1), (1, 5))),
    *(((10, 10), spreads) for spreads in ((5, 1), (1, 1))),
    *(((3, 20, 20), (2, 1, 1)), ((5, 5, 5), (5, 2, 1)), ((3, 5, 10), (5, 3, 1))),
    *(((3, 20, 20, 20), (2, 1, 1, 1)), ((5, 5, 5, 5), (5, 5, 1, 1)), ((3, 4, 5, 10), (5, 1, 3, 1))),
)
WORST = (DESIGNS[0], DESIGNS[4], DESIGNS[9], DESIGNS[16], DESIGNS[-3])


def corrected_reports(sizes, spreads, tasks, reports, *, related=0.85, apart=0.0, test=compare_means):
    """P of simulated reports after the correction, `[reports, 2, tasks * pairs]`; the last label is `apart`, in sd.

    Final values and areas of normal runs, whose correlation is `related`.
    """
    random = np.random.default_rng(7)
    groups = []
    for size, spread in zip(sizes, spreads, strict=True):
        final, other = random.standard_normal((2, reports, tasks, size))
        groups.append(spread * np.stack([final, related * final + np.sqrt(1 - related**2) * other]))
    groups[-1] += apart
    p = np.stack([test(first, second)[3] for first, second in combinations(groups, 2)], axis=-1)
    return corrected(np.moveaxis(p, 0, 1).reshape(reports, 2, -1))


def false_claims(*design, **settings):
    """Share of reports on labels that do not differ in which there is a winner."""
    return (corrected_reports(*design, **settings) < 0.05).any((1, 2)).mean()


@pytest.mark.parametrize(("design", "tasks"), [(WORST[0], 1), (WORST[1], 1), *product(WORST, (3,))])
def test_labels_that_do_not_differ_rarely_have_a_winner(design, tasks):
    """A true 5% is above 5.6% in one of 300 such simulations, a true 6% below it in one of 20."""
    assert false_claims(*design, tasks, 10_000) <= 0.056


@pytest.mark.slow
@pytest.mark.parametrize(("design", "tasks", "related"), [*product(DESIGNS, (1, 3, 10), (0.0, 0.85))])
def test_no_numbers_and_spreads_make_more_winners(design, tasks, related):
    assert false_claims(*design, tasks, 20_000 if tasks < 10 else 5000, related=related) <= 0.055


def scipys_welch(first, second):
    return None, None, None, stats.ttest_ind(first, second, axis=-1, equal_var=False).pvalue


def test_the_simulation_sees_what_welchs_test_gets_wrong():
    assert false_claims((3, 20), (1, 1), 3, 2000, test=scipys_welch) > 0.1


@pytest.mark.parametrize(("tasks", "least"), [(1, 0.42), (3, 0.22)])
def test_five_seeds_still_tell_what_welchs_test_with_holms_correction_tells(tasks, least):
    """At 1.5 sd between two labels, spreads alike, the least is what those two tell."""
    after = corrected_reports((5, 5), (1, 1), tasks, 5000, apart=1.5)
    assert (after[:, 0] < 0.05).mean() >= least
    raw = scipys_holm((5, 5), (1, 1), tasks, 5000, apart=1.5)
    assert (after[:, 0] < 0.05).mean() >= raw - 0.01


def scipys_holm(*design, **settings):
    """Share of final values that are told apart by Welch's test with Holm's correction over all."""
    found = []

    def keep(first, second):
        found.append(scipys_welch(first, second)[3])
        return None, None, None, found[-1]

    corrected_reports(*design, **settings, test=keep)
    p = np.stack(found, axis=-1)  # [2, reports, tasks, pairs]
    flat = np.moveaxis(p, 0, 1).reshape(p.shape[1], -1)
    order = np.argsort(flat, axis=-1)
    stepped = np.take_along_axis(flat, order, -1) * (flat.shape[-1] - np.arange(flat.shape[-1]))
    after = np.empty_like(flat)
    np.put_along_axis(after, order, np.maximum.accumulate(stepped, axis=-1), -1)
    return (after.reshape(p.shape[1], 2, -1)[:, 0] < 0.05).mean()


@pytest.mark.parametrize("sizes", [(3, 3), (3, 20), (5, 5)])
def test_p_is_below_a_level_as_often_as_it_says_at_most(sizes):
    """And at the ratio of spreads that is worst, just as often; simulated given the spreads, with the tail exact."""
    random = np.random.default_rng(1)
    level, worst = 0.005, 0.0
    for ratio in np.geomspace(1 / 12, 12, 9):
        runs = [random.standard_normal((60_000, size)) * sd for size, sd in zip(sizes, (ratio, 1), strict=True)]
        # The means are independent of the spreads, so given these the difference has to reach the interval's half.
        _, low, high, _ = compare_means(*runs, 1 - level)
        half = (high - low) / 2
        true = np.sqrt(ratio**2 / sizes[0] + 1 / sizes[1])
        worst = max(worst, (2 * stats.norm.sf(half / true)).mean())
    assert 0.9 * level < worst < 1.07 * level


def test_p_and_interval_say_the_same():
    random = np.random.default_rng(3)
    first, second = random.normal(0, 1, (200, 5)), random.normal(1, 3, (200, 8))
    difference, low, high, p = compare_means(first, second, 0.98)
    np.testing.assert_allclose(difference, first.mean(-1) - second.mean(-1))
    np.testing.assert_array_equal((low > 0) | (high < 0), p < 0.02)
    np.testing.assert_allclose(compare_means(second, first)[3], p)


def test_of_many_seeds_it_is_welchs_test():
    random = np.random.default_rng(2)
    first, second = random.normal(0, 1, (4, 300)), random.normal(0.2, 1.5, (4, 250))
    theirs = stats.ttest_ind(first, second, axis=-1, equal_var=False)
    _, low, high, p = compare_means(first, second)
    np.testing.assert_allclose(p, theirs.pvalue, rtol=0.02)
    np.testing.assert_allclose((low, high), theirs.confidence_interval(0.95), atol=0.001)


@pytest.mark.parametrize(
    ("first", "second"),
    [([1.0, 2.0], [3.0, 4.0, 5.0]), ([1.0, 1.0, 1.0], [2.0, 2.0, 2.0]), ([0.3, 0.1 + 0.2, 0.3], [1.0] * 3)],
)
def test_two_seeds_or_seeds_that_are_all_the_same_say_nothing(first, second):
    assert np.isnan(compare_means(np.array(first), np.array(second))).all()


def test_the_correction_by_hand():
    p = np.array([[0.01, 0.5, 0.02], [0.03, 0.9, 0.9]])
    # Simes of the pairs: 0.02, 0.9, 0.04. Both of the first pair at 3 x 0.03; from then on two pairs are left.
    np.testing.assert_allclose(corrected(p), [[0.06, 1.0, 0.09], [0.09, 1.0, 1.0]])
    one = np.array([[0.02, np.nan], [np.nan, np.nan]])
    np.testing.assert_allclose(corrected(one), one)
    np.testing.assert_allclose(corrected(np.stack([p, p[:, ::-1]]))[1], corrected(p)[:, ::-1])
    assert corrected(np.empty((2, 0))).shape == (2, 0)


def test_the_correction_is_the_closed_test_of_which_it_is_the_short_form():
    """Every set of hypotheses that holds a claimed one has a pair whose part of the set is significant."""
    random = np.random.default_rng(4)
    for _ in range(30):
        p = random.random((2, 3)) ** 3 / 5
        sets = [kept for size in range(1, 7) for kept in combinations(np.ndindex(2, 3), size)]

        def local(kept, p=p):
            parts = [[p[at] for at in kept if at[1] == pair] for pair in {at[1] for at in kept}]
            return len(parts) * min(min(2 * min(part), max(part)) if len(part) > 1 else part[0] for part in parts)

        exact = np.array([[max(local(kept) for kept in sets if (q, m) in kept) for m in range(3)] for q in range(2)])
        assert (corrected(p) >= np.minimum(exact, 1) - 1e-12).all()


def curves_of(random, shape, scatter):
    """Curves that rise at rates and to heights of their own and are evaluated with noise, `[..., 21]`."""
    heights = {
        "normal": lambda: 50 + 10 * random.standard_normal(shape),
        "skewed": lambda: 50 + 10 * random.lognormal(size=shape),
        "collapsing": lambda: np.where(random.random(shape) < 0.3, 5, 50) + 5 * random.standard_normal(shape),
    }[scatter]()
    rates = 3 * np.exp(0.3 * random.standard_normal(shape))
    rising = heights * (1 - np.exp(-rates * np.linspace(0, 1, 21)))
    return rising + 5 * random.standard_normal((*shape[:-1], 21))


def false_winners(sizes, tasks, scatter, reports=1000):
    """Share of reports of labels whose curves do not differ in which there is a winner."""
    random = np.random.default_rng(3)
    groups = []
    for size in sizes:
        curves = curves_of(random, (reports, tasks, size, 1), scatter)
        groups.append(np.stack([curves[..., -5:].mean(-1), trapezoid(curves, axis=-1)]))
    p = np.stack([compare_means(first, second)[3] for first, second in combinations(groups, 2)], axis=-1)
    return (corrected(np.moveaxis(p, 0, 1).reshape(reports, 2, -1)) < 0.05).any((1, 2)).mean()


@pytest.mark.parametrize(
    ("scatter", "sizes", "tasks"),
    [
        *product(("normal", "skewed"), ((3,) * 4, (5,) * 4), (1, 3)),
        *product(("normal",), ((10,) * 4, (3, 20)), (1, 3)),
        *product(("collapsing",), ((5,) * 4, (10,) * 4), (1, 3)),
    ],
)
def test_curves_that_do_not_differ_rarely_have_a_winner(scatter, sizes, tasks):
    assert false_winners(sizes, tasks, scatter) <= 0.05


def test_three_seeds_that_collapse_fool_the_test():
    """All three of one label and none of the other may collapse by chance, and verdicts of so few seeds say so."""
    assert false_winners((3,) * 4, 3, "collapsing") > 0.05
