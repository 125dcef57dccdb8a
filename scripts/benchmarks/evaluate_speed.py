"""The `evaluate` subcommand of `benchmark.py`: environment steps per second, beside Gymnasium's SyncVectorEnv."""

import statistics
import time
from collections.abc import Callable, Iterable
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
from rlrat.networks.policies import Policy
from rlrat.updates.machine import one_torch_thread

STACKS = ("SyncVectorEnv", "Gymnasium's rows", "rlrat")
_EQUAL = ("returns", "lengths", "successes")


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
    spec = find_spec(env_id)
    count, steps = settings.environments, settings.steps
    with gymnasium.make(spec) as env:
        steps = min(steps, env.spec.max_episode_steps or steps)
        kwargs = {"terminate_when_unhealthy": False} if hasattr(env.unwrapped, "_terminate_when_unhealthy") else {}
    made = {"max_episode_steps": steps, **kwargs}
    with mock.patch("rlrat.evaluation.evaluator.native_rows", return_value=None):
        threaded = Evaluator(env_id, 0, count, kwargs, settings.threads, max_episode_steps=steps)
    native = Evaluator(env_id, 0, count, kwargs, settings.threads, max_episode_steps=steps)
    if len(native.envs) > 1 and count > 1:
        raise InputError(f"{env_id} is not stepped natively here")
    vector = gymnasium.make_vec(spec, num_envs=count, vectorization_mode="sync", **made)
    seeds = native.reset_seeds[0].tolist()
    act = native.action_space.shape[0]
    policies: dict[str, Callable] = {
        "random": _Replay(np.random.default_rng(0).uniform(-1, 1, (steps, count, act)).astype(np.float32))
    }
    if settings.network:
        sizes = native.observation_space.shape[0], act
        policies["network"] = Policy(*sizes, num_seeds=1, head="deterministic", hidden_dims=(256, 256))

    turns = dict(zip(STACKS, (_sync_turn(vector, seeds, steps), threaded.run, native.run), strict=True))
    speeds: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _ in range(settings.rounds):
        for name, policy in policies.items():
            for stack, turn in turns.items():
                if isinstance(policy, _Replay):
                    policy.reset()
                started, worked = time.perf_counter(), time.process_time()
                turn(policy)
                found = time.perf_counter() - started, time.process_time() - worked
                speeds.setdefault((name, stack), []).append(tuple(count * steps / seconds for seconds in found))

    replay = policies["random"]
    with gymnasium.make(spec, **made) as env:
        expected = _plain_loop(env, seeds, replay.actions)
    for evaluator in (threaded, native):
        found = evaluator.run(replay)
        for name in _EQUAL:
            own = getattr(found, name)
            own = np.full((1, count), np.nan) if own is None else own
            np.testing.assert_array_equal(own, getattr(expected, name), f"{env_id}: {name} differ from a plain loop's")
        evaluator.close()
    vector.close()

    rows = {}
    for name in policies:
        by_stack = {stack: np.array(speeds[name, stack]) for stack in STACKS}
        ratios = {stack: np.median(found / by_stack["SyncVectorEnv"], axis=0) for stack, found in by_stack.items()}
        rows[name] = {
            **{stack: statistics.median(found[:, 0]) for stack, found in by_stack.items()},
            **{f"{stack}, ratio": float(ratios[stack][0]) for stack in STACKS[1:]},
            **{f"{stack}, ratio of CPU time": float(ratios[stack][1]) for stack in STACKS[1:]},
        }
    return rows


def run_evaluate(settings: Evaluate) -> dict:
    torch.set_num_threads(settings.threads)
    rows = {env_id: _measure(env_id, settings) for env_id in settings.env_ids}
    table = Table("actions", *STACKS, "times", "per CPU time")
    table.columns[0].no_wrap = True
    for env_id, policies in rows.items():
        for name, row in policies.items():
            numbers = (f"{row[stack]:,.0f}" for stack in STACKS)
            ratios = (f"{row[f'rlrat, ratio{of}']:.2f}" for of in ("", " of CPU time"))
            table.add_row(f"{env_id}, {name}", *numbers, *ratios)
    console = Console()
    console.print(table)
    console.print(
        f"Environment steps/s of {settings.environments} episodes on {settings.threads} threads; "
        "returns, lengths and successes equal those of a plain loop bit for bit.",
        soft_wrap=True,
    )
    return rows
