"""What many seeds will take, from learners of a few."""

import copy
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlrat.errors import InputError
from rlrat.runs import estimates
from rlrat.runs.estimates import ResourceEstimate, estimate_resources
from rlrat.updates.captured import captured
from tests.agents.learners import AGENTS, make_learner
from tests.short_runs import ROOT

CPU = torch.device("cpu")
MEBIBYTE = 2**20
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux forgets its peaks")


class Learner(torch.nn.Module):
    """Holds `held` MiB a member and `fixed` ones, and needs `passing` more a member in an update."""

    def __init__(self, members, held=0, fixed=0, passing=0):
        super().__init__()
        self.size, self.passing = members, passing
        self.held = [self.full(fixed), *(self.full(held) for _ in range(members))]
        self.updates = 0

    def work(self, update):
        pass

    @staticmethod
    def full(mebibytes):
        return torch.ones(mebibytes * MEBIBYTE // 4)

    def inputs(self, update):
        assert update == self.updates
        return (update,)

    def update(self, update):
        self.updates += 1
        self.work(update)
        return [self.full(self.passing) for _ in range(self.size)]


def learner(**memory):
    return lambda members: Learner(members, **memory)


@linux
def test_memory_that_grows_with_the_members_and_memory_that_does_not():
    found = estimate_resources(learner(held=12, fixed=240, passing=8), 50, CPU)
    assert found.bytes_per_member == pytest.approx(20 * MEBIBYTE, rel=0.25)
    assert found.fixed_bytes == pytest.approx(240 * MEBIBYTE, rel=0.25)
    assert found.bytes == int(1.2 * (found.fixed_bytes + 50 * found.bytes_per_member))


@linux
def test_what_the_process_needed_before_does_not_count():
    Learner.full(100)
    found = estimate_resources(learner(held=10), 50, CPU)
    assert found.bytes_per_member == pytest.approx(10 * MEBIBYTE, rel=0.25)


@linux
def test_where_drawing_hides_the_members_their_state_counts():
    class Hidden(Learner):
        def inputs(self, update):
            self.full(200 // self.size)
            return super().inputs(update)

        def state_dict(self):
            return {"held": torch.empty(self.size, 5 * MEBIBYTE, dtype=torch.int8)}

    assert estimate_resources(Hidden, 50, CPU).bytes_per_member == 5 * MEBIBYTE


def test_time_is_the_line_through_the_two_sizes(monkeypatch):
    clock = 0.0

    class Slow(Learner):
        def work(self, update):
            nonlocal clock
            clock += 0.5 if update < 2 else 0.01 + 0.002 * self.size * (1 if update % 2 else 3)

    monkeypatch.setattr(estimates.time, "perf_counter", lambda: clock)
    assert estimate_resources(Slow, 100, CPU).seconds_per_update == pytest.approx(0.01 + 0.004 * 100)


def test_a_slow_update_is_done_few_times(monkeypatch):
    clock, counts = 0.0, []

    class Slow(Learner):
        def work(self, update):
            nonlocal clock
            clock += 60.0
            counts.append(self.size)

    monkeypatch.setattr(estimates.time, "perf_counter", lambda: clock)
    assert estimate_resources(Slow, 100, CPU).seconds_per_update == pytest.approx(60.0)
    assert counts == [1] * 4 + [2] * 4 + [16] * 4


def test_a_real_learner_and_nothing_left_behind(small_dataset):
    """Neither numbers drawn nor a dataset changed: a run is the same with and without an estimate."""
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    before = copy.deepcopy(make_learner("td3_bc", small_dataset, [3])[0].state_dict())
    found = estimate_resources(lambda members: make_learner("td3_bc", small_dataset, range(members))[0], 64, CPU)
    assert found.bytes_per_member > sum(v.nbytes for v in before.values())
    assert found.seconds_per_update > 0
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    for name, value in make_learner("td3_bc", small_dataset, [3])[0].state_dict().items():
        assert torch.equal(value, before[name]), name


NEAR = """
import sys
import torch
from rlrat import load_dataset
from rlrat.runs import estimates
from rlrat.runs.agents import learner_class, load_agent
from rlrat.updates.machine import keep_freed_memory

keep_freed_memory()  # as a run does: it changes which gaps are left
agent, dataset, device = sys.argv[1], load_dataset("rlrat/hopper/mixed-v0"), torch.device("cpu")
module = load_agent(agent)
build = lambda members: learner_class(module)(module.Arguments(), dataset, range(members), device)
before = estimates.track_peak(device)
found = estimates.estimate_resources(build, 24, device)
estimates.track_peak(device)
learner = build(24)
for update in range(2):
    learner.update(*learner.inputs(update))
print(found.bytes, estimates.peak_memory(device) - before)
"""


@pytest.mark.slow
@linux
@pytest.mark.parametrize("agent", AGENTS)
def test_an_estimate_is_near_what_a_learner_takes(agent):
    command, environment = [sys.executable, "-c", NEAR, agent], {**os.environ, "PYTHONPATH": str(ROOT)}
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout
    predicted, real = map(int, output.split())
    assert 0.9 * real - 32 * MEBIBYTE < predicted < 1.8 * real  # BC's 24 take 190 MB, of which libraries are most


class FakeGPU:
    """A clock and the memory of a GPU on which a plain update takes a second, a replay 10 ms and a recording a minute.

    A learner allocates 10 MB a member, and each of its graphs reserves 7 MB a member more. All is free again when the
    memory is tracked anew.
    """

    def __init__(self, monkeypatch, actor_every=1):
        self.clock, self.reserved, self.learner, self.actor_every = 0.0, 0, None, actor_every
        monkeypatch.setattr("rlrat.rational.launching._gpu_types", ("cpu",))
        monkeypatch.setattr(estimates, "captured", lambda learner: captured(learner, self.graph()))
        monkeypatch.setattr(estimates.time, "perf_counter", lambda: self.clock)
        stand_ins = {
            "empty_cache": lambda: setattr(self, "reserved", 0),
            "mem_get_info": lambda device: (10**11, 10**11),
            "max_memory_reserved": lambda device: self.reserved,
            "max_memory_allocated": lambda device: min(self.reserved, 10**7 * (self.learner or self).size),
            **dict.fromkeys(("memory_reserved", "memory_allocated", "synchronize"), lambda device: 0),
            "reset_peak_memory_stats": lambda device: None,
        }
        for name, value in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, value)

    def build(self, members):
        gpu = self

        class Actor(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("total", torch.zeros(1))
                self.size = members

            def inputs(self, update):
                gpu.updates = update + 1
                return torch.ones(1), update % gpu.actor_every == 0

            def update(self, x, acts):
                gpu.clock += 1.0
                self.total += x
                return {"losses/q": self.total.clone()}

        self.reserved += 10**7 * members
        self.learner = Actor()
        return self.learner

    def graph(self):
        gpu = self

        class Graph:
            def warm_up(self, function):
                return function()

            def record(self, function):
                gpu.clock += 60.0
                gpu.reserved += 7 * 10**6 * gpu.learner.size
                before = gpu.learner.total.clone()
                self.result = function()
                gpu.learner.total.copy_(before)
                return self.result

            def replay(self):
                gpu.clock += 0.01
                gpu.learner.total += 1.0
                self.result["losses/q"].copy_(gpu.learner.total)

        return Graph


@pytest.mark.parametrize("actor_every", [1, 2, 5])  # with 2 and 5 there are two graphs, of which one is recorded later
def test_where_the_update_will_be_captured_replays_are_timed_and_their_memory_counts(monkeypatch, actor_every):
    gpu = FakeGPU(monkeypatch, actor_every)
    found = estimate_resources(gpu.build, 100, CPU, capture=True)
    assert found.seconds_per_update == pytest.approx(0.01)
    assert gpu.updates == {1: 4, 2: 8, 5: 16}[actor_every] + 10
    assert found.bytes_per_member == 10**7 + 7 * 10**6 * (1 if actor_every == 1 else 2)


def test_where_it_will_not_be_captured_the_plain_update_is_measured(monkeypatch):
    found = estimate_resources(FakeGPU(monkeypatch).build, 100, CPU, capture=False)
    assert (found.seconds_per_update, found.bytes_per_member) == (pytest.approx(1.0), 10**7)
    monkeypatch.undo()
    monkeypatch.setattr(estimates, "captured", lambda *_: pytest.fail("nothing is captured on a CPU"))
    assert estimate_resources(learner(), 50, CPU, capture=True).seconds_per_update > 0


def test_an_update_that_is_recorded_again_and_again_is_measured_all_the_same(monkeypatch):
    gpu = FakeGPU(monkeypatch)
    monkeypatch.setattr(estimates, "_RECORDING_UPDATES", 20)

    def build(members):
        made = gpu.build(members)
        made.inputs = lambda update: (torch.ones(1), update)  # each number is another kind of inputs
        return made

    assert estimate_resources(build, 100, CPU, capture=True).seconds_per_update == pytest.approx(1.0)


def test_one_line_that_says_what_it_takes():
    found = ResourceEstimate(64, CPU, 10**7, 10**9, 0.5, 24 * 10**9)
    assert str(found) == "64 members side by side: about 1.97 GB of 24 GB free, 0.5 s an update, 128 seed-updates/s"
    unknown = ResourceEstimate(64, CPU, 10**7, 10**9, 0.5, None)
    assert str(unknown) == "64 members side by side: about 1.97 GB, 0.5 s an update, 128 seed-updates/s"
    unknown.check()


def test_too_many_are_refused_with_the_number_that_fits():
    most = 1225  # 24 GB are 1.2 times 1 GB + 1225 * 0.0155 GB and a little

    def members(count):
        return ResourceEstimate(count, CPU, 155 * 10**5, 10**9, 0.5, 24 * 10**9)

    members(most).check()
    assert members(most).fits
    assert not members(most + 1).fits
    message = f"^5000 members side by side need 94.2 GB, but of .* 24 GB are free: at most {most} fit: give a smaller"
    with pytest.raises(InputError, match=message):
        members(5000).check()


def test_where_not_one_fits():
    found = ResourceEstimate(16, torch.device("cuda:1"), 10**9, 10**9, 0.5, 10**9)
    with pytest.raises(InputError, match=r"need 20\.4 GB, but of the memory of cuda:1 1 GB are free: not even one"):
        found.check()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(), RuntimeError("you can't allocate memory")]
)
def test_where_not_even_the_small_learner_fits(error):
    def build(members):
        raise error

    with pytest.raises(InputError, match=r"^50 members .* need more than this machine's memory: not even 16 fit"):
        estimate_resources(build, 50, CPU)


def test_the_agents_own_errors_stay_what_they_are():
    def build(members):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        estimate_resources(build, 50, CPU)


def test_a_system_without_peaks(monkeypatch):
    """Windows has neither /proc nor the module resource: only the state counts."""

    def refuse(*_):
        raise FileNotFoundError

    monkeypatch.setitem(sys.modules, "resource", None)
    runpy.run_path(estimates.__file__)  # is imported all the same
    monkeypatch.setattr(estimates, "proc_bytes", refuse)
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(estimates.ctypes, "CDLL", lambda _: pytest.fail("Windows has no C library without a name"))
    assert estimates.track_peak(CPU) == 0
    held = {"held": torch.empty(16, 5 * MEBIBYTE, dtype=torch.int8)}
    monkeypatch.setattr(Learner, "state_dict", lambda self: held)
    assert estimate_resources(learner(), 50, CPU).bytes_per_member == 5 * MEBIBYTE
