"""The `evaluate` subcommand of `benchmark.py`: environment steps per second, beside Gymnasium's SyncVectorEnv."""

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from unittest import mock

import gymnasium
import numpy as np
import torch
from rich.table import Table

from benchmark_settings import Evaluate
from rlrat.console import Console
from rlrat.environments.registry import find_spec
from rlrat.environments.success import success_of
from rlrat.errors import InputError
from rlrat.evaluation.evaluator import Evaluation, Evaluator
from rlrat.evaluation.stepping import NativeRows
from rlrat.networks.policies import Policy
from rlrat.updates.machine import one_torch_thread

STACKS = ("SyncVectorEnv", "threads", "rlrat")
"""The second is how rlrat steps other environments: Gymnasium's, on threads."""


class _Replay:
    """A policy that gives its actions `[steps, episodes, act]` one after the other, whatever it sees."""

    def __init__(self, actions: np.ndarray) -> None:
        self.actions = actions
        self.reset()

    def reset(self) -> None:
        self.step = 0

    def __call__(self, _: np.ndarray) -> np.ndarray:
        self.step += 1
        return self.actions[None, self.step - 1]


def _plain_loop(env: gymnasium.Env, seeds: Iterable[int], actions: np.ndarray) -> Evaluation:
    """Play one episode after the other, as a user of Gymnasium would; actions are `[steps, episodes, act]`."""
    found = []
    for episode, seed in enumerate(seeds):
        env.reset(seed=seed)
        total, success, terminated, truncated, steps = 0.0, np.nan, False, False, 0
        while not (terminated or truncated):
            _, reward, terminated, truncated, info = env.step(actions[steps, episode])
            total, success, steps = total + reward, np.fmax(success, success_of(info)), steps + 1
        found.append((total, steps, terminated, seed, success))
    return Evaluation(*(np.array([values]) for values in zip(*found, strict=True)))


def _sync_turn(vector: gymnasium.vector.VectorEnv, seeds: list[int], steps: int) -> Callable[[Callable], None]:
    def flat(observations: np.ndarray | dict[str, np.ndarray]) -> np.ndarray:
        if isinstance(observations, np.ndarray):
            return observations
        return np.concatenate([observations[name] for name in sorted(observations)], axis=1)

    def turn(policy: Callable) -> None:
        observations, _ = vector.reset(seed=seeds)
        with one_torch_thread():  # as rlrat's
            for _ in range(steps):
                observations, *_ = vector.step(policy(flat(observations)[None])[0])

    return turn


def _measure(env_id: str, settings: Evaluate) -> dict[str, dict]:
    """Return figures of each policy's turns with one kind of environments."""
    spec, count, steps = find_spec(env_id), settings.environments, settings.steps
    with ExitStack() as stack:
        env = stack.enter_context(gymnasium.make(spec))
        steps = min(steps, env.spec.max_episode_steps or steps)
        kwargs = {"terminate_when_unhealthy": False} if hasattr(env.unwrapped, "_terminate_when_unhealthy") else {}
        limited = {**kwargs, "max_episode_steps": steps}

        def evaluator() -> Evaluator:
            made = Evaluator(env_id, 0, count, kwargs, settings.threads, max_episode_steps=steps)
            return stack.enter_context(made)

        native = evaluator()
        if type(native._rows) is not NativeRows:
            raise InputError(f"{env_id} is not stepped natively: there is nothing to compare")
        with mock.patch("rlrat.evaluation.evaluator.native_rows", return_value=None):
            threaded = evaluator()
        vector = gymnasium.make_vec(spec, num_envs=count, vectorization_mode="sync", **limited)
        stack.callback(vector.close)
        seeds, act = native.reset_seeds[0].tolist(), native.action_space.shape[0]
        replay = _Replay(np.random.default_rng(0).uniform(-1, 1, (steps, count, act)).astype(np.float32))
        policies: dict[str, Callable] = {"random": replay}
        if settings.network:
            sizes = native.observation_space.shape[0], act
            policies["network"] = Policy(*sizes, num_seeds=1, head="deterministic", hidden_dims=(256, 256))

        expected = _plain_loop(stack.enter_context(gymnasium.make(spec, **limited)), seeds, replay.actions)
        for own in (threaded, native):
            found = own.run(replay)
            for name in ("returns", "lengths", "successes"):
                values = getattr(found, name)
                values = np.full((1, count), np.nan) if values is None else values
                message = f"{env_id}: {name} are not those of a plain loop"
                np.testing.assert_array_equal(values, getattr(expected, name), message)

        turns = dict(zip(STACKS, (_sync_turn(vector, seeds, steps), threaded.run, native.run), strict=True))
        speeds: dict[tuple[str, str], list[list[float]]] = {}
        for _ in range(settings.rounds):
            for name, policy in policies.items():
                for stack_name, turn in turns.items():
                    replay.reset()
                    started, worked = time.perf_counter(), time.process_time()
                    turn(policy)
                    seconds = time.perf_counter() - started, time.process_time() - worked
                    speeds.setdefault((name, stack_name), []).append([count * steps / each for each in seconds])

    rows = {}
    for name in policies:
        walls, works = (np.array([speeds[name, each] for each in STACKS])[..., clock] for clock in (0, 1))
        rows[name] = {
            **dict(zip(STACKS, np.median(walls, axis=1).tolist(), strict=True)),
            "ratio": float(np.median(walls[2] / walls[0])),
            "ratio of CPU time": float(np.median(works[2] / works[0])),
        }
    return rows


def run_evaluate(settings: Evaluate) -> dict:
    torch.set_num_threads(settings.threads)
    rows = {env_id: _measure(env_id, settings) for env_id in settings.env_ids}
    table = Table("", *STACKS, "times", "CPU time")
    table.columns[0].no_wrap = True
    for env_id, policies in rows.items():
        for name, row in policies.items():
            numbers = (f"{row[each]:,.0f}" for each in STACKS)
            label = env_id + ", network" * (name == "network")
            table.add_row(label, *numbers, f"{row['ratio']:.2f}", f"{row['ratio of CPU time']:.2f}")
    console = Console()
    console.print(table)
    console.print(
        f"Environment steps/s of {settings.environments} episodes, on {settings.threads} threads; how many times "
        "SyncVectorEnv's, and per second of CPU time. "
        "Returns, lengths and successes equal those of a plain loop bit for bit.",
        soft_wrap=True,
    )
    return rows
