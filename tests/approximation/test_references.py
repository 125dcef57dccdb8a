"""What is approximated, in mpmath, is what PyTorch computes under the name."""

import pytest
import torch
from mpmath import mpf

from rlrat.approximation.references import REFERENCES

TORCH = {
    "abs": torch.abs,
    "relu": torch.relu,
    "sign": torch.sign,
    "step": lambda x: torch.heaviside(x, x.new_tensor(0.5)),
}


@pytest.mark.parametrize("name", TORCH)
def test_references_are_pytorchs_functions(name):
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    found = [float(REFERENCES[name](mpf(value))) for value in x.tolist()]
    assert found == pytest.approx(TORCH[name](x).tolist(), abs=1e-15)
