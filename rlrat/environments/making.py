"""Make a registered environment with its wrappers, and say in one line why one cannot be made here.

Wrappers are Gymnasium's own, found by their names: nothing that data names is imported.
"""

import contextlib
import importlib.metadata
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlrat.environments.registry import find_spec, nearest, other_versions
from rlrat.errors import InputError, reason

NO_LIMIT = -1
"""What `gymnasium.make` and we take as `max_episode_steps` where episodes are never cut."""

_NOISE = (".*precision lowered by casting to float32", ".*X11: The DISPLAY environment variable is missing")
_KITCHEN = "pip install 'rlrat[kitchen]'"
_KITCHEN_BELOW = (3, 12)  # of MuJoCo, whose enumerations compare unequal to integers from there on


@dataclass(frozen=True)
class Wrapper:
    """A wrapper of `gymnasium.wrappers` and what it is made with, beside the environment."""

    name: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value!r}' for name, value in self.kwargs.items())})"


class NotMadeError(InputError):
    """A registered environment lacks something that is to be installed."""


class RefusedError(InputError):
    """An environment refuses its settings or wrappers."""


def wrapper_class(name: str) -> type | None:
    """Return the class of `gymnasium.wrappers` that has this name, None where there is none, or it needs a package."""
    import gymnasium

    try:
        found = getattr(gymnasium.wrappers, name, None) if name in gymnasium.wrappers.__all__ else None
    except (ImportError, gymnasium.error.DependencyNotInstalled):  # JaxToNumpy
        return None
    return found if isinstance(found, type) and issubclass(found, gymnasium.Wrapper) else None


def make(
    env_id: str,
    env_kwargs: Mapping[str, Any],
    max_episode_steps: int | None = None,
    wrappers: Sequence[Wrapper] = (),
) -> Any:
    """Make an environment as it is registered, but for what is given, and put it into the wrappers.

    Args:
        env_id: its registered id.
        env_kwargs: its settings.
        max_episode_steps: steps after which an episode is cut, `NO_LIMIT` for never.
        wrappers: they come around the time limit, the first is the innermost.

    Raises:
        InputError: it is unknown, or it or a wrapper refuses its settings.
        NotMadeError: something that it needs is not installed.
    """
    # Made from the spec: if made by name, Gymnasium advises a newer version each time, but D4RL's data needs -v4.
    spec = find_spec(env_id)
    import gymnasium

    limit = {} if max_episode_steps is None else {"max_episode_steps": int(max_episode_steps)}
    _ignore_noise()
    with refusals(env_id, env_kwargs):
        try:
            # The checker only warns; it changes nothing that an environment returns.
            env = gymnasium.make(spec, disable_env_checker=True, **limit, **env_kwargs)
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            raise NotMadeError(f"{env_id} cannot be made here: {_missing(env_id, error)}") from None
        except AssertionError as error:
            if str(error) or not (version := _too_new_for_kitchen(spec)):
                raise
            raise NotMadeError(
                f"{env_id} cannot be made here: this gymnasium-robotics does not know MuJoCo {version}'s types of "
                f"joints; MuJoCo below {'.'.join(map(str, _KITCHEN_BELOW))} works: {_KITCHEN}"
            ) from None
    for wrapper in wrappers:
        kind = wrapper_class(wrapper.name)
        try:
            if kind is None:
                raise InputError(f"Gymnasium {gymnasium.__version__} has no wrapper {reason(wrapper.name)}")
            with refusals(env_id, {}, [wrapper]):
                env = kind(env, **wrapper.kwargs)
        except (gymnasium.error.DependencyNotInstalled, ImportError) as error:
            env.close()
            raise InputError(f"{env_id} cannot be put into the wrapper {wrapper.name} here: {reason(error)}") from None
        except BaseException:
            env.close()
            raise
    return env


@contextlib.contextmanager
def refusals(env_id: str, env_kwargs: Mapping[str, Any], wrappers: Sequence[Wrapper] = ()) -> Iterator[None]:
    """Turn any error of an environment into a `RefusedError` about the settings or wrappers that it was given.

    Without any the error is a mistake in the environment's code, and keeps its traceback.
    """
    import gymnasium

    try:
        yield
    except (InputError, ImportError, gymnasium.error.DependencyNotInstalled):
        raise
    except Exception as error:
        if not (env_kwargs or wrappers):
            raise
        kind = f"{type(error).__name__}: " if str(error) and not isinstance(error, ValueError | TypeError) else ""
        given = [f"the settings {reason(repr(dict(env_kwargs)))}"] if env_kwargs else []
        given += [f"the wrappers {reason(', '.join(map(str, wrappers)))}"] if wrappers else []
        raise RefusedError(f"{env_id} refuses {' and '.join(given)}: {kind}{reason(error)}") from None


def mujoco_damage(error: BaseException) -> str | None:
    """Say how to repair a MuJoCo of which parts are missing; return None where `error` has another cause.

    MuJoCo 4 is split into packages. If pip puts it over a 3.x, it deletes the files of the old one after it has written
    the new `mujoco-core`, which then lacks those of the same names.
    """
    while error is not None:
        if isinstance(error, ImportError) and (error.name or "").startswith("mujoco."):
            break
        if isinstance(error, ImportError) and "mujoco-core" in str(error):  # it lacks files, or is of another version
            break
        error = error.__cause__ or error.__context__
    else:
        return None
    try:
        version = importlib.metadata.version("mujoco")
    except importlib.metadata.PackageNotFoundError:
        return None
    parts = f"mujoco=={version} mujoco-core=={version}" if int(version.split(".")[0]) >= 4 else f"mujoco=={version}"
    return (
        f"parts of the installed MuJoCo {version} are missing, as after an update from 3 to 4: "
        f"pip install --force-reinstall --no-deps {parts}"
    )


def import_mujoco() -> Any:
    """Import MuJoCo; return None where it is not installed.

    Raises:
        InputError: it is installed and cannot be imported.
    """
    try:
        import mujoco
    except (RuntimeError, AttributeError, ImportError) as error:
        if (damage := mujoco_damage(error)) is not None:
            raise InputError(damage) from None
        if isinstance(error, ModuleNotFoundError) and error.name == "mujoco":
            return None
        # It imports the OpenGL that MUJOCO_GL names.
        gl = os.environ.get("MUJOCO_GL", "")
        raise InputError(f"MuJoCo cannot be imported with MUJOCO_GL={gl}: {reason(error)}; unset it") from None
    return mujoco


def _ignore_noise() -> None:
    """Ignore, in this process, what tells nobody anything.

    Gymnasium warns that bounds are rounded to float32, as those of OGBench are, which makes its spaces anew whenever
    they are looked at; GLFW, which OGBench imports, that there is no display.
    """
    there = {getattr(text, "pattern", None) for _, text, *_ in warnings.filters}
    for text in _NOISE:
        if text not in there:  # each change lets warnings that were shown be shown again
            warnings.filterwarnings("ignore", message=text)


def _missing(env_id: str, error: Exception) -> str:
    """Say what is not installed that an environment needs, and what can be done."""
    if (damage := mujoco_damage(error)) is not None:
        return damage
    near = other_versions(env_id)[:2] or nearest(env_id, cutoff=0.8)
    what = (
        "it needs mujoco_py, which no longer installs"
        if re.search("mujoco_py|mujoco v2", str(error))
        else reason(error)
    )
    return what + (f"; did you mean {' or '.join(near)}?" if near else "")


def _too_new_for_kitchen(spec: Any) -> str | None:
    """Return MuJoCo's version, if it is too new for an environment of gymnasium-robotics with large models."""
    if not str(spec.entry_point).startswith("gymnasium_robotics."):
        return None
    version = importlib.metadata.version("mujoco")
    return version if tuple(map(int, re.findall(r"\d+", version)[:2])) >= _KITCHEN_BELOW else None
