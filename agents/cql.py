"""Conservative Q-learning (Kumar et al. 2020, arXiv 2006.04779) with any activation, for continuous actions."""

import math
from dataclasses import dataclass
from typing import Annotated

from rlrat.datasets import RewardScaling
from rlrat.networks import Initialization
from rlrat.runs.arguments import Axis, Count, NotNegative, Number, Positive, Range, RunArguments, Share, beside, parse


@dataclass(frozen=True)
class Arguments(RunArguments):
    hidden_dims: tuple[int, ...] = (256, 256, 256)
    """Hidden widths."""
    actor_learning_rate: Axis[Positive] = 3e-5
    """Adam's, of the actor and the entropy's weight."""
    critic_learning_rate: Axis[Positive] = 3e-4
    """Adam's, of the critics and the Lagrange multiplier."""
    discount: Axis[Share] = 0.99
    """Gamma."""
    polyak: Axis[Share] = 0.005
    """Share of the critics that the target critics take over in each update."""
    alpha: Axis[NotNegative] = 10.0
    """Weight of the conservative loss, eq. 4."""
    num_actions: Count = 10
    """Actions sampled for that loss in each state: this many uniform ones and of the policy at s and at s'."""
    temperature: Axis[Positive] = 1.0
    """Of that loss's logsumexp over actions."""
    importance_sampling: bool = True
    """Divide the sampled actions by their density in the logsumexp; without it, the data's action is among them."""
    gap_low: Number | None = None
    """Clips the gap, the logsumexp less the Q of the data's action, from below; not by default."""
    gap_high: Number | None = None
    """Clips the gap from above."""
    lagrange: bool = False
    """Learn a multiplier of the conservative loss that holds the mean gap at --target-action-gap."""
    target_action_gap: Axis[NotNegative] = 5.0
    """Tau, 5 or 10 in the paper; with --lagrange only."""
    automatic_entropy: bool = True
    """Learn the entropy's weight, with minus the number of action dimensions as the target entropy."""
    entropy_weight: Positive = 1.0
    """Weight of the policy's entropy; where it is learned, the initial one."""
    backup_entropy: bool = False
    """Add the entropy to the critics' target."""
    max_target_backup: bool = False
    """Take the largest target Q of --num-actions actions of the policy instead of one action's."""
    cloning_updates: Annotated[int, Range(0)] = 0
    """First updates in which the actor maximises the log-likelihood of the data's actions instead of Q."""
    log_std_offset: Annotated[float, Range(-20.0, 2.0)] = -1.0
    """Initial offset of the policy's log standard deviation."""
    initialization: Initialization = "orthogonal"
    """Initial weights; orthogonal output layers have gain 0.01."""
    normalize_observations: bool = True
    """Subtract the dataset's mean and divide by its standard deviation."""
    observation_floor: Positive = 1e-3
    """Least standard deviation to divide by."""
    reward_scaling: RewardScaling = "iql"
    """Rewards times 1, 1/(best - worst episode return), or 1000/(best - worst) on locomotion, 1 on D4RL's others."""
    reward_shift: Number | None = None
    """Added to rewards before that; None: -1 to AntMaze's 0 and 1, as IQL's authors do, else nothing."""


if __name__ == "__main__":  # before torch is imported: --help and mistakes are answered at once
    ARGUMENTS = parse(Arguments, __doc__)

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from rlrat.datasets import Batch, Batches, Dataset, Units
from rlrat.errors import InputError, one_line_errors
from rlrat.networks import MLP, Policy, initialize
from rlrat.rational.launching import is_gpu
from rlrat.runs import Run
from rlrat.updates import Adam, SeedGuard, Stream, UpdateBlocks, flatten, losses

_MAX_MULTIPLIER = 1e6
_CPU_ROWS = 2048  # that each critic takes at once


class Noise(NamedTuple):
    """The random numbers of one update: uniform actions in [-1, 1) and standard normal numbers for the policy's."""

    uniform: Tensor
    """`[S, num_actions, B, act]`."""
    current: Tensor
    """The same shape, for the policy at s."""
    following: Tensor
    """The same shape, for the policy at s'."""
    backup: Tensor
    """The same shape or, without the max backup, `[S, 1, B, act]`: for the policy at s' in the critics' target."""
    own: Tensor
    """`[S, 1, B, act]`, for the action at s in the actor's loss."""


class Samples(NamedTuple):
    """What the critics' loss takes from the policy before its step."""

    actions: Tensor
    """`[S, 1 + 3 num_actions, B, act]`: the data's, uniform ones, the policy's at s' and at s."""
    log_density: Tensor
    """`[S, 3 num_actions, B]`, of all but the data's."""
    target: Tensor
    """`[S, B]`."""


class Scalar(nn.Module):
    """A learned number of each seed, with the `batch_shape` that makes it a network for Adam."""

    batch_shape: tuple[int, ...]
    value: nn.Parameter

    def __init__(self, num_seeds: int, value: float) -> None:
        super().__init__()
        self.batch_shape = (num_seeds,)
        self.value = nn.Parameter(torch.full((num_seeds,), value))


class CQL(nn.Module):
    """Networks, optimizers and the update; every tensor has the leading axis S of the seeds."""

    args: Arguments
    batches: Batches
    action_size: int
    q: MLP
    q_target: MLP
    policy: Policy
    log_entropy_weight: Scalar
    log_multiplier: Scalar | None
    guard: SeedGuard
    q_optimizer: Adam
    policy_optimizer: Adam
    entropy_optimizer: Adam
    multiplier_optimizer: Adam
    part_size: int
    counts: tuple[int, int, int, int]
    uniform: UpdateBlocks
    normal: UpdateBlocks

    def __init__(self, args: Arguments, dataset: Dataset, seeds: list[int], device: torch.device | str) -> None:
        super().__init__()
        if None not in (args.gap_low, args.gap_high) and not args.gap_low < args.gap_high:
            raise InputError(f"--gap-low is {args.gap_low}, but must be below --gap-high, which is {args.gap_high}")
        if not args.lagrange and torch.as_tensor(args.target_action_gap).ne(Arguments.target_action_gap).any():
            raise InputError("--target-action-gap is for --lagrange: give both or neither")
        self.args, num_seeds = args, len(seeds)
        rewards = args.reward_scaling, args.reward_shift
        units = Units.of(dataset, args.normalize_observations, args.observation_floor, *rewards)
        self.batches = Batches(dataset, seeds, args.batch_size, device, units)
        observation_size, self.action_size = len(units.observation_mean), units.action_size
        critic, actor = args.network("critic"), {"log_std_offset": args.log_std_offset, **args.network("actor")}
        self.q = MLP(observation_size + self.action_size, out_features=1, batch_shape=(num_seeds, 2), **critic)
        self.policy = Policy(observation_size, self.action_size, num_seeds=num_seeds, head="sac", **actor)
        for name, network, output in (("q", self.q, self.q.output), ("policy", self.policy, self.policy.mean.output)):
            output.orthogonal_gain = 1e-2
            initialize(network, seeds, name, args.initialization)
        self.q_target = copy.deepcopy(self.q).requires_grad_(False)
        self.policy.set_units(units)
        self.log_entropy_weight = Scalar(num_seeds, math.log(args.entropy_weight))
        self.log_entropy_weight.requires_grad_(args.automatic_entropy)
        self.log_multiplier = Scalar(num_seeds, 1.0) if args.lagrange else None
        self.guard = SeedGuard(num_seeds)
        self.to(device)

        of_actor, of_critic = (args.actor_learning_rate, "actor"), (args.critic_learning_rate, "critic")
        self.q_optimizer = args.adam(self.q, *of_critic, name="q", guard=self.guard)
        self.policy_optimizer = args.adam(self.policy, *of_actor, name="actor", guard=self.guard)
        if args.automatic_entropy:
            about = {"name": "entropy weight", "guard": self.guard, "undecayed": [self.log_entropy_weight]}
            self.entropy_optimizer = args.adam(self.log_entropy_weight, *of_actor, **about)
        if args.lagrange:
            about = {"name": "multiplier", "guard": self.guard, "undecayed": [self.log_multiplier]}
            self.multiplier_optimizer = args.adam(self.log_multiplier, *of_critic, **about)
        flatten(self.q_target)
        on_gpu = is_gpu(torch.device(device))
        self.part_size = args.batch_size if on_gpu else max(1, _CPU_ROWS // (1 + 3 * args.num_actions))
        shape = (args.batch_size, self.action_size)
        self.counts = (args.num_actions, args.num_actions, args.num_actions if args.max_target_backup else 1, 1)
        uniform = Stream(seeds, "uniform actions", device).uniform
        self.uniform = UpdateBlocks(uniform, (args.num_actions, *shape), signed=True)
        self.normal = UpdateBlocks(Stream(seeds, "policy noise", device).normal, (sum(self.counts), *shape))

    def inputs(self, update: int) -> tuple[Batch, Noise, bool]:
        """What `update` takes, each a function of (seed, number of the update)."""
        noise = Noise(self.uniform.at(update), *self.normal.at(update).split(self.counts, dim=1))
        return self.batches.at(update), noise, update < self.args.cloning_updates

    def update(self, batch: Batch, noise: Noise, cloning: bool) -> dict[str, Tensor]:
        """One gradient step of everything learned; a pure function of tensors that stay on the device.

        Every loss is taken at the parameters before the update. `cloning` is said of the first `cloning_updates`.
        """
        self.guard.update += 1
        weight = self.log_entropy_weight.value.detach().exp().unsqueeze(-1)
        mean, log_std = self.policy.gaussian(batch.observations)
        with torch.no_grad():
            samples = self.sample(batch, noise, mean, log_std, weight)
        actions, log_prob = self.squash(mean, log_std, noise.own)
        metrics = {"charts/log_prob": log_prob.mean((1, 2)), "charts/entropy_weight": weight.squeeze(-1)}
        if self.args.automatic_entropy:
            metrics |= self.update_entropy_weight(log_prob.detach())
        metrics |= self.update_actor(batch, actions, log_prob, weight, cloning)  # with the critics before their step
        metrics |= self.update_q(batch, samples)
        return metrics

    def sample(self, batch: Batch, noise: Noise, mean: Tensor, log_std: Tensor, weight: Tensor) -> Samples:
        """Actions for the conservative loss, and the target r + gamma (1 - d) min Q'(s', pi(s'))."""
        args, following = self.args, self.policy.gaussian(batch.next_observations)
        next_actions, next_log_prob = self.squash(*following, noise.following)
        current_actions, current_log_prob = self.squash(mean, log_std, noise.current)
        uniform_log_prob = torch.full_like(next_log_prob, -self.action_size * math.log(2.0))
        actions = torch.cat([batch.actions.unsqueeze(1), noise.uniform, next_actions, current_actions], dim=1)
        log_density = torch.cat([uniform_log_prob, next_log_prob, current_log_prob], dim=1)

        backup_actions, backup_log_prob = self.squash(*following, noise.backup)
        next_q, best = self.critics(self.q_target, batch.next_observations, backup_actions).amin(1).max(1, keepdim=True)
        if args.backup_entropy:
            next_q = next_q - weight.unsqueeze(-1) * backup_log_prob.gather(1, best)
        target = losses.bellman_target(batch.rewards, batch.terminations, next_q.squeeze(1), args.discount)
        return Samples(actions, log_density, target)

    def update_entropy_weight(self, log_prob: Tensor) -> dict[str, Tensor]:
        """A step of the weight's logarithm (Haarnoja et al. 2018): up where the entropy is below its target."""
        loss = -self.log_entropy_weight.value * (log_prob.mean((1, 2)) - self.action_size)
        self.entropy_optimizer.step(loss)
        return {"losses/entropy": loss}

    def update_actor(
        self, batch: Batch, actions: Tensor, log_prob: Tensor, weight: Tensor, cloning: bool
    ) -> dict[str, Tensor]:
        """SAC's step: maximise min Q(s, a) - weight log pi(a | s), a the policy's own.

        When cloning, log pi of the data's actions takes the place of Q.
        """
        if cloning:
            value = self.policy.log_prob(batch.observations, batch.actions)
        else:
            value = self.critics(self.q, batch.observations, actions).amin(1).squeeze(1)
        loss = (weight * log_prob.squeeze(1) - value).mean(-1)
        self.policy_optimizer.step(loss)
        return {"losses/actor": loss}

    def update_q(self, batch: Batch, samples: Samples) -> dict[str, Tensor]:
        """Eq. 4, the squared error not halved: that and alpha times the gap from the data's Q to the soft maximum of Q.

        The target critics follow.

        With `lagrange`, a learned multiplier times the gap less its target takes the gap's place (appendix F). On a
        CPU, states are taken part by part: what the gradient needs of one stays in the cache, which saves a fifth of
        an update.
        """
        args, parameters, target = self.args, tuple(self.q.parameters()), samples.target.unsqueeze(1)
        weight, target_gap, metrics = beside(args.alpha, 3), 0.0, {}
        if args.lagrange:
            multiplier = self.log_multiplier.value.exp().clamp(max=_MAX_MULTIPLIER)
            weight, target_gap = weight * multiplier.detach().view(-1, 1, 1), beside(args.target_action_gap, 3)
        inputs = ((batch.observations, 1), (samples.actions, 2), (samples.log_density, 2), (target, 2))
        outputs, gradients = [], None
        for *states, part_target in zip(*(x.split(self.part_size, dim) for x, dim in inputs), strict=True):
            q, gap = self.q_and_gap(*states)
            loss = ((q - part_target).square() + weight * gap).sum((1, 2)) / target.shape[2]
            found = torch.autograd.grad(loss, parameters, torch.ones_like(loss))
            gradients = found if gradients is None else torch._foreach_add(gradients, found)
            outputs.append((q.detach(), gap.detach()))
        q, gap = (torch.cat(parts, dim=2) for parts in zip(*outputs, strict=True))
        conservative = (weight * (gap - target_gap)).mean(-1).sum(1)
        loss = (q - target).square().mean(-1).sum(1) + conservative
        self.q_optimizer.step(loss, gradients=gradients, target=self.q_target, polyak=args.polyak)
        if args.lagrange:
            excess = (gap - target_gap).mean((1, 2))
            multiplier_loss = -multiplier * beside(args.alpha, 1) * excess
            self.multiplier_optimizer.step(multiplier_loss)
            metrics = {"losses/multiplier": multiplier_loss, "charts/multiplier": multiplier}
        metrics |= {"losses/q": loss, "losses/conservative": conservative}
        return metrics | {"charts/q_mean": q.mean((1, 2)), "charts/gap": gap.mean((1, 2))}

    def q_and_gap(self, observations: Tensor, actions: Tensor, log_density: Tensor) -> tuple[Tensor, Tensor]:
        """Q of the data's actions, and how far the soft maximum over actions exceeds it: `[S, 2, B]` both.

        The soft maximum is a logsumexp over the sampled actions, each divided by its density (appendix F); the
        logarithm of their number, a constant, is not subtracted, as in the authors' script.
        """
        args, q = self.args, self.critics(self.q, observations, actions)
        terms = q[:, :, 1:] - log_density.unsqueeze(1) if args.importance_sampling else q
        soft_maximum = torch.logsumexp(terms / beside(args.temperature, 4), dim=2) * beside(args.temperature, 3)
        gap = soft_maximum - q[:, :, 0]
        if args.gap_low is not None or args.gap_high is not None:
            gap = gap.clamp(args.gap_low, args.gap_high)
        return q[:, :, 0], gap

    def critics(self, network: MLP, observations: Tensor, actions: Tensor) -> Tensor:
        """Q(s, a) `[S, 2, K, B]` of both critics of each seed, of K actions `[S, K, B, act]` in every state."""
        observations = observations.unsqueeze(1).expand(-1, actions.shape[1], -1, -1)
        rows = torch.cat([observations, actions], dim=-1)
        return network(rows.flatten(1, 2).unsqueeze(1)).view(rows.shape[0], 2, *rows.shape[1:3])

    def squash(self, mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Actions tanh(u) of u = mean + std noise, for `noise` `[S, K, B, act]`, and log pi `[S, K, B]` of them."""
        mean, log_std = mean.unsqueeze(1), log_std.unsqueeze(1)
        u = mean + log_std.exp() * noise
        # log(1 - tanh(u)^2) in a form that stays finite where tanh(u) rounds to 1.
        correction = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))
        log_prob = -(0.5 * noise.square() + log_std + 0.5 * math.log(2.0 * math.pi) + correction).sum(-1)
        return torch.tanh(u), log_prob

    def inspect(self, batch: Batch) -> None:
        """Pass a batch through every network, for those who look at what happens inside."""
        self.critics(self.q, batch.observations, batch.actions.unsqueeze(1))
        self.policy.mean(batch.observations)


def main(args: Arguments) -> None:
    run = Run("cql", args)
    learner = run.build(CQL)
    for update in run.updates(learner):
        run.log(learner.update(*learner.inputs(update)))


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
