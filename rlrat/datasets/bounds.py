"""Find the bounds of actions, as the data records them, the environment has them or the user gives them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from rlrat.datasets.steps import where
from rlrat.environments.making import Wrapper, make
from rlrat.environments.recorded import code_of, recorded_id, recorded_kwargs, recorded_wrappers
from rlrat.environments.registry import typed
from rlrat.environments.settings import bare
from rlrat.errors import InputError, reason

_CLIP = 1e-3  # up to this far outside the bounds it is rounding, beyond it a mistake


@dataclass(frozen=True)
class Bounds:
    """Least and greatest action, one number for all components or `[act]`.

    `origin` says where they come from if the data does not record them. `advice` says what to do about actions outside.
    """

    low: ArrayLike
    high: ArrayLike
    origin: str = ""
    advice: str = ""

    def settings(self) -> str:
        """Return what a conversion with these bounds depends on in addition to its source."""
        return json.dumps([np.asarray(each, np.float64).tolist() for each in (self.low, self.high)])

    def of(self, label: str, actions: int) -> tuple[np.ndarray, np.ndarray]:
        """Return low and high `[act]` float32 for `actions` components.

        Raises:
            InputError: the bounds have another number of components, or are not finite with low < high.
        """
        name = f"{label}: action bounds{self.origin and ' '}{self.origin}"
        try:
            with np.errstate(over="ignore"):
                low, high = (np.asarray(each, np.float32) for each in (self.low, self.high))
        except (ValueError, TypeError, OverflowError):
            raise InputError(f"{name} are not numbers") from None
        if any(each.shape not in ((), (actions,)) for each in (low, high)):
            shapes = f"{list(low.shape)} and {list(high.shape)}"
            raise InputError(f"{name} have shapes {shapes}, the actions {actions} components")
        low, high = (np.broadcast_to(each, actions).copy() for each in (low, high))
        # The middle must differ from both bounds in float32, or the scale would be 0.
        with np.errstate(over="ignore", invalid="ignore"):
            middle = ((low.astype(np.float64) + high) / 2).astype(np.float32)
        if not (np.isfinite(low).all() and np.isfinite(high).all() and ((low < middle) & (middle < high)).all()):
            wanted = "finite low < high are needed" + (self.advice and f"; {self.advice}")
            raise InputError(f"{name} are {some(low)} to {some(high)}: {wanted}")
        return low, high

    def clip(
        self, label: str, actions: np.ndarray, starts: np.ndarray, low: np.ndarray, high: np.ndarray
    ) -> tuple[np.ndarray, tuple[str, ...]]:
        """Clip actions `[N, act]` to `low` and `high`; return them, and a note if rounding was clipped.

        Args:
            starts: `[E]`, the episodes' first rows, for the message.

        Raises:
            InputError: actions are further outside than rounding explains.
        """
        excess = np.maximum(low - actions, actions - high)
        worst = excess.max()
        if worst <= 0:
            return actions, ()
        row, column = np.unravel_index(excess.argmax(), excess.shape)
        if worst >= _CLIP:
            at = f"{where(row, starts)} (component {column})"
            bounds = f"[{low[column]:g}, {high[column]:g}]" + (self.origin and f" {self.origin}")
            raise InputError(
                f"{label}: actions hold {actions[row, column]:g} at {at}: outside their bounds {bounds}"
                + (self.advice and f": {self.advice}")
            )
        count = np.count_nonzero(excess > 0)
        note = f"{label}: clipped {count} actions that lay outside their bounds by up to {worst:.1g}"
        return np.clip(actions, low, high), (note,)


def some(numbers: np.ndarray) -> str:
    """Format the first numbers for a message."""
    text = ", ".join(f"{number:g}" for number in numbers[:8])
    return f"[{text}{', ...' if len(numbers) > 8 else ''}]"


def typed_bounds(pairs: Sequence[Any]) -> Bounds:
    """Return the bounds that the user gives: one pair `(low, high)` for all components, or one for each.

    Raises:
        InputError: these are no pairs, or a pair is not finite with low < high.
    """
    try:
        numbers = np.asarray(pairs, np.float64)
    except (ValueError, TypeError):
        numbers = np.empty(0)
    numbers = numbers[None] if numbers.shape == (2,) else numbers
    if numbers.ndim != 2 or numbers.shape[1] != 2 or not len(numbers):
        raise InputError(
            f"--action-bounds is {reason(pairs)}, but must be LOW HIGH, for all components of the actions or for each"
        )
    for low, high in numbers:
        if not (np.isfinite([low, high]).all() and low < high):
            raise InputError(f"--action-bounds has {low:g} {high:g}, but must have finite LOW HIGH with LOW < HIGH")
    origin = "of --action-bounds"
    if len(numbers) == 1:
        return Bounds(*numbers[0].tolist(), origin)
    return Bounds(*numbers.T, origin)


def bounds_or_datas(label: str, bounds: Bounds | None, actions: np.ndarray) -> tuple[Bounds, tuple[str, ...]]:
    """Return the bounds; where there are none, the least and greatest of `actions` `[N, act]`, and a note about it.

    Raises:
        InputError: there are none, and a component is constant.
    """
    if bounds is not None:
        return bounds, ()
    low, high = actions.min(axis=0), actions.max(axis=0)
    if (low == high).any():
        column = (low == high).argmax()
        raise InputError(
            f"{label}: actions hold {low[column]:g} alone in component {column}, and no bounds are recorded: "
            "give --action-bounds with LOW HIGH, one pair or one for each component"
        )
    note = (
        f"{label} records no action bounds: the least and greatest of its actions are taken; "
        "if it was not free to act up to there, give --action-bounds LOW HIGH"
    )
    return Bounds(low, high, "of its actions", "give --action-bounds LOW HIGH"), (note,)


def environment_bounds(
    label: str,
    env_id: str | None,
    recorded: str | None,
    kwargs: Mapping[str, Any] | None = None,
    env_recorded: Mapping[str, Any] | None = None,
) -> Bounds:
    """Return the bounds of a registered environment: the one that the user named, or else the recorded one.

    No module that the data names is imported, and no recorded entry point is called.

    Args:
        label: whose data it is, for messages.
        env_id: what the user typed; its module is imported.
        recorded: what the data names.
        kwargs: the settings that the data records of that environment.
        env_recorded: what else the data records: the wrappers in `env_spec` belong to the environment.

    Raises:
        InputError: neither is named, it is not registered or cannot be made, or its actions are no bounded vector.
    """
    wanted = f"{label} has no action bounds"
    try:
        if env_id is None and recorded is None:
            raise InputError("it names no environment: give --env-id with the one it belongs to")
        where, spec = f"dataset {label}", (env_recorded or {}).get("env_spec")
        name = recorded_id(recorded, where, code_of(spec)) if env_id is None else typed(env_id)
        its_own = recorded is not None and bare(recorded) == name
        settings = recorded_kwargs(name, kwargs or {}, {}, where) if its_own else {}
        wrappers = ()  # without those that cannot be made again: actions outside the bounds are seen
        if its_own and isinstance(spec, Mapping):
            wrappers, _ = recorded_wrappers(name, spec.get("additional_wrappers"), where)
        low, high = _made(name, settings, wrappers)
    except InputError as error:
        raise InputError(f"{wanted}, and {error}; or give --action-bounds LOW HIGH") from None
    return Bounds(low, high, f"of {name}", "choose the environment that the data was collected in, or --action-bounds")


def _made(name: str, kwargs: dict[str, Any], wrappers: Sequence[Wrapper]) -> tuple[np.ndarray, np.ndarray]:
    from gymnasium.spaces import Box

    try:
        env = make(name, kwargs, None, wrappers)
    except InputError:
        raise
    except Exception as error:  # an environment may raise anything
        raise InputError(f"{name} cannot be made here: {reason(error)}") from None
    try:
        space = env.action_space
    finally:
        env.close()
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise InputError(f"{name} has the actions {reason(space)}: only vectors work (Box of shape (n,))")
    return space.low, space.high
