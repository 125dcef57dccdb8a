"""Small learners of every agent, and what their updates are compared with."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import get_args

import numpy as np
from torch import Tensor, nn

from rlrat.datasets.batches import Batches
from rlrat.datasets.dataset import Dataset
from rlrat.networks.choices import PolicyHead
from rlrat.networks.policies import Policy
from rlrat.runs.agents import agent_names, learner_class, load_agent
from rlrat.updates.optim import Adam
from tests.agents.registered import REGISTERED

AGENTS = tuple(name for name in agent_names() if name in REGISTERED)  # test_registered.py names those that are missing
NO_DROPOUT = dict.fromkeys(("q", "v", "actor"))  # what `Dropout.at` of any agent returns at rate 0
HEADS = get_args(PolicyHead)  # of BC's and IQL's policies


def with_setting(name: str) -> list[str]:
    """The agents that have a setting of this name."""
    return [agent for agent in AGENTS if hasattr(load_agent(agent).Arguments, name)]


def make_learner(
    agent: str, dataset: Dataset, seeds: Sequence[int], device: str = "cpu", **settings
) -> tuple[nn.Module, Batches]:
    module = load_agent(agent)
    small = {"hidden_dims": (16, 16), "batch_size": 32, "total_updates": 100, **REGISTERED[agent].small}
    learner = learner_class(module)(module.Arguments(**{**small, **settings}), dataset, seeds, device)
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


def log_prob(policy: Policy, s: np.ndarray, a: np.ndarray, seed: int) -> np.ndarray:
    """What `policy.log_prob` is by definition, in float64; of the deterministic head minus the squared distance."""
    mean = forward(policy.mean, s, seed)
    if policy.head == "deterministic":
        return -np.sum((np.tanh(mean) - a) ** 2, axis=1)
    sigma, density = np.exp(policy.log_std.detach().double().numpy()[seed]), 1.0
    if policy.head == "squashed_gaussian":
        a = np.clip(a, -0.999, 0.999)
        x, density = np.arctanh(a), 1 / (1 - a**2)
    else:
        x, mean = a, np.tanh(mean)
    density = density * np.exp(-0.5 * ((x - mean) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))
    return np.log(density).sum(1)


def assert_gradients(
    learner: nn.Module,
    before: nn.Module,
    network: str,
    optimizer: Adam,
    loss: Callable[[nn.Module], float],
) -> None:
    """The one step from `before` to `learner`, of one seed, was along the gradient of `loss` in `network`'s parameters.

    Adam's first moment after one step is a tenth of the gradient. It is compared with finite differences of
    `loss(moved)`, where `moved` is `before` but for one number, at a few places of every parameter and at that of its
    largest gradient.
    """
    assert optimizer.steps.tolist() == [1]
    moved, parameters = copy.deepcopy(before), dict(getattr(learner, network).named_parameters())
    # The moments lie as the parameters do; each of two critics has a row.
    rows = math.prod(getattr(learner, network).batch_shape)
    moments = optimizer.first_moment[0].split([p.numel() // rows for p in parameters.values()], dim=-1)
    for name, moment in zip(parameters, moments, strict=True):
        gradient = 10 * moment.reshape(-1).double().numpy()
        numbers = moved.get_parameter(f"{network}.{name}").data.view(-1)
        size, largest = np.abs(gradient).max(), np.abs(gradient).argmax()
        assert size > 1e-3, name
        for position in {*np.linspace(0, len(gradient) - 1, 5).astype(int), largest}:
            number, values = numbers[position].item(), []
            for step in (1e-6, -1e-6):  # so little that hardly any ReLU bends between; float64 has digits enough
                numbers[position] = number + step
                values.append((loss(moved), numbers[position].item()))
            numbers[position] = number
            (up, high), (down, low) = values
            expected = (up - down) / (high - low)
            np.testing.assert_allclose(gradient[position], expected, rtol=1e-3, atol=1e-3 * size, err_msg=name)
