"""Inputs of rational activations, and what comes out of them, for the tests of every backend."""

import math
from fractions import Fraction

import pytest
import torch

from rlrat.rational import backend, cpu, derivative, rational, reference

needs_kernels = pytest.mark.skipif(cpu.unavailable is not None, reason=str(cpu.unavailable))
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # of Triton's kernels: on a CPU they are interpreted
BACKENDS = ["reference", pytest.param("cpu", marks=needs_kernels)]


def draw_inputs(version, batch=(), groups=1, rows=(7,), size=5, degrees=(5, 4), dtype=torch.float64, seed=0):
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


def off_the_corners(inputs, version):
    """Set x to 0 where rounding to float32 may change the sign inside the bars of B and C: dR/dx jumps there."""
    x, a, b = inputs
    if version in "BC":
        z, _, c = reference.polynomials(x.detach().double(), a.detach(), b.detach(), version)
        near = reference._horner(c, z).abs() < 1e-5 * reference._horner(c.abs(), z.abs())
        x = x.detach().masked_fill(near.reshape(x.shape), 0.0).requires_grad_()
    return [x, a, b]


def all_gradients(inputs, version, extra=None, grad=None):
    """Compute the output and all gradients; `extra` is a dictionary of bias and gate."""
    extra = extra or {}
    y = rational(*inputs, version, **extra)
    if grad is None:
        grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad(y, [*inputs, *extra.values()], grad.to(y))]


def expected_gradients(inputs, version, extra=None, grad=None):
    """Compute the same by the reference in float64, for the same gradient of the output as it is rounded there."""
    extra = extra or {}
    wide = [t.detach().double().requires_grad_() for t in (*inputs, *extra.values())]
    if grad is None:
        grad = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with backend("reference"):
        return all_gradients(wide[:3], version, dict(zip(extra, wide[3:], strict=True)), grad.to(inputs[0]).double())


def assert_near(got, expected, tolerance):
    for ours, theirs in zip(got, expected, strict=True):
        scale = theirs.abs().max().clamp(min=1.0).item() if theirs.numel() else 1.0
        torch.testing.assert_close(ours.double() / scale, theirs / scale, atol=tolerance, rtol=tolerance)


def draw_fused_inputs(
    fused, batch=(2,), groups=2, rows=(9,), size=33, degrees=(5, 4), version="A", dtype=torch.float32, seed=0
):
    """Draw x, numerator and denominator, and a dictionary of bias and gate."""
    inputs = draw_inputs(version, batch, groups, rows, size, degrees, dtype, seed)
    x, draw = inputs[0], torch.Generator().manual_seed(5)
    bias = torch.randn(*batch, x.shape[-1], generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    gate = torch.randn(x.shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    return inputs, {name: {"bias": bias, "gate": gate}[name] for name in fused}


def draw_on_device(version, batch, groups, rows, size, degrees, dtype, fused=(), seed=0):
    """Draw the same, a list and a dictionary, where Triton's kernels compute."""
    inputs, extra = draw_fused_inputs(fused, batch, groups, rows, size, degrees, version, dtype, seed)
    inputs = [t.detach().to(DEVICE).requires_grad_() for t in inputs]
    return inputs, {name: t.detach().to(DEVICE).requires_grad_() for name, t in extra.items()}


FUSED = [("bias",), ("gate",), ("bias", "gate")]
LAYOUTS = {
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "rows apart": lambda x: torch.cat([x, x], -1)[..., : x.shape[-1]],
    "every second row": lambda x: x.repeat_interleave(2, dim=-2)[..., ::2, :],
    "every second feature": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "batch axes swapped": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "expanded": lambda x: x[:1].expand_as(x),
    "offset": lambda x: torch.cat([x.flatten()[:3], x.flatten()])[3:].view(x.shape),
}


def _exactly(x, a, b, version, largest):
    """R and dR/dx as they are, in rational numbers: infinity is 10^400, and what is above `largest` infinity."""
    if x != x:
        return x, x
    x = Fraction(10) ** 400 * (1 if x > 0 else -1) if abs(x) == float("inf") else Fraction(x)
    first, offset = int(version != "C"), {"A": 1, "B": 1, "C": Fraction(1, 10), "N": 1}[version]

    def both(coefficients, x, start):
        terms = [(Fraction(c), i) for i, c in enumerate(coefficients, start=start)]
        return sum(c * x**i for c, i in terms), sum(c * i * x ** (i - 1) for c, i in terms if i)

    p, dp = both(a, x, 0)
    s, ds = both([abs(c) for c in b] if version == "A" else b, abs(x) if version == "A" else x, first)
    if (version == "A" and x < 0) or (version in "BC" and s < 0):
        ds = -ds
    q = offset + (s if version in "AN" else abs(s))
    r, slope = p / q, (dp * q - p * ds) / q**2
    return tuple(float(v) if abs(v) <= largest else (math.inf if v > 0 else -math.inf) for v in (r, slope))


FAR = [float("inf"), float("-inf"), float("nan"), 1e9, -1e9, 2.5e30, -1e37, 2.0]


PAIRS = [(m, n) for m in range(-1, 6) for n in range(5)]


def assert_far_inputs_are_right(version, name, device="cpu", dtype=torch.float32, pairs=PAIRS):
    """A set of coefficients for each of these true degrees, at most (5, 4): those above them are zero."""
    a, b = [0.5, -1.25, 2.0, 0.75, -0.5, 1.5], [0.25, 1.5, 0.75, 2.0]
    numerators = [[*a[: m + 1], *[0.0] * (5 - m)] for m, _ in pairs]
    denominators = [[*[0.75] * (version == "C"), *b[:n], *[0.0] * (4 - n)] for _, n in pairs]
    most = torch.finfo(dtype).max
    expected = [[_exactly(x, *both, version, most) for x in FAR] for both in zip(numerators, denominators, strict=True)]
    values, slopes = torch.tensor(expected, dtype=torch.float64).unbind(-1)
    coefficients = [
        torch.tensor(c, dtype=dtype, device=device).unsqueeze(1).requires_grad_() for c in (numerators, denominators)
    ]
    x = torch.tensor(FAR, dtype=dtype, device=device).repeat(len(pairs), 1)

    def gradients(x, grad):
        with backend(name):
            y = rational(x.requires_grad_(), *coefficients, version)
            return y.detach(), *torch.autograd.grad(y, [x, *coefficients], grad)

    y, dx, *_ = gradients(x, torch.ones_like(x))
    for ours, theirs in ((y, values), (dx, slopes)):
        torch.testing.assert_close(ours.cpu().double(), theirs, rtol=1e-5, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(dx, derivative(x.detach(), *coefficients, version), rtol=1e-5, atol=1e-6, equal_nan=True)
    few = x[:, [0, 3, 1, 7]]
    grad = torch.tensor([1.0, 0.5, -1.0, 2.0], dtype=dtype, device=device).repeat(len(pairs), 1)
    finite = gradients(few[:, [1, 3]], grad[:, [1, 3]].contiguous())
    for ours, theirs in zip(gradients(few, grad)[2:], finite[2:], strict=True):  # an infinite x adds nothing
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0.0)
    if pairs is PAIRS:
        assert not gradients(x[:, :2], torch.zeros_like(x[:, :2]))[1].any()


def apply(fit, x):
    """Compute R of a `Fit` by the function that users call, on a NumPy array."""
    coefficients = (torch.tensor(c, dtype=torch.float64)[None] for c in (fit.numerator, fit.denominator))
    return rational(torch.from_numpy(x), *coefficients, fit.version).numpy()
