"""Small learners of every agent."""

import importlib
from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor, nn

from rlrat.datasets.batches import Batches
from rlrat.datasets.dataset import Dataset

CLASSES = {
    "bc": "BC",
    "cql": "CQL",
    "decision_transformer": "DecisionTransformer",
    "iql": "IQL",
    "td3_bc": "TD3BC",
}


def make_learner(agent: str, dataset: Dataset, seeds: Sequence[int], **settings) -> tuple[nn.Module, Batches]:
    module = importlib.import_module(f"agents.{agent}")
    small = {"hidden_dims": (16, 16), "batch_size": 32, "total_updates": 100}
    if agent == "decision_transformer":
        small |= {"embedding_size": 16, "context_length": 6, "num_layers": 2, "warmup_updates": 1}
    learner = getattr(module, CLASSES[agent])(module.Arguments(**{**small, **settings}), dataset, seeds, "cpu")
    return learner, learner.batches


def make_trainer(
    agent: str, dataset: Dataset, seeds: Sequence[int], **settings
) -> tuple[nn.Module, Batches, Callable[[int], dict[str, Tensor]]]:
    """Also the line that an agent's `main` has: one update, given its number."""
    learner, batches = make_learner(agent, dataset, seeds, **settings)
    return learner, batches, lambda update: learner.update(*learner.inputs(update))


def forward(network: nn.Module, x: np.ndarray, index: int | tuple[int, int]) -> np.ndarray:
    """A ReLU MLP in float64; `index` picks seed (and critic)."""
    for layer in network.hidden:
        w, b = (p.detach().double().numpy()[index] for p in (layer.linear.weight, layer.linear.bias))
        x = np.maximum(x @ w + b, 0.0)
    w, b = (p.detach().double().numpy()[index] for p in (network.output.weight, network.output.bias))
    return x @ w + b
