"""Measure error against parameters: constructions beside polynomials, splines and networks of fixed activations."""

import itertools
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import mpmath
import numpy as np

from rlrat.rational.initial import find
from rlrat.rational.minimax import Problem, best

from .constructions import construction
from .converse import (
    Network,
    pole_pair,
    relu_interpolant,
    relu_parabolas,
    relu_quotient,
    smooth_quotient,
)
from .polynomials import Values, bernstein_rho, best_polynomial, best_spline, place_knots
from .references import GELU_CUBIC
from .trained import train

POLE, ACTIVATION = "pole", "rational (5, 4)"
RATIONAL, FIT = "rational, composed", "rational, best fit"
POLYNOMIAL, SPLINE = "polynomial", "cubic spline"
SHALLOW, DEEP = "ReLU, one layer", "ReLU, deep"
EXACT, ROUNDED = "SiLU, exact arithmetic", "SiLU, float64"
TRAINED = {name: f"{name}, trained" for name in ("relu", "tanh", "softplus", "gelu")}

_GELU, _CUBIC = math.sqrt(2 / math.pi), float(GELU_CUBIC)
TARGETS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "relu": lambda x: np.maximum(x, 0.0),
    "abs": np.abs,
    "tanh": np.tanh,
    "gelu": lambda x: x * (1 + np.tanh(_GELU * (x + _CUBIC * x**3))) / 2,
    "silu": lambda x: x * (1 + np.tanh(x / 2)) / 2,
    "softplus": lambda x: np.logaddexp(x, 0.0),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0.0)),
}
"""What the constructions imitate, in float64; GELU in its tanh form."""
SINGULARITIES: dict[str, tuple[complex, ...]] = {
    "tanh": (0.5j * math.pi,),
    "gelu": tuple(np.roots([_CUBIC * _GELU, 0.0, _GELU, -0.5j * math.pi])),
    "silu": (1j * math.pi,),
    "softplus": (1j * math.pi,),
    "mish": (math.log(2) / 2 + 0.75j * math.pi, 1j * math.pi),
}
"""Where they stop being analytic; at the conjugates, too."""
KINKS = {"relu": 2, "abs": 4}
"""Those with a kink at 0, and the parameters of the ReLU network that equals them."""
_LEAST = 1e-13  # below it float64 measures rounding
_DEGREES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
_FITTED = ((1, 0), (2, 2), (3, 2), (4, 4), (5, 4), (6, 6), (7, 6), (8, 8), (9, 8), (10, 10))
_PIECES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_DEPTHS = (1, 2, 3, 4, 6, 8)
_QUOTIENTS = (2, 4, 8, 16, 32), (1, 2, 3), range(4, 25, 2)  # pieces, steps, depths
_HIDDEN = ((4,), (8,), (16,), (32,), (8, 8), (12, 12))


@dataclass(frozen=True)
class Measured:
    """Say how near a method comes to a target, with how many parameters; `detail` says what it is made of."""

    target: str
    method: str
    parameters: int
    error: float
    detail: str


def rho(target: str, domain: tuple[float, float]) -> float | None:
    """Return the rate rho^-n of best polynomials of an activation on its domain; None where it is not geometric."""
    return min((bernstein_rho(place, domain) for place in SINGULARITIES.get(target, ())), default=None)


def measure_activation(target: str, digits: int = 128) -> list[Measured]:
    """Measure the construction of an activation, in mpmath, and what imitates the same without poles, in float64.

    Args:
        target: one of `TARGETS`.
        digits: steps are added until the error is below 10^-digits.
    """
    found = []
    for steps in range(1, 20):
        built = construction(target, steps)
        error = float(built.measured_error("mpmath", 41))
        detail = f"{steps} steps, degrees ({built.degree[0]:.6g}, {built.degree[1]:.6g})"
        found.append(Measured(target, RATIONAL, built.parameters_count, error, detail))
        if error < 10.0**-digits:
            break
    found += _fits(target, built.domain)
    function = _moved(TARGETS[target], built.domain)
    if target in KINKS:
        found.append(Measured(target, SHALLOW, KINKS[target], 0.0, "itself"))
        return _front(found + _polynomials(target, function) + _splines(target, function))
    return found + _measure_others(target, function)


def measure_rational(seeds: int = 3) -> list[Measured]:
    """Measure what imitates the rational of degrees (5, 4) that starts as ReLU, on (-5, 5), without a rational.

    Args:
        seeds: trained networks of each size and activation.
    """
    function, parameters, _, _ = rational_activation()
    itself = Measured(ACTIVATION, FIT, parameters, 0.0, "itself")
    return [itself, *_measure_others(ACTIVATION, function), *_trained(ACTIVATION, function, seeds)]


def rational_activation() -> tuple[Values, int, float, tuple[float, float]]:
    """Return the rational of version N that starts as ReLU, moved to (-1, 1), its parameters, rho and its interval."""
    fitted = find("relu", (5, 4), "N")
    numerator, denominator = map(np.polynomial.Polynomial, (fitted.numerator, [1.0, *fitted.denominator]))
    function = _moved(lambda x: numerator(x) / denominator(x), fitted.interval)
    rho = min(bernstein_rho(pole, fitted.interval) for pole in denominator.roots())
    return function, len(numerator) + len(fitted.denominator), rho, fitted.interval


def _moved(function: Values, interval: tuple[float, float]) -> Values:
    """Return a function on (-1, 1) that has a function's values on an interval."""
    low, high = interval
    return lambda t: function((low + high) / 2 + (high - low) / 2 * t)


def measure_pole(distance: float, seeds: int = 3, digits: int = 128) -> list[Measured]:
    """Measure what imitates a pole pair at a distance from the axis, on (-1, 1): a rational of three parameters.

    Args:
        distance: of the poles.
        seeds: trained networks of each size and activation.
        digits: built smooth networks grow until the error is below 10^-digits, computed in exact arithmetic.
    """
    function = pole_pair(distance)
    found = [Measured(POLE, FIT, 3, 0.0, "itself"), *_measure_others(POLE, function)]
    found = _front(found + _quotients(POLE, function, distance))
    for steps in range(1, 64):
        found.append(_smooth(POLE, distance, steps, digits))
        is_enough = found[-1].error < 10.0**-digits
        networks = [smooth_quotient(distance, steps, 2.0**-place, "silu") for place in range(10, 24)]
        details = [f"{steps} steps{_weight(network)}" for network in networks]
        rounded = [_measure(POLE, ROUNDED, function, *one) for one in zip(networks, details, strict=True)]
        found.append(min(rounded, key=lambda one: one.error))
        if is_enough:
            break
    return found + _trained(POLE, function, seeds)


def measure_approach(distances: Sequence[float], error: float = 1e-3) -> list[Measured]:
    """Measure how many parameters an error takes as a pole pair moves to the axis; the targets are named by distance.

    Args:
        distances: of the poles.
        error: the largest that may remain.
    """
    found = []
    for distance in distances:
        function, name = pole_pair(distance), f"{POLE} at {distance:g}"
        found.append(Measured(name, FIT, 3, 0.0, "itself"))
        degree = next(degree for degree in itertools.count(0, 2) if pole_error(distance, degree) <= error)
        found.append(Measured(name, POLYNOMIAL, degree + 1, error, f"degree {degree}, by Bernstein's formula"))
        built = _relu(name, function)
        for method in (SHALLOW, DEEP):
            enough = [one for one in built if one.method == method and one.error <= error]
            found += sorted(enough, key=lambda one: one.parameters)[:1]
        smooth = (_smooth(name, distance, steps, 10) for steps in range(1, 64))
        found.append(next(one for one in smooth if one.error <= error))
    return found


def pole_error(distance: float, degree: int) -> float:
    """Return the error of the best polynomial to d^2 / (x^2 + d^2) on (-1, 1): Bernstein's formula (1937) in x^2."""
    a = 1 + 2 * distance**2
    root = 2 * distance * math.sqrt(1 + distance**2)  # of a^2 - 1
    return 2 * distance**2 * (a + root) ** -(degree // 2) / root**2


def _smooth(target: str, distance: float, steps: int, digits: int) -> Measured:
    """Measure a built smooth network in so many digits that rounding is far below 10^-digits."""
    network = smooth_quotient(distance, steps, 10.0 ** -(digits / 2 + 3), "silu", 2 * digits + 20)
    points = np.union1d(np.linspace(0.0, 1.0, 21), distance * np.linspace(0.0, 2.0, 11))
    with mpmath.workdps(2 * digits + 20):
        d = mpmath.mpf(distance)
        errors = [
            abs(value - d * d / (mpmath.mpf(x) ** 2 + d * d)) for x, value in zip(points, network(points), strict=True)
        ]
    detail = f"{steps} steps{_weight(network)}"
    return Measured(target, EXACT, network.parameters_count, float(max(errors)), detail)


def _trained(target: str, function: Values, seeds: int) -> list[Measured]:
    found = []
    for activation, method in TRAINED.items():
        for hidden in _HIDDEN if seeds else ():
            for seed, network in enumerate(train(function, hidden, activation, seeds)):
                detail = f"widths {'-'.join(map(str, hidden))}, seed {seed}{_weight(network)}"
                found.append(_measure(target, method, function, network, detail))
    return found


def _measure_others(target: str, function: Values) -> list[Measured]:
    return _front(_polynomials(target, function) + _splines(target, function) + _relu(target, function))


def _fits(target: str, domain: tuple[float, float]) -> list[Measured]:
    """Measure the best single rationals without poles on the real line."""
    found = []
    for m, n in _FITTED:
        error = best(Problem(TARGETS[target], (m, n), "N", domain, (0.0,) if target in KINKS else ())).error
        found.append(Measured(target, FIT, m + n + 1, error, f"degrees ({m}, {n})"))
    return found


def _polynomials(target: str, function: Values) -> list[Measured]:
    """Measure best polynomials until rounding shows."""
    found = []
    for degree in _DEGREES:
        found.append(Measured(target, POLYNOMIAL, degree + 1, best_polynomial(function, degree)[1], f"degree {degree}"))
        if found[-1].error < _LEAST:
            break
    return found


def _splines(target: str, function: Values) -> list[Measured]:
    """Measure cubic splines of placed knots, until rounding shows; beside a kink at 0, of even ones."""
    found = []
    for pieces in _PIECES:
        if target in KINKS:
            knots, chosen = np.linspace(-1.0, 1.0, pieces // 2 * 2 + 2), 0
        else:
            knots, chosen = place_knots(function, pieces, (-1.0, 1.0), 3), pieces - 1
        error = best_spline(function, knots)[1]
        found.append(Measured(target, SPLINE, len(knots) + 2 + chosen, error, f"{len(knots) - 1} pieces"))
        if error < _LEAST:
            break
    return found


def _relu(target: str, function: Values) -> list[Measured]:
    found = []
    for pieces in _PIECES:
        found.append(_measure(target, SHALLOW, function, relu_interpolant(function, pieces), f"{pieces} pieces"))
        if found[-1].error < _LEAST:
            break
        for depth in _DEPTHS:
            network = relu_parabolas(function, pieces, depth)
            found.append(_measure(target, DEEP, function, network, f"{pieces} parabolas, {depth} teeth"))
    return found


def _quotients(target: str, function: Values, distance: float) -> list[Measured]:
    found = []
    for pieces, steps, depth in itertools.product(*_QUOTIENTS):
        with suppress(ValueError):  # too few pieces
            network = relu_quotient(distance, pieces, steps, depth)
            detail = f"division: {pieces} pieces, {steps} steps, {depth} teeth"
            found.append(_measure(target, DEEP, function, network, detail))
    return found


def _measure(target: str, method: str, function: Values, network: Network, detail: str) -> Measured:
    x = np.union1d(place_knots(function, 4000, (-1.0, 1.0)), np.linspace(-1.0, 1.0, 2001))
    error = float(np.abs(network(x) - function(x)).max())
    return Measured(target, method, network.parameters_count, error, detail)


def _front(found: list[Measured]) -> list[Measured]:
    """Leave out what another of the same method does as well with no more parameters."""
    kept: list[Measured] = []
    for one in sorted(found, key=lambda one: (one.method, one.parameters, one.error)):
        if not kept or kept[-1].method != one.method or one.error < kept[-1].error:
            kept.append(one)
    return kept


def _weight(network: Network) -> str:
    return f", largest weight {network.largest_weight:.1e}"
