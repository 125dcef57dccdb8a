"""Provide layers and networks in which every parameter has leading seed axes.

`batch_shape` is `(S,)`, or `(S, C)` for the C critics of each seed. A layer maps `[*batch_shape, B, in]` to
`[*batch_shape, B, out]` in one batched matrix product; `[S, 1, B, in]` is broadcast over the critics.
"""

import math
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlrat.networks.activations import make_activation
from rlrat.networks.choices import Initialization, Norm
from rlrat.rational import Rational, launching
from rlrat.updates.random import DropoutMasks, Stream, generator

_MOST_NARROW_OUTPUTS = 8  # for more, cuBLAS is as fast
INITIALIZATIONS = (*get_args(Initialization), "normal", "lecun_normal")


class Linear(nn.Module):
    """y = x W + b with `weight` `[*batch_shape, in, out]` and `bias` `[*batch_shape, out]`, filled by `initialize`."""

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(
        self, in_features: int, out_features: int, batch_shape: Sequence[int], orthogonal_gain: float = 1.0
    ) -> None:
        super().__init__()
        self.orthogonal_gain = orthogonal_gain
        self.edac_bound: float | None = None
        """Of `edac`, in the output layer of a network."""
        self._is_narrow = out_features <= _MOST_NARROW_OUTPUTS  # one kernel's work on a GPU
        self.weight = nn.Parameter(torch.zeros(*batch_shape, in_features, out_features))
        self.bias = nn.Parameter(torch.zeros(*batch_shape, out_features))

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # the sum is fused with the next operations; baddbmm copies the bias first
            return self.without_bias(x) + self.bias.unsqueeze(-2)
        batch = self.weight.shape[:-2]
        if self._is_narrow and launching.takes(x, self.weight):
            from rlrat.networks.network_kernels import narrow_linear

            x = x.expand(*batch, *x.shape[-2:]).flatten(0, -3)
            return narrow_linear(x, self.weight.flatten(0, -3), self.bias.flatten(0, -2)).unflatten(0, batch)
        if len(batch) == 1:
            return torch.baddbmm(self.bias.unsqueeze(-2), x, self.weight)
        x = x.expand(*batch, *x.shape[-2:])
        # One call for product and bias; flattening gives views, also of the parameters.
        y = torch.baddbmm(self.bias.flatten(0, -2).unsqueeze(-2), x.flatten(0, -3), self.weight.flatten(0, -3))
        return y.unflatten(0, batch)

    def without_bias(self, x: Tensor) -> Tensor:
        batch = self.weight.shape[:-2]
        if len(batch) == 1:
            return torch.bmm(x, self.weight)
        x = x.expand(*batch, *x.shape[-2:])
        return torch.bmm(x.flatten(0, -3), self.weight.flatten(0, -3)).unflatten(0, batch)


class Embedding(nn.Module):
    """A learned vector for each integer below `count`: `weight` `[S, count, features]`, filled by `initialize`."""

    weight: nn.Parameter

    def __init__(self, count: int, features: int, num_seeds: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_seeds, count, features))

    def forward(self, indices: Tensor) -> Tensor:
        """Look up `indices` `[S, ...]` and return `[S, ..., features]`; too large indices count as the last one."""
        seeds, count, _ = self.weight.shape
        first = torch.arange(0, seeds * count, count, device=indices.device).view(-1, *[1] * (indices.ndim - 1))
        # Do not index: on a GPU, the gradient of indexing sums in any order.
        return F.embedding(indices.clamp(max=count - 1) + first, self.weight.flatten(0, 1))


class LayerNorm(nn.Module):
    """Layer normalisation over the features (Ba et al. 2016), with `weight` and `bias` `[*batch_shape, features]`.

    `epsilon` is added to the variance.
    """

    weight: nn.Parameter
    bias: nn.Parameter

    def __init__(self, features: int, batch_shape: Sequence[int], epsilon: float = 1e-5) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(*batch_shape, features))
        self.bias = nn.Parameter(torch.zeros(*batch_shape, features))

    def forward(self, x: Tensor) -> Tensor:
        normalized = F.layer_norm(x, x.shape[-1:], eps=self.epsilon)
        return torch.addcmul(self.bias.unsqueeze(-2), normalized, self.weight.unsqueeze(-2))


class HiddenLayer(nn.Module):
    """A layer act(norm(x W)), or if gated, act(norm(x W)) * (x V) (Dauphin et al. 2017, Shazeer 2020).

    `norm` is `none`, `layer`, or `layer_after`: norm(act(x W)), or if gated, norm(act(x W) * (x V)), so that what the
    next layer gets is bounded (as in ReBRAC, Tarasov et al. 2023, and FQL, Park et al. 2025).
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        batch_shape: Sequence[int],
        activation: str,
        activation_settings: dict[str, Any],
        norm: Norm,
        gated: bool,
        norm_epsilon: float,
    ) -> None:
        super().__init__()
        if norm not in get_args(Norm):
            raise ValueError(f"unknown norm {norm!r}: choose from {', '.join(get_args(Norm))}")
        gain = math.sqrt(2.0)
        self.linear: Linear = Linear(in_features, out_features, batch_shape, gain)
        self.gate: Linear | None = Linear(in_features, out_features, batch_shape, gain) if gated else None
        self.norm: LayerNorm | None = None if norm == "none" else LayerNorm(out_features, batch_shape, norm_epsilon)
        self.norm_after: bool = norm == "layer_after"
        self.activation: nn.Module = make_activation(
            activation, features=out_features, batch_shape=tuple(batch_shape), **activation_settings
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self._activate(x, None if self.gate is None else self.gate(x))
        return self.norm(y) if self.norm_after else y

    def _activate(self, x: Tensor, gate: Tensor | None) -> Tensor:
        norm = None if self.norm_after else self.norm
        # One that `rationalize` has put here is one for all seeds, and takes no bias.
        if isinstance(self.activation, Rational) and self.activation.batch_shape == self.linear.weight.shape[:-2]:
            if norm is None:  # bias, activation and gate in one pass
                return self.activation(self.linear.without_bias(x), self.linear.bias, gate)
            y = norm(self.linear(x))
            return self.activation(y, gate=None if gate is None else gate.to(y.dtype))  # autocast leaves only y alone
        y = self.linear(x)
        y = self.activation(y if norm is None else norm(y))
        return y if gate is None else y * gate


class MLP(nn.Module):
    """Hidden layers, then a linear one: `[*batch_shape, B, in]` to `[*batch_shape, B, out]`.

    `gated` narrows the hidden layers so that the number of weights is nearest to the plain network's.
    """

    def __init__(
        self,
        in_features: int,
        hidden_dims: Sequence[int],
        out_features: int,
        *,
        batch_shape: Sequence[int],
        activation: str = "relu",
        activation_settings: dict[str, Any] | None = None,
        norm: Norm = "none",
        norm_epsilon: float = 1e-5,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.gating: str | None = None
        """In words, how `gated` changed the hidden widths."""
        if gated:
            plain, groups = hidden_dims, (activation_settings or {}).get("groups", 1)
            for width in plain:  # check the plain widths: groups that divide these divide the narrowed widths, too
                make_activation(activation, features=width, **(activation_settings or {}))
            hidden_dims = gated_dims(in_features, plain, out_features, groups)
            before = _count_weights(in_features, plain, out_features)
            now = _count_weights(in_features, hidden_dims, out_features, gated=True)
            widths, plain_widths = (" ".join(map(str, dims)) for dims in (hidden_dims, plain))
            self.gating = f"hidden widths {widths} instead of {plain_widths}, {now:,} weights instead of {before:,}"
            self.gating += f" ({now / before - 1:+.1%})"
        self.batch_shape: tuple[int, ...] = tuple(batch_shape)
        widths = [in_features, *hidden_dims]
        self.hidden: nn.ModuleList = nn.ModuleList(
            HiddenLayer(a, b, batch_shape, activation, activation_settings or {}, norm, gated, norm_epsilon)
            for a, b in pairwise(widths)
        )
        self.output: Linear = Linear(widths[-1], out_features, batch_shape)
        self.output.edac_bound = 3e-3

    def forward(self, x: Tensor, dropout: Sequence[Tensor] | None = None) -> Tensor:
        """Apply the network; `dropout` has a tensor of factors for each hidden layer, as `Dropout` draws them."""
        for index, layer in enumerate(self.hidden):
            x = layer(x)
            if dropout is not None:
                x = x * dropout[index].view_as(x)  # the critics of a seed are rows of one mask
        return self.output(x)


def joined(observations: Tensor, actions: Tensor) -> Tensor:
    """Concatenate two inputs of a network along the features: `[..., obs + act]`.

    On a GPU, neighbouring columns of a batch are not copied: they are one in its memory already.
    """
    ours, theirs = observations, actions
    if (
        not torch.compiler.is_compiling()  # which fuses the copy, and cannot look into memory
        and launching.is_gpu(ours.device)
        and ours.shape[:-1] == theirs.shape[:-1]
        and ours.stride() == theirs.stride()
        and ours.stride(-1) == 1
        and ours.untyped_storage().data_ptr() == theirs.untyped_storage().data_ptr()
        and ours.storage_offset() + ours.shape[-1] == theirs.storage_offset()
        and not (ours.requires_grad or theirs.requires_grad)
    ):
        return ours.as_strided((*ours.shape[:-1], ours.shape[-1] + theirs.shape[-1]), ours.stride())
    return torch.cat([observations, actions], dim=-1)


_MOST_ROUNDED_LAYERS = 8  # up to this number L of layers, all 2^L ways of rounding are tried


def gated_dims(in_features: int, hidden_dims: Sequence[int], out_features: int, multiple: int = 1) -> tuple[int, ...]:
    """Shrink hidden widths by about one factor so that a gated MLP has about as many weights as the plain one.

    If a plain width is a multiple of `multiple`, the shrunk one is, too. For a few layers, every way to round is tried;
    for many layers, where each one matters less, only the nearest.
    """
    plain = _count_weights(in_features, hidden_dims, out_features)
    steps = [1 if d % multiple else multiple for d in hidden_dims]
    candidates: dict[tuple[int, ...], None] = {}
    for thousandths in range(400, 1001):
        exact = [d * thousandths / 1000 / step for d, step in zip(hidden_dims, steps, strict=True)]
        if len(exact) > _MOST_ROUNDED_LAYERS:
            exact = [max(1, round(e)) for e in exact]
        ways = ({max(1, math.floor(e)) * step, math.ceil(e) * step} for e, step in zip(exact, steps, strict=True))
        candidates |= dict.fromkeys(product(*map(sorted, ways)))
    return min(candidates, key=lambda dims: abs(_count_weights(in_features, dims, out_features, gated=True) - plain))


def _count_weights(in_features: int, hidden_dims: Sequence[int], out_features: int, gated: bool = False) -> int:
    """Count the weights and biases of an MLP's linear layers."""
    hidden = sum((a + 1) * b for a, b in pairwise([in_features, *hidden_dims]))
    return hidden * (2 if gated else 1) + (hidden_dims[-1] + 1) * out_features


class Dropout:
    """Draws the factors of inverted dropout for the hidden layers of a learner's networks, update by update.

    Args:
        seeds: of the learner.
        rows: of a batch; a network with C critics for each seed has C times as many.
        device: of the networks.
        networks: by name, each with its rate. Those of different names have different factors.
    """

    def __init__(
        self, seeds: Sequence[int], rows: int, device: torch.device | str, **networks: tuple[MLP, float]
    ) -> None:
        self._depths = {name: len(mlp.hidden) for name, (mlp, _) in networks.items()}
        streams, rates, shapes = [], [], []
        for name, (mlp, rate) in networks.items():
            for index, layer in enumerate(mlp.hidden):
                purpose = f"dropout {index}" if name == "actor" else f"{name} dropout {index}"  # once the actor's alone
                streams.append(Stream(seeds, purpose, device))
                rates.append(rate)
                shapes.append((math.prod(mlp.batch_shape[1:]) * rows, layer.linear.weight.shape[-1]))
        self._masks = DropoutMasks(streams, rates, shapes)

    def at(self, update: int) -> dict[str, list[Tensor] | None]:
        """Return by name what each `MLP` takes as `dropout`: for each layer 0 or 1/(1 - rate), `[S, rows, width]`.

        At rate 0 that is None.
        """
        masks, found = self._masks.at(update), {}
        for name, depth in self._depths.items():
            own, masks = (None, None) if masks is None else (masks[:depth], masks[depth:])
            found[name] = None if own is None or None in own else own
        return found


@torch.no_grad()
def initialize(module: nn.Module, seeds: Sequence[int], purpose: str, scheme: str) -> None:
    """Fill every `Linear` and `Embedding` of `module`: row s is a function of (seeds[s], purpose) alone.

    `xavier_uniform` (Glorot & Bengio 2010) and `orthogonal` (Saxe et al. 2014) have zero biases; `orthogonal` has gain
    sqrt(2) in hidden layers. `pytorch` is torch.nn.Linear's own: weights and biases are uniform within 1/sqrt(in).
    `edac` is that of EDAC and ReBRAC (An et al. 2021, Tarasov et al. 2023): the same weights with biases of 0.1, and
    output layers whose weights and biases are uniform within 3e-3, or their `edac_bound`.
    `normal` is N(0, 0.02) as in GPT-2 (Radford et al. 2019), `lecun_normal` is N(0, 1/sqrt(in)), both with zero biases.
    Embeddings are N(0, 0.02).
    """
    if scheme not in INITIALIZATIONS:
        raise ValueError(f"unknown initialization {scheme!r}: choose from {', '.join(INITIALIZATIONS)}")
    if all(parameter.is_meta for parameter in module.parameters()):
        return  # the meta device has only shapes: there is nothing to fill
    for index, seed in enumerate(seeds):
        draws = generator(seed, f"initialize {purpose}")
        for layer in module.modules():
            if isinstance(layer, Embedding):
                layer.weight[index].copy_(torch.empty(layer.weight.shape[1:]).normal_(std=0.02, generator=draws))
            if not isinstance(layer, Linear):
                continue
            shape = layer.weight.shape[-2:]
            weights, biases = layer.weight[index].view(-1, *shape), layer.bias[index].view(-1, shape[1])
            for weight, bias in zip(weights, biases, strict=True):  # one for each critic
                matrix = torch.empty(shape[1], shape[0])  # torch.nn.init expects [out, in]
                if scheme == "xavier_uniform":
                    nn.init.xavier_uniform_(matrix, generator=draws)
                elif scheme == "orthogonal":
                    nn.init.orthogonal_(matrix, gain=layer.orthogonal_gain, generator=draws)
                elif scheme in ("normal", "lecun_normal"):
                    matrix.normal_(std=0.02 if scheme == "normal" else 1.0 / math.sqrt(shape[0]), generator=draws)
                else:
                    output = layer.edac_bound if scheme == "edac" else None
                    bound = 1.0 / math.sqrt(shape[0]) if output is None else output
                    nn.init.uniform_(matrix, -bound, bound, generator=draws)
                    if scheme == "edac" and output is None:
                        bias.fill_(0.1)
                    else:
                        bias.copy_(torch.empty(shape[1]).uniform_(-bound, bound, generator=draws))
                weight.copy_(matrix.T)
