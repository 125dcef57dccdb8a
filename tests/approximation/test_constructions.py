"""Constructions by name: modules that compute with + - * / alone, in PyTorch and in mpmath."""

from collections import Counter

import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from torch.utils._python_dispatch import TorchDispatchMode

from rlrat.approximation import construction, names

ARITHMETIC = {"add", "sub", "rsub", "mul", "div", "reciprocal"}


class Recorded(TorchDispatchMode):
    """Record what PyTorch computes."""

    def __init__(self):
        super().__init__()
        self.called = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), settings=None):
        self.called[function.name().split("::")[1].split(".")[0]] += 1
        return function(*arguments, **(settings or {}))


@pytest.mark.parametrize("name", names())
def test_the_graph_has_arithmetic_alone(name):
    """In PyTorch; traced.py's number raises at all else when operations are counted."""
    found = construction(name, 1)
    x = torch.full((3, 8), 0.5)
    with Recorded() as recorded:
        found(x)
    assert {*recorded.called} <= ARITHMETIC
    assert found.operations == recorded.called.total() - recorded.called["reciprocal"]  # c / x is two, 1 / x and c x
    assert found.parameters_count > 0


@pytest.mark.parametrize("name", names())
def test_one_definition_computes_alike_everywhere(name):
    found = construction(name, 1)
    x = torch.tensor(sorted(found.points(9)), dtype=torch.float64)
    exact = torch.tensor([float(found.mpmath(value)) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(found(x), exact, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found(x.float()).double(), exact, rtol=1e-5, atol=1e-5)
    assert found(x.reshape(1, -1, 1)).shape == (1, len(x), 1)


@pytest.mark.parametrize("name", names())
def test_derivatives_are_those_of_the_composition(name):
    found = construction(name, 1)
    x = torch.tensor(found.points(3)[:4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(found, x)


@pytest.mark.parametrize("name", names())
def test_errors_are_below_the_bound(name):
    found = construction(name, 1)
    assert found.measured_error("mpmath", 21) <= found.error_bound * (1 + mpf("1e-13"))


def test_digits_that_do_not_suffice_are_refused():
    found = construction("sign", 6)
    assert found.digits_needed == 262
    with pytest.raises(ValueError, match=r"^100 digits do not suffice for sign with 6 steps, .* 6.86e-261: 262 do$"):
        found.mpmath(1, 100)
    with mp.workdps(320):
        assert 1e-262 < abs(found.mpmath(1, 300) - 1) < 7e-261


def test_as_many_steps_as_an_error_asks_for():
    assert [construction("sign", error=error).steps for error in (0.1, 1e-3, 1e-9, 1e-10)] == [2, 3, 3, 4]


def test_the_domain_is_watched_where_that_is_asked():
    assert construction("relu", domain=(-2, 2)).domain == (-2.0, 2.0)
    found = construction("relu", strict=True)
    found(torch.tensor([-1.0, 1.0]))
    with pytest.raises(ValueError, match=r"^relu is claimed from -1 to 1, and x goes from -0.5 to 1.5$"):
        found(torch.tensor([-0.5, 1.5]))
    with pytest.raises(ValueError, match=r"^relu is claimed from -1 to 1, and x goes from 2 to 2$"):
        found.mpmath(2)
    with pytest.raises(ValueError, match="x goes from nan to nan"):
        found(torch.tensor([float("nan")]))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rleu", {}, "there is no construction 'rleu', only relu, abs, sign, step"),
        ("relu", {"p": 2}, "relu has no setting 'p', only domain, scaled"),
        ("relu", {"steps": 0}, "the steps of relu must be an integer from 1 to 20, not 0"),
        ("relu", {"steps": 2.5}, "the steps of relu must be an integer from 1 to 20, not 2.5"),
        ("relu", {"steps": 3, "error": 0.1}, "a construction is made of steps or for an error, not both"),
        ("relu", {"error": 0}, "the error of relu must be above 0, not 0"),
        ("relu", {"domain": (1, 1)}, r"the domain of relu must be finite and low < high, not \(1, 1\)"),
        ("relu", {"domain": (0, np.inf)}, r"the domain of relu must be finite and low < high, not \(0, inf\)"),
        ("sign", {"steps": 12}, "sign with 12 steps has an error below 1e-1265: fewer steps do"),
    ],
)
def test_mistakes_are_one_line(name, settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        construction(name, **settings)


def test_other_numbers_are_refused():
    with pytest.raises(ValueError, match=r"relu computes in float32 or float64, not in torch\.int64"):
        construction("relu")(torch.tensor([1]))
