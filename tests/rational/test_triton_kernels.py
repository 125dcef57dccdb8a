"""The Triton kernels beside the float64 reference: on a GPU where there is one, else in Triton's interpreter."""

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rlrat.rational import VERSIONS, backend, launching, rational
from tests.compile_kernels import compiler_says
from tests.rational.inputs import (
    DEVICE,
    LAYOUTS,
    PAIRS,
    all_gradients,
    assert_far_inputs_are_right,
    assert_near,
    draw_on_device,
    expected_gradients,
    off_the_corners,
)

pytestmark = [
    pytest.mark.skipif(launching.problem() is not None, reason=str(launching.problem())),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy's, about infinities in the interpreter
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


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
        # Where elements lie is no matter of the version.
        for shape in SHAPES if (version, degrees) == ("A", (5, 4)) else SHAPES[1:4:2]:
            inputs, _ = draw_on_device(version, *shape, degrees, dtype)
            expected = expected_gradients(inputs, version)
            with backend("triton"):
                got = all_gradients(inputs, version)
            assert [t.dtype for t in got] == [t.dtype for t in (inputs[0], *inputs)]
            assert_near(got, expected, _tolerance(version, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("fused", [("bias",), ("gate",), ("bias", "gate")])
@pytest.mark.parametrize("version", VERSIONS)
def test_bias_and_gate(version, fused, dtype):
    for shape in SHAPES[2:5] if version == "A" else SHAPES[3:4]:
        inputs, extra = draw_on_device(version, *shape, (5, 4), dtype, fused)
        expected = expected_gradients(inputs, version, extra)
        with backend("triton"):
            got = all_gradients(inputs, version, extra)
        assert_near(got, expected, _tolerance(version, dtype))


@settings(max_examples=8, deadline=None)  # each is a kernel of its own
@given(
    st.sampled_from(VERSIONS), st.lists(st.integers(1, 3), max_size=2), st.integers(1, 4),
    st.lists(st.integers(1, 12), max_size=2), st.integers(1, 40), st.integers(0, 8), st.integers(0, 8),
    st.sampled_from([(), ("bias",), ("gate",), ("bias", "gate")]), st.integers(0, 99),
)  # fmt: skip
def test_any_shape_gives_what_the_reference_gives(version, batch, groups, rows, size, m, n, fused, seed):
    shape = tuple(batch), groups, tuple(rows), size
    inputs, extra = draw_on_device(version, *shape, (m, n), torch.float32, fused, seed)
    if "bias" not in fused:  # which moves the corners
        inputs = off_the_corners(inputs, version)
    expected = expected_gradients(inputs, version, extra)
    with backend("triton"):
        assert_near(all_gradients(inputs, version, extra), expected, 2e-3 if version == "C" else 2e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_gradcheck_and_gradgradcheck(version):
    inputs, _ = draw_on_device(version, (2,), 1, (1,), 2, (2, 2), torch.float64)
    with backend("triton"):
        for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
            assert check(lambda *t: rational(*t, version), inputs, fast_mode=True)  # along a line drawn by chance


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fused", [(), ("bias", "gate")])
def test_any_layout_gives_the_same(layout, fused):
    for batch, groups in (((), 1), ((), 4), ((2, 3), 2)):
        rows = (4, 6) if not batch else (10,)
        inputs, extra = draw_on_device("A", batch, groups, rows, 8, (5, 4), torch.float32, fused)
        x = LAYOUTS[layout](inputs[0].detach()).requires_grad_()
        if "gate" in extra:
            extra["gate"] = LAYOUTS[layout](extra["gate"].detach()).requires_grad_()
        grad = LAYOUTS[layout](torch.randn(x.shape, generator=torch.Generator().manual_seed(2)).to(x.device))
        expected = expected_gradients([x.detach().contiguous(), *inputs[1:]], "A", extra, grad.double())
        with backend("triton"):
            got = all_gradients([x, *inputs[1:]], "A", extra, grad)
        assert_near(got, expected, 2e-5)


def test_coefficients_may_be_parts_of_one_buffer():
    """As an optimizer lays them out: a row for each batch entry, with other things between."""
    (x, a, b), extra = draw_on_device("A", (2, 3), 2, (5,), 8, (5, 4), torch.float32, ("bias",))
    buffer = torch.cat([t.detach().reshape(2, 3, -1) for t in (a, x[..., 0, :3], b, extra["bias"])], -1)
    pieces = [buffer.split([12, 3, 8, 16], -1)[index] for index in (0, 2, 3)]
    inside = [t.view(2, 3, *shape).requires_grad_() for t, shape in zip(pieces, ((2, 6), (2, 4), (16,)), strict=True)]
    expected = expected_gradients([x, *inside[:2]], "A", {"bias": inside[2]})
    with backend("triton"):
        assert_near(all_gradients([x, *inside[:2]], "A", {"bias": inside[2]}), expected, 2e-5)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("degrees", [(5, 4), (8, 8), (8, 7), (2, 3), (0, 2)])
@pytest.mark.parametrize("fused", [(), ("bias", "gate")])
def test_it_is_finite_wherever_the_result_is(version, degrees, fused):
    """Small inputs, large ones and those in between, in one tile."""
    inputs, extra = draw_on_device(version, (), 1, (6,), 16, degrees, torch.float32, fused)
    with torch.no_grad():
        inputs[2] += torch.where(inputs[2] < 0, -0.1, 0.1)
        x = inputs[0].view(-1)
        x[::2] *= 10.0 ** torch.linspace(0, 37, len(x[::2]), device=x.device)
    if version == "N" and (degrees[1] % 2 or degrees[1] < 2):
        inputs[2] = inputs[2].detach().abs().requires_grad_()
        inputs[0] = inputs[0].detach().abs().requires_grad_()  # no pole where x > 0
    expected = expected_gradients(inputs, version, extra)
    with backend("triton"):
        got = all_gradients(inputs, version, extra)
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
    inputs, extra = draw_on_device("A", (2,), 2, (300,), 32, (5, 4), torch.float32, ("bias",))
    with backend("triton"):
        first, second = (all_gradients(inputs, "A", extra) for _ in range(2))
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(first, second, strict=True))


def test_a_zero_coefficient_can_move():
    x = torch.randn(4, 8, device=DEVICE)
    a, b = torch.ones(1, 6, device=DEVICE), torch.zeros(1, 4, device=DEVICE, requires_grad=True)
    with backend("triton"):
        (db,) = torch.autograd.grad(rational(x, a, b).sum(), b)
    assert (db != 0).all()


COMMON, ALSO = (
    [
        [direction, dtype, "A", [5, 4], fused, 90]
        for direction in ("forward", "backward")
        for dtype, fused in (("fp32", turned), ("bf16", not turned))
    ]
    for turned in (False, True)
)
LARGEST = [
    [direction, dtype, "C", [8, 8], True, 90] for direction in ("forward", "backward") for dtype in ("fp32", "bf16")
]
MOST_REGISTERS = {"forward": 80, "backward": 180}


def _compile(cases, folder):
    program = Path(__file__).with_name("compile_triton.py")
    return compiler_says([sys.executable, str(program), json.dumps(cases)], folder)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What is found of each of the common cases."""
    found = _compile(COMMON, tmp_path_factory.mktemp("compiled"))
    return list(zip(COMMON, found, strict=True))


def test_compiled_for_a_gpu_they_load_16_bytes_and_do_not_spill(compiled):
    _assert_lean(compiled)


@pytest.mark.slow
def test_so_do_those_of_the_largest_degrees_and_for_older_gpus(tmp_path):
    cases = [*LARGEST, *([*case[:-1], 80] for case in (*COMMON, *ALSO, *LARGEST))]
    _assert_lean(zip(cases, _compile(cases, tmp_path), strict=True))


@pytest.mark.slow
def test_the_other_common_ones_are_lean_and_short_too(tmp_path):
    found = list(zip(ALSO, _compile(ALSO, tmp_path), strict=True))
    _assert_lean(found)
    _assert_short(found)


def _assert_lean(compiled):
    import triton

    release = triton.__version__[:3]
    for case, found in compiled:
        direction, _, version, _, fused, _ = case
        # Some Triton versions keep a few values, used only after it, out of the loop's registers.
        assert found["spilled"] <= 16 * fused + 16 * (version == "C" or release < "3.9"), case
        assert not [text for text in found["loop"] if re.search(r"\b(LDL|STL)\b", text)], case
        assert found["registers"] <= MOST_REGISTERS[direction] + 40 * (release < "3.9"), case
        assert found["wide loads"] >= 1 + (direction == "backward") + 2 * fused, case
        assert found["wide stores"] >= 1 + (direction == "backward") * fused, case
        assert found["float atomics"] == 0, case


def test_the_common_ones_leave_registers_for_many_threads(compiled):
    common = {case[0]: found for case, found in compiled if case[1:] == ["fp32", "A", [5, 4], False, 90]}
    assert common["forward"]["registers"] <= 48
    assert common["backward"]["registers"] <= 80


MOST_INSTRUCTIONS = {  # of the loop over full tiles, for an element: without bias and gate, and with them
    ("forward", "fp32"): (15, 18), ("forward", "bf16"): (16, 20),
    ("backward", "fp32"): (43, 58), ("backward", "bf16"): (45, 58),
}  # fmt: skip


def test_the_common_ones_take_few_instructions_for_an_element(compiled):
    _assert_short(compiled)


def _assert_short(compiled):
    for (direction, dtype, _, _, fused, _), found in compiled:
        assert found["instructions per element"] <= MOST_INSTRUCTIONS[direction, dtype][fused], (direction, dtype)


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
