"""Give arguments a field of each setting of networks for each role: `--critic-norm`, `--actor-hidden-dims`, ..."""

import inspect
import itertools
from typing import Annotated, ClassVar, get_args, get_type_hints

from tyro import conf

from rlrat.runs.schema import ROLE_SETTINGS


class PerRole:
    """Gives a dataclass of arguments, for each role of its networks, a field of each of `ROLE_SETTINGS`.

    `class Arguments(RunArguments, roles=("actor",))` has no critic, and refuses what is said of one.
    """

    roles: ClassVar[tuple[str, ...]] = ("actor", "critic")
    absent_roles: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, roles: tuple[str, ...] | None = None) -> None:
        own = inspect.get_annotations(cls)
        if roles is not None:
            every = (*cls.roles, *cls.absent_roles)
            cls.roles, cls.absent_roles = roles, tuple(role for role in every if role not in roles)
        elif not own.keys() & set(ROLE_SETTINGS):
            return
        hints, fields = get_type_hints(cls, include_extras=True), {}
        for role, name in itertools.product((*cls.roles, *cls.absent_roles), ROLE_SETTINGS):
            field = f"{role}_{name}"  # left alone where it is written out, here or in a class before
            if field in own or (role in cls.roles and getattr(cls, field, None) is not None):
                continue
            kind, *known = get_args(hints[name]) if hasattr(hints[name], "__metadata__") else (hints[name],)
            known += [conf.arg(help=f"The {role}'s, where it differs.", constructor=bool if kind is bool else None)]
            known += [conf.Suppress] if role in cls.absent_roles else []
            fields[field] = Annotated[(kind | None, *known)]
            setattr(cls, field, None)
        place = list(own).index(ROLE_SETTINGS[-1]) + 1 if ROLE_SETTINGS[-1] in own else len(own)
        entries = list(own.items())
        cls.__annotations__ = dict([*entries[:place], *fields.items(), *entries[place:]])
