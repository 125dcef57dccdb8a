"""Define policies: networks with all that they need to act in an environment."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from rlrat.environments.observations import Parts, flattened
from rlrat.networks.layers import MLP
from rlrat.rational import launching

if TYPE_CHECKING:
    from rlrat.datasets.units import Units


class ActingPolicy(nn.Module):
    """A policy from raw observations to actions in the environment's units, which holds the units of both."""

    observation_mean: Tensor
    observation_std: Tensor
    action_scale: Tensor
    action_offset: Tensor

    def __init__(self, observation_size: int, action_size: int, num_seeds: int) -> None:
        super().__init__()
        self.batch_shape: tuple[int, ...] = (num_seeds,)
        self.observation_parts: Parts = ()
        """Of a policy from a checkpoint: names and widths of what the vectors are made of that it was trained on."""
        self.has_units: bool = False
        """Whether `set_units` was called; a policy from a checkpoint has its units from there."""
        self.register_buffer("observation_mean", torch.zeros(num_seeds, observation_size))
        self.register_buffer("observation_std", torch.ones(num_seeds, observation_size))
        self.register_buffer("action_scale", torch.ones(num_seeds, action_size))
        self.register_buffer("action_offset", torch.zeros(num_seeds, action_size))

    @torch.no_grad()
    def set_units(self, units: "Units") -> None:
        """Set the units that the agent learns in, the same for every seed."""
        self.has_units = True
        self.observation_mean.copy_(torch.from_numpy(units.observation_mean))
        self.observation_std.copy_(torch.from_numpy(units.observation_std))
        self.action_scale.copy_(torch.from_numpy(units.action_scale))
        self.action_offset.copy_(torch.from_numpy(units.action_offset))

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, strict, missing, unexpected, errors) -> None:
        """Load also older checkpoints, which have one scale for all components, and actions around 0."""
        scale, offset = (f"{prefix}{name}" for name in ("action_scale", "action_offset"))
        if scale in state_dict and offset not in state_dict:
            before = state_dict[scale].to(self.action_scale).expand_as(self.action_scale)
            if self.has_units and not (torch.equal(before, self.action_scale) and not self.action_offset.any()):
                errors.append(
                    f"its actions are over {before.flatten()[0]:g} in each component, where each has its own bounds now"
                )
            state_dict[scale], state_dict[offset] = before, torch.zeros_like(before)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected, errors)

    def __call__(self, observations: "np.ndarray | Tensor | Mapping[str, Any]") -> "np.ndarray | Tensor":
        """Act as `forward` does; a policy of dictionary observations takes one as its environment gives it, too."""
        if isinstance(observations, Mapping):
            observations = flattened(observations, self.observation_parts, "observations")
        return super().__call__(observations)

    def read(self, observations: np.ndarray | Tensor) -> Tensor:
        """Normalise raw observations `[S, E, obs]`, or with one seed `[..., obs]`, to `[S, E, obs]`.

        Raises:
            ValueError: observations have another width.
        """
        seeds, size = self.observation_mean.shape
        if observations.shape[-1] != size:
            raise ValueError(f"observations have {observations.shape[-1]} components, this policy takes {size}")
        if isinstance(observations, np.ndarray) and not observations.flags.writeable:  # PyTorch would warn
            observations = observations.copy()
        raw = torch.as_tensor(observations, dtype=torch.float32, device=self.observation_mean.device)
        rows = raw.reshape(seeds, -1, size)
        return (rows - self.observation_mean.unsqueeze(1)) / self.observation_std.unsqueeze(1)

    def give(self, actions: Tensor, observations: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """Scale actions `[S, E, act]` in [-1, 1] to the environment's units, in `observations`' kind and leading shape.

        No action is beyond the bounds from which the units were made, see `rlrat.datasets.units`.
        """
        scaled = actions * self.action_scale.unsqueeze(1) + self.action_offset.unsqueeze(1)
        scaled = scaled.reshape(*observations.shape[:-1], -1)
        return scaled if isinstance(observations, Tensor) else scaled.cpu().numpy()


class Policy(ActingPolicy):
    """Normalisation, network, head and the actions' scale and offset.

    Heads, with mean network m and, except for `sac`, a state-independent log standard deviation:
    - `squashed_gaussian`: a = tanh(u), u ~ N(m(s), sigma); actions are clamped to +-0.999 before atanh.
    - `sac`: the same with sigma(s) from the network: log sigma = scale * output + offset; scale and offset are learned
      (Haarnoja et al. 2018, in CQL's form).
    - `tanh_gaussian`: a ~ N(tanh(m(s)), sigma).
    - `deterministic`: a = tanh(m(s)); its `log_prob` is minus the squared error.
    """

    HEADS: ClassVar[dict[str, tuple[float, float] | None]] = {
        "squashed_gaussian": (-5.0, 2.0),
        "sac": (-20.0, 2.0),
        "tanh_gaussian": (-20.0, 2.0),
        "deterministic": None,
    }

    settings: dict[str, Any]
    log_std: nn.Parameter | None
    log_std_scale: nn.Parameter | None
    log_std_offset: nn.Parameter | None

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        *,
        num_seeds: int,
        head: str,
        log_std_offset: float = 0.0,
        **network: Any,
    ) -> None:
        """Build the policy; `network` has the settings of an `MLP`, such as `hidden_dims`."""
        super().__init__(observation_size, action_size, num_seeds)
        if head not in self.HEADS:
            raise ValueError(f"unknown policy head {head!r}: choose from {', '.join(self.HEADS)}")
        # With these settings, one seed of this policy is built again from a checkpoint.
        self.settings = {"kind": "mlp", "observation_size": observation_size, "action_size": action_size, "head": head}
        self.settings |= network
        self.head = head
        outputs = action_size * (2 if head == "sac" else 1)
        self.mean: MLP = MLP(observation_size, out_features=outputs, batch_shape=(num_seeds,), **network)
        self.log_std = self.log_std_scale = self.log_std_offset = None
        if head == "sac":
            self.log_std_scale = nn.Parameter(torch.ones(num_seeds))
            self.log_std_offset = nn.Parameter(torch.full((num_seeds,), log_std_offset))
        elif head != "deterministic":
            self.log_std = nn.Parameter(torch.zeros(num_seeds, action_size))

    def gaussian(self, observations: Tensor, dropout: Sequence[Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log std. deviation of u (`tanh_gaussian`: of a) at normalised observations `[S, B, obs]`."""
        mean = self.mean(observations, dropout)
        if self.head == "sac":
            mean, log_std = mean.chunk(2, dim=-1)
            log_std = self.log_std_scale.view(-1, 1, 1) * log_std + self.log_std_offset.view(-1, 1, 1)
        else:
            log_std = self.log_std.unsqueeze(-2)
        if self.head == "tanh_gaussian":
            mean = torch.tanh(mean)
        return mean, log_std.clamp(*self.HEADS[self.head])

    def log_prob(self, observations: Tensor, actions: Tensor, dropout: Sequence[Tensor] | None = None) -> Tensor:
        """Return log densities `[S, B]` of `actions` `[S, B, act]` in [-1, 1] at normalised states `[S, B, obs]`."""
        if self.head != "sac" and launching.takes(actions):
            from rlrat.networks.network_kernels import log_prob

            outputs = self.mean(observations, dropout)
            return log_prob(outputs, actions, self.log_std, self.head, self.HEADS[self.head])
        if self.head == "deterministic":
            return -(torch.tanh(self.mean(observations, dropout)) - actions).square().sum(-1)
        mean, log_std = self.gaussian(observations, dropout)
        values, correction = actions, 0.0
        if self.head != "tanh_gaussian":
            actions = actions.clamp(-0.999, 0.999)
            values, correction = torch.atanh(actions), torch.log1p(-actions.square()).sum(-1)
        squares = ((values - mean) * torch.exp(-log_std)).square().sum(-1)
        # Terms of the action alone and of the parameters alone are summed separately, and so are their gradients.
        constant = correction + 0.5 * math.log(2.0 * math.pi) * actions.shape[-1]
        return -0.5 * squares - (log_std.sum(-1) + constant)

    @torch.no_grad()
    def forward(self, observations: np.ndarray | Tensor) -> np.ndarray | Tensor:
        """Act by the mode at raw `observations` `[S, E, obs]`: `[S, E, act]` of the same kind, in environment units.

        With one seed, any leading axes or none are allowed.

        Raises:
            ValueError: observations have another width.
        """
        outputs = self.mean(self.read(observations))
        if self.head == "sac":
            outputs = outputs.chunk(2, dim=-1)[0]
        return self.give(torch.tanh(outputs), observations)
