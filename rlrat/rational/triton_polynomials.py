"""Compute R of a few elements in a Triton kernel: coefficients, polynomials, and how they are put together.

By Horner's scheme. Where |x| > LIMIT, powers of x may overflow although their quotient does not: `careful` takes
polynomials in 1/x for these x; where x is infinite, they are limits. reference.py is the definition.
"""

import torch
import triton
import triton.language as tl

# Where there is no PTX: in the interpreter, and on AMD's GPUs.
PLAIN = tl.constexpr(bool(triton.knobs.runtime.interpret or torch.version.hip))


@triton.jit
def _is_negative(x):
    """Return the sign bit of x, which -0.0 has, too."""
    INTEGER: tl.constexpr = tl.int64 if x.dtype == tl.float64 else tl.int32
    return x.to(INTEGER, bitcast=True) < 0


@triton.jit
def coefficients(a_ptr, b_ptr, M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr, TYPE: tl.constexpr):
    """Load the coefficients of P and of the whole polynomial in Q, constant terms first."""
    GIVEN: tl.constexpr = N + 1 if VERSION == "C" else N
    a, c = (), ()
    for j in tl.static_range(M + 1):
        a = a + (tl.load(a_ptr + j).to(TYPE),)
    if VERSION != "C":
        c = c + (tl.full([], 0.0 if VERSION == "B" else 1.0, TYPE),)
    for j in tl.static_range(GIVEN):
        b = tl.load(b_ptr + j).to(TYPE)
        c = c + (tl.abs(b) if VERSION == "A" else b,)
    return a, c


@triton.jit
def _horner(c, x, DEGREE: tl.constexpr):
    """Compute the polynomial and its derivative."""
    value, slope = c[DEGREE], c[DEGREE] * 0.0
    for i in tl.static_range(DEGREE - 1, -1, -1):
        slope = value if i == DEGREE - 1 else slope * x + value
        value = value * x + c[i]
    return value, slope


@triton.jit
def _reversed(c, t, DEGREE: tl.constexpr):
    """Compute c(x) / x^d, x c'(x) / x^d and d, for x = 1/t and d the place of the last coefficient that is not 0.

    If the zeros after d counted, only t^d could be left, which underflows.
    """
    value, slope, d = c[0], c[0] * 0.0, 0
    for j in tl.static_range(1, DEGREE + 1):
        more = c[j] != 0.0
        for i in tl.static_range(j + 1, DEGREE + 1):
            more = more | (c[i] != 0.0)
        step = tl.where(more, t, 1.0)
        value, slope, d = value * step + c[j], slope * step + j * c[j], d + more.to(tl.int32)
    return value, slope, d


@triton.jit
def scaled(z, x, t, e, MOST: tl.constexpr):
    """Compute z x^e for -MOST <= e <= MOST step by step, so that no power alone overflows."""
    for i in tl.static_range(MOST):
        z = z * tl.where(i < e, x, tl.where(i < -e, t, 1.0))
    return z


@triton.jit
def fast(a, c, x, M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr):
    """Compute P, Q, P', Q' without its sign, and what has that sign."""
    p, dp = _horner(a, x, M)
    s, ds = _horner(c, tl.abs(x) if VERSION == "A" else x, N)
    if VERSION == "B" or VERSION == "C":
        return p, tl.abs(s) + (1.0 if VERSION == "B" else 0.1), dp, ds, s
    return p, s, dp, ds, x


@triton.jit
def reciprocal(q, VERSION: tl.constexpr):
    """Compute 1/q; for versions A, B and C, where 0.1 <= q < 2^126 if x is not large, by the GPU's approximation.

    It is right within 1 ulp. A division would first scale numbers outside of this range, which takes longer than Q.
    """
    if PLAIN or VERSION == "N" or q.dtype != tl.float32:
        inverse = 1.0 / q
    else:
        inverse = tl.inline_asm_elementwise(
            "rcp.approx.ftz.f32 $0, $1;", "=f,f", [q], dtype=tl.float32, is_pure=True, pack=1
        )
    return inverse


@triton.jit
def with_sign_of(s, r):
    """Return r, or -r where the sign bit of s is set."""
    INTEGER: tl.constexpr = tl.int64 if r.dtype == tl.float64 else tl.int32
    SIGN: tl.constexpr = -9223372036854775808 if r.dtype == tl.float64 else -2147483648
    bits = r.to(INTEGER, bitcast=True) ^ (s.to(INTEGER, bitcast=True) & SIGN)
    return bits.to(r.dtype, bitcast=True)


@triton.jit
def careful(a, c, x, M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr):
    """Compute R, R', v, 1/v, q, n, the sign of x and that inside the bars: for a large x, v = |x| (N: x), Q = v^n q."""
    MOST: tl.constexpr = max(M, N)
    t = 1.0 / x
    v, w, one = x, t, t * 0.0 + 1.0
    sign, bars = one, one
    if VERSION != "N":
        v, w, sign = tl.abs(x), tl.abs(t), tl.where(x < 0, -one, one)
    p, dp, m = _reversed(a, t, M)
    s, ds, n = _reversed(c, w if VERSION == "A" else t, N)
    q = s + one * 0.0
    if VERSION == "B" or VERSION == "C":
        bars = tl.where(_is_negative(q), -one, one)
        q = tl.abs(q) + scaled((1.0 if VERSION == "B" else 0.1) * one, v, w, -n, MOST)
    odd = (m % 2) == 1  # x^m is v^m with this sign
    p, dp, ds = p / q, dp / q, bars * ds / q
    r = scaled(p, v, w, m - n, MOST) * tl.where(odd, sign, one)
    slope = scaled(dp - p * ds, v, w, m - n - 1, MOST + 1) * tl.where(odd, one, sign)
    return r, slope, v, w, q, n, sign, bars * tl.where((n % 2) == 1, sign, one)


@triton.jit
def find_limit(a, c, M: tl.constexpr, N: tl.constexpr, LIMIT: tl.constexpr):
    """Find the |x| from which on care is needed: LIMIT, or less where coefficients are large."""
    most = tl.abs(a[0])
    for j in tl.static_range(1, M + 1):
        most = tl.maximum(most, tl.abs(a[j]))
    for j in tl.static_range(N + 1):
        most = tl.maximum(most, tl.abs(c[j]))
    LARGE: tl.constexpr = 1048576.0
    DEGREE: tl.constexpr = max(M, N, 1)
    return tl.where(most > LARGE, LIMIT * tl.exp2(-tl.log2(tl.maximum(most, LARGE) / LARGE) / DEGREE), LIMIT)


@triton.jit
def is_far(x, limit):
    """Say where x is too large for its powers."""
    return tl.abs(x) > limit
