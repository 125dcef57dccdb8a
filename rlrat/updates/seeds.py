"""What seeds may be; command lines ask without torch."""

SEED_LIMIT = 2**32
"""Every seed is below: it is a word of the random numbers' key, see `rlrat.updates.random`."""
