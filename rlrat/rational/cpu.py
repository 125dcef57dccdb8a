"""Compute rational activations on a CPU by the C kernels of cpu.c; `unavailable` says why there are none."""

import ctypes
import importlib.util
import sys
import warnings

import torch
from torch import Tensor

from .layout import Layout, empty_output, entries_stride, is_flat

MAX_DEGREE = 8  # MAX_TERMS in cpu.c
_THREADED_ELEMENTS = 32_768  # from so many on a second thread pays, as in torch's own elementwise operations

_TYPES = (torch.float32, torch.float64)  # what the kernels compute in
_pointer, _int = ctypes.c_void_p, ctypes.c_int
# The functions of libtorch's stable C interface that dispatcher.inc calls, in its order.
_INTERFACE = (
    *(f"aoti_torch_get_{name}" for name in ("sizes", "strides", "dim", "numel", "data_ptr", "dtype")),
    *("aoti_torch_delete_tensor_object", "torch_get_num_threads", "aoti_torch_empty_strided", "aoti_torch_check"),
    *("aoti_torch_dtype_float32", "aoti_torch_dtype_float64", "aoti_torch_device_type_cpu"),
)
_Call = ctypes.c_int64 * 17  # struct Call in cpu.c


def _load() -> tuple[ctypes.CDLL | None, bool, str | None]:
    """Load the library; return it, whether it has a pool of threads, and why there is no library."""
    spec = importlib.util.find_spec(f"{__package__}._cpu")
    if spec is None or spec.origin is None:
        return None, False, "the C kernels were not built: install again where there is a C compiler (gcc or clang)"
    try:
        library = ctypes.CDLL(spec.origin)
    except OSError as error:
        return None, False, f"the C kernels cannot be loaded: {error}"
    library.rational_forward.argtypes = [_pointer] * 7 + [_int]
    library.rational_forward.restype = None
    library.rational_backward.argtypes = [_pointer] * 12 + [_int]
    library.rational_backward.restype = _int
    library.rational_instructions.restype = ctypes.c_char_p
    # Use torch's own OpenMP runtime, so that there is one pool of threads; without it the kernels use one thread.
    everything = ctypes.CDLL(None)
    pool = [getattr(everything, name, None) for name in ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")]
    library.rational_pool.argtypes = [_pointer] * 3
    if all(pool):
        library.rational_pool(*(ctypes.cast(entry, _pointer) for entry in pool))
    return library, all(pool), None


has_pool: bool
unavailable: str | None
_library, has_pool, unavailable = _load()
if _library is not None:
    _forward, _backward = _library.rational_forward, _library.rational_backward


def register(namespace: str, forward: str, backward: str) -> bool:
    """Register the kernels for two operators, so that calling these needs no Python; False where that cannot be.

    The operators take the tensors that `takes` allows, see dispatcher.inc.
    """
    if _library is None or sys.platform != "linux":
        return False
    try:
        torch_library = ctypes.CDLL("libtorch_cpu.so")  # already loaded: glibc finds it by this name
        functions = [ctypes.cast(getattr(torch_library, name), _pointer) for name in _INTERFACE]
        begin, add = torch_library.aoti_torch_library_init_impl, torch_library.aoti_torch_library_impl
    except (OSError, AttributeError):
        return False
    _library.rational_torch((_pointer * len(functions))(*functions), ctypes.c_int64(_THREADED_ELEMENTS))
    handle, source = _pointer(), b"rlrat/rational/dispatcher.inc"  # a constant, because its address is kept
    if begin(namespace.encode(), b"CPU", source, _int(0), ctypes.byref(handle)) != 0:
        return False
    kernels = {forward: _library.rational_boxed_forward, backward: _library.rational_boxed_backward}
    return all(add(handle, name.encode(), ctypes.cast(kernel, _pointer)) == 0 for name, kernel in kernels.items())


def instructions() -> str:
    """Return the instruction set in use: avx512, avx2 or baseline; on arm64 neon."""
    return _library.rational_instructions().decode()


def choose_instructions(level: int) -> str:
    """Choose the instruction set, for tests: 0 baseline, 1 avx2, 2 avx512 or the best there is, -1 the best.

    Returns its name.
    """
    _library.rational_choose(level)
    return instructions()


def warn_if_unavailable() -> None:
    """Warn once in a process that rationals are computed on a CPU without the kernels."""
    global _warned
    if unavailable is not None and not _warned:
        _warned = True
        warnings.warn(f"rational activations run on plain PyTorch, several times slower: {unavailable}", stacklevel=5)


_warned = False


def threads() -> int:
    """Return how many threads a large call uses."""
    return torch.get_num_threads() if has_pool else 1


def supports(degrees: tuple[int, int]) -> bool:
    """Say whether the kernels know these degrees."""
    return max(degrees) <= MAX_DEGREE


def takes(x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor, gate: Tensor) -> bool:
    """Say whether the registered operators take these tensors as they are, given degrees that `supports` allows."""
    for t in (x, gate, numerator, denominator, bias):  # no generators, at which torch 2.15's compiler fails
        if t.dtype != x.dtype or t.dtype not in _TYPES or not t.is_cpu:
            return False
    for t in (numerator, denominator, bias):
        if entries_stride(t, numerator.ndim - 2) is None:
            return False
    return x.is_contiguous() and gate.is_contiguous()


class Plan:
    """Keep what calls with tensors of one shape, layout and type have in common; x is not empty."""

    half: torch.dtype | None
    dtype: torch.dtype
    layout: Layout
    threaded: bool
    out_strides: tuple[int, ...]
    like_x: bool

    def __init__(
        self, x: Tensor, numerator: Tensor, denominator: Tensor, bias: Tensor | None, gate: Tensor | None, version: str
    ) -> None:
        self.half = None
        # The common case: the kernels take the tensors without a copy or conversion, and there is no gate.
        self._direct = gate is None and all(t is None or t.dtype == x.dtype for t in (numerator, denominator, bias))
        if x.dtype not in _TYPES:
            self.half, self._direct = x.dtype, False
            x, gate = self._widened(x, numerator, bias), None if gate is None else gate.float()
        self.dtype, self.layout = x.dtype, Layout.of(x, numerator, bias)
        self.threaded = x.numel() >= _THREADED_ELEMENTS
        layout, out = self.layout, empty_output(x, numerator, bias)
        self.out_strides, self.like_x = out.stride(), out.stride() == x.stride()
        _, *x_strides = layout.addressed(x, x)
        _, *out_strides = layout.addressed(out, out)
        gate_strides = (0, 0) if gate is None else layout.addressed(gate, out)[1:]
        entries = [(None, 0) if t is None else layout.entries(t.to(x.dtype)) for t in (numerator, denominator, bias)]
        self._direct &= self.like_x and all(
            ours is given for (ours, _), given in zip(entries, (numerator, denominator, bias), strict=True)
        )
        degrees = numerator.shape[-1] - 1, denominator.shape[-1] - (version == "C")
        batches = (stride for _, stride in entries)
        self._before_grad = (*layout[:4], *x_strides)
        self._after_grad = (*gate_strides, *batches, *degrees, ord(version), self.dtype == torch.float64)
        self._call = _Call(*self._before_grad, *out_strides, *self._after_grad)
        self._address = ctypes.addressof(self._call)

    def forward(
        self,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        bias: Tensor | None,
        gate: Tensor | None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Compute R(x + bias) gate, in `out` if that is given (with the strides that this would give it)."""
        if self.half is not None:
            x = self._widened(x, numerator, bias)
        y = self._empty(x) if out is None or self.half is not None else out
        x, a, b, bias, gate = self._inputs(x, numerator, denominator, bias, gate)
        _forward(
            self._address, x.data_ptr(), y.data_ptr(), a.data_ptr(), b.data_ptr(),
            None if bias is None else bias.data_ptr(), None if gate is None else gate.data_ptr(), self._threads(),
        )  # fmt: skip
        if self.half is None:
            return y
        return y.to(self.half) if out is None else out.copy_(y)

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
        if self.half is not None:
            x = self._widened(x, numerator, bias)
        if grad.dtype != self.dtype:
            grad = grad.to(self.dtype)
        dx = self._empty(x)
        address = self._address
        if grad.stride() != self.out_strides:
            grad, *strides = self.layout.addressed(grad, dx)
            call = _Call(*self._before_grad, *strides, *self._after_grad)
            address = ctypes.addressof(call)
        x, a, b, given_bias, given_gate = self._inputs(x, numerator, denominator, bias, gate)
        da, db = (torch.empty_like(t, memory_format=torch.contiguous_format) for t in (a, b))
        dbias = None if bias is None else torch.empty_like(given_bias, memory_format=torch.contiguous_format)
        dgate = None if gate is None else torch.empty_like(dx)
        failed = _backward(
            address, grad.data_ptr(), x.data_ptr(), dx.data_ptr(), da.data_ptr(), db.data_ptr(), a.data_ptr(),
            b.data_ptr(), None if bias is None else given_bias.data_ptr(), None if bias is None else dbias.data_ptr(),
            None if gate is None else given_gate.data_ptr(), None if gate is None else dgate.data_ptr(),
            self._threads(),
        )  # fmt: skip
        if failed:
            raise MemoryError("no memory for the partial sums of a rational activation's gradient")
        gradients = dx, da, db, dbias, dgate
        if self._direct:
            return gradients
        types = self.half or self.dtype, *(None if t is None else t.dtype for t in (numerator, denominator, bias, gate))
        return tuple(None if g is None else g.to(dtype) for g, dtype in zip(gradients, types, strict=True))

    @staticmethod
    def _widened(x: Tensor, numerator: Tensor, bias: Tensor | None) -> Tensor:
        return x.float() if is_flat(x, numerator, bias) else x.float().contiguous()

    def _empty(self, x: Tensor) -> Tensor:
        return torch.empty_like(x) if self.like_x else torch.empty(x.shape, dtype=x.dtype, device=x.device)

    def _inputs(self, x, numerator, denominator, bias, gate) -> tuple:
        """Return all of them as the kernels take them, copied only where needed."""
        if self._direct:
            return x, numerator, denominator, bias, gate
        dtype, layout = self.dtype, self.layout
        tensors = (numerator, denominator, bias)
        a, b, bias = (None if t is None else layout.entries(t.to(dtype))[0] for t in tensors)
        x, *_ = layout.addressed(x, x)
        if gate is not None:
            gate, *_ = layout.addressed(gate.to(dtype), x)
        return x, a, b, bias, gate

    def _threads(self) -> int:
        return torch.get_num_threads() if self.threaded else 1
