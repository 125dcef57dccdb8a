"""TD3+BC (Fujimoto & Gu 2021, arXiv 2106.06860) with any activation, for continuous actions."""

from dataclasses import dataclass

from rlrat.datasets import RewardScaling
from rlrat.networks import Initialization
from rlrat.runs.arguments import Axis, Count, NotNegative, Number, Positive, Rate, RunArguments, Share, beside, parse


@dataclass(frozen=True)
class Arguments(RunArguments):
    learning_rate: Axis[Positive] = 3e-4
    """Adam's, of every network."""
    discount: Axis[Share] = 0.99
    """Gamma."""
    polyak: Axis[Share] = 0.005
    """Share of the networks that the target networks take over in each update of the actor."""
    policy_noise: Axis[NotNegative] = 0.2
    """Standard deviation of the noise on the target policy's actions, in units of their bound."""
    noise_clip: Axis[NotNegative] = 0.5
    """Clips that noise."""
    policy_delay: Count = 2
    """Updates of the critics for each of the actor and the target networks."""
    alpha: Axis[NotNegative] = 2.5
    """Weight of Q, once divided by its mean size, against behaviour cloning."""
    initialization: Initialization = "xavier_uniform"
    """Initial weights."""
    dropout: Rate = 0.0
    """Dropout rate of hidden layers, of each network in its own loss alone."""
    normalize_observations: bool = True
    """Subtract the dataset's mean and divide by its standard deviation."""
    observation_floor: Positive = 1e-6
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
from rlrat.updates import Adam, SeedGuard, Stream, UpdateBlocks, flatten, losses, polyak_


class TD3BC(nn.Module):
    """Networks, optimizers and the update; every tensor has the leading axis S of the seeds."""

    args: Arguments
    batches: Batches
    q: MLP
    q_target: MLP
    policy: Policy
    policy_target: MLP
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
        self.policy = Policy(observation_size, action_size, num_seeds=num_seeds, head="deterministic", **actor)
        for name, network in (("q", self.q), ("policy", self.policy)):
            initialize(network, seeds, name, args.initialization)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.policy_target = copy.deepcopy(self.policy.mean).requires_grad_(False)
        self.policy.set_units(units)
        self.guard = SeedGuard(num_seeds)
        self.to(device)

        self.q_optimizer = args.adam(self.q, args.learning_rate, "critic", name="q", guard=self.guard)
        self.policy_optimizer = args.adam(
            self.policy, args.learning_rate, "actor", name="actor", guard=self.guard, every=args.policy_delay
        )
        flatten(self.q_target)
        flatten(self.policy_target)
        self.noise = UpdateBlocks(Stream(seeds, "policy noise", device).normal, (args.batch_size, action_size))
        critic, actor = (args.of_role(role, "dropout") for role in ("critic", "actor"))
        networks = {"q": (self.q, critic), "actor": (self.policy.mean, actor)}
        self.dropout = Dropout(seeds, args.batch_size, device, **networks)

    def inputs(self, update: int) -> tuple[Batch, Tensor, dict[str, list[Tensor] | None], bool]:
        """What `update` takes, each a function of (seed, number of the update)."""
        return (
            self.batches.at(update),
            self.noise.at(update),
            self.dropout.at(update),
            (update + 1) % self.args.policy_delay == 0,
        )

    def update(
        self, batch: Batch, noise: Tensor, dropout: dict[str, list[Tensor] | None], actor_step: bool
    ) -> dict[str, Tensor]:
        """A step of the critics and, if `actor_step`, of the actor; a pure function of tensors that stay on the device.

        `noise` `[S, B, act]` is standard normal.
        """
        self.guard.update += 1
        metrics = self.update_q(batch, noise, dropout["q"])
        if actor_step:
            metrics |= self.update_actor(batch, dropout["actor"])
            polyak_(self.q_target, self.q, self.args.polyak, self.guard.alive)
        return metrics

    def update_q(self, batch: Batch, noise: Tensor, dropout: list[Tensor] | None) -> dict[str, Tensor]:
        """TD3's step: regress both critics on r + gamma (1 - d) min Q'(s', pi'(s') + clipped noise)."""
        args = self.args
        with torch.no_grad():
            scale, clip = beside(args.policy_noise, 3), beside(args.noise_clip, 3)
            noise = (noise * scale).clamp(-clip, clip)
            next_actions = (self.actions(self.policy_target, batch.next_observations) + noise).clamp(-1.0, 1.0)
            next_q = self.critics(self.q_target, batch.next_observations, next_actions).amin(1)
            target = losses.bellman_target(batch.rewards, batch.terminations, next_q, args.discount)
        q = self.critics(self.q, batch.observations, batch.actions, dropout)
        loss, mean = losses.squared_error(q, target)
        self.q_optimizer.step(loss)
        return {"losses/q": loss, "charts/q_mean": mean}

    def update_actor(self, batch: Batch, dropout: list[Tensor] | None) -> dict[str, Tensor]:
        """Maximise lambda Q1(s, pi(s)) - (pi(s) - a)^2; in lambda = alpha / mean |Q1| the action is pi(s), not a.

        The paper writes a there, its authors' script pi(s). The target actor follows.
        """
        actions = self.actions(self.policy.mean, batch.observations, dropout)
        q = self.critics(self.q, batch.observations, actions)[:, 0]
        weight = beside(self.args.alpha, 1) / (q.detach().abs().mean(-1) + 1e-6)
        cloning = (actions - batch.actions).square().mean((-2, -1))
        loss = cloning - weight * q.mean(-1)
        self.policy_optimizer.step(loss, target=self.policy_target, polyak=self.args.polyak)
        return {"losses/actor": loss, "losses/cloning": cloning, "charts/lambda": weight}

    def critics(
        self, network: MLP, observations: Tensor, actions: Tensor, dropout: list[Tensor] | None = None
    ) -> Tensor:
        """Q(s, a) `[S, 2, B]` of both critics of each seed."""
        return network(joined(observations, actions).unsqueeze(1), dropout).squeeze(-1)

    def actions(self, network: MLP, observations: Tensor, dropout: list[Tensor] | None = None) -> Tensor:
        """pi(s) `[S, B, act]` in [-1, 1]."""
        return torch.tanh(network(observations, dropout))

    def inspect(self, batch: Batch) -> None:
        """Pass a batch through every network, for those who look at what happens inside."""
        self.critics(self.q, batch.observations, batch.actions)
        self.policy.mean(batch.observations)


def main(args: Arguments) -> None:
    run = Run("td3_bc", args)
    learner = run.build(TD3BC)
    for update in run.updates(learner):
        run.log(learner.update(*learner.inputs(update)))


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
