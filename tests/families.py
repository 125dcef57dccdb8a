"""Tiny datasets of the families, in the files that people have, played in the real environments where they run."""

import warnings
from pathlib import Path

import gymnasium
import h5py
import numpy as np

from rlrat.datasets.d4rl_names import NAMES
from rlrat.datasets.ogbench_names import is_name
from rlrat.environments.registry import find_spec
from tests.environments.goals import play

LIMIT = 15
"""Steps of the episodes that `write_minari` plays, which it records."""


def write(name: str, folder: Path) -> str:
    """Write the dataset that `name` says, and return how it is given: D4RL's names, OGBench's, or a registered id.

    Minari's and OGBench's are written where their variables say.
    """
    if name in NAMES:
        return str(write_d4rl(name, folder))
    if is_name(name):
        from tests.datasets.ogbench_sets import write as write_ogbench

        write_ogbench(name)
        return name
    return write_minari(name)


def write_minari(env_id: str, **kwargs) -> str:
    """Write three episodes of random actions with Minari itself."""
    import minari
    from minari.data_collector import EpisodeBuffer

    id = f"own/{env_id.rpartition('-')[0].lower().replace('_', '-')}-v0"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the descriptions that a test does without, and rounded spaces
        env = gymnasium.make(find_spec(env_id), disable_env_checker=True, max_episode_steps=LIMIT, **kwargs)
        episodes = [EpisodeBuffer(id=seed, seed=seed, **play(env, LIMIT, seed)) for seed in range(3)]
        minari.create_dataset_from_buffers(id, episodes, env=env, eval_env=env)
        env.close()
    return id


def write_d4rl(name: str, folder: Path) -> Path:
    """Write forty steps in D4RL's layout, under the name that its file has there."""
    entry, random = NAMES[name], np.random.default_rng(0)
    rows = {"observations": [], "actions": [], "rewards": []}
    steps = 40
    try:
        env = gymnasium.make(find_spec(entry.env_id), disable_env_checker=True, **entry.env_kwargs)
    except Exception:  # FrankaKitchen with a new MuJoCo
        env = None
    observation = random.normal(size=entry.widths[0]) if env is None else env.reset(seed=0)[0]
    for _ in range(steps):
        action = random.uniform(-1, 1, entry.widths[1]).astype(np.float32)
        rows["observations"].append(observation)
        rows["actions"].append(action)
        if env is None:
            observation, reward = random.normal(size=entry.widths[0]), 0.0
        else:
            observation, reward, *_ = env.step(action)
        rows["rewards"].append(reward)
    if env is not None:
        env.close()
    path = folder / entry.file
    with h5py.File(path, "w") as file:
        for key, values in rows.items():
            file[key] = np.array(values, np.float32)
        file["terminals"] = np.zeros(steps, bool)
        file["timeouts"] = np.arange(steps) % (steps // 2) == steps // 2 - 1
    return path
