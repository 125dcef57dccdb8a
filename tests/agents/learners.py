"""Learners of every agent on a small dataset, each trained by the line that its `main` has."""

import importlib
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor, nn

from rlrat.datasets.batches import Batches, Units, Windows
from rlrat.datasets.dataset import Dataset

CLASSES = {"bc": "BC", "decision_transformer": "DecisionTransformer", "iql": "IQL", "td3_bc": "TD3BC"}


def make_learner(agent: str, dataset: Dataset, seeds: Sequence[int], **settings) -> tuple[nn.Module, Batches]:
    module = importlib.import_module(f"agents.{agent}")
    small = {"hidden_dims": (16, 16), "batch_size": 32, "total_updates": 100}
    if agent == "decision_transformer":
        small |= {"embedding_size": 16, "context_length": 6, "num_layers": 2, "warmup_updates": 1}
    args = module.Arguments(**{**small, **settings})
    if agent == "bc":
        dataset = dataset.best_episodes(args.best_episodes)
    if agent == "decision_transformer":
        units = Units.of(dataset, args.normalize_observations, args.observation_floor, "none")
        window = (args.batch_size, args.context_length)
        targets = module.choose_targets(args, dataset.env_id, dataset)
        learner = module.DecisionTransformer(args, seeds, units, targets, "cpu")
        return learner, Windows(dataset, seeds, *window, "cpu", units, args.return_scale)
    reward_scaling = getattr(args, "reward_scaling", "none")
    units = Units.of(dataset, args.normalize_observations, args.observation_floor, reward_scaling)
    learner = getattr(module, CLASSES[agent])(args, seeds, units, "cpu")
    return learner, Batches(dataset, seeds, args.batch_size, "cpu", units)


def make_trainer(
    agent: str, dataset: Dataset, seeds: Sequence[int], **settings
) -> tuple[nn.Module, Batches, Callable[[int], dict[str, Tensor]]]:
    """Also a function that does one update, given its number."""
    learner, batches = make_learner(agent, dataset, seeds, **settings)

    def train(update: int) -> dict[str, Tensor]:
        if agent == "td3_bc":
            actor_step = (update + 1) % learner.args.policy_delay == 0
            return learner.update(batches.at(update), learner.noise.at(update), actor_step)
        return learner.update(batches.at(update))

    return learner, batches, train


def forward(network: nn.Module, x: np.ndarray, index: int | tuple[int, int]) -> np.ndarray:
    """A ReLU MLP in float64; `index` picks seed (and critic)."""
    for layer in network.hidden:
        w, b = (p.detach().double().numpy()[index] for p in (layer.linear.weight, layer.linear.bias))
        x = np.maximum(x @ w + b, 0.0)
    w, b = (p.detach().double().numpy()[index] for p in (network.output.weight, network.output.bias))
    return x @ w + b
