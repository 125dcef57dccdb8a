"""Name what a run folder holds: files, columns, statuses, the rule of the final value, the settings of an identity.

`rlrat.runs` writes run folders; it, sweeps and reports read them by these names alone. Nothing here needs torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from rlrat.environments.settings import TAKEN, bare, same_settings
from rlrat.json_files import EXACT_INTEGERS
from rlrat.networks.choices import RationalVersion

CONFIG, SUMMARY = "config.json", "summary.json"
CHECKPOINT, PREVIOUS_CHECKPOINT, BEST_CHECKPOINT = "checkpoint.pt", "checkpoint.previous.pt", "checkpoint.best.pt"
EVALUATIONS, EPISODES, ACTIVATIONS = "evaluations.csv", "episodes.csv", "activations.csv"
METRICS, OFFLINE = "metrics.csv", "offline.csv"
TRACE = "trace.json"  # of --profile
JUDGEMENT = "judgement.json"  # of `rlrat judge`
TENSORBOARD = "events.out.tfevents."
"""How the names of TensorBoard's files begin."""

COLUMNS: dict[str, tuple[str, ...]] = {
    EVALUATIONS: (
        *("update", "train_seconds", "wall_seconds", "target_return", "episodes"),
        *("return_mean", "return_std", "length_mean", "normalized_score", "success_rate"),
    ),
    EPISODES: ("update", "target_return", "episode", "reset_seed", "return", "length", "success"),
    ACTIVATIONS: (
        *("update", "layer", "part", "group", "version", "numerator", "denominator"),
        *("low", "high", "counts"),
    ),
    METRICS: ("update",),  # and one for each metric, from the first line on that has it
    OFFLINE: ("update",),  # likewise: FQE_VALUE, DATA_VALUE, ACTION_ERROR, AGREEMENT and held-out losses
}
"""The columns of a run's CSV files."""
LATER_COLUMNS = {EVALUATIONS: 1, EPISODES: 1}
"""How many columns at the end of a file its older lines lack; they count for nothing in a line where they are empty."""
GROWING = frozenset((METRICS, OFFLINE))
"""Files whose lines may add columns, of numbers."""

FQE_VALUE, DATA_VALUE, ACTION_ERROR, AGREEMENT = "fqe_value", "data_value", "action_error", "agreement"
HELD_OUT_SHARE = 0.1
"""Of the episodes, where there is no environment and `--holdout` is not given."""

RATIONAL_VERSIONS = get_args(RationalVersion)
"""`version` in `activations.csv`: of a rational, as `rlrat.rational.reference` defines them."""
PRELU = "prelu"
"""Of a PReLU, whose slope is the numerator."""
CUSTOM = "custom:"
"""Of any other trained activation, and then the name of its class."""


FINISHED, DIVERGED, FAILED = STATUSES = ("finished", "diverged", "failed")
"""What a `summary.json` says. A failed run has no evaluation of a trained policy: the same command tries again."""
UNFINISHED, MISSING, IMPORTED = "unfinished", "missing", "imported"
"""What a run is called that has no `summary.json`, no folder, or only a curve, which another program wrote."""
DONE = frozenset((FINISHED, DIVERGED))
"""Statuses of runs with nothing more to train."""
NO_FINAL = frozenset((DIVERGED, FAILED))
"""Statuses of runs that have no final value, however long their curves are."""

FINAL_EVALUATIONS = 5
"""A run's final value is the mean of its last so many, as arXiv 2602.12390 has it."""

NETWORK_SETTINGS = ("activation", "gated", "norm", "norm_epsilon", "hidden_dims")
"""Those of every network."""
ROLE_SETTINGS = (*NETWORK_SETTINGS, "schedule", "rational", "dropout")
"""Those that a role of networks may have of its own, called `critic_norm`, ..., and None where they do not differ.

Not every agent has `dropout`: its masks are drawn for the update, which must know where to put them."""

OUTSIDE_IDENTITY = frozenset(
    (
        *("seed", "num_seeds", "env_modules", "eval_timeout", "checkpoint_every", "log_every", "keep_best"),
        *("compile", "capture", "profile", "track", "device", "num_threads"),
        *("run_dir", "run_name", "resume", "overwrite", "preset"),
    )
)
"""Settings that do not change a run's result, but for rounding, or are compared on their own (the seed names the
folder, and what a preset sets is a setting)."""
OUTSIDE_NAME = OUTSIDE_IDENTITY | {
    *("dataset", "env_id", "env_kwargs", "max_episode_steps", "ignore_wrappers", "action_bounds"),
    *("activation", "total_updates", "eval_every", "eval_at", "eval_episodes", "fqe_updates"),
}
"""Settings that a run's name leaves out: the folder's path has them already, or they only say how long a run is and how
it is judged."""


def is_update(value: Any) -> bool:
    """Tell whether a value from JSON or a checkpoint can be the number of an update."""
    return type(value) is int and 0 <= value < EXACT_INTEGERS


def final_evaluations(updates: Sequence[int]) -> int:
    """Count the evaluations, the last of a run's at ascending `updates`, whose mean is its final value.

    They are five, or all where there are fewer; never that of the untrained policy, at update 0.
    """
    return sum(1 for update in updates[-FINAL_EVALUATIONS:] if update > 0)


def recalled(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the identity in a run's `config.json` to the form of today's commands, with today's names and values.

    An environment is known by its registered id alone. Before every agent had `max_episode_steps`, it was how many time
    steps a Decision Transformer tells apart, and the time limit stood among the environment's settings.
    """
    found = dict(identity)
    if isinstance(found.get("env_id"), str):
        found["env_id"] = bare(found["env_id"])
    if "schedule" not in found and "best_episodes" in found and found.get("actor_schedule") == "constant":
        found["actor_schedule"] = None  # BC's was its own, and "constant" its default
    if "dropout" not in found and found.get("actor_dropout") == 0.0:
        found["actor_dropout"] = None  # likewise, before the critics had one
    if "action_bounds" in found:  # it came with max_episode_steps
        return found
    if "max_episode_steps" in found:
        found["embedded_steps"] = found.pop("max_episode_steps")
    if isinstance(kwargs := found.get("env_kwargs"), Mapping):
        if "max_episode_steps" in kwargs:
            found["max_episode_steps"] = kwargs["max_episode_steps"]
        found["env_kwargs"] = {name: value for name, value in kwargs.items() if name not in TAKEN}
    return found


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """List the settings in which two identities differ, one or both of which a `config.json` records."""
    return [name for name in {**ours, **theirs} if not same_settings(ours.get(name), theirs.get(name))]
