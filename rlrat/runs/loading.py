"""Load trained policies from run folders, ready to act without the file of the agent that trained them."""

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rlrat import networks
from rlrat.environments.observations import as_parts, listed
from rlrat.errors import InputError, reason
from rlrat.networks.choices import own_module
from rlrat.runs.checkpoints import load_checkpoint
from rlrat.runs.folder import RunFolder
from rlrat.runs.schema import BEST_CHECKPOINT, CHECKPOINT, CONFIG
from rlrat.updates.machine import find_device

if TYPE_CHECKING:
    from rlrat.networks.policies import Policy
    from rlrat.networks.transformer import SequencePolicy

# The name of a policy's kind in a checkpoint -> the class of `rlrat.networks` that builds it again.
KINDS = {"mlp": "Policy", "sequence": "SequencePolicy"}
Which = Literal["last", "best"]
_SIZE_SETTINGS = ("observation_size", "action_size", "max_episode_steps", "embedding_size", "num_layers", "num_heads")
_MOST_CONTEXT_STEPS = 1_000_000
_LARGEST_SCALE = 1e18
_HIGHEST_DEGREE = 32  # of a rational; degrees that are in no table are fitted, which takes seconds


def load_policy(
    run: str | os.PathLike[str],
    device: str = "cpu",
    target_returns: Sequence[float] | None = None,
    which: Which = "last",
    activation_modules: Sequence[str] = (),
) -> "Policy | SequencePolicy":
    """Load the policy of a trained seed from the newest checkpoint that loads.

    Call it with NumPy observations or tensors `[obs]`, `[E, obs]` or `[1, E, obs]`, raw as the environment gives
    them. It returns actions of the same kind and leading shape, deterministic and in the environment's units:

        policy = rlrat.load_policy("runs/rlrat-hopper-mixed-v0/iql/rational/seed0")
        env = gymnasium.make("Hopper-v5", render_mode="human")
        observation, _ = env.reset(seed=0)
        over = False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy(observation))
            over = terminated or truncated

    A policy that was trained on dictionary observations takes a single one as the environment gives it, or vectors of
    its `observation_parts`, in that order.

    A Decision Transformer looks back: call its `reset()` before each episode and, after each step, its
    `observe(rewards, dones)`, each `[1, E]`. `rlrat.evaluate(policy, "Hopper-v5", episodes=100, seed=0)` does so.

    Args:
        run: the run folder of a seed, `<run-dir>/<dataset>/<agent>/<activation>/seed<k>`, or a checkpoint file.
        device: cpu, cuda, cuda:1, ..., or auto for a GPU if there is one.
        target_returns: for a Decision Transformer, the returns to reach. They share the E observations evenly, the
            first ones for the first target. By default only the first of its evaluation, which gives its score.
        which: `last`, or `best` for the one that `--keep-best` kept in a run folder.
        activation_modules: your modules with the activations that it was trained with; no other is imported.

    Raises:
        InputError: the folder does not exist or has no checkpoint, the checkpoint is damaged or does not fit this
            version, the device cannot be used, or target returns are not finite or the policy takes none.
    """
    if activation_modules:
        networks.name_modules(activation_modules)
    policy = build_policy(read_checkpoint(run, which), run, device)
    if target_returns is not None:
        set_target_returns(policy, target_returns, run)
    elif hasattr(policy, "target_returns"):
        set_target_returns(policy, policy.target_returns[:1], run)
    return policy


def read_checkpoint(run: str | os.PathLike[str], which: Which = "last") -> dict[str, Any]:
    """Read the newest checkpoint of a run folder that loads, or the one in a file, with its tensors on the CPU.

    With `which="best"` it is the one that `--keep-best` kept, which has a policy and no more.

    Raises:
        InputError: the folder or file does not exist, or has no checkpoint that can be read.
    """
    if which not in get_args(Which):
        raise InputError(f"which is {reason(repr(which))}, but must be {' or '.join(get_args(Which))}")
    try:
        return _read_checkpoint(Path(run), which)
    except OSError as error:  # for example, this user may not enter the folder
        raise InputError(f"cannot read {run}: {error.strerror or reason(error)}") from None


def _read_checkpoint(path: Path, which: Which) -> dict[str, Any]:
    expected = "expected <run-dir>/<dataset>/<agent>/<activation>/seed<k>"
    if path.is_file():
        try:
            return load_checkpoint(path)
        except InputError as error:
            raise InputError(f"{error}: give another checkpoint, or the run folder") from None
    if not path.is_dir():
        raise InputError(f"there is no run folder {path}: {expected}")
    if which == "best" and ((path / BEST_CHECKPOINT).exists() or (path / CONFIG).exists()):
        if not (path / BEST_CHECKPOINT).exists():
            raise InputError(f"{path} has no {BEST_CHECKPOINT}: train with --keep-best, or take the last policy")
        return load_checkpoint(path / BEST_CHECKPOINT)
    if checkpoints := RunFolder(path).checkpoints():
        return checkpoints[max(checkpoints)]
    if (path / CONFIG).exists():
        raise InputError(f"{path} has no checkpoint yet: train until the first one, see --checkpoint-every")
    seeds = {child.parent.name for child in path.glob("seed*/checkpoint*.pt")}
    if seeds:
        names = sorted(seeds, key=lambda name: (len(name), name))
        raise InputError(f"{path} holds the runs of {', '.join(names)}: give one of them, such as {path / names[0]}")
    raise InputError(f"{path} is not a run folder, there is no {CHECKPOINT} in it: {expected}")


def build_policy(
    checkpoint: dict[str, Any], run: str | os.PathLike[str], device: str = "cpu"
) -> "Policy | SequencePolicy":
    """Build the policy in a checkpoint of `run`, in evaluation mode and without gradients.

    Raises:
        InputError: the checkpoint does not fit this version, the device cannot be used, or the activation is of a
            module that the user has not named.
    """
    named = checkpoint["policy"].get("activation") if isinstance(checkpoint.get("policy"), Mapping) else None
    if isinstance(named, str) and own_module(named) is not None:
        from rlrat.networks.activations import check_activation

        check_activation(named)
    try:
        settings = dict(checkpoint["policy"])
        kind = settings.pop("kind", "mlp")  # old checkpoints have no kind
        if kind not in KINDS:
            raise InputError(f"its policy is of the kind {kind!r}, known are {', '.join(KINDS)}")
        _check_settings(settings, checkpoint["state"])
        policy = getattr(networks, KINDS[kind])(num_seeds=1, **settings)
        policy.observation_parts = as_parts(checkpoint.get("observation_parts", ()))
        if (parts := policy.observation_parts) and sum(width for _, width in parts) != settings["observation_size"]:
            raise ValueError(f"observation_parts are {listed(parts)}")
        policy.load_state_dict(
            {
                name.removeprefix("policy."): value.unsqueeze(0)
                for name, value in checkpoint["state"].items()
                if name.startswith("policy.")
            }
        )
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError, MemoryError) as error:
        raise InputError(
            f"the checkpoint in {run} does not fit this version of rlrat ({reason(error)}): "
            f"use the version in the run's {CONFIG}, or train again with --overwrite"
        ) from None
    return policy.to(find_device(device)).eval().requires_grad_(False)


def _check_settings(settings: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Check that a checkpoint's settings have the types that a policy needs.

    A size is at most the number of weights, so that no object is much larger than the file.

    Raises:
        ValueError: a setting is of another type or out of its range.
    """
    weights = sum(value.numel() for value in state.values())

    def check(name: str, value: Any, right: bool) -> None:
        if not right:
            raise ValueError(f"{name} is {reason(repr(value))}")

    def whole(value: Any, most: int) -> bool:
        return isinstance(value, int) and 1 <= value <= most

    for name, value in settings.items():
        if name == "activation":
            check(name, value, isinstance(value, str))
        elif name in _SIZE_SETTINGS:
            check(name, value, whole(value, weights))
        elif name == "context_length":
            check(name, value, whole(value, _MOST_CONTEXT_STEPS))
        elif name == "return_scale":
            check(name, value, isinstance(value, int | float) and 0 < value < _LARGEST_SCALE)
        elif name == "target_returns":
            from rlrat.networks.transformer import check_target_returns

            check(name, value, isinstance(value, list | tuple))
            check_target_returns(value)
        elif name == "norm_epsilon":
            check(name, value, isinstance(value, int | float) and 0 < value < _LARGEST_SCALE)
        elif name == "hidden_dims":
            check(name, value, isinstance(value, list | tuple) and all(whole(width, weights) for width in value))
        elif name == "activation_settings":
            degrees = (value or {}).get("degrees", ())
            check(name, value, all(isinstance(d, int) and 0 <= d <= _HIGHEST_DEGREE for d in degrees))
            check(name, value, whole((value or {}).get("groups", 1), weights))
    width = settings.get("embedding_size", settings["observation_size"])
    products = list(pairwise([width, *settings["hidden_dims"]]))
    if "embedding_size" in settings:
        products += [(size, width) for size in (width, settings["observation_size"], settings["max_episode_steps"])]
        check("num_heads", settings["num_heads"], width % settings["num_heads"] == 0)
    # Gating narrows layers so that the number of weights stays about the same.
    check("a layer's size", products, all(a * b <= 2 * weights for a, b in products))


def set_target_returns(policy: Any, target_returns: Sequence[float], run: str | os.PathLike[str]) -> None:
    """Tell a Decision Transformer which returns to reach.

    Raises:
        InputError: no target, equal targets, one that is not finite, or a policy that takes none.
    """
    if not hasattr(policy, "target_returns"):
        raise InputError(
            f"the policy in {run} takes no target returns, only a Decision Transformer does: leave them out"
        )
    from rlrat.networks.transformer import check_target_returns

    policy.target_returns = check_target_returns(target_returns)
    policy.reset()
