"""Compute losses that agents share, each `[S]`, and what is logged of them.

The operations are the definition of each. On a GPU they would be some ten launches, which take longer than their work:
there, `loss_kernels` does the same in one launch, and the gradient in another.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from rlrat.rational import launching


def bellman_target(rewards: Tensor, terminations: Tensor, next_value: Tensor, discount: float | Tensor) -> Tensor:
    """Compute r + discount (1 - d) V(s') `[S, B]`; `discount` is one number, or `[S, 1]`. It takes no gradients."""
    if launching.takes(rewards, terminations, next_value):
        from rlrat.updates import loss_kernels

        return loss_kernels.bellman_target(rewards, terminations, next_value, discount)
    return rewards + discount * (1.0 - terminations) * next_value


def squared_error(q: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean of (q - target)^2 over a batch, summed over critics `[S]`, and the mean of q `[S]`.

    Args:
        q: of each critic, `[S, C, B]`.
        target: `[S, B]`; takes no gradients.
    """
    if launching.takes(q, target):
        from rlrat.updates.loss_kernels import SquaredError

        return SquaredError.apply(q, target, None)
    return (q - target.unsqueeze(1)).square().mean(-1).sum(1), q.mean((1, 2))


def expectile_error(value: Tensor, target: Tensor, expectile: float | Tensor) -> tuple[Tensor, Tensor]:
    """Compute the mean of |expectile - 1(u < 0)| u^2 over a batch `[S]`, u = target - value, and the mean of value.

    Args:
        value, target: `[S, B]`; target takes no gradients.
        expectile: one number, or `[S, 1]` (Kostrikov et al. 2021, eq. 5).
    """
    if launching.takes(value, target):
        from rlrat.updates.loss_kernels import SquaredError

        return SquaredError.apply(value.unsqueeze(1), target, expectile)
    u = target - value
    weight = torch.where(u.detach() > 0, expectile, 1.0 - expectile)
    return (weight * u.square()).mean(-1), value.mean(-1)


class Weights(NamedTuple):
    """What is logged of advantages and weights, `[S]` each; std is over n, clipped is the share of weights."""

    advantage_mean: Tensor
    advantage_std: Tensor
    mean: Tensor
    clipped: Tensor


def weighted_likelihood(
    log_prob: Tensor, advantage: Tensor, inverse_temperature: float | Tensor, max_weight: float | Tensor
) -> tuple[Tensor, Weights]:
    """Compute the mean of -min(exp(beta A), max_weight) log pi(a | s) over a batch `[S]`, and what is logged of it.

    Args:
        log_prob, advantage: `[S, B]`; the advantage A takes no gradients.
        inverse_temperature, max_weight: one number, or `[S, 1]` (Kostrikov et al. 2021, eq. 7; Nair et al. 2020).
    """
    if launching.takes(log_prob, advantage):
        from rlrat.updates.loss_kernels import WeightedLikelihood

        loss, known = WeightedLikelihood.apply(log_prob, advantage, inverse_temperature, max_weight)
        return loss, Weights(*known.unbind())
    weight = torch.exp(inverse_temperature * advantage).clamp(max=max_weight)
    loss = -(weight * log_prob).mean(-1)
    clipped = (weight >= max_weight).float().mean(-1)
    return loss, Weights(advantage.mean(-1), advantage.std(-1, correction=0), weight.mean(-1), clipped)
