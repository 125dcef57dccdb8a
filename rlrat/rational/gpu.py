"""Compute rational activations on a GPU by the Triton kernels of triton_kernels.py."""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from . import launching
from .layout import Layout, empty_output, is_flat

MAX_DEGREE = 8

# By the bytes of an element: warps of a program, and vectors of 16 bytes that each of its threads has in a tile. Chosen
# by the registers that ptxas gives (about 50 forward, 80 to 125 backward), not yet measured; `tune` measures.
TILES = {
    "forward": {2: (4, 2), 4: (4, 2), 8: (4, 2)},
    "backward": {2: (4, 1), 4: (4, 1), 8: (8, 1)},
}
# More than work at once, so that the last programs leave few processors idle; in a large input each has several tiles.
PROGRAMS_PER_PROCESSOR = {"forward": 16, "backward": 32}
# Each program of the backward pass leaves partial sums, which the last one adds.
LEAST_TILES = {"forward": 1, "backward": 8}


def supports(degrees: tuple[int, int], x: Tensor, numerator: Tensor, bias: Tensor | None) -> bool:
    """Say whether the kernels can compute this: they count rows and columns in 32 bits, elements in 64."""
    if max(degrees) > MAX_DEGREE or not (launching.is_gpu(x.device) or (x.is_cpu and _interpreted())):
        return False
    return is_flat(x, numerator, bias) or max(x.numel() // x.shape[-1], x.shape[-1]) < 2**30


def _interpreted() -> bool:
    """Say whether Triton runs on the CPU, for tests."""
    if launching.problem() is not None:
        return False
    import triton

    return triton.knobs.runtime.interpret


def _programs(direction: str, device: torch.device) -> tuple[int, int]:
    """Return how many programs a launch should have, and how many tiles each of them at least."""
    if not launching.is_gpu(device):
        return 2, 1  # in the interpreter
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    return processors * PROGRAMS_PER_PROCESSOR[direction], LEAST_TILES[direction]


class _Tiles(NamedTuple):
    """Say how a direction cuts a layout: the kernels' arguments and constants of these names."""

    full: int
    left: int
    width: int
    splits: int
    columns: int  # of tiles
    warps: int
    constants: dict[str, int | bool]

    @classmethod
    def of(
        cls, shape: tuple[int, int], layout: Layout, size: int, strides: tuple[int, ...], programs: int, least: int
    ) -> "_Tiles":
        """Cut a layout.

        Args:
            shape: warps and vectors, as in TILES.
            size: the bytes of an element.
            strides: those of the batch and of the rows, one after the other, of each tensor.
            programs: how many there should be, of which each has at least `least` tiles.
        """
        warps, vectors = shape
        vector, lanes = 16 // size, 32 * warps * vectors
        if layout.flat:
            width = chunks = lanes
            full, left = divmod(layout.width, lanes * vector)
        else:
            if any(stride % vector for stride in (layout.width, *strides)):
                vector = 1
            width = layout.width // vector
            chunks = min(lanes, 1 << (width - 1).bit_length())
            full, left = divmod(layout.rows, lanes // chunks)
        columns, row = -(-width // chunks), chunks * vector
        tiles = full + (left > 0)
        splits = max(1, min(-(-programs // (layout.batch * layout.groups * columns)), tiles // least))
        dense = layout.flat or all(stride == row for stride in (layout.groups * layout.width, *strides[1::2]))
        constants = {"LANES": lanes, "CHUNKS": chunks, "VECTOR": vector, "DENSE": dense, "WHOLE": width % chunks == 0}
        return cls(full, left, width, splits, columns, warps, constants)


class Plan:
    """Keep what calls with tensors of one shape, layout and type have in common; x is not empty."""

    layout: Layout
    out_strides: tuple[int, ...]
    like_x: bool

    def __init__(
        self,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        bias: Tensor | None,
        gate: Tensor | None,
        version: str,
        shape: tuple[int, int] | None = None,
    ) -> None:
        """Plan such calls; `shape`, as in TILES, is that of the tiles of both directions instead of TILES' own."""
        from . import triton_kernels

        self._kernels = triton_kernels
        self.layout = layout = Layout.of(x, numerator, bias)
        out = empty_output(x, numerator, bias)
        self.out_strides, self.like_x = out.stride(), out.stride() == x.stride()
        _, *self._x_strides = layout.addressed(x, x)
        _, *self._out_strides = layout.addressed(out, out)
        strides = self._x_strides if gate is None else [*self._x_strides, *layout.addressed(gate, out)[1:]]
        self._entries = [0 if t is None else layout.entries(t)[1] for t in (numerator, denominator, bias)]
        size, device = x.element_size(), x.device
        self._tiles = {
            name: _Tiles.of(shape or sizes[size], layout, size, strides, *_programs(name, device))
            for name, sizes in TILES.items()
        }
        self._vector = self._tiles["forward"].constants["VECTOR"]
        m, n = numerator.shape[-1] - 1, denominator.shape[-1] - (version == "C")
        self._constants = {
            "M": m, "N": n, "VERSION": version, "BIAS": bias is not None, "GATE": gate is not None,
            "FLAT": layout.flat, "LIMIT": 2.0 ** ((900.0 if size == 8 else 100.0) / max(m, n, 1)),
            "enable_fp_fusion": True,
        }  # fmt: skip
        tiles, self._units = self._tiles["backward"], layout.batch * layout.groups
        rows = self._units * tiles.splits
        self._partials = rows * tiles.columns * (numerator.shape[-1] + denominator.shape[-1])
        self._bias_partials = 0 if bias is None else rows * layout.width
        self._counters = self._units * (1 + -(-tiles.splits // triton_kernels.GROUP.value))
        self._wide = torch.float64 if size == 8 else torch.float32
        self._tickets = launching.tickets(device)
        if launching.is_gpu(device):
            # Load both directions before the first launch: the capture of a graph needs them on the device.
            self.forward(x, numerator, denominator, bias, gate, load=True)
            self.backward(out, x, numerator, denominator, bias, gate, load=True)

    def forward(
        self,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        bias: Tensor | None,
        gate: Tensor | None,
        out: Tensor | None = None,
        load: bool = False,
    ) -> Tensor:
        """Compute R(x + bias) gate, in `out` if that is given (with the strides that this would give it).

        `load`: only compile the kernel and load it.
        """
        y = self._empty(x) if out is None else out
        x, a, b, bias, gate, strides = self._inputs(x, numerator, denominator, bias, gate)
        tensors = x, y, a, b, x if bias is None else bias, x if gate is None else gate
        self._launch("forward", tensors, strides, load)
        return y

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        bias: Tensor | None,
        gate: Tensor | None,
        load: bool = False,
    ) -> tuple[Tensor | None, ...]:
        """Compute the gradients of x, numerator, denominator, bias and gate."""
        dx, grad_strides = self._empty(x), self._out_strides
        if grad.stride() != self.out_strides:
            grad, *grad_strides = self.layout.addressed(grad, dx)
            gaps = self._tiles["backward"].constants["DENSE"] and grad_strides[1] != self._out_strides[1]
            if gaps or any(stride % self._vector for stride in grad_strides):
                grad, grad_strides = torch.empty_like(dx).copy_(grad), self._out_strides
        grad, grad_strides = self._aligned(grad, grad_strides)
        x, a, b, given_bias, given_gate, strides = self._inputs(x, numerator, denominator, bias, gate)
        da, db = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (a, b))
        dbias = None if bias is None else torch.empty_like(given_bias, memory_format=torch.contiguous_format)
        dgate = None if gate is None else torch.empty_like(dx)
        partials = torch.empty(self._partials + self._bias_partials, dtype=self._wide, device=x.device)
        tensors = (
            x, grad, dx, a, b, da, db, *(x if t is None else t for t in (given_bias, dbias, given_gate, dgate)),
            partials, partials[self._partials :] if self._bias_partials else partials,
            self._tickets.take(self._counters),
        )  # fmt: skip
        self._launch("backward", tensors, [*strides[:2], *grad_strides, *strides[2:]], load)
        return dx, da, db, dbias, dgate

    def _launch(self, direction: str, tensors: tuple[Tensor, ...], strides: list[int], load: bool) -> None:
        tiles, layout = self._tiles[direction], self.layout
        kernel = self._kernels.forward_kernel if direction == "forward" else self._kernels.backward_kernel
        launching.launch(
            kernel, self._units * tiles.splits * tiles.columns, *tensors, tiles.full, tiles.left, layout.rows,
            tiles.width, layout.groups, tiles.splits, *(stride // self._vector for stride in strides), *self._entries,
            device=tensors[0].device, load=load, warps=tiles.warps, **self._constants, **tiles.constants,
        )  # fmt: skip

    def _empty(self, x: Tensor) -> Tensor:
        return torch.empty_like(x) if self.like_x else torch.empty(x.shape, dtype=x.dtype, device=x.device)

    def _inputs(self, x, numerator, denominator, bias, gate) -> tuple:
        """Return all of them as the kernels take them, copied only where needed, and the strides of x and gate."""
        if not self.like_x:
            x, *_ = self.layout.addressed(x, x)
        gate_strides = [0, 0]
        if gate is not None:
            gate, *gate_strides = self.layout.addressed(gate, x)
            gate, gate_strides = self._aligned(gate, gate_strides)
        x, x_strides = self._aligned(x, self._x_strides)
        a, b, bias = (None if t is None else self.layout.entries(t)[0] for t in (numerator, denominator, bias))
        return x, a, b, bias, gate, [*x_strides, *gate_strides]

    def _aligned(self, t: Tensor, strides: list[int]) -> tuple[Tensor, list[int]]:
        """Return t and its strides, or those of a copy: Triton would compile another kernel for unaligned memory."""
        if self._vector == 1 or t.data_ptr() % 16 == 0:
            return t, strides
        if self.layout.flat:
            return t.clone(), strides  # in the same order
        t, *strides = self.layout.addressed(t.clone(memory_format=torch.contiguous_format), t)
        return t, strides


def tune(input_bytes: int = 2**26, device: str | torch.device = "cuda") -> dict[str, dict[int, tuple[int, int]]]:
    """Measure tiles for both directions and every type on a GPU, and use the fastest from now on.

    Their kernels are compiled first, in as many threads as there are cores: all but its first stage Triton does without
    Python's lock. Existing plans keep their tiles: call it first.

    Args:
        input_bytes: the size of the input to measure with, for every type.

    Returns:
        The new `TILES`.
    """
    from triton.testing import do_bench

    a, b = (torch.ones(1, count, device=device) for count in (6, 4))  # degrees (5, 4); time does not depend on values
    types = torch.bfloat16, torch.float32, torch.float64
    inputs = [torch.randn(input_bytes // dtype.itemsize, device=device, dtype=dtype) for dtype in types]
    shapes = list(itertools.product((2, 4, 8), (1, 2, 4)))
    Plan(inputs[0], a, b, None, None, "A")  # makes what threads share
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        plans = threads.map(
            lambda x, shape: Plan(x, a, b, None, None, "A", shape),
            *zip(*itertools.product(inputs, shapes), strict=True),
        )
    for x in inputs:
        out, own = torch.empty_like(x), dict(zip(shapes, plans, strict=False))
        for direction in TILES:
            tensors = (x, a, b, None, None, out) if direction == "forward" else (x, x, a, b, None, None)
            times = {
                shape: do_bench(partial(getattr(plan, direction), *tensors), warmup=5, rep=20, return_mode="median")
                for shape, plan in own.items()
            }
            TILES[direction][x.element_size()] = min(times, key=times.get)
    return TILES
