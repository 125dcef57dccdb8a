"""Define the Decision Transformer's network and how it acts (Chen et al. 2021, arXiv 2106.01345), with a seed axis."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rlrat.errors import InputError
from rlrat.networks.choices import Norm
from rlrat.networks.layers import MLP, Embedding, LayerNorm, Linear
from rlrat.networks.policies import ActingPolicy

TOKENS_PER_STEP = 3  # return-to-go, state, action
_ABSENT = -1e9  # a score whose weight is 0 beside any other


class Attention(nn.Module):
    """Causal self-attention (Vaswani et al. 2017, eq. 1) over the tokens of `[S, B, T, width]`."""

    def __init__(self, width: int, num_heads: int, num_seeds: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query: Linear = Linear(width, width, (num_seeds,))
        self.key_value: Linear = Linear(width, 2 * width, (num_seeds,))
        self.output: Linear = Linear(width, width, (num_seeds,))

    def forward(self, x: Tensor, wanted: slice, dropout: Tensor | None = None, absent: Tensor | None = None) -> Tensor:
        """Attend from each of the `wanted` tokens to itself and all tokens before it: `[S, B, wanted, width]`.

        `absent` `[S, B, T]` is True at tokens of no step, to which nothing attends that has others.
        """
        rows, tokens, width = x.shape[1:]
        queries = self._heads(self.query, x[:, :, wanted])
        keys, values = self._heads(self.key_value, x).chunk(2, dim=-1)
        scores = torch.bmm(queries, keys.transpose(1, 2)).mul_(1.0 / math.sqrt(queries.shape[-1]))
        position = torch.arange(tokens, device=x.device)
        if absent is not None:  # not -inf: the tokens themselves have nothing but absent ones to attend to
            hidden = absent.unsqueeze(2).expand(-1, -1, self.num_heads, -1).flatten(0, 2).unsqueeze(1)
            scores = scores.masked_fill(hidden, _ABSENT)
        weights = torch.softmax(scores.masked_fill(position > position[wanted].unsqueeze(1), -math.inf), dim=-1)
        if dropout is not None:
            weights = weights * dropout.flatten(0, 1)
        gathered = torch.bmm(weights, values).unflatten(0, (-1, rows, self.num_heads)).transpose(2, 3)
        return apply(self.output, gathered.reshape(len(x), rows, -1, width))

    def _heads(self, linear: Linear, x: Tensor) -> Tensor:
        """Apply `linear` and split the heads: `[S, B, T, width]` to `[S * B * heads, T, features of a head]`."""
        y = apply(linear, x)
        if self.num_heads == 1:
            return y.flatten(0, 1)
        if linear is self.key_value:  # keys and values of a head are adjacent
            y = y.unflatten(-1, (2, self.num_heads, -1)).transpose(-3, -2).flatten(-2)
        else:
            y = y.unflatten(-1, (self.num_heads, -1))
        return y.transpose(2, 3).flatten(0, 2)


class Gain(nn.Module):
    """A factor for each seed, zero at first: `weight` `[S]` (ReZero, Bachlechner et al. 2020)."""

    def __init__(self, num_seeds: int) -> None:
        super().__init__()
        self.weight: nn.Parameter = nn.Parameter(torch.zeros(num_seeds))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight.view(-1, *[1] * (x.ndim - 1))


def apply(network: nn.Module, x: Tensor) -> Tensor:
    """Apply a network of `[S, rows, features]` to `[S, B, T, features]`."""
    return network(x.flatten(1, 2)).unflatten(1, x.shape[1:3])


class TransformerBlock(nn.Module):
    """A block x + attention(norm(x)), then x + MLP(norm(x)), each branch with dropout.

    Without normalisation each branch has a `Gain`: a block starts as the identity with any activation, and the residual
    stream grows only as far as training makes it grow.
    """

    attention_norm: LayerNorm | None
    mlp_norm: LayerNorm | None
    attention_gain: Gain | None
    mlp_gain: Gain | None

    def __init__(self, width: int, num_heads: int, num_seeds: int, norm: Norm, norm_epsilon: float, **mlp: Any) -> None:
        super().__init__()
        normalized = norm == "layer"
        self.attention_norm, self.mlp_norm = (
            LayerNorm(width, (num_seeds,), norm_epsilon) if normalized else None for _ in range(2)
        )
        self.attention_gain, self.mlp_gain = (None if normalized else Gain(num_seeds) for _ in range(2))
        self.attention: Attention = Attention(width, num_heads, num_seeds)
        self.mlp: MLP = MLP(width, out_features=width, batch_shape=(num_seeds,), **mlp)

    def forward(
        self,
        x: Tensor,
        wanted: slice,
        dropout: Sequence[Tensor | None] = (None, None, None),
        absent: Tensor | None = None,
    ) -> Tensor:
        normed = x if self.attention_norm is None else apply(self.attention_norm, x)
        branch = self.attention(normed, wanted, dropout[0], absent)
        x = self._add(x[:, :, wanted], branch, self.attention_gain, dropout[1])
        normed = x if self.mlp_norm is None else apply(self.mlp_norm, x)
        return self._add(x, apply(self.mlp, normed), self.mlp_gain, dropout[2])

    @staticmethod
    def _add(x: Tensor, branch: Tensor, gain: Gain | None, dropout: Tensor | None) -> Tensor:
        if gain is not None:
            branch = gain(branch)
        return x + branch if dropout is None else torch.addcmul(x, branch, dropout)


def check_target_returns(targets: Sequence[float]) -> tuple[float, ...]:
    """Check target returns and return them as numbers.

    Raises:
        InputError: there are no targets, equal targets, or one that is no finite number.
    """
    try:
        numbers = tuple(map(float, targets))
        if numbers and len(set(numbers)) == len(numbers) and all(map(math.isfinite, numbers)):
            return numbers
    except (TypeError, ValueError):
        pass
    given = list(targets) if isinstance(targets, Sequence) else targets
    raise InputError(f"the target returns are {given}: give one or more different finite numbers, the score's first")


class SequencePolicy(ActingPolicy):
    """A policy that looks back at its last `context_length` steps and is told which return it should reach.

    It is evaluated as `rlrat.evaluate` describes: `reset()`, then `policy(observations)` and `observe(rewards, dones)`
    in turns. The columns E of `[S, E]` are split evenly among `target_returns`, the first columns for the first target.
    """

    target_returns: tuple[float, ...]
    return_scale: float
    embedding_norm: LayerNorm | None
    output_norm: LayerNorm | None

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        num_seeds: int,
        target_returns: Sequence[float],
        return_scale: float,
        context_length: int,
        max_episode_steps: int,
        embedding_size: int,
        num_layers: int,
        num_heads: int,
        norm: Norm,
        norm_epsilon: float = 1e-5,
        **mlp: Any,
    ) -> None:
        """Build the policy; `mlp` has each block's `MLP` settings; target returns are in the environment's units."""
        super().__init__(observation_size, action_size, num_seeds)
        if norm not in ("none", "layer"):
            raise ValueError(f"a transformer's norm is {norm!r}: choose none or layer")
        self.settings: dict[str, Any] = {  # with these, one seed of this policy is built again from a checkpoint
            "kind": "sequence",
            "observation_size": observation_size,
            "action_size": action_size,
            "target_returns": list(target_returns),
            "return_scale": return_scale,
            "context_length": context_length,
            "max_episode_steps": max_episode_steps,
            "embedding_size": embedding_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "norm": norm,
            "norm_epsilon": norm_epsilon,
            **mlp,
        }
        self.target_returns, self.return_scale = tuple(target_returns), return_scale
        self.context_length = context_length
        width, seeds = embedding_size, (num_seeds,)
        self.return_embedding: Linear = Linear(1, width, seeds)
        self.observation_embedding: Linear = Linear(observation_size, width, seeds)
        self.action_embedding: Linear = Linear(action_size, width, seeds)
        self.timestep_embedding: Embedding = Embedding(max_episode_steps, width, num_seeds)
        normalized = norm == "layer"
        self.embedding_norm, self.output_norm = (
            LayerNorm(width, seeds, norm_epsilon) if normalized else None for _ in range(2)
        )
        self.blocks: nn.ModuleList = nn.ModuleList(
            TransformerBlock(width, num_heads, num_seeds, norm, norm_epsilon, **mlp) for _ in range(num_layers)
        )
        self.head: Linear = Linear(width, action_size, seeds)
        self.reset()

    def predict(
        self,
        observations: Tensor,
        actions: Tensor,
        returns_to_go: Tensor,
        timesteps: Tensor,
        *,
        wanted: slice = slice(None),
        dropout: Sequence[Tensor | None] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Predict the action at each of the `wanted` steps from its return-to-go, its state and everything before.

        Args:
            observations: normalised, `[S, B, K, obs]`.
            actions: in [-1, 1], `[S, B, K, act]`; the prediction at a step does not see the step's own action.
            returns_to_go: divided by the return scale, `[S, B, K]`.
            timesteps: steps since the episode's start, `[S, B, K]` int64.
            wanted: the steps of K at which to predict.
            dropout: factors of the embedded tokens, and of each block's attention weights, attention and MLP, with the
                shapes of `dropout_shapes` (which assumes that all steps are wanted).
            mask: 0 at steps before an episode's first, which do not count, else 1, `[S, B, K]`.

        Returns:
            `[S, B, wanted, act]` in [-1, 1].
        """
        dropout = [None] * (1 + 3 * len(self.blocks)) if dropout is None else dropout
        steps = observations.shape[2]
        tokens = torch.stack(
            (
                apply(self.return_embedding, returns_to_go.unsqueeze(-1)),
                apply(self.observation_embedding, observations),
                apply(self.action_embedding, actions),
            ),
            dim=3,
        )
        x = (tokens + self.timestep_embedding(timesteps).unsqueeze(3)).flatten(2, 3)
        if self.embedding_norm is not None:
            x = apply(self.embedding_norm, x)
        if dropout[0] is not None:
            x = x * dropout[0]
        absent = None if mask is None else (mask == 0).repeat_interleave(TOKENS_PER_STEP, dim=-1)
        every = slice(0, TOKENS_PER_STEP * steps)
        chosen = range(steps)[wanted]  # torch 2.11 does not trace slice.indices
        # Actions are predicted from the tokens of states.
        first, end = TOKENS_PER_STEP * chosen.start + 1, TOKENS_PER_STEP * (chosen.stop - 1) + 2
        states = slice(first, end, TOKENS_PER_STEP * chosen.step)
        for index, block in enumerate(self.blocks):
            # Nothing reads the other tokens of the last block: leaving them out saves two thirds of its products.
            last = index == len(self.blocks) - 1
            x = block(x, states if last else every, dropout[3 * index + 1 : 3 * index + 4], absent)
        if self.output_norm is not None:
            x = apply(self.output_norm, x)
        return torch.tanh(apply(self.head, x))

    def dropout_shapes(
        self, rows: int, embedding: float, attention: float, residual: float
    ) -> list[tuple[float, tuple[int, ...]]]:
        """List the dropout factors of `predict` at these rates: of each, the rate and the shape without seed axis."""
        blocks, tokens = len(self.blocks), TOKENS_PER_STEP * self.context_length
        width, heads = self.settings["embedding_size"], self.settings["num_heads"]
        found = [(embedding, (rows, tokens, width))]
        for wanted in [tokens] * (blocks - 1) + [self.context_length]:
            found.append((attention, (rows * heads, wanted, tokens)))
            found += [(residual, (rows, wanted, width))] * 2
        return found

    def reset(self) -> None:
        """Forget the episode; call it before each first step."""
        self._step, self._window, self._return_to_go, self._dones = 0, None, None, None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "SequencePolicy":
        """Take the episode along where the policy moves."""
        if self._window is not None:
            self._window = tuple(map(fn, self._window))
            self._return_to_go, self._dones = fn(self._return_to_go), fn(self._dones)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def forward(self, observations: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """Act at raw `observations` `[S, E, obs]`: return `[S, E, act]` of the same kind, in the environment's units.

        With one seed, any leading axes or none are allowed. Columns that are over in every seed get zero actions.

        Raises:
            ValueError: E is no multiple of the number of target returns, or observations have another width.
        """
        rows = self.read(observations)
        if self._window is None:
            self._window = self._empty_window(rows.shape[1])
        window, last = self._window, min(self._step, self.context_length - 1)
        if self._step > last:
            window = tuple(torch.roll(part, -1, dims=2) for part in window)
        states, actions, returns_to_go, timesteps = self._window = window
        states[:, :, last] = rows
        actions[:, :, last] = 0.0
        returns_to_go[:, :, last] = self._return_to_go
        timesteps[:, :, last] = self._step
        columns = (~self._dones).any(0).nonzero().squeeze(1)
        parts = [part[:, columns, : last + 1] for part in window]
        actions[:, columns, last] = self.predict(*parts, wanted=slice(last, last + 1)).squeeze(2)
        self._step += 1
        return self.give(actions[:, :, last], observations)

    def observe(self, rewards: np.ndarray | Tensor, dones: np.ndarray | Tensor) -> None:
        """Take the rewards of the last actions, and which episodes are over: `[S, E]`, or any shape of E with one seed.

        Raises:
            RuntimeError: it is called before the first action.
        """
        if self._window is None:
            raise RuntimeError("observe() follows an action: call the policy first")
        device = self.observation_mean.device
        shape = self._return_to_go.shape
        rewards = torch.as_tensor(rewards, dtype=torch.float32, device=device).reshape(shape)
        self._return_to_go = self._return_to_go - rewards / self.return_scale
        self._dones = torch.as_tensor(dones, dtype=torch.bool, device=device).reshape(shape)

    def _empty_window(self, columns: int) -> tuple[Tensor, ...]:
        targets = torch.tensor(self.target_returns, device=self.observation_mean.device) / self.return_scale
        if columns % len(targets):
            raise ValueError(f"{columns} episodes cannot be split among {len(targets)} target returns")
        seeds = self.observation_mean.shape[0]
        self._return_to_go = targets.repeat_interleave(columns // len(targets)).expand(seeds, -1)
        self._dones = torch.zeros(seeds, columns, dtype=torch.bool, device=targets.device)
        shape = (seeds, columns, self.context_length)
        zeros = self.observation_mean.new_zeros
        observation_size, action_size = self.settings["observation_size"], self.settings["action_size"]
        timesteps = torch.zeros(shape, dtype=torch.int64, device=targets.device)
        return zeros(*shape, observation_size), zeros(*shape, action_size), zeros(shape), timesteps
