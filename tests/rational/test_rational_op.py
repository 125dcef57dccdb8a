"""The operator under PyTorch's transforms, and every backend beside the float64 reference."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from rlrat.rational import VERSIONS, Rational, backend, backends, cpu, rational

pytestmark = pytest.mark.filterwarnings("ignore:rational activations run on plain PyTorch")
needs_kernels = pytest.mark.skipif(cpu.unavailable is not None, reason=str(cpu.unavailable))
BACKENDS = ["reference", pytest.param("cpu", marks=needs_kernels)]


def _inputs(version, batch=(), groups=1, rows=(7,), size=5, degrees=(5, 4), dtype=torch.float64, seed=0):
    draw = torch.Generator().manual_seed(seed)
    m, n = degrees
    x = 2 * torch.randn(*batch, *rows, groups * size, generator=draw, dtype=torch.float64)
    # Coefficients that shrink with the power, so that every term matters and float16 does not overflow.
    a = torch.randn(*batch, groups, m + 1, generator=draw, dtype=torch.float64) / 2.0 ** torch.arange(m + 1)
    b = torch.randn(*batch, groups, n + (version == "C"), generator=draw, dtype=torch.float64)
    b = b / 2.0 ** torch.arange(1, b.shape[-1] + 1)
    if version == "N":  # positive where it matters: even powers alone
        b = b.abs() * (torch.arange(n) % 2)
    coefficient = torch.float64 if dtype == torch.float64 else torch.float32
    return x.to(dtype).requires_grad_(), a.to(coefficient).requires_grad_(), b.to(coefficient).requires_grad_()


def _all(inputs, version, seed=1):
    """The output and all gradients."""
    y = rational(*inputs, version)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


def _assert_near(got, expected, tolerance):
    for ours, theirs in zip(got, expected, strict=True):
        scale = theirs.abs().max().clamp(min=1.0).item() if theirs.numel() else 1.0
        torch.testing.assert_close(ours.double() / scale, theirs / scale, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_backend_agrees_with_the_float64_reference(name, version, dtype):
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]
    if version == "C" and dtype == torch.float32:
        tolerance = 1e-3  # where the sum in the bars is near 0, Q = 0.1 and the gradient's terms have 1/Q^2
    for degrees in ((5, 4), (3, 2), (0, 0 if version != "N" else 1), (8, 8), (1, 6)):
        for batch, groups, rows, size in (
            ((), 1, (7,), 5), ((), 1, (), 33), ((3,), 1, (40,), 64), ((2, 2), 4, (9,), 3), ((), 2, (1,), 5000),
            ((1,), 1, (3, 4), 7),
        ):  # fmt: skip
            inputs = _inputs(version, batch, groups, rows, size, degrees, dtype)
            with backend("reference"):
                expected = _all([t.detach().double().requires_grad_() for t in inputs], version)
            with backend(name):
                got = _all(inputs, version)
            assert [t.dtype for t in got] == [t.dtype for t in (inputs[0], *inputs)]
            _assert_near(got, expected, tolerance)


LAYOUTS = {
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "rows apart": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "every second row": lambda x: x.repeat_interleave(2, dim=-2)[..., ::2, :],
    "every second feature": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "batch axes swapped": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "expanded": lambda x: x[:1].expand_as(x),
    "offset": lambda x: torch.cat([x.flatten()[:3], x.flatten()])[3:].view(x.shape),
}


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_any_layout_gives_the_same(name, layout, groups, batch):
    x, a, b = _inputs("A", batch, groups, () if batch else (4, 6), 8 if not batch else 2, dtype=torch.float32)
    if batch:
        x = x.detach().repeat(1, 1, 40).unflatten(-1, (40, -1)).requires_grad_()
    strided = LAYOUTS[layout](x.detach()).requires_grad_()
    with backend(name):
        expected = _all([strided.detach().contiguous().requires_grad_(), a, b], "A")
        got = _all([strided, a, b], "A")
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(VERSIONS), st.lists(st.integers(1, 3), max_size=2), st.integers(1, 5),
    st.lists(st.integers(1, 70), max_size=2), st.integers(1, 40), st.integers(0, 8), st.integers(0, 8),
    st.integers(0, 99),
)  # fmt: skip
def test_any_shape_gives_what_the_reference_gives(version, batch, groups, rows, size, m, n, seed):
    inputs = _inputs(version, tuple(batch), groups, tuple(rows), size, (m, n), torch.float32, seed)
    with backend("reference"):
        expected = _all([t.detach().double().requires_grad_() for t in inputs], version)
    with backend("cpu"):
        _assert_near(_all(inputs, version), expected, 2e-4)


@needs_kernels
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instruction_set_agrees(level, dtype):
    for version in VERSIONS:
        inputs = _inputs(version, (2,), 2, (50,), 37, dtype=dtype)
        with backend("reference"):
            expected = _all([t.detach().double().requires_grad_() for t in inputs], version)
        cpu.choose_instructions(level)
        try:
            _assert_near(_all(inputs, version), expected, 1e-5 if dtype == torch.float32 else 1e-12)
        finally:
            cpu.choose_instructions(-1)


@needs_kernels
def test_two_runs_and_two_threads_give_equal_bits():
    inputs = _inputs("A", (2,), 2, (700,), 128, dtype=torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 1, 2, 3):
            torch.set_num_threads(count)
            results.append(_all(inputs, "A"))
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(torch.equal(ours, first) for ours, first in zip(result, results[0], strict=True))


@needs_kernels
@pytest.mark.parametrize("version", ["A", "B", "C"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_inputs_are_finite_where_the_result_is(version, dtype):
    largest = torch.finfo(dtype).max
    x = torch.tensor([1e7, -1e9, 1e20, -largest / 4, 3.0, 2.0**21], dtype=dtype, requires_grad=True)
    a = torch.tensor([[0.0, 0.5, 0.0, 0.0, 0.0, 1.0]], dtype=dtype, requires_grad=True)
    b = torch.tensor([[0.0] * (version == "C") + [0.0, 0.0, 0.0, 1.0]], dtype=dtype, requires_grad=True)
    y, dx, *_ = _all([x, a, b], version)
    torch.testing.assert_close(y[[0, 1, 2, 3, 5]], x.detach()[[0, 1, 2, 3, 5]])
    grad = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    torch.testing.assert_close(dx[[0, 1, 2, 3, 5]], grad[[0, 1, 2, 3, 5]])


@needs_kernels
@pytest.mark.parametrize("degrees", [(5, 4), (8, 8), (8, 7), (2, 1), (1, 0)])
def test_no_size_of_input_overflows_in_float32(degrees):
    """Also between the inputs that are small and those that are computed with care."""
    _, a, b = _inputs("A", degrees=degrees, dtype=torch.float32)
    b = (b.abs() + 0.1).detach().requires_grad_()
    for exponent in range(0, 38):
        x = torch.tensor([1.5 * 10.0**exponent, -(10.0**exponent)], requires_grad=True)
        with backend("reference"):
            expected = _all([t.detach().double().requires_grad_() for t in (x, a, b)], "A")
        for ours, theirs in zip(_all([x, a, b], "A"), expected, strict=True):
            fits = theirs.abs() < 1e37
            torch.testing.assert_close(ours[fits].double(), theirs[fits], rtol=1e-3, atol=1e-3)


@needs_kernels
@pytest.mark.parametrize("version", VERSIONS)
def test_nan_and_infinity_follow_the_reference(version):
    x, a, b = _inputs(version, dtype=torch.float32)
    x = torch.tensor([1.0, torch.nan, torch.inf, -torch.inf, 2.0] * 5, requires_grad=True)
    results = []
    for name in ("reference", "cpu"):
        with backend(name):
            results.append(_all([x, a, b], version)[:2])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, equal_nan=True, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_gradcheck_and_gradgradcheck(name, version):
    inputs = _inputs(version, (2,), 2, (3,), 2, (3, 2))
    with backend(name):
        assert torch.autograd.gradcheck(lambda *t: rational(*t, version), inputs)
        assert torch.autograd.gradgradcheck(lambda *t: rational(*t, version), inputs)


def _fused_inputs(fused, batch=(2,), groups=2, rows=(9,), size=33, degrees=(5, 4), version="A", dtype=torch.float32):
    """x, numerator, denominator and a dictionary of bias and gate."""
    inputs = _inputs(version, batch, groups, rows, size, degrees, dtype)
    x, draw = inputs[0], torch.Generator().manual_seed(5)
    bias = torch.randn(*batch, x.shape[-1], generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    gate = torch.randn(x.shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    return inputs, {name: {"bias": bias, "gate": gate}[name] for name in fused}


FUSED = [("bias",), ("gate",), ("bias", "gate")]


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_bias_and_gate_are_what_they_say(name, fused, dtype):
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
    for version in VERSIONS:
        for batch, groups, rows, size, degrees in (
            ((2,), 2, (9,), 33, (5, 4)), ((), 1, (), 40, (5, 4)), ((), 1, (3, 5), 20, (3, 2)),
            ((2, 3), 1, (300,), 16, (5, 4)), ((1,), 1, (2,), 9000, (5, 4)),
        ):  # fmt: skip
            inputs, extra = _fused_inputs(fused, batch, groups, rows, size, degrees, version, dtype)
            tensors = [*inputs, *extra.values()]
            wide = [t.detach().double().requires_grad_() for t in tensors]
            bias, gate = (dict(zip(extra, wide[3:], strict=True)).get(key) for key in ("bias", "gate"))
            with backend("reference"):
                u = wide[0] if bias is None else wide[0] + bias.reshape(*batch, *(1 for _ in rows), -1)
                y = rational(u, *wide[1:3], version)
                y = y if gate is None else y * gate
            grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
            expected = [y.detach(), *torch.autograd.grad(y, wide, grad.double())]
            with backend(name):
                ours = rational(*inputs, version, **extra)
                got = [ours.detach(), *torch.autograd.grad(ours, tensors, grad)]
            assert [t.dtype for t in got] == [t.dtype for t in (inputs[0], *tensors)]
            _assert_near(got, expected, 1e-3 if version == "C" and dtype == torch.float32 else tolerance)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("layout", ["transposed", "rows apart", "every second row", "every second feature", "offset"])
def test_bias_and_gate_take_any_layout(name, layout):
    (x, a, b), extra = _fused_inputs(("bias", "gate"), (), 1, (6, 40), 8)
    x, gate = (LAYOUTS[layout](t.detach()).requires_grad_() for t in (x, extra["gate"]))
    packed = [t.detach().contiguous().requires_grad_() for t in (x, gate)]
    results = []
    for tensors in (packed, (x, gate), (x, packed[1]), (packed[0], gate)):
        with backend(name):
            y = rational(tensors[0], a, b, bias=extra["bias"], gate=tensors[1])
            results.append([y, *torch.autograd.grad(y.square().sum(), (tensors[0], a, b, extra["bias"], tensors[1]))])
    for result in results[1:]:
        for ours, first in zip(result, results[0], strict=True):
            torch.testing.assert_close(ours, first, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", BACKENDS)
def test_coefficients_may_be_parts_of_one_buffer(name, dtype):
    """As an optimizer lays them out: a row for each batch entry, with other things between."""
    (x, a, b), extra = _fused_inputs(("bias",), (2, 3), 2, dtype=dtype)
    pieces = [t.detach().reshape(2, 3, -1) for t in (a, b, extra["bias"])]
    buffer = torch.cat([pieces[0].float(), torch.randn(2, 3, 5), *(t.float() for t in pieces[1:])], -1)
    sizes = [12, 5, 8, 66]
    inside = [t.view(2, 3, *shape).requires_grad_() for t, shape in zip(
        (buffer.split(sizes, -1)[i] for i in (0, 2, 3)), ((2, 6), (2, 4), (66,)), strict=True)]  # fmt: skip
    assert not inside[0].is_contiguous()
    apart = [t.detach().contiguous().requires_grad_() for t in inside]
    results = []
    for a, b, bias in (inside, apart, [t.transpose(0, 1).contiguous().transpose(0, 1) for t in apart]):
        with backend(name):
            y = rational(x, a, b, bias=bias)
            results.append([y, *torch.autograd.grad(y.square().sum(), (x, a, b, bias))])
    for result in results[1:]:
        for ours, first in zip(result, results[0], strict=True):
            torch.testing.assert_close(ours, first)


@pytest.mark.parametrize("fused", FUSED)
def test_bias_and_gate_have_second_derivatives_and_transforms(fused):
    inputs, extra = _fused_inputs(fused, rows=(2,), size=2, degrees=(3, 2), dtype=torch.float64)
    tensors, names = [*inputs, *extra.values()], list(extra)

    def function(*t):
        return rational(*t[:3], **dict(zip(names, t[3:], strict=True)))

    assert torch.autograd.gradcheck(function, tensors)
    assert torch.autograd.gradgradcheck(function, tensors)
    stacked = [torch.stack([t.detach(), 2 * t.detach()], 1) for t in tensors]
    mapped = torch.func.vmap(torch.func.grad(lambda *t: function(*t).square().sum(), (0, 1)), in_dims=1)(*stacked)
    for index in range(2):
        alone = torch.func.grad(lambda *t: function(*t).square().sum(), (0, 1))(*(t[:, index] for t in stacked))
        for ours, theirs in zip(mapped, alone, strict=True):
            torch.testing.assert_close(ours[index], theirs)


def test_bias_and_gate_must_fit():
    x, a, b = _inputs("A", rows=(4,))
    with pytest.raises(ValueError, match=r"bias must be \[\*batch, features\], \[5\], not \[4\]"):
        rational(x, a, b, bias=torch.zeros(4, dtype=x.dtype))
    with pytest.raises(
        ValueError, match=r"gate must have the shape and type of x, \[4, 5\], torch.float64, not \[4, 5\]"
    ):
        rational(x, a, b, gate=torch.zeros(4, 5))
    with pytest.raises(TypeError, match=r"gate is torch.int64"):
        rational(x, a, b, gate=torch.zeros(4, 5, dtype=torch.int64))


def test_batched_gradients_of_a_backward_pass():
    x, a, b = _inputs("A", rows=(), size=3)
    y = rational(x, a, b)
    rows = torch.autograd.grad(y, x, torch.eye(3, dtype=x.dtype), is_grads_batched=True, retain_graph=True)[0]
    for row, direction in zip(rows, torch.eye(3, dtype=x.dtype), strict=True):
        torch.testing.assert_close(row, torch.autograd.grad(y, x, direction, retain_graph=True)[0])


def test_a_zero_coefficient_can_move():
    x, a, _ = _inputs("A")
    b = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    grads = torch.autograd.grad(rational(x, a, b).sum(), b, create_graph=True)
    assert (grads[0] != 0).all()


class TestTransforms:
    inputs = staticmethod(lambda **settings: _inputs("A", (2,), 1, (5,), 3, dtype=torch.float32, **settings))

    def test_func_grad(self):
        x, a, b = self.inputs()
        expected = torch.autograd.grad(rational(x, a, b).square().sum(), (x, a, b))
        got = torch.func.grad(lambda *t: rational(*t).square().sum(), (0, 1, 2))(x, a, b)
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, theirs)

    def test_grad_of_grad(self):
        x, a, b = _inputs("A")
        second = torch.func.grad(lambda t: torch.func.grad(lambda u: rational(u, a, b).sum())(t).square().sum())(x)
        (first,) = torch.autograd.grad(rational(x, a, b).sum(), x, create_graph=True)
        torch.testing.assert_close(second, torch.autograd.grad(first.square().sum(), x)[0])

    def test_vmap_of_grad_is_each_samples_gradient(self):
        x, a, b = self.inputs()
        per_sample = torch.func.vmap(
            torch.func.grad(lambda a, b, x: rational(x, a, b).square().sum(), (0, 1)), in_dims=(None, None, 1)
        )(a, b, x)
        for row in range(5):
            alone = torch.autograd.grad(rational(x[:, row], a, b).square().sum(), (a, b))
            for ours, theirs in zip(per_sample, alone, strict=True):
                torch.testing.assert_close(ours[row], theirs)

    def test_vmap_over_coefficients(self):
        x, a, b = self.inputs()
        got = torch.func.vmap(rational, in_dims=(None, 2, 2))(x, torch.stack([a, 2 * a], 2), torch.stack([b, b], 2))
        torch.testing.assert_close(got[1], 2 * got[0])

    def test_compile_fullgraph(self):
        x, a, b = self.inputs()
        torch._dynamo.reset()
        compiled = torch.compile(lambda *t: rational(*t).square().sum(), fullgraph=True, backend="aot_eager")
        expected = torch.autograd.grad(rational(x, a, b).square().sum(), (x, a, b))
        for ours, theirs in zip(torch.autograd.grad(compiled(x, a, b), (x, a, b)), expected, strict=True):
            torch.testing.assert_close(ours, theirs)
        bias, gate = torch.randn(2, 3, requires_grad=True), torch.randn(2, 5, 3, requires_grad=True)
        compiled = torch.compile(lambda: rational(x, a, b, bias=bias, gate=gate), fullgraph=True, backend="aot_eager")
        inputs = (x, a, b, bias, gate)
        expected = torch.autograd.grad(rational(x, a, b, bias=bias, gate=gate).square().sum(), inputs)
        for ours, theirs in zip(torch.autograd.grad(compiled().square().sum(), inputs), expected, strict=True):
            torch.testing.assert_close(ours, theirs)

    def test_export(self):
        x, _, _ = self.inputs()
        module = Rational(batch_shape=(2,))
        program = torch.export.export(module, (x.detach(),))
        with torch.no_grad():  # the bare operator is in the program
            torch.testing.assert_close(program.module()(x.detach()), module(x))
        assert "rlrat.rational" in program.graph_module.code

    def test_functional_call(self):
        module, x = Rational(), torch.randn(4, 3)
        doubled = {"numerator": 2 * module.numerator, "denominator": module.denominator}
        torch.testing.assert_close(torch.func.functional_call(module, doubled, (x,)), 2 * module(x))

    def test_autocast_leaves_the_coefficients(self):
        module, x = Rational(), torch.randn(4, 3)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert module(x).dtype == torch.float32
            module(x.bfloat16()).float().sum().backward()
        assert module.numerator.grad.dtype == torch.float32

    def test_activation_checkpointing(self):
        x, a, b = self.inputs()
        expected = torch.autograd.grad(rational(x, a, b).square().sum(), (x, a, b))
        got = torch.autograd.grad(checkpoint(rational, x, a, b, use_reentrant=False).square().sum(), (x, a, b))
        for ours, theirs in zip(got, expected, strict=True):
            assert torch.equal(ours, theirs)

    def test_forward_mode_raises(self):
        x, a, b = self.inputs()
        with pytest.raises((RuntimeError, NotImplementedError), match="jvp"):
            torch.func.jvp(lambda t: rational(t, a, b), (x,), (x,))
        x, a, b = (t.detach() for t in (x, a, b))
        with torch.autograd.forward_ad.dual_level():
            for dual in (
                (torch.autograd.forward_ad.make_dual(x, x), a, b),
                (x, torch.autograd.forward_ad.make_dual(a, a), b),
            ):
                with torch.no_grad(), pytest.raises(NotImplementedError, match="jvp"):
                    rational(*dual)
                with torch.no_grad(), pytest.raises(NotImplementedError, match="jvp"):
                    torch.ops.rlrat.rational(*dual, None, None, "A")
            assert torch.equal(rational(x, a, b), torch.ops.rlrat.rational(x, a, b, None, None, "A"))

    def test_the_bare_operator_has_no_derivative(self):
        x, a, b = self.inputs()
        with pytest.raises(RuntimeError, match=r"call rlrat\.rational"):
            torch.ops.rlrat.rational(x, a, b, None, None, "A")
        with torch.no_grad():
            assert torch.equal(torch.ops.rlrat.rational(x, a, b, None, None, "A"), rational(x, a, b))

    def test_opcheck(self):
        x, a, b = (t.detach() for t in self.inputs())
        checks = ("test_schema", "test_faketensor")
        apart = [t.transpose(0, 2).contiguous().transpose(0, 2) for t in (a, b)]
        gapped = torch.cat([x, x], -1)[..., :3].bfloat16().transpose(1, 2).contiguous().transpose(1, 2)
        for u, p, q, fused in (
            (x, a, b, (None, None)), (x, a, b, (x[:, 0], x)), (x, *apart, (x[:, 0], x)),
            (gapped, a, b, (None, None)), (torch.cat([x, x], -1)[..., :3].bfloat16().mT, a, b, (None, None)),
        ):  # fmt: skip
            arguments = (u, p, q, *fused, "A")
            torch.library.opcheck(torch.ops.rlrat.rational.default, arguments, test_utils=checks)
            torch.library.opcheck(torch.ops.rlrat.rational_backward.default, (u, *arguments), test_utils=checks)

    def test_distributed_data_parallel(self, tmp_path):
        torch.multiprocessing.spawn(_replica, (str(tmp_path),), nprocs=2)
        first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
        alone = [_gradients(_replicated(), rank) for rank in range(2)]
        for name, gradient in first.items():
            assert torch.equal(gradient, second[name])
            torch.testing.assert_close(gradient, (alone[0][name] + alone[1][name]) / 2)


def _replicated() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), Rational())


def _gradients(module, rank: int) -> dict[str, torch.Tensor]:
    module(torch.randn(5, 3, generator=torch.Generator().manual_seed(rank))).square().sum().backward()
    return {name.removeprefix("module."): p.grad for name, p in module.named_parameters()}


def _replica(rank: int, folder: str) -> None:
    """One process of two, each with inputs of its own."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    module = torch.nn.parallel.DistributedDataParallel(_replicated())
    torch.save(_gradients(module, rank), f"{folder}/{rank}.pt")
    del module  # before its process group, or the two may wait for each other
    torch.distributed.destroy_process_group()


@needs_kernels
def test_threads_of_python_share_the_kernels():
    inputs = _inputs("A", (2,), 2, (300,), 64, dtype=torch.float32)
    expected, results = _all(inputs, "A"), []
    threads = [threading.Thread(target=lambda: results.append(_all(inputs, "A"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert all(torch.equal(ours, theirs) for result in results for ours, theirs in zip(result, expected, strict=True))


@pytest.mark.parametrize("shape", [(2, 0, 6), (0, 5, 6), (2, 5, 0)])
def test_nothing_in_nothing_out(shape):
    x, gate = (torch.randn(shape, requires_grad=True) for _ in range(2))
    a, b = (torch.ones(shape[0], 1, count, requires_grad=True) for count in (6, 4))
    bias = torch.randn(shape[0], shape[2], requires_grad=True)
    inputs = (x, a, b, bias, gate)
    y = rational(x, a, b, bias=bias, gate=gate)
    assert y.shape == shape
    for gradient, tensor in zip(torch.autograd.grad(y.sum(), inputs), inputs, strict=True):
        assert torch.equal(gradient, torch.zeros_like(tensor))


@needs_kernels
@pytest.mark.slow
def test_more_than_2_to_the_31_elements():
    if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") < 12 * 2**30:
        pytest.skip("needs 12 GiB of memory")
    module, row = Rational(), torch.randn(2**12, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = module(row.expand(2**19 + 1, -1))  # 8 GiB; the input is one row, seen again and again
        assert y.numel() > 2**31
        assert torch.equal(y[[0, 2**18, 2**19]], module(row).expand(3, -1))


@needs_kernels
def test_a_backend_that_is_asked_for_computes_or_refuses():
    x, a, b = _inputs("A", dtype=torch.float32)
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
    report = subprocess.run([sys.executable, "-m", "rlrat.rational"], capture_output=True, text=True, check=True).stdout
    assert report.startswith("cpu: ")
    assert "\ncuda" in report


def test_without_kernels_it_warns_once_and_runs(monkeypatch, recwarn):
    monkeypatch.setattr(cpu, "unavailable", "the C kernels were not built")
    monkeypatch.setattr(cpu, "_warned", False)
    monkeypatch.setattr(backends, "_plans", {})
    x, a, b = _inputs("A")
    for _ in range(2):
        rational(x, a, b).sum().backward()
    assert ["plain PyTorch" in str(w.message) for w in recwarn] == [True]
    with pytest.raises(RuntimeError, match="not built"), backend("cpu"):
        pass


@needs_kernels
def test_degrees_beyond_the_kernels_fall_back():
    for version, degrees in (("A", (9, 9)), ("A", (5, 9)), ("N", (5, 9)), ("C", (5, 9)), ("C", (9, 8))):
        x, a, b = _inputs(version, degrees=degrees)
        with pytest.raises(RuntimeError, match="degrees up to 8"), backend("cpu"):
            rational(x, a, b, version)
        assert rational(x, a, b, version).isfinite().all()


@pytest.mark.parametrize("name", BACKENDS)
def test_hooks_on_saved_tensors_may_change_their_layout(name):
    x, a, b = _inputs("A", (), 1, (64,), 16, dtype=torch.float32)
    half = torch.cat([x, x], -1).detach().requires_grad_()
    with backend(name):
        expected = torch.autograd.grad(rational(half[:, :16], a, b).square().sum(), (half, a, b))
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            y = rational(half[:, :16], a, b)
        got = torch.autograd.grad(y.square().sum(), (half, a, b))
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_everything_is_on_one_device():
    x, a, b = (t.detach() for t in _inputs("A"))
    with pytest.raises(ValueError, match="numerator is on meta, x on cpu"):
        rational(x, a.to("meta"), b)
    assert rational(x.to("meta"), a.to("meta"), b.to("meta")).is_meta
    with torch.device("meta"):  # where new tensors go
        assert torch.equal(rational(torch.cat([x, x], -1)[:, :5], a, b), rational(x, a, b))


def test_negated_views_are_seen():
    z = torch.randn(6, 1, dtype=torch.complex64).conj().imag
    assert z.is_neg()
    _, a, b = (t.detach().float() for t in _inputs("A"))
    assert torch.equal(rational(z, a, b), rational(z.clone(), a, b))


@needs_kernels
def test_large_coefficients_do_not_overflow():
    """x itself, as 1e10 x^5 / (1 + 1e10 x^4)."""
    x = torch.tensor([9e5, -2e6, 3e4, 1e20], requires_grad=True)
    a, b = torch.tensor([[0.0, 0, 0, 0, 0, 1e10]]), torch.tensor([[0.0, 0, 0, 1e10]])
    y = rational(x, a, b)
    (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(dx, torch.ones(4))


@pytest.mark.parametrize("version", ["A", "B"])
def test_second_derivatives_keep_the_side_of_the_corner(version):
    """At x = 0 and, in version A, a coefficient of -0.0."""
    x = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    a = torch.tensor([[2.0, 1.0]], dtype=torch.float64)
    b = torch.tensor([[-0.5 if version == "B" else -0.0]], dtype=torch.float64, requires_grad=True)
    (dx,) = torch.autograd.grad(rational(x, a, b, version).sum(), x, create_graph=True)
    (mixed,) = torch.autograd.grad(dx.sum(), b)
    step = 1e-6 * torch.ones_like(b)
    slopes = [
        torch.autograd.grad(rational(x, a, (b + s).detach(), version).sum(), x)[0] for s in (torch.zeros(1, 1), step)
    ]
    torch.testing.assert_close(mixed, (slopes[1] - slopes[0]) / step, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_rational_activations_package_agrees(version):
    theirs = pytest.importorskip("rational.torch.rational_pytorch_functions", exc_type=ImportError)
    name = "Rational_NONSAFE_F" if version == "N" else f"Rational_PYTORCH_{version}_F"
    inputs = _inputs(version, rows=(50,))
    grad = torch.randn(50, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x, a, b = inputs
    y = getattr(theirs, name)(x, a[0], b[0], False)
    expected = [y.detach(), *torch.autograd.grad(y, inputs, grad)]
    _assert_near(_all(inputs, version), expected, 1e-12)
