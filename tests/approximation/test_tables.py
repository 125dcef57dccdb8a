"""The paper's five tables, to all printed digits."""

import pytest

from rlrat.approximation.tables import log_errors, root_errors, short, tanh_errors, theta_errors

ROOT = "3.3333e-1 1.8236e-1 6.6062e-2 9.6374e-3 2.0889e-4 9.8182e-8 2.1689e-14 1.0584e-27 2.5207e-54 1.4296e-107"
THETA3 = "8.40e-2 3.81e-3 6.74e-6 2.09e-11 2.02e-22 1.88e-44 1.64e-88 1.24e-176"
THETA2 = "7.03e-2 3.19e-3 5.64e-6 1.75e-11 1.69e-22 1.58e-44"
LOG = "3.04 1.59 2.43e-1 3.48e-3 6.59e-7 2.36e-14 3.03e-29 4.97e-59 1.34e-118 9.78e-238"
TANH = "3.32e-4 1.24e-11 6.56e-34 9.58e-101"


def written(errors, digits=3):
    return " ".join(short(error, digits) for error in errors)


def test_the_tables_are_the_papers():
    assert written(root_errors(), 5) == f"{ROOT} 4.5987e-214"
    assert written(theta_errors(3)) == THETA3
    assert written(theta_errors(2, steps=5)) == THETA2
    assert written(log_errors()) == LOG
    assert written(tanh_errors()) == f"{TANH} 3.03e-301"
    assert written(tanh_errors(digits=320)) == f"{TANH} 2.99e-301"


@pytest.mark.parametrize(
    ("errors", "digits", "needed"),
    [(root_errors, 100, 215), (log_errors, 100, 239), (tanh_errors, 100, 301), (tanh_errors, 5, 301)],
)
def test_digits_that_do_not_suffice_say_how_many_do(errors, digits, needed):
    with pytest.raises(ValueError, match=rf"^{digits} digits do not suffice for \d+ steps of .*: about {needed} do$"):
        errors(digits=digits)
    assert errors(digits=needed)[-1] > 0


def test_arguments_near_a_limit_ask_for_more_digits():
    with pytest.raises(ValueError, match=r"^300 digits do not suffice for 1 steps of tanh: about 2403 do$"):
        tanh_errors(1e-300, steps=1)
    assert tanh_errors(1e-300, steps=1, digits=2403)[-1] > 0


@pytest.mark.parametrize(
    ("compute", "message"),
    [
        (lambda: root_errors(p=1), "p of a p-th root must be an integer of at least 2, not 1"),
        (lambda: root_errors(alpha0=1.5), "alpha0 of a p-th root must lie between 0 and 1, not at 1.5"),
        (
            lambda: theta_errors(3, k=1),
            "the modulus k of theta must lie between 0 and 1, where there is no branch point",
        ),
        (
            lambda: log_errors(0),
            "x of the logarithm must lie between 0 and 1, where there is no branch point, not at 0",
        ),
        (lambda: tanh_errors(-1), "s of tanh must lie between -1 and 1, where there is no branch point, not at -1"),
        (lambda: tanh_errors(0), "s of tanh must not be 0, where every error is 0"),
        (
            lambda: log_errors(steps=-1),
            "the logarithm takes steps of at least 0 and digits of at least 1, not -1 and 300",
        ),
    ],
)
def test_mistakes_are_one_line(compute, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        compute()
