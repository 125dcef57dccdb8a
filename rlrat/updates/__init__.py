"""What an update is made of, and how it is driven: optimizers, random numbers, the learner's protocol, compiling, CUDA
graphs and the machine.
"""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        **dict.fromkeys(("Adam", "SeedGuard", "cosine", "flatten", "polyak_"), "optim"),
        **dict.fromkeys(("Blocks", "Stream"), "random"),
        "Learner": "learner",
    },
)
