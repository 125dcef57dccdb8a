"""rlrat's agents, a file each: `python agents/iql.py` in a clone, `rlrat iql` where it is installed."""
