"""The numbers of a policy: matrices as they are applied, polynomials without their last zeros."""

import numpy as np
import pytest
import torch

from rlrat.errors import InputError
from rlrat.runs.exporting.weights import read_layers
from tests.runs.exporting.policies import make_policy


def test_weights_have_names_and_the_shapes_of_products():
    weights, layers = read_layers(make_policy(head="sac", gated=True, norm="layer", activation="prelu"))
    first, second = (layer.width for layer in layers)
    shapes = {name: value.shape for name, value in weights.items()}
    assert shapes["hidden_0_weight"] == shapes["hidden_0_gate_weight"] == (11, first)
    assert shapes["hidden_1_norm_bias"] == (second,)
    assert shapes["hidden_1_slope"] == (1,)
    assert shapes["output_weight"] == (second, 3)  # the means alone
    assert [layer.activation for layer in layers] == ["prelu", "prelu"]
    assert all(value.dtype == np.float32 for value in weights.values())


def test_polynomials_end_with_their_last_coefficient():
    policy = make_policy(activation_settings={"groups": 2})
    rational = policy.mean.hidden[0].activation
    rational.numerator[0, 1] = torch.tensor([1.0, 2.0, 0.0, 3.0, 0.0, 0.0])
    rational.denominator[0, 1] = torch.tensor([-2.0, 0.0, 0.0, 0.0])
    one, other = read_layers(policy)[1][0].rationals
    assert (len(one.numerator), len(one.denominator)) == (6, 5)
    np.testing.assert_array_equal(other.numerator, [1.0, 2.0, 0.0, 3.0])
    np.testing.assert_array_equal(other.denominator, [1.0, 2.0])  # version A: of |x|


def test_a_class_of_the_users_is_no_code():
    policy = make_policy(activation="relu")
    policy.settings["activation"] = "my_module:Snake"
    with pytest.raises(InputError, match=r"^activation my_module:Snake is a class of yours: .*, give --format onnx$"):
        read_layers(policy)


def test_weights_that_are_not_finite_are_named():
    policy = make_policy()
    policy.mean.hidden[1].linear.bias[0, 3] = torch.nan
    with pytest.raises(InputError, match=r"hidden_1_bias is not finite: there is nothing to export$"):
        read_layers(policy)
