"""Compare a learner with what `record_peers.py` has of another implementation, in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import rlrat
from rlrat.runs.agents import learner_class, load_agent

_SEEDS = 2  # the peer's is the second


def assert_equals_its_peer(agent: str, settings: dict[str, Any], inputs: Callable[[Any, Tensor, int], tuple]) -> None:
    """Losses of 50 updates, and parameters, targets and means of gradients after 1, 5 and 50, are the peer's.

    `inputs` makes what an update takes from the columns `[S, B, ...]` by name and the number of the update.
    """
    with np.load(Path(__file__).parents[1] / "fixtures" / "peers" / f"{agent}.npz") as file:
        known = {name: file[name] for name in file.files}
    names, states, updates = (known.pop(name) for name in ("names", "states", "updates"))
    losses = known.pop("losses")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        columns = {name: torch.from_numpy(value).double() for name, value in known.items()}
        module = load_agent(agent)
        arguments = module.Arguments(hidden_dims=(8, 8, 8), batch_size=8, total_updates=50, **settings)
        learner = learner_class(module)(arguments, _dataset(), list(range(_SEEDS)), "cpu")
        parameters = dict(learner.named_parameters())
        assert parameters.keys() == {name for name in names if not name.startswith("moment.")}

        def numbers() -> dict[str, Tensor]:
            found = {name: parameter.detach()[-1] for name, parameter in parameters.items()}
            for network, optimizer in (("q", learner.q_optimizer), ("policy", learner.policy_optimizer)):
                own = {n: p for n, p in parameters.items() if n.startswith(f"{network}.")}
                rows = optimizer.first_moment[-1]  # as the parameters lie; each of two critics has a row
                sizes = [parameter[-1].numel() // len(rows.reshape(-1, rows.shape[-1])) for parameter in own.values()]
                for (name, parameter), part in zip(own.items(), rows.split(sizes, dim=-1), strict=True):
                    found[f"moment.{name}"] = part.reshape(parameter[-1].shape)
            return found

        first = dict(zip(names, np.split(states[0], _ends(numbers(), names)), strict=True))
        for name, parameter in parameters.items():
            parameter.data[-1] = torch.from_numpy(first[name]).view(parameter[-1].shape)
        for update in range(updates[-1]):
            batch = {
                name: value[update % len(value)].expand(_SEEDS, *value.shape[1:]) for name, value in columns.items()
            }
            metrics = learner.update(*inputs(module, batch, update))
            ours = [metrics[name][-1].item() for name in ("losses/q", "losses/actor") if name in metrics]
            np.testing.assert_allclose(ours, losses[update][: len(ours)], rtol=1e-6, atol=1e-6)
            if update + 1 in updates:
                (row,) = np.flatnonzero(updates == update + 1)
                found = numbers()
                assert found.keys() == set(names)
                for name, expected in zip(names, np.split(states[row], _ends(found, names)), strict=True):
                    actual = found[name].flatten().numpy()
                    np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-6, err_msg=f"{name}, {update + 1}")
    finally:
        torch.set_default_dtype(before)


def _ends(found: dict[str, Tensor], names: np.ndarray) -> np.ndarray:
    return np.cumsum([found[name].numel() for name in names])[:-1]


def _dataset() -> rlrat.Dataset:
    """Of the peer's widths; its batches are given."""
    random = np.random.default_rng(0)
    episode = {
        "observations": random.normal(size=(21, 4)),
        "actions": random.uniform(-1.0, 1.0, (20, 2)),
        "rewards": random.normal(size=20),
        "terminations": np.arange(20) == 19,
        "truncations": np.zeros(20, bool),
    }
    return rlrat.Dataset.from_episodes([episode], env_id="Peer-v0", action_low=-1.0, action_high=1.0)
