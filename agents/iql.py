"""Implicit Q-learning (Kostrikov et al. 2021, arXiv 2110.06169) with any activation, for continuous actions."""

from dataclasses import dataclass
from typing import Annotated, Literal

from rlrat.datasets import RewardScaling
from rlrat.networks import Initialization, PolicyHead
from rlrat.runs.arguments import Axis, NotNegative, Number, Positive, Range, Rate, RunArguments, Share, parse


@dataclass(frozen=True)
class Arguments(RunArguments):
    learning_rate: Axis[Positive] = 3e-4
    """Adam's, of every network."""
    actor_schedule: Literal["cosine", "constant"] = "cosine"
    """The actor's learning rate over all updates."""
    discount: Axis[Share] = 0.99
    """Gamma."""
    polyak: Axis[Share] = 0.005
    """Share of the critics that the target critics take over in each update."""
    expectile: Axis[Annotated[float, Range(0.0, 1.0, open_low=True, open_high=True)]] = 0.7
    """Tau of the value function's regression, eq. 5."""
    inverse_temperature: Axis[NotNegative] = 3.0
    """Beta of the advantage weights, eq. 7."""
    max_weight: Axis[Positive] = 100.0
    """Clips the advantage weights."""
    update_order: Literal["paper", "corl"] = "paper"
    """paper: Q, V, then the actor with the new V; corl: V, Q, then the actor with the advantage before V's step."""
    policy: PolicyHead = "squashed_gaussian"
    """squashed_gaussian: tanh of a Gaussian; tanh_gaussian: a Gaussian around tanh; deterministic: regression."""
    dropout: Rate = 0.0
    """Dropout rate of hidden layers, of each network in its own loss alone."""
    initialization: Initialization = "xavier_uniform"
    """Initial weights."""
    normalize_observations: bool = True
    """Subtract the dataset's mean and divide by its standard deviation."""
    observation_floor: Positive = 1e-6
    """Least standard deviation to divide by."""
    reward_scaling: RewardScaling = "iql"
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
from rlrat.updates import Adam, SeedGuard, flatten, losses


class IQL(nn.Module):
    """Networks, optimizers and the update; every tensor has the leading axis S of the seeds."""

    args: Arguments
    batches: Batches
    q: MLP
    v: MLP
    q_target: MLP
    policy: Policy
    guard: SeedGuard
    q_optimizer: Adam
    v_optimizer: Adam
    policy_optimizer: Adam
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
        self.v = MLP(observation_size, out_features=1, batch_shape=(num_seeds,), **critic)
        self.policy = Policy(observation_size, action_size, num_seeds=num_seeds, head=args.policy, **actor)
        for name, network in (("q", self.q), ("v", self.v), ("policy", self.policy)):
            initialize(network, seeds, name, args.initialization)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.policy.set_units(units)
        self.guard = SeedGuard(num_seeds)
        self.to(device)

        self.q_optimizer = args.adam(self.q, args.learning_rate, "critic", name="q", guard=self.guard)
        self.v_optimizer = args.adam(self.v, args.learning_rate, "critic", name="v", guard=self.guard)
        self.policy_optimizer = args.adam(self.policy, args.learning_rate, "actor", name="actor", guard=self.guard)
        flatten(self.q_target)
        critic, actor = (args.of_role(role, "dropout") for role in ("critic", "actor"))
        networks = {"q": (self.q, critic), "v": (self.v, critic), "actor": (self.policy.mean, actor)}
        self.dropout = Dropout(seeds, args.batch_size, device, **networks)

    def inputs(self, update: int) -> tuple[Batch, dict[str, list[Tensor] | None]]:
        """What `update` takes, each a function of (seed, number of the update)."""
        return self.batches.at(update), self.dropout.at(update)

    def update(self, batch: Batch, dropout: dict[str, list[Tensor] | None]) -> dict[str, Tensor]:
        """One gradient step of each network; a pure function of tensors that stay on the device."""
        self.guard.update += 1
        with torch.no_grad():
            target_q = self.min_q(self.q_target, batch.observations, batch.actions)
        if self.args.update_order == "paper":
            metrics = self.update_q(batch, dropout["q"])
            metrics |= self.update_v(batch, target_q, dropout["v"])[0]
            with torch.no_grad():
                value = self.value(batch.observations)
        else:
            with torch.no_grad():
                next_value = self.value(batch.next_observations)
            metrics, value = self.update_v(batch, target_q, dropout["v"])
            metrics |= self.update_q(batch, dropout["q"], next_value)
        metrics |= self.update_actor(batch, target_q - value, dropout["actor"])
        return metrics

    def update_q(
        self, batch: Batch, dropout: list[Tensor] | None, next_value: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Eq. 6: regress both critics on r + gamma (1 - d) V(s'); then the target critics follow."""
        with torch.no_grad():
            if next_value is None:
                next_value = self.value(batch.next_observations)
            target = losses.bellman_target(batch.rewards, batch.terminations, next_value, self.args.discount)
        q = self.critics(self.q, batch.observations, batch.actions, dropout)
        loss, mean = losses.squared_error(q, target)
        self.q_optimizer.step(loss, target=self.q_target, polyak=self.args.polyak)
        return {"losses/q": loss, "charts/q_mean": mean}

    def update_v(
        self, batch: Batch, target_q: Tensor, dropout: list[Tensor] | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Eq. 5: V moves to an expectile of the smaller target critic, by |expectile - 1(u < 0)| u^2, u = Q - V(s).

        Also returns V(s) before the step.
        """
        value = self.value(batch.observations, dropout)
        loss, mean = losses.expectile_error(value, target_q, self.args.expectile)
        self.v_optimizer.step(loss)
        return {"losses/v": loss, "charts/v_mean": mean}, value.detach()

    def update_actor(self, batch: Batch, advantage: Tensor, dropout: list[Tensor] | None) -> dict[str, Tensor]:
        """Eq. 7: behaviour cloning weighted by exp(beta A): -min(exp(beta A), max_weight) log pi(a | s)."""
        args = self.args
        log_prob = self.policy.log_prob(batch.observations, batch.actions, dropout)
        loss, weights = losses.weighted_likelihood(log_prob, advantage, args.inverse_temperature, args.max_weight)
        self.policy_optimizer.step(loss)
        return {
            "losses/actor": loss,
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
        return self.critics(network, observations, actions).amin(1)

    def value(self, observations: Tensor, dropout: list[Tensor] | None = None) -> Tensor:
        """V(s) `[S, B]`."""
        return self.v(observations, dropout).squeeze(-1)

    def inspect(self, batch: Batch) -> None:
        """Pass a batch through every network, for those who look at what happens inside."""
        self.critics(self.q, batch.observations, batch.actions)
        self.value(batch.observations)
        self.policy.mean(batch.observations)


def main(args: Arguments) -> None:
    run = Run("iql", args)
    learner = run.build(IQL)
    for update in run.updates(learner):
        run.log(learner.update(*learner.inputs(update)))


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
