"""Export: write a trained policy to a file that runs where rlrat is not, and check it."""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(__name__, {"export": "exported"})
