"""Find an environment by its registered id; never import what data names.

An environment is code, and only the user decides where that code comes from: from a typed `module:Name-v0`, from
`--env-modules`, from an environment registered in this process, or from an installed Gymnasium or one of
`KNOWN_PACKAGES`. What a dataset, a run folder or a sweep folder records is looked up among these (`recorded`).
"""

import difflib
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import io
import os
import re
import sys
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from rlrat.environments import d4rl
from rlrat.errors import InputError, reason

if TYPE_CHECKING:
    from gymnasium.envs.registration import EnvSpec

KNOWN_PACKAGES = {"gymnasium_robotics": "gymnasium-robotics", "ogbench": "ogbench"}
"""Packages that register environments when they are imported, and what they are installed as."""

NO_ENVIRONMENT = "none"
"""What `--env-id` says where there is none, or none is wanted."""

MOST_EPISODES = 100_000
"""Episodes that can be played at once: each seed of each combination of settings has as many as it is judged by."""

_EXTRAS = {
    r"FrankaKitchen|Fetch|Hand(Reach|Manipulate)": ("gymnasium_robotics", "kitchen"),
    r"PointMaze|AntMaze|AdroitHand": ("gymnasium_robotics", "robotics"),
    # Not D4RL's antmaze-umaze-v2, antmaze-medium-play-v2, ...
    r"(?!antmaze-(umaze|\w+-(play|diverse))-)(visual-)?"
    r"(pointmaze|antmaze|humanoidmaze|antsoccer|cube|scene|puzzle)-": ("ogbench", "ogbench"),
}
"""Beginnings of ids of `KNOWN_PACKAGES`, and our extra that installs a version with which they run."""


def import_modules(names: str | Iterable[str], option: str = "--env-modules") -> None:
    """Import the modules that the user named: they register their environments.

    A module in the working directory is found too; installed modules come first.

    Args:
        names: one module's name, or several.
        option: the option with which the user gave them, for the message.

    Raises:
        InputError: no such module, or one that cannot be imported.
    """
    for name in (names,) if isinstance(names, str) else names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise InputError(f"{option} has {name!r}, but a module's name is needed, such as my_module")
        _find_here(name)
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise InputError(f"the module {name} needs {error.name}, which is not installed") from None
            raise InputError(
                f"there is no module {name}: it must be installed, or lie in the working directory or in PYTHONPATH"
            ) from None
        except (Exception, SystemExit) as error:  # a user's module may raise anything
            raise InputError(
                f"the module {name} cannot be imported: {type(error).__name__}: {reason(error)}"
            ) from error


def _find_here(name: str) -> None:
    """Let Python look for a module in the working directory if it is nowhere else, as for a script there."""
    top, here = name.partition(".")[0], os.getcwd()
    if top in sys.modules or here in sys.path or importlib.util.find_spec(top) is not None:
        return
    if importlib.machinery.PathFinder.find_spec(top, [here]) is not None:
        sys.path.append(here)


def typed(env_id: str) -> str:
    """Return the registered id of an environment that the user named as `Hopper-v5` or `my_envs:Toy-v0`.

    Raises:
        InputError: no such module or environment.
    """
    module, _, name = env_id.rpartition(":")
    if module:
        import_modules(module, "--env-id")
    find_spec(name)
    return name


def find_spec(name: str) -> "EnvSpec":
    """Return the spec of a registered environment, which says how it is made.

    Raises:
        InputError: there is none of that name, also not in the installed ones of `KNOWN_PACKAGES`.
    """
    try:
        import gymnasium
    except ModuleNotFoundError:
        raise InputError("evaluation needs Gymnasium: pip install 'gymnasium[mujoco]'") from None
    from gymnasium.envs.registration import registry

    broken = ""
    d4rl.register(name)
    if name not in registry:
        for module, package in KNOWN_PACKAGES.items():
            if module not in sys.modules and _is_installed(package):
                try:
                    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # one prints its news
                        importlib.import_module(module)
                except Exception as error:  # its dependencies may raise anything
                    broken += f" {package} cannot be imported: {type(error).__name__}: {reason(error)}"
    try:
        return gymnasium.spec(name)
    except gymnasium.error.Error:
        raise UnknownEnvironmentError(name, broken) from None


class UnknownEnvironmentError(InputError):
    """No environment of that name is registered.

    `broken` says which installed package cannot be imported, `install` what installs the one that has it, `versions`
    are ids of the same name that are registered, the newest first, and `hint` is all of this in words.
    """

    def __init__(self, name: str, broken: str) -> None:
        self.broken: str = broken
        self.install: str | None = how_to_install(name)
        self.versions: list[str] = other_versions(name)
        near = self.versions[:2] or nearest(name, cutoff=0.6)
        hints = [f"did you mean {' or '.join(near)}?"] if near else []
        self.hint: str = " ".join([*([self.install] if self.install else hints), *filter(None, [broken.strip()])])
        known = f"the MuJoCo environments are {', '.join(sorted(_mujoco_ids().values()))}"
        super().__init__(f"unknown environment {reason(repr(name))}: {self.hint or known}")


def how_to_install(name: str, module: str = "") -> str | None:
    """Say which package an environment is of that is not installed here, and how it is; None where this is unknown.

    Args:
        name: its id.
        module: the module that makes it, as far as it is known; it is not imported.
    """
    found = next((of for begin, of in _EXTRAS.items() if re.match(begin, name)), (module.partition(".")[0], "robotics"))
    package = KNOWN_PACKAGES.get(found[0])
    if package is None or _is_installed(package):
        return None
    return f"it is of {package}, which is not installed: pip install 'rlrat[{found[1]}]'"


def other_versions(name: str) -> list[str]:
    """Return the registered ids that differ from `name` in their version alone, the newest first."""
    from gymnasium.envs.registration import registry

    stem = re.sub(r"-v\d+$", "", name)
    found = [
        (spec.version or 0, key)
        for key, spec in registry.items()
        if re.sub(r"-v\d+$", "", key) == stem and key != name and not _needs_mujoco_py(spec)
    ]
    return [key for _, key in sorted(found, reverse=True)]


def _needs_mujoco_py(spec: "EnvSpec") -> bool:
    """Tell whether an environment needs mujoco_py, the bindings of before, which no longer install."""
    entry_point = str(spec.entry_point)
    own = entry_point.startswith("gymnasium.envs.mujoco") and (spec.version or 0) < 4
    return own or ":MujocoPy" in entry_point or "mujoco_py" in entry_point


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _mujoco_ids() -> dict[str, str]:
    """Return the ids of Gymnasium's own MuJoCo environments by their lower-case spelling."""
    from gymnasium.envs.registration import registry

    return {
        key.lower(): key
        for key, spec in registry.items()
        if str(spec.entry_point).startswith("gymnasium.envs.mujoco") and not _needs_mujoco_py(spec)
    }


def nearest(name: str, cutoff: float) -> list[str]:
    """Return the ids that are similar to `name`: of Gymnasium's MuJoCo, of D4RL, of `KNOWN_PACKAGES` where imported."""
    from gymnasium.envs.registration import registry

    of_packages = [key for key, spec in registry.items() if str(spec.entry_point).startswith((*KNOWN_PACKAGES,))]
    known = _mujoco_ids() | {key.lower(): key for key in (*d4rl.TASKS, *of_packages)}
    return [known[key] for key in difflib.get_close_matches(name.lower(), known, n=2, cutoff=cutoff)]
