from collections.abc import Callable, Mapping
from typing import Any

from . import activations as activations
from . import rational as rational
from .datasets.dataset import Dataset as Dataset
from .datasets.load import load_dataset as load_dataset
from .errors import InputError as InputError
from .evaluation.evaluator import evaluate as evaluate
from .evaluation.scores import normalized_score as normalized_score
from .networks.activations import make_activation as make_activation
from .rational import Rational as Rational
from .rational import rationalize as rationalize
from .runs.loading import load_policy as load_policy
from .runs.training import train as train

__all__ = [
    "Dataset",
    "InputError",
    "Rational",
    "activations",
    "evaluate",
    "load_dataset",
    "load_policy",
    "make_activation",
    "normalized_score",
    "rational",
    "rationalize",
    "train",
]

def lazy(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]: ...
