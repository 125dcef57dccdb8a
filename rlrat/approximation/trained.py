"""Train small networks of fixed activations to imitate a function: by Adam, then by Levenberg and Marquardt's steps."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.func import grad, vmap

from rlrat.rational.table import FUNCTIONS

from .converse import MODULES, Network
from .polynomials import Values, place_knots

Residual = Callable[[torch.Tensor], torch.Tensor]
_FIRST_GAIN, _GAIN = 4.0, 1.5  # of the weights, over 1 / sqrt(inputs)
_RATE, _DAMPING = 0.01, 1e-2
_SMALLEST, _LARGEST = 1e-12, 1e8  # of the damping
_EVEN = 6  # the last updates minimize the sum of this power of the errors, which is near the largest error


def train(
    function: Values,
    hidden: Sequence[int],
    activation: str,
    seeds: int = 3,
    *,
    adam: int = 500,
    updates: int = 400,
) -> list[Network]:
    """Train networks on (-1, 1), side by side, one for each seed; all of it is repeatable.

    Adam goes first, then damped Gauss-Newton steps (Levenberg, 1944; Marquardt, 1963), on a few hundred points, most of
    them where the function bends. The last quarter of the steps weighs points by their errors: the largest counts most.

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
    if activation not in MODULES:
        raise ValueError(f"networks of {activation!r} are not trained here, only of {', '.join(MODULES)}")
    sizes = [1, *hidden, 1]
    shapes = [shape for high, low in zip(sizes[1:], sizes, strict=False) for shape in ((high, low), (high,))]
    lengths = list(map(math.prod, shapes))
    points = np.union1d(place_knots(function, 200, (-1.0, 1.0)), -np.cos(np.linspace(0.0, np.pi, 101)))
    x, y = torch.from_numpy(points), torch.from_numpy(np.asarray(function(points), dtype=np.float64))

    def output(flat: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """Compute the output of one network of all numbers `flat` at one point."""
        values, parts = at[None], flat.split(lengths)
        for place in range(0, len(parts), 2):
            values = parts[place].view(shapes[place]) @ values + parts[place + 1]
            values = values if place == len(parts) - 2 else FUNCTIONS[activation](values)
        return values[0]

    outputs = vmap(vmap(output, (None, 0)), (0, None))
    slopes = vmap(vmap(grad(output), (None, 0)), (0, None))
    flat = torch.stack([_start(shapes, seed) for seed in range(seeds)])
    flat = _adam(flat, lambda flat: outputs(flat, x) - y, adam)
    flat = _damped_steps(flat, lambda flat: outputs(flat, x) - y, lambda flat: slopes(flat, x), updates)
    networks = []
    for row in flat:
        parts = [part.view(shape).numpy() for part, shape in zip(row.split(lengths), shapes, strict=True)]
        networks.append(Network(activation, tuple(zip(parts[::2], parts[1::2], strict=True))))
    return networks


def _start(shapes: list[tuple[int, ...]], seed: int) -> torch.Tensor:
    """Draw the numbers of a network: uniform weights, and bends of the first layer all over the interval."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return 2 * torch.rand(shape, generator=generator, dtype=torch.float64) - 1

    parts = []
    for high, low in shapes[::2]:
        weight = draw(high, low) * (_FIRST_GAIN if low == 1 else _GAIN) / math.sqrt(low)
        bias = draw(high) * (weight.abs().sum(1) if low == 1 else 1 / math.sqrt(low))
        parts += [weight.flatten(), bias]
    return torch.cat(parts)


def _adam(flat: torch.Tensor, residual: Residual, updates: int) -> torch.Tensor:
    flat = flat.clone().requires_grad_()
    optimizer = torch.optim.Adam([flat], _RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(updates, 1), _RATE / 20)
    for _ in range(updates):
        optimizer.zero_grad()
        residual(flat).square().mean(1).sum().backward()
        optimizer.step()
        schedule.step()
    return flat.detach()


def _damped_steps(flat: torch.Tensor, residual: Residual, slopes: Residual, updates: int) -> torch.Tensor:
    """Do damped Gauss-Newton steps from [S, P]; return the numbers with the least largest error seen, for each seed."""
    damping = torch.full((len(flat),), _DAMPING, dtype=flat.dtype)
    errors = residual(flat)
    best, least = flat, errors.abs().amax(1)
    for update in range(updates):
        power = 2 if update < 0.75 * updates else _EVEN
        weight = (errors.abs() / errors.abs().amax(1, keepdim=True)).clamp(1e-3) ** (power - 2)
        jacobian = slopes(flat)
        square = jacobian.mT @ (weight[..., None] * jacobian)
        scale = square.diagonal(dim1=1, dim2=2)
        damped = square + torch.diag_embed(damping[:, None] * (scale + 1e-12 * scale.amax(1, keepdim=True)))
        step = torch.cholesky_solve(jacobian.mT @ (weight * errors)[..., None], torch.linalg.cholesky_ex(damped).L)
        tried = flat - step[..., 0]
        after = residual(tried)
        is_better = after.abs().pow(power).sum(1) < errors.abs().pow(power).sum(1)  # never where it is NaN
        flat = torch.where(is_better[:, None], tried, flat)
        errors = torch.where(is_better[:, None], after, errors)
        damping = torch.where(is_better, damping / 3, damping * 4).clamp(_SMALLEST, _LARGEST)
        largest = errors.abs().amax(1)
        best = torch.where((largest < least)[:, None], flat, best)
        least = torch.minimum(largest, least)
    return best
