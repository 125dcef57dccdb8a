"""Evaluate policies in real Gymnasium environments: seeds x episodes at once, one batched policy call per step.

Rewards, terminations and time limits are Gymnasium's. `stepping` steps the usual MuJoCo environments for all rows
at once, with the same results bit for bit; all others are stepped as `gymnasium.make` made them.
"""

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rlrat.environments.global_random import lent
from rlrat.environments.making import NO_LIMIT, Wrapper, import_mujoco, make, refusals
from rlrat.environments.observations import Flattener, Parts, described
from rlrat.environments.registry import MOST_EPISODES, find_spec, import_modules, typed
from rlrat.errors import InputError, reason
from rlrat.evaluation.gymnasium_rows import GymnasiumRows, row_index
from rlrat.evaluation.scores import Reference
from rlrat.evaluation.stepping import NativeRows, native_rows
from rlrat.updates.machine import one_torch_thread, usable_cores

if TYPE_CHECKING:
    from gymnasium import Env
    from gymnasium.spaces import Box

PolicyFunction = Callable[[np.ndarray], Any]
"""observations [S, E, obs] float64 -> actions [S, E, act], a NumPy array or a tensor on any device.

A policy with memory may also have `reset()`, called once before the first step, and
`observe(rewards [S, E], dones [S, E])`, called after each step: rewards are 0 in rows that were already over,
and dones stay True from the step that ended the row's episode on."""


@dataclass(frozen=True)
class Evaluation:
    """The results of S seeds in E episodes each.

    returns: float64 [S, E], undiscounted sums of rewards; NaN where the policy gave a non-finite action.
    lengths: int64 [S, E], steps.
    terminated: bool [S, E]; False where the time limit (or a non-finite action) ended the episode.
    reset_seeds: int64 [S, E], the seeds given to `reset(seed=...)`.
    successes: float64 [S, E], the largest over the episode of what the environment says of its task: 0 or 1, in
        FrankaKitchen the share of its tasks that were done. NaN where the return is NaN. None where the environment
        says nothing.
    """

    returns: np.ndarray
    lengths: np.ndarray
    terminated: np.ndarray
    reset_seeds: np.ndarray
    successes: np.ndarray | None = None

    @property
    def return_mean(self) -> np.ndarray:
        """Return the mean return over each seed's episodes, [S]; NaN if any of them is NaN."""
        return self.returns.mean(axis=1)

    @property
    def return_std(self) -> np.ndarray:
        """Return the population standard deviation of the returns over each seed's episodes, [S]."""
        return self.returns.std(axis=1)

    @property
    def length_mean(self) -> np.ndarray:
        """Return the mean length over each seed's episodes, [S], in steps."""
        return self.lengths.mean(axis=1)

    @property
    def success_rate(self) -> np.ndarray:
        """Return the mean of `successes` over each seed's episodes, [S]; NaN where there are none."""
        return np.full(len(self.returns), np.nan) if self.successes is None else self.successes.mean(axis=1)

    def scores(self, reference: Reference) -> np.ndarray:
        """Return each seed's normalised score, [S], of its returns or its success rate, whichever `reference` is of."""
        return reference.normalize(self.success_rate if reference.measure == "success" else self.return_mean)

    def split(self, repeats: int) -> list["Evaluation"]:
        """Split the results of an `Evaluator` with `repeats` repeats into one `Evaluation` per repeat."""
        arrays = (self.returns, self.lengths, self.terminated, self.reset_seeds, self.successes)
        parts = ([None] * repeats if array is None else np.split(array, repeats, axis=1) for array in arrays)
        return [Evaluation(*part) for part in zip(*parts, strict=True)]


def reset_seed(seed: int, episode: int) -> int:
    """Return the seed that an environment is reset with: a function of `seed` and `episode` alone."""
    return int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])


def evaluate(
    policy: PolicyFunction,
    env_id: str,
    episodes: int,
    seed: int | Sequence[int],
    env_kwargs: Mapping[str, Any] | None = None,
    num_threads: int | None = None,
    *,
    max_episode_steps: int | None = None,
    wrappers: Sequence[Wrapper] = (),
    env_modules: Sequence[str] = (),
    observation_parts: Sequence[str] | None = None,
) -> Evaluation:
    """Run `episodes` episodes of `env_id` for each seed; arguments and errors are those of `Evaluator`.

    An environment without a time limit may never end, and then this never returns: give `max_episode_steps`.

    Args:
        env_id: a registered id such as Hopper-v5, or `module:id`; the module is then imported.
        env_modules: further modules that register environments; they are imported.
        observation_parts: as for `Evaluator`; by default those of a policy of `rlrat.load_policy`.
    """
    import_modules(env_modules)
    if observation_parts is None and (own := getattr(policy, "observation_parts", ())):
        observation_parts = [name for name, _ in own]
    about = {"max_episode_steps": max_episode_steps, "wrappers": wrappers, "observation_parts": observation_parts}
    with Evaluator(typed(env_id), seed, episodes, env_kwargs, num_threads, **about) as evaluator:
        return evaluator.run(policy)


class Evaluator:
    """S x E environments that stay open from one evaluation to the next.

    Args:
        env_id: a registered id such as Hopper-v5; its actions and observations are vectors.
        seeds: one seed (S = 1) or S of them. Row (s, e) is reset with `reset_seed(seeds[s], e)` at every evaluation:
            all compared policies get the same initial states, and a seed's episodes do not depend on other seeds.
        episodes: E, episodes per seed.
        env_kwargs: passed to `gymnasium.make`.
        repeats: R; each episode is played R times at once, in the columns r * episodes + e, for a policy that acts
            differently in each repeat.
        num_threads: threads that step MuJoCo environments; by default the cores that this process may use (at most 4
            where Gymnasium steps them).
        max_episode_steps: steps after which an episode is cut, -1 for never; by default as the environment is
            registered.
        wrappers: of Gymnasium, around the environment and its time limit, the innermost first.
        observation_parts: of dictionary observations, the names of the parts that policies see, in that order, such as
            `achieved_goal/kettle`; by default all of them, sorted as `rlrat.environments.observations` says.

    `observation_space` is that of what policies see, vectors; `observation_parts` are the names and widths that
    dictionary observations become them by, () where they are vectors already. `envs` are Gymnasium's environments: the
    first row's, and those of all other rows if `stepping` needs them. `time_limit` is the number of steps after which
    every episode is cut, or None. `going_on` is the number of rows that the current evaluation still plays; other
    threads may read it.

    Raises:
        InputError: an unknown or uninstalled environment, settings that it or a wrapper refuses, discrete actions,
            observations that are no vector and no dictionary of vectors, or lack a part, a negative seed, no episode,
            too many of them, no step or no thread.
    """

    def __init__(
        self,
        env_id: str,
        seeds: int | Sequence[int],
        episodes: int,
        env_kwargs: Mapping[str, Any] | None = None,
        num_threads: int | None = None,
        repeats: int = 1,
        *,
        max_episode_steps: int | None = None,
        wrappers: Sequence[Wrapper] = (),
        observation_parts: Sequence[str] | None = None,
    ) -> None:
        self.env_id = env_id
        self.wrappers: tuple[Wrapper, ...] = tuple(wrappers)
        self.env_kwargs: dict[str, Any] = dict(env_kwargs or {})
        self.seeds: tuple[int, ...] = tuple(int(seed) for seed in np.atleast_1d(seeds))
        self.episodes = episodes
        if not self.seeds or min(self.seeds) < 0:
            raise InputError(f"evaluation seeds are {list(self.seeds)}: give at least one, none below 0")
        if episodes < 1:
            raise InputError(f"cannot evaluate {episodes} episodes: give at least 1")
        if num_threads is not None and num_threads < 1:
            raise InputError(f"cannot step environments on {num_threads} threads: give at least 1")
        if len(self.seeds) * episodes > MOST_EPISODES:
            seeds = f" for each of {len(self.seeds):,} seeds" if len(self.seeds) > 1 else ""
            raise InputError(f"cannot play {episodes:,} episodes{seeds} at once: give at most {MOST_EPISODES:,} in all")
        if max_episode_steps is not None:
            if max_episode_steps < 1 and max_episode_steps != NO_LIMIT:
                raise InputError(f"cannot cut episodes after {max_episode_steps} steps: give at least 1")
            if "max_episode_steps" in self.env_kwargs:
                raise InputError("max_episode_steps is given twice: leave it out of the environment's settings")

        reset_seeds = np.array([[reset_seed(seed, e) for e in range(episodes)] for seed in self.seeds])
        self.reset_seeds: np.ndarray = np.tile(reset_seeds, repeats)
        self.envs: list[Env[Any, Any]]
        rows = (self.reset_seeds.ravel().tolist(), num_threads)
        self.envs, self._rows, flattener = _make_rows(
            env_id, self.env_kwargs, max_episode_steps, self.wrappers, *rows, observation_parts
        )
        first: Any = self.envs[0]  # its actions are a box, or it was refused
        with lent():
            self.observation_space: Box = first.observation_space if flattener is None else flattener.box()
            self.action_space: Box = first.action_space
        self.observation_parts: Parts = () if flattener is None else flattener.parts
        self.num_threads: int = self._rows.num_threads
        self.time_limit: int | None = _time_limit(first)
        self.going_on: int = self.reset_seeds.size

    def probe(self) -> None:
        """Reset all rows and make a step with the action in the middle of the action space.

        An environment may accept a setting when it is made and refuse it only at these calls. An error without any
        given settings is not raised here: it may not happen again, and an evaluation reports it.

        Raises:
            InputError: the environment refuses its settings, or does not keep to Gymnasium's API.
        """
        space = self.action_space
        bounded = np.isfinite(space.low) & np.isfinite(space.high)
        action = np.where(bounded, space.low + (space.high - space.low) / 2, 0.0).astype(space.dtype)
        try:
            with refusals(self.env_id, self.env_kwargs, self.wrappers):
                self._rows.reset()
                rows = np.arange(self.reset_seeds.size)
                self._rows.step(rows, np.broadcast_to(action, (len(rows), *action.shape)))
        except InputError:
            raise
        except Exception:
            if self.env_kwargs or self.wrappers:
                raise

    def run(self, policy: PolicyFunction) -> Evaluation:
        """Play every row's episode to its end.

        The policy sees all S x E rows at every step: its calls keep one shape. Finished rows show their last
        observation, and their actions are ignored. Actions are cast to the action space's dtype (float32 in MuJoCo
        environments) and are neither clipped nor scaled. If an action is not finite, its row ends at once with a
        return of NaN, and the action does not reach the simulator; other rows go on. During the run PyTorch has one
        thread, unless the policy has `observe`.

        Raises:
            ValueError: actions of another shape than [S, E, act].
            Exception: any error of an environment or the policy, after all environments are closed.
        """
        try:
            with _few_threads(policy):
                return self._run(policy)
        except BaseException:
            self.close()
            raise

    def _run(self, policy: PolicyFunction) -> Evaluation:
        if not self.envs:
            raise RuntimeError("the evaluator is closed")
        shape, count = self.reset_seeds.shape, self.reset_seeds.size
        returns = np.zeros(count)
        lengths = np.zeros(count, np.int64)
        terminated = np.zeros(count, bool)
        over = np.zeros(count, bool)
        successes = np.full(count, np.nan)
        observe = getattr(policy, "observe", None)

        if hasattr(policy, "reset"):
            policy.reset()
        observations = self._rows.reset()
        rows = np.arange(count)  # rows whose episodes have not ended
        self.going_on = count
        while len(rows):
            # A copy: a policy may keep the array.
            actions = self._actions(policy(observations.reshape(*shape, -1).copy()))[row_index(rows, count)]
            if not np.isfinite(actions).all():
                finite = np.isfinite(actions).all(axis=1)
                returns[rows[~finite]] = np.nan
                over[rows[~finite]] = True
                rows, actions = rows[finite], actions[finite]
            rewards = np.zeros(count)
            if len(rows):
                index = row_index(rows, count)
                observations[index], rewards[index], ended, truncated, said = self._rows.step(rows, actions)
                successes[index] = np.fmax(successes[index], said)  # NaN only where both are
                returns[index] += rewards[index]
                lengths[index] += 1
                terminated[index] = ended
                ended = ended | truncated
                if ended.any():
                    over[rows[ended]] = True
                    rows = rows[~ended]
            self.going_on = len(rows)
            if observe is not None:
                observe(rewards.reshape(shape), over.reshape(shape).copy())
        found = (array.reshape(shape) for array in (returns, lengths, terminated))
        return Evaluation(*found, self.reset_seeds.copy(), _over_episodes(successes, returns, shape))

    def _actions(self, actions: Any) -> np.ndarray:
        """Copy actions to `[S x E, act]` in the action space's dtype."""
        if hasattr(actions, "detach"):
            actions = actions.detach().cpu()
        actions = np.asarray(actions)
        expected = (*self.reset_seeds.shape, *self.action_space.shape)
        if actions.shape != expected:
            raise ValueError(f"the policy gave actions of shape {actions.shape}, expected {expected}")
        # A float64 beyond float32's range becomes infinite, which ends its row.
        with np.errstate(over="ignore"):
            return actions.reshape(-1, expected[-1]).astype(self.action_space.dtype)

    def close(self) -> None:
        """Close all environments and end the threads; may be called twice."""
        envs, self.envs = self.envs, []
        if envs:
            self._rows.close()
        for env in envs:
            env.close()

    def __enter__(self) -> "Evaluator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_spaces(
    env: Any,
    observation_width: int,
    action_low: np.ndarray,
    action_high: np.ndarray,
    *,
    typed: bool = False,
    observation_parts: Parts = (),
) -> None:
    """Refuse data that does not fit an environment.

    Args:
        env: anything with Gymnasium's `observation_space` and `action_space`, such as an `Evaluator`.
        observation_width: the length of the data's observations.
        action_low, action_high: [act], the bounds of the data's actions.
        typed: whether the user gave these bounds: then they may lie inside the environment's.
        observation_parts: what the data's observations are made of; the evaluator was made with these names.

    Raises:
        InputError: other shapes, or bounds that differ by more than float32 rounding.
    """
    name = getattr(env, "env_id", None) or env.spec.id
    advice = "choose the environment that the data was collected in"
    low, high = np.asarray(action_low), np.asarray(action_high)
    parts = getattr(env, "observation_parts", ())
    if bool(observation_parts) != bool(parts):
        ours, theirs = described(observation_parts, observation_width), described(parts, *env.observation_space.shape)
        raise InputError(f"the data's observations are {ours}, those of {name} {theirs}: {advice}")
    for (part, ours), (_, theirs) in zip(observation_parts, parts, strict=True):
        if ours != theirs:
            widths = f"{ours} components, that of {name} {theirs}"
            raise InputError(f"{reason(part)} in the data's observations has {widths}: {advice}")
    for kind, space, shapes in (
        ("observations", env.observation_space, [(observation_width,)]),
        ("actions", env.action_space, [low.shape, high.shape]),
    ):
        for shape in shapes:
            if shape != space.shape:
                raise InputError(f"the data's {kind} have shape {shape}, those of {name} {space.shape}: {advice}")
    space = env.action_space
    equal = [np.isclose(mine, theirs, atol=1e-6) for mine, theirs in ((low, space.low), (high, space.high))]
    if typed:
        if not ((equal[0] | (low > space.low)) & (equal[1] | (high < space.high))).all():
            bounds = _interval(low, high), _interval(space.low, space.high)
            raise InputError(f"--action-bounds are {bounds[0]}, beyond those of {name}, {bounds[1]}: give some inside")
    elif not (equal[0] & equal[1]).all():
        bounds = _interval(low, high), _interval(space.low, space.high)
        raise InputError(f"the data's actions lie in {bounds[0]}, those of {name} in {bounds[1]}: {advice}")


def _interval(low: np.ndarray, high: np.ndarray) -> str:
    """Format bounds as `[-1, 1]`, or those of each component if they differ."""
    if np.ptp(low) == np.ptp(high) == 0:
        return f"[{low[0]:g}, {high[0]:g}]"
    return " x ".join(f"[{a:g}, {b:g}]" for a, b in zip(low, high, strict=True))


def _over_episodes(successes: np.ndarray, returns: np.ndarray, shape: tuple[int, int]) -> np.ndarray | None:
    """Return `successes` `[S x E]` in `shape`: 0 in rows that said nothing where others did; None where none did."""
    if np.isnan(successes).all():
        return None
    return np.where(np.isnan(returns), np.nan, np.nan_to_num(successes)).reshape(shape)


def _few_threads(policy: PolicyFunction) -> AbstractContextManager:
    """Give PyTorch one thread: its idle threads would use cores that step environments."""
    if "torch" not in sys.modules or hasattr(policy, "observe"):
        return nullcontext()  # the calls of a sequence model take longer than the physics
    return one_torch_thread()


def _make_rows(
    env_id: str,
    env_kwargs: dict[str, Any],
    max_episode_steps: int | None,
    wrappers: Sequence[Wrapper],
    seeds: list[int],
    num_threads: int | None,
    observation_parts: Sequence[str] | None,
) -> tuple[list[Any], NativeRows | GymnasiumRows, Flattener | None]:
    """Make a row for each reset seed, and their environments: only the first one if Gymnasium steps none.

    The flattener is that of dictionary observations, None for vectors.
    """
    find_spec(env_id)  # or one line, also where Gymnasium is missing
    envs: list[Any] = []
    try:
        # Some environments are reset when they are made, or when they are asked for their spaces.
        with lent() as loan, _model_warnings_once():
            loan.begin(np.random.MT19937(), seeds[0])
            envs.append(make(env_id, env_kwargs, max_episode_steps, wrappers))
            flattener = _check_evaluable(envs[0], env_id, observation_parts)
            with refusals(env_id, env_kwargs, wrappers):  # the first steps are made here
                rows = native_rows(envs[0], seeds, num_threads or usable_cores(), flattener)
            if rows is None:
                for seed in seeds[1:]:
                    loan.begin(np.random.MT19937(), seed)
                    envs.append(make(env_id, env_kwargs, max_episode_steps, wrappers))
                # Almost half of a Hopper step is Python (130 of 300 us): more than a few threads only wait for the GIL.
                rows = GymnasiumRows(envs, seeds, num_threads or min(usable_cores(), 4), flattener)
    except BaseException:
        for env in envs:
            env.close()
        raise
    return envs, rows, flattener


def _time_limit(env: Any) -> int | None:
    """Find the number of steps after which Gymnasium cuts an episode; return None if it does not."""
    from gymnasium import Wrapper
    from gymnasium.wrappers import TimeLimit

    limits = []
    while isinstance(env, Wrapper):
        if isinstance(env, TimeLimit):
            limits.append(env._max_episode_steps)
        env = env.env
    return min(limits, default=None)


def _check_evaluable(env: Any, env_id: str, observation_parts: Sequence[str] | None) -> Flattener | None:
    """Refuse spaces that are not evaluated; return what flattens dictionary observations, None for vectors."""
    from gymnasium.spaces import Box, Dict

    actions, observations = env.action_space, env.observation_space
    if not isinstance(actions, Box) or not np.issubdtype(actions.dtype, np.floating):
        raise InputError(f"{env_id} has the actions {actions}: continuous actions only (Box)")
    flattener = None
    if isinstance(observations, Dict):
        flattener = Flattener(observations, env_id, observation_parts)
    elif observation_parts:
        raise InputError(
            f"{env_id} has the observations {reason(observations)}, and the data's are dictionaries: "
            "choose the environment that the data was collected in"
        )
    for kind, space in (("actions", actions), *([] if flattener else [("observations", observations)])):
        if not isinstance(space, Box) or len(space.shape) != 1:
            raise InputError(f"{env_id} has the {kind} {reason(space)}: only vectors work (Box of shape (n,))")
    return flattener


@contextmanager
def _model_warnings_once() -> Iterator[None]:
    """Turn the messages of MuJoCo's model compiler, printed per environment, into Python warnings, once per message.

    MuJoCo's own handler writes to stderr and to MUJOCO_LOG.TXT in the working directory. Deprecated attributes, which
    MuJoCo 4 finds in Gymnasium's half_cheetah.xml, concern the model's author: DeprecationWarning, hidden by default.
    """
    mujoco = import_mujoco()
    if mujoco is None:
        yield
        return
    seen: dict[str, None] = {}
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(lambda message: seen.setdefault(message))
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)
        for message in seen:
            category = DeprecationWarning if "deprecated" in message else RuntimeWarning
            warnings.warn(f"MuJoCo: {reason(message)}", category, stacklevel=2)
