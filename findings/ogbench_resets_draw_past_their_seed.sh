#!/usr/bin/env bash
# ogbench 1.2.2, mujoco 4.0.0: reset(seed=...) does not decide an episode. The mazes draw start, goal and, without a
# task, the task from np.random, which nobody seeds, and change the caller's generator. The robot arms make a few steps in
# a reset with actions from self.action_space, a property that makes a new space each time, seeded by the operating
# system: of all this only positions and velocities are put back, so that the solver starts elsewhere and episodes of the
# same seed differ by rounding. info["goal"] differs visibly in both. Gymnasium: "reset(seed=...) ... resets the PRNG".
#
# Seen, of one seed: antmaze-medium-singletask-v0 has 20 starts in 20 resets, nearly 2 m apart, and one where np.random.seed
# is called before; scene-singletask-v0 has 20 to 27 observations after the first step of 40, up to 6e-17 apart; no goal
# comes twice.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet ogbench==1.2.2 mujoco==4.0.0 dm_control==1.0.50 gymnasium==1.4.0 numpy==2.4.6
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import gymnasium
import numpy as np
import ogbench  # registers them

maze = gymnasium.make("antmaze-medium-singletask-v0", disable_env_checker=True)
starts = np.array([maze.reset(seed=3)[0][:2] for _ in range(20)])
seeded = []
for _ in range(20):
    np.random.seed(3)
    seeded.append(maze.reset(seed=3))
np.random.seed(3)
before = np.random.get_state()[2]
maze.reset(seed=3)
places, size = len(np.unique(starts, axis=0)), np.ptp(starts, axis=0)
print(f"antmaze-medium-singletask-v0: {places} starts of 20 with one seed, within {size.round(2)}")
firsts, aims = ({tuple(one) for one in each} for each in zip(*((first, info["goal"]) for first, info in seeded)))
print(f"with np.random.seed: {len(firsts)} start, {len(aims)} goals")

arm = gymnasium.make("scene-singletask-v0", disable_env_checker=True)
seconds, goals = [], set()
for _ in range(40):
    _, info = arm.reset(seed=3)
    goals.add(tuple(info["goal"]))
    seconds.append(arm.step(np.zeros(5, np.float32))[0])
distinct, spread = len(np.unique(seconds, axis=0)), np.ptp(seconds, axis=0).max()
print(f"scene-singletask-v0: {distinct} second observations of 40 with one seed, {spread:.1g} apart; {len(goals)} goals")
assert places == 20 and size.max() > 0.5
assert len(firsts) == 1 and len(aims) == 20
assert np.random.get_state()[2] != before
assert distinct > 1 and 0 < spread < 1e-15 and len(goals) == 40
PYTHON
