"""Networks, all with a leading seed axis: the activation registry, layers, policies and the transformer."""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        **dict.fromkeys(("make_activation", "names"), "activations"),
        **dict.fromkeys(("MLP", "dropout_masks", "initialize"), "layers"),
        "Policy": "policies",
        "SequencePolicy": "transformer",
    },
)
