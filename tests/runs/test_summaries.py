"""What a run's summary says, and the words for it."""

import pytest

from rlrat.runs.folder import RunFolder
from rlrat.runs.progress import TrainingProgress
from rlrat.runs.summaries import final_values, four_digits, summarize, summarize_offline

ROWS = [
    {"update": str(update), "return_mean": str(value), "normalized_score": str(value / 10)}
    for update, value in ((0, 90.0), (10, 1.0), (20, 3.0))
]


def test_the_final_value_leaves_the_untrained_policy_out():
    found = summarize(ROWS, TrainingProgress(20, train_seconds=4.0), None, None)
    assert (found["final_return"], found["final_score"], found["final_evaluations"]) == (2.0, 0.2, 2)
    assert found["best_score"] == 0.3
    assert found["updates_per_second"] == 5.0
    assert final_values(found) == ": final return 2.0, score 0.2, the mean of its last 2 evaluations"


def test_a_run_that_diverged_or_was_never_evaluated_has_no_final_value():
    diverged = summarize(ROWS, TrainingProgress(20), ("q", 15), None)
    assert (diverged["status"], diverged["final_return"], diverged["diverged_at"]) == ("diverged", None, 15)
    failed = summarize(ROWS[:1], TrainingProgress(20, failure="it fell"), None, None)
    assert (failed["status"], failed["reason"]) == ("failed", "it fell")
    assert final_values(diverged) == ""


def test_a_success_rate_is_there_only_where_the_environment_says_it():
    assert "final_success_rate" not in summarize(ROWS, TrainingProgress(20), None, None)
    rows = [row | {"success_rate": rate} for row, rate in zip(ROWS, ("0.9", "0.25", "0.5"), strict=True)]
    found = summarize(rows, TrainingProgress(20), None, None)
    assert found["final_success_rate"] == 0.375
    assert final_values(found) == ": final return 2.0, success rate 0.38, score 0.2, the mean of its last 2 evaluations"
    assert summarize(rows, TrainingProgress(20), ("q", 15), None)["final_success_rate"] is None
    rows[1]["success_rate"] = ""  # an older version's, before the run went on
    assert summarize(rows, TrainingProgress(20), None, None)["final_success_rate"] is None


def test_values_without_rollouts_are_the_last_five(tmp_path):
    folder = RunFolder(tmp_path)
    folder.lines["offline.csv"].append([{"update": at, "fqe_value": f"{at}.5"} for at in range(0, 70, 10)])
    folder.lines["offline.csv"].append([{"update": 70, "fqe_value": "70.5", "losses/q": "nan"}])
    found = summarize_offline(folder, "finished", without_environment=True)
    assert found["final_value"] == pytest.approx(50.5)
    assert found["offline"] == {"update": 70, "fqe_value": 70.5}  # what is not finite has no place in JSON
    assert summarize_offline(folder, "diverged", without_environment=True)["final_value"] is None
    assert "final_value" not in summarize_offline(folder, "finished", without_environment=False)
    assert summarize_offline(RunFolder(tmp_path / "none"), "finished", without_environment=False) == {}


def test_the_kept_policy_is_part_of_the_last_line():
    best = {"by": "fqe", "value": 3.0, "update": 1000, "file": "checkpoint.best.pt"}
    summary = {"final_return": None, "final_value": 2.5, "best": best}
    kept = "the best by fqe, of update 1,000, is checkpoint.best.pt"
    assert final_values(summary) == f": final value 2.5, discounted, by fitted Q evaluation; {kept}"
    assert final_values({**summary, "final_value": None}) == f": {kept}"


def test_values_have_four_digits():
    assert [four_digits(value) for value in (0.0123456, 12.3456, 12345.6)] == ["0.01235", "12.35", "12,346"]
