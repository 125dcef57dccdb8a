"""A run and its folder: the command line that agents share, the run itself, and all that is written, read and said of
it.
"""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__, {**dict.fromkeys(("RunArguments", "parse"), "arguments"), "Run": "run", "load_policy": "loading"}
)
