"""A harmless module in the working directory that records that it was imported or called."""

import sys

import gymnasium
import pytest

MODULE = """
import pathlib
import gymnasium
import numpy as np

HERE = pathlib.Path(__file__).parent
(HERE / "imported").touch()


class Toy(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (11,))
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (3,))

    def __init__(self, reward=1.0):
        (HERE / "called").touch()
        self.reward = reward

    def reset(self, *, seed=None, options=None):
        return np.zeros(11), {}

    def step(self, action):
        return np.zeros(11), self.reward, False, False, {}


gymnasium.register("Toy-v0", "toy_module:Toy", max_episode_steps=3)
"""


@pytest.fixture
def toys(tmp_path, monkeypatch):
    """The working directory, with a module in it; `toys()`: what it was seen to do."""
    here = tmp_path / "here"
    here.mkdir()
    (here / "toy_module.py").write_text(MODULE)
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(here))])
    yield lambda: {name for name in ("imported", "called") if (here / name).exists()}
    sys.modules.pop("toy_module", None)
    gymnasium.registry.pop("Toy-v0", None)
