"""Every test has caches and dataset folders of its own."""

import os
import warnings

import h5py
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    found = {
        "XDG_CACHE_HOME": "cache",
        "MINARI_DATASETS_PATH": "minari",
        "D4RL_DATASET_DIR": "d4rl",
        "OGBENCH_DATASET_DIR": "ogbench",
    }
    for variable, name in found.items():
        monkeypatch.setenv(variable, str(tmp_path / name))
    monkeypatch.setattr(os, "fsync", lambda _: None)  # fifty milliseconds a conversion
    return tmp_path


@pytest.fixture
def make_episode():
    def make(steps: int, seed: int = 0, terminal: bool = True, observations: int = 4, actions: int = 2) -> dict:
        rng = np.random.default_rng(seed)
        last = np.arange(steps) == steps - 1
        return {
            "observations": rng.standard_normal((steps + 1, observations)),
            "actions": rng.uniform(-1, 1, (steps, actions)).astype(np.float32),
            "rewards": rng.standard_normal(steps),
            "terminations": last & terminal,
            "truncations": last & (not terminal),
        }

    return make


@pytest.fixture
def episodes(make_episode):
    return [make_episode(5), make_episode(3, seed=1, terminal=False), make_episode(1, seed=2)]


@pytest.fixture
def make_goals(make_episode):
    """`make_goals(stands=True)`: episodes of nested dictionaries; achieved_goal stands in observation, or does not."""

    def make(stands: bool = True, lengths: tuple[int, ...] = (5, 3, 1)) -> list[dict]:
        episodes = [make_episode(steps, seed=seed) for seed, steps in enumerate(lengths)]
        for episode in episodes:
            whole = episode["observations"]
            goal = whole[:, 2:][:, ::-1].copy() if stands else whole[:, 2:] + 1.0
            desired = {"place": whole[::-1, :2] * 3, "height": whole[:, 0] * 5}
            episode["observations"] = {"observation": whole, "desired_goal": desired, "achieved_goal": goal}
        return episodes

    return make


@pytest.fixture
def d4rl_arrays():
    """Arrays of D4RL's layout: episodes that end by a terminal state, by a timeout, by both, and one broken off."""

    def make(
        ends: str = "t.o.b.t.", steps: int = 5, seed: int = 0, actions: int = 3, observations: int = 11
    ) -> dict[str, np.ndarray]:
        # one letter an episode: t terminal, o timeout, b both, . nothing (the next episode goes on in it)
        rng = np.random.default_rng(seed)
        count = steps * len(ends)
        last = np.arange(count) % steps == steps - 1
        letter = np.repeat(list(ends), steps)
        return {
            "observations": rng.standard_normal((count, observations)).astype(np.float32),
            "actions": rng.uniform(-1, 1, (count, actions)).astype(np.float32),
            "rewards": rng.standard_normal(count).astype(np.float32),
            "terminals": last & np.isin(letter, ["t", "b"]),
            "timeouts": last & np.isin(letter, ["o", "b"]),
        }

    return make


@pytest.fixture
def write_hdf5(tmp_path):
    def write(name: str, arrays: dict[str, np.ndarray]):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            for key, value in arrays.items():
                file[key] = value
        return path

    return write


@pytest.fixture
def make_minari(tmp_path):
    """Write a Minari dataset with Minari itself."""

    def make(
        id: str, episodes: list[dict], env_id: str | None = "Hopper-v5", infos: bool = False, data_format=None, **spaces
    ):
        import gymnasium
        import minari
        from gymnasium.spaces import Box
        from minari.data_collector import EpisodeBuffer

        buffers = [
            EpisodeBuffer(id=index, seed=index, infos={"x": np.zeros(len(e["rewards"]) + 1)} if infos else None, **e)
            for index, e in enumerate(episodes)
        ]
        first = episodes[0]

        def space_of(arrays):
            if isinstance(arrays, dict):
                return gymnasium.spaces.Dict({key: space_of(array) for key, array in arrays.items()})
            return Box(-np.inf, np.inf, np.shape(arrays)[1:], np.float64)

        spaces = {
            "observation_space": space_of(first["observations"]),
            "action_space": Box(-1, 1, np.shape(first["actions"])[1:], np.float32),
            **spaces,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the descriptions that a test does without
            minari.create_dataset_from_buffers(
                id,
                buffers,
                env=gymnasium.spec(env_id) if env_id else None,
                author="rlrat",
                author_email="author@example.org",
                algorithm_name="none",
                code_permalink="https://example.org",
                **({"data_format": data_format} if data_format else {}),
                **spaces,
            )
        return tmp_path / "minari" / id

    return make
