"""Build p-th roots by the composite rational recurrence of Gawlik and Nakatsukasa (2019, section 3).

With f = 1 and a = alpha0, f <- ((p - 1) mu f + x / (mu f)^(p - 1)) / p: Newton's iteration for f^p = x, scaled by
mu = ((a - a^p) / ((p - 1) (1 - a)))^(1 / p) so that the relative error of 2 a / (1 + a) f, which is (1 - a) / (1 + a)
at both ends of alpha0^p <= x <= 1, is as large in between. a follows: a <- p a / ((p - 1) mu + mu^(1 - p) a^p). For
p = 2 this is the best rational of its degree (Zolotarev).
"""

from dataclasses import dataclass
from typing import Any

from mpmath import mpf, nstr
from mpmath import root as nth_root

from .plans import Number, Plan, Real


@dataclass(frozen=True)
class Root:
    """Compute x^(1 / p), times a constant. Without steps it is a constant."""

    p: int
    steps: tuple[tuple[Number, Number], ...]
    start: Number

    def __call__(self, x: Number) -> Number:
        if not self.steps:
            return self.start
        (a, b), *rest = self.steps
        y = x * b + a
        for a, b in rest:
            y = y * a + x * b / power(y, self.p - 1)
        return y


def power(y: Number, exponent: int) -> Number:
    """Compute y^exponent for an exponent of at least 1, by products."""
    if exponent == 1:
        return y
    half = power(y, exponent // 2)
    return half * half * y if exponent % 2 else half * half


def plan_root(p: int, alpha: Real, steps: int, high: Real | int = 1, error: Real | int = 0) -> tuple[Root, Real]:
    """Plan x^(1 / p) on (alpha^p high, high), with fewer steps where they keep the relative `error`.

    Returns what computes it and its relative error.
    """
    rationals: list[tuple[Real, Real]] = []
    while (off := (1 - alpha) / (1 + alpha)) > error and len(rationals) < steps:
        mu = nth_root((alpha - alpha**p) / ((p - 1) * (1 - alpha)), p)
        rationals.append(((p - 1) * mu / p, mu ** (1 - p) / p / high))
        alpha = min(p * alpha / ((p - 1) * mu + mu ** (1 - p) * alpha**p), mpf(1))
    centre = 2 * alpha / (1 + alpha) * nth_root(high, p)
    rationals[-1:] = [(a * centre, b * centre) for a, b in rationals[-1:]]
    return Root(p, tuple(rationals), centre), off


def check_root(p: Any, alpha0: Any) -> None:
    """Raise ValueError where there is no such recurrence."""
    if not isinstance(p, int) or isinstance(p, bool) or p < 2:
        raise ValueError(f"p of a p-th root must be an integer of at least 2, not {p!r}")
    if not 0 < alpha0 < 1:
        raise ValueError(f"alpha0 of a p-th root must lie between 0 and 1, not at {alpha0}")


def check_branch(name: str, domain: tuple[Real, Real]) -> None:
    """Raise ValueError where the domain reaches 0, the branch point of roots and logarithms."""
    if not domain[0] > 0:
        ends = ", ".join(nstr(end, 6) for end in domain)
        raise ValueError(f"the domain of {name} must lie above 0, where {name} has a branch point, not be ({ends})")


def root(steps: int, domain: tuple[Real, Real] | None = None, *, p: int = 2, alpha0: float | None = None) -> Plan:
    """Plan x^(1 / p) on (alpha0^p, 1), where alpha0 is 0.5 unless given, or on a domain, which says what alpha0 is."""
    check_root(p, 0.5 if alpha0 is None else alpha0)
    if domain is None:
        domain = mpf(0.5 if alpha0 is None else alpha0) ** p, mpf(1)
    elif alpha0 is not None:
        raise ValueError("root takes alpha0 or a domain, which says what alpha0 is, not both")
    check_branch("root", domain)
    low, high = domain
    compute, error = plan_root(p, nth_root(low / high, p), steps, high)
    return Plan(compute, error * nth_root(high, p), domain)
