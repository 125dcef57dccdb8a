"""p-th roots: the recurrence's error is what theory says, and for p = 2 the best there is."""

from itertools import pairwise

import pytest
import torch
from mpmath import mpf, nstr

from rlrat.approximation import construction
from rlrat.approximation.roots import plan_root, power
from rlrat.approximation.traced import Tally


@pytest.mark.parametrize("p", [2, 3, 10])
def test_the_relative_error_equioscillates(p):
    root, error = plan_root(p, mpf("0.3"), 3)
    x = [mpf("0.3") ** (p * mpf(i) / 400) for i in range(401)]
    errors = [root(each) / each ** (mpf(1) / p) - 1 for each in x]
    assert max(errors) == pytest.approx(float(error), rel=1e-3)
    assert min(errors) == pytest.approx(-float(error), rel=1e-3)
    signs = [each > 0 for each in errors if abs(each) > 0.9 * error]
    assert 1 + sum(a != b for a, b in pairwise(signs)) == 2**3 + 1


def test_without_steps_it_is_a_constant():
    root, error = plan_root(2, mpf("0.5"), 0)
    assert (root(mpf(1)), error) == (mpf(2) / 3, mpf(1) / 3)


def test_square_roots_are_zolotarevs_of_their_degree():
    """Degrees (4, 3) have 8 coefficients that are free, one less than the extremes that three steps have, above."""
    assert construction("root", 3).degree == (4, 3)


def test_few_steps_are_taken_where_they_do():
    assert [len(plan_root(2, mpf("0.5"), 9, error=error)[0].steps) for error in (0.4, 0.1, 1e-3)] == [0, 1, 2]


def test_a_domain_says_what_alpha0_is():
    found = construction("root", 3, p=3, domain=(2, 16))
    assert found.domain == (2.0, 16.0)
    assert 0.9 * found.error_bound < found.measured_error("mpmath") <= found.error_bound * (1 + mpf("1e-13"))
    assert nstr(construction("root", 3, p=3, alpha0=0.5).error_bound * 16 ** (1 / 3), 6) == nstr(found.error_bound, 6)


def test_roots_of_other_orders_in_floats():
    found = construction("root", 7, p=10)
    assert found.measured_error("float64") < 1e-15
    x = torch.rand(5, dtype=torch.float64) * 0.9 + 0.1
    torch.testing.assert_close(found(x), x**0.1, rtol=1e-14, atol=0)


def test_powers_are_few_products():
    tally = Tally()
    assert power(tally.variable(), 9).degree == (9, 0)
    assert tally.operations == {"mul": 4}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"p": 1}, "p of a p-th root must be an integer of at least 2, not 1"),
        ({"p": 2.5}, "p of a p-th root must be an integer of at least 2, not 2.5"),
        ({"alpha0": 0}, "alpha0 of a p-th root must lie between 0 and 1, not at 0"),
        ({"alpha0": 1.0}, "alpha0 of a p-th root must lie between 0 and 1, not at 1.0"),
        ({"alpha0": float("nan")}, "alpha0 of a p-th root must lie between 0 and 1, not at nan"),
        (
            {"domain": (0, 1)},
            r"the domain of root must lie above 0, where root has a branch point, not be \(0.0, 1.0\)",
        ),
        ({"domain": (-1, 1)}, "the domain of root must lie above 0"),
        ({"domain": (0.5, 1), "alpha0": 0.5}, "root takes alpha0 or a domain, which says what alpha0 is, not both"),
    ],
)
def test_mistakes_are_one_line(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        construction("root", **settings)
