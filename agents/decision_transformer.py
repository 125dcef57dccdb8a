"""Decision Transformer (Chen et al. 2021, arXiv 2106.01345) with any activation, for continuous actions."""

from dataclasses import dataclass
from typing import Annotated, Literal

from rlrat.runs.arguments import Axis, Count, NotNegative, Positive, Range, Rate, RunArguments, parse


@dataclass(frozen=True)
class Arguments(RunArguments, roles=("actor",)):
    batch_size: Count = 64
    """Windows per seed and update; the published D4RL scores take 4096, with a learning rate of 8e-4."""
    activation: str = "gelu"
    """Of each block's MLP: relu leaky_relu prelu elu selu celu gelu gelu_tanh silu mish softplus sigmoid logsigmoid
    tanh softmin softmax logsoftmax identity rational, or rational:<name> for a rational that starts as another
    elementwise one."""
    norm: Literal["none", "layer"] = "layer"
    """layer: of the embeddings, before each attention and MLP, and before the head; none: branches scaled from 0."""
    hidden_dims: tuple[int, ...] = (512,)
    """Hidden widths of each block's MLP."""
    learning_rate: Axis[Positive] = 1e-4
    """AdamW's."""
    warmup_updates: Annotated[int, Range(0)] = 10_000
    """The learning rate grows linearly over so many updates."""
    weight_decay: Axis[NotNegative] = 1e-4
    """AdamW's, of all but embeddings, norms, the gains in their place, and trained activations."""
    max_norm: Axis[Positive] | None = 0.25
    """Clips the norm of a seed's gradient."""
    context_length: Count = 20
    """K, the steps of a window."""
    embedding_size: Count = 128
    """Width of the tokens."""
    num_layers: Annotated[int, Range(1, 1000)] = 3
    """Blocks of attention and MLP."""
    num_heads: Count = 1
    """Attention heads; they divide the width among them."""
    embedding_dropout: Rate = 0.1
    """Dropout rate of the embedded tokens."""
    attention_dropout: Rate = 0.1
    """Dropout rate of the attention weights."""
    residual_dropout: Rate = 0.1
    """Dropout rate of what attention and MLP add."""
    target_returns: tuple[float, ...] | None = None
    """Returns to ask for, the first for the score; default: the published ones, or the data's best and half of it."""
    return_scale: Positive = 1000.0
    """Divides returns-to-go."""
    embedded_steps: Count = 1000
    """Steps that have a timestep embedding of their own; later ones share the last."""
    normalize_observations: bool = True
    """Subtract the dataset's mean and divide by its standard deviation."""
    observation_floor: Positive = 1e-6
    """Least standard deviation to divide by."""


if __name__ == "__main__":  # before torch is imported: --help and mistakes are answered at once
    ARGUMENTS = parse(Arguments, __doc__)

import torch
from torch import Tensor, nn

from rlrat.datasets import NO_EPISODES, Dataset, Units, WindowBatch, Windows
from rlrat.errors import InputError, one_line_errors
from rlrat.networks import SequencePolicy, check_target_returns, initialize
from rlrat.runs import Run
from rlrat.updates import Adam, DropoutMasks, SeedGuard, Stream

PUBLISHED_TARGETS = {"HalfCheetah": (12000.0, 6000.0), "Hopper": (3600.0, 1800.0), "Walker2d": (5000.0, 2500.0)}


class DecisionTransformer(nn.Module):
    """Network, optimizer and the update; every tensor has the leading axis S of the seeds."""

    args: Arguments
    batches: Windows
    policy: SequencePolicy
    guard: SeedGuard
    policy_optimizer: Adam
    dropout: DropoutMasks

    def __init__(self, args: Arguments, dataset: Dataset, seeds: list[int], device: torch.device | str) -> None:
        super().__init__()
        check(args, dataset)
        self.args, num_seeds = args, len(seeds)
        units = Units.of(dataset, args.normalize_observations, args.observation_floor, reward_scaling="none")
        window = (args.batch_size, args.context_length)
        self.batches = Windows(dataset, seeds, *window, device, units, args.return_scale)
        observation_size, action_size = len(units.observation_mean), units.action_size
        sizes = ("context_length", "embedding_size", "num_layers", "num_heads", "return_scale")
        network = args.network("actor")
        self.policy = SequencePolicy(
            observation_size,
            action_size,
            num_seeds=num_seeds,
            target_returns=choose_targets(args, dataset),
            max_episode_steps=args.embedded_steps,
            **{name: getattr(args, name) for name in sizes},
            **network,
        )
        # Without normalisation, tokens of about unit size must come from the weights.
        initialize(self.policy, seeds, "policy", "normal" if network["norm"] == "layer" else "lecun_normal")
        self.policy.set_units(units)
        self.guard = SeedGuard(num_seeds)
        self.to(device)

        policy = self.policy
        embeddings = (policy.return_embedding, policy.observation_embedding, policy.action_embedding)
        self.policy_optimizer = args.adam(
            policy, args.learning_rate, "actor", name="actor", guard=self.guard, undecayed=embeddings
        )
        rates = (args.embedding_dropout, args.attention_dropout, args.residual_dropout)
        rates, shapes = zip(*policy.dropout_shapes(args.batch_size, *rates), strict=True)
        streams = [Stream(seeds, f"dropout {place}", device) for place in range(len(shapes))]
        self.dropout = DropoutMasks(streams, rates, shapes)

    def inputs(self, update: int) -> tuple[WindowBatch, list[Tensor | None] | None]:
        """What `update` takes, each a function of (seed, number of the update)."""
        return self.batches.at(update), self.dropout.at(update)

    def update(self, batch: WindowBatch, dropout: list[Tensor | None] | None = None) -> dict[str, Tensor]:
        """One gradient step; a pure function of tensors that stay on the device."""
        self.guard.update += 1
        return self.update_actor(batch, dropout)

    def update_actor(self, batch: WindowBatch, dropout: list[Tensor | None] | None) -> dict[str, Tensor]:
        """Regress each action on the return-to-go, the state and the steps before it, padding left out."""
        predicted = self.policy.predict(*batch[:4], dropout=dropout)
        error = (predicted - batch.actions).square().mean(-1)
        loss = (error * batch.mask).sum((1, 2)) / batch.mask.sum((1, 2))
        self.policy_optimizer.step(loss)
        return {"losses/actor": loss}

    def inspect(self, batch: WindowBatch) -> None:
        """Pass a batch through the network, for those who look at what happens inside."""
        self.policy.predict(*batch[:4])


def choose_targets(args: Arguments, dataset: Dataset) -> tuple[float, ...]:
    """`--target-returns`, the published ones of the environment, or the best return in the data and half of it."""
    if args.target_returns is not None:
        return check_target_returns(args.target_returns)
    name = (args.env_id or dataset.env_id or "").rpartition(":")[2].partition("-v")[0]
    if name in PUBLISHED_TARGETS:
        return PUBLISHED_TARGETS[name]
    best = dataset.best_return
    half = best / 2 if best > 0 else (best + dataset.worst_return) / 2  # half of a negative return would be better
    return tuple(dict.fromkeys((best, half)))


def check(args: Arguments, dataset: Dataset) -> None:
    """Refuse settings that make no sense, or not with this dataset."""
    if args.embedding_size % args.num_heads:
        raise InputError(f"--num-heads is {args.num_heads}, but must divide --embedding-size, {args.embedding_size}")
    if not dataset.episode_complete.any():
        raise InputError(f"{dataset.id} {NO_EPISODES}: a Decision Transformer learns from whole episodes")
    longest = dataset.longest_episode
    if args.context_length > longest:
        raise InputError(
            f"--context-length is {args.context_length}, but the longest episode of {dataset.id} has {longest} steps: "
            "give at most so many"
        )


def main(args: Arguments) -> None:
    run = Run("decision_transformer", args)
    learner = run.build(DecisionTransformer)
    for update in run.updates(learner):
        run.log(learner.update(*learner.inputs(update)))


if __name__ == "__main__":
    with one_line_errors():
        main(ARGUMENTS)
