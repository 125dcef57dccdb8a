"""Each role of networks has its own of every setting, of the choices that the agent gives."""

from dataclasses import dataclass
from typing import Literal, get_type_hints

import pytest

from agents.iql import Arguments
from rlrat.errors import InputError
from rlrat.runs.arguments import RunArguments, validate


def test_an_agent_says_which_roles_it_has():
    @dataclass(frozen=True)
    class Valued(RunArguments, roles=("actor", "value")):
        norm: Literal["none", "layer"] = "layer"
        """Its own choices, which are those of its roles, too."""
        actor_hidden_dims: tuple[int, ...] = (4,)
        """Written out."""

    @dataclass(frozen=True)
    class More(Valued):
        hidden_dims: tuple[int, ...] = (8, 8)
        """Another default, which changes nothing of what is written out above."""

    for kind in (Valued, More):
        validate(kind())
        hints = get_type_hints(kind)
        assert hints["value_norm"] == Literal["none", "layer"] | None
        assert kind(value_gated=True).network("value")["gated"]
        assert kind().network("actor")["hidden_dims"] == (4,)
        assert kind().network("value")["norm"] == "layer"
        with pytest.raises(InputError, match=r"^--critic-norm is layer, but this agent has no critic: leave it out$"):
            validate(kind(critic_norm="layer"))
    assert More().network("value")["hidden_dims"] == (8, 8)
    assert RunArguments.roles == Arguments.roles == ("actor", "critic")
