#!/usr/bin/env bash
# gymnasium 1.4.0: RescaleAction takes arrays of bounds beside floats ("min_action (float, int or np.ndarray)"), and the
# spec of an environment with such a wrapper cannot be written: EnvSpec.to_json raises a TypeError. minari 0.5.4 then
# warns, and writes a dataset that names no environment at all, not even the id; where it is given as `eval_env`, no
# dataset is written.
#
# Pillow is named below since minari[hdf5] imports it and does not require it.
#
# Seen: with bounds -2.0 and 2.0 the dataset has its env_spec; with arrays of one number it has none.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet gymnasium==1.4.0 'minari[hdf5]==0.5.4' pillow==13.0.0 numpy==2.4.6
export MINARI_DATASETS_PATH=$folder/datasets
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import warnings

import gymnasium
import minari
import numpy as np
from minari.data_collector import EpisodeBuffer


def written(version: int, bound, evaluated=False):
    env = gymnasium.wrappers.RescaleAction(gymnasium.make("Pendulum-v1"), -bound, bound)
    first, _ = env.reset(seed=0)
    second, reward, *_ = env.step(np.zeros(1, np.float32))
    steps = {"actions": np.zeros((1, 1), np.float32), "rewards": np.array([reward])}
    ends = {"terminations": np.array([False]), "truncations": np.array([True])}
    episode = EpisodeBuffer(id=0, observations=np.stack([first, second]), **steps, **ends)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            envs = {"env": env, "eval_env": env if evaluated else None}
            found = minari.create_dataset_from_buffers(f"own/set-v{version}", [episode], **envs).env_spec
        except TypeError as error:
            return repr(error)
    return found and found.id, [str(one.message) for one in heard if "serializable" in str(one.message)]


array = np.array([2.0], np.float32)
floats, arrays, fails = written(0, 2.0), written(1, array), written(2, array, evaluated=True)
print(f"floats: {floats}", f"arrays: {arrays}", f"arrays, as eval_env: {fails}", sep="\n")
assert floats == ("Pendulum-v1", [])
assert arrays[0] is None and "ndarray is not JSON serializable" in arrays[1][0]
assert fails == "TypeError('Object of type ndarray is not JSON serializable')"
PYTHON
