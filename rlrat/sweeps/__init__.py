"""Sweeps: a grid of runs, planned and checked as a whole, and carried out here, on Ray or on Slurm through any kill.

The run folders are the truth. Beside them a sweep keeps only `<run-dir>/.sweep/`: locks, logs, what failed, and the
grids that were asked for (`folder`). Nothing in here imports torch but the workers, which are the agents themselves
(`worker`).
"""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__, {**dict.fromkeys(("Block", "Grid", "expand", "make_jobs"), "grid"), "SweepFolder": "folder"}
)
