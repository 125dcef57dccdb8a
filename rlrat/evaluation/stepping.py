"""Step many of Gymnasium's MuJoCo environments at once, as Gymnasium would step each.

`NativeRows` runs Hopper, Walker2d, HalfCheetah and Ant, v4 and v5, and the mazes and hands of `stepping_robotics`,
without Gymnasium. MuJoCo's own threads compute the physics of the whole batch, then NumPy computes rewards,
terminations and observations, with Gymnasium's order and precision of operations: every number is the same bit for bit.
It is used like `gymnasium_rows.GymnasiumRows`.
"""

import copy
import math
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from rlrat.environments.observations import Flattener
from rlrat.environments.success import success_of
from rlrat.evaluation.gymnasium_rows import StepResult, Threads, row_index
from rlrat.evaluation.stepping_robotics import TASKS, Results, State

_COMPARED_STEPS = 8  # enough for an Ant to touch the ground


class _BatchPhysics:
    """Physics of rows of one model on the threads of MuJoCo 4."""

    def __init__(self, model: Any, starts: Mapping[str, np.ndarray], num_threads: int, fields: Sequence[str]) -> None:
        """Make the physics.

        Args:
            model: of all rows.
            starts: qpos, qvel and the model's fields that rows have for themselves, `[rows, ...]` each.
            num_threads: threads.
            fields: what `self.fields` holds, `[rows, ...]`, after `reset` or `step`.

        Raises:
            ImportError: an older MuJoCo.
        """
        import mujoco
        from mujoco.batch import Batch

        # Contact forces need an MjData per row, and sleep or plugins may keep state there. Otherwise rows share the
        # MjData of a thread, which leaves more of the caches to the policy.
        own = "cfrc_ext" in fields or model.opt.enableflags != 0 or model.nplugin > 0
        count = len(starts["qpos"])
        self._batch = Batch(model, count, num_threads, persistent=own)
        self._starts = {name: starts[name] for name in ("qpos", "qvel")}
        for name in starts.keys() - self._starts.keys():
            self._batch.expand(name)[:] = starts[name]
        self._skip_forward = mujoco.mjtStage.mjSTAGE_NONE.value
        self._ctrl = self._batch.bind("ctrl")
        self.fields = {name: self._batch.bind(name) for name in {*fields, *self._starts} - {"cfrc_ext"}}
        self._data = None
        if "cfrc_ext" in fields:
            self._model, self._data, self._post = model, mujoco.MjData(model), mujoco.mj_rnePostConstraint
            self._contact_forces = self._data.cfrc_ext
            self.fields["cfrc_ext"] = np.zeros((count, *self._contact_forces.shape))

    def reset(self) -> None:
        """Do what MujocoEnv.reset does: mj_resetData, set_state."""
        self._batch.reset(stage=self._skip_forward)
        for name, values in self._starts.items():
            self.fields[name][:] = values
        self._batch.forward()
        if self._data is not None:
            for row in range(len(self._ctrl)):
                self._batch.get_data(row, self._data)
                self.fields["cfrc_ext"][row] = self._contact_forces

    def set_velocities(self, rows: np.ndarray, velocities: np.ndarray) -> None:
        """Do what MujocoEnv.set_state does with the positions that there are."""
        self.fields["qvel"][rows] = velocities
        self._batch.forward(self._ids(rows))

    def step(self, rows: np.ndarray, controls: np.ndarray, frames: int) -> None:
        """Do what MujocoEnv.do_simulation does."""
        self._ctrl[row_index(rows, len(self._ctrl))] = controls
        self._batch.step(self._ids(rows), frames)
        if self._data is None:
            return
        # mj_step leaves contact forces out, and a batch has no other function to call on its rows.
        get_data, post, model, data = self._batch.get_data, self._post, self._model, self._data
        for row in rows.tolist():
            get_data(row, data)
            post(model, data)
            self.fields["cfrc_ext"][row] = self._contact_forces

    def _ids(self, rows: np.ndarray) -> np.ndarray | None:
        return None if len(rows) == len(self._ctrl) else rows

    def close(self) -> None:
        self._batch = None


class _ThreadedPhysics:
    """The same physics with older MuJoCos: `mj_step`, which releases the GIL, on Python threads."""

    def __init__(self, model: Any, starts: Mapping[str, np.ndarray], num_threads: int, fields: Sequence[str]) -> None:
        import mujoco

        self._mujoco, self._model = mujoco, model
        self._starts = {name: starts[name] for name in ("qpos", "qvel")}
        self._own = {name: starts[name] for name in starts.keys() - self._starts.keys()}
        self._models = threading.local()
        count = len(starts["qpos"])
        self._data = [mujoco.MjData(model) for _ in range(count)]
        self._ctrl = [data.ctrl for data in self._data]
        self.fields = {
            name: np.zeros((count, *getattr(self._data[0], name).shape)) for name in {*fields, *self._starts}
        }
        self._views = [
            [(array[row], getattr(data, name)) for name, array in self.fields.items()]
            for row, data in enumerate(self._data)
        ]
        self._contacts = "cfrc_ext" in fields
        self._threads = Threads(num_threads)

    def _model_of(self, row: int) -> Any:
        """Return a model with the fields of a row, which only this thread uses."""
        if not self._own:
            return self._model
        if not hasattr(self._models, "model"):
            self._models.model = model = copy.copy(self._model)
            self._models.views = [(values, getattr(model, name)) for name, values in self._own.items()]
        for values, view in self._models.views:
            view[:] = values[row]
        return self._models.model

    def reset(self) -> None:
        def reset(row: int) -> None:
            data, model = self._data[row], self._model_of(row)
            self._mujoco.mj_resetData(model, data)
            data.qpos[:], data.qvel[:] = self._starts["qpos"][row], self._starts["qvel"][row]
            self._mujoco.mj_forward(model, data)
            self._read(row)

        self._threads(reset, np.arange(len(self._data)))

    def set_velocities(self, rows: np.ndarray, velocities: np.ndarray) -> None:
        velocities_of = dict(zip(rows.tolist(), velocities, strict=True))

        def forward(row: int) -> None:
            self._data[row].qvel[:] = velocities_of[row]
            self._mujoco.mj_forward(self._model_of(row), self._data[row])

        self._threads(forward, rows)

    def step(self, rows: np.ndarray, controls: np.ndarray, frames: int) -> None:
        controls_of = dict(zip(rows.tolist(), controls, strict=True))
        mj_step, post = self._mujoco.mj_step, self._mujoco.mj_rnePostConstraint

        def step(row: int) -> None:
            data, model = self._data[row], self._model_of(row)
            self._ctrl[row][:] = controls_of[row]
            mj_step(model, data, frames)
            if self._contacts:
                post(model, data)
            self._read(row)

        self._threads(step, rows)

    def _read(self, row: int) -> None:
        for own, view in self._views[row]:
            own[:] = view

    def close(self) -> None:
        self._threads.close()


class _Robot:
    """The task of HalfCheetah; the classes of other robots change what differs."""

    fields: tuple[str, ...] = ("qpos", "qvel")
    changed: ClassVar[tuple[str, ...]] = ()
    place_size: ClassVar[int] = 1
    """How many components of qpos say where the robot is, which an observation leaves out unless it is told to."""
    dt: float
    frame_skip: int

    def __init__(self, env: Any, _: Sequence[str]) -> None:
        self.version = int(type(env).__module__[-1])
        self.dt, self.frame_skip = env.dt, env.frame_skip
        self.skipped: int = self.place_size if env._exclude_current_positions_from_observation else 0
        self.forward_weight: float = self._forward_weight(env)
        self.control_weight: float = env._ctrl_cost_weight
        # Gymnasium multiplies a float by a float32: that is a float32 in NumPy 2, a float64 in NumPy 1.
        self.control_dtype: np.dtype[Any] = (self.control_weight * np.float32(1)).dtype

    def _forward_weight(self, env: Any) -> float:
        return env._forward_reward_weight

    def remember(self) -> None:
        pass

    def act(self, physics: Any, rows: np.ndarray, actions: np.ndarray) -> None:
        physics.step(rows, actions, self.frame_skip)

    def reset(self, state: State) -> np.ndarray:
        self._places = self.place(state)
        return self.observe(state)

    def results(self, state: State, rows: np.ndarray, actions: np.ndarray) -> Results:
        places = self.place(state)
        velocities = (places - self._places[rows]) / self.dt
        self._places[rows] = places
        return self.observe(state), *self.judge(state, velocities, actions), np.full(len(rows), np.nan)

    def place(self, state: State) -> np.ndarray:
        """Return a copy of the robot's position, `[n]`, from which its velocity is computed."""
        return state["qpos"][:, 0].copy()

    def observe(self, state: State) -> np.ndarray:
        """Return the observations `[n, obs]`, a copy."""
        return np.concatenate((state["qpos"][:, self.skipped :], state["qvel"]), axis=1)

    def judge(self, state: State, velocities: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return `[n]` rewards and `[n]` terminations."""
        rewards = self.forward_weight * velocities - self._costs(state, actions)
        return rewards, np.zeros(len(rewards), bool)

    def _costs(self, state: State, actions: np.ndarray) -> np.ndarray:
        squares = np.square(actions).sum(axis=1)  # float32, as actions are
        return np.multiply(self.control_weight, squares, dtype=self.control_dtype)


class _Upright(_Robot):
    """A robot that is rewarded while it is healthy; by default its episode ends when it is not."""

    def __init__(self, env: Any, parts: Sequence[str]) -> None:
        super().__init__(env, parts)
        self.healthy_reward, self.terminate = env._healthy_reward, env._terminate_when_unhealthy
        self.z_range = env._healthy_z_range

    def judge(self, state: State, velocities: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        healthy = self._healthy(state)
        # Version 4 rewards the step that ends an episode too.
        rewarded = np.ones_like(healthy) if self.version == 4 and self.terminate else healthy
        rewards = self.forward_weight * velocities + rewarded * self.healthy_reward - self._costs(state, actions)
        return rewards, ~healthy if self.terminate else np.zeros_like(healthy)

    def _healthy(self, state: State) -> np.ndarray:
        raise NotImplementedError


class _Walker2d(_Upright):
    def __init__(self, env: Any, parts: Sequence[str]) -> None:
        super().__init__(env, parts)
        # Bounds of the columns that `_judged` returns.
        self.low, self.high = np.array([self.z_range, env._healthy_angle_range]).T

    def observe(self, state: State) -> np.ndarray:
        observations = super().observe(state)
        velocities = observations[:, -state["qvel"].shape[1] :]
        np.minimum(np.maximum(velocities, -10, out=velocities), 10, out=velocities)
        return observations

    def _judged(self, state: State) -> np.ndarray:
        return state["qpos"][:, 1:3]

    def _healthy(self, state: State) -> np.ndarray:
        values = self._judged(state)
        return ((self.low < values) & (values < self.high)).all(axis=1)


class _Hopper(_Walker2d):
    def __init__(self, env: Any, parts: Sequence[str]) -> None:
        super().__init__(env, parts)
        # All but x and z, also the angle, have their own bounds.
        low, high = env._healthy_state_range
        rest = env.model.nq + env.model.nv - 3
        self.low = np.array([self.low[0], max(self.low[1], low), *[low] * rest])
        self.high = np.array([self.high[0], min(self.high[1], high), *[high] * rest])

    def _judged(self, state: State) -> np.ndarray:
        return np.concatenate((state["qpos"][:, 1:], state["qvel"]), axis=1)


class _Ant(_Upright):
    place_size = 2

    def __init__(self, env: Any, parts: Sequence[str]) -> None:
        super().__init__(env, parts)
        # In version 5 contact forces always have a cost, and observations may lack them.
        version = self.version
        self.contacts_cost = version == 5 or env._use_contact_forces
        self.contacts_seen = env._include_cfrc_ext_in_observation if version == 5 else env._use_contact_forces
        self.first_seen = 1 if version == 5 else 0  # body 0 is the world
        self.contact_weight, self.contact_range = env._contact_cost_weight, env._contact_force_range
        self.body = env.model.body(env._main_body if version == 5 else "torso").id
        self.fields = ("qpos", "qvel", "xpos", *(["cfrc_ext"] if self.contacts_cost else []))

    def _forward_weight(self, env: Any) -> float:
        return super()._forward_weight(env) if self.version == 5 else 1

    def place(self, state: State) -> np.ndarray:
        return state["xpos"][:, self.body, 0].copy()

    def observe(self, state: State) -> np.ndarray:
        observations = super().observe(state)
        if not self.contacts_seen:
            return observations
        forces = self._contact_forces(state)[:, self.first_seen :]
        return np.concatenate((observations, forces.reshape(len(forces), -1)), axis=1)

    def _contact_forces(self, state: State) -> np.ndarray:
        low, high = self.contact_range
        return np.clip(state["cfrc_ext"], low, high)

    def _costs(self, state: State, actions: np.ndarray) -> np.ndarray:
        costs = super()._costs(state, actions)
        if not self.contacts_cost:
            return costs
        squares = np.square(self._contact_forces(state))
        return costs + self.contact_weight * squares.reshape(len(squares), -1).sum(axis=1)

    def _healthy(self, state: State) -> np.ndarray:
        (low, high), z = self.z_range, state["qpos"][:, 2]
        finite = np.isfinite(state["qpos"]).all(axis=1) & np.isfinite(state["qvel"]).all(axis=1)
        return finite & (low <= z) & (z <= high)


class Task(Protocol):
    """What an environment computes around the physics: made from an unwrapped one and the parts of its observations.

    A `state` has the `fields` of MjData of n rows, `[n, ...]`, views of what the next step overwrites.
    """

    @property
    def fields(self) -> Sequence[str]: ...

    @property
    def changed(self) -> Sequence[str]:
        """Fields of the model that a reset changes."""

    def remember(self) -> None:
        """Keep what a reset of the environment has just drawn for the next row, physics aside."""

    def reset(self, state: State) -> np.ndarray:
        """Begin an episode in all rows; return a copy of the observations, `[n, obs]`."""

    def act(self, physics: Any, rows: np.ndarray, actions: np.ndarray) -> None:
        """Step the physics of the sorted `rows`."""

    def results(self, state: State, rows: np.ndarray, actions: np.ndarray) -> Results:
        """Return what a step of these rows leads to; `state` has them alone."""


_TASKS: dict[str, Callable[[Any, Sequence[str]], Task]] = TASKS | {
    f"gymnasium.envs.mujoco.{name}_v{version}:{entry}": robot
    for version in (4, 5)
    for name, entry, robot in (
        ("hopper", "HopperEnv", _Hopper),
        ("walker2d", "Walker2dEnv", _Walker2d),
        ("half_cheetah", "HalfCheetahEnv", _Robot),
        ("ant", "AntEnv", _Ant),
    )
}


class NativeRows:
    """Rows of one of the environments in `_TASKS`, stepped without Gymnasium; `native_rows` makes it."""

    def __init__(self, base: Any, task: Task, time_limit: float, seeds: Sequence[int], num_threads: int) -> None:
        self.num_threads: int = min(num_threads, len(seeds))
        self._task, self._time_limit = task, time_limit
        self._physics = _physics(base.model, _starts(base, task, seeds), self.num_threads, task.fields)
        self._lengths = np.zeros(len(seeds), np.int64)

    def reset(self) -> np.ndarray:
        self._physics.reset()
        self._lengths[:] = 0
        return self._task.reset(self._physics.fields)

    def step(self, rows: np.ndarray, actions: np.ndarray) -> StepResult:
        """Step `rows`; `actions` are float32, like the environments' action spaces."""
        state = self._physics.fields
        self._task.act(self._physics, rows, actions)
        if len(rows) < len(self._lengths):
            state = {name: values[rows] for name, values in state.items()}
        observations, rewards, terminated, successes = self._task.results(state, rows, actions)
        self._lengths[rows] += 1
        return observations, rewards, terminated, self._lengths[rows] >= self._time_limit, successes

    def close(self) -> None:
        self._physics.close()


def _starts(base: Any, task: Task, seeds: Sequence[int]) -> dict[str, np.ndarray]:
    """Reset the environment with each seed; return what `_BatchPhysics` starts from."""
    found: dict[str, list[np.ndarray]] = {name: [] for name in ("qpos", "qvel", *task.changed)}
    for seed in seeds:
        base.reset(seed=seed)
        task.remember()
        for name, values in found.items():
            values.append(getattr(base.model if name in task.changed else base.data, name).copy())
    return {name: np.stack(values) for name, values in found.items()}


def _physics(*arguments: Any) -> _BatchPhysics | _ThreadedPhysics:
    try:
        return _BatchPhysics(*arguments)
    except ImportError:
        return _ThreadedPhysics(*arguments)


def native_rows(
    env: Any, seeds: Sequence[int], num_threads: int, flattener: Flattener | None = None
) -> NativeRows | None:
    """Make a row like `env` (from `gymnasium.make`) per reset seed; return None if only Gymnasium can step them.

    `flattener` is of dictionary observations. The first row is compared with `env` over a few steps. If they differ,
    for example with a new release of Gymnasium or MuJoCo, this function warns and returns None.
    """
    supported = _supported(env)
    if supported is None:
        return None
    make, time_limit = supported
    rows = None
    try:
        parts = [] if flattener is None else [name for name, _ in flattener.parts]
        rows = NativeRows(env.unwrapped, make(env.unwrapped, parts), time_limit, seeds, num_threads)
        difference = _difference(rows, env, seeds[0], flattener)
    except AttributeError as error:  # Gymnasium's settings are private attributes
        difference = str(error)
    if difference is None:
        return rows
    if rows is not None:
        rows.close()
    warnings.warn(
        f"{env.spec.id} is not stepped natively but by Gymnasium, at a fraction of the speed: {difference}",
        stacklevel=4,
    )
    return None


def _supported(env: Any) -> tuple[Callable[[Any, Sequence[str]], Task], float] | None:
    """Find the task and time limit of an environment made as it is registered; else return None."""
    from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit

    base = env.unwrapped
    task = _TASKS.get(f"{type(base).__module__}:{type(base).__qualname__}")
    if task is None or base.render_mode is not None:
        return None
    time_limit = math.inf
    while env is not base:
        if type(env) is TimeLimit:
            time_limit = min(time_limit, env._max_episode_steps)
        elif type(env) not in (OrderEnforcing, PassiveEnvChecker):
            return None
        env = env.env
    return task, time_limit


def _difference(rows: NativeRows, env: Any, seed: int, flattener: Flattener | None) -> str | None:
    """Say what differs between the first row and `env`, both reset with `seed`; return None if nothing does."""

    def flat(observation: Any) -> np.ndarray:
        if flattener is None:
            return observation
        vector = np.full(flattener.size, np.nan)
        flattener(observation, vector)
        return vector

    observation, _ = env.reset(seed=seed)
    if not np.array_equal(rows.reset()[0], flat(observation)):
        return "it starts elsewhere"
    random = np.random.default_rng(0)
    names = ("observation", "reward", "termination", "time limit", "success")
    for step in range(1, _COMPARED_STEPS + 1):
        action = random.uniform(-1, 1, env.action_space.shape).astype(env.action_space.dtype)
        ours = rows.step(np.arange(1), action[None])
        observation, *judged, info = env.step(action)
        theirs = flat(observation), *judged, success_of(info)
        for name, own, its in zip(names, ours, theirs, strict=True):
            if not np.array_equal(own[0], np.asarray(its, np.float64), equal_nan=True):
                return f"its {name} differs in step {step}"
        if ours[2][0] or ours[3][0]:
            break
    return None
