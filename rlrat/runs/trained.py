"""Evaluate trained runs again, from their folders in the environment that they were trained for, and film them."""

import math
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch

from rlrat.environments.making import NO_LIMIT, Wrapper
from rlrat.environments.observations import described
from rlrat.environments.recorded import recorded_id, recorded_kwargs, saved_wrappers
from rlrat.environments.registry import import_modules, typed
from rlrat.environments.settings import bare, parse_env_kwargs, same_settings
from rlrat.errors import InputError, reason, warn
from rlrat.evaluation import rendering
from rlrat.evaluation.evaluator import Evaluation, Evaluator
from rlrat.evaluation.scores import Measure, Reference
from rlrat.networks.activations import name_modules
from rlrat.runs.folder import RunFolder
from rlrat.runs.loading import Which, build_policy, read_checkpoint, set_target_returns
from rlrat.runs.schema import CONFIG, DIVERGED, recalled
from rlrat.updates.machine import usable_cores

if TYPE_CHECKING:
    from rlrat.networks.policies import Policy
    from rlrat.networks.transformer import SequencePolicy

_MOST_FRAMES = 60  # a second: players drop what is beyond, and Hopper has 125


class _Recorder:
    """A policy that remembers its actions in the first column."""

    def __init__(self, policy: Callable) -> None:
        self._policy = policy
        self.actions: list[np.ndarray] = []

    def __call__(self, observations: np.ndarray) -> np.ndarray:
        actions = self._policy(observations)
        self.actions.append(actions[0, 0].copy())
        return actions

    def __getattr__(self, name: str) -> Any:  # a policy with memory has more than a call
        return getattr(self._policy, name)


class TrainedRun:
    """The policy of a run, and where it is to be evaluated: as the run was, but for what is given.

    Args:
        path: a run folder, or a checkpoint in one.
        device: of the policy: auto, cpu, cuda, ...
        seed: of the environments' resets; the run's own by default.
        target_returns: that a Decision Transformer is to reach; those of its training by default.
        env_id, env_kwargs, env_modules, max_episode_steps: as the command line of an agent has them.
        num_threads: CPU threads; as many as the run had by default, if this machine has them.
        which: `last`, or `best` for the policy that `--keep-best` kept.
        activation_modules: the user's modules with the activations that it was trained with.

    Raises:
        InputError: a run that cannot be loaded, or settings that do not fit it.
    """

    env_id: str
    env_kwargs: dict[str, Any]
    reference: Reference | None

    def __init__(
        self,
        path: Path,
        *,
        device: str = "cpu",
        seed: int | None = None,
        target_returns: Sequence[float] | None = None,
        env_id: str | None = None,
        env_kwargs: Sequence[str] = (),
        env_modules: Sequence[str] = (),
        activation_modules: Sequence[str] = (),
        max_episode_steps: int | None = None,
        num_threads: int | None = None,
        which: Which = "last",
    ) -> None:
        self.path = path
        checkpoint = read_checkpoint(path, which)
        name_modules(activation_modules)
        self.update: int = checkpoint["update"]
        self.policy: Policy | SequencePolicy = build_policy(checkpoint, path, device)
        if target_returns is not None:
            set_target_returns(self.policy, target_returns, path)
        self.targets: tuple[float | None, ...] = getattr(self.policy, "target_returns", (None,))

        folder = path.parent if path.is_file() else path
        config = RunFolder(folder).config()
        if config is None:
            raise InputError(f"{folder / CONFIG} is missing: give a whole run folder")
        import_modules(env_modules)
        self._find_environment(config, folder / CONFIG, env_id, env_kwargs, max_episode_steps)
        seed = config.get("seed") if seed is None else seed
        if not isinstance(seed, int):
            raise InputError(f"{folder / CONFIG} has no seed: give --seed")
        self.seed: int = seed
        self.num_threads = num_threads
        if self.num_threads is None:
            threads = _mapping(config.get("arguments")).get("num_threads")
            self.num_threads = usable_cores()
            if isinstance(threads, int) and threads >= 1:
                self.num_threads = min(threads, self.num_threads)
        summary = RunFolder(folder).summary()
        if summary is not None and summary.get("status") == DIVERGED:
            warn(f"{path} diverged at update {summary.get('diverged_at')}: its policy is the one frozen then")

    def _find_environment(
        self,
        config: dict[str, Any],
        path: Path,
        env_id: str | None,
        env_kwargs: Sequence[str],
        max_episode_steps: int | None,
    ) -> None:
        """Find where the run was evaluated, and what of it is given otherwise; then there is no score.

        Raises:
            InputError: what `rlrat.environments.registry` does not find here or refuses, or a damaged file.
        """
        own = _environment(config)
        named, own_kwargs, own_limit = (own.get(name) for name in ("env_id", "env_kwargs", "max_episode_steps"))
        own_id = bare(named) if isinstance(named, str) else named
        if env_id is not None:
            self.env_id = typed(env_id)
        elif "env_id" in own and named is None:
            raise InputError(f"{path.parent} was trained without an environment: give --env-id with one to play in")
        else:
            given = _mapping(config.get("arguments"))
            modules = [str(given.get("env_id")).rpartition(":")[0]]  # as this command would have to name them again
            modules += given["env_modules"] if isinstance(given.get("env_modules"), list) else []
            self.env_id = recorded_id(named, str(path), modules)
        self.env_kwargs = parse_env_kwargs(env_kwargs)
        self.wrappers: tuple[Wrapper, ...] = ()
        if self.env_id == own_id:
            as_typed = _as_typed(own_kwargs, _mapping(config.get("arguments")).get("env_kwargs"))
            self.env_kwargs = recorded_kwargs(self.env_id, as_typed, self.env_kwargs, str(path))
            self.wrappers = saved_wrappers(own.get("wrappers", []), str(path))
        if not (own_limit is None or (isinstance(own_limit, int) and (own_limit >= 1 or own_limit == NO_LIMIT))):
            raise InputError(f"{path} is damaged: max_episode_steps is {reason(repr(own_limit))}")
        self.max_episode_steps = max_episode_steps
        if self.max_episode_steps is None and self.env_id == own_id:
            self.max_episode_steps = own_limit
        ours, theirs = (self.env_id, self.env_kwargs, self.max_episode_steps), (own_id, own_kwargs, own_limit)
        self.reference = None
        if same_settings(ours, theirs) and config.get("reference") is not None:
            self.reference = _reference(config["reference"], path)

    def evaluator(self, episodes: int, env_kwargs: dict[str, Any], **settings: Any) -> Evaluator:
        """Make the environments, with the run's own time limit or the one that is given."""
        settings["observation_parts"] = [name for name, _ in self.policy.observation_parts] or None
        around = {"max_episode_steps": self.max_episode_steps, "wrappers": self.wrappers}
        return Evaluator(self.env_id, self.seed, episodes, env_kwargs, **around, **settings)

    def evaluate(self, episodes: int) -> tuple[dict[float | None, Evaluation], np.ndarray]:
        """Play episodes; return the evaluations by target return, or None, and the actions of the first column.

        The first episode's are the first ones of these actions, `[T, act]`.

        Raises:
            InputError: an environment that cannot be made or that the policy does not fit, no episode or no thread.
        """
        with rendering.mujoco_gl(None), self.evaluator(1, self.env_kwargs, num_threads=1) as probe:
            probe.probe()
        with (
            rendering.mujoco_gl(None),  # a wrong one fails MuJoCo's import; only a film needs it
            self.evaluator(
                episodes, self.env_kwargs, num_threads=self.num_threads, repeats=len(self.targets)
            ) as evaluator,
        ):
            torch.set_num_threads(self.num_threads)
            settings, parts = self.policy.settings, self.policy.observation_parts
            if parts != evaluator.observation_parts:
                ours = described(parts, settings["observation_size"])
                theirs = described(evaluator.observation_parts, *evaluator.observation_space.shape)
                raise InputError(
                    f"the policy in {self.path} takes as observations {ours}, and {self.env_id} gives {theirs}: "
                    "choose an environment like the one it was trained for"
                )
            for kind, space in (("observation", evaluator.observation_space), ("action", evaluator.action_space)):
                size = settings[f"{kind}_size"]
                if space.shape != (size,):
                    raise InputError(
                        f"the policy in {self.path} has {kind}s of size {size}, {self.env_id} of {space.shape[0]}: "
                        "choose an environment like the one it was trained for"
                    )
            recorder = _Recorder(self.policy)
            result = evaluator.run(recorder)
        parts = result.split(len(self.targets))
        return dict(zip(self.targets, parts, strict=True)), np.array(recorder.actions)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _environment(config: dict[str, Any]) -> dict[str, Any]:
    """Return where a run was evaluated: older folders say it in the run's identity alone."""
    own, identity = config.get("environment"), _mapping(config.get("identity"))
    if not isinstance(own, dict):
        return {**recalled(identity), **{name: value for name, value in identity.items() if name == "env_id"}}
    limit = own.get("max_episode_steps")
    return {**own, "max_episode_steps": NO_LIMIT if limit is None else limit}


def _as_typed(kwargs: Any, pairs: Any) -> Any:
    """The settings of a run with the types that they were given with: `config.json` has a list for a tuple."""
    if not isinstance(kwargs, dict) or not isinstance(pairs, list):
        return kwargs
    with suppress(InputError, AttributeError):  # older versions read some otherwise
        given = parse_env_kwargs(pairs)
        return {**kwargs, **{k: v for k, v in given.items() if k in kwargs and same_settings(v, kwargs[k])}}
    return kwargs


def _reference(fields: Any, path: Path) -> Reference:
    try:
        reference = Reference(**fields)
        known = isinstance(reference.name, str) and reference.measure in get_args(Measure)
        if known and math.isfinite(1 / (reference.expert - reference.random)):
            return reference
    except (TypeError, ArithmeticError):
        pass
    raise InputError(f"{path} is damaged: its reference is {reason(repr(fields))}")


def film(run: TrainedRun, actions: np.ndarray, path: Path) -> Evaluation:
    """Play the first episode of an evaluation again, from its `actions` `[T, act]`, into an .mp4.

    It runs in real time where the environment says how many steps that has (`render_fps`).

    Raises:
        InputError: no encoder is installed, the environment cannot be rendered, or `path` cannot be written.
    """
    get_writer = rendering.find_encoder()
    temporary = path.with_name(f"{path.stem}.tmp{path.suffix}")
    kwargs = {**run.env_kwargs, "render_mode": "rgb_array"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            rendering.mujoco_gl(rendering.rendering_backend()),
            run.evaluator(1, kwargs, num_threads=1) as evaluator,
        ):
            env = evaluator.envs[0]
            steps_per_second = env.metadata.get("render_fps") or 30
            every = -(-steps_per_second // _MOST_FRAMES)
            step = 0
            with get_writer(temporary, fps=steps_per_second / every, macro_block_size=2) as writer:

                def act(_: np.ndarray) -> np.ndarray:
                    nonlocal step
                    if step % every == 0:
                        writer.append_data(rendering.render(env, run.env_id))
                    step += 1
                    return actions[None, None, step - 1]

                result = evaluator.run(act)
                writer.append_data(rendering.render(env, run.env_id))
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or reason(error)}") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return result
