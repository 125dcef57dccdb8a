"""Each role of networks has its own of every setting, of the choices that the agent gives."""

from dataclasses import dataclass, field, fields
from functools import partial
from typing import Literal, get_type_hints

import pytest

from agents import bc
from agents.iql import Arguments
from rlrat.errors import InputError
from rlrat.networks.layers import MLP
from rlrat.runs.arguments import RationalArguments, RunArguments, parse, run_name, validate
from rlrat.updates.optim import SeedGuard


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


def test_a_role_has_its_own_of_each_setting_of_rationals():
    """What it does not say itself is as for all roles; the coefficients' rate is what its optimizers take."""
    argv = ["--rational.version", "B", "--rational.rate-scale", "2", "--critic-rational.degrees", "3", "2"]
    read = parse(Arguments, "", [*argv, "--critic-rational.rate-scale", "0"])
    assert read.network("critic")["activation_settings"] == {"degrees": (3, 2), "version": "B", "groups": 1}
    assert read.network("actor")["activation_settings"] == {"degrees": (5, 4), "version": "B", "groups": 1}
    assert read.of_role("critic", "rational") == RationalArguments((3, 2), "B", 1, 0.0)
    assert read.of_role("actor", "rational") == read.rational == RationalArguments((5, 4), "B", 1, 2.0)
    own = "critic_rational.degrees=3x2,critic_rational.rate_scale=0.0"
    assert run_name(read) == f"{own},rational.rate_scale=2.0,rational.version=B"
    network = MLP(3, (4,), 2, batch_shape=(1,), activation="rational")
    for role, scale in (("actor", 2.0), ("critic", 0.0)):
        optimizer = read.adam(network, 1e-3, role, name="n", guard=SeedGuard(1))
        assert set(optimizer._scales) == {1.0, scale}


def test_dropout_is_a_roles_where_the_agent_has_it():
    arguments = parse(Arguments, "", ["--dropout", "0.2", "--critic-dropout", "0"])
    assert (arguments.of_role("actor", "dropout"), arguments.of_role("critic", "dropout")) == (0.2, 0.0)
    assert not any(field.name.endswith("dropout") for field in fields(RunArguments))
    with pytest.raises(InputError, match=r"^--critic-dropout is 0.1, but this agent has no critic: leave it out$"):
        validate(bc.Arguments(critic_dropout=0.1))


def test_an_agent_may_write_out_a_group_of_a_role_and_lacks_that_of_a_role_that_it_has_not():
    @dataclass(frozen=True)
    class Own(RunArguments, roles=("actor",)):
        actor_rational: RationalArguments = field(default_factory=partial(RationalArguments, version="C"))
        """Written out."""

    assert Own(rational=RationalArguments(groups=2)).of_role("actor", "rational") == RationalArguments(version="C")
    absent = type(Own().critic_rational)(degrees=(3, 2))
    with pytest.raises(InputError, match=r"^--critic-rational is .*\(3, 2\).*, but this agent has no critic: leave"):
        validate(Own(critic_rational=absent))
    validate(Own(critic_rational=type(absent)()))
