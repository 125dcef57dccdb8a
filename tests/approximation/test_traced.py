"""The number that counts: operations, constants and the degree of what was computed."""

import numpy as np
import pytest

from rlrat.approximation.traced import Tally


def test_degrees_are_those_of_lowest_terms():
    tally = Tally()
    x = tally.variable()
    y = x * (x * x * 3 + 2) / (1 + x * x)
    assert y.degree == (3, 2)
    assert (y * (y * y * 3 + 2) / (1 + y * y)).degree == (9, 8)
    assert (1 / y).degree == (2, 3)
    assert (y / y).degree == (0, 0)
    assert (y + 1).degree == (3, 2)
    assert (1 / x + x).degree == (2, 1)


def test_operations_and_constants_are_counted():
    tally = Tally()
    x = tally.variable()
    2 / (3 - x) * x + 1 - x * 2
    assert tally.operations == {"div": 1, "sub": 2, "mul": 2, "add": 1}
    assert tally.constants == 4


def test_arrays_are_counted_element_by_element():
    tally = Tally()
    x = np.array([tally.variable(), tally.variable()], dtype=object)
    assert [each.degree for each in (2 * x + 1) / x] == [(1, 1), (1, 1)]
    assert tally.operations.total() == 6


@pytest.mark.parametrize("compute", [abs, lambda x: max(x, 0), lambda x: x**2, lambda x: x > 0, np.exp, lambda x: -x])
def test_all_else_raises(compute):
    with pytest.raises((TypeError, AttributeError)):
        compute(Tally().variable())
