"""Evaluation: many episodes at once, stepped natively where MuJoCo allows, beside training; and what scores are of."""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__, {**dict.fromkeys(("Evaluation", "Evaluator", "evaluate"), "evaluator"), "normalized_score": "scores"}
)
