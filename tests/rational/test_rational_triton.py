"""The Triton kernels beside the float64 reference: on a GPU where there is one, else in Triton's interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrat.rational import VERSIONS, Rational, backend, gpu, rational
from tests.rational.rational_inputs import PAIRS, assert_far_inputs_are_right

pytestmark = [
    pytest.mark.skipif(gpu.unavailable is not None, reason=str(gpu.unavailable)),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, about infinities in the interpreter
]
HAS_GPU = torch.cuda.is_available()
DEVICE = "cuda" if HAS_GPU else "cpu"
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def _draw(version, batch, groups, rows, size, degrees, dtype, fused=(), seed=0):
    """x, numerator and denominator, and a dictionary of bias and gate: leaves on the device."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    m, n = degrees
    x = 2 * normal(*batch, *rows, groups * size)
    a = normal(*batch, groups, m + 1) / 2.0 ** torch.arange(m + 1)
    b = normal(*batch, groups, n + (version == "C")) / 2.0 ** torch.arange(1, n + 1 + (version == "C"))
    if version == "N":  # positive where it matters: even powers alone
        b = b.abs() * (torch.arange(n) % 2)
    extra = {"bias": normal(*batch, groups * size), "gate": normal(*x.shape)}
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    x, a, b = x.to(DEVICE, dtype), a.to(DEVICE, wide), b.to(DEVICE, wide)
    extra = {name: extra[name].to(DEVICE, dtype) for name in fused}
    return [t.requires_grad_() for t in (x, a, b)], {name: t.requires_grad_() for name, t in extra.items()}


def _all(inputs, extra, version, grad=None):
    """The output and all gradients."""
    y = rational(*inputs, version, **extra)
    if grad is None:
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
    return [y.detach(), *torch.autograd.grad(y, [*inputs, *extra.values()], grad.to(y))]


def _expected(inputs, extra, version, grad=None):
    wide = [t.detach().double().requires_grad_() for t in (*inputs, *extra.values())]
    if grad is None:
        grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        grad = grad.to(inputs[0]).double()
    with backend("reference"):
        return _all(wide[:3], dict(zip(extra, wide[3:], strict=True)), version, grad)


def _assert_near(got, expected, tolerance):
    for ours, theirs in zip(got, expected, strict=True):
        scale = theirs.abs().max().clamp(min=1.0).item() if theirs.numel() else 1.0
        torch.testing.assert_close(ours.double() / scale, theirs / scale, atol=tolerance, rtol=tolerance)


def _tolerance(version, dtype):
    # Where the sum in version C's bars is near 0, Q = 0.1 and the gradient's terms have 1/Q^2.
    return 1e-3 if version == "C" and dtype == torch.float32 else TOLERANCE[dtype]


SHAPES = [  # batch, groups, rows, size
    ((), 1, (7,), 5),
    ((), 1, (3,), 700),
    ((2,), 1, (40,), 64),
    ((2, 2), 2, (9,), 3),
    ((1,), 2, (2, 3), 48),
    ((2,), 1, (2,), 1500),
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_kernels_agree_with_the_float64_reference(version, dtype):
    every = [(5, 4), (3, 2), (0, 0 if version != "N" else 1), (8, 8), (1, 6)]
    for degrees in every if dtype == torch.float32 else [(5, 4)]:  # the interpreter is slow, and so is compiling
        for shape in SHAPES if degrees == (5, 4) else SHAPES[3:4]:
            inputs, _ = _draw(version, *shape, degrees, dtype)
            expected = _expected(inputs, {}, version)
            with backend("triton"):
                got = _all(inputs, {}, version)
            assert [t.dtype for t in got] == [t.dtype for t in (inputs[0], *inputs)]
            _assert_near(got, expected, _tolerance(version, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [("bias",), ("gate",), ("bias", "gate")])
@pytest.mark.parametrize("version", VERSIONS)
def test_bias_and_gate(version, fused, dtype):
    for shape in SHAPES[2:5]:
        inputs, extra = _draw(version, *shape, (5, 4), dtype, fused)
        expected = _expected(inputs, extra, version)
        with backend("triton"):
            got = _all(inputs, extra, version)
        _assert_near(got, expected, _tolerance(version, dtype))


@settings(max_examples=8, deadline=None)  # each is a kernel of its own
@given(
    st.sampled_from(VERSIONS), st.lists(st.integers(1, 3), max_size=2), st.integers(1, 4),
    st.lists(st.integers(1, 30), max_size=2), st.integers(1, 40), st.integers(0, 8), st.integers(0, 8),
    st.sampled_from([(), ("bias",), ("gate",), ("bias", "gate")]), st.integers(0, 99),
)  # fmt: skip
def test_any_shape_gives_what_the_reference_gives(version, batch, groups, rows, size, m, n, fused, seed):
    shape = tuple(batch), groups, tuple(rows), size
    inputs, extra = _draw(version, *shape, (m, n), torch.float32, fused, seed)
    expected = _expected(inputs, extra, version)
    with backend("triton"):
        _assert_near(_all(inputs, extra, version), expected, 2e-3 if version == "C" else 2e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_gradcheck_and_gradgradcheck(version):
    inputs, _ = _draw(version, (2,), 1, (1,), 2, (2, 2), torch.float64)
    with backend("triton"):
        assert torch.autograd.gradcheck(lambda *t: rational(*t, version), inputs)
        assert torch.autograd.gradgradcheck(lambda *t: rational(*t, version), inputs)


LAYOUTS = {
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "rows apart": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "every second feature": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "batch axes swapped": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "expanded": lambda x: x[:1].expand_as(x),
    "offset": lambda x: torch.cat([x.flatten()[:3], x.flatten()])[3:].view(x.shape),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fused", [(), ("bias", "gate")])
def test_any_layout_gives_the_same(layout, fused):
    for batch, groups in (((), 1), ((), 4), ((2, 3), 2)):
        rows = (4, 6) if not batch else (10,)
        inputs, extra = _draw("A", batch, groups, rows, 8, (5, 4), torch.float32, fused)
        x = LAYOUTS[layout](inputs[0].detach()).requires_grad_()
        if "gate" in extra:
            extra["gate"] = LAYOUTS[layout](extra["gate"].detach()).requires_grad_()
        grad = LAYOUTS[layout](torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(x.device))
        expected = _expected([x.detach().contiguous(), *inputs[1:]], extra, "A", grad.double())
        with backend("triton"):
            got = _all([x, *inputs[1:]], extra, "A", grad)
        _assert_near(got, expected, 2e-5)


def test_coefficients_may_be_parts_of_one_buffer():
    """As an optimizer lays them out: a row for each batch entry, with other things between."""
    (x, a, b), extra = _draw("A", (2, 3), 2, (5,), 8, (5, 4), torch.float32, ("bias",))
    buffer = torch.cat([t.detach().reshape(2, 3, -1) for t in (a, x[..., 0, :3], b, extra["bias"])], -1)
    pieces = [buffer.split([12, 3, 8, 16], -1)[index] for index in (0, 2, 3)]
    inside = [t.view(2, 3, *shape).requires_grad_() for t, shape in zip(pieces, ((2, 6), (2, 4), (16,)), strict=True)]
    expected = _expected([x, *inside[:2]], {"bias": inside[2]}, "A")
    with backend("triton"):
        _assert_near(_all([x, *inside[:2]], {"bias": inside[2]}, "A"), expected, 2e-5)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("degrees", [(5, 4), (8, 8), (8, 7), (2, 3), (0, 2)])
@pytest.mark.parametrize("fused", [(), ("bias", "gate")])
def test_it_is_finite_wherever_the_result_is(version, degrees, fused):
    """Small inputs, large ones and those in between, in one tile."""
    inputs, extra = _draw(version, (), 1, (6,), 16, degrees, torch.float32, fused)
    with torch.no_grad():
        inputs[2] += torch.where(inputs[2] < 0, -0.1, 0.1)
        x = inputs[0].view(-1)
        x[::2] *= 10.0 ** torch.linspace(0, 37, len(x[::2]), device=x.device)
    if version == "N" and (degrees[1] % 2 or degrees[1] < 2):
        inputs[2] = inputs[2].detach().abs().requires_grad_()
        inputs[0] = inputs[0].detach().abs().requires_grad_()  # no pole where x > 0
    expected = _expected(inputs, extra, version)
    with backend("triton"):
        got = _all(inputs, extra, version)
    for ours, theirs in zip(got, expected, strict=True):
        fits = theirs.abs() < 1e37
        assert ours[fits].isfinite().all()
        torch.testing.assert_close(ours[fits].double(), theirs[fits], rtol=2e-3, atol=2e-3)


def test_zero_coefficients_do_not_hide_a_large_input():
    """x itself, as P = x with Q = 1, and as P = x^5 with Q = 1 + x^4."""
    x = torch.tensor([3e38, -1e30, 1e20, 2.0, -5e7], device=DEVICE, requires_grad=True)
    for numerator, denominator in (
        ([0.0, 1, 0, 0, 0, 0], [0.0] * 4), ([0.0, 0.5, 0, 0, 0, 1], [0.0, 0, 0, 1]),
        ([0.0, 0, 0, 0, 0, 1e10], [0.0, 0, 0, 1e10]),
    ):  # fmt: skip
        a, b = (torch.tensor([c], device=DEVICE, dtype=torch.float32) for c in (numerator, denominator))
        with backend("triton"):
            y = rational(x, a, b)
            (dx,) = torch.autograd.grad(y, x, torch.ones_like(x))
        far = x.detach().abs() > 10
        torch.testing.assert_close(y[far], x[far])
        torch.testing.assert_close(dx[far], torch.ones_like(dx[far]))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("pairs", [[(5, 4), (4, 2)], pytest.param(PAIRS[::2], marks=pytest.mark.slow)])
def test_large_and_infinite_inputs_have_the_values_and_slopes_of_the_definition(version, pairs):
    assert_far_inputs_are_right(version, "triton", DEVICE, pairs=pairs)


def test_two_runs_give_equal_bits():
    inputs, extra = _draw("A", (2,), 2, (300,), 32, (5, 4), torch.float32, ("bias",))
    with backend("triton"):
        first, second = (_all(inputs, extra, "A") for _ in range(2))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))


def test_a_zero_coefficient_can_move():
    x = torch.randn(4, 8, device=DEVICE)
    a, b = torch.ones(1, 6, device=DEVICE), torch.zeros(1, 4, device=DEVICE, requires_grad=True)
    with backend("triton"):
        (db,) = torch.autograd.grad(rational(x, a, b).sum(), b)
    assert (db != 0).all()


def test_it_refuses_what_it_cannot_compute():
    x = torch.randn(4, 8, device=DEVICE)
    message = "backend triton computes on a CUDA device, with degrees up to 8"
    for m, n in ((9, 4), (5, 9)):
        a, b = torch.ones(1, m + 1, device=DEVICE), torch.ones(1, n, device=DEVICE)
        with backend("triton"), pytest.raises(RuntimeError, match=message):
            rational(x, a, b)


COMPILED = [
    [direction, dtype, version, degrees, fused, architecture]
    for direction in ("forward", "backward")
    for dtype in ("fp32", "bf16")
    for version, degrees, fused in (("A", [5, 4], False), ("C", [8, 8], True))
    for architecture in (80, 90)
]
MOST_REGISTERS = {"forward": 128, "backward": 200}


def _compile(cases, folder):
    program = Path(__file__).with_name("compile_triton.py")
    root = str(program.parents[2])
    environment = {**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(folder), "PYTHONPATH": root}
    command = [sys.executable, str(program), json.dumps(cases)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What is found of each of the cases."""
    found = _compile(COMPILED, tmp_path_factory.mktemp("compiled"))
    return list(zip(COMPILED, found, strict=True))


def test_compiled_for_a_gpu_they_load_16_bytes_and_do_not_spill(compiled):
    import triton

    release = triton.__version__[:3]
    for case, found in compiled:
        direction, *_, fused, _ = case
        # Some Triton versions keep a few values, used only after it, out of the loop's registers.
        assert found["spilled"] <= 16 * fused + 16 * (release in ("3.7", "3.8")), case
        assert found["registers"] <= MOST_REGISTERS[direction] + 24 * (release in ("3.6", "3.7")), case
        assert found["wide loads"] >= 1 + (direction == "backward") + 2 * fused, case
        assert found["wide stores"] >= 1 + (direction == "backward") * fused, case
        assert found["float atomics"] == 0, case


def test_the_common_ones_leave_registers_for_many_threads(compiled):
    common = {case[0]: found for case, found in compiled if case[1:] == ["fp32", "A", [5, 4], False, 90]}
    assert common["forward"]["registers"] <= 64
    assert common["backward"]["registers"] <= 96


@pytest.mark.slow
def test_every_kind_compiles(tmp_path):
    cases = [
        [direction, dtype, version, degrees, fused, 90]
        for direction in ("forward", "backward")
        for dtype in ("fp16", "fp64")
        for version in VERSIONS
        for degrees, fused in (([3, 1], False), ([1, 8], True))
    ]
    assert all(found["spilled"] <= 16 for found in _compile(cases, tmp_path))


@pytest.mark.gpu
@pytest.mark.skipif(not HAS_GPU, reason="no CUDA device")
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
        inputs, _ = _draw("A", (), 1, (5,), 4, (3, 2), torch.float64)
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
        inputs, extra = _draw("A", (2,), 1, (50,), 256, (5, 4), torch.float32, ("bias",))
        expected = _expected(inputs, extra, "A")
        for tiles in ((2, 1), (4, 4), (8, 2)):
            for direction in gpu.TILES:
                monkeypatch.setitem(gpu.TILES[direction], 4, tiles)
            plan = gpu.Plan(*inputs, extra["bias"], None, "A")
            y = plan.forward(*inputs, extra["bias"], None)
            grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y)
            got = [y, *plan.backward(grad, *inputs, extra["bias"], None)[:4]]
            _assert_near([t.detach() for t in got], expected, 2e-5)
