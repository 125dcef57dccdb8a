"""What a command line can choose of a dataset, and what it can be scored by, without torch."""

from typing import Literal

RewardScaling = Literal["none", "paper", "iql"]
"""See `rlrat.datasets.batches.Units.of`."""
ReferenceFamily = Literal["v5", "d4rl"]
"""See `rlrat.evaluation.scores`."""
