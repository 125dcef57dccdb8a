"""Compute y = R(x + bias) gate and its gradients on a GPU; reference.py is the definition, gpu.py launches the kernels.

One batch entry and group has coefficients of its own: it is a unit of `rows` x `width` elements. A program works on
tiles of LANES x VECTOR elements. VECTOR neighbours belong to one thread, 16 bytes where memory allows, so that a sum
over them needs no exchange between threads. A tile is CHUNKS * VECTOR columns wide and LANES // CHUNKS rows high. Where
only the order in memory matters (FLAT), a row is one tile, and `elements` says where the last row ends.

Polynomials are computed by Horner's scheme. Where |x| > LIMIT, powers of x may overflow although their quotient does
not. A program that meets such an x does its work again, with polynomials in 1/x for these x; where x is infinite, they
are limits.
"""

import triton
import triton.language as tl


@triton.jit
def trial_kernel(out_ptr):
    """Store 1.0, to show that a kernel compiles and runs."""
    tl.store(out_ptr, 1.0)


@triton.jit
def _is_negative(x):
    """Return the sign bit of x, which -0.0 has, too."""
    INTEGER: tl.constexpr = tl.int64 if x.dtype == tl.float64 else tl.int32
    return x.to(INTEGER, bitcast=True) < 0


@triton.jit
def _coefficients(a_ptr, b_ptr, M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr, TYPE: tl.constexpr):
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
def _scaled(z, x, t, e, MOST: tl.constexpr):
    """Compute z x^e for -MOST <= e <= MOST step by step, so that no power alone overflows."""
    for i in tl.static_range(MOST):
        z = z * tl.where(i < e, x, tl.where(i < -e, t, 1.0))
    return z


@triton.jit
def _fast(a, c, x, M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr):
    """Compute P, Q, P', Q' without its sign, and whether that sign is negative."""
    p, dp = _horner(a, x, M)
    s, ds = _horner(c, tl.abs(x) if VERSION == "A" else x, N)
    if VERSION == "B" or VERSION == "C":
        return p, tl.abs(s) + (1.0 if VERSION == "B" else 0.1), dp, ds, _is_negative(s)
    return p, s, dp, ds, _is_negative(x)


@triton.jit
def _careful(a, c, x, M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr):
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
        q = tl.abs(q) + _scaled((1.0 if VERSION == "B" else 0.1) * one, v, w, -n, MOST)
    odd = (m % 2) == 1  # x^m is v^m with this sign
    p, dp, ds = p / q, dp / q, bars * ds / q
    r = _scaled(p, v, w, m - n, MOST) * tl.where(odd, sign, one)
    slope = _scaled(dp - p * ds, v, w, m - n - 1, MOST + 1) * tl.where(odd, one, sign)
    return r, slope, v, w, q, n, sign, bars * tl.where((n % 2) == 1, sign, one)


@triton.jit
def _place(
    row_tile, column_tile, piece, elements, rows, width,
    FLAT: tl.constexpr, LANES: tl.constexpr, CHUNKS: tl.constexpr, VECTOR: tl.constexpr, TAKEN: tl.constexpr,
):  # fmt: skip
    """Find the rows (int64) and columns of a tile's elements, and which of them exist.

    They are TAKEN elements of each lane's VECTOR, from number `piece` on.
    """
    lane, element = tl.arange(0, LANES), tl.arange(0, TAKEN)
    row = row_tile * (LANES // CHUNKS) + (lane // CHUNKS)[:, None].to(tl.int64)
    column = column_tile * (CHUNKS * VECTOR) + ((lane % CHUNKS) * VECTOR + piece)[:, None] + element[None, :]
    if FLAT:
        return row, column, row * width + column < elements
    return row, column, (row < rows) & (column < width)


@triton.jit
def _limit(a, c, M: tl.constexpr, N: tl.constexpr, LIMIT: tl.constexpr):
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
def _far(x, limit):
    """Say where x is too large for its powers."""
    return tl.abs(x) > limit


@triton.jit
def _forward_tile(
    a, c, limit, x_ptr, y_ptr, bias_ptr, gate_ptr, row_tile, column_tile, piece, elements, rows, width, y_row, x_row,
    gate_row,
    M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr,
    FLAT: tl.constexpr, LANES: tl.constexpr, CHUNKS: tl.constexpr, VECTOR: tl.constexpr,
    TYPE: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    """Compute one tile, or with CAREFUL one element of each lane where it is large; return the largest |x|.

    Care is rarely needed and must not take registers from the common case: hence one element at a time.
    """
    TAKEN: tl.constexpr = 1 if CAREFUL else VECTOR
    row, column, mask = _place(row_tile, column_tile, piece, elements, rows, width, FLAT, LANES, CHUNKS, VECTOR, TAKEN)
    x = tl.load(x_ptr + row * x_row + column, mask, 0.0).to(TYPE)
    if BIAS:
        x += tl.load(bias_ptr + column, mask, 0.0).to(TYPE)
    if CAREFUL:
        far = _far(x, limit)
        y, _, _, _, _, _, _, _ = _careful(a, c, tl.where(far, x, 1.0), M, N, VERSION)
        mask = mask & far
    else:
        p, q, _, _, _ = _fast(a, c, x, M, N, VERSION)
        y = p / q
    if GATE:
        y *= tl.load(gate_ptr + row * gate_row + column, mask, 0.0).to(TYPE)
    tl.store(y_ptr + row * y_row + column, y.to(y_ptr.dtype.element_ty), mask)
    return tl.max(tl.max(tl.abs(x), 1), 0)


@triton.jit
def forward_kernel(
    x_ptr, y_ptr, a_ptr, b_ptr, bias_ptr, gate_ptr,
    elements, rows, width, groups, x_batch, x_row, gate_batch, gate_row, a_batch, b_batch, bias_batch,
    M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr,
    FLAT: tl.constexpr, LIMIT: tl.constexpr, LANES: tl.constexpr, CHUNKS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Compute one tile in each program."""
    TYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    column_tiles, row_tiles = tl.cdiv(width, CHUNKS * VECTOR), tl.cdiv(rows, LANES // CHUNKS)
    program = tl.program_id(0)
    column_tile, program = program % column_tiles, program // column_tiles
    row_tile, unit = program % row_tiles, program // row_tiles
    if FLAT:
        x_row, gate_row = width, width
    batch, group = (unit // groups).to(tl.int64), unit % groups
    y_row = groups * width
    x_ptr += batch * x_batch + group * width
    y_ptr += batch * rows * y_row + group * width
    bias_ptr += batch * bias_batch + group * width
    gate_ptr += batch * gate_batch + group * width
    if not FLAT:
        a_ptr += batch * a_batch + group * (M + 1)
        b_ptr += batch * b_batch + group * (N + 1 if VERSION == "C" else N)
    a, c = _coefficients(a_ptr, b_ptr, M, N, VERSION, TYPE)
    limit = _limit(a, c, M, N, LIMIT)
    largest = _forward_tile(
        a, c, limit, x_ptr, y_ptr, bias_ptr, gate_ptr, row_tile, column_tile, 0, elements, rows, width, y_row, x_row,
        gate_row, M, N, VERSION, BIAS, GATE, FLAT, LANES, CHUNKS, VECTOR, TYPE, False,
    )  # fmt: skip
    if largest > limit:
        tl.debug_barrier()  # other threads may store the same elements again
        for piece in range(0, VECTOR):
            _forward_tile(
                a, c, limit, x_ptr, y_ptr, bias_ptr, gate_ptr, row_tile, column_tile, piece, elements, rows, width,
                y_row, x_row, gate_row, M, N, VERSION, BIAS, GATE, FLAT, LANES, CHUNKS, VECTOR, TYPE, True,
            )  # fmt: skip


@triton.jit
def _backward_tiles(
    a, c, limit, x_ptr, grad_ptr, dx_ptr, bias_ptr, gate_ptr, dgate_ptr, first, step,
    elements, rows, width, y_row, x_row, grad_row, gate_row, column_tile,
    M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr,
    FLAT: tl.constexpr, LANES: tl.constexpr, CHUNKS: tl.constexpr, VECTOR: tl.constexpr,
    TYPE: tl.constexpr, CAREFUL: tl.constexpr,
):  # fmt: skip
    """Compute all tiles of a program; return each lane's sums for the coefficients and the bias, and its largest |x|.

    The pointers are to the unit's first element. With CAREFUL, too, a lane's elements come one at a time.
    """
    FIRST: tl.constexpr = 0 if VERSION == "C" else 1
    MOST: tl.constexpr = max(M, N)
    TAKEN: tl.constexpr = 1 if CAREFUL else VECTOR
    sums = ()
    for _ in tl.static_range(M + 1 + N + 1 - FIRST):
        sums = sums + (tl.zeros([LANES], TYPE),)
    bias_sums, largest = tl.zeros([LANES, VECTOR], TYPE), tl.zeros([LANES], TYPE)
    for row_tile in range(first, tl.cdiv(rows, LANES // CHUNKS), step):
        for piece in range(0, VECTOR // TAKEN):
            row, column, mask = _place(
                row_tile, column_tile, piece, elements, rows, width, FLAT, LANES, CHUNKS, VECTOR, TAKEN
            )
            x = tl.load(x_ptr + row * x_row + column, mask, 0.0).to(TYPE)
            grad = tl.load(grad_ptr + row * grad_row + column, mask, 0.0).to(TYPE)
            if BIAS:
                x += tl.load(bias_ptr + column, mask, 0.0).to(TYPE)
            inner = grad
            if GATE:
                inner = grad * tl.load(gate_ptr + row * gate_row + column, mask, 0.0).to(TYPE)
            if not CAREFUL:
                largest = tl.maximum(largest, tl.max(tl.abs(x), 1))
            p, q, dp, ds, negative = _fast(a, c, x, M, N, VERSION)
            inverse = 1.0 / q
            r, weight = p * inverse, inner * inverse
            # R Q' has the sign of x (A) or of what is inside the bars (B, C). So do R's products with odd powers (A) or
            # with all powers (B, C).
            signed = r
            if VERSION != "N":
                signed = tl.where(negative, -r, r)
            slope = (dp - signed * ds) * inverse
            odd = signed * weight
            even = r * weight if VERSION == "A" else odd
            if CAREFUL:
                far = _far(x, limit)
                r_far, slope_far, v, w, q_far, n, sign, bars = _careful(a, c, tl.where(far, x, 1.0), M, N, VERSION)
                r, slope = tl.where(far, r_far, r), tl.where(far, slope_far, slope)
                infinite = tl.abs(x) == float("inf")  # which adds nothing to the coefficients' sums
                share = tl.where(infinite, 0.0, 1.0 / q_far)
                v, r_far = tl.where(infinite, 1.0, v), tl.where(infinite, 1.0, r_far)
            dx = slope * inner
            if CAREFUL:
                dx = tl.where(far & (inner == 0.0), 0.0, dx)
            out = row * y_row + column
            tl.store(dx_ptr + out, dx.to(dx_ptr.dtype.element_ty), mask)
            if GATE:
                tl.store(dgate_ptr + out, (grad * r).to(dgate_ptr.dtype.element_ty), mask)
            if BIAS:
                counted = mask & (piece + tl.arange(0, TAKEN) == tl.arange(0, VECTOR))[None, :] if CAREFUL else mask
                bias_sums += tl.where(counted, dx, 0.0)

            power = tl.full([LANES, TAKEN], 1.0, TYPE)
            added_a, added_c = (), ()
            for j in tl.static_range(MOST + 1):
                to_a, to_c = weight * power, (odd if j % 2 == 1 else even) * power
                if CAREFUL:
                    power_far = inner * _scaled(share, v, w, j - n, MOST)  # inner v^j / Q
                    signed_far = power_far * sign if j % 2 == 1 else power_far
                    to_a = tl.where(far, signed_far, to_a)
                    to_c = tl.where(far, r_far * (power_far if VERSION == "A" else bars * signed_far), to_c)
                if j <= M:
                    added_a = added_a + (sums[j] + tl.sum(to_a, 1),)
                if j >= FIRST and j <= N:
                    added_c = added_c + (sums[M + 1 + j - FIRST] - tl.sum(to_c, 1),)
                power = power * x
            sums = added_a + added_c
    return sums, bias_sums, largest


@triton.jit
def backward_kernel(
    x_ptr, grad_ptr, dx_ptr, a_ptr, b_ptr, da_ptr, db_ptr, bias_ptr, dbias_ptr, gate_ptr, dgate_ptr, partial_ptr,
    partial_bias_ptr, ticket_ptr,
    elements, rows, width, groups, splits, x_batch, x_row, grad_batch, grad_row, gate_batch, gate_row,
    a_batch, b_batch, bias_batch,
    M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr,
    FLAT: tl.constexpr, LIMIT: tl.constexpr, LANES: tl.constexpr, CHUNKS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Compute each column of tiles by `splits` programs; a unit's last one adds what all have stored in partial_ptr.

    partial_ptr: `[units, splits * column tiles, terms]`; partial_bias_ptr: `[units, splits, width]`; ticket_ptr:
    `[units]` zeros, which the kernel leaves as zeros.
    """
    TYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    FIRST: tl.constexpr = 0 if VERSION == "C" else 1
    TERMS: tl.constexpr = M + 1 + N + 1 - FIRST
    column_tiles = tl.cdiv(width, CHUNKS * VECTOR)
    programs = splits * column_tiles
    unit, program = tl.program_id(0) // programs, tl.program_id(0) % programs
    split, column_tile = program // column_tiles, program % column_tiles
    if FLAT:
        x_row, grad_row, gate_row = width, width, width
    batch, group = (unit // groups).to(tl.int64), unit % groups
    y_row = groups * width
    y_at = batch * rows * y_row + group * width
    if not FLAT:
        a_ptr += batch * a_batch + group * (M + 1)
        b_ptr += batch * b_batch + group * (N + 1 if VERSION == "C" else N)
    a, c = _coefficients(a_ptr, b_ptr, M, N, VERSION, TYPE)
    limit = _limit(a, c, M, N, LIMIT)
    x_ptr += batch * x_batch + group * width
    grad_ptr += batch * grad_batch + group * width
    gate_ptr += batch * gate_batch + group * width
    bias_ptr += batch * bias_batch + group * width
    sums, bias_sums, largest = _backward_tiles(
        a, c, limit, x_ptr, grad_ptr, dx_ptr + y_at, bias_ptr, gate_ptr, dgate_ptr + y_at, split, splits, elements,
        rows, width, y_row, x_row, grad_row, gate_row, column_tile, M, N, VERSION, BIAS, GATE, FLAT, LANES, CHUNKS,
        VECTOR, TYPE, False,
    )  # fmt: skip
    if tl.max(largest, 0) > limit:
        tl.debug_barrier()  # other threads may store the same elements again
        sums, bias_sums, largest = _backward_tiles(
            a, c, limit, x_ptr, grad_ptr, dx_ptr + y_at, bias_ptr, gate_ptr, dgate_ptr + y_at, split, splits, elements,
            rows, width, y_row, x_row, grad_row, gate_row, column_tile, M, N, VERSION, BIAS, GATE, FLAT, LANES, CHUNKS,
            VECTOR, TYPE, True,
        )  # fmt: skip

    partial = partial_ptr + (unit * programs + program).to(tl.int64) * TERMS
    for j in tl.static_range(TERMS):
        tl.store(partial + j, tl.sum(sums[j], 0))
    if BIAS:
        by_column = tl.sum(tl.reshape(bias_sums, [LANES // CHUNKS, CHUNKS * VECTOR]), 0)
        at = column_tile * (CHUNKS * VECTOR) + tl.arange(0, CHUNKS * VECTOR)
        tl.store(partial_bias_ptr + (unit * splits + split).to(tl.int64) * width + at, by_column, at < width)
    tl.debug_barrier()  # every thread has stored before one of them takes the ticket
    if tl.atomic_add(ticket_ptr + unit, 1, sem="acq_rel") == programs - 1:
        # Add a few thousand numbers in float64, read past the first cache, which is not coherent.
        BLOCK: tl.constexpr = 1024
        index = tl.arange(0, BLOCK)
        for j in tl.static_range(TERMS):
            total = tl.zeros([BLOCK], tl.float64)
            for start in range(0, programs, BLOCK):
                found = partial_ptr + (unit * programs + start + index).to(tl.int64) * TERMS + j
                total += tl.load(found, start + index < programs, 0.0, cache_modifier=".cg").to(tl.float64)
            sum = tl.sum(total, 0)
            if j <= M:
                tl.store(da_ptr + unit * (M + 1) + j, sum.to(TYPE).to(da_ptr.dtype.element_ty))
            else:
                if VERSION == "A":
                    sum = tl.where(tl.load(b_ptr + j - M - 1).to(TYPE) < 0, -sum, sum)
                tl.store(db_ptr + unit * (TERMS - M - 1) + j - M - 1, sum.to(TYPE).to(db_ptr.dtype.element_ty))
        if BIAS:
            for start in range(0, width, BLOCK):
                total = tl.zeros([BLOCK], tl.float64)
                for split in range(0, splits):
                    found = partial_bias_ptr + (unit * splits + split).to(tl.int64) * width + start + index
                    total += tl.load(found, start + index < width, 0.0, cache_modifier=".cg").to(tl.float64)
                out = dbias_ptr + unit.to(tl.int64) * width + start + index
                tl.store(out, total.to(TYPE).to(dbias_ptr.dtype.element_ty), start + index < width)
        tl.store(ticket_ptr + unit, 0)
