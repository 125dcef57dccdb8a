#!/usr/bin/env bash
# gymnasium-robotics 1.4.2 with MuJoCo 3.12.0 or newer, which pip installs beside it without a word: FrankaKitchen, Fetch
# and Hand fail in gymnasium.make with an AssertionError that says nothing. Its mujoco_utils assert that a joint's type, a
# numpy.int32 of the model, is in (mjtJoint.mjJNT_HINGE, mjtJoint.mjJNT_SLIDE), and since MuJoCo 3.12 it is in no such
# tuple, which asks for `member == number`; the converse, `number == member`, is still true. Mazes and Adroit do not ask.
#
# Seen: with MuJoCo 3.11.0 all are made; with 3.12.0 and 4.0.0 FrankaKitchen-v1, FetchReach-v4 and HandReach-v3 raise
# AssertionError(), and PointMaze_UMaze-v3 and AdroitHandDoor-v1 are made.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 3.11.0 3.12.0 4.0.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet gymnasium-robotics==1.4.2 gymnasium==1.4.0 "mujoco==$version" numpy==2.4.6
    "$folder/$version/bin/python" -W ignore - 2> "$folder/errors" <<'PYTHON'
import gymnasium
import gymnasium_robotics
import mujoco
import numpy

gymnasium.register_envs(gymnasium_robotics)
found = {}
for name in ("FrankaKitchen-v1", "FetchReach-v4", "HandReach-v3", "PointMaze_UMaze-v3", "AdroitHandDoor-v1"):
    try:
        gymnasium.make(name).close()
        found[name] = "made"
    except AssertionError as error:
        found[name] = repr(error)
hinge, number = mujoco.mjtJoint.mjJNT_HINGE, numpy.int32(3)
equal = [number == hinge, hinge == number, number in (hinge,)]
print(f"MuJoCo {mujoco.__version__}: {equal}, {found}")
old = mujoco.__version__ == "3.11.0"
assert equal == [True, old, old]
assert set(list(found.values())[:3]) == ({"made"} if old else {"AssertionError()"})
assert set(list(found.values())[3:]) == {"made"}
PYTHON
done
