"""Define the choices of networks on a command line; the agents' arguments need these names without torch."""

from typing import Literal

Initialization = Literal["xavier_uniform", "orthogonal", "pytorch"]
"""See `rlrat.networks.layers.initialize`."""
Norm = Literal["none", "layer", "layer_after"]
"""Of hidden layers, see `rlrat.networks.layers.HiddenLayer`."""
RationalVersion = Literal["A", "B", "C", "N"]
"""See `rlrat.rational.reference`."""
PolicyHead = Literal["squashed_gaussian", "tanh_gaussian", "deterministic"]
"""See `rlrat.networks.policies.Policy`."""
