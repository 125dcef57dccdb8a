"""Compute what gymnasium-robotics' mazes and Adroit hands return, for many rows at once.

The classes of `TASKS` are each a `stepping.Task`: observations, rewards, terminations and successes from the
physics, with the order and precision of operations of gymnasium-robotics, so that every number is the same bit for bit.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

State = Mapping[str, np.ndarray]
Results = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Observations, rewards, terminations and successes (NaN where the environment says nothing) of n rows."""

_SPEED_LIMIT = 5.0  # of a point, as in its environment
_REACHED = 0.45  # distance from a maze's goal


def _dots(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Multiply the rows of `[n, k]` arrays, each pair as `np.dot` does: sums over an axis are rounded otherwise."""
    a, b = _aligned(a), _aligned(b)
    if hasattr(np, "vecdot"):  # since NumPy 2
        return np.vecdot(a, b)
    return np.array([own.dot(other) for own, other in zip(a, b, strict=True)])


def _aligned(vectors: np.ndarray) -> np.ndarray:
    """Let rows start at multiples of 16 bytes, as arrays do: NumPy 1.26 rounds dot products otherwise elsewhere."""
    count, size = vectors.shape
    aligned = np.empty((count, size + size % 2))[:, :size]
    aligned[:] = vectors
    return aligned


def _norms(vectors: np.ndarray) -> np.ndarray:
    """Return the lengths of the rows of `[n, k]` as `np.linalg.norm` computes that of one vector."""
    return np.sqrt(_dots(vectors, vectors))


class _Maze:
    """A maze with a point or an Ant, and its goals."""

    fields: tuple[str, ...] = ("qpos", "qvel")
    changed: ClassVar[tuple[str, ...]] = ()

    def __init__(self, base: Any, parts: Sequence[str]) -> None:
        self._base, self._parts = base, parts
        self._robot = self._robot_of(base)
        self.frame_skip: int = self._robot.frame_skip
        self._dense: bool = base.reward_type == "dense"
        self._episodic: bool = not base.continuing_task
        self._moves_goals = base.continuing_task and self._may_move_goals()
        self._first_goals: list[np.ndarray] = []
        self._first_generators: list[np.random.Generator] = []

    def _robot_of(self, base: Any) -> Any:
        raise NotImplementedError

    def _may_move_goals(self) -> bool:
        return self._base.reset_target

    def _robot_observations(self, state: State) -> np.ndarray:
        """Return what the robot's own environment observes, a copy."""
        return np.concatenate((state["qpos"], state["qvel"]), axis=1)

    def remember(self) -> None:
        self._first_goals.append(self._base.goal.copy())
        if self._moves_goals:
            self._first_generators.append(copy.deepcopy(self._base.np_random))

    def reset(self, state: State) -> np.ndarray:
        self._goals = np.stack(self._first_goals)
        self._generators = copy.deepcopy(self._first_generators)
        return self._observe(self._robot_observations(state), self._goals)

    def _observe(self, observations: np.ndarray, goals: np.ndarray) -> np.ndarray:
        found = {"achieved_goal": observations[:, :2], "desired_goal": goals, "observation": self._rest(observations)}
        return np.concatenate([found[part] for part in self._parts], axis=1)

    def _rest(self, observations: np.ndarray) -> np.ndarray:
        return observations

    def act(self, physics: Any, rows: np.ndarray, actions: np.ndarray) -> None:
        physics.step(rows, actions, self.frame_skip)

    def results(self, state: State, rows: np.ndarray, actions: np.ndarray) -> Results:
        observations, goals = self._robot_observations(state), self._goals[rows]
        places = observations[:, :2]
        reached = _norms(places - goals) <= _REACHED
        found = self._observe(observations, goals)
        rewards, successes = self._judge(places, goals, reached, rows)
        return found, rewards, reached & self._episodic, successes

    def _judge(
        self, places: np.ndarray, goals: np.ndarray, reached: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return rewards and successes; move the goals that are reached."""
        rewards = self._rewards(places, goals)
        if self._moves_goals:
            self._move_goals(reached, places, rows)
        return rewards, reached.astype(np.float64)

    def _rewards(self, places: np.ndarray, goals: np.ndarray) -> np.ndarray:
        distances = np.linalg.norm(places - goals, axis=-1)
        return np.exp(-distances) if self._dense else (distances <= _REACHED).astype(np.float64)

    def _move_goals(self, reached: np.ndarray, places: np.ndarray, rows: np.ndarray) -> None:
        """Let the environment draw other goals where they are reached, with the generators of the rows' episodes."""
        base = self._base
        kept = base.goal, base.np_random
        for index in np.flatnonzero(reached).tolist():
            row = rows[index]
            base.goal, base.np_random = self._goals[row].copy(), self._generators[row]
            self._move_goal(places[index])
            self._goals[row] = base.goal
        base.goal, base.np_random = kept

    def _move_goal(self, place: np.ndarray) -> None:
        self._base.update_goal(place)


class _PointMaze(_Maze):
    def _robot_of(self, base: Any) -> Any:
        return base.point_env

    def act(self, physics: Any, rows: np.ndarray, actions: np.ndarray) -> None:
        physics.set_velocities(rows, np.clip(physics.fields["qvel"][rows], -_SPEED_LIMIT, _SPEED_LIMIT))
        physics.step(rows, np.clip(actions, -1.0, 1.0), self.frame_skip)


class _AntMaze(_Maze):
    first_seen = 0
    """The first body whose contact forces are seen; version 5 leaves out body 0, the world."""

    def __init__(self, base: Any, parts: Sequence[str]) -> None:
        super().__init__(base, parts)
        self._range: tuple[float, float] | None = None
        if self._contacts_seen():
            self._range = self._robot._contact_force_range
            self.fields = ("qpos", "qvel", "cfrc_ext")

    def _robot_of(self, base: Any) -> Any:
        return base.ant_env

    def _contacts_seen(self) -> bool:
        return self._robot._use_contact_forces

    def _robot_observations(self, state: State) -> np.ndarray:
        observations = super()._robot_observations(state)
        if self._range is None:
            return observations
        forces = np.clip(state["cfrc_ext"][:, self.first_seen :], *self._range)
        return np.concatenate((observations, forces.reshape(len(forces), -1)), axis=1)

    def _rest(self, observations: np.ndarray) -> np.ndarray:
        return observations[:, 2:]


class _AntMazeV3(_AntMaze):
    """Version 3 moves a goal before it computes the reward, and says nothing of success."""

    def _may_move_goals(self) -> bool:
        return True

    def _judge(
        self, places: np.ndarray, goals: np.ndarray, reached: np.ndarray, rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        super()._judge(places, goals, reached, rows)
        return self._rewards(places, self._goals[rows]), np.full(len(rows), np.nan)

    def _move_goal(self, place: np.ndarray) -> None:
        self._base.compute_terminated(place, self._base.goal, {})


class _AntMazeV5(_AntMaze):
    first_seen = 1

    def _contacts_seen(self) -> bool:
        return self._robot._include_cfrc_ext_in_observation


class _Adroit:
    """What the hands have in common; the classes of the four change what differs."""

    fields: ClassVar[tuple[str, ...]] = ("qpos", "qvel", "xpos", "site_xpos")
    changed: ClassVar[tuple[str, ...]] = ("body_pos",)

    def __init__(self, base: Any, parts: Sequence[str]) -> None:
        self._base = base
        self.frame_skip: int = base.frame_skip
        self._sparse: bool = base.sparse_reward

    def remember(self) -> None:
        pass

    def act(self, physics: Any, rows: np.ndarray, actions: np.ndarray) -> None:
        controls = self._base.act_mean + np.clip(actions, -1.0, 1.0) * self._base.act_rng
        physics.step(rows, controls, self.frame_skip)

    def reset(self, state: State) -> np.ndarray:
        return self._observe(state, np.arange(len(state["qpos"])))

    def results(self, state: State, rows: np.ndarray, actions: np.ndarray) -> Results:
        achieved, rewards = self._judge(state, rows)
        if self._sparse:
            rewards = np.where(achieved, 10.0, -0.1)
        return self._observe(state, rows), rewards, np.zeros(len(rows), bool), achieved.astype(np.float64)

    def _observe(self, state: State, rows: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _judge(self, state: State, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return whether the task is achieved, and the dense rewards."""
        raise NotImplementedError


class _Door(_Adroit):
    fields = ("qpos", "qvel", "site_xpos")

    def _places(self, state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sites, base = state["site_xpos"], self._base
        return sites[:, base.grasp_site_id], sites[:, base.handle_site_id], state["qpos"][:, base.door_hinge_addrs]

    def _observe(self, state: State, rows: np.ndarray) -> np.ndarray:
        palm, handle, hinge = self._places(state)
        qpos, is_open = state["qpos"], np.where(hinge > 1.0, 1.0, -1.0)
        parts = (qpos[:, 1:-2], qpos[:, -1:], hinge[:, None], palm, handle, palm - handle, is_open[:, None])
        return np.concatenate(parts, axis=1)

    def _judge(self, state: State, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        palm, handle, hinge = self._places(state)
        rewards = 0.1 * _norms(palm - handle)
        rewards += -0.1 * (hinge - 1.57) * (hinge - 1.57)
        rewards += -1e-5 * (state["qvel"] ** 2).sum(axis=1)
        for angle, bonus in ((0.2, 2), (1.0, 8), (1.35, 10)):
            rewards[hinge > angle] += bonus
        return hinge >= 1.35, rewards


class _Hammer(_Adroit):
    fields = ("qpos", "qvel", "xpos", "xquat", "site_xpos", "sensordata")

    def __init__(self, base: Any, parts: Sequence[str]) -> None:
        from gymnasium_robotics.utils.rotations import quat2euler

        super().__init__(base, parts)
        self._angles, self._nail_sensor = quat2euler, base._model_names.sensor_name2id["S_nail"]

    def _observe(self, state: State, rows: np.ndarray) -> np.ndarray:
        base, sites = self._base, state["site_xpos"]
        parts = (
            state["qpos"][:, :-6],
            np.clip(state["qvel"][:, -6:], -1.0, 1.0),
            sites[:, base.S_grasp_site_id],
            state["xpos"][:, base.obj_body_id],
            self._angles(state["xquat"][:, base.obj_body_id]),
            sites[:, base.target_obj_site_id],
            np.clip(state["sensordata"][:, [self._nail_sensor]], -1.0, 1.0),
        )
        return np.concatenate(parts, axis=1)

    def _judge(self, state: State, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        base, sites = self._base, state["site_xpos"]
        hammer, palm, head = (
            state["xpos"][:, base.obj_body_id],
            sites[:, base.S_grasp_site_id],
            sites[:, base.tool_site_id],
        )
        nail, goal = sites[:, base.target_obj_site_id], sites[:, base.goal_site_id]
        distances = _norms(nail - goal)
        rewards = 0.1 * _norms(palm - hammer)
        rewards -= _norms(head - nail)
        rewards -= 10 * distances
        rewards -= 1e-2 * _norms(state["qvel"])
        rewards[(hammer[:, 2] > 0.04) & (head[:, 2] > 0.04)] += 2
        rewards[distances < 0.020] += 25
        rewards[distances < 0.010] += 75
        return distances < 0.01, rewards


class _Pen(_Adroit):
    changed = ("body_quat",)

    def __init__(self, base: Any, parts: Sequence[str]) -> None:
        super().__init__(base, parts)
        self._lengths: list[tuple[float, float]] = []

    def remember(self) -> None:
        self._lengths.append((self._base.pen_length, self._base.tar_length))

    def _places(self, state: State, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return the places of pen and target, then the directions in which they point."""
        base, sites = self._base, state["site_xpos"]
        lengths = np.array(self._lengths)[rows]
        pen = (sites[:, base.obj_t_site_id] - sites[:, base.obj_b_site_id]) / lengths[:, :1]
        target = (sites[:, base.tar_t_site_id] - sites[:, base.tar_b_site_id]) / lengths[:, 1:]
        return state["xpos"][:, base.obj_body_id], sites[:, base.eps_ball_site_id], pen, target

    def _observe(self, state: State, rows: np.ndarray) -> np.ndarray:
        place, target_place, pen, target = self._places(state, rows)
        qpos, qvel = state["qpos"], state["qvel"]
        parts = (qpos[:, :-6], place, qvel[:, -6:], pen, target, place - target_place, pen - target)
        return np.concatenate(parts, axis=1)

    def _judge(self, state: State, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place, target_place, pen, target = self._places(state, rows)
        distances, similarities = _norms(place - target_place), _dots(pen, target)
        near = distances < 0.075
        rewards = -distances + similarities
        rewards[near & (similarities > 0.9)] += 10
        rewards[near & (similarities > 0.95)] += 50
        rewards[place[:, 2] < 0.075] -= 5
        return near & (similarities > 0.95), rewards


class _Relocate(_Adroit):
    fields = ("qpos", "xpos", "site_xpos")
    changed = ("body_pos", "site_pos")

    def _places(self, state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        sites, base = state["site_xpos"], self._base
        return state["xpos"][:, base.obj_body_id], sites[:, base.S_grasp_site_id], sites[:, base.target_obj_site_id]

    def _observe(self, state: State, rows: np.ndarray) -> np.ndarray:
        ball, palm, target = self._places(state)
        return np.concatenate((state["qpos"][:, :-6], palm - ball, palm - target, ball - target), axis=1)

    def _judge(self, state: State, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ball, palm, target = self._places(state)
        distances = _norms(ball - target)
        rewards = 0.1 * _norms(palm - ball)
        lifted = ball[:, 2] > 0.04
        for amount in (1.0, -0.5 * _norms(palm - target), -0.5 * distances):
            np.add(rewards, amount, out=rewards, where=lifted)
        rewards[distances < 0.1] += 10.0
        rewards[distances < 0.05] += 20.0
        return distances < 0.1, rewards


TASKS: dict[str, type[_Maze | _Adroit]] = {
    f"gymnasium_robotics.envs.{name}": task
    for name, task in {
        "maze.point_maze:PointMazeEnv": _PointMaze,
        "maze.ant_maze_v3:AntMazeEnv": _AntMazeV3,
        "maze.ant_maze_v4:AntMazeEnv": _AntMaze,
        "maze.ant_maze_v5:AntMazeEnv": _AntMazeV5,
        "adroit_hand.adroit_door:AdroitHandDoorEnv": _Door,
        "adroit_hand.adroit_hammer:AdroitHandHammerEnv": _Hammer,
        "adroit_hand.adroit_pen:AdroitHandPenEnv": _Pen,
        "adroit_hand.adroit_relocate:AdroitHandRelocateEnv": _Relocate,
    }.items()
}
"""Tasks by the entry points of their environments."""
