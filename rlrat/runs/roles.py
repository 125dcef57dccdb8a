"""Give arguments a field of each setting of networks for each role: `--critic-norm`, `--actor-hidden-dims`, ..."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, get_args, get_type_hints

from tyro import conf

from rlrat.runs.schema import ROLE_SETTINGS


class PerRole:
    """Gives a dataclass of arguments, for each role of its networks, a field of each of `ROLE_SETTINGS` that it has.

    `class Arguments(RunArguments, roles=("actor",))` has no critic, and refuses what is said of one. A group of
    settings such as `rational` becomes a group of the same ones: `--critic-rational.degrees`.
    """

    roles: ClassVar[tuple[str, ...]] = ("actor", "critic")
    absent_roles: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, roles: tuple[str, ...] | None = None) -> None:
        own = cls.__annotations__
        if roles is not None:
            every = (*cls.roles, *cls.absent_roles)
            cls.roles, cls.absent_roles = roles, tuple(role for role in every if role not in roles)
        elif not own.keys() & set(ROLE_SETTINGS):
            return
        hints, fields = get_type_hints(cls, include_extras=True), {}
        shared = [name for name in ROLE_SETTINGS if name in hints]
        for role, name in itertools.product((*cls.roles, *cls.absent_roles), shared):
            field = f"{role}_{name}"  # left alone where it is written out, here or in a class before
            if field in own or (role in cls.roles and _is_given(getattr(cls, field, None))):
                continue
            fields[field] = _where_it_differs(hints[name], role, role in cls.absent_roles)
            setattr(cls, field, fields[field]() if dataclasses.is_dataclass(hints[name]) else None)
        last = [place + 1 for place, name in enumerate(own) if name in ROLE_SETTINGS]
        place = last[-1] if last else len(own)
        entries = list(own.items())
        own.clear()  # in order: a setting of roles follows what it differs from
        own.update([*entries[:place], *fields.items(), *entries[place:]])

    def of_role(self, role: str, name: str) -> Any:
        """Return a setting of `ROLE_SETTINGS` as the networks of a role have it."""
        shared, own = getattr(self, name), getattr(self, f"{role}_{name}")
        if dataclasses.is_dataclass(own):
            return dataclasses.replace(shared, **{k: value for k, value in vars(own).items() if value is not None})
        return shared if own is None else own

    def of_absent_roles(self) -> Iterator[tuple[str, str, Any]]:
        """Go through what is given of roles that the agent has not: role, name of the field, value."""
        for role, name in itertools.product(self.absent_roles, ROLE_SETTINGS):
            if _is_given(value := getattr(self, f"{role}_{name}", None)):
                yield role, f"{role}_{name}", value


def _is_given(value: Any) -> bool:
    return value is not None and not (dataclasses.is_dataclass(value) and set(vars(value).values()) == {None})


def _where_it_differs(kind: Any, role: str, absent: bool) -> Any:
    """Make a setting's type one that may be None; a group of settings a group of such."""
    if dataclasses.is_dataclass(kind):
        inner = get_type_hints(kind, include_extras=True)
        fields = [(name, _where_it_differs(inner[name], role, absent), None) for name in inner]
        return dataclasses.make_dataclass(f"{role.title()}{kind.__name__}", fields, frozen=True)
    kind, *known = get_args(kind) if hasattr(kind, "__metadata__") else (kind,)
    known += [conf.arg(help=f"The {role}'s, where it differs.", constructor=bool if kind is bool else None)]
    known += [conf.Suppress] if absent else []
    return Annotated[(kind | None, *known)]
