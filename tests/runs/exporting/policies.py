"""Policies with random weights, and run folders of them: exporting needs no training."""

import json
from pathlib import Path

import numpy as np
import torch

from rlrat.networks import Policy, SequencePolicy, initialize
from rlrat.runs.checkpoints import checkpoint_bytes

HEADS = tuple(Policy.HEADS)


def make_policy(*, sequence: bool = False, sizes: tuple[int, int] = (11, 3), head: str = "deterministic", **network):
    """A small policy whose every parameter and unit differs from what it is at first."""
    draw = torch.Generator().manual_seed(0)
    network = {"hidden_dims": (16, 12), "activation": "rational", **network}
    if sequence:
        network = {"norm": "layer", **network, "hidden_dims": (16,)}
        policy = SequencePolicy(
            *sizes, num_seeds=1, target_returns=(100.0, 50.0), return_scale=10.0, context_length=4,
            max_episode_steps=1000, embedding_size=12, num_layers=2, num_heads=2, **network,
        )  # fmt: skip
    else:
        policy = Policy(*sizes, num_seeds=1, head=head, **network)
    initialize(policy, [3], "policy", "xavier_uniform")
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            noise = torch.randn(parameter.shape, generator=draw)
            if "numerator" in name or "denominator" in name:
                parameter.mul_(1.0 + 0.1 * noise)
            elif "log_std" not in name:
                parameter.add_(0.2 * noise)
        policy.observation_mean.normal_(generator=draw)
        policy.observation_std.uniform_(0.5, 3.0, generator=draw)
        policy.action_scale.uniform_(0.5, 3.0, generator=draw)  # ranges of 1 and more
        policy.action_offset.normal_(generator=draw)
    return policy.eval().requires_grad_(False)


def difference(policy, found, observations) -> float:
    """The largest difference of actions to the policy's own, as an export counts it."""
    return float((np.abs(np.asarray(found) - policy(observations)) / (2.0 * policy.action_scale[0].numpy())).max())


def roughen(rational) -> None:
    """Give a rational of any degrees other coefficients, without poles, and the last group another degree of Q."""
    draw = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in (rational.numerator, rational.denominator):
            powers = torch.arange(parameter.shape[-1])
            parameter.copy_(torch.randn(parameter.shape, generator=draw).abs() / 2.0**powers)
            if parameter is rational.denominator and rational.version == "N":
                parameter.mul_(powers % 2)  # b_1 is the first: even powers alone
        rational.denominator[0, -1, -1] = 0.0


def save_run(folder: Path, policy, **config) -> Path:
    """Write a run folder with this policy, on the packaged data."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {f"policy.{name}": value[0].clone() for name, value in policy.state_dict().items()}
    checkpoint = {"update": 40, "agent": "iql", "state": state, "policy": dict(policy.settings)}
    (folder / "checkpoint.pt").write_bytes(checkpoint_bytes(checkpoint))
    identity = {"agent": "iql", "dataset": "rlrat/hopper/mixed-v0", "activation": policy.settings["activation"]}
    identity |= {"env_id": "Hopper-v5", "total_updates": 40, "eval_episodes": 2, "env_kwargs": {}}
    content = {
        "agent": "iql",
        "seed": 0,
        "identity": identity,
        "versions": {"rlrat": "0.1.0"},
        "arguments": {"dataset": "rlrat/hopper/mixed-v0"},
        **config,
    }
    (folder / "config.json").write_text(json.dumps(content))
    return folder
