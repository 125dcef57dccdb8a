"""Compute rational activations on a GPU by the Triton kernels of triton_kernels.py."""

import itertools
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
# In the backward pass: several times what works at once, so that the last programs leave few processors idle.
_PROGRAMS_PER_PROCESSOR = 32


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


class _Tiles(NamedTuple):
    """Say how a direction cuts a layout: the kernels' arguments, and what follows from them."""

    elements: int
    rows: int
    width: int
    lanes: int
    chunks: int
    vector: int
    warps: int

    @classmethod
    def of(cls, direction: str, layout: Layout, size: int, strides: tuple[int, ...]) -> "_Tiles":
        warps, vectors = TILES[direction][size]
        vector = 16 // size
        if not layout.flat and any(stride % vector for stride in (layout.width, *strides)):
            vector = 1
        lanes = 32 * warps * vectors
        if layout.flat:
            width = lanes * vector
            return cls(layout.width, -(-layout.width // width), width, lanes, lanes, vector, warps)
        chunks = 1 << (-(-layout.width // vector) - 1).bit_length()
        return cls(0, layout.rows, layout.width, lanes, min(lanes, chunks), vector, warps)

    @property
    def row_tiles(self) -> int:
        return -(-self.rows // (self.lanes // self.chunks))

    @property
    def column_tiles(self) -> int:
        return -(-self.width // (self.chunks * self.vector))


class Plan:
    """Keep what calls with tensors of one shape, layout and type have in common; x is not empty."""

    def __init__(
        self, x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None, gate: Tensor | None, version: str
    ) -> None:
        from . import triton_kernels

        self._kernels = triton_kernels
        self.layout = layout = Layout.of(x, numerator, bias)
        out = empty_output(x, numerator, bias)
        self.out_strides, self.like_x = out.stride(), out.stride() == x.stride()
        _, *self._x_strides = layout.addressed(x, x)
        _, *self._out_strides = layout.addressed(out, out)
        self._gate_strides = [0, 0] if gate is None else layout.addressed(gate, out)[1:]
        self._entries = [0 if t is None else layout.entries(t)[1] for t in (numerator, denominator, bias)]
        strides, size = (*self._x_strides, *self._gate_strides), x.element_size()
        self._forward, self._backward = (_Tiles.of(name, layout, size, strides) for name in ("forward", "backward"))
        m, n = numerator.shape[-1] - 1, denominator.shape[-1] - (version == "C")
        self._constants = {
            "M": m, "N": n, "VERSION": version, "BIAS": bias is not None, "GATE": gate is not None,
            "FLAT": layout.flat, "LIMIT": 2.0 ** ((900.0 if size == 8 else 100.0) / max(m, n, 1)),
            "enable_fp_fusion": True,
        }  # fmt: skip
        self._units, self._columns = layout.batch * layout.groups, self._backward.column_tiles
        programs = 2  # in the interpreter
        if launching.is_gpu(x.device):
            programs = torch.cuda.get_device_properties(x.device).multi_processor_count * _PROGRAMS_PER_PROCESSOR
        wanted = -(-programs // (self._units * self._columns))
        self._splits = max(1, min(wanted, self._backward.row_tiles))
        self._partials = self._units * self._splits * self._columns * (numerator.shape[-1] + denominator.shape[-1])
        self._bias_partials = 0 if bias is None else self._units * self._splits * layout.width
        self._wide = torch.float64 if size == 8 else torch.float32
        self._tickets = launching.tickets(x.device)
        if launching.is_gpu(x.device):
            # Load both directions before the first launch: the capture of a graph needs them on the device. (Memory
            # that is not aligned to 16 bytes takes other kernels, which are compiled and loaded when first met.)
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
        y, layout, tiles = self._empty(x) if out is None else out, self.layout, self._forward
        x, a, b, bias, gate, gate_strides = self._inputs(x, numerator, denominator, bias, gate)
        self._launch(
            self._kernels.forward_kernel, self._units * tiles.row_tiles * tiles.column_tiles, tiles, load,
            x, y, a, b, x if bias is None else bias, x if gate is None else gate,
            tiles.elements, tiles.rows, tiles.width, layout.groups, *self._x_strides, *gate_strides, *self._entries,
        )  # fmt: skip
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
        dx, layout, tiles = self._empty(x), self.layout, self._backward
        strides = self._out_strides
        if grad.stride() != self.out_strides:
            grad, *strides = layout.addressed(grad, dx)
            if tiles.vector > 1 and any(stride % tiles.vector for stride in strides):
                grad, strides = torch.empty_like(dx, dtype=grad.dtype).copy_(grad), self._out_strides
        x, a, b, given_bias, given_gate, gate_strides = self._inputs(x, numerator, denominator, bias, gate)
        da, db = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (a, b))
        dbias = None if bias is None else torch.empty_like(given_bias, memory_format=torch.contiguous_format)
        dgate = None if gate is None else torch.empty_like(dx)
        partials = torch.empty(self._partials + self._bias_partials, dtype=self._wide, device=x.device)
        self._launch(
            self._kernels.backward_kernel, self._units * self._splits * self._columns, tiles, load,
            x, grad, dx, a, b, da, db, *(x if t is None else t for t in (given_bias, dbias, given_gate, dgate)),
            partials, partials[self._partials :] if self._bias_partials else partials, self._tickets.take(self._units),
            tiles.elements, tiles.rows, tiles.width, layout.groups, self._splits, *self._x_strides, *strides,
            *gate_strides, *self._entries,
        )  # fmt: skip
        return dx, da, db, dbias, dgate

    def _launch(self, kernel, programs: int, tiles: _Tiles, load: bool, *arguments) -> None:
        sizes = {"LANES": tiles.lanes, "CHUNKS": tiles.chunks, "VECTOR": tiles.vector}
        settings = {"device": arguments[0].device, "load": load, "warps": tiles.warps}
        launching.launch(kernel, programs, *arguments, **settings, **self._constants, **sizes)

    def _empty(self, x: Tensor) -> Tensor:
        return torch.empty_like(x) if self.like_x else torch.empty(x.shape, dtype=x.dtype, device=x.device)

    def _inputs(self, x, numerator, denominator, bias, gate) -> tuple:
        """Return all of them as the kernels take them, copied only where needed."""
        gate_strides = self._gate_strides
        if not self.like_x:
            x, *_ = self.layout.addressed(x, x)
        if gate is not None:
            gate, *gate_strides = self.layout.addressed(gate, x)
        a, b, bias = (None if t is None else self.layout.entries(t)[0] for t in (numerator, denominator, bias))
        return x, a, b, bias, gate, gate_strides


def tune(input_bytes: int = 2**26, device: str | torch.device = "cuda") -> dict[str, dict[int, tuple[int, int]]]:
    """Measure tiles for both directions and every type on a GPU, and use the fastest from now on.

    This takes a minute or two, most of it for compiling. Existing plans keep their tiles: call it first.

    Args:
        input_bytes: the size of the input to measure with, for every type.

    Returns:
        The new `TILES`.
    """
    from triton.testing import do_bench

    a, b = (torch.ones(1, count, device=device) for count in (6, 4))  # degrees (5, 4); time does not depend on values
    for dtype in (torch.bfloat16, torch.float32, torch.float64):
        x = torch.randn(input_bytes // dtype.itemsize, device=device, dtype=dtype)
        out = torch.empty_like(x)
        for direction in TILES:
            times = {}
            for tiles in itertools.product((2, 4, 8), (1, 2, 4)):
                TILES[direction][dtype.itemsize] = tiles
                run = getattr(Plan(x, a, b, None, None, "A"), direction)
                tensors = (x, a, b, None, None, out) if direction == "forward" else (x, x, a, b, None, None)
                times[tiles] = do_bench(partial(run, *tensors), warmup=5, rep=20, return_mode="median")
            TILES[direction][dtype.itemsize] = min(times, key=times.get)
    return TILES
