"""Evaluate many episodes at once, during training, stepped natively if MuJoCo allows; turn returns into scores;
judge policies from data alone."""

from rlrat import lazy

__getattr__, __dir__, __all__ = lazy(
    __name__,
    {
        **dict.fromkeys(("Evaluation", "Evaluator", "Wrapper", "evaluate"), "evaluator"),
        **dict.fromkeys(("FQESettings", "FittedQ", "data_value", "fit_q"), "fqe"),
        "normalized_score": "scores",
    },
)
