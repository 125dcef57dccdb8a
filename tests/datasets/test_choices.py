"""What command lines offer is what units know."""

from typing import get_args, get_type_hints

import pytest

from rlrat.datasets.choices import RewardScaling
from rlrat.datasets.units import Units
from rlrat.runs.agents import agent_names, load_agent


def test_every_reward_scaling_is_known(small_dataset):
    spread = small_dataset.best_return - small_dataset.worst_return
    factors = {name: Units.of(small_dataset, True, 1e-3, name).reward_scale for name in get_args(RewardScaling)}
    assert factors == {"none": 1.0, "paper": 1.0 / spread, "iql": 1000.0 / spread}


@pytest.mark.parametrize("agent", agent_names())
def test_agents_offer_the_same(agent):
    assert get_type_hints(load_agent(agent).Arguments).get("reward_scaling", RewardScaling) is RewardScaling
