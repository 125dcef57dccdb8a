"""Datasets: Minari's, D4RL's, the packaged ones and a user's own, all as one type, and batches of them."""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        **dict.fromkeys(("NO_EPISODES", "Dataset"), "dataset"),
        "load_dataset": "load",
        **dict.fromkeys(("Batch", "Batches", "Units", "WindowBatch", "Windows"), "batches"),
        **dict.fromkeys(("ReferenceFamily", "RewardScaling"), "choices"),
    },
)
