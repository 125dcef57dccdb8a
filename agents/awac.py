"""Advantage-weighted actor-critic (Nair et al. 2020, arXiv 2006.09359) with any activation, for continuous actions.

Defaults are CORL's for D4RL's locomotion. The policy's mean is bounded by tanh, as in the authors' rlkit; in CORL it is
not. Weights are exp(A / lambda), clipped, as in the paper and in CORL; rlkit divides them by their sum.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rlrat.datasets import RewardScaling
from rlrat.datasets.d4rl_names import NAMES
from rlrat.networks import Initialization, PolicyHead
from rlrat.runs.arguments import Axis, Number, Positive, Rate, RunArguments, Share, parse
from rlrat.runs.presets import Presets

# Of the sets that CORL trains on (github.com/tinkoff-ai/CORL at 6afec90: configs/offline/awac).
_TRAINED_ON = {"locomotion": "-v2", "antmaze": "-v2", "maze2d": "-v1", "adroit": "-v1"}
D4RL: dict[str, dict[str, Any]] = {
    name: {"temperature": 0.3333 if about.family == "locomotion" else 0.1, "total_updates": 1_000_000}
    for name, about in NAMES.items()
    if name.endswith(_TRAINED_ON.get(about.family, "none")) and not name.startswith(("ant-", "maze2d-open"))
}


@dataclass(frozen=True)
class Arguments(RunArguments):
    presets: ClassVar[Presets] = {"awac-d4rl": D4RL}
    preset: Literal["awac-d4rl"] | None = None
    """CORL's settings for one of D4RL's datasets; a setting that is given besides wins."""
    hidden_dims: tuple[int, ...] = (256, 256, 256)
    """Hidden widths."""
    learning_rate: Axis[Positive] = 3e-4
    """Adam's, of every network."""
    discount: Axis[Share] = 0.99
    """Gamma."""
    polyak: Axis[Share] = 0.005
    """Share of the critics that the target critics take over in each update."""
    temperature: Axis[Positive] = 0.3333
    """Lambda of the advantage weights."""
    max_weight: Axis[Positive] = 100.0
    """Clips the advantage weights."""
    policy: PolicyHead = "tanh_gaussian"
    """squashed_gaussian: tanh of a Gaussian; tanh_gaussian: a Gaussian around tanh; deterministic: regression."""
    initialization: Initialization = "pytorch"
    """Initial weights."""
    dropout: Rate = 0.0
    """Dropout rate of hidden layers, of each network in its own loss alone."""
    normalize_observations: bool = True
    """Subtract the dataset's mean and divide by its standard deviation."""
    observation_floor: Positive = 1e-3
    """Least standard deviation to divide by."""
    reward_scaling: RewardScaling = "none"
    """Rewards times 1, 1/(best - worst episode return), or 1000/(best - worst) on locomotion, 1 on D4RL's others."""
    reward_shift: Number | None = None
    """Added to rewards before that; None: -1 to AntMaze's 0 and 1, as IQL's authors do, else nothing."""


if __name__ == "__main__":  # before torch is imported: --help and mistakes are answered at once
    ARGUMENTS = parse(Arguments, __doc__)

import copy

import torch
from torch import Tensor, nn

from rlrat.datasets import Batch, Batches, Dataset, Units
from rlrat.errors import one_line_errors
from rlrat.networks import MLP, Dropout, Policy, initialize, joined
from rlrat.runs import Run
from rlrat.updates import Adam, SeedGuard, Stream, UpdateBlocks, flatten, losses


class AWAC(nn.Module):
    """Networks, optimizers and the update; every tensor has the leading axis S of the seeds."""

    args: Arguments
    batches: Batches
    q: MLP
    q_target: MLP
    policy: Policy
    guard: SeedGuard
    q_optimizer: Adam
    policy_optimizer: Adam
    noise: UpdateBlocks
    dropout: Dropout

    def __init__(self, args: Arguments, dataset: Dataset, seeds: list[int], device: torch.device | str) -> None:
        super().__init__()
        self.args, num_seeds = args, len(seeds)
        rewards = args.reward_scaling, args.reward_shift
        units = Units.of(dataset, args.normalize_observations, args.observation_floor, *rewards)
        self.batches = Batches(dataset, seeds, args.batch_size, device, units)
        observation_size, action_size = len(units.observation_mean), units.action_size
        critic, actor = args.network("critic"), args.network("actor")
        self.q = MLP(observation_size + action_size, out_features=1, batch_shape=(num_seeds, 2), **critic)
        self.policy = Policy(observation_size, action_size, num_seeds=num_seeds, head=args.policy, **actor)
        for name, network in (("q", self.q), ("policy", self.policy)):
            initialize(network, seeds, name, args.initialization)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.policy.set_units(units)
        self.guard = SeedGuard(num_seeds)
        self.to(device)

        self.q_optimizer = args.adam(self.q, args.learning_rate, "critic", name="q", guard=self.guard)
        self.policy_optimizer = args.adam(self.policy, args.learning_rate, "actor", name="actor", guard=self.guard)
        flatten(self.q_target)
        self.noise = UpdateBlocks(Stream(seeds, "policy noise", device).normal, (2, args.batch_size, action_size))
        critic, actor = (args.of_role(role, "dropout") for role in ("critic", "actor"))
        networks = {"q": (self.q, critic), "actor": (self.policy.mean, actor)}
        self.dropout = Dropout(seeds, args.batch_size, device, **networks)

    def inputs(self, update: int) -> tuple[Batch, Tensor, dict[str, list[Tensor] | None]]:
        """What `update` takes, each a function of (seed, number of the update)."""
        return self.batches.at(update), self.noise.at(update), self.dropout.at(update)

    def update(self, batch: Batch, noise: Tensor, dropout: dict[str, list[Tensor] | None]) -> dict[str, Tensor]:
        """One gradient step of each network; a pure function of tensors that stay on the device.

        `noise` `[S, 2, B, act]` is standard normal, of the policy's actions at s' and at s.
        """
        self.guard.update += 1
        metrics = self.update_q(batch, noise[:, 0], dropout["q"])
        return metrics | self.update_actor(batch, noise[:, 1], dropout["actor"])

    def update_q(self, batch: Batch, noise: Tensor, dropout: list[Tensor] | None) -> dict[str, Tensor]:
        """Policy evaluation: regress both critics on r + gamma (1 - d) min Q'(s', a'), a' of the policy.

        Then the target critics follow.
        """
        with torch.no_grad():
            next_actions = self.policy.sample(batch.next_observations, noise)
            next_q = self.min_q(self.q_target, batch.next_observations, next_actions)
            target = losses.bellman_target(batch.rewards, batch.terminations, next_q, self.args.discount)
        q = self.critics(self.q, batch.observations, batch.actions, dropout)
        loss, mean = losses.squared_error(q, target)
        self.q_optimizer.step(loss, target=self.q_target, polyak=self.args.polyak)
        return {"losses/q": loss, "charts/q_mean": mean}

    def update_actor(self, batch: Batch, noise: Tensor, dropout: list[Tensor] | None) -> dict[str, Tensor]:
        """Policy improvement: clone with weights exp(A / lambda), A = min Q(s, a) - min Q(s, a'), a' of the policy."""
        args = self.args
        with torch.no_grad():
            value = self.min_q(self.q, batch.observations, self.policy.sample(batch.observations, noise))
            advantage = self.min_q(self.q, batch.observations, batch.actions) - value
        log_prob = self.policy.log_prob(batch.observations, batch.actions, dropout)
        loss, weights = losses.weighted_likelihood(log_prob, advantage, 1.0 / args.temperature, args.max_weight)
        self.policy_optimizer.step(loss)
        return {
            "losses/actor": loss,
            "charts/v_mean": value.mean(-1),
            "charts/advantage_mean": weights.advantage_mean,
            "charts/advantage_std": weights.advantage_std,
            "charts/weight_mean": weights.mean,
            "charts/weight_clipped": weights.clipped,
        }

    def critics(
        self, network: MLP, observations: Tensor, actions: Tensor, dropout: list[Tensor] | None = None
    ) -> Tensor:
        """Q(s, a) `[S, 2, B]` of both critics of each seed."""
        return network(joined(observations, actions).unsqueeze(1), dropout).squeeze(-1)

    def min_q(self, network: MLP, observations: Tensor, actions: Tensor) -> Tensor:
        """The smaller of both critics, `[S, B]`."""
        return self.critics(network, observations, actions).amin(1)

    def inspect(self, batch: Batch) -> None:
        """Pass a batch through every network, for those who look at what happens inside."""
        self.critics(self.q, batch.observations, batch.actions)
        self.policy.mean(batch.observations)


def main(args: Arguments) -> None:
    run = Run("awac", args)
    learner = run.build(AWAC)
    for update in run.updates(learner):
        run.log(learner.update(*learner.inputs(update)))


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
