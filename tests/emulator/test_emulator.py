"""The emulator itself: each stand-in shows the faults that it is there for, and only these."""

import math
import threading

import pytest
import torch
from torch import nn

from rlrat.rational import Rational, launching
from rlrat.updates.captured import CudaGraph, captured
from tests.emulator import Emulator
from tests.emulator.emulator import PROPERTIES

kernels = pytest.importorskip("tests.emulator.kernels", reason="needs Triton", exc_type=ImportError)

pytestmark = pytest.mark.usefixtures("emulator")
NOT_PERMITTED = "operation not permitted when stream is capturing"


def _record(function, graph=None):
    """What `function` returns while it is captured, and the graph; for the faults that a replay shows."""
    graph = graph or torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
        return function(), graph


def _in_thread(function, name="helper"):
    """What `function` returns or raises in a thread of its own."""
    results = []

    def run():
        try:
            results.append(function())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, name=name)
    thread.start()
    thread.join()
    return results[0]


def test_a_cpu_is_a_gpu_inside_of_it_and_afterwards_nothing_is_left(emulator):
    cpu = torch.device("cpu")
    assert launching.is_gpu(cpu)
    assert launching.is_gpu(torch.device("cuda"))
    assert not launching.is_gpu(torch.device("meta"))
    assert not _in_thread(lambda: launching.is_gpu(cpu), name="evaluation")  # policies play on the CPU
    emulator.__exit__()
    names = ("Stream", "Event", "CUDAGraph", "graph", "current_stream", "synchronize", "get_device_properties")
    found, methods = [getattr(torch.cuda, name) for name in names], set(vars(torch.Tensor))
    with Emulator():
        assert all(getattr(torch.cuda, name) is not value for name, value in zip(names, found, strict=True))
        assert torch.cuda.get_device_properties() is PROPERTIES
        assert "item" in vars(torch.Tensor)
    assert [getattr(torch.cuda, name) for name in names] == found
    assert set(vars(torch.Tensor)) == methods
    assert "item" not in methods
    assert not launching.is_gpu(cpu)
    assert isinstance(launching._gpu_types, tuple)
    assert torch.zeros(1).item() == 0.0


# Pinned memory.


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_a_copy_to_pinned_memory_arrives_when_an_event_after_it_is_waited_for(dtype):
    source = torch.zeros(3, dtype=dtype)
    early, event = torch.cuda.Event(), torch.cuda.Event()
    early.record()
    pinned = torch.empty_like(source, device="cpu", pin_memory=True).copy_(source, non_blocking=True)
    assert pinned.is_pinned()
    assert not source.is_pinned()
    event.record()
    source.fill_(1)  # the copy is before it in the stream
    early.synchronize()
    assert not torch.equal(pinned, torch.zeros(3, dtype=dtype))
    event.synchronize()
    assert torch.equal(pinned, torch.zeros(3, dtype=dtype))


def test_a_copy_arrives_too_when_its_stream_or_the_device_is_waited_for_or_a_value_is_read():
    side = torch.cuda.Stream()
    waits = (torch.cuda.current_stream().synchronize, torch.cuda.synchronize, torch.zeros(1).item, torch.zeros(1).cpu)
    for wait in waits:
        pinned = torch.empty(2, pin_memory=True).copy_(torch.ones(2), non_blocking=True)
        side.synchronize()
        assert pinned.isnan().all()
        wait()
        assert pinned.tolist() == [1.0, 1.0]


def test_an_event_of_a_stream_that_has_waited_for_the_copys_stream_covers_it():
    pinned = torch.empty(2, pin_memory=True).copy_(torch.ones(2), non_blocking=True)
    side, event = torch.cuda.Stream(), torch.cuda.Event()
    side.wait_stream(torch.cuda.current_stream())
    event.record(side)
    assert not event.query()
    assert pinned.isnan().all()
    assert event.query()
    assert pinned.tolist() == [1.0, 1.0]


def test_pinned_memory_that_changes_before_it_was_read_shows():
    pinned, event = torch.ones(2).pin_memory(), torch.cuda.Event()
    on_device = pinned.to("cpu", non_blocking=True)
    assert on_device.data_ptr() != pinned.data_ptr()
    event.record()
    event.synchronize()
    pinned.fill_(2.0)  # not too early
    torch.cuda.synchronize()
    on_device.copy_(pinned, non_blocking=True)
    pinned.fill_(3.0)
    with pytest.raises(RuntimeError, match="pinned memory was changed before the copy"):
        torch.cuda.synchronize()
    torch.cuda.synchronize()
    on_device.copy_(pinned, non_blocking=True)
    pinned.fill_(4.0)
    with pytest.raises(RuntimeError, match="pinned memory was changed before the copy"):
        _record(lambda: None)


# Graphs.


def test_a_graph_does_again_what_was_captured_without_its_python(emulator):
    calls, x, total = [], torch.tensor([1.0, 2.0]), torch.zeros(2)
    weight = torch.ones(2, requires_grad=True)

    def function():
        calls.append(1)
        loss = (weight * x).exp().sum()
        (gradient,) = torch.autograd.grad(loss, weight)
        total.add_(gradient)
        total[0] = 0.0
        return loss.detach(), gradient.view(1, 2), x.expand(3, 2).clone()

    results, graph = _record(function)
    assert torch.equal(total, torch.zeros(2))  # nothing was done
    assert all(result.isnan().all() for result in results)
    addresses = [result.data_ptr() for result in results]
    for values in ([1.0, 2.0], [0.0, 1.0]):
        x.copy_(torch.tensor(values))
        graph.replay()
        e = x.exp()
        torch.testing.assert_close(results, (e.sum(), (x * e).view(1, 2), x.expand(3, 2)))
    torch.testing.assert_close(total, torch.tensor([0.0, 2.0 * math.exp(2.0) + math.exp(1.0)]))
    assert [result.data_ptr() for result in results] == addresses
    assert len(calls) == 1
    assert (emulator.captures, emulator.replays, emulator.refused) == (1, 2, [])


def test_a_value_of_the_host_is_a_constant_of_the_graph():
    x, factor = torch.ones(1), 2.0
    result, graph = _record(lambda: x * factor)
    factor = 3.0
    graph.replay()
    assert result.item() == 2.0


def test_what_a_graph_reads_must_live_as_long():
    x = torch.ones(1)
    result, graph = _record(lambda: x + 1.0)
    graph.replay()
    assert result.item() == 2.0
    x = None
    with pytest.raises(RuntimeError, match="1 pieces of memory that were freed since the capture"):
        graph.replay()


def test_what_a_graph_allocates_holds_nothing_before_a_replay_writes_it():
    once = torch.ones(2)
    (kept, result), graph = _record(lambda: (torch.empty(2), once + 1.0))
    kept.fill_(5.0)
    graph.replay()
    assert kept.isnan().all()
    assert result.tolist() == [2.0, 2.0]


def test_pinned_memory_in_a_graph_is_written_and_read_late_by_each_replay():
    source, pinned, out = torch.ones(2), torch.empty(2, pin_memory=True), torch.zeros(2)
    _, graph = _record(lambda: pinned.copy_(source, non_blocking=True))
    for number in (1.0, 2.0):
        source.fill_(number)
        graph.replay()
        assert pinned.isnan().all()
        torch.cuda.synchronize()
        assert pinned.tolist() == [number] * 2
    _, graph = _record(lambda: out.copy_(pinned, non_blocking=True))
    assert out.tolist() == [0.0, 0.0]
    graph.replay()
    pinned.zero_()
    assert torch.equal(out, torch.full((2,), 2.0))
    with pytest.raises(RuntimeError, match="pinned memory was changed before the copy"):
        graph.replay()


WAITING = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x[0]),
    "bool": lambda x: bool(x[0] > 0),
    "a branch": lambda x: 1 if x.sum() > 0 else 2,
    "tolist": lambda x: x.tolist(),
    "numpy": lambda x: x.numpy(),
    "cpu": lambda x: x.cpu(),
    "to": lambda x: x.to("cpu"),
    "nonzero": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 0],
    "numbers at a mask": lambda x: x.index_put((x > 0,), torch.ones_like(x)),
    "equal": lambda x: torch.equal(x, x + 1),
    "allclose": lambda x: torch.allclose(x, x + 1),
    "unique": lambda x: x.unique(),
    "a list": lambda x: x + torch.tensor([1.0, 2.0]),
    "pin_memory": lambda x: x.pin_memory(),
    "pinned memory": lambda x: torch.empty(2, pin_memory=True),
    "the device": lambda x: torch.cuda.synchronize(),
    "a stream": lambda x: torch.cuda.current_stream().synchronize(),
    "an event": lambda x: torch.cuda.Event().synchronize(),
    "a capture": lambda x: _record(lambda: x),
}


@pytest.mark.parametrize("wait", WAITING.values(), ids=WAITING)
def test_what_waits_is_not_permitted_while_capturing(emulator, wait):
    x, before = torch.ones(2), torch.cuda.current_stream()

    def function():
        x.add_(1.0)
        with pytest.raises(RuntimeError, match=NOT_PERMITTED):
            wait(x)
        with pytest.raises(RuntimeError, match="previous error"):
            x.add_(1.0)

    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match="operation failed due to a previous error during capture"):
        _record(function, graph)
    assert len(emulator.refused) == 1
    assert emulator.captures == 0
    assert x.tolist() == [1.0, 1.0]
    assert torch.cuda.current_stream() is not before  # as CUDA leaves it
    assert not torch.cuda.is_current_stream_capturing()
    with pytest.raises(RuntimeError, match="without a capture"):
        graph.replay()


def test_what_does_not_wait_is_permitted_while_capturing(emulator):
    x = torch.tensor([1.0, -1.0])

    def function():
        x[x < 0] = 0.0  # a fill, no list of places
        x[0] = 3.0
        event = torch.cuda.Event()
        event.record()
        return torch.where(x > 1.0, 0.7, x).clamp(max=0.5), x.new_full((2,), 4.0)[torch.arange(2)], torch.zeros(2).to(x)

    result, graph = _record(function)
    graph.replay()
    assert [tensor.tolist() for tensor in result] == [[0.5, 0.0], [4.0, 4.0], [0.0, 0.0]]
    assert emulator.refused == []


@pytest.mark.parametrize("mode", ["global", "thread_local"])
def test_another_thread_may_wait_during_a_thread_local_capture(mode):
    found = []

    def capture():
        with torch.cuda.graph(torch.cuda.CUDAGraph(), capture_error_mode=mode):
            found.append(_in_thread(lambda: torch.ones(2).sum().item()))
            found.append(_in_thread(torch.cuda.is_current_stream_capturing))

    if mode == "thread_local":
        capture()
        assert found == [2.0, False]
        return
    with pytest.raises(RuntimeError, match="previous error during capture"):
        capture()
    assert NOT_PERMITTED in str(found[0])


# Streams.


def test_a_stream_that_was_not_waited_for_is_noted(emulator):
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda.CUDAGraph  # noqa: B018
    torch.cuda.current_stream().wait_stream(side)
    emulator.timeline.check()
    assert emulator.unordered == [(torch.cuda.default_stream(), side)]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        emulator.timeline.check()
    emulator.timeline.check()
    assert emulator.unordered[1:] == [(side, torch.cuda.default_stream())]


def test_the_stream_of_a_capture_waits_for_the_current_one_and_that_for_it(emulator):
    graph, x = CudaGraph(), torch.zeros(1)
    before = torch.cuda.current_stream()
    for _ in range(2):
        graph.warm_up(lambda: x.add_(1.0))
        emulator.timeline.check()
    graph.record(lambda: x.add_(1.0))
    graph.replay()
    assert torch.cuda.current_stream() is before
    assert emulator.unordered == []
    assert x.item() == 3.0
    with pytest.raises(RuntimeError):
        CudaGraph().record(lambda: x.item())
    assert torch.cuda.current_stream() is before


# Launches.


def _rational():
    return Rational(), torch.linspace(-2.0, 2.0, 32).view(4, 8).requires_grad_()


def _with_gradient(module, x):
    (gradient,) = torch.autograd.grad(module(x).sum(), module.numerator)
    return gradient


def test_kernels_run_in_a_graph(emulator):
    module, x = _rational()
    expected = _with_gradient(module, x)
    gradient, graph = _record(lambda: _with_gradient(module, x))
    assert gradient.isnan().all()
    launched = emulator.launches.counts.copy()
    graph.replay()
    assert torch.equal(gradient, expected)
    assert emulator.launches.counts == {name: count + 1 for name, count in launched.items()}
    assert sum(launched.values()) == 4  # once plainly and once while capturing


def _add(kernel, x, tickets, amount=2, **settings):
    launching.launch(kernel, 1, x, tickets, amount, device=x.device, SIGN=1, **settings)


@pytest.mark.parametrize(
    ("offset", "amount", "dtype", "warps"),
    [
        (0, 2, torch.int32, 4),
        (1, 2, torch.int32, 4),
        (0, 16, torch.int32, 4),
        (0, 1, torch.int32, 4),
        (0, 2, torch.int64, 4),
        (0, 2, torch.int32, 8),
    ],
)
def test_a_kernel_that_is_not_loaded_is_not_permitted_while_capturing(emulator, offset, amount, dtype, warps):
    """Only the first of these was loaded. The careful kernel takes any offset and amount."""
    tickets, x = torch.zeros(8, dtype=torch.int32), torch.zeros(1, dtype=dtype)
    _add(kernels.add_kernel, torch.zeros(1, dtype=torch.int32), tickets, load=True)
    _add(kernels.careful_add_kernel, torch.zeros(1, dtype=dtype), tickets, warps=warps, load=True)
    assert emulator.launches.counts == {}
    _, graph = _record(lambda: _add(kernels.careful_add_kernel, x, tickets[offset:], amount, warps=warps))
    graph.replay()
    assert x.item() == amount
    assert emulator.refused == []
    if (offset, amount, dtype, warps) == (0, 2, torch.int32, 4):
        _record(lambda: _add(kernels.add_kernel, x, tickets[offset:], amount, warps=warps))
        return
    with pytest.raises(RuntimeError, match="previous error"):
        _record(lambda: _add(kernels.add_kernel, x, tickets[offset:], amount, warps=warps))
    assert emulator.refused[0].startswith("loading add_kernel")


def test_a_plan_made_while_capturing_loads_no_kernel_then(emulator):
    module, x = _rational()
    with pytest.raises(RuntimeError, match="previous error"):
        _record(lambda: _with_gradient(module, x))
    assert "loading forward_kernel" in emulator.refused[0]


def test_evaluations_use_the_cpus_kernels_meanwhile(emulator):
    module, x = _rational()
    on_gpu = module(x)
    launched = emulator.launches.counts.copy()
    on_cpu = _in_thread(lambda: module(x), name="evaluation")
    assert emulator.launches.counts == launched
    torch.testing.assert_close(on_cpu, on_gpu)
    assert _in_thread(lambda: module(x)).shape == x.shape
    assert emulator.launches.counts["forward_kernel"] == launched["forward_kernel"] + 1


# Faults in an update, which the library must find.


class Update(nn.Module):
    """An update of one number, which a test gives a fault."""

    def __init__(self, fault=lambda total: 0.0):
        super().__init__()
        self.register_buffer("total", torch.zeros(1))
        self.fault = fault

    def update(self, x):
        self.total += x + self.fault(self.total)
        return {"total": self.total.clone()}


def _captured_totals(learner, count=8):
    update = captured(learner)
    return [update(torch.full((1,), float(number)))["total"].item() for number in range(count)]


def test_an_update_without_a_fault_is_captured_and_replayed(emulator, capsys):
    assert _captured_totals(Update()) == [0, 1, 3, 6, 10, 15, 21, 28]
    assert emulator.captures == 1
    assert emulator.replays >= 4
    assert capsys.readouterr().err == ""


def test_an_update_that_waits_runs_as_it_is(emulator, capsys):
    learner = Update(lambda total: 0.0 * total.item())
    assert _captured_totals(learner) == [0, 1, 3, 6, 10, 15, 21, 28]
    assert emulator.captures == emulator.replays == 0
    assert f"({NOT_PERMITTED}" in capsys.readouterr().err.replace("CUDA error: ", "")


def test_a_value_that_was_read_from_the_host_is_found(emulator, capsys):
    numbers = iter(range(100))
    learner, plain = Update(lambda total: next(numbers)), Update()
    plain.fault = iter(range(100)).__next__
    plain.fault = (lambda count: lambda total: next(count))(iter(range(100)))
    got = _captured_totals(learner, 4)
    assert got == [plain.update(torch.full((1,), float(number)))["total"].item() for number in range(4)]
    assert emulator.captures == 1
    assert "its total differs from the plain update's" in capsys.readouterr().err


def test_a_metric_that_is_read_late_shows():
    """As a run would read it that copies metrics to pinned memory and does not wait for them."""
    learner = Update()
    metrics = learner.update(torch.ones(1))
    pinned = torch.empty(1, pin_memory=True).copy_(metrics["total"], non_blocking=True)
    assert pinned.isnan()


def test_a_metric_that_was_kept_is_overwritten_by_the_next_replay():
    update = captured(Update())
    kept = [update(torch.ones(1))["total"] for _ in range(7)]
    assert kept[-1] is kept[-2]
    assert kept[-2].item() == 7.0


@pytest.mark.parametrize("aligned", [4, 1])
def test_counters_of_captured_launches_that_are_not_aligned_are_found(emulator, aligned, monkeypatch, capsys):
    """A launch takes one counter; those of the second are 4 bytes after the first's, where nothing is rounded up."""
    monkeypatch.setattr(launching.Tickets, "_ALIGNED", aligned)

    def add_twice(total):
        for _ in range(2):
            _add(kernels.add_kernel, total, launching.tickets(total.device).take(1), 0)
        return 0.0

    assert _captured_totals(Update(add_twice)) == [0, 1, 3, 6, 10, 15, 21, 28]
    error = capsys.readouterr().err
    if aligned == 4:
        assert (emulator.captures, emulator.refused, error) == (1, [], "")
    else:
        assert emulator.captures == 0
        assert "loading add_kernel" in emulator.refused[0]
        assert "cannot be replayed as a CUDA graph (CUDA error: " + NOT_PERMITTED in error
