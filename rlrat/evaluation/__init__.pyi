from .evaluator import Evaluation as Evaluation
from .evaluator import Evaluator as Evaluator
from .evaluator import evaluate as evaluate
from .scores import normalized_score as normalized_score
