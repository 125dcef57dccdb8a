"""Read the numbers of an MLP policy of one seed, for code that is written of it."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rlrat.errors import InputError
from rlrat.networks.activations import PReLU
from rlrat.networks.choices import own_module
from rlrat.networks.layers import LayerNorm
from rlrat.networks.policies import Policy
from rlrat.rational import Rational
from rlrat.rational.reference import polynomials


@dataclass(frozen=True)
class Polynomials:
    """P and Q of a rational of one group, constant terms first, up to the last coefficients that are not zero.

    Q's is what stands inside the bars in versions B and C, and in version A a polynomial in |x|.
    """

    numerator: np.ndarray
    denominator: np.ndarray


@dataclass(frozen=True)
class Hidden:
    """What a hidden layer is made of, besides its weights."""

    name: str
    """Before the names of its weights."""
    width: int
    norm: LayerNorm | None
    norm_after: bool
    gated: bool
    activation: str
    """A name of the registry, `rational` for all rationals."""
    version: str = ""
    """Of a rational."""
    rationals: tuple[Polynomials, ...] = ()
    """Of each group."""


def read_layers(policy: Policy) -> tuple[dict[str, np.ndarray], list[Hidden]]:
    """Return the weights by name, float32, matrices `[in, out]`, and the hidden layers in their order.

    Raises:
        InputError: a weight is not finite, or the activation is a class of the user's, of which no code can be written.
    """
    named = policy.settings.get("activation", "relu")
    if own_module(named) is not None:
        raise InputError(f"activation {named} is a class of yours: NumPy and C code cannot have it, give --format onnx")
    size, output = policy.settings["action_size"], policy.mean.output  # behind the means, `sac` has the deviations
    weights = {"observation_mean": policy.observation_mean, "observation_std": policy.observation_std}
    hidden = []
    for index, layer in enumerate(policy.mean.hidden):
        name, activation = f"hidden_{index}", layer.activation
        parts = {"": layer.linear, "_gate": layer.gate, "_norm": layer.norm}
        for part, module in parts.items():
            if module is not None:
                weights |= {f"{name}{part}_weight": module.weight, f"{name}{part}_bias": module.bias}
        kind, version, rationals = named.partition(":")[0], "", ()
        if isinstance(activation, PReLU):
            weights[f"{name}_slope"] = activation.weight
        elif isinstance(activation, Rational):
            version, rationals = activation.version, _groups(activation)
        width = layer.linear.bias.shape[-1]
        norm = (layer.norm, layer.norm_after)
        hidden.append(Hidden(name, width, *norm, layer.gate is not None, kind, version, rationals))
    weights |= {"output_weight": output.weight[..., :size], "output_bias": output.bias[..., :size]}
    weights |= {"action_scale": policy.action_scale, "action_offset": policy.action_offset}
    arrays = {name: np.ascontiguousarray(_array(value[0])) for name, value in weights.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise InputError(f"the policy's {name} is not finite: there is nothing to export")
    return arrays, hidden


def _array(value: Tensor) -> np.ndarray:
    return value.detach().cpu().numpy()


def _groups(source: Rational) -> tuple[Polynomials, ...]:
    x = torch.zeros(1, source.groups)
    _, a, c = polynomials(x, source.numerator.cpu()[0], source.denominator.cpu()[0], source.version)
    pairs = zip(_array(a.flatten(0, -2)), _array(c.flatten(0, -2)), strict=True)
    return tuple(Polynomials(_trimmed(p), _trimmed(q)) for p, q in pairs)


def _trimmed(coefficients: np.ndarray) -> np.ndarray:
    places = np.flatnonzero(coefficients)
    return coefficients[: places[-1] + 1] if len(places) else coefficients[:1]
