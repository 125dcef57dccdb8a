"""Runs: the command line that agents share, a run, its folder, and all that is written, read and said of it."""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        **dict.fromkeys(("RunArguments", "parse"), "arguments"),
        **dict.fromkeys(("RunResult", "train"), "training"),
        "Run": "run",
        "export": "exporting.exported",
        "load_policy": "loading",
    },
)
