"""Where the coefficients of a rational come from at first."""

import pytest
import torch
from torch import nn

from rlrat.rational import VERSIONS, initial
from rlrat.rational.initial import find
from rlrat.rational.table import table

QUICK = (((3, 2), "A"), ((2, 0), "N"), ((1, 1), "B"))
OTHER = [
    pytest.param(degrees, version, marks=[] if (degrees, version) in QUICK else [pytest.mark.slow])
    for degrees in ((3, 2), (4, 3), (2, 0), (1, 1))
    for version in VERSIONS
]


@pytest.mark.parametrize(("degrees", "version"), OTHER)
def test_other_degrees(degrees, version):
    fitted = find("gelu", degrees, version)
    assert fitted.degrees == degrees
    assert fitted.max_error < {(3, 2): 0.1, (4, 3): 0.1, (2, 0): 1.24, (1, 1): 1.5}[degrees]
    assert find(nn.GELU(), degrees, version) is fitted


def test_functions_are_recognised_by_their_values():
    assert find(nn.ELU()) is find("elu")
    assert find(lambda x: x.clamp_(min=0)) is find("relu")
    assert find(nn.PReLU()) is find("prelu")
    assert find(nn.ELU(alpha=0.5), (2, 0)) is find(nn.ELU(alpha=0.5, inplace=True), (2, 0))
    assert find(nn.ELU(alpha=0.5), (2, 0)) is not find(nn.ELU(), (2, 0))


def test_what_the_table_has_is_not_fitted(monkeypatch):
    monkeypatch.setattr(initial, "fit", None)
    monkeypatch.setattr(initial, "_fitted", {})  # what other tests have had fitted
    for name, version in (("relu", "A"), ("gelu", "N")):
        assert find(name, [5, 4], version) is table()[name, (5, 4), version]
    with pytest.raises(TypeError):
        find("relu", (6, 4))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: find("rleu"), "no function 'rleu' to approximate, only relu, leaky_relu"),
        (lambda: find("relu", version="E"), "no version 'E'"),
        (lambda: find("relu", (5, -1)), r"degrees must be two integers >= 0, .* not \(5, -1\)"),
        (lambda: find("relu", (5, 4, 3)), "degrees must be two integers"),
        (lambda: find(nn.Softmax(dim=-1)), "not an elementwise function"),
        (lambda: find(nn.Dropout()), "not an elementwise function"),
        (lambda: find(torch.sum), "sum is not an elementwise function"),
    ],
)
def test_what_has_no_fit(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
