"""Tiny runs on the emulated GPU and on the CPU, and how to compare them.

Networks, batches and runs are as small as they may be: Triton's interpreter takes 10 to 100 ms for a program, and a
kernel has one program or more for each seed and critic.
"""

import pytest
import torch

from tests.agents.registered import REGISTERED
from tests.emulator import Emulator
from tests.short_runs import assert_equal_runs

TINY = (
    *("--total-updates", "10", "--batch-size", "4", "--eval-every", "5", "--eval-episodes", "1"),
    *("--max-episode-steps", "5", "--log-every", "2", "--checkpoint-every", "5"),
)
SHORTER = ("--total-updates", "6", "--eval-every", "3", "--checkpoint-every", "3")  # one recording, and it is replayed
# Adam divides by the gradient's size: rounding of gradients near zero shows in full, as a part of the learning rate.
# After ten updates no tensor of any agent was seen to differ by more than a tenth of this.
ROUNDING = {"rtol": 1e-3, "atol": 1e-5}


def on_gpu(members, name: str, *extra: str) -> tuple[list[dict], Emulator]:
    """What `members` returns of a run on the emulator, which met nothing that it should not."""
    with Emulator() as emulator:
        found, error = members(name, *extra)
    assert emulator.refused == []
    assert "runs as it is" not in error  # neither captured nor compiled
    assert emulator.unordered == []
    return found, emulator


def assert_close_runs(ours: dict, theirs: dict) -> None:
    """Equal but for rounding: their kernels add up in other orders."""
    for our_row, their_row in zip(ours["rows"], theirs["rows"], strict=True):
        assert float(our_row["return_mean"]) == pytest.approx(float(their_row["return_mean"]), rel=1e-3)
    assert ours["status"] == theirs["status"]
    assert ours["state"].keys() == theirs["state"].keys()
    for name, value in theirs["state"].items():
        torch.testing.assert_close(
            ours["state"][name], value, **ROUNDING, msg=lambda text, name=name: f"{name}: {text}"
        )


def assert_captured_as_on_the_cpu(agent: str, members, *settings: str) -> tuple[list[dict], Emulator]:
    """Make a captured run, and one on the CPU, and return the captured one."""
    captured, emulator = on_gpu(members, "captured", "--capture", *settings)
    assert emulator.captures == REGISTERED[agent].variants[1]
    assert emulator.replays > 2 * emulator.captures
    for ours, theirs in zip(captured, members("cpu", *settings)[0], strict=True):
        assert_close_runs(ours, theirs)
    return captured, emulator


def assert_same_on_every_way(agent: str, members, *settings: str) -> Emulator:
    """Make a run that is captured, one that is not, and one on the CPU."""
    captured, emulator = assert_captured_as_on_the_cpu(agent, members, *settings)
    plain, other = on_gpu(members, "plain", "--no-capture", *settings)
    assert (other.captures, other.replays) == (0, 0)
    for ours, theirs in zip(captured, plain, strict=True):
        assert_equal_runs(ours, theirs)
    return emulator


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)
