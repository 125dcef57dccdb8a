"""Evaluation beside training, with environments that behave and such that do not."""

import threading
import time

import numpy as np
import pytest
import torch

from rlrat.background import BackgroundEvaluator, Snapshot
from rlrat.evaluation import Evaluation
from rlrat.policies import Policy


def _policy(value=0.0):
    policy = Policy(2, 1, num_seeds=2, head="deterministic", hidden_dims=(4,), activation="relu")
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.fill_(value)
    return policy


def _snapshot(update, policy):
    return Snapshot(update, np.ones(2, bool), 1.5, 2.5, policy.state_dict())


class Environments:
    """What an `Evaluator` is to a `BackgroundEvaluator`: returns are the policy's actions; `faults` come first."""

    def __init__(self, faults=()):
        self.faults, self.made, self.closed, self.free = list(faults), 0, 0, threading.Event()
        self.free.set()

    def make(self):
        self.made += 1
        return self

    def run(self, policy):
        self.free.wait()
        actions = np.asarray(policy(np.ones((2, 1, 2))))[..., 0]
        if self.faults:
            self.faults.pop(0)()
        return Evaluation(actions, np.ones((2, 1)), np.ones((2, 1), bool), np.zeros((2, 1), int))

    def close(self):
        self.closed += 1


def _raise():
    raise OSError("the simulator is gone")


def _hang():
    time.sleep(3600)


def _collect(evaluator, count):
    found = []
    deadline = time.monotonic() + 30
    while len(found) < count and time.monotonic() < deadline:
        found += evaluator.collect(0.01)
    return found


def test_results_come_in_order_of_what_was_handed_over_and_not_of_what_became_of_it():
    environments, policy = Environments(), _policy()
    environments.free.clear()
    with BackgroundEvaluator(policy, environments.make, 60) as evaluator:
        for update in range(3):
            with torch.no_grad():
                policy.mean.output.bias.fill_(0.1 * update)
            evaluator.submit(_snapshot(update, policy))
        with torch.no_grad():
            policy.mean.output.bias.fill_(9.0)
        assert list(evaluator.collect()) == []  # nothing waits for environments that take their time
        assert [snapshot.update for snapshot in evaluator.pending] == [0, 1, 2]
        environments.free.set()
        found = _collect(evaluator, 3)
    assert [snapshot.update for snapshot, _ in found] == [0, 1, 2]
    assert [(s.train_seconds, s.wall_seconds) for s, _ in found] == [(1.5, 2.5)] * 3
    returns = [result.return_mean[0] for _, result in found]
    assert returns == pytest.approx(np.tanh([0.0, 0.1, 0.2]), abs=1e-6)
    assert (environments.made, environments.closed) == (1, 1)


@pytest.mark.parametrize(("fault", "reason"), [(_raise, "OSError: the simulator is gone"), (_hang, "no step in 0.3 s")])
@pytest.mark.parametrize("times", [1, 2])
def test_an_environment_that_dies_or_hangs_is_tried_once_more(fault, reason, times, capsys):
    environments, policy = Environments([fault] * times), _policy()
    with BackgroundEvaluator(policy, environments.make, 0.3) as evaluator:
        evaluator.submit(_snapshot(7, policy))
        evaluator.submit(_snapshot(8, policy))
        found = _collect(evaluator, 2)
    assert [snapshot.update for snapshot, _ in found] == [7, 8]
    assert [result is None for _, result in found] == [times == 2, False]
    said = capsys.readouterr().err.splitlines()
    assert said[0].endswith(f"the evaluation at update 7 failed ({reason}): it is tried once more")
    assert len(said) == times
    assert times == 1 or said[1].endswith(f"failed ({reason}) again: it is left out")
    assert environments.made == 1 + times


def test_what_the_policy_raises_is_nobodys_environment():
    class Broken(Policy):
        def forward(self, observations):
            raise ZeroDivisionError("in the policy")

    environments = Environments()
    policy = Broken(2, 1, num_seeds=2, head="deterministic", hidden_dims=(4,), activation="relu")
    with BackgroundEvaluator(policy, environments.make, 60) as evaluator:
        evaluator.submit(_snapshot(0, policy))
        with pytest.raises(ZeroDivisionError, match="in the policy"):
            _collect(evaluator, 1)


def test_what_is_pending_at_the_end_can_still_be_saved():
    environments, policy = Environments(), _policy()
    environments.free.clear()
    evaluator = BackgroundEvaluator(policy, environments.make, 0.2)
    evaluator.submit(_snapshot(0, policy))
    evaluator.close()
    assert [snapshot.update for snapshot in evaluator.pending] == [0]
    assert list(evaluator.collect()) == []
