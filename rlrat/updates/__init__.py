"""Updates: what one is made of (the learner's protocol, optimizers, random numbers) and what drives it (compiling, CUDA
graphs, the machine).
"""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        **dict.fromkeys(("Adam", "SeedGuard", "cosine", "polyak_"), "optim"),
        **dict.fromkeys(("DropoutMasks", "Stream", "UpdateBlocks"), "random"),
        "Learner": "learner",
        "TrainedActivation": "trained_activations",
        "flatten": "flat",
    },
)
