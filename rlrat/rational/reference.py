"""Define a rational activation in plain PyTorch: R(x) = P(x) / Q(x), its derivative worked out by hand.

P(x) = a_0 + a_1 x + ... + a_m x^m, and Q comes in four versions:

| version | Q(x)                               | denominator coefficients | poles             |
| ------- | ---------------------------------- | ------------------------ | ----------------- |
| A       | 1 + sum_{i=1..n} abs(b_i x^i)      | b_1 ... b_n              | none, Q >= 1      |
| B       | 1 + abs(sum_{i=1..n} b_i x^i)      | b_1 ... b_n              | none, Q >= 1      |
| C       | 0.1 + abs(sum_{i=0..n} b_i x^i)    | b_0 ... b_n              | none, Q >= 0.1    |
| N       | 1 + sum_{i=1..n} b_i x^i           | b_1 ... b_n              | wherever Q(x) = 0 |

At x = +-infinity, R is its limit, infinite or not, and dR/dx is the limit of the slope. An infinite x adds nothing to
the gradients of the coefficients: their limits are infinite where the degree of P is larger than that of Q.

A is the "safe" unit of Molina, Schramowski and Kersting, "Pade Activation Units" (ICLR 2020), B and C are its variants,
and N is the unguarded rational of Boulle, Nakatsukasa and Townsend, "Rational neural networks" (NeurIPS 2020).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import empty_output

VERSIONS = ("A", "B", "C", "N")
_OFFSETS = {"B": 1.0, "C": 0.1}


@torch.no_grad()
def derivative(x: Tensor, numerator: Tensor, denominator: Tensor, version: str = "A") -> Tensor:
    """Compute dR/dx at every element of `x`, in its type, without a graph; arguments and errors are `rational`'s."""
    validate(x, numerator, denominator, None, None, version)
    z, a, c = polynomials(x, numerator, denominator, version)
    r, q, dp, dq, _, _ = _evaluate(z, a, c, version)
    slope = dp.sub_(dq.mul_(r)).div_(q)
    if (far := _far(z, a, c)) is not None:
        slope = torch.where(far, _Far(z, far, a, c, version).slope, slope)
    return slope.reshape(x.shape).to(x.dtype)


def validate(
    x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None, gate: Tensor | None, version: str
) -> None:
    """Raise the errors that `rational` documents."""
    if version not in VERSIONS:
        raise ValueError(f"there is no version {version!r} of a rational, only {', '.join(VERSIONS)}")
    names = ("x", "numerator", "denominator", "bias", "gate")
    for name, tensor in zip(names, (x, numerator, denominator, bias, gate), strict=True):
        if tensor is not None and not tensor.is_floating_point():
            raise TypeError(f"{name} is {tensor.dtype}, a rational needs floating point")
        if tensor is not None and tensor.device != x.device:
            raise ValueError(f"{name} is on {tensor.device}, x on {x.device}")
    if numerator.ndim < 2 or numerator.shape[:-1] != denominator.shape[:-1]:
        raise ValueError(
            "numerator and denominator must be [*batch, groups, coefficients] with the same batch and groups, "
            f"not {list(numerator.shape)} and {list(denominator.shape)}"
        )
    if numerator.shape[-1] == 0 or (version == "C" and denominator.shape[-1] == 0):
        raise ValueError("the numerator, and in version C the denominator, needs at least its constant coefficient")
    *batch, groups, _ = numerator.shape
    if x.ndim <= len(batch) or list(x.shape[: len(batch)]) != batch:
        raise ValueError(f"x must be [*batch, ..., features] with batch {batch}, not {list(x.shape)}")
    if groups == 0 or x.shape[-1] % groups:
        raise ValueError(f"{x.shape[-1]} features do not split into {groups} equal groups")
    if bias is not None and list(bias.shape) != [*batch, x.shape[-1]]:
        raise ValueError(f"bias must be [*batch, features], {[*batch, x.shape[-1]]}, not {list(bias.shape)}")
    if gate is not None and (gate.shape != x.shape or gate.dtype != x.dtype):
        wrong = f"not {list(gate.shape)}, {gate.dtype}"
        raise ValueError(f"gate must have the shape and type of x, {list(x.shape)}, {x.dtype}, {wrong}")


def polynomials(x: Tensor, numerator: Tensor, denominator: Tensor, version: str) -> tuple[Tensor, Tensor, Tensor]:
    """Return x as `[*batch, ..., groups, size]`, and the coefficients of two polynomials.

    These are `[*batch, ..., groups, 1, degree + 1]`. The first polynomial is P. The second is Q in versions A (of |x|)
    and N (of x), and what stands inside the bars in B and C.
    """
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    groups = numerator.shape[-2]
    z = x.to(dtype).unflatten(-1, (groups, x.shape[-1] // groups))
    a, c = numerator.to(dtype), denominator.to(dtype)
    if version == "A":
        c = c.abs()
    if version != "C":
        c = F.pad(c, (1, 0), value=0.0 if version == "B" else 1.0)
    lead = (*a.shape[:-2], *(1,) * (z.ndim - a.ndim), groups, 1)
    return z, a.reshape(*lead, a.shape[-1]), c.reshape(*lead, c.shape[-1])


# At 65,536 floats a new buffer costs a CPU more than the arithmetic on it (page faults): buffers are reused below as
# soon as they are free.


def _horner(coefficients: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
    """Compute the polynomial in x whose coefficients are on the last axis, constant term first."""
    *lower, leading = coefficients.unbind(-1)
    out = torch.empty_like(x) if out is None else out
    if not lower:
        return out.copy_(leading.expand_as(x))
    # In two passes: addcmul with two broadcast operands is not vectorised on a CPU and takes twice the time.
    torch.mul(x, leading, out=out).add_(lower[-1])
    for coefficient in reversed(lower[:-1]):
        torch.addcmul(coefficient, out, x, out=out)
    return out


def _horner_with_derivative(coefficients: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the polynomial and its derivative."""
    *lower, leading = coefficients.unbind(-1)
    if not lower:
        return leading.expand_as(x).clone(), torch.zeros_like(x)
    value = torch.mul(x, leading).add_(lower.pop())
    if not lower:
        return value, leading.expand_as(x).clone()
    slope = torch.addcmul(value, x, leading)
    torch.addcmul(lower.pop(), value, x, out=value)
    while lower:
        torch.addcmul(value, slope, x, out=slope)
        torch.addcmul(lower.pop(), value, x, out=value)
    return value, slope


def _variable(z: Tensor, version: str) -> Tensor:
    """Return the variable of the denominator's polynomial."""
    return z.abs() if version == "A" else z


def _guard_(s: Tensor, version: str) -> Tensor:
    """Compute Q from the denominator's polynomial, in place."""
    return s.abs_().add_(_OFFSETS[version]) if version in _OFFSETS else s


def guard(s: Tensor, version: str) -> Tensor:
    """Compute Q from the denominator's polynomial."""
    return s.abs() + _OFFSETS[version] if version in _OFFSETS else s


def _evaluate(z: Tensor, a: Tensor, c: Tensor, version: str) -> tuple[Tensor, ...]:
    """Compute R, Q, P', Q', the variable of Q's polynomial, and the sign of what stands inside the bars (B and C)."""
    variable, sign = _variable(z, version), None
    s, dq = _horner_with_derivative(c, variable)
    if version == "A":
        torch.copysign(dq, z, out=dq)  # dq had no negative element
    elif version in _OFFSETS:
        sign = torch.copysign(s.new_ones(()), s)
        dq.mul_(sign)
    q = _guard_(s, version)
    p, dp = _horner_with_derivative(a, z)
    return p.div_(q), q, dp, dq, variable, sign


def _moments(weight: Tensor, x: Tensor, powers: range, batch_dims: int) -> Tensor:
    """Sum weight x^j over all but batch and groups, for j in `powers`: `[*batch, groups, len(powers)]`.

    `weight` is overwritten. A product with a matrix of all powers takes 1.5 times as long, and a long float32 dot
    product is less accurate than torch.sum, which adds in a tree.
    """
    dims = [d for d in range(batch_dims, weight.ndim) if d != weight.ndim - 2]
    sums = []
    for j in range(powers.stop):
        if j > 0:
            weight.mul_(x)
        if j in powers:
            sums.append(weight.sum(dims))
    return torch.stack(sums, -1) if sums else weight.new_empty(*weight.shape[:batch_dims], weight.shape[-2], 0)


_LARGE_COEFFICIENT = 2.0**20  # coefficients up to here are safe for every x up to the limit


def _far(z: Tensor, a: Tensor, c: Tensor) -> Tensor | None:
    """Say where |x| is so large that a power of it may overflow though the quotient does not; None for nowhere."""
    degree = max(a.shape[-1], c.shape[-1], 2) - 1
    limit = 2.0 ** ((900.0 if z.dtype == torch.float64 else 100.0) / degree)
    # Do not read a value on a GPU, where that waits for it, nor where there is none yet. A norm is at least as large as
    # the largest element, which takes ten times as long to find.
    if z.is_cpu and not (
        torch.compiler.is_compiling() or torch._C._is_tracing() or torch._C._are_functorch_transforms_active()
    ):
        norm = torch.linalg.vector_norm
        if norm(z).item() <= limit and norm(a).item() <= _LARGE_COEFFICIENT and norm(c).item() <= _LARGE_COEFFICIENT:
            return None
    most = torch.maximum(a.abs().amax(-1), c.abs().amax(-1)).clamp(min=_LARGE_COEFFICIENT)
    limit = limit * (_LARGE_COEFFICIENT / most) ** (1.0 / degree)
    return z.abs() > limit


class _Far:
    """Compute R and all its derivatives by polynomials in t = 1/x, at the x of `far`; elsewhere as if x were 1.

    Q = v^n q, where v is |x| (version N: x) and n the place of the last coefficient that is not zero.
    """

    def __init__(self, z: Tensor, far: Tensor, a: Tensor, c: Tensor, version: str) -> None:
        self.version, self.m, self.degree_of_q = version, a.shape[-1] - 1, c.shape[-1] - 1
        z = torch.where(far, z, 1.0)
        t, self.most = 1.0 / z, max(a.shape[-1], c.shape[-1])
        self.v, self.w = (z, t) if version == "N" else (z.abs(), t.abs())
        one = torch.ones_like(z)
        self.sign = one if version == "N" else z.sign()
        p, dp, m = _reversed(a, t)
        s, ds, self.n = _reversed(c, self.w if version == "A" else t)
        self.bars = torch.copysign(one, s) if version in _OFFSETS else one
        self.q = s
        if version in _OFFSETS:
            self.q = s.abs() + self.scaled(_OFFSETS[version] * one, -self.n)
        p, dp, ds = p / self.q, dp / self.q, self.bars * ds / self.q
        odd = m % 2 == 1
        self.value = self.scaled(p, m - self.n) * torch.where(odd, self.sign, one)
        self.slope = self.scaled(dp - p * ds, m - self.n - 1) * torch.where(odd, one, self.sign)
        self.bars = self.bars * torch.where(self.n % 2 == 1, self.sign, one)

    def scaled(self, value: Tensor, exponent: Tensor) -> Tensor:
        """Compute value v^exponent step by step, so that no power alone overflows."""
        for step in range(self.most):
            factor = torch.where(exponent > step, self.v, torch.where(-exponent > step, self.w, 1.0))
            value = value * factor
        return value

    def gradients(self, grad: Tensor, batch_dims: int) -> tuple[Tensor, Tensor, Tensor]:
        """Compute what `_gradients` returns, for a gradient that is zero where x is not far."""
        dims = [d for d in range(batch_dims, grad.ndim) if d != grad.ndim - 2]
        infinite = self.v.abs() == torch.inf
        share = torch.where(infinite, 0.0, grad) / self.q
        value, self.v = (torch.where(infinite, 1.0, t) for t in (self.value, self.v))
        sums_a, sums_c = [], []
        for j in range(self.most):
            power = self.scaled(share, j - self.n)  # x^j / Q, but for its sign
            signed = power * self.sign if j % 2 else power
            sums_a.append(signed.sum(dims))
            sums_c.append(-(value * (power if self.version == "A" else self.bars * signed)).sum(dims))
        first = 0 if self.version == "C" else 1
        slope = torch.where(grad == 0.0, 0.0, self.slope * grad)
        return slope, torch.stack(sums_a[: self.m + 1], -1), torch.stack(sums_c, -1)[..., first : self.degree_of_q + 1]


def _reversed(coefficients: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute c(x) / x^d, x c'(x) / x^d and d, for x = 1/t and d the place of the last coefficient that is not 0.

    If the zeros after d counted, only t^d could be left, which underflows.
    """
    degree = coefficients.shape[-1] - 1
    places = torch.arange(degree + 1, device=t.device)
    d = torch.where(coefficients != 0, places, 0).amax(-1)
    c = coefficients.unbind(-1)
    value, slope = c[0].expand_as(t), torch.zeros_like(t)
    for j in range(1, degree + 1):
        step = torch.where(d >= j, t, 1.0)
        value, slope = value * step + c[j], slope * step + j * c[j]
    return value, slope, d


def forward(x: Tensor, numerator: Tensor, denominator: Tensor, version: str) -> Tensor:
    """Compute R(x), in the type of x."""
    z, a, c = polynomials(x, numerator, denominator, version)
    variable = _variable(z, version)
    q = _guard_(_horner(c, variable), version)
    r = _horner(a, z, out=None if variable is z else variable).div_(q)
    if (far := _far(z, a, c)) is not None:
        r = torch.where(far, _Far(z, far, a, c, version).value, r)
    return r.reshape(x.shape).to(x.dtype)


def backward(
    grad: Tensor, x: Tensor, numerator: Tensor, denominator: Tensor, version: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients of x, numerator and denominator from the gradient of R(x)."""
    batch_dims = numerator.ndim - 2
    z, a, c = polynomials(x, numerator, denominator, version)
    grad = grad.to(z.dtype).unflatten(-1, z.shape[-2:])
    if (far := _far(z, a, c)) is None:
        grad_x, grad_numerator, grad_denominator = _gradients(grad, z, a, c, version, batch_dims)
    else:
        near = _gradients(torch.where(far, 0.0, grad), torch.where(far, 0.0, z), a, c, version, batch_dims)
        apart = _Far(z, far, a, c, version).gradients(torch.where(far, grad, 0.0), batch_dims)
        grad_x, grad_numerator, grad_denominator = (t + u for t, u in zip(near, apart, strict=True))
    if version == "A":
        grad_denominator = torch.where(denominator < 0, -grad_denominator, grad_denominator)
    grad_x = grad_x.reshape(x.shape).to(x.dtype)
    return grad_x, grad_numerator.to(numerator.dtype), grad_denominator.to(denominator.dtype)


def _gradients(
    grad: Tensor, z: Tensor, a: Tensor, c: Tensor, version: str, batch_dims: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute those of `polynomials`'s x and numerator, and of the denominator's coefficients (A: of their sizes)."""
    r, q, dp, dq, variable, sign = _evaluate(z, a, c, version)
    grad_x = dp.sub_(dq.mul_(r)).div_(q).mul_(grad)  # dR/dx = (P' - R Q') / Q
    weight = torch.div(grad, q, out=dq)
    # dR/db_i = -R/Q dQ/db_i, and dQ/db_i is |x|^i sign(b_i) for A, x^i with the sign of the bars for B and C.
    outer = r.mul_(weight).neg_()
    if version in _OFFSETS:
        outer.mul_(sign)
    powers = range(0 if version == "C" else 1, c.shape[-1])
    grad_denominator = _moments(outer, variable, powers, batch_dims)
    return grad_x, _moments(weight, z, range(a.shape[-1]), batch_dims), grad_denominator


class Plan:
    """Compute R(x + bias) gate and its gradients for any tensors of one layout, as every backend's `Plan` does."""

    def __init__(
        self, x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None, gate: Tensor | None, version: str
    ) -> None:
        self.version = version

    def forward(
        self, x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None, gate: Tensor | None
    ) -> Tensor:
        u = _widened(x) if bias is None else shift(_widened(x), bias)
        y = forward(u, numerator, denominator, self.version)
        y = (y if gate is None else y * gate).to(x.dtype)
        return _like_output(y, x, numerator, bias)

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        bias: Tensor | None,
        gate: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """Compute the gradients of x, numerator, denominator, bias and gate."""
        wide = _widened(x)
        u = wide if bias is None else shift(wide, bias)
        inner = _widened(grad) if gate is None else _widened(grad) * gate
        du, da, db = backward(inner, u, numerator, denominator, self.version)
        dx, dbias, dgate = _like_output(du.to(x.dtype), x, numerator, bias), None, None
        if bias is not None:
            rows = tuple(range(bias.ndim - 1, du.ndim - 1))
            dbias = (du.sum(rows) if rows else du).to(bias.dtype)
        if gate is not None:
            dgate = forward(u, numerator, denominator, self.version) * grad
            dgate = _like_output(dgate.to(gate.dtype), x, numerator, bias)
        return dx, da, db, dbias, dgate


def _widened(t: Tensor) -> Tensor:
    """Return t in the type of the computation; bias and gate are applied in it, too."""
    return t if t.dtype == torch.float64 else t.float()


def shift(x: Tensor, bias: Tensor) -> Tensor:
    """Compute x + bias, for a bias `[*batch, features]` that is the same in every row."""
    return x + bias.to(x.dtype).reshape(*bias.shape[:-1], *(1,) * (x.ndim - bias.ndim), bias.shape[-1])


def _like_output(y: Tensor, x: Tensor, numerator: Tensor, bias: Tensor | None) -> Tensor:
    """Return y with the strides that every backend gives its output."""
    out = empty_output(x, numerator, bias)
    return y if y.stride() == out.stride() else out.copy_(y)


def expression(
    x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None, gate: Tensor | None, version: str
) -> Tensor:
    """Compute R(x + bias) gate by operations that PyTorch differentiates any number of times.

    The conventions at corners are the same.
    """
    u = _widened(x) if bias is None else shift(_widened(x), bias)
    groups = numerator.shape[-2]
    z = u.unflatten(-1, (groups, x.shape[-1] // groups))
    lead = (*numerator.shape[:-2], *(1,) * (z.ndim - numerator.ndim), groups, 1)
    a = [c.reshape(lead) for c in numerator.to(z.dtype).unbind(-1)]
    b = [c.reshape(lead) for c in denominator.to(z.dtype).unbind(-1)]
    v = z
    if version == "A":
        v, b = _absolute(z), [torch.where(c < 0, -c, c) for c in b]
    p, s = torch.zeros_like(z), torch.zeros_like(z)
    for coefficient in reversed(a):
        p = p * z + coefficient
    for coefficient in reversed(b):
        s = s * v + coefficient
    if version != "C":
        s = s * v + 0.0  # not -0.0, which is on the other side of the corner
    q = s + 1.0 if version in "AN" else _absolute(s) + _OFFSETS[version]
    y = (p / q).reshape(x.shape)
    return (y if gate is None else y * gate).to(x.dtype)


def plain(
    x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None, gate: Tensor | None, version: str
) -> Tensor:
    """Compute R(x + bias) gate, finite as `forward` is, by operations that a graph takes along to where rlrat is not.

    PyTorch differentiates them: at the corner of an absolute value, its derivative is 0.
    """
    u = _widened(x) if bias is None else shift(_widened(x), bias)
    z, a, c = polynomials(u, numerator, denominator, version)
    far = _far(z, a, c)
    near = torch.where(far, 0.0, z)
    p, q = _polynomial(a, near), guard(_polynomial(c, _variable(near, version)), version)
    y = torch.where(far, _Far(z, far, a, c, version).value, p / q).flatten(-2)
    return (y if gate is None else y * gate).to(x.dtype)


def _polynomial(coefficients: Tensor, x: Tensor) -> Tensor:
    """Compute what `_horner` does, each step a new tensor."""
    *lower, value = coefficients.unbind(-1)
    for coefficient in reversed(lower):
        value = value * x + coefficient
    return value


def _absolute(t: Tensor) -> Tensor:
    """Compute |t|, whose derivative at t = 0 is +1 (at -0.0, -1)."""
    return t * torch.copysign(torch.ones_like(t), t)
