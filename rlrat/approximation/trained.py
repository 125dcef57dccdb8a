"""Train small networks of fixed activations to imitate a function, as well as can be: Adam, then Levenberg-Marquardt."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from .converse import Network
from .polynomials import Values, place_knots

_FUNCTIONS = {
    "relu": torch.relu,
    "softplus": functional.softplus,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "tanh": torch.tanh,
}
_RATE, _DAMPING = 0.01, 1e-2
_SMALLEST, _LARGEST = 1e-12, 1e8  # of the damping
_EVEN = 6  # the last updates minimize the sum of this power of the errors, which is near the largest error


def train(
    function: Values,
    hidden: Sequence[int],
    activation: str,
    seeds: int = 3,
    *,
    adam: int = 1000,
    updates: int = 200,
) -> list[Network]:
    """Train networks on (-1, 1), side by side, one for each seed; all of it is repeatable.

    Adam goes first, then damped Gauss-Newton steps (Levenberg-Marquardt) on a few hundred points, most of them where the
    function bends; the last quarter of the steps weighs points by their errors, so that the largest is made smaller.

    Args:
        function: maps a float64 array element by element.
        hidden: the widths of the hidden layers.
        activation: relu, softplus, silu, gelu or tanh.
        seeds: how many networks.
        adam: updates of Adam.
        updates: damped Gauss-Newton steps.

    Raises:
        ValueError: another activation.
    """
    if activation not in _FUNCTIONS:
        raise ValueError(f"networks of {activation!r} are not trained here, only of {', '.join(_FUNCTIONS)}")
    sizes = [1, *hidden, 1]
    shapes = [shape for high, low in zip(sizes[1:], sizes, strict=False) for shape in ((high, low), (high,))]
    points = np.union1d(place_knots(function, 200, (-1.0, 1.0)), -np.cos(np.linspace(0.0, np.pi, 101)))
    x, y = torch.from_numpy(points), torch.from_numpy(np.asarray(function(points), dtype=np.float64))

    def output(flat: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Compute the output of one network of all numbers `flat` at one point."""
        values, parts = at[None], flat.split([math.prod(shape) for shape in shapes])
        for place in range(0, len(parts), 2):
            values = parts[place].view(shapes[place]) @ values + parts[place + 1]
            values = values if place == len(parts) - 2 else _FUNCTIONS[activation](values)
        return values[0]

    outputs = torch.func.vmap(torch.func.vmap(output, (None, 0)), (0, None))
    slopes = torch.func.vmap(torch.func.vmap(torch.func.grad_and_value(output), (None, 0)), (0, None))
    flat = torch.stack([_start(shapes, seed) for seed in range(seeds)])
    flat = _adam(flat, lambda flat: outputs(flat, x) - y, adam)
    flat = _levenberg_marquardt(flat, lambda flat: outputs(flat, x) - y, lambda flat: slopes(flat, x)[0], updates)
    networks = []
    for row in flat:
        parts = [
            part.view(shape).numpy()
            for part, shape in zip(row.split(list(map(math.prod, shapes))), shapes, strict=True)
        ]
        networks.append(Network(activation, tuple(zip(parts[::2], parts[1::2], strict=True))))
    return networks


def _start(shapes, seed):
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for high, low in shapes[::2]:
        bound = 1 / math.sqrt(low)
        gain = 4.0 if low == 1 else 1.5
        weight = (2 * torch.rand(high, low, generator=generator, dtype=torch.float64) - 1) * bound * gain
        bias = (2 * torch.rand(high, generator=generator, dtype=torch.float64) - 1) * (
            weight.abs().sum(1) if low == 1 else bound
        )
        parts += [weight.flatten(), bias]
    return torch.cat(parts)


def _adam(flat, residual, updates):
    flat = flat.clone().requires_grad_()
    optimizer = torch.optim.Adam([flat], _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(updates, 1), _RATE / 20)
    for _ in range(updates):
        optimizer.zero_grad()
        residual(flat).square().mean(1).sum().backward()
        optimizer.step()
        schedule.step()
    return flat.detach()


def _levenberg_marquardt(flat, residual, jacobian, updates):
    damping = torch.full((len(flat),), _DAMPING, dtype=flat.dtype)
    best, least = flat, residual(flat).abs().amax(1)
    for update in range(updates):
        errors = residual(flat)
        power = 2 if update < 0.75 * updates else _EVEN
        weight = (errors.abs() / errors.abs().amax(1, keepdim=True)).clamp(1e-3) ** (power - 2)
        slopes = jacobian(flat)
        square = slopes.mT @ (weight[..., None] * slopes)
        downhill = slopes.mT @ (weight * errors)[..., None]
        scale = square.diagonal(dim1=1, dim2=2)
        damped = square + torch.diag_embed(damping[:, None] * (scale + 1e-12 * scale.amax(1, keepdim=True)))
        factor, _ = torch.linalg.cholesky_ex(damped)
        tried = flat - torch.cholesky_solve(downhill, factor)[..., 0]
        after = residual(tried)
        better = after.abs().pow(power).sum(1) < errors.abs().pow(power).sum(1)
        flat = torch.where(better[:, None], tried, flat)
        damping = torch.where(better, damping / 3, damping * 4).clamp(_SMALLEST, _LARGEST)
        now = residual(flat).abs().amax(1)
        best = torch.where((now < least)[:, None], flat, best)
        least = torch.minimum(now, least)
    return best
