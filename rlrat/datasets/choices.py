"""List what a command line can choose about a dataset and its scores; torch is not needed."""

from typing import Literal

RewardScaling = Literal["none", "paper", "iql"]
"""See `rlrat.datasets.units.Units.of`."""
ReferenceFamily = Literal["v5", "d4rl", "success", "recorded"]
"""See `rlrat.evaluation.scores`."""
