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


def own_module(activation: str) -> str | None:
    """Return the module in the name of a user's activation, `my_module:Snake`, or None for one of the registry."""
    module, colon, _ = activation.partition(":")
    return module if colon and module != "rational" else None
