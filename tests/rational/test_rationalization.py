"""What is told of a model that was rationalized."""

import pytest
import torch
from torch import nn

from rlrat.rational import rationalize, rationalized
from rlrat.rational.rationalization import Rationalization, Replaced


def test_what_was_done_is_told():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.GRU(2, 2)).eval()
    x = torch.randn(4, 3, 2)
    before = model(x)[0]
    with pytest.warns(UserWarning, match="those of GRU"):
        rationalize(model, data=[x, x[:2]], interval=(-5, 5))
    result = rationalized(model)
    (one,) = result.replaced
    inputs = model[0](x)
    assert one == Replaced(
        "1", "relu", "", (-5.0, 5.0), model[1]._initial.max_error, one.kind, (inputs.min().item(), inputs.max().item())
    )
    assert result.stays == ("2: those of GRU",)
    change = (model(x)[0] - before).abs()
    assert result.max_change == pytest.approx(change.max().item())
    assert result.batches == 2
    assert 0.0 < result.mean_change < result.max_change


def test_without_data_nothing_is_measured():
    model = rationalize(nn.Sequential(nn.ReLU()))
    assert rationalized(model).max_change is None
    assert rationalized(model).why_no_bound == "no data were given"
    assert rationalized(rationalize(nn.Tanh(), data=[torch.ones(2)], interval=(-5, 5))).replaced[0].name == ""


def test_it_reads_as_a_table():
    ones = (
        Replaced("a.b", "relu", "", (-5.0, 5.0), 0.0212, "certified", None),
        Replaced("rationals.0", "gelu", "forward, m.py:3", (-1.25, 2.0), 1e-4, "sampled", (-1.0, 1.8)),
    )
    result = Rationalization(ones, ("2: those of GRU",), 3, 0.5, 0.25, 0.75)
    assert not result.is_certified
    assert str(result).splitlines() == [
        "rational     of    interval    error",
        "a.b          relu  [-5, 5]     2.12e-02 certified",
        "rationals.0  gelu  [-1.25, 2]  1.00e-04 sampled    forward, m.py:3",
        "stays: 2: those of GRU",
        "change of the outputs on 3 batches: 0.25 on average, 0.5 at most",
        "its bound: 0.75",
    ]
    assert str(Rationalization((), (), why_no_bound="no data were given")).endswith("no bound: no data were given")


def test_another_model_has_none():
    with pytest.raises(ValueError, match="this Linear does not come from rationalize"):
        rationalized(nn.Linear(1, 1))
