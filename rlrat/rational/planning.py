"""Decide which rational stands where, from what a model holds and what a trace has seen; fit them and put them in."""

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.nn.modules import module as nn_module

from . import call_sites
from .call_sites import STAYS, CallSites, InPlaceRational, Location
from .called import ACTIVATIONS, known
from .fit import fit
from .initial import find
from .module import Rational
from .rationalization import Replaced
from .table import INTERVAL, Fit, sample
from .tracing import Call, Held, Key, Trace

_MARGIN = 0.05  # of the range that was seen, on both sides
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
Place = tuple[nn.Module, str]
"""A module and an attribute of it."""


@dataclass
class Planned:
    """Hold one rational to be: it takes the `places`, or else the `calls` that its owner makes."""

    name: str
    function: Callable[[Tensor], Tensor]
    named: str
    training: bool
    calls: list[Call]
    places: list[Place]
    device: torch.device | None
    where: str = ""
    is_in_place: bool = False
    fit: Fit = field(init=False)
    rational: Rational = field(init=False)
    seen_after: tuple[float, float] = (math.inf, -math.inf)

    @property
    def range(self) -> tuple[float, float] | None:
        """Return the smallest and the largest input that was seen, or None if there was none."""
        lows, highs = [call.low for call in self.calls], [call.high for call in self.calls]
        low, high = np.min(lows, initial=math.inf).item(), np.max(highs, initial=-math.inf).item()  # keep what is NaN
        return None if low > high else (low, high)


@dataclass
class Plan:
    """Hold what is to be done to `model`; nothing is changed before `install`."""

    model: nn.Module
    planned: list[Planned] = field(default_factory=list)
    owners: dict[nn.Module, tuple[list[Planned], CallSites]] = field(default_factory=dict)
    stays: list[str] = field(default_factory=list)
    taken: set[nn.Module] = field(default_factory=set)
    hosts: list[tuple[nn.Module, list[Place]]] = field(default_factory=list)
    """Activations whose every call is replaced where it is made, and their places."""

    def fit(self, degrees: tuple[int, int], version: str, interval: tuple[float, float] | None) -> None:
        """Fit and make every rational; an interval of None is the range that each has seen, and a margin.

        Raises:
            ValueError: a function that cannot be fitted, or inputs that are not finite.
        """
        fits: dict[tuple[Any, ...], Fit] = {}
        for one in self.planned:
            try:
                one.fit = _fitted(one.function, degrees, version, interval or _interval(one.range), fits)
            except ValueError as error:
                raise ValueError(f"{one.name}, {one.named}: {error}") from None
            kind = InPlaceRational if one.is_in_place and one.places else Rational
            one.rational = kind(one.fit, degrees, version).to(one.device).train(one.training)
            one.rational._init_name = one.named
            if one.places and isinstance(one.function, nn.Module):
                call_sites.keep_hooks(one.function, one.rational)

    def install(self) -> nn.Module:
        """Put the rationals into the model, and return it, or the rational if the model is an activation."""
        # A class may have its own setattr: write to the dictionaries.
        for one in self.planned:
            for parent, name in one.places:
                if parent is self.model and not name:
                    return one.rational
                vars(parent).pop(name, None)
                # One of the class would be found first; a decoder layer without such an entry is copied with ReLU.
                if isinstance(parent, nn.TransformerDecoderLayer) or (
                    hasattr(type(parent), name) and name not in parent._modules
                ):
                    vars(parent)[name] = one.rational
                parent._modules[name] = one.rational
        for activation, places in self.hosts:
            stand_in = call_sites.ReplacedByCaller(activation).train(activation.training)
            for parent, name in places:
                parent._modules[name] = stand_in
        for owner, (ones, sites) in self.owners.items():
            rationals = nn.ModuleList(one.rational for one in ones).train(owner.training)
            call_sites.install(owner, rationals, sites)
        return self.model

    def replaced(self) -> tuple[Replaced, ...]:
        """Tell of every rational."""
        return tuple(
            Replaced(one.name, one.named, one.where, one.fit.interval, one.fit.max_error, _kind(one.fit), one.range)
            for one in self.planned
        )

    def errors(self) -> dict[Rational, float]:
        """Return the error of each rational on its interval."""
        return {one.rational: one.fit.max_error for one in self.planned}

    def outside(self) -> str:
        """Name the rationals that have seen inputs outside their intervals, before or after the change."""
        outside = []
        for one in self.planned:
            low, high = one.fit.interval
            for least, most in filter(None, (one.range, one.seen_after)):
                if not (low <= least and most <= high):
                    outside.append(one.name)
                    break
        return listed(outside)

    @contextlib.contextmanager
    def recorded_ranges(self) -> Iterator[None]:
        """Note the ranges of the rationals' inputs while the changed model runs."""
        of_rational = {one.rational: one for one in self.planned}

        def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
            if (one := of_rational.get(module)) is not None and args[0].numel():
                low, high = (float(t) for t in torch.aminmax(module.argument(*args[:2]).detach()))
                least, most = one.seen_after
                one.seen_after = np.minimum(least, low).item(), np.maximum(most, high).item()

        hook = nn_module.register_module_forward_pre_hook(enter)
        try:
            yield
        finally:
            hook.remove()


def listed(names: list[str]) -> str:
    """Name the first few, and say how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _kind(fit: Fit) -> str:
    certificate = getattr(fit, "certificate", None)
    return "sampled" if certificate is None else certificate.kind


def _interval(seen: tuple[float, float] | None) -> tuple[float, float]:
    """Widen a range by the margin; one that is empty is the default interval, one of a single value gets a width."""
    if seen is None:
        return INTERVAL
    low, high = seen
    if not math.isfinite(high - low):
        raise ValueError("its inputs on data are not all finite")
    size = max(1.0, abs(low), abs(high))
    margin = _MARGIN * (high - low) if high - low > 1e-3 * size else 0.5 * size
    return low - margin, high + margin


def _fitted(
    function: Callable[[Tensor], Tensor],
    degrees: tuple[int, int],
    version: str,
    interval: tuple[float, float],
    fits: dict[tuple[Any, ...], Fit],
) -> Fit:
    """Fit a function on an interval, or find it among the fits that are there already."""
    if interval == INTERVAL:
        return find(function, degrees, version)
    x = torch.linspace(*interval, 201, dtype=torch.float64, device="cpu")
    key = sample(function, x).numpy().tobytes(), interval
    if key not in fits:
        fits[key] = fit(function, degrees, version, interval)
    return fits[key]


def make_plan(
    model: nn.Module,
    paths: dict[nn.Module, str],
    fixed: set[nn.Module],
    functions: list[tuple[nn.Module, str, Any]],
    trace: Trace,
) -> Plan:
    """Decide what each rational takes the place of.

    Args:
        paths: the modules of the model and their names.
        fixed: those in which nothing is replaced.
        functions: the functions that modules hold, (module, attribute, function).
        trace: what was seen; empty if nothing was run.
    """
    plan = Plan(model)
    device = next((parameter.device for parameter in model.parameters()), None)
    held: list[tuple[Held, Any, bool, list[Place]]] = []
    for child in paths:
        if type(child) in ACTIVATIONS and child not in fixed:
            held.append((child, child, child.training, _places(child, model, paths, fixed)))
            plan.taken.add(child)
    held += [((owner, name), function, owner.training, [(owner, name)]) for owner, name, function in functions]
    calls_of: dict[Held, dict[Key, Call]] = {}
    for key, call in trace.calls.items():
        calls_of.setdefault(call.held, {})[key] = call

    ordered: list[tuple[float, Planned]] = []  # by the first call
    order = {key: number for number, key in enumerate(trace.calls)}
    by_mode: dict[Key, Call] = dict(calls_of.get(None, {}))
    for what, function, training, places in held:
        calls = calls_of.get(what, {})
        groups = _direct(calls, places)
        if groups is None:
            by_mode |= calls
            if isinstance(what, nn.Module) and not any(call.why_it_stays for call in calls.values()):
                plan.hosts.append((what, places))
            continue
        for keys, at in groups:
            if not at:
                continue
            parent, attribute = at[0]
            name = ".".join(filter(None, (paths[parent], attribute)))
            own = [calls[key] for key in keys]
            named = known(function) or type(function).__name__.lower()
            on = own[0].device if own else device
            one = Planned(name, function, named, training, own, at, on)
            one.is_in_place = trace.is_in_place_kept and any(call.is_in_place for call in own)
            ordered.append((min((order[key] for key in keys), default=math.inf), one))

    outside = dict.fromkeys(call.name for call in trace.calls.values() if call.owner is None and call.held is None)
    plan.stays += [f"{type(model).__name__}: {name} called by its hooks" for name in outside]
    for owner, forwards in trace.forwards.items():
        _plan_owner(plan, owner, forwards, by_mode, paths, order, ordered, trace.is_in_place_kept)
    plan.planned = [one for _, one in sorted(ordered, key=lambda pair: pair[0])]
    return plan


def _places(child: nn.Module, model: nn.Module, paths: dict[nn.Module, str], fixed: set[nn.Module]) -> list[Place]:
    if child is model:
        return [(model, "")]
    parents = [parent for parent in paths if parent not in fixed]
    places = [(parent, name) for parent in parents for name, value in parent._modules.items() if value is child]
    return [(parent, name) for parent, name in places if name not in vars(parent)]  # which would be found first


def _direct(calls: dict[Key, Call], places: list[Place]) -> list[tuple[list[Key], list[Place]]] | None:
    """Pair the calls of a held function with its places, (calls, places) for each rational; None if they do not pair.

    Where a place can only be guessed, or a call stays, the calls are replaced instead.
    """
    by_owner: dict[nn.Module | None, list[Key]] = {}
    for key, call in calls.items():
        by_owner.setdefault(call.owner, []).append(key)
    can_mode = all(_can_have_calls(owner) for owner in by_owner)
    if can_mode and any(call.why_it_stays for call in calls.values()):
        return None
    if len(calls) <= 1:
        return [(list(calls), places)]
    groups, used = [], set()
    for owner, keys in by_owner.items():
        own = [place for place in places if place[0] is owner]
        in_order = type(owner).forward is nn.Sequential.forward and "forward" not in vars(owner)
        if len(own) != len(keys) or (len(own) > 1 and not in_order):
            return None if can_mode else [(list(calls), places)]
        groups += [([key], [place]) for key, place in zip(keys, own, strict=True)]
        used |= set(own)
    if rest := [place for place in places if place not in used]:
        groups.append(([], rest))
    return groups


def _can_have_calls(owner: nn.Module | None) -> bool:
    """Say whether calls in the forward of this module can be replaced: containers would call the new child, too."""
    return not (owner is None or isinstance(owner, (*_CONTAINERS, fx.GraphModule)) or call_sites.is_installed(owner))


def _plan_owner(
    plan: Plan,
    owner: nn.Module,
    forwards: list[tuple[Key, ...]],
    by_mode: dict[Key, Call],
    paths: dict[nn.Module, str],
    order: dict[Key, int],
    ordered: list[tuple[float, Planned]],
    is_in_place_kept: bool,
) -> None:
    """Plan the rationals for the calls that a module's forward makes."""
    forwards = [tuple(key for key in keys if key in by_mode) for keys in forwards]
    keys = sorted({key for forward in forwards for key in forward}, key=order.__getitem__)
    if not keys:
        return
    path = paths[owner] or type(owner).__name__
    is_changed = _can_have_calls(owner)
    if not is_changed:
        names = ", ".join(dict.fromkeys(by_mode[key].name for key in keys))
        plan.stays.append(f"{path}: {names} called by {type(owner).__name__}, whose forward cannot be changed")
        if not isinstance(owner, _CONTAINERS):
            return
    child = call_sites.free_name(owner)
    table: dict[tuple[Location, str], tuple[int, ...] | int] = {}
    index_of: dict[Key, int] = {}
    ones: list[Planned] = []

    def add(group: list[Key], is_loop: bool) -> int:
        """Plan a rational for calls, and return its index."""
        calls = [by_mode[key] for key in group]
        if not is_changed:
            return STAYS
        if why := next((call.why_it_stays for call in calls if call.why_it_stays), ""):
            plan.stays.append(f"{path}: {why} called by {type(owner).__name__}")
            return STAYS
        first, index = calls[0], len(ones)
        name = ".".join(filter(None, (paths[owner], child, str(index))))
        where = first.where or type(owner).__name__
        if is_loop:
            where += ", every round"
        elif first.number:
            where += f", round {first.number + 1}"
        one = Planned(name, first.function, first.name, owner.training, calls, [], first.device, where)
        one.is_in_place = is_in_place_kept and any(call.is_in_place for call in calls)
        ones.append(one)
        ordered.append((order[group[0]], one))
        return index

    for key in keys:
        place = by_mode[key].place, by_mode[key].name
        sequences = {tuple(k for k in forward if (by_mode[k].place, by_mode[k].name) == place) for forward in forwards}
        sequences.discard(())
        if len(sequences) == 1:
            index_of[key] = add([key], is_loop=False)
            table[place] = (*table.get(place, ()), index_of[key])
        elif key not in index_of:  # rounds of a loop that ends earlier or later cannot be told apart
            rounds = sorted({k for sequence in sequences for k in sequence}, key=order.__getitem__)
            table[place] = add(rounds, is_loop=True)
            index_of |= dict.fromkeys(rounds, table[place])
    whole = {tuple((by_mode[key].name, index_of[key]) for key in forward) for forward in forwards}
    has_others = any(isinstance(below, fx.GraphModule) or call_sites.is_compiled(below) for below in owner.modules())
    order = next(iter(whole)) if len(whole) == 1 and not has_others else None
    in_place = frozenset(index for index, one in enumerate(ones) if one.is_in_place)
    plan.owners[owner] = ones, CallSites(child, table, order, in_place, has_others)
