"""Every backend beside the float64 reference."""

import os
import sys

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rlrat.rational import VERSIONS, Rational, backend, cpu, rational
from tests.rational.inputs import (
    BACKENDS,
    FUSED,
    LAYOUTS,
    all_gradients,
    assert_far_inputs_are_right,
    assert_near,
    draw_fused_inputs,
    draw_inputs,
    expected_gradients,
    needs_kernels,
    off_the_corners,
)

pytestmark = pytest.mark.filterwarnings("ignore:rational activations run on plain PyTorch")


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
            inputs = draw_inputs(version, batch, groups, rows, size, degrees, dtype)
            expected = expected_gradients(inputs, version)
            with backend(name):
                got = all_gradients(inputs, version)
            assert [t.dtype for t in got] == [t.dtype for t in (inputs[0], *inputs)]
            assert_near(got, expected, tolerance)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_any_layout_gives_the_same(name, layout, groups, batch):
    x, a, b = draw_inputs("A", batch, groups, () if batch else (4, 6), 8 if not batch else 2, dtype=torch.float32)
    if batch:
        x = x.detach().repeat(1, 1, 40).unflatten(-1, (40, -1)).requires_grad_()
    strided = LAYOUTS[layout](x.detach()).requires_grad_()
    with backend(name):
        expected = all_gradients([strided.detach().contiguous().requires_grad_(), a, b], "A")
        got = all_gradients([strided, a, b], "A")
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(VERSIONS), st.lists(st.integers(1, 3), max_size=2), st.integers(1, 5),
    st.lists(st.integers(1, 70), max_size=2), st.integers(1, 40), st.integers(0, 8), st.integers(0, 8),
    st.integers(0, 99),
)  # fmt: skip
@example("C", [2, 3], 4, [40, 60], 16, 1, 4, 41)  # an element where the sum in the bars is 2e-8
def test_any_shape_gives_what_the_reference_gives(version, batch, groups, rows, size, m, n, seed):
    inputs = draw_inputs(version, tuple(batch), groups, tuple(rows), size, (m, n), torch.float32, seed)
    inputs = off_the_corners(inputs, version)
    expected = expected_gradients(inputs, version)
    with backend("cpu"):
        assert_near(all_gradients(inputs, version), expected, 2e-4)


@needs_kernels
@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_instruction_set_agrees(level, dtype):
    for version in VERSIONS:
        inputs = draw_inputs(version, (2,), 2, (50,), 37, dtype=dtype)
        expected = expected_gradients(inputs, version)
        cpu.choose_instructions(level)
        try:
            assert_near(all_gradients(inputs, version), expected, 1e-5 if dtype == torch.float32 else 1e-12)
        finally:
            cpu.choose_instructions(-1)


@needs_kernels
def test_two_runs_and_two_threads_give_equal_bits():
    assert cpu.has_pool or sys.platform != "linux"  # or there is only one thread
    inputs = draw_inputs("A", (2,), 2, (700,), 128, dtype=torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 1, 2, 3):
            torch.set_num_threads(count)
            results.append(all_gradients(inputs, "A"))
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
    y, dx, *_ = all_gradients([x, a, b], version)
    torch.testing.assert_close(y[[0, 1, 2, 3, 5]], x.detach()[[0, 1, 2, 3, 5]])
    grad = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    torch.testing.assert_close(dx[[0, 1, 2, 3, 5]], grad[[0, 1, 2, 3, 5]])


@needs_kernels
@pytest.mark.parametrize("degrees", [(5, 4), (8, 8), (8, 7), (2, 1), (1, 0)])
def test_no_size_of_input_overflows_in_float32(degrees):
    """Also between the inputs that are small and those that are computed with care."""
    _, a, b = draw_inputs("A", degrees=degrees, dtype=torch.float32)
    b = (b.abs() + 0.1).detach().requires_grad_()
    for exponent in range(0, 38):
        x = torch.tensor([1.5 * 10.0**exponent, -(10.0**exponent)], requires_grad=True)
        expected = expected_gradients((x, a, b), "A")
        for ours, theirs in zip(all_gradients([x, a, b], "A"), expected, strict=True):
            fits = theirs.abs() < 1e37
            torch.testing.assert_close(ours[fits].double(), theirs[fits], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_large_and_infinite_inputs_have_the_values_and_slopes_of_the_definition(name, version):
    assert_far_inputs_are_right(version, name)
    assert_far_inputs_are_right(version, name, dtype=torch.float64)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_infinity_with_bias_gate_and_half_types(name, version):
    (x, a, b), extra = draw_fused_inputs(("bias", "gate"), version=version, dtype=torch.bfloat16)
    x = x.detach()
    x[0, 0, :2] = torch.tensor([torch.inf, -torch.inf])
    with backend(name):
        y = rational(x.requires_grad_(), a, b, version, **extra)
        gradients = torch.autograd.grad(y.float().nan_to_num(0.0, 0.0, 0.0).sum(), [x, a, b, extra["bias"]])
        expected = rational(x[0, 0, :2].detach(), a[0, :1], b[0, :1], version) * extra["gate"][0, 0, :2]
    torch.testing.assert_close(y[0, 0, :2], expected, rtol=1e-2, atol=1e-2)
    assert y[0, 1:].isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", BACKENDS)
def test_coefficients_that_are_not_finite_leave_no_limit(name):
    for place in (0, 1):
        a, b = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 1.0]])
        (a, b)[place][0, 0] = torch.nan
        with backend(name):
            assert rational(torch.tensor([torch.inf, -torch.inf, 1e30]), a, b).isnan().all()


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
            inputs, extra = draw_fused_inputs(fused, batch, groups, rows, size, degrees, version, dtype)
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
            assert_near(got, expected, 1e-3 if version == "C" and dtype == torch.float32 else tolerance)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("layout", ["transposed", "rows apart", "every second row", "every second feature", "offset"])
def test_bias_and_gate_take_any_layout(name, layout):
    (x, a, b), extra = draw_fused_inputs(("bias", "gate"), (), 1, (6, 40), 8)
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
    (x, a, b), extra = draw_fused_inputs(("bias",), (2, 3), 2, dtype=dtype)
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


def test_bias_and_gate_must_fit():
    x, a, b = draw_inputs("A", rows=(4,))
    with pytest.raises(ValueError, match=r"bias must be \[\*batch, features\], \[5\], not \[4\]"):
        rational(x, a, b, bias=torch.zeros(4, dtype=x.dtype))
    with pytest.raises(
        ValueError, match=r"gate must have the shape and type of x, \[4, 5\], torch.float64, not \[4, 5\]"
    ):
        rational(x, a, b, gate=torch.zeros(4, 5))
    with pytest.raises(TypeError, match=r"gate is torch.int64"):
        rational(x, a, b, gate=torch.zeros(4, 5, dtype=torch.int64))


def test_a_zero_coefficient_can_move():
    x, a, _ = draw_inputs("A")
    b = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    grads = torch.autograd.grad(rational(x, a, b).sum(), b, create_graph=True)
    assert (grads[0] != 0).all()


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
def test_large_coefficients_do_not_overflow():
    """x itself, as 1e10 x^5 / (1 + 1e10 x^4)."""
    x = torch.tensor([9e5, -2e6, 3e4, 1e20], requires_grad=True)
    a, b = torch.tensor([[0.0, 0, 0, 0, 0, 1e10]]), torch.tensor([[0.0, 0, 0, 1e10]])
    y = rational(x, a, b)
    (dx,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(y, x)
    torch.testing.assert_close(dx, torch.ones(4))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_rational_activations_package_agrees(version):
    theirs = pytest.importorskip("rational.torch.rational_pytorch_functions", exc_type=ImportError)
    name = "Rational_NONSAFE_F" if version == "N" else f"Rational_PYTORCH_{version}_F"
    inputs = draw_inputs(version, rows=(50,))
    grad = torch.randn(50, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x, a, b = inputs
    y = getattr(theirs, name)(x, a[0], b[0], False)
    expected = [y.detach(), *torch.autograd.grad(y, inputs, grad)]
    assert_near(all_gradients(inputs, version), expected, 1e-12)
