"""Film episodes: find an encoder and a rendering backend that works here, and render frames."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from rlrat.errors import InputError, reason


def find_encoder() -> Callable:
    """Return the function that opens an .mp4 for writing frame by frame.

    Raises:
        InputError: its package is not installed, or finds no ffmpeg.
    """
    try:
        import imageio_ffmpeg
        from imageio.v2 import get_writer

        imageio_ffmpeg.get_ffmpeg_exe()
    except (ModuleNotFoundError, RuntimeError) as error:
        raise InputError(f"no video without an encoder ({reason(error)}): pip install 'rlrat[video]'") from None
    return get_writer


def render(env: Any, env_id: str) -> np.ndarray:
    """Render a frame `[H, W, 3]` of an environment that was made with `render_mode="rgb_array"`.

    Raises:
        InputError: it cannot be rendered here, or has no images.
    """
    problem = None
    # If Gymnasium's viewer could not be made, its deletion prints an error that adds nothing.
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        frame = env.render()
    except Exception as error:  # every backend, driver and library fails in its own way
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
    """Find the value for MUJOCO_GL: the user's choice, None if there is a display, or else the first that works.

    Gymnasium itself takes GLFW, which fails without a display. A process can try only one backend: each is tried in
    another process.
    """
    if chosen := os.environ.get("MUJOCO_GL"):
        return chosen
    if sys.platform != "linux" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return None
    for backend in ("egl", "osmesa"):
        command = [sys.executable, "-c", f"from mujoco.{backend} import GLContext; GLContext(64, 64).make_current()"]
        if subprocess.run(command, env={**os.environ, "MUJOCO_GL": backend}, capture_output=True).returncode == 0:
            return backend
    return "egl"  # its error message is the clearest


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
