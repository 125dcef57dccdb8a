"""Build a policy of plain PyTorch modules from a trained one, with its units inside, for graphs that run elsewhere."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlrat.networks.activations import PReLU
from rlrat.networks.layers import HiddenLayer, Linear
from rlrat.networks.policies import Policy
from rlrat.networks.transformer import SequencePolicy
from rlrat.rational import Rational
from rlrat.rational.stacked import plain_rational

CONTEXT = ("observations", "actions", "returns_to_go", "timesteps", "mask")
"""What a Decision Transformer is given, in this order; it gives `action`, and each of these as `next_<name>`."""


class _OfOneSeed(nn.Module):
    """A user's activation, which wants the seed axis."""

    def __init__(self, source: nn.Module) -> None:
        super().__init__()
        self.source = source

    def forward(self, x: Tensor) -> Tensor:
        return self.source(x.reshape(1, -1, x.shape[-1])).reshape(x.shape)


def plain_activation(source: nn.Module, features: int) -> nn.Module:
    """Return what computes an activation of one seed at x `[..., features]`, with any number of leading axes."""
    if isinstance(source, Rational):
        return plain_rational(source, features)
    if isinstance(source, PReLU):
        plain = nn.PReLU()
        plain.weight.data.copy_(source.weight.detach())
        return plain
    return source if type(source).__module__.startswith("torch.") else _OfOneSeed(copy.deepcopy(source))


def _linear(source: Linear, std: Tensor | None = None) -> nn.Linear:
    """Return a layer of one seed; with `std`, of inputs that are not yet divided by it."""
    weight = source.weight.detach()[0]
    if std is not None:
        weight = weight / std.unsqueeze(-1)
    plain = nn.Linear(*weight.shape)
    plain.weight.data.copy_(weight.T)
    plain.bias.data.copy_(source.bias.detach()[0])
    return plain


class _PlainLayer(nn.Module):
    def __init__(self, source: HiddenLayer, std: Tensor | None) -> None:
        super().__init__()
        self.linear = _linear(source.linear, std)
        self.gate = None if source.gate is None else _linear(source.gate, std)
        features = self.linear.out_features
        self.norm: nn.LayerNorm | None = None
        if source.norm is not None:
            self.norm = nn.LayerNorm(features, source.norm.epsilon)
            self.norm.weight.data.copy_(source.norm.weight.detach()[0])
            self.norm.bias.data.copy_(source.norm.bias.detach()[0])
        self.norm_after = source.norm_after
        self.activation = plain_activation(source.activation, features)

    def forward(self, x: Tensor) -> Tensor:
        before, after = (None, self.norm) if self.norm_after else (self.norm, None)
        y = self.linear(x)
        y = self.activation(y if before is None else before(y))
        y = y if self.gate is None else y * self.gate(x)
        return y if after is None else after(y)


class PlainPolicy(nn.Module):
    """A policy of one seed from raw observations `[batch, obs]` to deterministic actions `[batch, act]`."""

    hidden: nn.ModuleList
    output: nn.Linear
    observation_mean: Tensor
    action_scale: Tensor
    action_offset: Tensor

    def __init__(self, source: Policy) -> None:
        super().__init__()
        # Dividing the weights instead of the observations saves an operation and rounds as well.
        std: Tensor | None = source.observation_std[0]
        self.register_buffer("observation_mean", source.observation_mean[0])
        self.hidden = nn.ModuleList()
        for layer in source.mean.hidden:
            self.hidden.append(_PlainLayer(layer, std))
            std = None
        self.output = _linear(source.mean.output, std)
        size = source.settings["action_size"]  # behind the means, `sac` has the standard deviations
        self.output.weight.data, self.output.bias.data = self.output.weight.data[:size], self.output.bias.data[:size]
        self.register_buffer("action_scale", source.action_scale[0])
        self.register_buffer("action_offset", source.action_offset[0])
        # An operation less, each, for the usual bounds -1 and 1.
        self._scaled, self._moved = bool((self.action_scale != 1.0).any()), bool(self.action_offset.any())

    def forward(self, observation: Tensor) -> Tensor:
        """Act by the mode, in the environment's units."""
        x = observation - self.observation_mean
        for layer in self.hidden:
            x = layer(x)
        action = torch.tanh(self.output(x))
        if self._scaled:
            action = action * self.action_scale
        return action + self.action_offset if self._moved else action


class PlainSequencePolicy(nn.Module):
    """A Decision Transformer of one seed as a step from its context to an action and the next step's context.

    A context has the last K = `context_length` steps, the newest last; `mask` is 0 at those before an episode's first.
    """

    policy: SequencePolicy

    def __init__(self, source: SequencePolicy) -> None:
        super().__init__()
        self.policy = copy.deepcopy(source)
        for layer in [m for m in self.policy.modules() if isinstance(m, HiddenLayer)]:
            layer.activation = plain_activation(layer.activation, layer.linear.bias.shape[-1])

    def forward(
        self, observations: Tensor, actions: Tensor, returns_to_go: Tensor, timesteps: Tensor, mask: Tensor
    ) -> tuple[Tensor, ...]:
        """Act at the newest step.

        Args:
            observations: raw, `[batch, K, obs]`.
            actions: in the environment's units, `[batch, K, act]`; what stands at the newest step does not count.
            returns_to_go: in the environment's units, `[batch, K]`.
            timesteps: steps since the episode's start, `[batch, K]` int64.
            mask: `[batch, K]` float32.

        Returns:
            `[batch, act]`, and the context moved on by a step: the caller writes the new observation at its last
            place, and takes the reward from its last return-to-go.
        """
        policy = self.policy
        states = (observations - policy.observation_mean.unsqueeze(1)) / policy.observation_std.unsqueeze(1)
        taken = (actions - policy.action_offset.unsqueeze(1)) / policy.action_scale.unsqueeze(1)
        states, taken = states * mask.unsqueeze(-1), taken * mask.unsqueeze(-1)
        to_go, newest = returns_to_go / policy.return_scale, slice(policy.context_length - 1, policy.context_length)
        parts = (states, taken, to_go, timesteps)
        parts = [part.unsqueeze(0) for part in parts]
        predicted = policy.predict(*parts, mask=mask.unsqueeze(0), wanted=newest)[0, :, 0]
        action = predicted * policy.action_scale + policy.action_offset
        return (
            action,
            _moved(observations, torch.zeros_like(observations[:, :1])),
            _moved(torch.cat([actions[:, :-1], action.unsqueeze(1)], dim=1), torch.zeros_like(actions[:, :1])),
            _moved(returns_to_go, returns_to_go[:, -1:]),
            _moved(timesteps, timesteps[:, -1:] + 1),
            _moved(mask, torch.ones_like(mask[:, :1])),
        )

    def start(self, batch: int, target_return: float) -> tuple[Tensor, ...]:
        """Return the context of first steps, in which only the observations at the last place are missing."""
        settings, length = self.policy.settings, self.policy.context_length
        returns_to_go, mask = torch.zeros(batch, length), torch.zeros(batch, length)
        returns_to_go[:, -1], mask[:, -1] = target_return, 1.0
        sizes = (settings["observation_size"], settings["action_size"])
        context = [torch.zeros(batch, length, size) for size in sizes]
        return *context, returns_to_go, torch.zeros(batch, length, dtype=torch.int64), mask


def _moved(steps: Tensor, newest: Tensor) -> Tensor:
    return torch.cat([steps[:, 1:], newest], dim=1)


def plain_policy(policy: Policy | SequencePolicy) -> PlainPolicy | PlainSequencePolicy:
    """Build what is exported of a policy of one seed, on the CPU, in evaluation mode and without gradients."""
    plain = PlainSequencePolicy(policy) if isinstance(policy, SequencePolicy) else PlainPolicy(policy)
    return plain.cpu().eval().requires_grad_(False)


def names(plain: PlainPolicy | PlainSequencePolicy) -> tuple[Sequence[str], Sequence[str]]:
    """Name the inputs and the outputs, in their order."""
    if isinstance(plain, PlainSequencePolicy):
        return CONTEXT, ("action", *(f"next_{name}" for name in CONTEXT))
    return ("observation",), ("action",)


def example(plain: PlainPolicy | PlainSequencePolicy) -> tuple[Tensor, ...]:
    """Return inputs to trace with, a batch of two."""
    if isinstance(plain, PlainSequencePolicy):
        return plain.start(2, 1.0)
    return (torch.zeros(2, len(plain.observation_mean)),)
