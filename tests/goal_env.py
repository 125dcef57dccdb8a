"""A tiny environment that says in one step alone that its goal is reached, scored by success as its name has it."""

import gymnasium
import numpy as np

import rlrat

GOAL_ID = "toy-goal-singletask-v0"
"""Named as OGBench's single-task environments are."""
LIMIT = 6


class GoalEnv(gymnasium.Env):
    """Two thirds of the reset seeds reach the goal, in step `at` (from 1); `says` makes `info` of whether it did."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,))

    def __init__(self, at=3, says=None):
        self.at, self.says = at, says or (lambda reached: {"success": reached})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.step_count, self.reaches = 0, bool(self.np_random.uniform() < 2 / 3)
        return self.np_random.uniform(-1, 1, 2), {}

    def step(self, action):
        self.step_count += 1
        reached = self.reaches and self.step_count == self.at
        return np.zeros(2), float(reached) - 1.0, False, False, self.says(reached)


SPEC = gymnasium.envs.registration.EnvSpec(GOAL_ID, entry_point=GoalEnv, max_episode_steps=LIMIT)


def goal_dataset() -> rlrat.Dataset:
    """Ten episodes of the environment's form."""
    random = np.random.default_rng(0)
    episodes = [
        {
            "observations": random.uniform(-1, 1, (LIMIT + 1, 2)),
            "actions": random.uniform(-1, 1, (LIMIT, 1)),
            "rewards": -np.ones(LIMIT),
            "terminations": np.zeros(LIMIT, bool),
            "truncations": np.arange(LIMIT) == LIMIT - 1,
        }
        for _ in range(10)
    ]
    return rlrat.Dataset.from_episodes(episodes, id="toy-goal", env_id=GOAL_ID)
