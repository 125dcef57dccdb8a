"""Which backend computes a call, and what is refused."""

import threading

import pytest
import torch

from rlrat.rational import backend, backends, cpu, launching, rational
from tests.rational.inputs import all_gradients, draw_inputs, needs_kernels

pytestmark = pytest.mark.filterwarnings("ignore:rational activations run on plain PyTorch")


@needs_kernels
def test_a_backend_that_is_asked_for_computes_or_refuses():
    x, a, b = draw_inputs("A", dtype=torch.float32)
    with backend("cpu"), pytest.raises(RuntimeError, match="computes on a CPU"):
        backends._choose("cpu", x.to("meta"), a, b, None, "A")
    y = {}
    for name in ("reference", "cpu"):
        with backend(name):
            y[name] = rational(x, a, b)
    other = threading.Thread(target=lambda: y.update(thread=torch.autograd.grad(y["reference"].sum(), a)))
    other.start()
    other.join()
    with backend("reference"):
        expected = torch.autograd.grad(rational(x, a, b).sum(), a)
    assert torch.equal(y["thread"][0], expected[0])


def test_backends_are_named():
    with pytest.raises(ValueError, match="only reference, cpu, triton"), backend("cuda"):
        pass
    assert backends.report()[0].startswith("cpu: ")
    assert backends.report()[1].startswith("cuda")


def test_the_report_names_each_devices_backend(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"device {index}")
    monkeypatch.setattr(backends, "version", {"triton": "3.9.0"}.__getitem__)
    monkeypatch.setattr(cpu, "unavailable", None)
    monkeypatch.setattr(cpu, "instructions", lambda: "avx2")
    monkeypatch.setattr(cpu, "threads", lambda: 3)
    monkeypatch.setattr(launching, "problem", lambda: None)
    triton = "triton (compiled kernels, Triton 3.9.0)"
    assert backends.report() == [
        "cpu: cpu (C kernels, avx2, 3 threads)", f"cuda:0 (device 0): {triton}", f"cuda:1 (device 1): {triton}",
    ]  # fmt: skip
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(cpu, "unavailable", "one reason")
    monkeypatch.setattr(launching, "problem", lambda: "another")
    assert backends.report() == [
        "cpu: reference (plain PyTorch), because one reason",
        "cuda:0 (device 0): reference (plain PyTorch), because another",
    ]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert backends.report()[1:] == ["cuda: there is no such device"]
    for name in ("cuda", "hip"):
        monkeypatch.setattr(torch.version, name, None)
    assert backends.report()[1:] == ["cuda: this PyTorch is built for CPUs alone"]


def test_without_kernels_it_warns_once_and_runs(monkeypatch, recwarn):
    monkeypatch.setattr(cpu, "unavailable", "the C kernels were not built")
    monkeypatch.setattr(cpu, "_warned", False)
    monkeypatch.setattr(backends, "_plans", {})
    x, a, b = draw_inputs("A")
    for _ in range(2):
        rational(x, a, b).sum().backward()
    assert ["plain PyTorch" in str(w.message) for w in recwarn] == [True]
    with pytest.raises(RuntimeError, match="not built"), backend("cpu"):
        pass


@needs_kernels
def test_degrees_beyond_the_kernels_fall_back():
    for version, degrees in (("A", (9, 9)), ("A", (5, 9)), ("N", (5, 9)), ("C", (5, 9)), ("C", (9, 8))):
        x, a, b = draw_inputs(version, degrees=degrees)
        with pytest.raises(RuntimeError, match="degrees up to 8"), backend("cpu"):
            rational(x, a, b, version)
        assert rational(x, a, b, version).isfinite().all()


def test_everything_is_on_one_device():
    x, a, b = (t.detach() for t in draw_inputs("A"))
    with pytest.raises(ValueError, match="numerator is on meta, x on cpu"):
        rational(x, a.to("meta"), b)
    assert rational(x.to("meta"), a.to("meta"), b.to("meta")).is_meta
    with torch.device("meta"):  # where new tensors go
        assert torch.equal(rational(torch.cat([x, x], -1)[:, :5], a, b), rational(x, a, b))


@needs_kernels
def test_threads_of_python_share_the_kernels():
    inputs = draw_inputs("A", (2,), 2, (300,), 64, dtype=torch.float32)
    expected, results = all_gradients(inputs, "A"), []
    threads = [threading.Thread(target=lambda: results.append(all_gradients(inputs, "A"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(torch.equal(ours, theirs) for result in results for ours, theirs in zip(result, expected, strict=True))
