"""Random numbers as a function of (seed, purpose, update): nothing to store for a resume, nothing that couples seeds.

The generator is Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), the one behind
CUDA's and Triton's. The key is (seed, purpose) and the counter (position, update), so every stream is reached directly
and no two overlap. It is written in integer tensor operations: one code for CPUs and GPUs, with equal bits on both.
"""

import math
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from rlrat.updates.machine import one_torch_thread
from rlrat.updates.seeds import SEED_LIMIT

_LOW = 0xFFFFFFFF
_BLOCK, _NUMBERS = 64, 2**20


def _philox(counter: list[Tensor], key: tuple[Tensor, Tensor]) -> list[Tensor]:
    """Philox-4x32-10: four counter words and two key words (int64 tensors in [0, 2^32)) to four random words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        # The int64 products wrap around at 2^64; masking the shifted high half undoes the sign.
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0 = ((p1 >> 32) & _LOW) ^ c1 ^ k0
        c2 = ((p0 >> 32) & _LOW) ^ c3 ^ k1
        c1, c3 = p1 & _LOW, p0 & _LOW
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return [c0, c1, c2, c3]


def generator(seed: int, purpose: str) -> torch.Generator:
    """A PyTorch CPU generator that is a function of (seed, purpose), for what is drawn once: initial weights."""
    words = Stream([seed], purpose).bits(0, 2)[0].tolist()
    return torch.Generator().manual_seed(words[0] << 31 ^ words[1])


class Stream:
    """The random numbers of S seeds for one purpose.

    Seed k's numbers are the same whichever seeds are listed beside it. `update` is an int or an int64 tensor of any
    shape; every result has the shape `[*update.shape, S, *shape]`.
    """

    def __init__(self, seeds: Sequence[int], purpose: str, device: torch.device | str = "cpu") -> None:
        if any(not 0 <= seed < SEED_LIMIT for seed in seeds):
            raise ValueError(f"seeds must lie in [0, 2^32), got {list(seeds)}")
        self.device = torch.device(device)
        words = torch.tensor(list(seeds), dtype=torch.int64, device=self.device)
        self._key = (words[:, None], torch.full_like(words, zlib.crc32(purpose.encode()))[:, None])

    def bits(self, update: int | Tensor, count: int) -> Tensor:
        """`count` random words of 32 bits for each seed, as int64 in [0, 2^32): `[*update.shape, S, count]`."""
        if isinstance(update, int):  # filled in on the device: a copy would wait for it
            update = torch.full((), update, dtype=torch.int64, device=self.device)
        update = torch.as_tensor(update, dtype=torch.int64, device=self.device)[..., None, None]
        position = torch.arange((count + 3) // 4, dtype=torch.int64, device=self.device)
        counter = [position, update & _LOW, update >> 32, torch.zeros_like(position)]
        words = torch.broadcast_tensors(*_philox(counter, self._key))
        return torch.stack(words, dim=-1).flatten(-2)[..., :count]

    def integers(self, update: int | Tensor, shape: Sequence[int], high: int) -> Tensor:
        """Integers in [0, high), high at most 2^31; no value is more likely than another by more than high / 2^64."""
        if not 0 < high <= 2**31:
            raise ValueError(f"high must lie in [1, 2^31], got {high}")
        words = self.bits(update, 2 * math.prod(shape)).unflatten(-1, (-1, 2))
        # The high 64 bits of a 64-bit word times `high`, in two halves that fit an int64.
        index = (words[..., 0] * high + (words[..., 1] * high >> 32)) >> 32
        return index.unflatten(-1, tuple(shape))

    def uniform(self, update: int | Tensor, shape: Sequence[int]) -> Tensor:
        """Float32 numbers in [0, 1), multiples of 2^-24."""
        words = self.bits(update, math.prod(shape))
        return ((words >> 8).to(torch.float32) * 2.0**-24).unflatten(-1, tuple(shape))

    def dropout(self, update: int | Tensor, rate: float, shape: Sequence[int]) -> Tensor:
        """Multipliers of inverted dropout (Srivastava et al. 2014): 0.0 with probability `rate`, else 1/(1 - rate).

        `update` is one number, the result `[S, *shape]` float32. Each element takes a byte. It is dropped if that is
        below floor(256 rate + u), where u, uniform in [0, 1), is common to a row of the first axis: so the probability
        is `rate` and not a multiple of 1/256.

        On a CPU the bytes are those of NumPy's Philox-4x64, for a Decision Transformer's update in 1.6 ms instead of
        12.9: there, dropout differs from a GPU's.
        """
        rows, count = shape[0], math.prod(shape)
        size = 4 * rows + count
        values = (self._numpy_bytes if self.device.type == "cpu" else self._bytes)(update, size)
        u = (values[:, : 4 * rows].view(torch.int32) & 0xFFFFFF).to(torch.float32) * 2.0**-24
        narrow = torch.uint8 if 256.0 * rate <= 255.0 else torch.int16  # 256 is no byte
        threshold = (256.0 * rate + u).floor().to(narrow).unsqueeze(-1)
        kept = values[:, 4 * rows :].unflatten(-1, (rows, -1)) >= threshold
        return kept.to(torch.float32).div_(1.0 - rate).reshape(-1, *shape)

    def _bytes(self, update: int | Tensor, size: int) -> Tensor:
        return self.bits(update, (size + 3) // 4).to(torch.int32).view(torch.uint8)[:, :size]

    def _numpy_bytes(self, update: int | Tensor, size: int) -> Tensor:
        keys = torch.cat(self._key, dim=1).tolist()
        words = [np.random.Philox(key=key, counter=[0, int(update), 0, 0]).random_raw((size + 7) // 8) for key in keys]
        return torch.from_numpy(np.stack(words)).view(torch.uint8)[:, :size]

    def normal(self, update: int | Tensor, shape: Sequence[int]) -> Tensor:
        """Standard normal float32 numbers, by Box and Muller's transform; none beyond 5.8."""
        count = math.prod(shape)
        u, v = self.uniform(update, (2, (count + 1) // 2)).unbind(-2)
        radius = torch.sqrt(-2.0 * torch.log1p(-u))  # 1 - u lies in (0, 1]
        angle = 2.0 * math.pi * v
        pairs = torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=-1)
        return pairs[..., :count].unflatten(-1, tuple(shape))


class Blocks:
    """A stream's numbers for one update after another, drawn for 64 updates at once, or fewer if they are many.

    A draw costs some 150 small operations: 0.3 ms on a CPU for a batch's noise, 14 us of it in a block.
    `Blocks(stream.normal, (256, 3)).at(update)` is `stream.normal(update, (256, 3))`. With `ahead`, a thread draws the
    next updates' numbers meanwhile.
    """

    def __init__(self, draw: Callable[..., Tensor], *args, ahead: bool = False, **kwargs) -> None:
        self._draw, self._args, self._kwargs = draw, args, kwargs
        self._block = self._length = -1
        self._ahead = ThreadPoolExecutor(1, "rows ahead") if ahead else None
        self._next: tuple[int, Future[Tensor]] | None = None

    def at(self, update: int) -> Tensor:
        first, numbers = self.block(update)
        return numbers[update - first]

    def block(self, update: int) -> tuple[int, Tensor]:
        """The first update of the block that `update` lies in, and the numbers of all its updates."""
        if self._length < 0:
            count = self._draw(update, *self._args, **self._kwargs).numel()
            self._length = max(1, min(_BLOCK, _NUMBERS // count))
        block = update // self._length
        if block != self._block:
            ready = self._next is not None and self._next[0] == block
            self._numbers = self._next[1].result() if ready else self._draw_block(block)
            self._block = block
            if self._ahead is not None:
                self._next = block + 1, self._ahead.submit(one_torch_thread()(self._draw_block), block + 1)
        return block * self._length, self._numbers

    def _draw_block(self, block: int) -> Tensor:
        updates = torch.arange(block * self._length, (block + 1) * self._length)
        return self._draw(updates, *self._args, **self._kwargs)
