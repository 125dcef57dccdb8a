"""Behaviour cloning, of all episodes or of the best (%BC, Chen et al. 2021, arXiv 2106.01345), with any activation."""

from dataclasses import dataclass
from typing import Annotated

from rlrat.networks import Initialization, PolicyHead
from rlrat.runs.arguments import Axis, Positive, Range, Rate, RunArguments, parse


@dataclass(frozen=True)
class Arguments(RunArguments, roles=("actor",)):
    learning_rate: Axis[Positive] = 3e-4
    """Adam's."""
    best_episodes: Annotated[float, Range(0.0, 1.0, open_low=True)] = 1.0
    """Share of the episodes that is cloned, those of the highest returns; rounded up."""
    policy: PolicyHead = "deterministic"
    """squashed_gaussian: tanh of a Gaussian; tanh_gaussian: a Gaussian around tanh; deterministic: regression."""
    dropout: Rate = 0.0
    """Dropout rate of hidden layers."""
    initialization: Initialization = "xavier_uniform"
    """Initial weights."""
    normalize_observations: bool = True
    """Subtract the mean of the episodes that are cloned and divide by their standard deviation."""
    observation_floor: Positive = 1e-6
    """Least standard deviation to divide by."""


if __name__ == "__main__":  # before torch is imported: --help and mistakes are answered at once
    ARGUMENTS = parse(Arguments, __doc__)

import torch
from torch import Tensor, nn

from rlrat.datasets import Batch, Batches, Dataset, Units
from rlrat.errors import one_line_errors
from rlrat.networks import Dropout, Policy, initialize
from rlrat.runs import Run
from rlrat.updates import Adam, SeedGuard


class BC(nn.Module):
    """Network, optimizer and the update; every tensor has the leading axis S of the seeds."""

    args: Arguments
    batches: Batches
    policy: Policy
    guard: SeedGuard
    policy_optimizer: Adam
    dropout: Dropout

    def __init__(self, args: Arguments, dataset: Dataset, seeds: list[int], device: torch.device | str) -> None:
        super().__init__()
        self.args, num_seeds = args, len(seeds)
        dataset = dataset.best_episodes(args.best_episodes)
        units = Units.of(dataset, args.normalize_observations, args.observation_floor, reward_scaling="none")
        self.batches = Batches(dataset, seeds, args.batch_size, device, units)
        observation_size, action_size = len(units.observation_mean), units.action_size
        actor = args.network("actor")
        self.policy = Policy(observation_size, action_size, num_seeds=num_seeds, head=args.policy, **actor)
        initialize(self.policy, seeds, "policy", args.initialization)
        self.policy.set_units(units)
        self.guard = SeedGuard(num_seeds)
        self.to(device)

        self.policy_optimizer = args.adam(self.policy, args.learning_rate, "actor", name="actor", guard=self.guard)
        rate = args.of_role("actor", "dropout")
        self.dropout = Dropout(seeds, args.batch_size, device, actor=(self.policy.mean, rate))

    def inputs(self, update: int) -> tuple[Batch, dict[str, list[Tensor] | None]]:
        """What `update` takes, each a function of (seed, number of the update)."""
        return self.batches.at(update), self.dropout.at(update)

    def update(self, batch: Batch, dropout: dict[str, list[Tensor] | None]) -> dict[str, Tensor]:
        """One gradient step; a pure function of tensors that stay on the device."""
        self.guard.update += 1
        return self.update_actor(batch, dropout["actor"])

    def update_actor(self, batch: Batch, dropout: list[Tensor] | None) -> dict[str, Tensor]:
        """Maximise log pi(a | s), which is minus the squared error of a deterministic policy."""
        loss = -self.policy.log_prob(batch.observations, batch.actions, dropout).mean(-1)
        self.policy_optimizer.step(loss)
        return {"losses/actor": loss}

    def inspect(self, batch: Batch) -> None:
        """Pass a batch through every network, for those who look at what happens inside."""
        self.policy.mean(batch.observations)


def main(args: Arguments) -> None:
    run = Run("bc", args)
    learner = run.build(BC)
    for update in run.updates(learner):
        run.log(learner.update(*learner.inputs(update)))


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
