"""Compute y = R(x + bias) gate and its gradients on a GPU; reference.py is the definition, gpu.py launches the kernels.

One batch entry and group has coefficients of its own: it is a unit of `rows` x `width` elements. A tile is CHUNKS *
VECTOR columns wide and LANES // CHUNKS rows high. VECTOR neighbours belong to one thread, 16 bytes where memory allows,
so that a sum over them needs no exchange between threads. Where only the order in memory matters (FLAT), a row is one
tile. DENSE says that a tile has no gaps in memory, WHOLE that all tiles have all of their columns. Each program
computes every `splits`-th tile of one column of tiles: what all its tiles need, it computes once.

Strides, and `width`, are counted in vectors, so that Triton sees them to be multiples of 16 bytes. `left` rows, or
elements if FLAT, are in the last of `tiles` if it is not full, else 0: only there rows are compared with a mask.

Where |x| > LIMIT, a program does its work again, carefully for these x; see triton_polynomials.py.
"""

import triton
import triton.language as tl

from .triton_polynomials import careful, coefficients, fast, find_limit, is_far, reciprocal, scaled, with_sign_of


@triton.jit
def trial_kernel(out_ptr):
    """Store 1.0, to show that a kernel compiles and runs."""
    tl.store(out_ptr, 1.0)


@triton.jit
def _place(
    column_tile, piece,
    DENSE: tl.constexpr, LANES: tl.constexpr, CHUNKS: tl.constexpr, VECTOR: tl.constexpr, TAKEN: tl.constexpr,
):  # fmt: skip
    """Find where a tile's elements are: rows in it, columns in the unit, and if DENSE places from its beginning on.

    They are TAKEN elements of each lane's VECTOR, from number `piece` on.
    """
    lane, element = tl.arange(0, LANES)[:, None], piece + tl.arange(0, TAKEN)[None, :]
    row, column = lane // CHUNKS, (column_tile * CHUNKS + lane % CHUNKS) * VECTOR + element
    return row, column, (lane * VECTOR + element if DENSE else column)


@triton.jit
def _at(ptr, row_tile, row, place, stride, ROWS: tl.constexpr, DENSE: tl.constexpr):
    """Find a tile's elements in memory: pointers."""
    start = ptr + row_tile * (ROWS * stride)
    return start + place if DENSE else start + (row.to(tl.int64) * stride + place)


@triton.jit
def _inside(
    row_tile, full, left, row, column, place, width,
    FLAT: tl.constexpr, WHOLE: tl.constexpr, LAST: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Say which elements of a tile exist. LAST: it may be the last one; else, and if WHOLE, all of them do."""
    MOST: tl.constexpr = 2147483647
    mask = column < width * VECTOR
    if LAST:
        inside = (place if FLAT else row) < tl.where(row_tile < full, MOST, left)
        mask = inside if WHOLE else mask & inside
    return mask


@triton.jit
def _load(pointers, mask, TYPE: tl.constexpr, MASKED: tl.constexpr):
    """Load elements, 0 where there are none."""
    if MASKED:
        return tl.load(pointers, mask, 0.0).to(TYPE)
    return tl.load(pointers).to(TYPE)


@triton.jit
def _store(pointers, value, mask, MASKED: tl.constexpr):
    """Store elements where there are some."""
    if MASKED:
        tl.store(pointers, value.to(pointers.dtype.scalar.element_ty), mask)
    else:
        tl.store(pointers, value.to(pointers.dtype.scalar.element_ty))


@triton.jit
def _forward_tiles(
    a, c, x_ptr, y_ptr, bias_ptr, gate_ptr, first, stop, step, full, left, width, column_tile, x_row, y_row, gate_row,
    M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr,
    FLAT: tl.constexpr, DENSE: tl.constexpr, WHOLE: tl.constexpr, LANES: tl.constexpr, CHUNKS: tl.constexpr,
    VECTOR: tl.constexpr, TYPE: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Compute tiles; return the largest |x| of each lane."""
    ROWS: tl.constexpr = LANES // CHUNKS
    MASKED: tl.constexpr = LAST or not WHOLE
    largest = tl.zeros([LANES], TYPE)
    row, column, place = _place(column_tile, 0, DENSE, LANES, CHUNKS, VECTOR, VECTOR)
    if BIAS:
        bias = _load(bias_ptr + column, column < width * VECTOR, TYPE, not WHOLE)
    for row_tile in range(first, stop, step):
        mask = _inside(row_tile, full, left, row, column, place, width, FLAT, WHOLE, LAST, VECTOR)
        x = _load(_at(x_ptr, row_tile, row, place, x_row, ROWS, DENSE), mask, TYPE, MASKED)
        if BIAS:
            x += bias
        largest = tl.maximum(largest, tl.max(tl.abs(x), 1))
        p, q, _, _, _ = fast(a, c, x, M, N, VERSION)
        y = p / q if VERSION == "N" else p * reciprocal(q, VERSION)
        if GATE:
            y *= _load(_at(gate_ptr, row_tile, row, place, gate_row, ROWS, DENSE), mask, TYPE, MASKED)
        _store(_at(y_ptr, row_tile, row, place, y_row, ROWS, DENSE), y, mask, MASKED)
    return largest


@triton.jit
def _forward_far(
    a, c, limit, x_ptr, y_ptr, bias_ptr, gate_ptr, first, stop, step, full, left, width, column_tile, x_row, y_row,
    gate_row,
    M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr,
    FLAT: tl.constexpr, DENSE: tl.constexpr, WHOLE: tl.constexpr, LANES: tl.constexpr, CHUNKS: tl.constexpr,
    VECTOR: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Compute what is large, one element of each lane at a time: care must not take registers from the common case."""
    ROWS: tl.constexpr = LANES // CHUNKS
    for row_tile in range(first, stop, step):
        for piece in range(0, VECTOR):
            row, column, place = _place(column_tile, piece, DENSE, LANES, CHUNKS, VECTOR, 1)
            mask = _inside(row_tile, full, left, row, column, place, width, FLAT, WHOLE, True, VECTOR)
            x = tl.load(_at(x_ptr, row_tile, row, place, x_row, ROWS, DENSE), mask, 0.0).to(TYPE)
            if BIAS:
                x += tl.load(bias_ptr + column, mask, 0.0).to(TYPE)
            far = is_far(x, limit)
            if tl.max(tl.max(far.to(tl.int32), 1), 0) > 0:
                y, _, _, _, _, _, _, _ = careful(a, c, tl.where(far, x, 1.0), M, N, VERSION)
                if GATE:
                    gate = tl.load(_at(gate_ptr, row_tile, row, place, gate_row, ROWS, DENSE), mask, 0.0)
                    y *= gate.to(TYPE)
                _store(_at(y_ptr, row_tile, row, place, y_row, ROWS, DENSE), y, mask & far, True)


@triton.jit
def _program(width, splits, groups, FLAT: tl.constexpr, DENSE: tl.constexpr, CHUNKS: tl.constexpr):
    """Find this program's unit, its batch entry and group, the split, the column of tiles, and how many of those are.

    A division takes as long as several elements: there is one group and column where a tile is dense.
    """
    program = tl.program_id(0)
    none, column_tiles = program * 0, 1
    if FLAT:
        unit, split, column_tile = none, program, none
    elif DENSE:
        unit, split, column_tile = program // splits, program % splits, none
    else:
        column_tiles = tl.cdiv(width, CHUNKS)
        unit, program = program // (splits * column_tiles), program % (splits * column_tiles)
        split, column_tile = program // column_tiles, program % column_tiles
    if DENSE:
        batch, group = unit.to(tl.int64), none
    else:
        batch, group = (unit // groups).to(tl.int64), unit % groups
    return unit, batch, group, split, column_tile, column_tiles


@triton.jit
def _stride(row, DENSE: tl.constexpr, CHUNKS: tl.constexpr, VECTOR: tl.constexpr):
    """Count a stride of rows in elements."""
    if DENSE:
        return tl.full([], CHUNKS * VECTOR, tl.int64)
    return row.to(tl.int64) * VECTOR


@triton.jit
def _end(full, left, split, splits):
    """Count the full tiles and, if it is this program's, the last one that is not full."""
    return full + ((left > 0) & (full % splits == split)).to(tl.int32)


# Integers vary, and only scalars are read from these pointers, or they are parts of larger memory: Triton is not to
# compile a kernel for each case.
_INTEGERS = (
    "full", "left", "rows", "width", "groups", "splits", "x_batch", "x_row", "grad_batch", "grad_row", "gate_batch",
    "gate_row", "a_batch", "b_batch", "bias_batch",
)  # fmt: skip


@triton.jit(do_not_specialize=_INTEGERS, do_not_specialize_on_alignment=("a_ptr", "b_ptr", "bias_ptr"))
def forward_kernel(
    x_ptr, y_ptr, a_ptr, b_ptr, bias_ptr, gate_ptr,
    full, left, rows, width, groups, splits, x_batch, x_row, gate_batch, gate_row, a_batch, b_batch, bias_batch,
    M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr,
    FLAT: tl.constexpr, DENSE: tl.constexpr, WHOLE: tl.constexpr, LIMIT: tl.constexpr, LANES: tl.constexpr,
    CHUNKS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Compute each column of tiles by `splits` programs."""
    TYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    _, batch, group, split, column_tile, _ = _program(width, splits, groups, FLAT, DENSE, CHUNKS)
    a_ptr += batch * a_batch + group * (M + 1)
    b_ptr += batch * b_batch + group * (N + 1 if VERSION == "C" else N)
    a, c = coefficients(a_ptr, b_ptr, M, N, VERSION, TYPE)
    limit = find_limit(a, c, M, N, LIMIT)
    x_ptr += (batch * x_batch + group * width) * VECTOR
    y_ptr += (batch * rows * groups + group) * width * VECTOR
    gate_ptr += (batch * gate_batch + group * width) * VECTOR
    bias_ptr += batch * bias_batch + group * width * VECTOR
    x_row, gate_row = _stride(x_row, DENSE, CHUNKS, VECTOR), _stride(gate_row, DENSE, CHUNKS, VECTOR)
    y_row = _stride(groups * width, DENSE, CHUNKS, VECTOR)
    largest = _forward_tiles(
        a, c, x_ptr, y_ptr, bias_ptr, gate_ptr, split, full, splits, full, left, width, column_tile, x_row, y_row,
        gate_row, M, N, VERSION, BIAS, GATE, FLAT, DENSE, WHOLE, LANES, CHUNKS, VECTOR, TYPE, False,
    )  # fmt: skip
    end = _end(full, left, split, splits)
    largest = tl.maximum(largest, _forward_tiles(
        a, c, x_ptr, y_ptr, bias_ptr, gate_ptr, full, end, 1, full, left, width, column_tile, x_row, y_row,
        gate_row, M, N, VERSION, BIAS, GATE, FLAT, DENSE, WHOLE, LANES, CHUNKS, VECTOR, TYPE, True,
    ))  # fmt: skip
    if tl.max(largest, 0) > limit:
        tl.debug_barrier()  # other threads may store the same elements again
        _forward_far(
            a, c, limit, x_ptr, y_ptr, bias_ptr, gate_ptr, split, end, splits, full, left, width,
            column_tile, x_row, y_row, gate_row, M, N, VERSION, BIAS, GATE, FLAT, DENSE, WHOLE, LANES, CHUNKS, VECTOR,
            TYPE,
        )  # fmt: skip


@triton.jit
def _backward_tile(
    a, c, limit, sums, bias_sums, largest, bias, x_ptr, grad_ptr, dx_ptr, gate_ptr, dgate_ptr, row_tile, row, column,
    place, full, left, width, x_row, grad_row, dx_row, gate_row,
    M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr,
    FLAT: tl.constexpr, DENSE: tl.constexpr, WHOLE: tl.constexpr, LANES: tl.constexpr, CHUNKS: tl.constexpr,
    VECTOR: tl.constexpr, TYPE: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    """Compute a tile; return each lane's sums for the coefficients and the bias, with the tile's, and its largest |x|.

    With LAST, a large x adds nothing to the sums.
    """
    FIRST: tl.constexpr = 0 if VERSION == "C" else 1
    ROWS: tl.constexpr = LANES // CHUNKS
    MASKED: tl.constexpr = LAST or not WHOLE
    mask = _inside(row_tile, full, left, row, column, place, width, FLAT, WHOLE, LAST, VECTOR)
    x = _load(_at(x_ptr, row_tile, row, place, x_row, ROWS, DENSE), mask, TYPE, MASKED)
    grad = _load(_at(grad_ptr, row_tile, row, place, grad_row, ROWS, DENSE), mask, TYPE, MASKED)
    if BIAS:
        x += bias
    inner = grad
    if GATE:
        inner = grad * _load(_at(gate_ptr, row_tile, row, place, gate_row, ROWS, DENSE), mask, TYPE, MASKED)
    largest = tl.maximum(largest, tl.max(tl.abs(x), 1))
    if LAST:
        far = is_far(x, limit)
        x, inner = tl.where(far, 0.0, x), tl.where(far, 0.0, inner)
    p, q, dp, ds, sign = fast(a, c, x, M, N, VERSION)
    inverse = reciprocal(q, VERSION)
    r, weight = p * inverse, inner * inverse
    # R Q' has the sign of x (A) or of what is inside the bars (B, C). So do R's products with odd powers (A) or with
    # all powers (B, C).
    signed = r if VERSION == "N" else with_sign_of(sign, r)
    dx = (dp - signed * ds) * weight
    _store(_at(dx_ptr, row_tile, row, place, dx_row, ROWS, DENSE), dx, mask, MASKED)
    if GATE:
        _store(_at(dgate_ptr, row_tile, row, place, dx_row, ROWS, DENSE), grad * r, mask, MASKED)
    if BIAS:
        bias_sums += tl.where(mask, dx, 0.0) if MASKED else dx
    added_a, added_c = (), ()
    for j in tl.static_range(max(M, N) + 1):
        if j <= M:
            added_a = added_a + (sums[j] + tl.sum(weight, 1),)
        if j >= FIRST and j <= N:
            products = (r if VERSION == "A" and j % 2 == 0 else signed) * weight
            added_c = added_c + (sums[M + 1 + j - FIRST] - tl.sum(products, 1),)
        weight = weight * x  # inner x^j / Q
    return added_a + added_c, bias_sums, largest


@triton.jit
def _backward_far(
    a, c, limit, sums, bias_sums, x_ptr, grad_ptr, dx_ptr, bias_ptr, gate_ptr, dgate_ptr, row_tile, piece, full, left,
    width, column_tile, x_row, grad_row, dx_row, gate_row,
    M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr,
    FLAT: tl.constexpr, DENSE: tl.constexpr, WHOLE: tl.constexpr, LANES: tl.constexpr, CHUNKS: tl.constexpr,
    VECTOR: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """Compute one element of each lane in a tile where it is large; return the sums with what it adds to them."""
    FIRST: tl.constexpr = 0 if VERSION == "C" else 1
    MOST: tl.constexpr = max(M, N)
    ROWS: tl.constexpr = LANES // CHUNKS
    row, column, place = _place(column_tile, piece, DENSE, LANES, CHUNKS, VECTOR, 1)
    mask = _inside(row_tile, full, left, row, column, place, width, FLAT, WHOLE, True, VECTOR)
    x = tl.load(_at(x_ptr, row_tile, row, place, x_row, ROWS, DENSE), mask, 0.0).to(TYPE)
    if BIAS:
        x += tl.load(bias_ptr + column, mask, 0.0).to(TYPE)
    mask = mask & is_far(x, limit)
    grad = tl.load(_at(grad_ptr, row_tile, row, place, grad_row, ROWS, DENSE), mask, 0.0).to(TYPE)
    inner = grad
    if GATE:
        inner = grad * tl.load(_at(gate_ptr, row_tile, row, place, gate_row, ROWS, DENSE), mask, 0.0).to(TYPE)
    r, slope, v, w, q, n, sign, bars = careful(a, c, tl.where(mask, x, 1.0), M, N, VERSION)
    dx = tl.where(inner == 0.0, 0.0, slope * inner)
    _store(_at(dx_ptr, row_tile, row, place, dx_row, ROWS, DENSE), dx, mask, True)
    if GATE:
        _store(_at(dgate_ptr, row_tile, row, place, dx_row, ROWS, DENSE), grad * r, mask, True)
    if BIAS:
        bias_sums += tl.where(mask & (piece == tl.arange(0, VECTOR))[None, :], dx, 0.0)
    infinite = tl.abs(x) == float("inf")  # which adds nothing to the coefficients' sums
    share = tl.where(infinite, 0.0, inner / q)
    v, r = tl.where(infinite, 1.0, v), tl.where(infinite, 1.0, r)
    added_a, added_c = (), ()
    for j in tl.static_range(MOST + 1):
        power = scaled(share, v, w, j - n, MOST)  # inner v^j / Q
        signed = power * sign if j % 2 == 1 else power
        if j <= M:
            added_a = added_a + (sums[j] + tl.sum(signed, 1),)
        if j >= FIRST and j <= N:
            products = r * (power if VERSION == "A" else bars * signed)
            added_c = added_c + (sums[M + 1 + j - FIRST] - tl.sum(products, 1),)
    return added_a + added_c, bias_sums


@triton.jit
def _sum_rows(ptr, rows, step, length, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Add `width` numbers of each of `rows` rows, one in `step` rows of `length`, in float64: `[COLUMNS]`.

    The order is always the same. Several loads are on their way at once. They read past the first cache, which is not
    coherent.
    """
    AHEAD: tl.constexpr = 4
    row, column = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros([ROWS, COLUMNS], tl.float64)
    for start in range(0, rows, AHEAD * ROWS):
        for i in tl.static_range(AHEAD):
            at = start + i * ROWS + row
            found = ptr + at.to(tl.int64) * step * length + column
            total += tl.load(found, (at < rows) & (column < width), 0.0, cache_modifier=".cg").to(tl.float64)
    return tl.sum(total, 0)


@triton.jit
def _stacked(sums, COUNT: tl.constexpr, LENGTH: tl.constexpr):
    """Return COUNT tensors `[lanes]` as one, `[lanes, LENGTH]`; LENGTH is a power of two, the rest zeros."""
    parts = sums
    for _ in tl.static_range(COUNT, LENGTH):
        parts = parts + (sums[0] * 0.0,)
    for i in tl.static_range(5):
        if LENGTH >> i > 1:
            joined = ()
            for j in tl.static_range(LENGTH >> (i + 1)):
                joined = joined + (tl.join(parts[j], parts[j + (LENGTH >> (i + 1))]),)
            parts = joined
    return tl.reshape(parts[0], [sums[0].shape[0], LENGTH])


@triton.jit
def _sum_columns(ptr, out_ptr, rows, step, width, TYPE: tl.constexpr):
    """Add rows as `_sum_rows` does, all of their columns, into out_ptr."""
    COLUMNS: tl.constexpr = 256
    for start in range(0, width, COLUMNS):
        total = _sum_rows(ptr + start, rows, step, width, width - start, 4, COLUMNS)
        column = start + tl.arange(0, COLUMNS)
        tl.store(out_ptr + column, total.to(TYPE).to(out_ptr.dtype.element_ty), column < width)


GROUP = tl.constexpr(32)  # of splits, whose partial sums are added by the last of them


@triton.jit(
    do_not_specialize=_INTEGERS,
    do_not_specialize_on_alignment=(
        "a_ptr", "b_ptr", "da_ptr", "db_ptr", "bias_ptr", "dbias_ptr", "partial_ptr", "partial_bias_ptr", "ticket_ptr",
    ),
)  # fmt: skip
def backward_kernel(
    x_ptr, grad_ptr, dx_ptr, a_ptr, b_ptr, da_ptr, db_ptr, bias_ptr, dbias_ptr, gate_ptr, dgate_ptr, partial_ptr,
    partial_bias_ptr, ticket_ptr,
    full, left, rows, width, groups, splits, x_batch, x_row, grad_batch, grad_row, gate_batch, gate_row, a_batch,
    b_batch, bias_batch,
    M: tl.constexpr, N: tl.constexpr, VERSION: tl.constexpr, BIAS: tl.constexpr, GATE: tl.constexpr,
    FLAT: tl.constexpr, DENSE: tl.constexpr, WHOLE: tl.constexpr, LIMIT: tl.constexpr, LANES: tl.constexpr,
    CHUNKS: tl.constexpr, VECTOR: tl.constexpr,
):  # fmt: skip
    """Compute each column of tiles by `splits` programs; a unit's last one adds what all have stored.

    Where there are many, the last of each GROUP of splits does so before, in place of its first.

    partial_ptr: `[units, splits * column tiles, terms]`; partial_bias_ptr: `[units, splits, width]`; ticket_ptr:
    `[units, 1 + groups of splits]` zeros, which the kernel leaves as zeros.
    """
    TYPE: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
    FIRST: tl.constexpr = 0 if VERSION == "C" else 1
    TERMS: tl.constexpr = M + 1 + N + 1 - FIRST
    PADDED: tl.constexpr = 32 if TERMS > 16 else (16 if TERMS > 8 else 8)
    unit, batch, group, split, column_tile, column_tiles = _program(width, splits, groups, FLAT, DENSE, CHUNKS)
    a_ptr += batch * a_batch + group * (M + 1)
    b_ptr += batch * b_batch + group * (N + 1 if VERSION == "C" else N)
    a, c = coefficients(a_ptr, b_ptr, M, N, VERSION, TYPE)
    limit = find_limit(a, c, M, N, LIMIT)
    x_ptr += (batch * x_batch + group * width) * VECTOR
    grad_ptr += (batch * grad_batch + group * width) * VECTOR
    gate_ptr += (batch * gate_batch + group * width) * VECTOR
    dx_ptr += (batch * rows * groups + group) * width * VECTOR
    dgate_ptr += (batch * rows * groups + group) * width * VECTOR
    bias_ptr += batch * bias_batch + group * width * VECTOR
    x_row, grad_row = _stride(x_row, DENSE, CHUNKS, VECTOR), _stride(grad_row, DENSE, CHUNKS, VECTOR)
    gate_row, dx_row = _stride(gate_row, DENSE, CHUNKS, VECTOR), _stride(groups * width, DENSE, CHUNKS, VECTOR)

    sums = ()
    for _ in tl.static_range(TERMS):
        sums = sums + (tl.zeros([LANES], TYPE),)
    none, bias_sums, largest = sums, tl.zeros([LANES, VECTOR], TYPE), tl.zeros([LANES], TYPE)
    row, column, place = _place(column_tile, 0, DENSE, LANES, CHUNKS, VECTOR, VECTOR)
    bias = 0.0
    if BIAS:
        bias = _load(bias_ptr + column, column < width * VECTOR, TYPE, not WHOLE)
    for row_tile in range(split, full, splits):
        sums, bias_sums, largest = _backward_tile(
            a, c, limit, sums, bias_sums, largest, bias, x_ptr, grad_ptr, dx_ptr, gate_ptr, dgate_ptr, row_tile, row,
            column, place, full, left, width, x_row, grad_row, dx_row, gate_row, M, N, VERSION, BIAS, GATE, FLAT,
            DENSE, WHOLE, LANES, CHUNKS, VECTOR, TYPE, False,
        )  # fmt: skip
    first, end = full, _end(full, left, split, splits)
    if tl.max(largest, 0) > limit:
        tl.debug_barrier()  # other threads may store the same elements again
        first, sums, bias_sums = split, none, tl.zeros([LANES, VECTOR], TYPE)
    for row_tile in range(first, end, splits):
        sums, bias_sums, largest = _backward_tile(
            a, c, limit, sums, bias_sums, largest, bias, x_ptr, grad_ptr, dx_ptr, gate_ptr, dgate_ptr, row_tile, row,
            column, place, full, left, width, x_row, grad_row, dx_row, gate_row, M, N, VERSION, BIAS, GATE, FLAT,
            DENSE, WHOLE, LANES, CHUNKS, VECTOR, TYPE, True,
        )  # fmt: skip
    if tl.max(largest, 0) > limit:
        tl.debug_barrier()
        for row_tile in range(split, end, splits):
            for piece in range(0, VECTOR):
                sums, bias_sums = _backward_far(
                    a, c, limit, sums, bias_sums, x_ptr, grad_ptr, dx_ptr, bias_ptr, gate_ptr, dgate_ptr, row_tile,
                    piece, full, left, width, column_tile, x_row, grad_row, dx_row, gate_row, M, N, VERSION, BIAS,
                    GATE, FLAT, DENSE, WHOLE, LANES, CHUNKS, VECTOR, TYPE,
                )  # fmt: skip

    term, features = tl.arange(0, PADDED), width * VECTOR
    partial_ptr += unit.to(tl.int64) * (splits * column_tiles) * TERMS
    partial_bias_ptr += unit.to(tl.int64) * splits * features
    partial = partial_ptr + (split * column_tiles + column_tile) * TERMS + term
    tl.store(partial, tl.sum(_stacked(sums, TERMS, PADDED), 0), term < TERMS)
    if BIAS:
        by_column = tl.sum(tl.reshape(bias_sums, [LANES // CHUNKS, CHUNKS, VECTOR]), 0)
        at = (column_tile * CHUNKS + tl.arange(0, CHUNKS))[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
        tl.store(partial_bias_ptr + split.to(tl.int64) * features + at, by_column, at < features)
    tl.debug_barrier()  # every thread has stored before one of them takes the ticket

    split_groups = tl.cdiv(splits, GROUP)
    ticket_ptr += unit * (1 + split_groups)
    last, arriving, step, bias_rows, bias_step = split >= 0, splits * column_tiles, 1, splits, 1
    if split_groups > 1:
        start = split // GROUP * GROUP
        members = tl.minimum(splits - start, GROUP)
        ticket = ticket_ptr + 1 + start // GROUP
        last = tl.atomic_add(ticket, 1, sem="acq_rel") == members * column_tiles - 1
        if last:
            found = partial_ptr + start * column_tiles * TERMS
            total = _sum_rows(found, members * column_tiles, 1, TERMS, TERMS, 512 // PADDED, PADDED)
            tl.store(found + term, total.to(TYPE), term < TERMS)
            if BIAS:
                found = partial_bias_ptr + start.to(tl.int64) * features
                _sum_columns(found, found, members, 1, features, TYPE)
            tl.store(ticket, 0)
            tl.debug_barrier()
        arriving, step, bias_rows, bias_step = split_groups, GROUP * column_tiles, split_groups, GROUP
    if last:  # noqa: SIM102  # `and` would take a ticket in any case
        if tl.atomic_add(ticket_ptr, 1, sem="acq_rel") == arriving - 1:
            total = _sum_rows(partial_ptr, arriving, step, TERMS, TERMS, 512 // PADDED, PADDED)
            tl.store(da_ptr + unit * (M + 1) + term, total.to(TYPE).to(da_ptr.dtype.element_ty), term <= M)
            entry, of_b = term - M - 1, (term > M) & (term < TERMS)
            if VERSION == "A":
                total = tl.where(tl.load(b_ptr + entry, of_b, 0.0).to(TYPE) < 0, -total, total)
            db = db_ptr + unit * (TERMS - M - 1) + entry
            tl.store(db, total.to(TYPE).to(db_ptr.dtype.element_ty), of_b)
            if BIAS:
                dbias_ptr += unit.to(tl.int64) * features
                _sum_columns(partial_bias_ptr, dbias_ptr, bias_rows, bias_step, features, TYPE)
            tl.store(ticket_ptr, 0)
