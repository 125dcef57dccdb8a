"""Whole runs with rational activations on the emulated GPU, whose kernels run in Triton's interpreter."""

import pytest
import torch

from tests.agents.learners import AGENTS
from tests.emulator.whole_runs import SHORTER, assert_captured_as_on_the_cpu, assert_same_on_every_way, slow

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="Triton compiles where there is a GPU")
RATIONAL = ("--activation", "rational", "--num-seeds")


@pytest.mark.parametrize(
    ("agent", "seeds"),
    [("bc", 1), *(slow(agent, 1) for agent in AGENTS if agent != "bc"), slow("bc", 5)],
)
def test_runs_are_the_same_on_every_way(agent, seeds, members):
    emulator = assert_same_on_every_way(agent, members, *RATIONAL, str(seeds))
    assert emulator.launches.counts["forward_kernel"] > emulator.launches.counts["backward_kernel"] > 0


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "seeds"), [("iql", 2), ("bc", 64)])
def test_captured_runs_are_those_of_the_cpu(agent, seeds, members):
    assert_captured_as_on_the_cpu(agent, members, *RATIONAL, str(seeds), *SHORTER)
