"""Keep how far a run has come: what a checkpoint holds beside the learner's tensors."""

from dataclasses import dataclass, field

from torch import Tensor

from rlrat.evaluation.background import Snapshot


@dataclass
class TrainingProgress:
    """How far a group has come: what a checkpoint holds beside the learner's tensors."""

    update: int = 0
    train_seconds: float = 0.0
    wall_seconds: float = 0.0
    pending: tuple[Snapshot, ...] = ()
    """Evaluations that have no line in `evaluations.csv` yet."""
    failed: list[set[int]] = field(default_factory=list)
    """Of each member, the updates whose evaluation an environment broke off twice."""
    failure: str | None = None
    """Why the last of these evaluations failed, as far as this process knows."""
    missing: list[set[int]] = field(default_factory=list)
    """Of each member, the updates whose evaluation is known to be lost."""
    sums: dict[tuple[str, ...], tuple[Tensor, int]] = field(default_factory=dict)
    """Metrics summed up since their last point, `[metrics, S]`, over how many updates: by the names that these had."""
