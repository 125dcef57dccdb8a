"""Which rational stands where, and on which interval it is fitted."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rlrat.rational import Rational, rationalize, rationalized
from rlrat.rational.planning import _interval
from tests.rational.models import LoopedMLP

TABLE = (-5.0, 5.0)


def run(forward, *children, **settings):
    """Rationalize a module with this forward and these children."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.children_ = nn.ModuleList(children)

    Model.forward = forward
    model = Model()
    return rationalize(model, data=[torch.linspace(-1, 1, 9)], **{"interval": TABLE} | settings)


def names(model):
    return [one.name for one in rationalized(model).replaced]


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (None, TABLE),
        ((-2.0, 2.0), (-2.2, 2.2)),
        ((0.0, 0.0), (-0.5, 0.5)),
        ((100.0, 100.0), (50.0, 150.0)),
        ((1.0, 1.0001), (0.49995, 1.50015)),
    ],
)
def test_the_interval_of_what_was_seen(seen, expected):
    assert _interval(seen) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("seen", [(-math.inf, 1.0), (0.0, math.inf), (math.nan, math.nan)])
def test_a_range_that_is_not_finite(seen):
    with pytest.raises(ValueError, match="not all finite"):
        _interval(seen)


def test_fits_are_made_on_the_range_that_each_call_sees():
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 16).reshape(2, 8)
    model = LoopedMLP(2)
    before = model.layers[0](x)
    rationalize(model, degrees=(2, 1), data=[x])
    low, high = model.rationals[0].interval
    width = before.max() - before.min()
    assert low == pytest.approx((before.min() - 0.05 * width).item(), rel=1e-5)
    assert high == pytest.approx((before.max() + 0.05 * width).item(), rel=1e-5)
    one = rationalized(model).replaced[0]
    assert one.range == pytest.approx((before.min().item(), before.max().item()), rel=1e-6)
    points = torch.linspace(low, high, 1001)
    largest = (model.rationals[0](points) - F.relu(points)).abs().max().item()
    assert one.error == pytest.approx(largest, rel=0.02)
    assert model.rationals[1].interval != (low, high)


def test_a_fit_is_sharp_inside_and_remains_the_function_outside():
    """With a free tail ReLU is the identity where all inputs were positive; one of weight 0.001 costs SiLU 2e-4."""
    silu = rationalize(nn.SiLU(), data=[torch.linspace(-1, 1, 9)])
    assert rationalized(silu).replaced[0].error < 1e-5
    relu = rationalize(nn.ReLU(), data=[torch.linspace(0.6, 2.8, 9)])
    assert rationalized(relu).replaced[0].error < 1e-5
    assert relu(torch.tensor([-0.5])).abs().item() < 0.15


def test_modules_are_replaced_where_they_are_or_where_they_are_called():
    shared = nn.ReLU()
    loop = run(lambda self, x: [x := child(x) for child in self.children_][-1], nn.ReLU(), shared, shared, nn.SiLU())
    assert names(loop) == ["children_.0", "rationals.0", "rationals.1", "children_.3"]
    assert loop.children_[1] is loop.children_[2]
    sequence = rationalize(nn.Sequential(shared, nn.Linear(2, 2), shared), data=[torch.ones(1, 2)], interval=TABLE)
    assert names(sequence) == ["0", "2"]
    assert sequence[0] is not sequence[2]
    one_call = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    twice = rationalize(nn.Sequential(one_call, one_call), data=[torch.ones(1, 2)], interval=TABLE)
    assert names(twice) == ["0.1"]  # the weights are the same at both calls, and so is the rational
    torch.manual_seed(0)
    never = run(lambda self, x: F.relu(x), nn.Tanh(), interval="auto", degrees=(5, 4))
    assert names(never) == ["rationals.0", "children_.0"]
    assert rationalized(never).replaced[1].range is None
    assert rationalized(never).replaced[1].interval == TABLE


def test_one_module_in_several_parents_becomes_one_for_each():
    act = nn.ReLU()

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.act = nn.Linear(2, 2), act

        def forward(self, x):
            return self.act(self.linear(x))

    model = rationalize(nn.Sequential(Block(), Block(), act), data=[torch.ones(3, 2)], interval=TABLE)
    assert names(model) == ["0.act", "1.act", "2"]
    assert len({id(module) for module in model.modules() if isinstance(module, Rational)}) == 3


def test_a_sequence_with_a_forward_of_its_own_is_named():
    class Sequence(nn.Sequential):
        def forward(self, x):
            return F.relu(super().forward(x))

    act = nn.Tanh()
    model = Sequence(nn.Linear(2, 2), act, act)
    with pytest.warns(UserWarning, match=r"Sequence: relu called by Sequence, whose forward cannot be changed"):
        rationalize(model, data=[torch.ones(1, 2)], interval=TABLE)
    assert names(model) == ["1"]
    assert model[1] is model[2]


def test_held_functions_are_replaced_where_they_are_held_if_one_call_takes_them():
    class Holder(nn.Module):
        def __init__(self, calls):
            super().__init__()
            self.act, self.calls = F.elu, calls

        def forward(self, x):
            y = self.act(x)
            return self.act(y) if self.calls == 2 else y

    once, twice = (rationalize(Holder(calls), data=[torch.ones(2)], interval=TABLE) for calls in (1, 2))
    assert (names(once), names(twice)) == (["act"], ["rationals.0", "rationals.1"])
    assert twice.act is F.elu


def test_a_call_that_stays_is_passed_by():
    def forward(self, x):
        return F.softplus(self.scale) * F.softplus(x)

    model = nn.Module()
    model.scale = nn.Parameter(torch.ones(()))
    model.__class__ = type("Model", (nn.Module,), {"forward": forward})
    with pytest.warns(UserWarning, match="softplus of a parameter called by Model"):
        rationalize(model, data=[torch.ones(2)], interval=TABLE)
    x = torch.randn(3)
    torch.testing.assert_close(model(x), F.softplus(model.scale) * model.rationals[0](x))


def test_what_a_hook_of_the_model_calls_is_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Tanh())
    model.register_forward_hook(lambda module, args, output: F.relu(output))
    with pytest.warns(UserWarning, match="replace: Sequential: relu called by its hooks$"):
        rationalize(model, data=[torch.ones(1, 2)], interval=TABLE)


def test_inputs_that_are_not_finite_change_nothing():
    model = LoopedMLP(1)
    with pytest.raises(ValueError, match=r"^rationals\.0, relu: its inputs on data are not all finite$"):
        rationalize(model, data=[torch.full((1, 8), torch.nan)])
    assert type(model) is LoopedMLP
    assert not hasattr(model, "rationals")
