"""Reproduce the paper's five tables: errors step by step of the iterations that the constructions are made of.

The table of the p-th root runs the construction itself (roots.py). Those of the theta functions and the logarithm take
the square roots of the arithmetic-geometric mean from mpmath, that of tanh takes artanh from there: they show the outer
iteration alone. In the constructions these are rationals, too.
"""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import takewhile

from mpmath import atanh, ceil, ellipk, exp, jtheta, log, log10, mp, mpf, nstr, pi, sqrt, tanh

from .plans import Real
from .roots import check_root, plan_root

DIGITS = 300
_POINTS = 33
_MOST_DIGITS = 10000  # to guess how many would do


def root_errors(p: int = 10, alpha0: float = 0.5, steps: int = 10, digits: int = DIGITS) -> list[Real]:
    """Return the largest relative error of the p-th root on (alpha0^p, 1) after 0, 1, ..., steps steps.

    It is measured on points of the interval, its ends among them, where it is largest.

    Raises:
        ValueError: p is no integer above 1, alpha0 is not between 0 and 1, or digits do not suffice (says how many do).
    """
    check_root(p, alpha0)
    return _run("the p-th root", partial(_root, p, alpha0, steps), steps, 2, digits)


def theta_errors(which: int, k: float = 0.7, steps: int = 7, digits: int = DIGITS) -> list[Real]:
    """Return the errors of theta3 as 1 / sqrt(a_n), or theta2 as sqrt(k / a_n), for a_n of AGM(1, sqrt(1 - k^2)).

    Args:
        which: 3 or 2.
        k: the modulus; the thetas are those of its nome.
        steps: n of the last error.
        digits: of the arithmetic.

    Raises:
        ValueError: k is not between 0 and 1, or digits do not suffice (says how many do).
    """
    _check_inside("the modulus k of theta", k, 0)
    return _run(f"theta{which}", partial(_theta, which, k, steps), steps, 2, digits)


def log_errors(x: float = 0.01, steps: int = 9, digits: int = DIGITS) -> list[Real]:
    """Return the errors of log x as -(pi / 2) / a_n for a_n of AGM(theta3^2, theta2^2) at the nome x^2.

    Raises:
        ValueError: x is not between 0 and 1, or digits do not suffice (says how many do).
    """
    _check_inside("x of the logarithm", x, 0)
    return _run("the logarithm", partial(_log, x, steps), steps, 2, digits)


def tanh_errors(s: float = 0.1, steps: int = 4, digits: int = DIGITS) -> list[Real]:
    """Return the errors of tanh s by Halley's iteration on artanh from y = s, after 0, 1, ..., steps steps.

    Raises:
        ValueError: s is not between -1 and 1, or digits do not suffice (says how many do).
    """
    _check_inside("s of tanh", s, -1)
    return _run("tanh", partial(_tanh, s, steps), steps, 3, digits)


def _check_inside(what: str, value: float, low: int) -> None:
    if not low < value < 1:
        raise ValueError(f"{what} must lie between {low} and 1, where there is no branch point, not at {value}")
    if value == 0:
        raise ValueError(f"{what} must not be 0, where every error is 0")


def _run(
    what: str, errors: Callable[[], Iterator[tuple[Real, Real]]], steps: int, order: int, digits: int
) -> list[Real]:
    """Compute errors and the values they belong to; say how many digits would do where these are rounding."""
    if steps < 0 or digits < 1:
        raise ValueError(f"{what} takes steps of at least 0 and digits of at least 1, not {steps} and {digits}")
    found: list[Real] = []
    with mp.workdps(digits):
        for error, value in errors():
            if error < abs(value) * mpf(10) ** -digits:
                needed = _extrapolate(errors, order, steps, digits)
                raise ValueError(f"{digits} digits do not suffice for {steps} steps of {what}: {needed} do")
            found.append(error)
    return found


def _extrapolate(errors: Callable[[], Iterator[tuple[Real, Real]]], order: int, steps: int, digits: int) -> str:
    """Guess how many digits the last error has, from those of the first: each step multiplies them by `order`."""
    enough = max(digits, 100)
    shown: list[Real] = []
    while len(shown) < min(2, steps + 1) and enough <= _MOST_DIGITS:
        with mp.workdps(enough):
            sizes = (-log10(error / abs(value)) if error else mpf("inf") for error, value in errors())
            shown = list(takewhile(mpf(enough).__gt__, sizes))
        enough *= 4
    if not shown:
        return f"not even {_MOST_DIGITS}"
    last = shown[-1]
    gained = last - order * shown[-2] if len(shown) > 1 else mpf(0)
    for _ in range(steps + 1 - len(shown)):
        last = order * last + gained
    return f"about {int(ceil(last)) + 1}"


def _root(p: int, alpha0: float, steps: int) -> Iterator[tuple[Real, Real]]:
    alpha = _decimal(alpha0)
    roots = [alpha ** (1 - mpf(i) / (_POINTS - 1)) for i in range(_POINTS)]
    pairs = [(exact**p, exact) for exact in roots]
    for count in range(steps + 1):
        root, _ = plan_root(p, alpha, count)
        yield max(abs(root(x) / exact - 1) for x, exact in pairs), mpf(1)


def _decimal(number: float) -> Real:
    """Read 0.1 as one tenth, at the precision that is set."""
    return mpf(str(number))


def _means(a: Real, b: Real, steps: int) -> Iterator[Real]:
    yield a
    for _ in range(steps):
        a, b = (a + b) / 2, sqrt(a * b)
        yield a


def _theta(which: int, k: float, steps: int) -> Iterator[tuple[Real, Real]]:
    modulus = _decimal(k)
    exact = jtheta(which, 0, exp(-pi * ellipk(1 - modulus**2) / ellipk(modulus**2)))
    for mean in _means(mpf(1), sqrt(1 - modulus**2), steps):
        yield abs(sqrt((modulus if which == 2 else 1) / mean) - exact), exact


def _log(x: float, steps: int) -> Iterator[tuple[Real, Real]]:
    nome = _decimal(x) ** 2
    exact = log(nome) / 2
    for mean in _means(jtheta(3, 0, nome) ** 2, jtheta(2, 0, nome) ** 2, steps):
        yield abs(-pi / 2 / mean - exact), exact


def _tanh(s: float, steps: int) -> Iterator[tuple[Real, Real]]:
    start = y = _decimal(s)
    exact = tanh(start)
    for step in range(steps + 1):
        yield abs(y - exact), exact
        if step < steps:
            d = start - atanh(y)
            y = (y + d) / (1 + d * y)


def short(number: Real, digits: int = 3) -> str:
    """Write a number with so many digits, as the paper does: 3.04, 8.40e-2."""
    text = nstr(number, digits, strip_zeros=False, min_fixed=1, max_fixed=0)
    return text.replace("e+0", "")
