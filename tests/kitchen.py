"""Which tests need another MuJoCo: FrankaKitchen, Fetch and Hand run with those below 3.12."""

import importlib.metadata


def needs_older_mujoco() -> bool:
    return tuple(map(int, importlib.metadata.version("mujoco").split(".")[:2])) >= (3, 12)
