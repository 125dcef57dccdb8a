"""Load datasets of Minari, D4RL, this package and the user as one type, and draw batches of them."""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        **dict.fromkeys(("NO_EPISODES", "Dataset"), "dataset"),
        "load_dataset": "load",
        "Batch": "columns",
        "Units": "units",
        **dict.fromkeys(("Batches", "WindowBatch", "Windows"), "batches"),
        **dict.fromkeys(("ReferenceFamily", "RewardScaling"), "choices"),
    },
)
