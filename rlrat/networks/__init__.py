"""Provide networks with a leading seed axis: the activation registry, layers, policies and the transformer."""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        **dict.fromkeys(("make_activation", "name_modules", "names"), "activations"),
        **dict.fromkeys(("MLP", "Embedding", "LayerNorm", "Dropout", "initialize", "joined"), "layers"),
        "Policy": "policies",
        **dict.fromkeys(("Gain", "SequencePolicy", "check_target_returns"), "transformer"),
        **dict.fromkeys(("Initialization", "Norm", "PolicyHead", "RationalVersion"), "choices"),
    },
)
