"""Evaluation beside training, with environments that behave and such that do not."""

import threading
import time

import gymnasium
import numpy as np
import pytest
import torch

from rlrat.errors import InputError
from rlrat.evaluation.background import BackgroundEvaluator, Snapshot
from rlrat.evaluation.evaluator import Evaluation, Evaluator
from rlrat.networks.policies import Policy
from rlrat.updates.flat import flatten


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
        self.env_id, self.time_limit, self.reset_seeds, self.going_on = "Toy-v0", 5, np.zeros((2, 1)), 2

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


class Clock:
    """The background's time, which only steps of an environment move."""

    now = 0.0

    def monotonic(self):
        return self.now


class Steps(Environments):
    """Two rows that are stepped once a second; one is over after each of `ends`. At `held` seconds it waits."""

    def __init__(self, monkeypatch, time_limit, ends=(), held=None):
        super().__init__()
        self.time_limit, self.ends, self.held, self.reached = time_limit, ends, held, threading.Event()
        self.clock = Clock()
        monkeypatch.setattr("rlrat.evaluation.background.time", self.clock)

    def run(self, policy):
        self.going_on = 2
        while self.going_on:
            actions = np.asarray(policy(np.ones((2, 1, 2))))[..., 0]
            self.clock.now += 1
            if self.clock.now == self.held:
                self.free.clear()
                self.reached.set()
                self.free.wait()
            self.going_on -= self.ends.count(self.clock.now)
        return Evaluation(actions, np.ones((2, 1)), np.ones((2, 1), bool), np.zeros((2, 1), int))


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


class Hangs(gymnasium.Env):
    """An environment whose first reset never returns."""

    observation_space, action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,)), gymnasium.spaces.Box(-1.0, 1.0, (1,))
    free, tried = threading.Event(), 0

    def reset(self, *, seed=None, options=None):
        Hangs.tried += 1
        if Hangs.tried == 1:
            assert Hangs.free.wait(10)
        return np.random.uniform(size=2), {}

    def step(self, action):
        return np.zeros(2), 1.0, True, False, {}


def test_a_reset_that_hangs_keeps_no_one_from_the_global_generator(monkeypatch):
    spec = gymnasium.envs.registration.EnvSpec("Hangs-v0", entry_point=Hangs)
    monkeypatch.setitem(gymnasium.registry, "Hangs-v0", spec)
    policy, before = _policy(), np.random.get_state()
    with BackgroundEvaluator(policy, lambda: Evaluator("Hangs-v0", [0, 1], 1, max_episode_steps=5), 0.3) as background:
        background.submit(_snapshot(1, policy))
        ((_, result),) = _collect(background, 1)
    np.testing.assert_equal(np.random.get_state(), before)
    assert result.returns.tolist() == [[1.0], [1.0]]
    assert Hangs.tried == 3
    Hangs.free.set()


def test_an_environment_without_end_is_given_up_at_once(monkeypatch, capsys):
    environments, policy = Steps(monkeypatch, time_limit=None), _policy()
    with BackgroundEvaluator(policy, environments.make, 20) as evaluator:
        evaluator.submit(_snapshot(7, policy))
        assert [(snapshot.update, result) for snapshot, result in _collect(evaluator, 1)] == [(7, None)]
    (said,) = capsys.readouterr().err.splitlines()
    assert "update 7 failed (Toy-v0 has no time limit, and no episode has ended for 20 s: give --max-episode" in said
    assert said.endswith("): it is left out")


@pytest.mark.parametrize("time_limit", [None, 40])
def test_an_environment_that_ends_late_is_waited_for_and_told_of_once(time_limit, monkeypatch, capsys):
    environments, policy = Steps(monkeypatch, time_limit, ends=(20, 40), held=30), _policy()
    with BackgroundEvaluator(policy, environments.make, 25) as evaluator:
        evaluator.submit(_snapshot(0, policy))
        environments.reached.wait(30)
        assert list(evaluator.collect()) == []  # training has not waited for it yet
        assert capsys.readouterr().err == ""
        for _ in range(2):
            assert list(evaluator.collect(0.01)) == []
        (said,) = capsys.readouterr().err.splitlines()
        assert "at update 0 has taken 30 s, and training waits: 1 of 2 episodes go on" in said
        environments.free.set()
        ((_, result),) = _collect(evaluator, 1)
    assert result is not None
    assert capsys.readouterr().err == ""


def test_what_breaks_gymnasiums_api_is_not_tried_again(capsys):
    def fault():
        raise InputError("Toy-v0 returned 4 values from step, Gymnasium's API has 5")

    environments, policy = Environments([fault]), _policy()
    with BackgroundEvaluator(policy, environments.make, 60) as evaluator:
        evaluator.submit(_snapshot(7, policy))
        assert [result for _, result in _collect(evaluator, 1)] == [None]
    (said,) = capsys.readouterr().err.splitlines()
    assert said.endswith("update 7 failed (Toy-v0 returned 4 values from step, Gymnasium's API has 5): it is left out")


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


def test_the_copy_that_plays_keeps_no_buffer_of_an_optimizer():
    environments, policy = Environments(), _policy(0.5)
    flatten(policy)
    with BackgroundEvaluator(policy, environments.make, 60) as evaluator:
        held = [value for module in evaluator._policy.modules() for value in vars(module).values()]
        assert not any(isinstance(value, torch.Tensor) for value in held)
        assert {name for name, _ in evaluator._policy.named_buffers()} == set(policy.state_dict()) - {
            name for name, _ in policy.named_parameters()
        }
        with torch.no_grad():
            policy.flat.zero_()
        evaluator.submit(_snapshot(0, policy))
        ((_, result),) = _collect(evaluator, 1)
    assert not result.returns.any()


def test_the_thread_that_plays_works_on_the_gpu_that_trains(monkeypatch):
    """A thread begins on the first GPU, whichever one trains, and whatever CUDA does there takes memory of that GPU."""
    environments, policy, streams = Environments(), _policy(), []
    snapshot = _snapshot(0, policy)

    class Stream:
        def __init__(self, device):
            self.device = device

        def wait_stream(self, other):
            pass

    monkeypatch.setattr("rlrat.rational.launching._gpu_types", ("cpu",))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(
        torch.cuda, "set_stream", lambda stream: streams.append((threading.current_thread().name, stream.device))
    )
    with BackgroundEvaluator(policy, environments.make, 60) as evaluator:
        evaluator.submit(snapshot)
        assert [result is None for _, result in _collect(evaluator, 1)] == [False]
    assert streams == [("evaluation", torch.device("cpu"))]
