from .evaluator import Evaluation as Evaluation
from .evaluator import Evaluator as Evaluator
from .evaluator import evaluate as evaluate
from .fqe import FittedQ as FittedQ
from .fqe import FQESettings as FQESettings
from .fqe import data_value as data_value
from .fqe import fit_q as fit_q
from .scores import normalized_score as normalized_score
