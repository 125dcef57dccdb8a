"""Every seed is below the limit, wherever one is given."""

import pytest

from agents.bc import Arguments
from rlrat.errors import InputError
from rlrat.runs.arguments import validate
from rlrat.sweeps.checks import check_settings
from rlrat.sweeps.grid import Block, Grid, expand
from rlrat.updates.random import Stream
from rlrat.updates.seeds import SEED_LIMIT


def test_of_random_numbers():
    assert Stream([0, SEED_LIMIT - 1], "test").bits(0, 4).shape[0] == 2
    for seed in (-1, SEED_LIMIT):
        with pytest.raises(ValueError, match="seeds must lie in"):
            Stream([seed], "test")


def test_of_a_run():
    validate(Arguments(seed=SEED_LIMIT - 2, num_seeds=2))
    with pytest.raises(InputError, match="the last of --num-seeds must be below 4,294,967,296"):
        validate(Arguments(seed=SEED_LIMIT - 1, num_seeds=2))


def test_of_a_sweep(tmp_path):
    grid = Grid((Block(("bc",)),), seeds=2, first_seed=SEED_LIMIT - 2)
    check_settings(expand(grid, tmp_path))
    with pytest.raises(InputError, match="the last seed is 4,294,967,296, but must be below 4,294,967,296"):
        check_settings(expand(Grid(grid.blocks, seeds=3, first_seed=SEED_LIMIT - 2), tmp_path))
