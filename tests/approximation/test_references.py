"""What is approximated, in mpmath, is what PyTorch computes under the name."""

import math

import pytest
import torch
import torch.nn.functional as F
from mpmath import mpf, nstr

from rlrat.approximation import names
from rlrat.approximation.references import REFERENCES, exact_gelu, gelu_distance

TORCH = {
    **{name: getattr(F, name) for name in ("relu", "silu", "mish", "softplus", "logsigmoid", "elu", "selu", "celu")},
    **{name: getattr(torch, name) for name in ("abs", "sign", "exp", "tanh", "sigmoid")},
    "step": lambda x: torch.heaviside(x, x.new_tensor(0.5)),
    "leaky_relu": F.leaky_relu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "softmax": lambda x: x.softmax(-1),
    "softmin": lambda x: F.softmin(x, -1),
    "logsoftmax": lambda x: x.log_softmax(-1),
    "swiglu": lambda x: F.silu(x[:4]) * x[4:],
    "geglu": lambda x: F.gelu(x[:4], approximate="tanh") * x[4:],
}
ROWS = {"softmax", "softmin", "logsoftmax", "swiglu", "geglu"}
X = torch.linspace(-3, 3.5, 8, dtype=torch.float64)


@pytest.mark.parametrize("name", TORCH)
def test_references_are_pytorchs_functions(name):
    points = [mpf(value) for value in X.tolist()]
    found = REFERENCES[name](points) if name in ROWS else [REFERENCES[name](x) for x in points]
    assert [float(y) for y in found] == pytest.approx(TORCH[name](X).tolist(), abs=1e-14)


def test_every_construction_has_its_reference():
    assert {*names()} == {*REFERENCES} == {*TORCH, "root", "log"}


def test_settings_change_them():
    assert REFERENCES["root"](mpf(8), p=3) == 2
    assert float(REFERENCES["elu"](mpf(-1), alpha=2.0)) == pytest.approx(2 * math.expm1(-1))
    assert float(REFERENCES["celu"](mpf(-1), alpha=2.0)) == pytest.approx(2 * math.expm1(-0.5))
    assert float(REFERENCES["leaky_relu"](mpf(-1), slope=0.5)) == -0.5


def test_the_distance_of_both_gelus():
    assert nstr(gelu_distance(-5, 5), 3) == "0.000473"
    assert [float(exact_gelu(mpf(x))) for x in X.tolist()] == pytest.approx(F.gelu(X).tolist(), abs=1e-14)
