"""benchmarks/judging.py: its statistics are what they say, it goes on where it stopped, and a judgement is timed."""

import json

import numpy as np
import pytest
import torch

import judging


@pytest.fixture
def few(monkeypatch):
    """Fits of a few updates, and as many threads afterwards as before."""
    settings = judging.FQESettings(updates=10, batch_size=16, hidden_dims=(8,))
    monkeypatch.setattr(judging, "_fqe", lambda updates: settings)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def row(value: float, truth: float, refits: tuple[float, ...] = (), problems: tuple[str, ...] = ()) -> dict:
    return {"value": value, "truth": truth, "return": truth**2, "refits": list(refits), "problems": list(problems)}


def test_statistics_are_of_ranks_regret_errors_and_cover():
    rows = [row(1.0, 10.0), row(2.0, 30.0), row(3.0, 20.0), row(4.0, 40.0)]
    found = judging.statistics(rows)
    assert found["spearman_discounted"] == found["spearman_undiscounted"] == pytest.approx(0.8)
    assert found["regret_at_1_discounted"] == 0.0
    assert found["mean_error"] == pytest.approx(-22.5)
    assert found["truth"] == {"least": 10.0, "median": 25.0, "most": 40.0}
    assert "intervals_that_cover" not in found
    rows[2]["value"] = 5.0  # it is taken now, of 20
    found = judging.statistics(rows)
    assert found["regret_at_1_discounted"] == pytest.approx(2 / 3)
    assert found["regret_at_1_undiscounted"] == pytest.approx((1600 - 400) / (1600 - 100))


def test_intervals_cover_the_truth_or_not():
    rows = [row(10.0, 11.0, (8.0, 12.0)), row(11.0, 100.0, (9.0, 13.0), ("far",))]
    found = judging.statistics(rows)
    assert found["intervals_that_cover"] == 0.5
    assert found["not_trusted"] == 1


def test_returns_are_discounted_as_they_come():
    policies = [lambda states: np.zeros((len(states), 1)), lambda states: np.ones((len(states), 1))]
    acting = judging._Returns(policies, 0.5)
    acting.reset()
    assert acting(np.zeros((2, 3, 4)))[:, 0, 0].tolist() == [0.0, 1.0]
    for reward in (1.0, 1.0, 4.0):
        acting.observe(np.full((2, 3), reward), np.zeros((2, 3), bool))
    assert acting.totals[0, 0] == pytest.approx(1.0 + 0.5 + 1.0)


@pytest.mark.slow
def test_a_validation_goes_on_where_it_was_stopped(tmp_path, few, monkeypatch):
    monkeypatch.setattr(
        judging, "_fqe", lambda updates: judging.FQESettings(updates=10, batch_size=16, hidden_dims=(8,))
    )
    options = ["--datasets", "rlrat/hopper/mixed-v0", "--agents", "bc", "--activations", "relu", "--updates", "2", "4"]
    options += ["--policies", "3", "--episodes", "2", "--refits", "2", "--at-once", "2", "--threads", "1"]
    argv = ["validate", "--folder", str(tmp_path / "kept"), "--output", str(tmp_path / "found.json"), *options]
    judging.main(argv)
    found = json.loads((tmp_path / "found.json").read_text())
    rows = found["datasets"]["rlrat/hopper/mixed-v0"]["rows"]
    assert [entry["policy"].rpartition("update ")[2] for entry in rows] == ["2", "2", "4"]
    assert all(0.0 < entry["truth"] <= entry["return"] for entry in rows)  # Hopper's rewards are positive
    monkeypatch.setattr(judging, "judged", None)  # all is there
    monkeypatch.setattr(judging, "play", None)
    judging.main(argv)
    assert json.loads((tmp_path / "found.json").read_text()) == found


def test_a_judgement_is_timed(few, capsys):
    judging.main(["speed", "--refits", "2", "--threads", "1"])
    assert "one fit on 100,220 transitions" in capsys.readouterr().out
