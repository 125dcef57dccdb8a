"""Where Triton's kernels run, and the counters of their programs."""

import warnings

import pytest
import torch

from rlrat.rational import Rational, backend, backends, launching, rational


@pytest.fixture
def _anew(monkeypatch):
    """Nothing is known yet of this machine, and nothing will be after the test."""
    monkeypatch.setattr(backends, "_plans", {})
    for function in (launching.problem, launching._warn):
        function.cache_clear()
    yield
    for function in (launching.problem, launching._warn):
        function.cache_clear()


@pytest.mark.usefixtures("_anew")
def test_where_triton_cannot_compile_rationals_run_on_plain_pytorch_and_the_report_says_why(monkeypatch):
    def fail():
        raise RuntimeError("Failed to find C compiler. Please specify via CC.\nmore")

    monkeypatch.setattr(launching, "_try", fail)
    monkeypatch.setattr(launching, "_gpu_types", ("cpu",))
    module, x = Rational(), torch.randn(3, 4, requires_grad=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module(x).sum().backward()
        module(x[:2]).sum().backward()
    reason = "Triton cannot compile a kernel here (Failed to find C compiler. Please specify via CC.)"
    assert launching.problem() == reason
    assert [str(w.message).partition(": ")[2] for w in caught if "GPU kernels" in str(w.message)] == [reason]
    with backend("reference"):
        expected = rational(x, module.numerator, module.denominator)
    torch.testing.assert_close(module(x), expected)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    assert backends.report()[1] == f"cuda:0 (a GPU): reference (plain PyTorch), because {reason}"
    with pytest.raises(RuntimeError, match="Failed to find C compiler"), backend("triton"):
        pass


@pytest.mark.usefixtures("_anew")
def test_without_triton_that_is_the_problem(monkeypatch):
    monkeypatch.setattr(launching.importlib.util, "find_spec", lambda name: None)
    assert launching.problem() == "Triton is not installed (pip install triton)"


class _FakeStream:
    cuda_stream = 0

    def synchronize(self):
        pass


def test_counters_of_captured_launches_begin_at_16_bytes(monkeypatch):
    """Else Triton compiles another kernel than the one that was loaded, inside of the capture."""
    monkeypatch.setattr(launching, "_gpu_types", ("cpu",))
    capturing = [False]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing[0])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: _FakeStream())
    tickets = launching.Tickets(torch.device("cpu"))
    tickets.take(2)
    capturing[0] = True
    taken = [tickets.take(count) for count in (1, 2, 5, 64, 10, 4)]
    assert [len(counters) for counters in taken] == [1, 2, 5, 64, 10, 4]
    first = taken[0].data_ptr()
    assert [(counters.data_ptr() - first) // 4 for counters in taken] == [0, 4, 8, 16, 80, 92]
    assert all(counters.data_ptr() % 16 == 0 and not counters.any() for counters in taken)


def test_counters_begin_as_zeros():
    assert torch.equal(launching.Tickets(torch.device("cpu")).take(3), torch.zeros(3, dtype=torch.int32))
