"""Draw random numbers on a GPU, each kind in one launch; random.py says what is drawn.

Integers, uniform numbers and dropout masks are those of the CPU, bit for bit. Normal numbers differ from it in the last
bits: logarithm, sine and cosine are computed here by polynomials, PyTorch's on a CPU by others. No product and sum are
fused into one operation (`enable_fp_fusion=False`), so that a GPU does what Triton's interpreter does in the tests.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.random import philox_impl

from rlrat.rational import launching

_LANES = 128  # of a program: each draws one block of Philox, four words
_ALIGNED = 4  # numbers of 16 bytes, at which each mask begins


@triton.jit
def _philox_32(position, update, seed, purpose):
    """Draw the block of four 32-bit words at `position`: Philox-4x32-10."""
    position = position.to(tl.uint32)
    low, high = update.to(tl.uint32), (update >> 32).to(tl.uint32)
    return philox_impl(position, low, high, tl.zeros_like(position), seed.to(tl.uint32), purpose.to(tl.uint32))


@triton.jit
def _philox_64(position, update, seed, purpose):
    """Draw the block of four 64-bit words at `position`: NumPy's Philox-4x64-10, which begins to count at 1."""
    position = position.to(tl.uint64) + 1
    zero = tl.zeros_like(position)
    return philox_impl(position, zero + update.to(tl.uint64), zero, zero, seed.to(tl.uint64), purpose.to(tl.uint64))


@triton.jit
def _side_by_side(w, LANES: tl.constexpr):
    """Put four tensors `[LANES]` side by side: `[LANES, 4]`."""
    return tl.reshape(tl.join(tl.join(w[0], w[2]), tl.join(w[1], w[3])), [LANES, 4])


@triton.jit
def _uniform(words):
    return (words >> 8).to(tl.float32) * 5.9604644775390625e-08  # 2^-24


@triton.jit
def _logarithm(x):
    """Compute log x of normal numbers x > 0 (Moshier's Cephes, logf)."""
    bits = x.to(tl.int32, bitcast=True)
    exponent = (bits - 0x3F3504F3) >> 23  # x = 2^exponent (1 + f), sqrt(1/2) <= 1 + f < sqrt(2)
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    e, z = exponent.to(tl.float32), f * f
    y = 7.0376836292e-2 * f - 1.1514610310e-1
    y = y * f + 1.1676998740e-1
    y = y * f - 1.2420140846e-1
    y = y * f + 1.4249322787e-1
    y = y * f - 1.6668057665e-1
    y = y * f + 2.0000714765e-1
    y = y * f - 2.4999993993e-1
    y = y * f + 3.3333331174e-1
    y = y * f * z - 2.12194440e-4 * e - 0.5 * z
    return (f + y) + 0.693359375 * e  # log 2 = 0.693359375 - 2.12194440e-4; the first times e is exact


@triton.jit
def _cosine_and_sine(angle):
    """Compute both for 0 <= angle <= 2 pi (Cephes, sinf).

    Triton's own are right for any angle, for which they need memory of the stack.
    """
    k = tl.floor(angle * 0.6366197723675814 + 0.5)
    # angle - k pi/2 = x + rest, with pi/2 in three parts; k times each of the first two is exact.
    far, near = angle - k * 1.5703125, k * 4.8382673412561417e-4
    x = far - near
    rest = ((far - x) - near) - k * 6.07710062827671e-11
    z, quadrant = x * x, k.to(tl.int32)
    sine = x + (((-1.9515295891e-4 * z + 8.3321608736e-3) * z - 1.6666654611e-1) * z * x + rest)
    cosine = ((2.443315711809948e-5 * z - 1.388731625493765e-3) * z + 4.166664568298827e-2) * z * z
    cosine = 1.0 - (0.5 * z - (cosine - x * rest))
    swapped = (quadrant & 1) != 0
    c, s = tl.where(swapped, sine, cosine), tl.where(swapped, cosine, sine)
    return tl.where(((quadrant + 1) & 2) != 0, -c, c), tl.where((quadrant & 2) != 0, -s, s)


@triton.jit
def _store(out_ptr, values, row, count, piece, first, last, there, NUMBERS: tl.constexpr):
    """Store piece number `piece` of `values` `[LANES, NUMBERS]` from `first` on in a row of `count`, until `last`."""
    place = first + (NUMBERS * piece)[:, None] + tl.arange(0, NUMBERS)[None, :]
    tl.store(out_ptr + row.to(tl.int64)[:, None] * count + place, values, mask=there[:, None] & (place < last))


@triton.jit(do_not_specialize=["purpose", "first", "lanes", "high"])
def draw_kernel(
    out_ptr, seeds_ptr, updates_ptr, purpose: tl.int64, first: tl.int64, lanes, seeds, pieces, count, high: tl.int64,
    KIND: tl.constexpr, LISTED: tl.constexpr, SHIFT: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    """Draw `count` numbers for each update and seed: rows of `pieces` lanes, one block of Philox for each lane.

    The updates are those from `first` on, or LISTED at `updates_ptr`. SHIFT is for normal numbers: where in a block of
    words their second half begins.
    """
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    there = lane < lanes
    row, piece = lane // pieces, lane % pieces
    seed = tl.load(seeds_ptr + row % seeds, mask=there, other=0)
    purpose = purpose.to(tl.int64)
    update = row // seeds
    update = tl.load(updates_ptr + update, mask=there, other=0) if LISTED else first.to(tl.int64) + update
    w = _philox_32(piece, update, seed, purpose)
    if KIND == "bits":
        _store(out_ptr, _side_by_side(w, LANES).to(tl.int64), row, count, piece, 0, count, there, 4)
    elif KIND == "uniform":
        _store(out_ptr, _uniform(_side_by_side(w, LANES)), row, count, piece, 0, count, there, 4)
    elif KIND == "signed":
        _store(out_ptr, 2.0 * _uniform(_side_by_side(w, LANES)) - 1.0, row, count, piece, 0, count, there, 4)
    elif KIND == "integers":
        # The high 64 bits of a 64-bit word times `high`, in two halves that fit an int64.
        most = high.to(tl.int64)
        even = (w[0].to(tl.int64) * most + ((w[1].to(tl.int64) * most) >> 32)) >> 32
        odd = (w[2].to(tl.int64) * most + ((w[3].to(tl.int64) * most) >> 32)) >> 32
        _store(out_ptr, tl.join(even, odd), row, count, piece, 0, count, there, 2)
    else:
        tl.static_assert(KIND == "normal")
        half = (count + 1) // 2
        block = half // 4 + piece
        more = _philox_32(block, update, seed, purpose)
        if SHIFT != 0:
            more = more + _philox_32(block + 1, update, seed, purpose)
        second = (more[SHIFT], more[SHIFT + 1], more[SHIFT + 2], more[SHIFT + 3])
        # 1 - u is exact, and lies in (0, 1]
        radius = tl.sqrt_rn(-2.0 * _logarithm(1.0 - _uniform(_side_by_side(w, LANES))))
        # The angle is rounded as on a CPU: near a zero of the cosine, half a unit of it is many of the result's.
        cosine, sine = _cosine_and_sine(6.283185307179586 * _uniform(_side_by_side(second, LANES)))
        _store(out_ptr, radius * cosine, row, count, piece, 0, half, there, 4)
        _store(out_ptr, radius * sine, row, count, piece, half, count, there, 4)


@triton.jit(do_not_specialize=["update", "masks"])
def dropout_kernel(
    out_ptr, seeds_ptr, table_ptr, update: tl.int64, seeds, masks, FIELDS: tl.constexpr, MASKS: tl.constexpr,
    LANES: tl.constexpr,
):  # fmt: skip
    """Draw the factors of several dropout masks, each `[seeds, rows, width]`; `table_ptr` has FIELDS numbers of each.

    A lane draws one block of 32 bytes for elements of one row, and the row's threshold. A mask has `pieces` lanes for
    each row of each seed: blocks begin before a row and end behind it.
    """
    program, number = tl.program_id(0), tl.arange(0, MASKS)
    begins = tl.load(table_ptr + number * FIELDS, mask=number < masks, other=0x7FFFFFFF)
    mine_ptr = table_ptr + FIELDS * (tl.sum((begins <= program).to(tl.int32), 0) - 1)
    rows, width = tl.load(mine_ptr + 1).to(tl.int32), tl.load(mine_ptr + 2).to(tl.int32)
    pieces, start, purpose = tl.load(mine_ptr + 3).to(tl.int32), tl.load(mine_ptr + 4), tl.load(mine_ptr + 5)
    level = tl.load(mine_ptr + 6).to(tl.int32).to(tl.float32, bitcast=True)
    factor = tl.load(mine_ptr + 7).to(tl.int32).to(tl.float32, bitcast=True)
    update = update.to(tl.int64)

    lane = (program - tl.load(mine_ptr).to(tl.int32)) * LANES + tl.arange(0, LANES)
    row_of_all = lane // pieces
    there, row = row_of_all < seeds * rows, row_of_all % rows
    seed = tl.load(seeds_ptr + row_of_all // rows, mask=there, other=0)
    # The stream begins with 32 bits for each row: u is 24 of them.
    w = _philox_64(row // 8, update, seed, purpose)
    place = row % 8
    word = tl.where(place < 4, tl.where(place < 2, w[0], w[1]), tl.where(place < 6, w[2], w[3]))
    u = ((word >> (32 * (place % 2)).to(tl.uint64)) & 0xFFFFFF).to(tl.int32).to(tl.float32) * 5.9604644775390625e-08
    threshold = tl.floor(level + u).to(tl.int32)

    first = 4 * rows + row * width  # byte of the row's first element
    block = first // 32 + lane % pieces
    w = _philox_64(block, update, seed, purpose)
    begin = 32 * block - first  # the block's first byte, in the row
    row_ptr = out_ptr + start + row_of_all.to(tl.int64) * width
    byte = tl.arange(0, 8)[None, :]
    for j in tl.static_range(4):
        value = ((w[j][:, None] >> (8 * byte).to(tl.uint64)) & 0xFF).to(tl.int32)
        column = (begin + 8 * j)[:, None] + byte
        inside = there[:, None] & (column >= 0) & (column < width)
        tl.store(row_ptr[:, None] + column, tl.where(value >= threshold[:, None], factor, 0.0), mask=inside)


_KINDS = {  # numbers of a block of words, and their type
    "bits": (4, torch.int64),
    "uniform": (4, torch.float32),
    "signed": (4, torch.float32),
    "integers": (2, torch.int64),
    "normal": (8, torch.float32),
}


def draw(
    kind: str, update: int | range | Tensor, shape: Sequence[int], seeds: Tensor, purpose: int, high: int = 1
) -> Tensor:
    """Draw what `Stream`'s method of that name draws for `seeds` `[S]` int64: `[*updates, S, *shape]`.

    Args:
        kind: `bits`, `integers` below `high`, `uniform` in [0, 1), `signed` (2 u - 1), or `normal`.
        update: a number, a range or a tensor; of a number or a range nothing is copied to the device.
        purpose: the second word of the key.
    """
    count, (numbers, dtype) = math.prod(shape), _KINDS[kind]
    first, listed, axes = 0, None, ()
    if isinstance(update, range) and update.step != 1:
        update = torch.arange(update.start, update.stop, update.step, device=seeds.device)
    if isinstance(update, Tensor):
        listed = update.to(seeds.device, torch.int64).contiguous()
        axes = listed.shape
    elif isinstance(update, range):
        first, axes = update.start, (len(update),)
    else:
        first = update
    out = torch.empty(*axes, len(seeds), *shape, dtype=dtype, device=seeds.device)
    pieces = triton.cdiv(count, numbers)
    lanes = math.prod(axes) * len(seeds) * pieces  # below 2^31, which would be 32 GiB of words
    if lanes:
        launching.launch(
            draw_kernel, triton.cdiv(lanes, _LANES), out, seeds, seeds if listed is None else listed, purpose, first,
            lanes, len(seeds), pieces, count, high, device=seeds.device, KIND=kind, LISTED=listed is not None,
            SHIFT=(count + 1) // 2 % 4 if kind == "normal" else 0, LANES=_LANES, enable_fp_fusion=False,
        )  # fmt: skip
    return out


class MaskKernel:
    """Draws several dropout masks in one launch, each with a purpose, a rate above 0 and a shape without seed axis."""

    def __init__(
        self, seeds: Tensor, purposes: Sequence[int], rates: Sequence[float], shapes: Sequence[Sequence[int]]
    ) -> None:
        self._seeds, self._masks, table = seeds, [], []
        self._programs = self._numbers = 0
        for purpose, rate, shape in zip(purposes, rates, shapes, strict=True):
            rows, width, size = shape[0], math.prod(shape[1:]), len(seeds) * math.prod(shape)
            pieces = (width + 62) // 32  # blocks of 32 bytes that a row can touch
            level, factor = np.float32(256.0 * rate), np.float32(1.0) / np.float32(1.0 - rate)
            numbers = (self._programs, rows, width, pieces, self._numbers, purpose)
            table.append([*numbers, *(int(x.view(np.int32)) for x in (level, factor))])
            self._masks.append((self._numbers, size, (len(seeds), *shape)))
            self._programs += triton.cdiv(len(seeds) * rows * pieces, _LANES)
            self._numbers += triton.cdiv(size, _ALIGNED) * _ALIGNED
        self._table = torch.tensor(table, dtype=torch.int64, device=seeds.device)

    def draw(self, update: int) -> list[Tensor]:
        """Draw the masks of an update, `[S, *shape]` each: views of one tensor, each at a multiple of 16 bytes."""
        out = torch.empty(self._numbers, dtype=torch.float32, device=self._seeds.device)
        masks, fields = self._table.shape
        launching.launch(
            dropout_kernel, self._programs, out, self._seeds, self._table, update, len(self._seeds), masks,
            device=self._seeds.device, FIELDS=fields, MASKS=triton.next_power_of_2(masks), LANES=_LANES,
            enable_fp_fusion=False,
        )  # fmt: skip
        return [out[start : start + size].view(shape) for start, size, shape in self._masks]
