"""Inputs of rational activations, and what comes out of them, for the tests of every backend."""

import pytest
import torch

from rlrat.rational import cpu, rational

needs_kernels = pytest.mark.skipif(cpu.unavailable is not None, reason=str(cpu.unavailable))


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


def all_gradients(inputs, version, seed=1):
    """The output and all gradients."""
    y = rational(*inputs, version)
    grad = torch.randn(y.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


def assert_near(got, expected, tolerance):
    for ours, theirs in zip(got, expected, strict=True):
        scale = theirs.abs().max().clamp(min=1.0).item() if theirs.numel() else 1.0
        torch.testing.assert_close(ours.double() / scale, theirs / scale, atol=tolerance, rtol=tolerance)


def draw_fused_inputs(
    fused, batch=(2,), groups=2, rows=(9,), size=33, degrees=(5, 4), version="A", dtype=torch.float32
):
    """x, numerator, denominator and a dictionary of bias and gate."""
    inputs = draw_inputs(version, batch, groups, rows, size, degrees, dtype)
    x, draw = inputs[0], torch.Generator().manual_seed(5)
    bias = torch.randn(*batch, x.shape[-1], generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    gate = torch.randn(x.shape, generator=draw, dtype=torch.float64).to(dtype).requires_grad_()
    return inputs, {name: {"bias": bias, "gate": gate}[name] for name in fused}


FUSED = [("bias",), ("gate",), ("bias", "gate")]
