"""What command lines offer is what networks know."""

from typing import get_args, get_type_hints

import pytest

from rlrat.networks.choices import Initialization, Norm, PolicyHead, RationalVersion, own_module
from rlrat.networks.layers import INITIALIZATIONS, MLP, LayerNorm
from rlrat.networks.policies import Policy
from rlrat.rational import VERSIONS
from rlrat.runs.agents import agent_names, load_agent


def test_every_choice_is_known():
    assert set(get_args(Initialization)) == set(INITIALIZATIONS) - {"normal", "lecun_normal"}  # the transformer's
    assert get_args(RationalVersion) == VERSIONS
    assert set(get_args(PolicyHead)) == set(Policy.HEADS) - {"sac"}  # CQL's, which has no other
    built = {norm: MLP(3, (4,), 1, batch_shape=(1,), norm=norm).hidden[0].norm for norm in get_args(Norm)}
    assert built.pop("none") is None
    assert all(isinstance(norm, LayerNorm) for norm in built.values())


@pytest.mark.parametrize("agent", agent_names())
def test_agents_offer_the_same(agent):
    kinds = get_type_hints(load_agent(agent).Arguments)
    assert kinds["norm"] is Norm or set(get_args(kinds["norm"])) < set(get_args(Norm))  # a transformer has two
    assert kinds.get("initialization", Initialization) is Initialization
    assert kinds.get("policy", PolicyHead) is PolicyHead


def test_a_module_in_a_name_is_the_users():
    named = {"my.pack:Snake": "my.pack", "rational:gelu": None, "relu": None, ":x": ""}
    assert {name: own_module(name) for name in named} == named
