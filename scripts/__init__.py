"""rlrat's tools, a file each: `python scripts/sweep.py` in a clone, `rlrat sweep` where it is installed."""
