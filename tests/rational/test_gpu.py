"""A GPU's plans: what they take, how they cut it into tiles, and that streams and graphs can use them."""

import subprocess
import sys

import pytest
import torch

from rlrat.rational import Rational, backend, gpu, launching, rational
from rlrat.rational.layout import Layout
from tests.rational.inputs import DEVICE, assert_near, draw_on_device, expected_gradients

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


def test_tiles_take_16_bytes_where_memory_allows():
    flat = Layout(1, 1, 1, 5000, True, 0)
    tiles = gpu._Tiles.of("forward", flat, 4, (0, 0))
    assert tiles == (5000, 5, 1024, 256, 256, 4, 4)
    assert (tiles.row_tiles, tiles.column_tiles) == (5, 1)
    rows = Layout(2, 100, 3, 64, False, 1)
    tiles = gpu._Tiles.of("backward", rows, 4, (19200, 192))
    assert tiles == (0, 100, 64, 128, 16, 4, 4)
    assert (tiles.row_tiles, tiles.column_tiles) == (13, 1)
    assert gpu._Tiles.of("backward", rows, 4, (19200, 193)).vector == 1  # rows that do not begin at 16 bytes
    wide = gpu._Tiles.of("forward", Layout(1, 3, 1, 3000, False, 0), 2, (3000, 3000))
    assert (wide.vector, wide.chunks, wide.row_tiles, wide.column_tiles) == (8, 256, 3, 2)


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
        direction, x = run.func.__name__, run.args[0]
        return 1.0 if gpu.TILES[direction][x.element_size()] == fastest[x.element_size()] else 2.0

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
