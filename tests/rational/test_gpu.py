"""A GPU's plans: what they take, how they cut it into tiles, and that streams and graphs can use them."""

import itertools
import math
import subprocess
import sys
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

from rlrat.rational import Rational, backend, gpu, launching, rational
from rlrat.rational.layout import Layout
from tests.compile_kernels import compiled_for
from tests.rational.inputs import DEVICE, all_gradients, assert_near, draw_on_device, expected_gradients

needs_triton = pytest.mark.skipif(launching.problem() is not None, reason=str(launching.problem()))


@needs_triton
def test_it_refuses_what_it_cannot_compute():
    x = torch.randn(4, 8, device=DEVICE)
    message = "backend triton computes on a CUDA device, with degrees up to 8"
    for m, n in ((9, 4), (5, 9)):
        a, b = torch.ones(1, m + 1, device=DEVICE), torch.ones(1, n, device=DEVICE)
        with backend("triton"), pytest.raises(RuntimeError, match=message):
            rational(x, a, b)


@needs_triton
def test_what_it_supports(monkeypatch):
    x, a = torch.empty(4, 8, device=DEVICE), torch.empty(2, 6, device=DEVICE)
    assert gpu.supports((8, 8), x, a, None)
    assert not gpu.supports((9, 4), x, a, None)
    assert not gpu.supports((5, 9), x, a, None)
    assert not gpu.supports((5, 4), x.to("meta"), a, None)
    many = x[:1, :2].expand(2**30, 2)  # rows are counted in 32 bits
    assert not gpu.supports((5, 4), many, a, None)
    assert gpu.supports((5, 4), many[1:], a, None)
    monkeypatch.setattr(launching, "problem", lambda: "Triton is not installed")
    assert not gpu.supports((5, 4), torch.empty(4, 8), a, None)


def _tiles(layout, size, strides, shape=(4, 2), programs=10000, least=1):
    return gpu._Tiles.of(shape, layout, size, strides, programs, least)


def test_tiles_take_16_bytes_where_memory_allows():
    tiles = _tiles(Layout(1, 1, 1, 5000, True, 0), 4, (0, 0))
    assert tiles[:6] == (4, 5000 - 4096, 256, 5, 1, 4)
    assert tiles.constants == {"LANES": 256, "CHUNKS": 256, "VECTOR": 4, "DENSE": True, "WHOLE": True}
    rows = Layout(2, 100, 3, 64, False, 1)
    tiles = _tiles(rows, 4, (19200, 192), (4, 1))
    assert tiles[:6] == (12, 4, 16, 13, 1, 4)
    assert tiles.constants == {"LANES": 128, "CHUNKS": 16, "VECTOR": 4, "DENSE": False, "WHOLE": True}
    assert _tiles(rows, 4, (19200, 193)).constants["VECTOR"] == 1  # rows that do not begin at 16 bytes
    wide = _tiles(Layout(1, 3, 1, 3000, False, 0), 2, (3000, 3000))
    assert wide[:6] == (3, 0, 375, 3, 2, 4)
    assert wide.constants == {"LANES": 256, "CHUNKS": 256, "VECTOR": 8, "DENSE": False, "WHOLE": False}
    square = Layout(2, 256, 1, 256, False, 1)
    assert _tiles(square, 4, (65536, 256)).constants["DENSE"]
    assert not _tiles(square, 4, (65536, 256, 131072, 512)).constants["DENSE"]  # a gate whose rows are apart


def test_programs_take_several_tiles():
    rows = Layout(1, 100, 1, 256, False, 0)
    assert [_tiles(rows, 4, (0, 256), (4, 1), 30, least).splits for least in (1, 8, 20, 60)] == [30, 6, 2, 1]
    assert _tiles(rows._replace(batch=4), 4, (25600, 256), (4, 1), 30).splits == 8


class _Recorded(NamedTuple):
    kernel: object
    programs: int
    arguments: tuple
    warps: int
    constants: dict


@pytest.fixture
def launches(monkeypatch):
    """What would be launched on a GPU with 132 processors; tensors are in the memory of the CPU."""
    recorded = []

    def launch(kernel, programs, *arguments, device, load=False, warps=4, **constants):
        assert programs >= 1
        recorded.append(_Recorded(kernel, programs, arguments, warps, constants))

    unaligned = SimpleNamespace(take=lambda count: torch.zeros(count + 1, dtype=torch.int32)[1:])
    monkeypatch.setattr(launching, "launch", launch)
    monkeypatch.setattr(launching, "_gpu_types", ("cpu",))
    monkeypatch.setattr(launching, "tickets", lambda device: unaligned)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: SimpleNamespace(multi_processor_count=132))
    return recorded


def _run(x, a, b, bias=None, gate=None, grad=None):
    plan = gpu.Plan(x, a, b, bias, gate, "A")
    plan.forward(x, a, b, bias, gate)
    plan.backward(torch.empty_like(x) if grad is None else grad, x, a, b, bias, gate)


@needs_triton
@pytest.mark.parametrize(("shape", "fewest"), [
    ((1, 2, 256, 256), 32), ((1, 1, 256, 256), 16), ((64, 2, 256, 256), 2048), ((64, 2, 8192, 256), 132 * 32),
    ((1, 2, 2**18, 256), 132 * 32),
])  # fmt: skip
def test_small_inputs_leave_few_partial_sums_and_large_ones_keep_all_processors(launches, shape, fewest):
    x = torch.empty(shape[-1]).expand(shape)
    a, b, bias = (torch.empty(*shape[:2], *rest) for rest in ((1, 6), (1, 4), (256,)))
    _run(x, a, b, bias)
    backward = [one for one in launches if "splits" in one.kernel.arg_names and one.kernel.arg_names[1] == "grad_ptr"][
        -1
    ]
    named = dict(zip(backward.kernel.arg_names, backward.arguments, strict=False))
    assert backward.programs >= fewest
    assert backward.programs == shape[0] * shape[1] * named["splits"]
    assert named["full"] >= 8 * named["splits"]
    assert named["partial_ptr"].numel() == backward.programs * (10 + 256)


def _memory_at(offset, *shape, dtype=torch.float32):
    """A contiguous tensor that begins so many elements after 16 bytes."""
    count = math.prod(shape)
    memory = torch.empty(count + 16, dtype=dtype)
    start = -memory.data_ptr() // memory.element_size() % 16 + offset
    return memory[start : start + count].view(shape)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_a_part_of_other_memory_takes_the_same_kernels(launches, dtype):
    """Else Triton compiles one while a graph is captured: for seeds, counters, parameters, inputs, of every number."""
    for seeds, offset in itertools.product((1, 2, 5, 64), (0, 1, 2, 3, 4, 8)):
        parameters = (_memory_at(offset + at, seeds, *shape) for at, shape in enumerate(((1, 6), (1, 4), (256,))))
        x, gate, grad = (_memory_at(offset * at, seeds, 3, 256, dtype=dtype) for at in (1, 0, 2))
        _run(x, *parameters, gate, grad)
    assert len({compiled_for(one.kernel, *one[2:]) for one in launches}) == 2
    launches.clear()
    for elements, offset in itertools.product((1, 2, 16, 1000, 1024, 4096, 4097, 2**20), (0, 1, 2, 3, 4, 8)):
        _run(_memory_at(offset, elements, dtype=dtype), _memory_at(offset, 1, 6), _memory_at(offset + 1, 1, 4))
    assert len({compiled_for(one.kernel, *one[2:]) for one in launches}) == 2


@needs_triton
@pytest.mark.parametrize("shape", [(35, 516), (36 * 512 + 3,)])
def test_partial_sums_of_many_programs_are_added_in_two_steps(monkeypatch, shape):
    from rlrat.rational import triton_kernels

    monkeypatch.setattr(gpu, "_programs", lambda direction, device: (1000, 1))
    counters, take = [], launching.Tickets.take
    monkeypatch.setattr(launching.Tickets, "take", lambda *given: counters.append(take(*given)) or counters[-1])
    fused = ("bias",) if len(shape) > 1 else ()
    *rows, size = shape
    inputs, extra = draw_on_device("A", (), 1, rows, size, (5, 4), torch.float32, fused)
    x, a, b = inputs
    expected = expected_gradients(inputs, "A", extra)
    plan = gpu.Plan(x, a, b, extra.get("bias"), None, "A")
    assert plan._tiles["backward"].splits > triton_kernels.GROUP.value
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(x)
    found = [plan.backward(grad, x, a, b, extra.get("bias"), None) for _ in range(2)]
    got = [t for t in found[0] if t is not None]
    assert_near([t.detach() for t in got], expected[1:], 2e-5)
    assert all(torch.equal(*both) for both in zip(got, found[1], strict=False))
    assert not any(left.any() for left in counters)


@needs_triton
def test_a_plan_computes_into_what_it_is_given():
    (x, a, b), _ = draw_on_device("A", (), 1, (5,), 8, (5, 4), torch.float32)
    plan, out = gpu.Plan(x, a, b, None, None, "A"), torch.empty_like(x)
    assert plan.forward(x, a, b, None, None, out) is out
    with backend("reference"):
        torch.testing.assert_close(out, rational(x, a, b).detach())


@needs_triton
@pytest.mark.skipif(DEVICE == "cuda", reason="it would compile 108 kernels; gpu_check.sh runs tune there")
def test_tune_keeps_the_fastest_tiles(monkeypatch):
    from triton import testing

    fastest, measured = {2: (8, 1), 4: (2, 4), 8: (4, 2)}, []

    def time(run, **_):
        measured.append(run)
        x, tiles = run.args[0], run.func.__self__._tiles[run.func.__name__]
        shape = tiles.warps, tiles.constants["LANES"] // (32 * tiles.warps)
        return 1.0 if shape == fastest[x.element_size()] else 2.0

    monkeypatch.setattr(testing, "do_bench", time)
    for direction in gpu.TILES:
        monkeypatch.setitem(gpu.TILES, direction, dict(gpu.TILES[direction]))
    assert gpu.tune(2**9, DEVICE) == {"forward": fastest, "backward": fastest}
    assert gpu.TILES["backward"] == fastest
    assert len(measured) == 2 * 3 * 9
    measured[0]()  # what is timed runs
    measured[-1]()


@needs_triton
@pytest.mark.gpu
@pytest.mark.skipif(DEVICE != "cuda", reason="no CUDA device")
class TestOnAGpu:
    def test_it_is_the_backend_of_a_gpu(self):
        x, module = torch.randn(8, 16, device="cuda"), Rational().cuda()
        with backend("triton"):
            expected = module(x)
        assert torch.equal(module(x), expected)
        output = subprocess.run([sys.executable, "-m", "rlrat.rational"], capture_output=True, text=True, check=True)
        assert "triton" in output.stdout

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_a_large_input(self, dtype):
        x, module = torch.randn(2**24 + 8, device="cuda", dtype=dtype, requires_grad=True), Rational().cuda()
        module(x).sum().backward()
        with backend("reference"):
            wide = x.detach().double().requires_grad_()
            twin = Rational().cuda().double()
            twin(wide).sum().backward()
        torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-2, atol=1e-2)
        for ours, theirs in zip(module.parameters(), twin.parameters(), strict=True):
            torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=1e-4, atol=1e-2)

    def test_partial_sums_of_many_rows(self):
        inputs, extra = draw_on_device("A", (2,), 1, (50001,), 256, (5, 4), torch.float32, ("bias",))
        expected = expected_gradients(inputs, "A", extra)
        assert_near(all_gradients(inputs, "A", extra), expected, 2e-5)

    def test_more_than_2_to_the_31_elements(self):
        x = torch.randn(2**12, device="cuda", dtype=torch.bfloat16).repeat(2**19 + 1)
        x.requires_grad_()
        module = Rational().cuda()
        y = module(x)
        assert torch.equal(y[: 2**12], y[-(2**12) :])
        (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
        assert torch.equal(dx[: 2**12], dx[-(2**12) :])

    def test_a_cuda_graph_replays_it(self):
        module, x = Rational(batch_shape=(4,)).cuda(), torch.randn(4, 64, 256, device="cuda", requires_grad=True)
        grad, inputs = torch.randn_like(x), [x, *module.parameters()]
        graph = torch.cuda.CUDAGraph()
        module(x)  # loads both directions
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            y = module(x)
            gradients = torch.autograd.grad(y, inputs, grad)
        for _ in range(3):
            with torch.no_grad():
                x.normal_()
            graph.replay()
            expected = torch.autograd.grad(module(x), inputs, grad)
            for ours, theirs in zip(gradients, expected, strict=True):
                assert torch.equal(ours, theirs)

    def test_streams_do_not_disturb_each_other(self):
        module, x = Rational().cuda(), torch.randn(64, 4096, device="cuda", requires_grad=True)
        expected = torch.autograd.grad(module(x).sum(), list(module.parameters()))
        streams, results = [torch.cuda.Stream() for _ in range(4)], []
        torch.cuda.synchronize()
        for turn in range(40):
            with torch.cuda.stream(streams[turn % 4]):
                results.append(torch.autograd.grad(module(x).sum(), list(module.parameters())))
        torch.cuda.synchronize()
        for result in results:
            assert all(torch.equal(ours, theirs) for ours, theirs in zip(result, expected, strict=True))

    def test_compile_fullgraph(self):
        module, x = Rational().cuda(), torch.randn(64, 256, device="cuda", requires_grad=True)
        compiled = torch.compile(lambda t: module(t).square().sum(), fullgraph=True)
        expected = torch.autograd.grad(module(x).square().sum(), [x, *module.parameters()])
        for ours, theirs in zip(torch.autograd.grad(compiled(x), [x, *module.parameters()]), expected, strict=True):
            torch.testing.assert_close(ours, theirs)

    def test_vmap_of_grad_and_second_derivatives(self):
        inputs, _ = draw_on_device("A", (), 1, (5,), 4, (3, 2), torch.float64)
        x, a, b = inputs
        per_sample = torch.func.vmap(torch.func.grad(lambda t: rational(t, a, b).square().sum()))(x)
        torch.testing.assert_close(per_sample, torch.autograd.grad(rational(x, a, b).square().sum(), x)[0])
        assert torch.autograd.gradcheck(rational, inputs)
        assert torch.autograd.gradgradcheck(rational, inputs)

    def test_autocast_leaves_the_coefficients(self):
        module, x = Rational().cuda(), torch.randn(4, 8, device="cuda")
        with torch.autocast("cuda", dtype=torch.bfloat16):
            assert module(x).dtype == torch.float32
            module(x.bfloat16()).float().sum().backward()
        assert module.numerator.grad.dtype == torch.float32

    def test_every_choice_of_tiles_is_right(self, monkeypatch):
        inputs, extra = draw_on_device("A", (2,), 1, (50,), 256, (5, 4), torch.float32, ("bias",))
        expected = expected_gradients(inputs, "A", extra)
        for tiles in ((2, 1), (4, 4), (8, 2)):
            for direction in gpu.TILES:
                monkeypatch.setitem(gpu.TILES[direction], 4, tiles)
            plan = gpu.Plan(*inputs, extra["bias"], None, "A")
            y = plan.forward(*inputs, extra["bias"], None)
            grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
            got = [y, *plan.backward(grad, *inputs, extra["bias"], None)[:4]]
            assert_near([t.detach() for t in got], expected, 2e-5)
