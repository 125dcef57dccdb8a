"""Evaluation: many episodes at once, beside training, stepped natively where MuJoCo allows; returns as scores."""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__, {**dict.fromkeys(("Evaluation", "Evaluator", "evaluate"), "evaluator"), "normalized_score": "scores"}
)
