"""Flat sequences of steps; which of them are kept is tested with D4RL's files, and what was saved in test_saving.py."""

import numpy as np
import pytest

from rlrat.datasets.bounds import Bounds
from rlrat.datasets.flat import Limit, check_steps, of_steps
from rlrat.errors import InputError


def test_optional_arrays_may_be_missing(d4rl_arrays):
    arrays = check_steps("log", {name: d4rl_arrays()[name] for name in ("observations", "actions", "rewards")})
    assert arrays["terminals"] is arrays["timeouts"] is arrays["next_observations"] is arrays["log_probs"] is None
    dataset = of_steps("mine", "log", arrays, None, Limit(10, None))
    assert dataset.episode_lengths.tolist() == [10] * 4
    assert (
        dataset.notes[0]
        == "log has no timeouts: its episodes are split after 10 steps, a guess (give --env-id for the right limit)"
    )
    np.testing.assert_array_equal(dataset.action_low, arrays["actions"].min(axis=0))


def test_columns_may_have_an_axis_of_one(d4rl_arrays):
    arrays = d4rl_arrays()
    columns = {name: array[:, None] if array.ndim == 1 else array for name, array in arrays.items()}
    found = check_steps("log", {**columns, "log_probs": np.zeros((40, 1))})
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
    assert found["log_probs"].shape == (40,)


def test_who_needs_what_is_said(d4rl_arrays):
    arrays = d4rl_arrays()
    del arrays["rewards"], arrays["terminals"]
    with pytest.raises(InputError, match=r"^log lacks rewards, terminals: a file has rewards, terminals$"):
        check_steps("log", arrays, ("rewards", "terminals"), "a file")


def test_log_probs_are_those_of_the_kept_steps(d4rl_arrays):
    arrays = check_steps("log", d4rl_arrays("t.o.b.t.") | {"log_probs": np.arange(40.0)})
    dataset = of_steps("mine", "log", arrays, Bounds(-1, 1), Limit(None, None))
    assert dataset.log_probs.tolist() == [step for step in range(40) if step not in (14, 39)]


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        (Limit(None, None), "only terminal states end its episodes"),
        (Limit(None, "A-v0"), "only terminal states end its episodes, as A-v0 has no time limit"),
        (Limit(9, "A-v0"), "its episodes are split after 9 steps, the time limit of A-v0"),
    ],
)
def test_a_limit_says_what_it_does(limit, said):
    assert str(limit) == said
