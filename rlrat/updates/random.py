"""Draw random numbers as a function of (seed, purpose, update): a resume needs no stored state, and no seed another.

The generator is Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), which CUDA and
Triton use, too. Its key is (seed, purpose) and its counter (position, update): every number is reached directly, and no
two streams overlap. It is written in integer tensor operations, which are some 150 launches on a GPU; where Triton's
kernels run, random_kernels.py draws the same bits in one.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlrat.rational import launching
from rlrat.updates.machine import one_torch_thread
from rlrat.updates.seeds import SEED_LIMIT

_LOW_32_BITS = 0xFFFFFFFF
_BLOCK_UPDATES, _BLOCK_NUMBERS = 64, 2**20  # at most, in a block


def _philox(counter: list[Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Turn four counter words and two key words (int64 tensors in [0, 2^32)) into four random words: Philox-4x32-10."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The int64 products wrap around at 2^64; masking the shifted high half undoes the sign.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0 = ((p1 >> 32) & _LOW_32_BITS) ^ c1 ^ k0
        c2 = ((p0 >> 32) & _LOW_32_BITS) ^ c3 ^ k1
        c1, c3 = p1 & _LOW_32_BITS, p0 & _LOW_32_BITS
        k0, k1 = (k0 + 0x9E3779B9) & _LOW_32_BITS, (k1 + 0xBB67AE85) & _LOW_32_BITS
    return [c0, c1, c2, c3]


def generator(seed: int, purpose: str) -> torch.Generator:
    """Make a PyTorch CPU generator from (seed, purpose), for what is drawn once: initial weights."""
    words = Stream([seed], purpose).bits(0, 2)[0].tolist()
    return torch.Generator().manual_seed(words[0] << 31 ^ words[1])


class Stream:
    """Draws the random numbers of S seeds for one purpose.

    A seed's numbers are the same whichever seeds stand beside it. `update` is an int, a range or an int64 tensor of any
    shape; every result has the shape `[*update.shape, S, *shape]`. A CPU and a GPU draw the same numbers, but for the
    last bits of normal ones.
    """

    def __init__(self, seeds: Sequence[int], purpose: str, device: torch.device | str = "cpu") -> None:
        if any(not 0 <= seed < SEED_LIMIT for seed in seeds):
            raise ValueError(f"seeds must lie in [0, 2^32), got {list(seeds)}")
        self.device: torch.device = torch.device(device)
        self.seeds: Tensor = torch.tensor(list(seeds), dtype=torch.int64, device=self.device)
        self.purpose: int = zlib.crc32(purpose.encode())
        self._keys = [(seed, self.purpose) for seed in seeds]

    def bits(self, update: int | range | Tensor, count: int) -> Tensor:
        """Draw `count` random words of 32 bits for each seed, as int64 in [0, 2^32): `[*update.shape, S, count]`."""
        if launching.runs_on(self.device):
            return self._launch("bits", update, (count,))
        if isinstance(update, int):  # filled in on the device: a copy would wait for the device
            update = torch.full((), update, dtype=torch.int64, device=self.device)
        elif isinstance(update, range):
            update = torch.arange(update.start, update.stop, update.step, device=self.device)
        update = torch.as_tensor(update, dtype=torch.int64, device=self.device)[..., None, None]
        position = torch.arange((count + 3) // 4, dtype=torch.int64, device=self.device)
        counter = [position, update & _LOW_32_BITS, update >> 32, torch.zeros_like(position)]
        seeds = self.seeds[:, None]
        words = torch.broadcast_tensors(*_philox(counter, (seeds, torch.full_like(seeds, self.purpose))))
        return torch.stack(words, dim=-1).flatten(-2)[..., :count]

    def integers(self, update: int | range | Tensor, shape: Sequence[int], high: int) -> Tensor:
        """Draw integers in [0, high), high at most 2^31. Their probabilities differ by at most high / 2^64."""
        if not 0 < high <= 2**31:
            raise ValueError(f"high must lie in [1, 2^31], got {high}")
        if launching.runs_on(self.device):
            return self._launch("integers", update, shape, high)
        words = self.bits(update, 2 * math.prod(shape)).unflatten(-1, (-1, 2))
        # The high 64 bits of a 64-bit word times `high`, in two halves that fit an int64.
        index = (words[..., 0] * high + (words[..., 1] * high >> 32)) >> 32
        return index.unflatten(-1, tuple(shape))

    def uniform(self, update: int | range | Tensor, shape: Sequence[int], signed: bool = False) -> Tensor:
        """Draw float32 numbers in [0, 1), multiples of 2^-24; `signed`: in [-1, 1), multiples of 2^-23."""
        if launching.runs_on(self.device):
            return self._launch("signed" if signed else "uniform", update, shape)
        words = self.bits(update, math.prod(shape))
        numbers = ((words >> 8).to(torch.float32) * 2.0**-24).unflatten(-1, tuple(shape))
        return numbers.mul_(2.0).sub_(1.0) if signed else numbers

    def dropout(self, update: int | Tensor, rate: float, shape: Sequence[int]) -> Tensor:
        """Draw factors of inverted dropout (Srivastava et al. 2014): 0.0 with probability `rate`, else 1/(1 - rate).

        `update` is one number, the result `[S, *shape]` float32. Each element takes a random byte and is dropped if the
        byte is below floor(256 rate + u). One u, uniform in [0, 1), belongs to a row of the first axis: with it the
        probability is `rate`, and not a multiple of 1/256.

        The bytes are drawn on the CPU by NumPy's Philox-4x64, so that a Decision Transformer's update takes 1.6 ms for
        them instead of 12.9. On a GPU, `DropoutMasks` draws the same factors without the CPU.
        """
        rows, count = shape[0], math.prod(shape)
        size = 4 * rows + count
        values = self._bytes(update, size)
        u = (values[:, : 4 * rows].view(torch.int32) & 0xFFFFFF).to(torch.float32) * 2.0**-24
        narrow = torch.uint8 if 256.0 * rate <= 255.0 else torch.int16  # 256 does not fit into a byte
        threshold = (256.0 * rate + u).floor().to(narrow).unsqueeze(-1)
        kept = values[:, 4 * rows : size].unflatten(-1, (rows, -1)) >= threshold
        return kept.to(torch.float32).div_(1.0 - rate).reshape(-1, *shape)

    def _bytes(self, update: int | Tensor, size: int) -> Tensor:
        """Draw at least `size` random bytes for each seed: `[S, >= size]` uint8."""
        count = (size + 7) // 8
        if self.device.type == "meta":  # it has only shapes
            return torch.empty(len(self._keys), 8 * count, dtype=torch.uint8, device=self.device)
        words = [np.random.Philox(key=key, counter=[0, int(update), 0, 0]).random_raw(count) for key in self._keys]
        return torch.from_numpy(np.stack(words)).view(torch.uint8).to(self.device)

    def normal(self, update: int | range | Tensor, shape: Sequence[int]) -> Tensor:
        """Draw standard normal float32 numbers by Box and Muller's transform; none is beyond 5.8."""
        if launching.runs_on(self.device):
            return self._launch("normal", update, shape)
        count = math.prod(shape)
        u, v = self.uniform(update, (2, (count + 1) // 2)).unbind(-2)
        radius = torch.sqrt(-2.0 * torch.log1p(-u))  # 1 - u lies in (0, 1]
        angle = 2.0 * math.pi * v
        pairs = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
        return pairs[..., :count].unflatten(-1, tuple(shape))

    def _launch(self, kind: str, update: int | range | Tensor, shape: Sequence[int], high: int = 1) -> Tensor:
        from rlrat.updates import random_kernels  # where there is Triton

        return random_kernels.draw(kind, update, shape, self.seeds, self.purpose, high)


class DropoutMasks:
    """Draws the masks of `Stream.dropout` for one update after another, where Triton's kernels run in one launch.

    Args:
        streams: the stream of each mask; all with the same seeds, on the same device.
        rates: the rate of each mask.
        shapes: the shape of each mask without the axis of the seeds.
    """

    def __init__(self, streams: Sequence[Stream], rates: Sequence[float], shapes: Sequence[Sequence[int]]) -> None:
        self._masks = list(zip(streams, rates, shapes, strict=True))
        self._kernel = None
        drawn = [mask for mask in self._masks if mask[1] > 0.0]
        if drawn and launching.runs_on(drawn[0][0].device):
            from rlrat.updates.random_kernels import MaskKernel

            streams, rates, shapes = zip(*drawn, strict=True)
            self._kernel = MaskKernel(streams[0].seeds, [stream.purpose for stream in streams], rates, shapes)

    def at(self, update: int) -> list[Tensor | None] | None:
        """Return each mask of `update`, `[S, *shape]` float32 or None at rate 0; None for all if every rate is 0."""
        if all(rate == 0.0 for _, rate, _ in self._masks):
            return None
        if self._kernel is None:
            return [stream.dropout(update, rate, shape) if rate > 0.0 else None for stream, rate, shape in self._masks]
        masks = iter(self._kernel.draw(update))
        return [next(masks) if rate > 0.0 else None for _, rate, _ in self._masks]


class UpdateBlocks:
    """Draws a stream's numbers in blocks of 64 updates, of fewer if they are many, for one update after another.

    A draw of any size takes some 150 small operations, or one launch of a kernel. On a CPU the noise of one batch takes
    0.3 ms drawn alone, and 14 us as a part of a block. `UpdateBlocks(stream.normal, (256, 3)).at(update)` is
    `stream.normal(update, (256, 3))`. With `ahead`, a thread draws the next block meanwhile.
    """

    def __init__(self, draw: Callable[..., Tensor], *args: Any, ahead: bool = False, **kwargs: Any) -> None:
        self._draw, self._args, self._kwargs = draw, args, kwargs
        self._block = self._length = -1
        self._ahead = ThreadPoolExecutor(1, "rows ahead") if ahead else None
        self._next: tuple[int, Future[Tensor]] | None = None

    def at(self, update: int) -> Tensor:
        """Return the numbers of `update`: `[S, *shape]`."""
        first, numbers = self.block(update)
        return numbers[update - first]

    def block(self, update: int) -> tuple[int, Tensor]:
        """Return the first update of the block that `update` lies in, and the numbers of all its updates."""
        if self._length < 0:
            count = self._draw(update, *self._args, **self._kwargs).numel()
            self._length = max(1, min(_BLOCK_UPDATES, _BLOCK_NUMBERS // count))
        block = update // self._length
        if block != self._block:
            ready = self._next is not None and self._next[0] == block
            self._numbers = self._next[1].result() if ready else self._draw_block(block)
            self._block = block
            if self._ahead is not None:
                self._next = block + 1, self._ahead.submit(one_torch_thread()(self._draw_block), block + 1)
        return block * self._length, self._numbers

    def _draw_block(self, block: int) -> Tensor:
        return self._draw(range(block * self._length, (block + 1) * self._length), *self._args, **self._kwargs)
