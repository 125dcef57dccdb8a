"""ReBRAC (Tarasov et al. 2023, arXiv 2305.09836) with any activation, for continuous actions.

Defaults are the authors' for D4RL's locomotion, `--preset rebrac-d4rl` those of each dataset. Updates are as in their
code, which CORL has unchanged: lambda has no floor, and the target actor follows the actor as it was before its step.
The critics' penalty is left out at the last transition of a truncated episode, after which the data has no action.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rlrat.datasets import RewardScaling
from rlrat.networks import Initialization, Norm
from rlrat.runs.arguments import Axis, Count, NotNegative, Number, Positive, Rate, RunArguments, Share, beside, parse
from rlrat.runs.presets import Presets

# Beta 1 and 2 (github.com/tinkoff-ai/ReBRAC at 694385b: configs/rebrac; maze2d: CORL at 6afec90).
_PENALTIES = {
    "halfcheetah": {
        "random": (0.001, 0.1), "medium": (0.001, 0.01), "expert": (0.01, 0.01),
        "medium-replay": (0.01, 0.001), "full-replay": (0.001, 0.1), "medium-expert": (0.01, 0.1),
    },
    "hopper": {
        "random": (0.001, 0.01), "medium": (0.01, 0.01), "expert": (0.1, 0.1),
        "medium-replay": (0.05, 0.5), "full-replay": (0.01, 0.01), "medium-expert": (0.1, 0.01),
    },
    "walker2d": {
        "random": (0.01, 0.0), "medium": (0.05, 0.1), "expert": (0.01, 0.5),
        "medium-replay": (0.05, 0.01), "full-replay": (0.01, 0.01), "medium-expert": (0.01, 0.01),
    },
    "antmaze": {
        "umaze": (0.003, 0.002), "umaze-diverse": (0.003, 0.001), "medium-play": (0.001, 0.0005),
        "medium-diverse": (0.001, 0.0), "large-play": (0.002, 0.001), "large-diverse": (0.002, 0.002),
    },
    "maze2d": {"umaze": (0.003, 0.001), "medium": (0.003, 0.001), "large": (0.003, 0.001)},
    "pen": {"human": (0.1, 0.5), "cloned": (0.05, 0.5), "expert": (0.01, 0.01)},
    "door": {"human": (0.1, 0.1), "cloned": (0.01, 0.1), "expert": (0.05, 0.01)},
    "hammer": {"human": (0.01, 0.5), "cloned": (0.1, 0.5), "expert": (0.01, 0.01)},
    "relocate": {"human": (0.1, 0.01), "cloned": (0.1, 0.01), "expert": (0.05, 0.01)},
}  # fmt: skip
_SLOW = {"batch_size": 256, "actor_learning_rate": 3e-4, "critic_learning_rate": 3e-4}
_OTHERS = dict.fromkeys(("pen", "door", "hammer", "relocate", "maze2d"), _SLOW)
_OTHERS["antmaze"] = {**_SLOW, "critic_learning_rate": 5e-5, "discount": 0.999, "reward_factor": 100.0}
D4RL: dict[str, dict[str, Any]] = {
    f"{task}-{level}-{'v1' if _OTHERS.get(task) is _SLOW else 'v2'}": {
        **_OTHERS.get(task, {}),
        **{"actor_penalty": actor, "critic_penalty": critic, "total_updates": 1_000_000},
    }
    for task, levels in _PENALTIES.items()
    for level, (actor, critic) in levels.items()
}


@dataclass(frozen=True)
class Arguments(RunArguments):
    presets: ClassVar[Presets] = {"rebrac-d4rl": D4RL}
    preset: Literal["rebrac-d4rl"] | None = None
    """The authors' settings for one of D4RL's datasets; a setting that is given besides wins."""
    batch_size: Count = 1024
    """Transitions per seed and update."""
    norm_epsilon: Positive = 1e-6
    """Added to LayerNorm's variance: 1e-5 as in PyTorch, in Flax 1e-6."""
    hidden_dims: tuple[int, ...] = (256, 256, 256)
    """Hidden widths."""
    critic_norm: Norm | None = "layer_after"
    """The critics', where it differs."""
    actor_learning_rate: Axis[Positive] = 1e-3
    """Adam's, of the actor."""
    critic_learning_rate: Axis[Positive] = 1e-3
    """Adam's, of the critics."""
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
    actor_penalty: Axis[NotNegative] = 0.01
    """Beta 1, weight of behaviour cloning against Q, once divided by its mean size."""
    critic_penalty: Axis[NotNegative] = 0.01
    """Beta 2, weight of the squared distance to the data's next action, which is taken from the target Q."""
    normalize_q: bool = True
    """Divide Q by its mean size in the actor's loss."""
    initialization: Initialization = "edac"
    """Initial weights."""
    dropout: Rate = 0.0
    """Dropout rate of hidden layers, of each network in its own loss alone."""
    normalize_observations: bool = False
    """Subtract the dataset's mean and divide by its standard deviation."""
    observation_floor: Positive = 1e-3
    """Least standard deviation to divide by."""
    reward_scaling: RewardScaling = "none"
    """Rewards times 1, 1/(best - worst episode return), or 1000/(best - worst) on locomotion, 1 on D4RL's others."""
    reward_shift: Number | None = 0.0
    """Added to rewards before that; None: -1 to AntMaze's 0 and 1, as IQL's authors do, else nothing."""
    reward_factor: Positive = 1.0
    """Multiplies rewards after that; 100 on AntMaze."""


if __name__ == "__main__":  # before torch is imported: --help and mistakes are answered at once
    ARGUMENTS = parse(Arguments, __doc__)

import copy
import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rlrat.datasets import Batches, Dataset, Units
from rlrat.errors import one_line_errors
from rlrat.networks import MLP, Dropout, Policy, initialize, joined
from rlrat.runs import Run
from rlrat.updates import Adam, SeedGuard, Stream, UpdateBlocks, flatten, losses, polyak_


class Batch(NamedTuple):
    """Transitions `[S, B]`, with the data's next action where `next_action_mask` is 1."""

    observations: Tensor
    actions: Tensor
    rewards: Tensor
    next_observations: Tensor
    next_actions: Tensor
    next_action_mask: Tensor
    terminations: Tensor


class ReBRAC(nn.Module):
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
        units = dataclasses.replace(units, reward_scale=args.reward_factor * units.reward_scale)
        self.batches = Batches(dataset, seeds, args.batch_size, device, units, Batch)
        observation_size, action_size = len(units.observation_mean), units.action_size
        critic, actor = args.network("critic"), args.network("actor")
        self.q = MLP(observation_size + action_size, out_features=1, batch_shape=(num_seeds, 2), **critic)
        self.policy = Policy(observation_size, action_size, num_seeds=num_seeds, head="deterministic", **actor)
        self.policy.mean.output.edac_bound = 1e-3
        for name, network in (("q", self.q), ("policy", self.policy)):
            initialize(network, seeds, name, args.initialization)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.policy_target = copy.deepcopy(self.policy.mean).requires_grad_(False)
        self.policy.set_units(units)
        self.guard = SeedGuard(num_seeds)
        self.to(device)

        self.q_optimizer = args.adam(self.q, args.critic_learning_rate, "critic", name="q", guard=self.guard)
        self.policy_optimizer = args.adam(
            self.policy, args.actor_learning_rate, "actor", name="actor", guard=self.guard, every=args.policy_delay
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
            update % self.args.policy_delay == 0,
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
            polyak_(self.policy_target, self.policy, self.args.polyak, self.guard.alive)
            metrics |= self.update_actor(batch, dropout["actor"])
            polyak_(self.q_target, self.q, self.args.polyak, self.guard.alive)
        return metrics

    def update_q(self, batch: Batch, noise: Tensor, dropout: list[Tensor] | None) -> dict[str, Tensor]:
        """Regress both critics on r + gamma (1 - d) (min Q'(s', a') - beta 2 |a' - the data's|^2).

        As in TD3, a' = pi'(s') + clipped noise.
        """
        args = self.args
        with torch.no_grad():
            scale, clip = beside(args.policy_noise, 3), beside(args.noise_clip, 3)
            noise = (noise * scale).clamp(-clip, clip)
            next_actions = (self.actions(self.policy_target, batch.next_observations) + noise).clamp(-1.0, 1.0)
            next_q = self.critics(self.q_target, batch.next_observations, next_actions).amin(1)
            penalty = (next_actions - batch.next_actions).square().sum(-1) * batch.next_action_mask
            next_q = next_q - beside(args.critic_penalty, 2) * penalty
            target = losses.bellman_target(batch.rewards, batch.terminations, next_q, args.discount)
        q = self.critics(self.q, batch.observations, batch.actions, dropout)
        loss, mean = losses.squared_error(q, target)
        self.q_optimizer.step(loss)
        return {"losses/q": loss, "charts/q_mean": mean, "charts/critic_penalty": penalty.mean(-1)}

    def update_actor(self, batch: Batch, dropout: list[Tensor] | None) -> dict[str, Tensor]:
        """Maximise lambda min Q(s, pi(s)) - beta 1 |pi(s) - a|^2, where lambda = 1 / mean |min Q|."""
        actions = self.actions(self.policy.mean, batch.observations, dropout)
        q = self.critics(self.q, batch.observations, actions).amin(1)
        weight = 1.0 / q.detach().abs().mean(-1) if self.args.normalize_q else torch.ones_like(q[:, 0])
        cloning = (actions - batch.actions).square().sum(-1).mean(-1)
        loss = beside(self.args.actor_penalty, 1) * cloning - weight * q.mean(-1)
        self.policy_optimizer.step(loss)
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
    run = Run("rebrac", args)
    learner = run.build(ReBRAC)
    for update in run.updates(learner):
        run.log(learner.update(*learner.inputs(update)))


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
