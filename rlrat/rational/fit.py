"""Fit the coefficients of a rational to an elementwise function.

`python -m rlrat.rational.fit` fits every entry of `FUNCTIONS` again and writes the table that the package carries.

R(x) = P(x) / Q(x) is linear in the coefficients of P. A nonlinear least-squares search over those of Q solves for P's
exactly at every step (variable projection: Golub and Pereyra, 1973). There are two sets of residuals. Inside the
interval they are |R - f|, weighted anew until the largest error is small (Lawson's method). Outside it, up to
|x| = 1000, they are |R - f| / max(|x|, |f|) with a small weight, so that R follows f where it can and never runs away.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from .reference import VERSIONS
from .table import FUNCTIONS, INTERVAL, TABLE, Fit, Function, sample

OUTER_WEIGHT = 0.01  # of a relative error outside the interval, beside 1 of an error inside it
OUTER_LIMIT = 1000.0  # the largest |x| of the fit
_STARTS, _REWEIGHTINGS = 6, 10


def evaluate(x: np.ndarray, numerator: np.ndarray, denominator: np.ndarray, version: str) -> np.ndarray:
    """Compute R(x) for one set of coefficients, in float64."""
    return np.polynomial.polynomial.polyval(x, numerator) / _denominator(x, np.asarray(denominator), version)


def _denominator(x: np.ndarray, b: np.ndarray, version: str) -> np.ndarray:
    polyval = np.polynomial.polynomial.polyval
    if version == "A":
        return polyval(np.abs(x), [1.0, *np.abs(b)])
    if version == "B":
        return 1.0 + np.abs(polyval(x, [0.0, *b]))
    if version == "C":
        return 0.1 + np.abs(polyval(x, b))
    return polyval(x, [1.0, *b])


def _coefficients(t: np.ndarray, version: str, n: int) -> np.ndarray:
    """Compute the denominator's coefficients from the free parameters of the search.

    In version N, Q is a product of quadratics 1 + 2 c u + u^2 with u = k x and |c| <= 0.95. None of them falls below
    0.0975, so that there is no pole on the real line. For odd n the leading coefficient is 0.
    """
    if version == "A":
        return np.abs(t)
    if version in "BC":
        return t
    q = np.ones(1)
    for k, c in t.reshape(-1, 2):
        q = np.convolve(q, [1.0, 2.0 * 0.95 * c / np.hypot(1.0, c) * k, k * k])
    return np.append(q[1:], np.zeros(n + 1 - len(q)))


def _starts(version: str, n: int) -> list[np.ndarray]:
    """Draw free parameters to start the search from; the first ones give Q = 1."""
    count = {"C": n + 1, "N": n // 2 * 2}.get(version, n)
    first = np.zeros(count)
    scale = 0.5 ** np.arange(count)
    if version == "C":
        first[0] = 0.9
    if version == "N":
        scale = np.ones(count)
    rng = np.random.default_rng(0)
    return [first, *(first + scale * rng.normal(size=count) for _ in range(_STARTS))]


def fit(
    function: Function,
    degrees: tuple[int, int] = (5, 4),
    version: str = "A",
    interval: tuple[float, float] | None = None,
) -> Fit:
    """Fit R of the given degrees and version to `function`, nearly minimax on `interval` (default (-5, 5)).

    `function` maps a float64 tensor to one of the same shape, element by element. The result's coefficients are
    rounded to float32.

    Raises:
        ValueError: a function that is not elementwise, or not finite on the interval; an interval that is not
            low < high.
    """
    from scipy.optimize import least_squares

    low, high = interval = INTERVAL if interval is None else (float(interval[0]), float(interval[1]))
    if not low < high:
        raise ValueError(f"the interval of a fit must be low < high, not {interval}")
    m, n = degrees
    reach = max(abs(low), abs(high))
    outer = np.geomspace(reach, max(OUTER_LIMIT, 10.0 * reach), 31)[1:]
    x = np.concatenate([np.linspace(low, high, 201), -outer[::-1], outer])
    inside = np.arange(len(x)) < 201
    f = sample(function, torch.from_numpy(x)).numpy()
    if not np.isfinite(f[inside]).all():
        raise ValueError(f"the function to fit is not finite everywhere on [{low:g}, {high:g}]")
    keep = np.isfinite(f)
    x, f, inside = x[keep], f[keep], inside[keep]
    powers = x[:, None] ** np.arange(m + 1)

    def project(t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the best numerator for these parameters of Q, and the weighted residuals."""
        basis = powers * (weights / _denominator(x, _coefficients(t, version, n), version))[:, None]
        norms = np.linalg.norm(basis, axis=0)
        a = np.linalg.lstsq(basis / norms, f * weights, rcond=None)[0] / norms
        return a, basis @ a - f * weights

    def search(t: np.ndarray, steps: int) -> np.ndarray:
        if t.size == 0:
            return t
        return least_squares(lambda t: project(t)[1], t, x_scale="jac", max_nfev=steps).x

    def cost(t: np.ndarray) -> float:
        return float(np.sum(project(t)[1] ** 2))

    # Each set of points counts as a mean, so that the number of points does not matter.
    weights = np.where(inside, 1.0 / np.sqrt(inside.sum()), 0.0)
    weights[~inside] = OUTER_WEIGHT / np.maximum(np.abs(x), np.abs(f))[~inside] / np.sqrt(max(1, (~inside).sum()))

    polynomial, *others = _starts(version, n)
    if cost(polynomial) < 1e-24:  # f is a polynomial: another Q would only add rounding errors
        a = project(polynomial)[0]
        a[np.abs(a) < 1e-12 * np.abs(a).max()] = 0.0
        return _result(function, a, _coefficients(polynomial, version, n), version, interval)
    t = min((search(start, 100) for start in others), key=cost)
    best = None
    for _ in range(_REWEIGHTINGS):
        a, b = project(t)[0], _coefficients(t, version, n)
        result = _result(function, a, b, version, interval)
        best = result if best is None or result.max_error < best.max_error else best
        error = np.abs(evaluate(x, a, b, version) - f)[inside]
        weights[inside] *= np.sqrt(error / error.mean() + 1e-3)
        weights[inside] /= np.linalg.norm(weights[inside])
        t = search(t, 30)
    return best


def _result(function: Function, a: np.ndarray, b: np.ndarray, version: str, interval: tuple[float, float]) -> Fit:
    # The shortest decimals that are the same float32 numbers.
    a, b = (tuple(float(str(np.float32(c))) for c in coefficients) for coefficients in (a, b))
    x = np.linspace(*interval, 10_001)
    error = np.abs(evaluate(x, a, b, version) - sample(function, torch.from_numpy(x)).numpy()).max()
    values = evaluate(np.array([-100.0, -10.0, 10.0, 100.0]), a, b, version)
    return Fit(a, b, version, interval, float(f"{error:.4g}"), tuple(float(f"{value:.6g}") for value in values))


def main() -> None:
    parser = argparse.ArgumentParser(description="Fit rationals of degrees (5, 4) to every elementwise activation.")
    parser.add_argument("--output", type=Path, default=Path(str(TABLE)), help="the table to write")
    output = parser.parse_args().output
    print(f"{'name':<11} version  max error on {INTERVAL}   R(-100)    R(-10)     R(10)    R(100)")
    fits = []
    for name, function in FUNCTIONS.items():
        for version in VERSIONS:
            result = fit(function, version=version)
            values = " ".join(f"{value:9.3f}" for value in result.values)
            print(f"{name:<11} {version:<7} {result.max_error:23.2e}    {values}", flush=True)
            fits.append({"name": name, **asdict(result)})
    about = {
        "written by": "python -m rlrat.rational.fit",
        "weights": f"1 on the interval, {OUTER_WEIGHT} / max(|x|, |f(x)|) outside it up to |x| = {OUTER_LIMIT:g}",
        "values": "R at -100, -10, 10, 100",
    }
    lines = ",\n".join("  " + json.dumps(entry) for entry in fits)
    output.write_text(json.dumps(about, indent=1)[:-2] + ',\n "fits": [\n' + lines + "\n ]\n}\n")


if __name__ == "__main__":
    main()
