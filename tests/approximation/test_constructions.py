"""Constructions by name: modules that compute with + - * / alone, in PyTorch and in mpmath."""

import copy
import pickle
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from torch.utils._python_dispatch import TorchDispatchMode

from rlrat.approximation import construction, names

ROWS = {"softmax", "softmin", "logsoftmax", "swiglu", "geglu"}
ARITHMETIC = {"add", "sub", "rsub", "mul", "div", "reciprocal"}


SLOWER = ("tanh", "gelu", "softplus", "exp", "log", "relu")


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
    if name in ROWS:  # there the last axis is taken apart
        assert recorded.called.pop("slice") > 0
        assert {*recorded.called} <= ARITHMETIC
    else:
        assert {*recorded.called} <= ARITHMETIC
        # c / x is two, 1 / x and c x.
        assert found.operations == recorded.called.total() - recorded.called["reciprocal"]
    assert found.parameters_count > 0


@pytest.mark.parametrize("name", names())
def test_one_definition_computes_alike_everywhere(name):
    """In float32, float64, and mpmath at 300 digits, whose error stays below the bound."""
    found = construction(name, 1)
    points = found.points(2)[-4:]
    x = torch.tensor(points, dtype=torch.float64)
    with mp.workdps(300):
        values = [found.mpmath(each, 300) for each in points]
        assert {type(value) for value in np.array(values).flat} == {mpf}
        exact = [found.exact(np.vectorize(mpf, otypes=[object])(each).tolist()) for each in points]
        assert np.max(np.abs(np.array(values) - np.array(exact))) <= found.error_bound * (1 + mpf("1e-13"))
    values = torch.tensor(np.array(values, dtype=np.float64))
    torch.testing.assert_close(found(x), values, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(found(x.float()).double(), values, rtol=1e-5, atol=3e-5)
    assert found(x.reshape(1, -1, *x.shape[1:])).shape == (1, *values.shape)


@pytest.mark.parametrize("name", names())
def test_nothing_is_divided_by_zero(name):
    found = construction(name, 2)
    low, high = found.domain
    ends = [each for each in (low, -1e-45, 0.0, 1e-45, high) if low <= each <= high]
    for dtype in (torch.float32, torch.float64):
        x = torch.tensor(ends, dtype=dtype)
        x = (x.unsqueeze(-1).repeat(1, 8) if name in ROWS else x).requires_grad_()
        y = found(x)
        y.sum().backward()
        assert y.isfinite().all()
        assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["relu", "log", "gelu", "swiglu"])
def test_derivatives_are_those_of_the_composition(name):
    found = construction(name, 1)
    assert torch.autograd.gradcheck(found, torch.tensor(found.points(2)[:2], dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize(
    "name",
    ["sign", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOWER)],
)
def test_constants_grow_as_a_power_of_the_logarithm_of_the_logarithm(name):
    """The paper's overhead: here about the square of log2 log2 (1 / error) at most, from 1e-4 to 1e-128."""
    sizes = {digits: construction(name, error=10.0**-digits).parameters_count for digits in (4, 16, 128)}
    shares = [size / np.log2(digits * np.log2(10)) ** 2 for digits, size in sizes.items()]
    assert max(shares[1:]) < 1.4 * min(shares[:2])
    assert sizes[128] < 8 * sizes[4]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(names()),
    st.integers(1, 3),
    st.tuples(st.floats(-30, 30), st.floats(-30, 30)).filter(lambda ends: abs(ends[0] - ends[1]) > 1e-3),
    st.floats(0.01, 0.99),
)
def test_bounds_hold_whatever_the_domain(name, steps, ends, share):
    low, high = sorted(ends)
    if name in ("root", "log"):
        low, high = 10 ** (low / 5), 10 ** (high / 5)
    choices = {
        "sign": {"gap": share**8 * max(-low, high)},
        "step": {"gap": share**8 * max(-low, high)},
        "root": {"p": 2 + int(10 * share)},
        "elu": {"alpha": 10 * share},
        "celu": {"alpha": 10 * share},
        "leaky_relu": {"slope": 4 * share - 2},
    }
    found = construction(name, steps, domain=(low, high), **choices.get(name, {}))
    assert found.measured_error("mpmath", 7) <= found.error_bound * (1 + mpf("1e-12"))


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


def test_rows_are_watched_by_what_they_are():
    softmax = construction("softmax", 1, features=3, domain=(-1, 1), strict=True)
    x = torch.tensor([[100.0, 101.0, 102.0], [0.0, -2.0, -1.0]], dtype=torch.float64)
    torch.testing.assert_close(softmax(x), x.softmax(-1), rtol=1e-9, atol=0)
    with pytest.raises(ValueError, match=r"^softmax is claimed for rows whose entries differ by at most 2, .* by 2.5$"):
        softmax(x * 1.25)
    with pytest.raises(ValueError, match=r"^softmax is claimed for rows whose entries differ by at most 2, .* by 3$"):
        softmax.mpmath([0, 1, 3])
    with pytest.raises(ValueError, match=r"^softmax is made for a last axis of 3 features, not of 4$"):
        softmax(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"^softmax is made for a last axis of 3 features, not of 2$"):
        softmax.mpmath([0, 1])
    with pytest.raises(ValueError, match=r"^swiglu takes a last axis of two halves, not of 3 entries$"):
        construction("swiglu", 1)(torch.zeros(3))
    assert construction("swiglu", 1)(torch.zeros(2, 6)).shape == (2, 3)
    with pytest.raises(ValueError, match=r"^geglu is claimed from -5 to 5, and x goes from 0 to 6$"):
        construction("geglu", 1, strict=True)(torch.tensor([0.0, 6.0]))


def test_modules_are_copied_and_saved():
    found = construction("gelu", 1)
    x = torch.randn(5)
    assert torch.equal(pickle.loads(pickle.dumps(copy.deepcopy(found)))(x), found(x))
    assert not found.state_dict()
    assert found(torch.empty(0)).shape == (0,)
    assert repr(found) == "Construction(gelu, steps=1, domain=(-5.0, 5.0), error_bound=1.06e-14)"


@pytest.mark.slow
def test_modules_are_exported():
    found = construction("gelu", 1)
    x = torch.randn(5)
    assert torch.equal(torch.export.export(found, (x,)).module()(x), found(x))


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("rleu", {}, "there is no construction 'rleu', only relu, abs, sign, step"),
        ("relu", {"p": 2}, "relu has no setting 'p', only domain, scaled"),
        ("relu", {"steps": 0}, "the steps of relu must be an integer from 1 to 16, not 0"),
        ("relu", {"steps": 2.5}, "the steps of relu must be an integer from 1 to 16, not 2.5"),
        ("relu", {"steps": 3, "error": 0.1}, "a construction is made of steps or for an error, not both"),
        ("relu", {"error": 0}, "the error of relu must be above 0, not 0"),
        ("relu", {"domain": (1, 1)}, r"the domain of relu must be finite and low < high, not \(1, 1\)"),
        ("relu", {"domain": (0, np.inf)}, r"the domain of relu must be finite and low < high, not \(0, inf\)"),
        ("relu", {"domain": (1, 2, 3)}, r"the domain of relu must be finite and low < high, not \(1, 2, 3\)"),
        ("exp", {"steps": 6}, "exp with 6 steps has an error below 1e-1265: fewer steps do"),
        ("sign", {"error": 1e-9, "gap": 1e-30, "scaled": False}, "sign has no error of 1e-09 after 16 steps, but 1.0$"),
        ("leaky_relu", {"slope": 1}, "the slope of leaky_relu must be finite and not 1, which is no kink, not 1"),
        (
            "leaky_relu",
            {"slope": np.nan},
            "the slope of leaky_relu must be finite and not 1, which is no kink, not nan",
        ),
        ("softmax", {"sign": 2}, "softmax has no setting 'sign', only domain, features"),
        ("elu", {"alpha": 0}, "alpha of an ELU must be above 0 and finite, not 0"),
        ("celu", {"alpha": -1}, "alpha of an ELU must be above 0 and finite, not -1"),
        ("celu", {"alpha": 0}, "alpha of an ELU must be above 0 and finite, not 0"),
        ("softmax", {"features": 1}, "the features of a softmax must be an integer of at least 2, not 1"),
        ("sign", {"steps": 12}, "sign with 12 steps has an error below 1e-1265: fewer steps do"),
    ],
)
def test_mistakes_are_one_line(name, settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        construction(name, **settings)


def test_other_numbers_are_refused():
    with pytest.raises(ValueError, match=r"relu computes in float32 or float64, not in torch\.int64"):
        construction("relu")(torch.tensor([1]))
