"""A tiny goal environment, and what it makes: dictionaries in an order that nobody sorted."""

from collections import OrderedDict

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Dict

POINT = Box(-np.inf, np.inf, (2,), np.float64)


class Reach(gymnasium.Env):
    """Move a point to a goal: its space is an OrderedDict, which Gymnasium does not sort, and nested."""

    action_space = Box(-1.0, 1.0, (2,), np.float32)

    def __init__(self, goal_width: int = 2, places: bool = True):
        """Make it; without `places` an observation does not say where the point is, only `achieved_goal` does."""
        self.places = places
        goal = Box(-np.inf, np.inf, (goal_width,), np.float64)
        parts = [
            ("observation", Box(-np.inf, np.inf, (4 if places else 2,), np.float64)),
            ("desired_goal", Dict(OrderedDict([("place", goal), ("height", Box(-1, 1, (), np.float64))]))),
            ("achieved_goal", POINT),
        ]
        self.observation_space = Dict(OrderedDict(parts))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.point, self.velocity = self.np_random.uniform(-1, 1, (2, 2))
        self.goal = self.np_random.uniform(-1, 1, self.observation_space["desired_goal"]["place"].shape)
        return self._observation(), {}

    def step(self, action):
        self.velocity = 0.5 * self.velocity + np.asarray(action, np.float64)
        self.point = self.point + 0.1 * self.velocity
        return self._observation(), -float(np.linalg.norm(self.point)), False, False, {}

    def _observation(self):
        seen = np.concatenate([self.velocity, self.point]) if self.places else self.velocity
        goal = {"place": self.goal.copy(), "height": np.array(self.point[0])}
        return {"achieved_goal": self.point.copy(), "observation": seen.copy(), "desired_goal": goal}


def stacked(observations):
    """Join the observations of an episode as Minari has them: dictionaries of arrays, in the first one's order."""
    first = observations[0]
    if not isinstance(first, dict):
        return np.array(observations)
    return {key: stacked([one[key] for one in observations]) for key in first}


def play(env, steps, seed=0):
    """Play an episode with random actions; return it in Minari's form."""
    observation, _ = env.reset(seed=seed)
    env.action_space.seed(seed)
    rows, observations = [], [observation]
    for _ in range(steps):
        action = env.action_space.sample()
        observation, reward, terminated, truncated, _ = env.step(action)
        observations.append(observation)
        rows.append((action, reward, terminated, truncated))
        if terminated or truncated:
            break
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    names = ("actions", "rewards", "terminations", "truncations")
    return {"observations": stacked(observations), **dict(zip(names, columns, strict=True))}
