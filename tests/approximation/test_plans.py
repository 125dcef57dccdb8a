"""Plans: constants are found and turned into other numbers wherever they stand."""

from mpmath import mpf

from rlrat.approximation.plans import constants, convert
from rlrat.approximation.zolotarev import Sign, Times

PART = Times(Sign(((mpf(1), mpf(2), mpf(3)), (mpf(4), mpf(5), mpf(6)))))


def test_constants_are_listed():
    assert constants(PART) == [1, 2, 3, 4, 5, 6]


def test_constants_are_turned_into_other_numbers():
    assert convert(PART, float) == PART
    assert {type(value) for step in convert(PART, float).factor.steps for value in step} == {float}
