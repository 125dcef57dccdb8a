"""Register each agent once: what the tests that all agents share need to know of it, and cannot read from its file."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Registered:
    """No field has a default: of a new agent each must be thought of. Its name, class and settings are in its file."""

    title: str
    """As docs/agents.md and README.md call it."""
    small: dict[str, Any]
    """Settings with which its networks and samples are small, besides hidden_dims and batch_size."""
    counting: dict[str, Any]
    """Settings with which each of the others matters within a few updates."""
    dropout: dict[str, Any]
    """Settings that give it dropout, if it has any."""
    fixed: dict[str, Any]
    """Settings with which up to 50 updates of one batch show whether each loss falls."""
    falls: dict[str, tuple[float, float]]
    """Loss -> (factor, margin): it ends below factor * its first value - margin."""
    spoilt: tuple[tuple[dict[str, Any], str, str], ...]
    """Settings, what is NaN in the batch of a seed, and which tensor is the first that is not finite then."""
    setting: tuple[str, Any]
    """One of its own settings, and another value than the default."""
    metrics: frozenset[str]
    """What it logs besides losses/actor, not all of it."""
    critics: tuple[str, ...]
    """Its networks that --critic-activation is for."""
    variants: tuple[dict[str, Any], int]
    """In how many ways its update is recorded, for what is no tensor among its inputs, and settings that have all."""


REGISTERED = {
    "awac": Registered(
        title="AWAC",
        small={},
        counting={"max_weight": 1.1, "temperature": 0.1},
        dropout={"dropout": 0.1},
        fixed={"learning_rate": 1e-2, "temperature": 10.0},
        falls={"q": (0.25, 0), "actor": (1, 0.5)},
        spoilt=(({}, "rewards", "q loss"), ({}, "actions", "q loss")),
        setting=("temperature", 1.0),
        metrics=frozenset(
            {"losses/q", "charts/q_mean", "charts/v_mean", "charts/advantage_mean", "charts/weight_mean"}
        ),
        critics=("q",),
        variants=({}, 1),
    ),
    "bc": Registered(
        title="BC, %BC",
        small={},
        counting={},
        dropout={"dropout": 0.1},
        fixed={"learning_rate": 1e-2},
        falls={"actor": (0.5, 0)},
        spoilt=(({}, "actions", "actor loss"),),
        setting=("best_episodes", 0.5),
        metrics=frozenset(),
        critics=(),
        variants=({}, 1),
    ),
    "cql": Registered(
        title="CQL",
        small={"num_actions": 2},
        counting={"lagrange": True},
        dropout={},
        fixed={"alpha": 0.3, "actor_learning_rate": 1e-2, "critic_learning_rate": 1e-2, "reward_scaling": "none"},
        falls={"q": (0.75, 0), "actor": (1, 1), "entropy": (1, 1)},
        spoilt=(
            ({}, "rewards", "q loss"),
            ({}, "observations", "entropy weight loss"),
            ({"cloning_updates": 8}, "actions", "actor loss"),
            ({"lagrange": True, "max_target_backup": True}, "rewards", "q loss"),
        ),
        setting=("alpha", 5.0),
        metrics=frozenset(
            {"losses/q", "charts/q_mean", "losses/conservative", "losses/entropy", "charts/gap", "charts/log_prob"}
        ),
        critics=("q",),
        variants=({"cloning_updates": 5}, 2),
    ),
    "decision_transformer": Registered(
        title="Decision Transformer",
        small={"embedding_size": 8, "context_length": 4, "num_layers": 1, "warmup_updates": 1},
        counting={"weight_decay": 0.5},
        dropout={},
        fixed={"learning_rate": 1e-2, "hidden_dims": (8,), "batch_size": 16},
        falls={"actor": (0.5, 0)},
        spoilt=(({}, "actions", "actor loss"),),
        setting=("context_length", 4),
        metrics=frozenset(),
        critics=(),
        variants=({}, 1),
    ),
    "iql": Registered(
        title="IQL",
        small={},
        counting={"max_weight": 1.0},
        dropout={"dropout": 0.1},
        fixed={"learning_rate": 1e-2, "reward_scaling": "none"},
        falls={"q": (0.25, 0), "v": (0.25, 0), "actor": (1, 0.5)},
        spoilt=(({}, "rewards", "q loss"), ({"update_order": "corl"}, "observations", "v loss")),
        setting=("expectile", 0.9),
        metrics=frozenset(
            {"losses/q", "charts/q_mean", "losses/v", "charts/v_mean", "charts/advantage_mean", "charts/weight_mean"}
        ),
        critics=("q", "v"),
        variants=({}, 1),
    ),
    "rebrac": Registered(
        title="ReBRAC",
        small={},
        counting={"noise_clip": 0.1, "normalize_observations": True},
        dropout={"dropout": 0.1},
        fixed={"actor_learning_rate": 1e-2, "critic_learning_rate": 1e-2, "actor_penalty": 1.0},
        falls={"q": (0.25, 0), "actor": (1, 0.1), "cloning": (0.8, 0)},
        spoilt=(({}, "rewards", "q loss"), ({}, "next_actions", "q loss")),
        setting=("actor_penalty", 0.1),
        metrics=frozenset({"losses/q", "charts/q_mean", "charts/critic_penalty", "losses/cloning", "charts/lambda"}),
        critics=("q",),
        variants=({}, 2),
    ),
    "td3_bc": Registered(
        title="TD3+BC",
        small={},
        counting={"noise_clip": 0.1},
        dropout={"dropout": 0.1},
        fixed={"learning_rate": 1e-2, "alpha": 0.5, "hidden_dims": (8, 8), "batch_size": 16},
        falls={"q": (0.25, 0), "actor": (1, 0.1), "cloning": (0.8, 0)},
        spoilt=(({}, "rewards", "q loss"),),
        setting=("alpha", 1.0),
        metrics=frozenset({"losses/q", "charts/q_mean", "losses/cloning", "charts/lambda"}),
        critics=("q",),
        variants=({}, 2),
    ),
}
"""By the name of the agent's file."""


def command_line(settings: dict[str, Any]) -> tuple[str, ...]:
    """Turn numbers by name into the words of a command line."""
    return tuple(word for name, value in settings.items() for word in (f"--{name.replace('_', '-')}", str(value)))
