"""Evaluate trained agents from their run folders, each in the environment it was trained for, and film an episode.

With the run's own seed, which is the default, an evaluation meets the initial states of the run's own evaluations; with
their number of episodes, on the kind of CPU and the device that trained a single seed, it repeats the last one exactly.
"""

import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich.table import Table
from rich.text import Text

from rlrat.console import Console
from rlrat.environments.registry import import_modules, recorded, recorded_kwargs, typed
from rlrat.environments.settings import parse_env_kwargs, same_settings
from rlrat.errors import InputError, one_line_errors, reason, warn
from rlrat.evaluation.evaluator import Evaluation, Evaluator
from rlrat.evaluation.scores import Reference
from rlrat.runs.arguments import Range, check_ranges, read_command_line
from rlrat.runs.folder import RunFolder
from rlrat.runs.loading import build_policy, read_checkpoint, set_target_returns
from rlrat.runs.schema import CONFIG, DIVERGED, recalled
from rlrat.updates.machine import usable_cores

_MOST_FRAMES = 60  # a second: players drop what is beyond, and Hopper has 125


@dataclass
class Arguments:
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders, <run-dir>/<dataset>/<agent>/<activation>/seed<k>, or checkpoint files in them."""
    episodes: int = 100
    """Episodes per run, and per target return."""
    seed: int | None = None
    """Of the environments' resets; a run's own seed by default, as in its own evaluations."""
    video: Path | None = None
    """Where to write the first episode of a single run, .mp4."""
    target_returns: tuple[float, ...] | None = None
    """Returns that a Decision Transformer is to reach, one line for each; by default those of its training."""
    env_id: str | None = None
    """Gymnasium environment; by default the run's. In another one there is no score."""
    env_kwargs: tuple[str, ...] = ()
    """Environment settings, name=value, over the run's; those that name files must be given again."""
    env_modules: tuple[str, ...] = ()
    """Modules of yours that register environments: what a run names is looked up among them, and never imported."""
    max_episode_steps: Annotated[int, Range(1)] | None = None
    """Steps after which an episode is cut; by default the run's own limit."""
    device: str = "cpu"
    """auto (a GPU if there is one), cpu, cuda, cuda:1, ..."""
    num_threads: int | None = None
    """CPU threads; by default as many as the run had, if this machine has them."""


class Recorder:
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
    """A run's policy and where it is to be evaluated."""

    def __init__(self, path: Path, arguments: Arguments) -> None:
        """Raises `InputError` for a run that cannot be loaded, or settings that do not fit it."""
        self.path = path
        checkpoint = read_checkpoint(path)
        self.update = checkpoint["update"]
        self.policy = build_policy(checkpoint, path, arguments.device)
        if arguments.target_returns is not None:
            set_target_returns(self.policy, arguments.target_returns, path)
        self.targets = getattr(self.policy, "target_returns", (None,))

        folder = path.parent if path.is_file() else path
        config = RunFolder(folder).config()
        if config is None:
            raise InputError(f"{folder / CONFIG} is missing: give a whole run folder")
        self._find_environment(config, folder / CONFIG, arguments)
        self.seed = config.get("seed") if arguments.seed is None else arguments.seed
        if not isinstance(self.seed, int):
            raise InputError(f"{folder / CONFIG} has no seed: give --seed")
        self.num_threads = arguments.num_threads
        if self.num_threads is None:
            threads = _mapping(config.get("arguments")).get("num_threads")
            self.num_threads = usable_cores()
            if isinstance(threads, int) and threads >= 1:
                self.num_threads = min(threads, self.num_threads)
        summary = RunFolder(folder).summary()
        if summary is not None and summary.get("status") == DIVERGED:
            warn(f"{path} diverged at update {summary.get('diverged_at')}: its policy is the one frozen then")

    def _find_environment(self, config: dict[str, Any], path: Path, arguments: Arguments) -> None:
        """Where the run was evaluated, and what of it is given otherwise; then there is no score.

        Raises:
            InputError: what `rlrat.environments.registry` does not find here or refuses, or a damaged file.
        """
        import_modules(arguments.env_modules)
        identity = recalled(_mapping(config.get("identity")))
        own_id, own_kwargs, own_limit = (identity.get(name) for name in ("env_id", "env_kwargs", "max_episode_steps"))
        if arguments.env_id is not None:
            self.env_id = typed(arguments.env_id)
        else:
            given = _mapping(config.get("arguments"))
            modules = [str(given.get("env_id")).rpartition(":")[0]]  # as this command would have to name them again
            modules += given["env_modules"] if isinstance(given.get("env_modules"), list) else []
            self.env_id = recorded(_mapping(config["identity"]).get("env_id"), str(path), modules)
        self.env_kwargs = parse_env_kwargs(arguments.env_kwargs)
        if self.env_id == own_id:
            as_typed = _as_typed(own_kwargs, _mapping(config.get("arguments")).get("env_kwargs"))
            self.env_kwargs = recorded_kwargs(self.env_id, as_typed, self.env_kwargs, str(path))
        if not (own_limit is None or (isinstance(own_limit, int) and own_limit >= 1)):
            raise InputError(f"{path} is damaged: max_episode_steps is {reason(repr(own_limit))}")
        self.max_episode_steps = arguments.max_episode_steps
        if self.max_episode_steps is None and self.env_id == own_id:
            self.max_episode_steps = own_limit
        ours, theirs = (self.env_id, self.env_kwargs, self.max_episode_steps), (own_id, own_kwargs, own_limit)
        self.reference = None
        if same_settings(ours, theirs) and config.get("reference") is not None:
            self.reference = _reference(config["reference"], path)

    def evaluator(self, episodes: int, env_kwargs: dict[str, Any], **settings: Any) -> Evaluator:
        """Its environments, with its own time limit or the one that is given."""
        limit = self.max_episode_steps
        return Evaluator(self.env_id, self.seed, episodes, env_kwargs, max_episode_steps=limit, **settings)

    def evaluate(self, episodes: int) -> tuple[dict[float | None, Evaluation], np.ndarray]:
        """What was reached by target return, or None, and the actions `[T, act]` in the column of the first episode.

        Raises:
            InputError: an environment that cannot be made or that the policy does not fit, no episode or no thread.
        """
        with _mujoco_gl(None), self.evaluator(1, self.env_kwargs, num_threads=1) as probe:
            probe.probe()
        with (
            _mujoco_gl(None),  # a wrong one fails MuJoCo's import; only a film needs it
            self.evaluator(
                episodes, self.env_kwargs, num_threads=self.num_threads, repeats=len(self.targets)
            ) as evaluator,
        ):
            torch.set_num_threads(self.num_threads)
            settings = self.policy.settings
            for kind, space in (("observation", evaluator.observation_space), ("action", evaluator.action_space)):
                size = settings[f"{kind}_size"]
                if space.shape != (size,):
                    raise InputError(
                        f"the policy in {self.path} has {kind}s of size {size}, {self.env_id} of {space.shape[0]}: "
                        "choose an environment like the one it was trained for"
                    )
            recorder = Recorder(self.policy)
            result = evaluator.run(recorder)
        parts = result.split(len(self.targets))
        return dict(zip(self.targets, parts, strict=True)), np.array(recorder.actions)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


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
        if isinstance(reference.name, str) and math.isfinite(1 / (reference.expert - reference.random)):
            return reference
    except (TypeError, ArithmeticError):
        pass
    raise InputError(f"{path} is damaged: its reference is {reason(repr(fields))}")


def find_encoder() -> Callable:
    """What opens an .mp4 to be written frame by frame.

    Raises:
        InputError: it is not installed, or finds no ffmpeg.
    """
    try:
        import imageio_ffmpeg
        from imageio.v2 import get_writer

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ModuleNotFoundError, RuntimeError) as error:
        raise InputError(f"no video without an encoder ({reason(error)}): pip install 'rlrat[video]'") from None
    return get_writer


def film(run: TrainedRun, actions: np.ndarray, path: Path) -> Evaluation:
    """Play the first episode of an evaluation again, from its `actions` `[T, act]`, into an .mp4.

    It runs in real time where the environment says how many steps that has (`render_fps`).

    Raises:
        InputError: no encoder is installed, the environment cannot be rendered, or `path` cannot be written.
    """
    get_writer = find_encoder()
    temporary = path.with_name(f"{path.stem}.tmp{path.suffix}")
    kwargs = {**run.env_kwargs, "render_mode": "rgb_array"}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            _mujoco_gl(_rendering_backend()),
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
                        writer.append_data(_render(env, run.env_id))
                    step += 1
                    return actions[None, None, step - 1]

                result = evaluator.run(act)
                writer.append_data(_render(env, run.env_id))
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or reason(error)}") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    return result


def _render(env: Any, env_id: str) -> np.ndarray:
    problem = None
    # What Gymnasium's viewer, where it could not be made, says when it is deleted is no news.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        frame = env.render()
    except Exception as error:  # every backend, driver and library fails in a way of its own
        problem = reason(error)
    finally:
        sys.unraisablehook = hook
    if problem is not None:
        advice = ""
        if hasattr(env.unwrapped, "mujoco_renderer"):
            problem = f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}: {problem}"
            advice = (
                ": without a display install libegl1 with libgl1-mesa-dri, or libosmesa6, and leave MUJOCO_GL unset"
            )
        raise InputError(f"{env_id} cannot be rendered here ({problem}){advice}")
    if not isinstance(frame, np.ndarray) or frame.ndim != 3:
        raise InputError(f"{env_id} renders no images: leave out --video")
    return frame


def _rendering_backend() -> str | None:
    """What MUJOCO_GL is to be: the user's choice, None where there is a display, or the first that works without one.

    Left alone, Gymnasium would take GLFW, which then fails. A backend can be tried once in a process, hence in others.
    """
    if chosen := os.environ.get("MUJOCO_GL"):
        return chosen
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return None
    for backend in ("egl", "osmesa"):
        command = [sys.executable, "-c", f"from mujoco.{backend} import GLContext; GLContext(64, 64).make_current()"]
        if subprocess.run(command, env={**os.environ, "MUJOCO_GL": backend}, capture_output=True).returncode == 0:
            return backend
    return "egl"  # whose error says most


@contextmanager
def _mujoco_gl(backend: str | None) -> Iterator[None]:
    """MUJOCO_GL for a while; None is unset."""
    before = os.environ.pop("MUJOCO_GL", None)
    if backend is not None:
        os.environ["MUJOCO_GL"] = backend
    try:
        yield
    finally:
        os.environ.pop("MUJOCO_GL", None)
        if before is not None:
            os.environ["MUJOCO_GL"] = before


def _table(with_targets: bool) -> Table:
    table = Table()
    table.add_column("run", overflow="fold")
    for name in ("update", *(["target"] if with_targets else []), "episodes", "return", "length", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reference", no_wrap=True)
    return table


def _row(run: TrainedRun, target: float | None, result: Evaluation, with_targets: bool) -> list[str]:
    mean, spread = result.return_mean[0], result.return_std[0]
    score = "-" if run.reference is None else f"{run.reference.normalize(mean):.1f}"
    targets = ["-" if target is None else f"{target:g}"] if with_targets else []
    return [
        *(str(run.path), f"{run.update:,}", *targets, str(result.returns.shape[1])),
        *(f"{mean:.1f} +- {spread:.1f}", f"{result.length_mean[0]:.1f}", score),
        "-" if run.reference is None else run.reference.name,
    ]


def main(arguments: Arguments) -> None:
    check_ranges(arguments)
    if not arguments.runs:
        raise InputError(
            "no run is given: give one or more run folders, <run-dir>/<dataset>/<agent>/<activation>/seed<k>"
        )
    if arguments.video is not None:
        if arguments.video.suffix != ".mp4":
            raise InputError(f"--video is {arguments.video}: give a file that ends in .mp4")
        if len(arguments.runs) > 1:
            raise InputError(f"--video films one run, {len(arguments.runs)} are given: give one")
        find_encoder()  # rather now than after the evaluation
    # In a pipe a line stays a line.
    console = Console(width=None if sys.stdout.isatty() else 1000)
    runs = [TrainedRun(path, arguments) for path in arguments.runs]
    with_targets = any(run.targets != (None,) for run in runs)
    table = _table(with_targets)
    try:
        for run in runs:
            with console.status(Text(f"{run.path}: {arguments.episodes} episodes of {run.env_id}")):
                results, actions = run.evaluate(arguments.episodes)
            for target, result in results.items():
                table.add_row(*_row(run, target, result, with_targets))
    finally:  # what is done is shown, also where the next one fails
        if table.rows:
            console.print(table)
    if arguments.video is not None:
        with console.status(Text(f"filming {arguments.video}")):
            result = film(run, actions, arguments.video)
        length, reached = result.lengths[0, 0], result.returns[0, 0]
        console.print(f"{arguments.video}: the first episode, {length:,} steps, return {reached:.1f}")


if __name__ == "__main__":
    with one_line_errors():
        main(read_command_line(Arguments, __doc__))
