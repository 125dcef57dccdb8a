"""A rational by few operations: the rational's values, near and far, or else the operations that always fit."""

import pytest
import torch

from rlrat.rational import VERSIONS, Rational
from rlrat.rational.stacked import StackedRational, WholeRational, plain_rational


def make(version: str, degrees: tuple[int, int], numerator: list[float], denominator: list[float]) -> Rational:
    """A rational of one seed and two groups, of which the second has half of these coefficients."""
    source = Rational("identity", degrees, version, 2, (1,)).requires_grad_(False)
    for parameter, values in ((source.numerator, numerator), (source.denominator, denominator)):
        parameter[0, 0], parameter[0, 1] = torch.tensor(values), torch.tensor(values) / 2
    return source


def points() -> torch.Tensor:
    sizes = torch.cat([torch.zeros(1), torch.logspace(-3.0, 37.0, 300)])
    return torch.cat([-sizes, sizes]).unsqueeze(-1).expand(-1, 6).contiguous()


def check(source: Rational, kind: type) -> None:
    plain, x = plain_rational(source, 6), points()
    assert isinstance(plain, kind)
    expected = source(x[None])[0]
    finite = expected.isfinite()
    assert finite.float().mean() > 0.3
    found = plain(x)
    torch.testing.assert_close(found[finite], expected[finite], rtol=1e-5, atol=1e-5)
    ends = torch.tensor([[-torch.inf], [torch.inf]]).expand(2, 6)
    limits = source(ends[None])[0]
    torch.testing.assert_close(plain(ends)[limits.isfinite()], limits[limits.isfinite()])
    torch.testing.assert_close(plain(x.reshape(2, -1, 6)), found.reshape(2, -1, 6), equal_nan=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_the_rational_wherever_that_is_finite(version):
    first = Rational("relu", (5, 4), version, 2, (1,)).requires_grad_(False)
    check(first, StackedRational)
    assert plain_rational(first, 6)(torch.full((1, 6), torch.nan)).isnan().all()


@pytest.mark.parametrize(
    ("version", "degrees", "numerator", "denominator"),
    [
        ("A", (2, 2), [0.5, 1.0, 2.0], [-0.3, 0.7]),  # the same limit on both sides
        ("B", (2, 4), [0.5, 1.0, 2.0], [0.1, 0.0, 0.2, 0.7]),  # goes to zero
        ("C", (0, 0), [0.5], [0.3]),
        ("A", (3, 2), [0.5, 1.0, 2.0, 80.0], [0.5, 0.5]),  # a steep line, which overflows where both do
        ("N", (3, 2), [0.5, 1.0, 2.0, 3.0], [0.0, 0.7]),
        ("A", (1, 0), [0.5, 1.0], []),
    ],
)
def test_what_ends_as_a_line_is_stacked(version, degrees, numerator, denominator):
    check(make(version, degrees, numerator, denominator), StackedRational)


@pytest.mark.parametrize(
    ("version", "degrees", "numerator", "denominator"),
    [
        ("A", (4, 2), [0.5, 1.0, 2.0, 0.1, 0.3], [-0.3, 0.7]),  # grows faster than a line
        ("A", (3, 3), [0.5, 1.0, 2.0, 3.0], [0.1, 0.2, 1e-12]),  # which is one for long
        ("C", (2, 1), [0.5, 1.0, 2.0], [0.1, 0.2]),  # other slopes to the left and to the right
        ("N", (3, 0), [0.5, 1.0, 2.0, 3.0], []),
    ],
)
def test_what_does_not_is_computed_as_rational_exports_it(version, degrees, numerator, denominator):
    check(make(version, degrees, numerator, denominator), WholeRational)


def test_groups_that_grow_stand_beside_groups_that_do_not():
    """At infinity, a slope of zero would make NaN of a limit."""
    source = make("A", (3, 2), [0.5, 1.0, 2.0, 3.0], [-0.3, 0.7])
    source.numerator[0, 1, 3] = 0.0
    check(source, WholeRational)
