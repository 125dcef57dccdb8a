"""Films of episodes: an encoder, a rendering backend that works here, and frames."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rlrat.errors import InputError, reason


def find_encoder() -> Callable:
    """What opens an .mp4 to be written frame by frame.

    Raises:
        InputError: it is not installed, or finds no ffmpeg.
    """
    try:
        import imageio_ffmpeg
        from imageio.v2 import get_writer

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ModuleNotFoundError, RuntimeError) as error:
        raise InputError(f"no video without an encoder ({reason(error)}): pip install 'rlrat[video]'") from None
    return get_writer


def render(env: Any, env_id: str) -> np.ndarray:
    """A frame `[H, W, 3]` of an environment that was made with `render_mode="rgb_array"`.

    Raises:
        InputError: it cannot be rendered here, or has no images.
    """
    problem = None
    # What Gymnasium's viewer, where it could not be made, says when it is deleted is no news.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        frame = env.render()
    except Exception as error:  # every backend, driver and library fails in a way of its own
        problem = reason(error)
    finally:
        sys.unraisablehook = hook
    if problem is not None:
        advice = ""
        if hasattr(env.unwrapped, "mujoco_renderer"):
            problem = f"MUJOCO_GL={os.environ.get('MUJOCO_GL', '')}: {problem}"
            advice = (
                ": without a display install libegl1 with libgl1-mesa-dri, or libosmesa6, and leave MUJOCO_GL unset"
            )
        raise InputError(f"{env_id} cannot be rendered here ({problem}){advice}")
    if not isinstance(frame, np.ndarray) or frame.ndim != 3:
        raise InputError(f"{env_id} renders no images: leave out --video")
    return frame


def rendering_backend() -> str | None:
    """Find what MUJOCO_GL is to be: the user's choice, None where there is a display, or else the first that works.

    Left alone, Gymnasium would take GLFW, which then fails. A backend can be tried once in a process, hence in others.
    """
    if chosen := os.environ.get("MUJOCO_GL"):
        return chosen
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return None
    for backend in ("egl", "osmesa"):
        command = [sys.executable, "-c", f"from mujoco.{backend} import GLContext; GLContext(64, 64).make_current()"]
        if subprocess.run(command, env={**os.environ, "MUJOCO_GL": backend}, capture_output=True).returncode == 0:
            return backend
    return "egl"  # whose error says most


@contextmanager
def mujoco_gl(backend: str | None) -> Iterator[None]:
    """Set MUJOCO_GL inside the block; None leaves it unset."""
    before = os.environ.pop("MUJOCO_GL", None)
    if backend is not None:
        os.environ["MUJOCO_GL"] = backend
    try:
        yield
    finally:
        os.environ.pop("MUJOCO_GL", None)
        if before is not None:
            os.environ["MUJOCO_GL"] = before
