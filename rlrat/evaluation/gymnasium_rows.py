"""Step many environments of one kind, each made by Gymnasium, and check that they keep to its API.

`GymnasiumRows` runs any environment; `stepping.NativeRows` runs some of them much faster. Both have
`reset() -> observations` and `step(rows, actions) -> observations, rewards, terminated, truncated, successes` of the
given rows, which are sorted and at least one. A row depends neither on the others nor on the number of threads.
"""

import re
from collections.abc import Callable, Sequence
from multiprocessing.pool import ThreadPool
from typing import Any

import numpy as np

from rlrat.environments.global_random import Generators, settled_state
from rlrat.environments.observations import NUMERIC_KINDS, Flattener
from rlrat.environments.success import success_of
from rlrat.errors import InputError, warn

StepResult = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Observations, rewards, terminations, truncations and successes (in [0, 1], NaN where unsaid) of some rows."""

_SCALAR_RESULTS = (("reward", float), ("termination", bool), ("truncation", bool))


def row_index(rows: np.ndarray, count: int) -> np.ndarray | slice:
    """Return an index that picks the sorted `rows` out of `count` rows: a slice, which is faster, for all of them."""
    return rows if len(rows) < count else slice(None)


class Threads:
    """Threads that call a function for every row, in one contiguous chunk per thread; the caller's thread is one."""

    def __init__(self, count: int) -> None:
        self.count = count
        # Not an executor: if a step never returned, its threads would keep the process alive.
        self._pool = ThreadPool(count - 1) if count > 1 else None

    def __call__(self, function: Callable[[int], None], rows: np.ndarray) -> None:
        def work(chunk: np.ndarray) -> None:
            for row in chunk.tolist():
                function(row)

        if self._pool is None:
            work(rows)
            return
        first, *others = np.array_split(rows, self.count)
        results = [self._pool.apply_async(work, (chunk,)) for chunk in others if len(chunk)]
        try:
            work(first)
        finally:
            for result in results:
                result.wait()
        for result in results:
            result.get()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()


class GymnasiumRows:
    """One Gymnasium environment per row; MuJoCo's are stepped on threads, as `mj_step` releases the GIL.

    Every row is reset, and steps for the first time, with a global generator of NumPy's of its own. If one draws from
    it then, all further steps are made one at a time in the same way. One that draws later is noticed, too, but that
    evaluation's episodes then depend on what else draws there.
    """

    def __init__(
        self, envs: Sequence[Any], seeds: Sequence[int], num_threads: int, flattener: Flattener | None = None
    ) -> None:
        """Take over environments, one for each reset seed; `flattener` is of their dictionary observations."""
        self.num_threads: int = min(num_threads, len(envs)) if _is_mujoco(envs[0]) else 1
        self._envs, self._seeds = envs, seeds
        self._generators, self._at_start = Generators(seeds), True
        self._starts: np.ndarray | None = None
        self._name = envs[0].spec.id if envs[0].spec is not None else type(envs[0].unwrapped).__name__
        self._threads = Threads(self.num_threads)
        self._flattener = flattener
        shape = envs[0].observation_space.shape if flattener is None else (flattener.size,)
        self._observations = np.empty((len(envs), *shape))
        self._rewards = np.zeros(len(envs))
        self._terminated = np.zeros(len(envs), bool)
        self._truncated = np.zeros(len(envs), bool)
        self._successes = np.full(len(envs), np.nan)

    def reset(self) -> np.ndarray:
        """Reset all rows; return their first observations.

        Raises:
            InputError: an environment that does not keep to Gymnasium's API.
        """

        def reset(row: int) -> None:
            self._envs[row].unwrapped.action_space.seed(self._seeds[row])  # a reset may draw from it
            found = self._envs[row].reset(seed=self._seeds[row])
            if not isinstance(found, tuple) or len(found) != 2:
                raise InputError(f"{self._name} returned {_amount(found)} from reset, Gymnasium's API has 2")
            self._read(row, found[0], "reset")

        self._generators.each(reset, np.arange(len(self._envs)), anew=True)
        self._at_start = True
        self._compare_starts()
        return self._observations.copy()

    def _compare_starts(self) -> None:
        """Warn once if rows start elsewhere than at an earlier reset."""
        if self._starts is None:
            self._starts = self._observations.copy()
        elif len(self._starts) and not np.array_equal(self._starts, self._observations, equal_nan=True):
            self._starts = self._starts[:0]
            warn(
                f"{self._name} starts elsewhere whenever it is reset with the same seed: no two evaluations have the "
                "same episodes, and policies are not compared in the same ones"
            )

    def step(self, rows: np.ndarray, actions: np.ndarray) -> StepResult:
        """Step `rows`, each with its action.

        Raises:
            InputError: an environment that does not keep to Gymnasium's API.
        """
        results = (self._observations, self._rewards, self._terminated, self._truncated, self._successes)
        action_of = dict(zip(rows.tolist(), actions, strict=True))

        def step(row: int) -> None:
            found = self._step(row, action_of[row])
            self._read(row, found[0], "step")
            for array, (name, kind), value in zip(results[1:4], _SCALAR_RESULTS, found[1:4], strict=True):
                array[row] = value if type(value) is kind else self._number(name, value)
            self._successes[row] = success_of(found[4])

        if self._at_start or self._generators.are_used:
            self._generators.each(step, rows)
            self._at_start = False
        else:
            before = settled_state()
            self._threads(step, rows)
            if None not in (before, after := settled_state()) and after != before:
                self._generators.are_used = True
                warn(
                    f"while {self._name} made a step that is not its first one, somebody drew from NumPy's global "
                    "generator: if it was the environment, this evaluation is not decided by its seeds; the next ones "
                    "are, as each row has such a generator of its own from now on"
                )
        return tuple(array[rows] for array in results)

    def _step(self, row: int, action: np.ndarray) -> tuple:
        try:
            found = self._envs[row].step(action)
        except (TypeError, ValueError) as error:
            if (there := _unpacked_in_vain(error)) is None:
                raise
            raise InputError(f"{self._name} returned {there} from step, Gymnasium's API has 5") from None
        if not isinstance(found, tuple) or len(found) != 5:
            raise InputError(f"{self._name} returned {_amount(found)} from step, Gymnasium's API has 5")
        return found

    def _read(self, row: int, value: Any, function: str) -> None:
        if self._flattener is not None:
            if (wrong := self._flattener(value, self._observations[row])) is not None:
                raise InputError(f"{self._name} returned an observation {wrong} from {function}")
            return
        expected = self._observations.shape[1:]
        array = value if type(value) is np.ndarray and value.dtype.kind in NUMERIC_KINDS else _array(value)
        if array is None or array.shape != expected:
            what = f"of shape {array.shape}" if array is not None else f"that is {_kind(value)}"
            raise InputError(
                f"{self._name} returned an observation {what} from {function}, its observation space has {expected}"
            )
        self._observations[row] = array

    def _number(self, name: str, value: Any) -> Any:
        """Read a reward or a flag, which may be an array of one element."""
        array = _array(value)
        if array is None or array.size != 1 or (name != "reward" and array.dtype.kind == "f"):
            what = f"of shape {array.shape}" if array is not None and array.size != 1 else f"that is {_kind(value)}"
            wanted = "a number" if name == "reward" else "a bool"
            raise InputError(f"{self._name} returned a {name} {what} from step, Gymnasium's API has {wanted}")
        return array.reshape(())[()]

    def close(self) -> None:
        self._threads.close()


def _array(value: Any) -> np.ndarray | None:
    """Turn numbers into an array; return None if the value holds anything else."""
    try:
        array = np.asarray(value)
    except Exception:  # ragged lists, tensors of a GPU
        return None
    return array if array.dtype.kind in NUMERIC_KINDS else None


def _kind(value: Any) -> str:
    return "None" if value is None else f"of type {type(value).__name__}"


def _amount(found: Any) -> str:
    """Say how many values were returned: `4 values`."""
    return f"{len(found)} values" if isinstance(found, tuple) else f"one value {_kind(found)}"


def _unpacked_in_vain(error: Exception) -> str | None:
    """Say how many values a Gymnasium wrapper got instead of a step's five; return None for another error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not str(trace.tb_frame.f_globals.get("__name__")).startswith("gymnasium.wrappers."):
        return None
    text = str(error)
    if found := re.search(r"not enough values to unpack \(expected 5, got (\d+)\)", text):
        return f"{found[1]} values"
    if "too many values to unpack (expected 5" in text:
        return "more values"
    return "one value that is no tuple" if "cannot unpack non-iterable" in text else None


def _is_mujoco(env: Any) -> bool:
    """Return whether MuJoCo steps `env`, by Gymnasium's base class, gymnasium-robotics or a task of D4RL's made anew.

    Then several may step at once.
    """
    try:
        from gymnasium.envs.mujoco import MujocoEnv
    except Exception:  # Gymnasium raises its own error where MuJoCo is missing: then no environment uses it.
        return False
    base = env.unwrapped  # in gymnasium-robotics and tasks of D4RL's it may hold a MujocoEnv instead of being one
    of_robotics = type(base).__module__.startswith("gymnasium_robotics.envs.")
    return isinstance(base, MujocoEnv) or of_robotics or getattr(base, "is_mujoco", False) is True
