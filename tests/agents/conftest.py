"""Shorter blocks of random numbers: most learners here make a few updates."""

import pytest

from rlrat.updates import random


@pytest.fixture(autouse=True)
def _short_blocks(monkeypatch):
    """Draw for 8 updates at once, not 64; the numbers of an update are the same (tests/updates/test_random.py)."""
    monkeypatch.setattr(random, "_BLOCK_UPDATES", 8)
