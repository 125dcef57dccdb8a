"""The operator under PyTorch's transforms, and its second derivatives."""

import os
from datetime import timedelta

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from rlrat.rational import VERSIONS, Rational, backend, rational
from tests.rational.inputs import BACKENDS, FUSED, draw_fused_inputs, draw_inputs

pytestmark = pytest.mark.filterwarnings("ignore:rational activations run on plain PyTorch")


class TestTransforms:
    inputs = staticmethod(lambda **settings: draw_inputs("A", (2,), 1, (5,), 3, dtype=torch.float32, **settings))

    def test_func_grad(self):
        x, a, b = self.inputs()
        expected = torch.autograd.grad(rational(x, a, b).square().sum(), (x, a, b))
        got = torch.func.grad(lambda *t: rational(*t).square().sum(), (0, 1, 2))(x, a, b)
        for ours, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(ours, theirs)

    def test_grad_of_grad(self):
        x, a, b = draw_inputs("A")
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
        other = torch.multiprocessing.spawn(_replica, (1, str(tmp_path)), nprocs=1, join=False)
        _replica(0, 0, str(tmp_path))
        other.join()
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


def _replica(_, rank: int, folder: str) -> None:
    """One process of two, each with inputs of its own."""
    store = {"init_method": f"file://{folder}/store", "timeout": timedelta(seconds=120)}
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2, **store)
    module = torch.nn.parallel.DistributedDataParallel(_replicated())
    torch.save(_gradients(module, rank), f"{folder}/{rank}.pt")
    del module  # before its process group, or the two may wait for each other
    torch.distributed.destroy_process_group()
    if rank == 1:  # now and then PyTorch's threads abort a process that ends as usual
        os._exit(0)


@pytest.mark.parametrize("fused", FUSED)
def test_bias_and_gate_have_second_derivatives_and_transforms(fused):
    inputs, extra = draw_fused_inputs(fused, rows=(2,), size=2, degrees=(3, 2), dtype=torch.float64)
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


def test_batched_gradients_of_a_backward_pass():
    x, a, b = draw_inputs("A", rows=(), size=3)
    y = rational(x, a, b)
    rows = torch.autograd.grad(y, x, torch.eye(3, dtype=x.dtype), is_grads_batched=True, retain_graph=True)[0]
    for row, direction in zip(rows, torch.eye(3, dtype=x.dtype), strict=True):
        torch.testing.assert_close(row, torch.autograd.grad(y, x, direction, retain_graph=True)[0])


@pytest.mark.parametrize("name", BACKENDS)
def test_hooks_on_saved_tensors_may_change_their_layout(name):
    x, a, b = draw_inputs("A", (), 1, (64,), 16, dtype=torch.float32)
    half = torch.cat([x, x], -1).detach().requires_grad_()
    with backend(name):
        expected = torch.autograd.grad(rational(half[:, :16], a, b).square().sum(), (half, a, b))
        with torch.autograd.graph.saved_tensors_hooks(lambda t: t.clone(), lambda t: t):
            y = rational(half[:, :16], a, b)
        got = torch.autograd.grad(y.square().sum(), (half, a, b))
    for ours, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_negated_views_are_seen():
    z = torch.randn(6, 1, dtype=torch.complex64).conj().imag
    assert z.is_neg()
    _, a, b = (t.detach().float() for t in draw_inputs("A"))
    assert torch.equal(rational(z, a, b), rational(z.clone(), a, b))


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


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("version", VERSIONS)
def test_gradcheck_and_gradgradcheck(name, version):
    inputs = draw_inputs(version, (2,), 2, (3,), 2, (3, 2))
    with backend(name):
        assert torch.autograd.gradcheck(lambda *t: rational(*t, version), inputs)
        assert torch.autograd.gradgradcheck(lambda *t: rational(*t, version), inputs)


class Layer(torch.nn.Module):
    """A model of somebody's own, in which a rational has groups, a bias and a gate."""

    def __init__(self, version: str = "A", degrees: tuple[int, int] = (5, 4)) -> None:
        super().__init__()
        self.linear, self.gate = torch.nn.Linear(3, 6), torch.nn.Linear(3, 6)
        self.rational = Rational(version=version, degrees=degrees, groups=2)

    def forward(self, x):
        return self.rational(self.linear(x), self.linear.bias, self.gate(x))


@pytest.fixture
def rows():
    """Ten rows of three, at the last of which the argument of a rational is large."""
    rows = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
    rows[-1] *= 1e15
    return rows


class TestGraphsThatRunElsewhere:
    """What is written down has no operator of ours, is for any number of rows, and is finite where we are."""

    @pytest.mark.parametrize(
        ("version", "degrees", "strict"),
        [
            ("A", (5, 4), False),
            *(
                pytest.param(*case, marks=pytest.mark.slow)
                for case in (("A", (5, 4), True), ("B", (3, 3), False), ("C", (4, 3), False), ("N", (5, 4), False))
            ),
        ],
    )
    def test_export(self, version, degrees, strict, rows):
        module = Layer(version, degrees)
        shapes = ({0: torch.export.Dim("rows")},)
        program = torch.export.export(module, (rows[:4],), dynamic_shapes=shapes, strict=strict)
        assert not [node for node in program.graph.nodes if "rlrat" in str(node.target)]
        expected = module(rows)
        assert expected.isfinite().all()
        torch.testing.assert_close(program.module()(rows), expected)

    @pytest.mark.slow
    def test_an_exported_program_learns(self, rows):
        module = Layer()
        program = torch.export.export(module, (rows,)).module()
        module(rows[:9]).square().sum().backward()
        program(torch.cat([rows[:9], torch.zeros(1, 3)]))[:9].square().sum().backward()
        ours = dict(module.named_parameters())
        for name, parameter in program.named_parameters():
            torch.testing.assert_close(parameter.grad, ours[name].grad, rtol=1e-4, atol=1e-5)

    @pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning", "error::torch.jit.TracerWarning")
    @pytest.mark.parametrize("version", ["A", *(pytest.param(v, marks=pytest.mark.slow) for v in VERSIONS[1:])])
    def test_jit_trace(self, version, rows):
        for module in (Rational(version=version), Layer(version)):
            traced = torch.jit.trace(module, (rows[:4],))
            assert "rlrat::" not in str(traced.inlined_graph)
            torch.testing.assert_close(traced(rows), module(rows))

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore:`isinstance:FutureWarning")
    def test_onnx(self, rows, tmp_path):
        onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        module = Layer().eval()
        shapes = ({0: torch.export.Dim("rows")},)
        file = tmp_path / "layer.onnx"
        torch.onnx.export(module, (rows[:4],), file, dynamo=True, dynamic_shapes=shapes, verbose=False)
        session = onnxruntime.InferenceSession(file)
        assert {node.domain for node in onnx.load(file).graph.node} == {""}
        (found,) = session.run(None, {session.get_inputs()[0].name: rows.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), module(rows).detach())
