"""The lines and the words of an evaluation."""

import dataclasses

import numpy as np

from rlrat.evaluation.background import Snapshot
from rlrat.evaluation.evaluator import Evaluation
from rlrat.evaluation.scores import Reference
from rlrat.runs.evaluations import describe_evaluation, evaluation_rows, when

RETURNS = Reference("r", "e", 0.0, 10.0, "", "")
SUCCESS = dataclasses.replace(RETURNS, expert=1.0, measure="success")
FOUND = Evaluation(
    np.array([[1.0, 3.0], [4.0, np.nan]]),
    np.array([[5, 7], [6, 2]]),
    np.zeros((2, 2), bool),
    np.array([[8, 9], [10, 11]]),
    np.array([[0.0, 1.0], [1.0, np.nan]]),
)
SNAPSHOT = Snapshot(20, np.ones(2, bool), 1.5, 2.0, {})


def test_the_lines():
    line, episodes = evaluation_rows(0, SNAPSHOT, 30.0, FOUND, SUCCESS)
    assert when(SNAPSHOT) == {"update": 20, "train_seconds": "1.500", "wall_seconds": "2.000"}
    assert line == {
        **when(SNAPSHOT),
        **{"target_return": "30", "episodes": 2, "return_mean": 2.0, "return_std": 1.0, "length_mean": 6.0},
        **{"normalized_score": 50.0, "success_rate": 0.5},
    }
    at = {"update": 20, "target_return": "30"}
    assert episodes == [
        {**at, "episode": 0, "reset_seed": 8, "return": 1.0, "length": 5, "success": 0.0},
        {**at, "episode": 1, "reset_seed": 9, "return": 3.0, "length": 7, "success": 1.0},
    ]


def test_what_is_not_known_is_empty():
    line, _ = evaluation_rows(1, SNAPSHOT, None, FOUND, RETURNS)
    assert line["target_return"] is line["normalized_score"] is line["success_rate"] is None
    silent = dataclasses.replace(FOUND, successes=None)
    line, episodes = evaluation_rows(0, SNAPSHOT, None, silent, None)
    assert line["normalized_score"] is line["success_rate"] is episodes[0]["success"] is None


def test_the_words():
    first, both = np.array([True, False]), np.ones(2, bool)
    assert describe_evaluation(FOUND, None, first, RETURNS, "2 seeds") == "return 2.0, success rate 0.50, score 20.0"
    whole = dataclasses.replace(FOUND, returns=np.array([[1.0, 3.0], [4.0, 4.0]]), successes=None)
    assert describe_evaluation(whole, 30.0, both, None, "2 seeds") == "return 3.0 +- 1.0 over 2 seeds at target 30"
