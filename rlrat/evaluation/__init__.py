"""Evaluate many episodes at once, during training, stepped natively if MuJoCo allows; turn returns into scores."""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__, {**dict.fromkeys(("Evaluation", "Evaluator", "evaluate"), "evaluator"), "normalized_score": "scores"}
)
