"""The C kernels as operators of PyTorch's dispatcher, beside the same kernels called through ctypes."""

import pytest
import torch

from rlrat.rational import VERSIONS, backend, backends, cpu, op, rational
from tests.rational.inputs import draw_fused_inputs, draw_inputs, needs_kernels

pytestmark = [
    needs_kernels,
    pytest.mark.skipif(not op.has_direct, reason="libtorch is not found, or has another interface"),
]
FUSED = [(), ("bias",), ("gate",), ("bias", "gate")]


def _direct(x, numerator, denominator, bias, gate, version):
    absent = x.new_empty(0)
    return x, numerator, denominator, absent if bias is None else bias, absent if gate is None else gate, ord(version)


def _assert_same(tensors, version):
    """Both ways, forward and backward, to the bit."""
    x, *_ = tensors
    plan = backends.plan(*tensors, version, "cpu")
    grad = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
    inputs = _direct(*tensors, version)
    assert cpu.takes(*inputs[:-1])
    assert torch.equal(torch.ops.rlrat.rational_direct(*inputs), plan.forward(*tensors))
    got = torch.ops.rlrat.rational_direct_backward(grad, *inputs)
    for name, ours, theirs in zip(("x", "a", "b", "bias", "gate"), got, plan.backward(grad, *tensors), strict=True):
        assert ours.is_contiguous(), name
        assert (ours.numel() == 0) if theirs is None else torch.equal(ours, theirs), name


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("version", VERSIONS)
def test_they_give_the_same_bits(version, dtype):
    for degrees in ((5, 4), (8, 8), (0, 0 if version != "N" else 1)):
        for batch, groups, rows, size in (
            ((), 1, (7,), 5), ((), 2, (), 33), ((3,), 1, (40, 300), 4), ((2, 2), 4, (9,), 3), ((1, 2), 1, (1,), 1),
        ):  # fmt: skip
            for fused in FUSED:
                inputs, more = draw_fused_inputs(fused, batch, groups, rows, size, degrees, version, dtype)
                tensors = [t if t is None else t.detach() for t in (*inputs, more.get("bias"), more.get("gate"))]
                _assert_same(tensors, version)


def _in_one_buffer(tensors, batch):
    flat = torch.cat([t.reshape(*batch, -1) for t in tensors], dim=-1)
    pieces = flat.split([t[(0,) * len(batch)].numel() for t in tensors], dim=-1)
    return [piece.view(t.shape) for piece, t in zip(pieces, tensors, strict=True)]


@pytest.mark.parametrize("batch", [(1,), (3,), (1, 2), (3, 2), (2, 1)])
def test_parameters_may_lie_in_one_buffer(batch):
    (x, a, b), more = draw_fused_inputs(("bias",), batch, groups=1)
    a, b, bias = _in_one_buffer([a.detach(), b.detach(), more["bias"].detach()], batch)
    _assert_same([x.detach(), a, b, bias, None], "A")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_they_use_the_threads_that_there_are(threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        (x, a, b), more = draw_fused_inputs(("bias",), (2,), rows=(700,), size=64)
        _assert_same([x.detach(), a.detach(), b.detach(), more["bias"].detach(), None], "A")
    finally:
        torch.set_num_threads(before)


def test_their_fake_kernels_tell_the_truth():
    inputs, more = draw_fused_inputs(("bias",), (2, 2))
    direct = _direct(*(t.detach() for t in inputs), more["bias"].detach(), None, "A")
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(torch.ops.rlrat.rational_direct.default, direct, test_utils=tests)
    torch.library.opcheck(
        torch.ops.rlrat.rational_direct_backward.default, (torch.ones_like(direct[0]), *direct), test_utils=tests
    )


REFUSED = {
    "half precision": lambda x, a, b: (x.half(), a, b),
    "two types": lambda x, a, b: (x, a.double(), b),
    "features apart": lambda x, a, b: (x.repeat_interleave(2, dim=-1)[..., ::2], a, b),
    "batch axes apart": lambda x, a, b: (x, torch.cat([a, a])[::2, :2].transpose(0, 1), b),
    "coefficients apart": lambda x, a, b: (x, a, b.repeat_interleave(2, dim=-1)[..., ::2]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_they_cannot_read_is_not_given_to_them(case):
    inputs = [t.detach() for t in draw_inputs("A", (2, 2), 2, dtype=torch.float32)]
    absent = torch.empty(0)
    assert cpu.takes(*inputs, absent, absent)
    refused = REFUSED[case](*inputs)
    assert not cpu.takes(*refused, absent.to(refused[0].dtype), absent.to(refused[0].dtype))


def test_strides_that_they_cannot_read_are_an_error():
    inputs = [t.detach() for t in draw_inputs("A", (2, 2), 2, dtype=torch.float32)]
    for case in ("features apart", "batch axes apart", "coefficients apart"):
        with pytest.raises(RuntimeError, match="takes no tensor with such strides"):
            torch.ops.rlrat.rational_direct(*_direct(*REFUSED[case](*inputs), None, None, "A"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, a, b: (x.half(), a, b), "tensors of one type"),
        (lambda x, a, b: (x, a.double(), b), "tensors of one type"),
        (lambda x, a, b: (x.half(), a.half(), b.half()), "float32 or float64"),
        (lambda x, a, b: (x[:, :, :0], a, b), "no such shapes"),
        (lambda x, a, b: (x, a[0, 0, 0], b), "no such shapes"),
        (lambda x, a, b: (x, torch.zeros(2, 2, 2, 10), b), "degrees up to 8"),
        (lambda x, a, b: (x, a, torch.zeros(2, 2, 2, 9)), "degrees up to 8"),
    ],
)
def test_other_tensors_that_they_cannot_read_are_an_error(change, said):
    x, a, b = (t.detach() for t in draw_inputs("A", (2, 2), 2, dtype=torch.float32))
    with pytest.raises(RuntimeError, match=said):
        torch.ops.rlrat.rational_direct(*_direct(*change(x, a, b), None, None, "A"))


def _operators(function, *inputs) -> set[str]:
    """What a compiled graph of `function` and of its gradient calls."""
    found = set()

    def keep(graph, _):
        found.update(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return make_boxed_func(graph)

    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    torch._dynamo.reset()
    y = torch.compile(function, fullgraph=True, backend=aot_autograd(fw_compiler=keep, bw_compiler=keep))(*inputs)
    y.sum().backward()
    return {name for name in found if name.startswith("rlrat")}


DIRECT = {"rlrat.rational_direct.default", "rlrat.rational_direct_backward.default"}


def test_a_compiled_graph_calls_them():
    (x, a, b), more = draw_fused_inputs(("bias", "gate"))
    assert _operators(lambda *t: rational(*t, **more), x, a, b) == DIRECT


def test_a_compiled_graph_of_other_tensors_does_not():
    x, a, b = draw_inputs("A", dtype=torch.bfloat16)
    others = {"rlrat.rational.default", "rlrat.rational_backward.default"}
    assert _operators(rational, x, a, b) == others
    x, a, b = draw_inputs("A", dtype=torch.float32)
    with backend("reference"):
        assert _operators(rational, x, a, b) == others
    compiled, made = torch.compile(rational, fullgraph=True, backend="eager"), rational(x, a, b)
    assert torch.equal(compiled(x, a, b), made)
    with backend("reference"):  # which is asked for at each call
        expected = rational(x, a, b)
        assert not torch.equal(expected, made)
        assert torch.equal(compiled(x, a, b), expected)
    x, a, b = draw_inputs("A", degrees=(9, 4), dtype=torch.float32)
    assert _operators(rational, x, a, b) == others
