"""Make D4RL's AntMaze, Maze2D, Adroit and Kitchen tasks of the robots of Gymnasium-Robotics.

Gymnasium-Robotics took over D4RL's robots, and changed the tasks: observations, rewards, starts, goals and limits are
others. Here they are D4RL's, as the code of d4rl 1.1 has them:

| task | what is not as in Gymnasium-Robotics |
| --- | --- |
| AntMaze | observation x, y and 27 numbers of the ant, no goal; origin at the start, y grows with the maze's rows; steps of 0.02 s, motors of 30 N m, softer contacts; the goal within 0.5 gives 1 and ends the episode |
| Maze2D | observation x, y and velocities, no goal; x along the maze's rows; the goal is fixed, within 0.5 |
| Adroit | the first term of the dense reward of door, hammer and relocate has the sign of D4RL's (since 1.2.1 it has the other one there); a dropped pen ends the episode |
| Kitchen | observation of 9 joints, 21 of the objects and the goal (30), with noise of 0.1 x an amplitude; tasks are judged by what is observed |

`reset(seed=...)` decides all that is drawn, where D4RL draws AntMaze's goals from NumPy's global generator. AntMaze's
v0 and v1 draw one goal for all episodes of an environment there; here, as in v2, each episode has its own.
"""  # noqa: E501

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
from gymnasium.spaces import Box

from rlrat.environments.d4rl import MAZES
from rlrat.environments.making import make

_METADATA = {"render_modes": ["human", "rgb_array", "depth_array"]}
_GOAL_RADIUS = 0.5

_Result = tuple[np.ndarray, dict[str, Any]]
_Step = tuple[np.ndarray, float, bool, bool, dict[str, Any]]


def _observations(size: int) -> Box:
    return Box(-np.inf, np.inf, (size,), np.float64)


def _actions(size: int) -> Box:
    return Box(-1.0, 1.0, (size,), np.float32)


class _Task(gymnasium.Env):
    """A task of D4RL's in the place of that of an environment of Gymnasium-Robotics, `robotics`, which is drawn."""

    is_mujoco: ClassVar[bool] = True  # steps of several may run at once

    def __init__(self, env_id: str, render_mode: str | None, **kwargs: Any) -> None:
        self.robotics: Any = make(env_id, {**kwargs, "render_mode": render_mode}).unwrapped  # without its time limit
        self.render_mode = render_mode

    def render(self) -> Any:
        return self.robotics.render()

    def close(self) -> None:
        self.robotics.close()


def _seen(data: Any, origin: np.ndarray) -> np.ndarray:
    """Return positions and velocities, with x and y from an origin."""
    observation = np.concatenate([data.qpos, data.qvel])
    observation[:2] -= origin
    return observation


class AntMaze(_Task):
    """Let an ant walk from a maze's first cell to a goal (Fu et al. 2020); the reward is 1 there, and 0 before."""

    metadata: ClassVar[dict[str, Any]] = {**_METADATA, "render_fps": 10}
    _CELL = 4.0  # width

    def __init__(self, maze: str, goal: Sequence[int], render_mode: str | None = None) -> None:
        # Gymnasium-Robotics' y falls with the rows, D4RL's grows.
        rows = MAZES[maze][::-1]
        walls = [[int(cell == "#") for cell in row] for row in rows]
        super().__init__("AntMaze_UMaze-v5", render_mode, maze_map=walls)
        self.observation_space: gymnasium.spaces.Box = _observations(29)
        self.action_space: gymnasium.spaces.Box = _actions(8)
        self._ant = self.robotics.ant_env
        model = self._ant.model
        model.opt.timestep = 0.02
        model.actuator_gear[:, 0] = 30.0
        model.geom_solimp[:, :3] = 0.8, 0.8, 0.01
        # From the middle of the maze to that of its second cell of the second row, where D4RL's origin is.
        self._origin = self._CELL * (1.5 - np.array([len(rows[0]), len(rows)]) / 2)
        self._goal_cell = self._CELL * (np.array(goal[::-1]) - 1.0)
        self.goal: np.ndarray = self._goal_cell

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> _Result:
        super().reset(seed=seed)
        random, model = self.np_random, self._ant.model
        noise = self._CELL * 0.25 * (random.uniform(0.0, 1.0, 2) + random.uniform(0.0, 0.5, 2))
        self.goal = np.maximum(self._goal_cell + noise, 0.0)
        positions = model.qpos0.copy()
        positions[:2] = self._origin
        positions += random.uniform(-0.1, 0.1, model.nq)
        mujoco.mj_resetData(model, self._ant.data)
        self._ant.set_state(positions, 0.1 * random.standard_normal(model.nv))
        return _seen(self._ant.data, self._origin), {"success": False}

    def step(self, action: np.ndarray) -> _Step:
        self._ant.do_simulation(np.clip(action, -1.0, 1.0), 5)
        observation = _seen(self._ant.data, self._origin)
        there = bool(np.linalg.norm(observation[:2] - self.goal) <= _GOAL_RADIUS)
        return observation, float(there), there, False, {"success": there}


class Maze2D(_Task):
    """Push a ball to a maze's goal and keep it there: episodes never end (Fu et al. 2020).

    The reward is 1 within 0.5 of the goal, else 0; `dense`, exp(-distance).
    """

    metadata: ClassVar[dict[str, Any]] = {**_METADATA, "render_fps": 100}

    def __init__(self, maze: str, goal: Sequence[int], dense: bool, render_mode: str | None = None) -> None:
        rows = MAZES[maze]
        # x grows along D4RL's rows and y along its columns; in Gymnasium-Robotics x along columns, y against rows.
        walls = [[int(row[column] == "#") for row in rows] for column in reversed(range(len(rows[0])))]
        super().__init__("PointMaze_UMaze-v3", render_mode, maze_map=walls)
        self.observation_space: gymnasium.spaces.Box = _observations(4)
        self.action_space: gymnasium.spaces.Box = _actions(2)
        self._ball, self._dense = self.robotics.point_env, dense
        # D4RL's ball starts at 1.2 and a cell's middle is at its number + 1; both are 0 here, in the maze's middle.
        self._origin = 0.7 - np.array([len(rows), len(rows[0])]) / 2
        self.goal: np.ndarray = np.array(goal, np.float64)
        free = np.argwhere([[cell != "#" for cell in row] for row in rows])
        self._starts = free.astype(np.float64)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> _Result:
        super().reset(seed=seed)
        random = self.np_random
        start = self._starts[random.integers(len(self._starts))] + random.uniform(-0.1, 0.1, 2)
        mujoco.mj_resetData(self._ball.model, self._ball.data)
        self._ball.set_state(start + self._origin, 0.1 * random.standard_normal(2))
        observation = _seen(self._ball.data, self._origin)
        return observation, {"success": self._is_there(observation)}

    def step(self, action: np.ndarray) -> _Step:
        self._ball.step(action)  # limits actions to 1 and, before it moves, velocities to 5
        observation = _seen(self._ball.data, self._origin)
        there = self._is_there(observation)
        reward = float(np.exp(-np.linalg.norm(observation[:2] - self.goal))) if self._dense else float(there)
        return observation, reward, False, False, {"success": there}

    def _is_there(self, observation: np.ndarray) -> bool:
        return bool(np.linalg.norm(observation[:2] - self.goal) <= _GOAL_RADIUS)


class Adroit(_Task):
    """Turn a pen, open a door, hammer a nail or relocate a ball with a hand (Rajeswaran et al. 2018).

    Model, observations and starts are those of Gymnasium-Robotics, bit by bit; rewards and ends are D4RL's.
    """

    metadata: ClassVar[dict[str, Any]] = {**_METADATA, "render_fps": 100}

    def __init__(self, task: str, render_mode: str | None = None) -> None:
        super().__init__(f"AdroitHand{task.capitalize()}-v1", render_mode)
        self._hand = self.robotics
        self.observation_space: gymnasium.Space[Any] = self._hand.observation_space
        self.action_space: gymnasium.Space[Any] = self._hand.action_space
        self._task = task
        self._reward = {"pen": self._pen, "door": self._door, "hammer": self._hammer, "relocate": self._relocate}[task]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> _Result:
        super().reset(seed=seed)
        return self._hand.reset(seed=seed)

    def step(self, action: np.ndarray) -> _Step:
        observation, *_, info = self._hand.step(action)
        dropped = self._task == "pen" and bool(observation[26] < 0.075)
        reward = float(self._reward(observation)) - 5.0 * dropped
        return observation, reward, dropped, False, {"success": bool(info["success"])}

    @staticmethod
    def _pen(observation: np.ndarray) -> float:
        distance, alike = np.linalg.norm(observation[39:42]), observation[33:36] @ observation[36:39]
        close = distance < 0.075
        return alike - distance + 10.0 * (close and alike > 0.9) + 50.0 * (close and alike > 0.95)

    def _door(self, observation: np.ndarray) -> float:
        angle, palm_to_handle = observation[28], observation[35:38]
        reward = -0.1 * np.linalg.norm(palm_to_handle) - 0.1 * (angle - 1.57) ** 2
        reward -= 1e-5 * np.square(self._hand.data.qvel).sum()
        return reward + 2.0 * (angle > 0.2) + 8.0 * (angle > 1.0) + 10.0 * (angle > 1.35)

    def _hammer(self, observation: np.ndarray) -> float:
        data = self._hand.data
        palm, hammer, nail = observation[33:36], observation[36:39], observation[42:45]
        head, depth = data.site("tool").xpos, np.linalg.norm(nail - data.site("nail_goal").xpos)
        reward = -0.1 * np.linalg.norm(palm - hammer) - np.linalg.norm(head - nail) - 10.0 * depth
        reward -= 1e-2 * np.linalg.norm(data.qvel)
        lifted = hammer[2] > 0.04 and head[2] > 0.04
        return reward + 2.0 * lifted + 25.0 * (depth < 0.02) + 75.0 * (depth < 0.01)

    def _relocate(self, observation: np.ndarray) -> float:
        to_ball, to_target, left = (np.linalg.norm(part) for part in np.split(observation[30:], 3))
        reward = -0.1 * to_ball
        if self._hand.data.body("Object").xpos[2] > 0.04:
            reward += 1.0 - 0.5 * to_target - 0.5 * left
        return reward + 10.0 * (left < 0.1) + 20.0 * (left < 0.05)


class Kitchen(_Task):
    """Do four tasks in a kitchen with a Franka arm (Gupta et al. 2019): the reward is the number that a step does."""

    metadata: ClassVar[dict[str, Any]] = {**_METADATA, "render_fps": 12}
    _NOISE = 0.1
    # Of the objects' joints, as d4rl's franka_config.xml has them from the tenth on.
    _AMPLITUDES: ClassVar = np.repeat([0.005, 0.0005, 0.005, 0.1, 0.005, 0.1, 0.005], [2, 6, 3, 3, 3, 3, 1])
    _NEAR = 0.3
    _GOALS: ClassVar = {
        "bottom burner": ((11, 12), (-0.88, -0.01)),
        "light switch": ((17, 18), (-0.69, -0.05)),
        "slide cabinet": ((19,), (0.37,)),
        "microwave": ((22,), (-0.75,)),
        "kettle": ((23, 24, 25, 26, 27, 28, 29), (-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06)),
    }

    def __init__(self, tasks: Sequence[str], render_mode: str | None = None) -> None:
        settings = {"robot_noise_ratio": self._NOISE, "tasks_to_complete": list(tasks)}
        super().__init__("FrankaKitchen-v1", render_mode, **settings)
        self.observation_space: gymnasium.spaces.Box = _observations(60)
        self.action_space: gymnasium.spaces.Box = _actions(9)
        self._arm = self.robotics.robot_env
        model = self._arm.model
        # The arm's pedestal, through which D4RL's robot can pass.
        pedestal = (model.geom_type == mujoco.mjtGeom.mjGEOM_CYLINDER.value) & (model.geom_size[:, 1] == 0.9)
        model.geom_contype[pedestal] = model.geom_conaffinity[pedestal] = 0
        self._tasks, self._left = tuple(tasks), set(tasks)
        self._goal = np.zeros(30)
        for task in tasks:
            joints, values = self._GOALS[task]
            self._goal[list(joints)] = values

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> _Result:
        super().reset(seed=seed)
        self._left = set(self._tasks)
        return self._observe(self._arm.reset(seed=seed)[0]), {"success": 0.0}

    def step(self, action: np.ndarray) -> _Step:
        observation = self._observe(self._arm.step(action)[0])
        done = [task for task in self._left if self._is_done(task, observation)]
        self._left.difference_update(done)
        share = 1 - len(self._left) / len(self._tasks)
        return observation, float(len(done)), not self._left, False, {"success": share}

    def _observe(self, arm: np.ndarray) -> np.ndarray:
        noise = self._NOISE * self._AMPLITUDES * self._arm.np_random.uniform(-1.0, 1.0, 21)
        return np.concatenate([arm[:9], self._arm.data.qpos[9:] + noise, self._goal])

    def _is_done(self, task: str, observation: np.ndarray) -> bool:
        joints = list(self._GOALS[task][0])
        return bool(np.linalg.norm(observation[joints] - self._goal[joints]) < self._NEAR)
