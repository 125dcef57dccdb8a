import dataclasses

import gymnasium
import numpy as np
import pytest
import torch

import evaluate_speed
from evaluate_speed import STACKS, Evaluate, run_evaluate
from rlrat.environments import find_spec
from rlrat.errors import InputError


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_environment_steps_beside_gymnasiums(capsys):
    rows = run_evaluate(Evaluate(environments=2, steps=3, rounds=1, threads=1))
    assert list(rows["Hopper-v5"]) == ["random", "network"]
    for row in rows["Hopper-v5"].values():
        assert row["ratio"] == pytest.approx(row["rlrat"] / row["SyncVectorEnv"])
        assert all(row[stack] > 0 for stack in STACKS)
    assert "equal those of a plain loop" in capsys.readouterr().out


def test_dictionary_observations_are_flattened_for_a_policy(monkeypatch):
    pytest.importorskip("gymnasium_robotics")
    short = dataclasses.replace(find_spec("PointMaze_UMaze-v3"), id="Short-v0", max_episode_steps=4)
    monkeypatch.setitem(gymnasium.registry, "Short-v0", short)
    settings = {"env_ids": ("Short-v0",), "environments": 2, "rounds": 1, "threads": 1}
    (rows,) = run_evaluate(Evaluate(**settings, steps=3)).values()
    assert rows["network"]["rlrat"] > 0
    (rows,) = run_evaluate(Evaluate(**settings, steps=1000, network=False)).values()  # beyond its time limit
    assert list(rows) == ["random"]


def test_results_that_differ_from_a_plain_loops_are_said(monkeypatch):
    right = evaluate_speed._plain_loop

    def wrong(*arguments):
        found = right(*arguments)
        found.returns[0, 1] = np.nextafter(found.returns[0, 1], np.inf)
        return found

    monkeypatch.setattr(evaluate_speed, "_plain_loop", wrong)
    with pytest.raises(AssertionError, match="Hopper-v5: returns are not those of a plain loop"):
        run_evaluate(Evaluate(environments=2, steps=3, rounds=1, threads=1, network=False))


def test_what_only_gymnasium_steps_is_refused():
    with pytest.raises(InputError, match="Pendulum-v1 is not stepped natively"):
        run_evaluate(Evaluate(env_ids=("Pendulum-v1",), environments=2, steps=3))
