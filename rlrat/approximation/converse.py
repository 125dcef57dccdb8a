"""Build networks of fixed activations that imitate a pole pair near the axis: the other direction of the theorem.

The target is d^2 / (x^2 + d^2) on (-1, 1): three parameters as a rational. By partial fractions every rational without
repeated poles is a sum of a polynomial and of such terms, shifted, and of x times them.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .polynomials import Values, minimax, place_knots, points_between

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from torch import nn

Layers = list[tuple[np.ndarray, np.ndarray]]
SMOOTH: dict[str, Callable[[Any], tuple[Any, Any]]] = {
    "softplus": lambda of: (0.25, of.log(2)),
    "silu": lambda of: (0.5, 0),
    "gelu": lambda of: (of.sqrt(2 / of.pi), 0),
}
"""Activations with s(x) - s(-x) = x: s''(0) and s(0), by the functions of math or mpmath."""
MODULES = {"relu": "ReLU", "softplus": "Softplus", "silu": "SiLU", "gelu": "GELU", "tanh": "Tanh"}


@dataclass(frozen=True)
class Network:
    """Hold a feed-forward network of one input and one output: affine maps, an activation after each but the last.

    The layers are pairs of a matrix [out, in] and a vector [out], of float64, or of mpmath's numbers, of which `digits`
    says how many digits they have.
    """

    activation: str
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]
    digits: int | None = None

    @property
    def parameters_count(self) -> int:
        """The number of weights and biases that are not zero."""
        return sum(int(np.count_nonzero(part)) for layer in self.layers for part in layer)

    @property
    def units(self) -> int:
        return sum(len(bias) for _, bias in self.layers[:-1])

    @property
    def largest_weight(self) -> float:
        return float(max(abs(number) for layer in self.layers for part in layer for number in part.flat))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Compute the outputs of inputs [N], in float64 or in `digits` digits."""
        import mpmath

        function = _elementwise(self.activation, self.digits)
        with mpmath.workdps(self.digits or 15):
            values = np.array([mpmath.mpf(one) for one in x] if self.digits else x, ndmin=2)
            for place, (weight, bias) in enumerate(self.layers):
                values = weight @ (function(values) if place else values) + bias[:, None]
        return values[0]

    def module(self) -> "nn.Sequential":
        """Return the network as a PyTorch module in float64, from [N, 1] to [N, 1]."""
        import torch
        from torch import nn

        parts: list[nn.Module] = []
        for weight, bias in self.layers:
            linear = nn.Linear(*weight.shape[::-1], dtype=torch.float64)
            with torch.no_grad():
                linear.weight.copy_(torch.tensor(weight.astype(float)))
                linear.bias.copy_(torch.tensor(bias.astype(float)))
            parts += [linear, getattr(nn, MODULES[self.activation])()]
        return nn.Sequential(*parts[:-1])


def _elementwise(activation: str, digits: int | None) -> Callable[[np.ndarray], np.ndarray]:
    if digits is None:
        from scipy.special import erf, expit

        return {
            "relu": lambda x: np.maximum(x, 0.0),
            "softplus": lambda x: np.logaddexp(x, 0.0),
            "silu": lambda x: x * expit(x),
            "gelu": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
            "tanh": np.tanh,
        }[activation]
    from .references import REFERENCES, exact_gelu

    return np.frompyfunc(exact_gelu if activation == "gelu" else REFERENCES[activation], 1, 1)


# ---- ReLU


def pole_pair(distance: float) -> Callable[[Any], Any]:
    """Return the function d^2 / (x^2 + d^2): poles at +-i d, the largest value 1.

    Raises:
        ValueError: a distance d that is not above 0, or not finite.
    """
    if not 0 < distance < float("inf"):
        raise ValueError(f"the distance of a pole from the axis must be above 0 and finite, not {distance}")
    return lambda x: distance**2 / (x * x + distance**2)


def relu_interpolant(function: Values, pieces: int) -> Network:
    """Build a piecewise linear function on (-1, 1), the best for its knots, as a ReLU network of one hidden layer.

    It has a unit and three parameters for each piece; the error falls like pieces^-2.

    Args:
        function: maps a float64 array element by element.
        pieces: at least 1; `place_knots` says where they end.
    """
    knots = place_knots(function, pieces, (-1.0, 1.0))
    x = points_between(knots)
    heights = minimax(_hats(knots, x), function(x))
    return Network("relu", tuple(_then(_ramps(knots), _affine([_turns(knots, heights)], heights[:1]))))


def relu_parabolas(function: Values, pieces: int, depth: int) -> Network:
    """Build a continuous function of parabolas on (-1, 1), the best for its knots, as a deep ReLU network.

    One deep network for squares serves all pieces: f is about L + v^2 - w^2 with piecewise linear L, v and w, where v
    zigzags with the slopes +-sqrt(f'' / 2) of convex pieces, and w with those of concave ones. The error falls like
    pieces^-3, with about five parameters for each piece.

    Args:
        function: maps a float64 array element by element.
        pieces: at least 1; `place_knots` says where they end.
        depth: sawteeth of each square, at least 1.

    Raises:
        ValueError: less than one of them.
    """
    _check(depth=depth)
    knots = place_knots(function, pieces, (-1.0, 1.0), 2)
    x = points_between(knots)
    hats, piece = _hats(knots, x), np.clip(np.searchsorted(knots, x, side="right") - 1, 0, pieces - 1)
    bumps = np.zeros((len(x), pieces))
    bumps[np.arange(len(x)), piece] = (x - knots[piece]) * (knots[piece + 1] - x) / np.diff(knots)[piece] ** 2
    found = minimax(np.hstack([hats.toarray(), bumps]), function(x))
    heights, bends = found[: pieces + 1], -found[pieces + 1 :]
    rise = np.sqrt(np.maximum(np.outer([1.0, -1.0], bends), 0.0))  # of v and w over each piece
    zigzags = np.stack([_zigzag(row) for row in rise])
    sizes = np.maximum(np.abs(zigzags).max(1), 1e-300)
    heights = heights - zigzags[0] ** 2 + zigzags[1] ** 2
    shift = heights.min()  # what is carried must not be negative
    lines = np.stack([heights - shift, *(zigzags / sizes[:, None])])
    layers = _then(_ramps(knots), _affine([_turns(knots, row) for row in lines], lines[:, 0]))
    layers = _then(layers, _beside(_carry(1), _absolute(), _absolute()))
    squares = _beside(_carry(depth), _parabola(depth), _parabola(depth))
    layers = _then(_then(layers, squares), _affine([[1.0, *(sizes**2 * [1.0, -1.0])]], [shift]))
    return Network("relu", tuple(layers))


def relu_quotient(distance: float, pieces: int, steps: int, depth: int) -> Network:
    """Build d^2 / (x^2 + d^2) on (-1, 1) by Newton's division, as a deep ReLU network of polylog(1/eps) parameters.

    From a piecewise linear start s, with e = 1 - s / f, f is s times the product of all 1 + e^(2^k), of which `steps`
    are taken. Squares are Yarotsky's (2017), products are made of squares, as in Telgarsky (2017).

    Args:
        distance: d, above 0.
        pieces: of the start, on each side of 0; at least 1.
        steps: factors, at least 1.
        depth: sawteeth of each square, at least 1.

    Raises:
        ValueError: less than one of them, too few pieces for Newton's division, or a distance that is not above 0.
    """
    _check(pieces=pieces, steps=steps, depth=depth)
    function, top = pole_pair(distance), 1 + distance**-2
    half = np.maximum(place_knots(function, pieces, (0.0, 1.0), relative=True), 0.0)
    knots = np.concatenate([-half[:0:-1], half])
    x = points_between(knots)
    heights = minimax(_hats(knots, x) * (1 / function(x))[:, None], np.ones(len(x)))
    start = np.interp(np.linspace(-1.0, 1.0, 20001), knots, heights)
    q = np.abs(1 - start / function(np.linspace(-1.0, 1.0, 20001))).max()
    if q >= 1:
        raise ValueError(
            f"pieces={pieces} are too few to start a division from: its relative error is {q:.3g}, not below 1"
        )
    size = heights.max()
    lines = np.stack([heights / size, np.abs(knots)])
    layers = _then(_ramps(knots), _affine([_turns(knots, row) for row in lines], lines[:, 0]))
    layers = _then(layers, _beside(_carry(depth), _parabola(depth)))  # p = s / size, x^2
    scale = 1 / (1 + distance**2)
    layers = _then(layers, _affine([[0.0, scale], [1.0, 0.0]], [1 - scale, 0.0]))  # 1 / f of its largest value, p
    layers = _then(layers, _product(depth))
    # e = 1 - s / f, as w = (1 + e) / (1 + q)
    layers = _then(layers, _affine([[0.0, 1.0, 0.0], [-top * size / (1 + q), 0.0, 0.0]], [0.0, 2 / (1 + q)]))
    for _ in range(steps):
        size *= 1 + q
        after = 1 + q * q
        # e^2 = ((1 + q) w - 1)^2
        square = np.array([0.0, -2 * (1 + q), (1 + q) ** 2]) / after
        layers = _then(_then(layers, _product(depth)), _affine([[1.0, 0.0, 0.0], square], [0.0, 2 / after]))
        q = q * q
    return Network("relu", tuple(_then(layers, _affine([[size, 0.0]], [0.0]))))


def _check(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, not {count}")


def relu_barrier(function: Values) -> float:
    """Return c such that no ReLU network of N units is nearer to a function on (-1, 1) than c / 4^N.

    N units make 2^N pieces at most, one of which covers L / 2^N of any part of length L, and where |f''| >= k no line
    is nearer than k (length)^2 / 16 to f. So whatever is not piecewise linear needs log(1/eps) parameters: this is how
    Telgarsky (2015) and Yarotsky (2017) reason.

    Args:
        function: maps a float64 array element by element; twice differentiable, and k is that of 399 points.
    """
    x = np.linspace(-1.0, 1.0, 401)
    step = x[1] - x[0]
    bend = np.diff(function(x), 2) / step**2  # of x[i + 1]
    best = 0.0
    for signed in (bend, -bend):
        for start in range(len(bend)):
            least = np.minimum.accumulate(signed[start:])
            best = max(best, float((np.maximum(least, 0.0) * (np.arange(len(least)) * step) ** 2).max()))
    return best / 16


# ---- networks are put together from parts


def _affine(weight: Any, bias: Any) -> Layers:
    return [(np.array(weight), np.array(bias))]


def _then(first: Layers, second: Layers) -> Layers:
    """Put two networks behind each other: the last affine map and the next first become one."""
    (inner, shift), (outer, offset) = first[-1], second[0]
    return [*first[:-1], (outer @ inner, outer @ shift + offset), *second[1:]]


def _beside(*networks: Layers) -> Layers:
    """Put networks of one depth beside each other, each with inputs and outputs of its own."""
    from scipy.linalg import block_diag

    return [
        (block_diag(*(weight for weight, _ in parts)), np.concatenate([bias for _, bias in parts]))
        for parts in zip(*networks, strict=True)
    ]


def _carry(depth: int) -> Layers:
    """Hand a number >= 0 through layers of ReLU."""
    return _affine([[1.0]], [0.0]) * (depth + 1)


def _absolute() -> Layers:
    return _affine([[1.0], [-1.0]], [0.0, 0.0]) + _affine([[1.0, 1.0]], [0.0])


def _parabola(depth: int) -> Layers:
    """Build x^2 on (0, 1), to 2^-(2 depth + 3), from sawteeth: it is x - sum of g_s(x) / 4^s (Yarotsky, 2017).

    g_s, of 2^(s-1) teeth, is g_1 of g_(s-1), and g_1(x) = 2 relu(x) - 4 relu(x - 1/2).
    """
    layers = _affine([[1.0], [1.0], [1.0]], [0.0, -0.5, 0.0])
    tooth = np.array([2.0, -4.0, 0.0])
    for s in range(1, depth + 1):
        rest = np.array([0.0, 0.0, 1.0]) - tooth / 4.0**s
        layers += _affine([tooth, tooth, rest], [0.0, -0.5, 0.0])
    return [*layers[:-1], (layers[-1][0][2:], np.array([-(0.5 ** (2 * depth + 3))]))]


def _product(depth: int) -> Layers:
    """Build p w and w^2, w carried between them, of p and w on (0, 1): p w = 2 ((p + w) / 2)^2 - p^2 / 2 - w^2 / 2."""
    square = _parabola(depth)
    split = _affine([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], [0.0] * 4)
    join = _affine([[0.0, -0.5, -0.5, 2.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]], [0.0] * 3)
    return _then(_then(split, _beside(_carry(depth), square, square, square)), join)


def _ramps(knots: np.ndarray) -> Layers:
    """Build relu(x - t) for every knot but the last."""
    count = len(knots) - 1
    return [(np.ones((count, 1)), -knots[:-1]), (np.eye(count), np.zeros(count))]


def _turns(knots: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Return by how much the slope of a piecewise linear function changes at every knot but the last."""
    return np.diff(np.diff(heights) / np.diff(knots), prepend=0.0)


def _zigzag(rise: np.ndarray) -> np.ndarray:
    """Return heights at knots of a line that rises or falls over each piece by so much, and stays near 0."""
    heights = [-rise[0] / 2]
    for one in rise:
        heights.append(heights[-1] - one if heights[-1] > 0 else heights[-1] + one)
    return np.array(heights)


def _hats(knots: np.ndarray, x: np.ndarray) -> "csr_array":
    from scipy.interpolate import BSpline

    return BSpline.design_matrix(x, np.concatenate([knots[:1], knots, knots[-1:]]), 1)


# ---- smooth activations


def smooth_quotient(
    distance: float, steps: int, scale: float, activation: str = "gelu", digits: int | None = None
) -> Network:
    """Build d^2 / (x^2 + d^2) on (-1, 1) as a product, with squares from differences of a smooth activation.

    (s(h x) + s(-h x) - 2 s(0)) / (h^2 s''(0)) is x^2 up to O(h^2), and (s(h x) - s(-h x)) / h is x: two units give
    both, however small the error is to be. The price is weights of size 1 / h^2. In float64, rounding leaves 1e-16 / h
    where s(0) = 0, and for softplus 1e-16 / h^2.

    Args:
        distance: d, above 0.
        steps: factors 1 + e^(2^k), at least 1.
        scale: h, above 0.
        activation: softplus, silu or gelu.
        digits: compute with so many digits, in mpmath.

    Raises:
        ValueError: another activation, no step, or a distance or a scale that is not above 0.
    """
    import mpmath

    _check(steps=steps)
    if activation not in SMOOTH:
        raise ValueError(f"squares of {activation!r} are not known, only of {', '.join(SMOOTH)}")
    pole_pair(distance), pole_pair(scale)  # above 0 and finite
    with mpmath.workdps(digits or 15):
        d, h = (mpmath.mpf(distance), mpmath.mpf(scale)) if digits else (distance, scale)
        bend, zero = SMOOTH[activation](mpmath if digits else math)
        unit = 1 / (h * h * bend)

        def pairs(count: int) -> Layers:
            """Hand on so many numbers, and their squares after them."""
            eye, none = np.eye(count, dtype=int), np.zeros(count, dtype=int)
            inner = np.concatenate([h * eye, -h * eye]), np.concatenate([none, none])
            outer = np.block([[eye / h, eye / -h], [unit * eye, unit * eye]])
            return [inner, (outer, np.concatenate([none, none - 2 * zero * unit]))]

        q = 1 / (1 + 2 * d * d)
        most = 1 + q
        layers = _then(pairs(1), _then(_affine([[0, -2 * q]], [q]), pairs(1)))  # e = q (1 - 2 x^2), and e^2
        layers = _then(layers, _affine([[1 / most, 0], [0, 1]], [1 / most, 0]))  # the product p, of its largest value
        split = _affine([[1, 1], [1, -1], [0, 1]], [0, 0, 0])
        for k in range(1, steps):
            half = 1 / (2 + 2 * q**2**k)
            most = most / half / 2
            # p (1 + e) with p e = ((p + e)^2 - (p - e)^2) / 4
            join = _affine([[half, half, 0, half / 2, -half / 2, 0], [0, 0, 0, 0, 0, 1]], [0, 0])
            layers = _then(layers, _then(split, _then(pairs(3), join)))
        layers = _then(layers, _affine([[2 * d * d * q * most, 0]], [0]))
    return Network(activation, tuple(layers), digits)
