"""rlrat/approximation/trained.py."""

import numpy as np
import pytest

from rlrat.approximation.converse import pole_pair
from rlrat.approximation.trained import train

X = np.linspace(-1.0, 1.0, 1001)


def errors(function, networks):
    return [np.abs(network(X) - function(X)).max() for network in networks]


def test_small_networks_are_trained_well_and_repeatably():
    first = train(pole_pair(0.3), (4,), "tanh", 2, adam=50, updates=60)
    assert min(errors(pole_pair(0.3), first)) < 3e-3
    assert [network.parameters_count for network in first] == [13, 13]
    again = train(pole_pair(0.3), (4,), "tanh", 2, adam=50, updates=60)
    assert errors(pole_pair(0.3), first) == errors(pole_pair(0.3), again)
    alone = train(pole_pair(0.3), (4,), "tanh", 1, adam=40, updates=0)
    assert errors(pole_pair(0.3), first)[0] < 0.1 * errors(pole_pair(0.3), alone)[0]


def test_a_network_of_the_class_is_found():
    assert min(errors(np.abs, train(np.abs, (4,), "relu", 3, adam=60, updates=40))) < 1e-2


def test_another_activation_is_refused():
    with pytest.raises(ValueError, match="networks of 'mish' are not trained here, only of relu, softplus"):
        train(np.abs, (4,), "mish")
