"""Carry out sweeps: a grid of runs is planned and checked as a whole, and runs here, on Ray or Slurm, through any kill.

The run folders are the truth. Beside them a sweep keeps only `<run-dir>/.sweep/`: locks, logs, what failed, and the
grids that were asked for (`folder`). No module here imports torch at its top. The workers import it, because they are
the agents themselves (`worker`).
"""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__, {**dict.fromkeys(("Block", "Grid", "expand", "make_jobs"), "grid"), "SweepFolder": "folder"}
)
