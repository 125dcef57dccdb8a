import numpy as np
import pytest

from rlrat.datasets.steps import check_finite, step_array, step_flags, to_float32, where
from rlrat.errors import InputError


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("observations", {"position": [[1.0]]}, "a.hdf5: observations are a dict: only flat vectors"),
        ("observations", [[1.0], [1.0, 2.0]], "observations are ragged"),
        ("observations", [["a"]], "observations are <U1: numbers are needed"),
        ("observations", [1.0, 2.0], r"observations have shape \[2\], not \[steps, features\]"),
        ("actions", [1.0, 2.0], r"not \[steps, features\]: reshape\(-1, 1\)"),
        ("observations", np.zeros((2, 84, 84)), "flat vectors only; d3rlpy learns from images"),
        ("observations", np.zeros((2, 0)), r"observations have shape \[2, 0\]"),
        ("actions", np.zeros((2, 3), np.int64), "actions are int64: continuous actions only"),
        ("actions", np.zeros((2, 3), bool), "actions are bool: continuous actions only"),
    ],
)
def test_what_is_no_array_of_steps_is_named(name, value, message):
    with pytest.raises(InputError, match=message):
        step_array("a.hdf5", name, value, "fiu", ndim=2)


def test_an_array_of_steps_keeps_its_type():
    found = step_array("a.hdf5", "rewards", [1, 2], "fiu", ndim=1)
    assert (found.dtype.kind, found.tolist()) == ("i", [1, 2])
    assert step_array("a.hdf5", "actions", np.zeros((2, 3), np.float16), "f", ndim=2).dtype == np.float16


def test_flags_are_true_and_false_or_1_and_0():
    for value in ([True, False], [1, 0], [1.0, 0.0]):
        found = step_flags("a.hdf5", "terminals", value)
        assert (found.dtype, found.tolist()) == (np.bool_, [True, False])
    for value in ([1, 2], [np.nan, 0.0]):
        with pytest.raises(InputError, match=r"terminals hold (2|nan): true and false \(1 and 0\) only"):
            step_flags("a.hdf5", "terminals", value)


def test_what_is_beyond_float32_is_infinite_and_named():
    array = to_float32(np.array([[0.0, 1.0], [2.0, 1e300], [np.nan, 3.0]]))
    assert array.dtype == np.float32
    assert np.isposinf(array[1, 1])
    message = r"own: actions hold inf at episode 1, step 0 \(component 1\): finite float32 numbers are needed"
    with pytest.raises(InputError, match=message):
        check_finite("own", "actions", array, np.array([0, 1]))
    with pytest.raises(InputError, match="rewards hold nan at episode 0, step 2: finite"):
        check_finite("own", "rewards", array[:, 0], np.array([0, 3]))
    check_finite("own", "actions", array[:1], np.array([0]))


def test_a_row_is_named_by_its_episode_and_step():
    starts = np.array([0, 5, 6])
    assert [where(row, starts) for row in (0, 4, 5, 9)] == [
        "episode 0, step 0",
        "episode 0, step 4",
        "episode 1, step 0",
        "episode 2, step 3",
    ]
